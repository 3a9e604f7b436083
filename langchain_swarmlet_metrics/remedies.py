"""What is done about what the doctor finds. No event, result or other data is ever deleted, only set aside.

Each worker is looked at again with its lock taken, so that nobody starts it in between, and what has been seen to by
others is left alone.
"""

from __future__ import annotations

from contextlib import closing, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from langchain_swarmlet_metrics import folder as files
from langchain_swarmlet_metrics import metadata as schema
from langchain_swarmlet_metrics.events import SCHEMA_VERSION, parse_timestamp, span, time_ns, timestamp
from langchain_swarmlet_metrics.findings import FINISH, REMOVE, Finding, Kind, Look
from langchain_swarmlet_metrics.folder import METADATA_FILE, FileRefusedError, set_aside
from langchain_swarmlet_metrics.liveness import OPEN_STATUSES
from langchain_swarmlet_metrics.metadata import Metadata
from langchain_swarmlet_metrics.scrub import error_text, one_line
from langchain_swarmlet_metrics.summary import count, format_duration, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from langchain_swarmlet_metrics.store import ArtifactStore

_LOST = "its process ended without a word"
_RUNS = "it runs; try again when it has ended"
_OF_TABLE = {Kind.ROW, Kind.INDEX}
_OF_NUMBERS = {Kind.NUMBER, Kind.SAME_NUMBER}
_NEW_TO_ALL = {Kind.METADATA, Kind.MOVED}
_NEED_TABLE = _OF_TABLE | {Kind.EMPTY, Kind.MOVED}  # they change which folders are workers'


class Outcome(NamedTuple):
    """Say what came of a finding: what was done, or why it could not be."""

    finding: Finding
    is_done: bool
    text: str

    def __str__(self) -> str:
        return f"{'done' if self.is_done else 'not done'}: {one_line(self.finding.subject)}: {self.text}"


def mend(store: ArtifactStore, findings: Iterable[Finding]) -> Iterator[Outcome]:
    """Do about findings what their remedies say, and yield what came of each.

    Args:
        store: where they were found.
        findings: what `doctor.check` returned; those that have to be seen to by hand are passed over.
    """
    planned = sorted((finding for finding in findings if finding.kind is not Kind.BY_HAND), key=_subject)
    of_workers = [finding for finding in planned if finding.kind not in _OF_TABLE | _OF_NUMBERS]
    of_table = [finding for finding in planned if finding.kind in _OF_TABLE]
    of_numbers = [finding for finding in planned if finding.kind in _OF_NUMBERS]
    for worker_id, group in groupby(of_workers, _subject):
        for outcome in _mend_worker(store, worker_id, [*group]):
            yield outcome
            finding = outcome.finding
            if outcome.is_done and (finding.kind in _NEW_TO_ALL or finding.remedy == FINISH):  # its number may be taken
                of_numbers.append(
                    finding._replace(subject=str(finding.file)) if finding.kind is Kind.MOVED else finding
                )
    if not of_numbers and not {finding.kind for finding in planned} & _NEED_TABLE:
        return
    try:
        store.registry.sync()
    except OSError as error:
        yield from (Outcome(finding, False, error_text(error)) for finding in of_table + of_numbers)
        return
    yield from (Outcome(finding, True, "the job table says what the folders say") for finding in of_table)
    for finding in of_numbers:
        yield from _give_number(store, finding)


def _subject(finding: Finding) -> str:
    return finding.subject


def _mend_worker(store: ArtifactStore, worker_id: str, planned: Sequence[Finding]) -> Iterator[Outcome]:
    try:
        before = Look(store, worker_id)
        found = before.findings() if before.metadata is None else ()
        alone = next((finding for finding in found if finding.kind in _ALONE), None)
        if before.is_busy:
            yield from (Outcome(finding, False, _RUNS) for finding in planned)
        elif alone is None:
            with closing(store.writer(worker_id)):
                yield from _mend_locked(before)
        else:
            yield Outcome(alone, True, _ALONE[alone.kind](before, alone))
            if alone.kind is Kind.MOVED and alone.file is not None:
                yield from _mend_worker(store, alone.file, planned)
    except OSError as error:
        yield from (Outcome(finding, False, error_text(error)) for finding in planned)


def _mend_locked(before: Look) -> Iterator[Outcome]:
    """Do one thing after the other, each on what the one before has left, until there is nothing new to do."""
    tried: set[tuple[Kind, str | None]] = set()
    while True:
        look = Look(before.store, before.worker_id, before)
        todo = (found for found in look.findings() if found.kind in _REMEDIES and (found.kind, found.file) not in tried)
        finding = next(todo, None)
        if finding is None:
            return
        tried.add((finding.kind, finding.file))
        try:
            yield Outcome(finding, True, _REMEDIES[finding.kind](look, finding))
        except (OSError, FileRefusedError) as error:
            yield Outcome(finding, False, error_text(error))


def _remove_folder(look: Look, _: Finding) -> str:
    with closing(look.store.writer(look.worker_id)):
        for path in look.folder.iterdir():
            if path.lstat().st_size == 0:
                path.unlink()
        look.folder.rmdir()  # refuses to if anything is left
    return "removed; nothing was in it"


def _rename_folder(look: Look, finding: Finding) -> str:
    look.folder.rename(look.store.root / str(finding.file))
    return f"renamed to {finding.file}"


def _put_leftover(look: Look, finding: Finding) -> str:
    path, target = look.folder / str(finding.file), look.folder / METADATA_FILE
    if finding.remedy == REMOVE:
        path.unlink()
        return f"{path.name} removed"
    if finding.remedy != FINISH:
        return f"{path.name} set aside as {set_aside(path, 'left-over').name}"
    if look.metadata is None and look.has(METADATA_FILE):
        set_aside(target, "damaged")
    path.replace(target)
    latest = schema.load(look.folder)
    if latest is not None:
        _note_status(look, latest.status)
    return f"{path.name} made its {METADATA_FILE}"


def _write_metadata_anew(look: Look, finding: Finding) -> str:
    known = {}
    aside = ""
    if look.has(METADATA_FILE):
        with files.open_plain(look.folder, [METADATA_FILE]) as file:
            known = schema.legible(file.read(schema.LONGEST))
        aside = f"; the damaged one is {set_aside(look.folder / METADATA_FILE, 'damaged').name}"
    metadata = _gathered(look, known)
    _count_events(look, metadata)
    if metadata.status not in OPEN_STATUSES and None in (metadata.finished_at, metadata.duration_ms):
        _end(metadata, look.seen if metadata.finished_at is None else parse_timestamp(metadata.finished_at))
    if metadata.status == "lost" and metadata.error is None:
        metadata.error = f"how it ended is not known: {finding.problem}"
    files.replace_file(look.folder / METADATA_FILE, schema.encode(metadata), look.mode)
    return f"{METADATA_FILE} written anew, with status {metadata.status}{aside}"


def _gathered(look: Look, known: dict[str, Any]) -> Metadata:
    """Gather what is known of a worker, from its damaged metadata first, then from the job table and its events."""
    registry = look.store.registry
    row = registry.find_worker(look.worker_id)
    times = [row.created_at if row else None, files.created_at(look.worker_id), timestamp(_ns(look.seen))]
    told: dict[str, Any] = {"status": "lost", "created_at": next(filter(schema.is_time, filter(None, times)))}
    if row is not None:
        told |= {"job_id": row.job_id, "owner_id": row.owner_id}
        told |= {"status": row.status} if row.status in get_args(schema.Status) else {}
    if known.get("worker_id", look.worker_id) != look.worker_id:
        known = {}  # it is another worker's
    if (row or registry.find(known.get("job_id") or 0)) is not None:
        known.pop("job_id", None)  # the job table knows better, or knows that it is another worker's
    if "started_at" not in known:
        starts = (event.start_ts for event in look.events())
        told["started_at"] = min(filter(schema.is_time, starts), default=None)
    return Metadata(**told | known | {"schema": SCHEMA_VERSION, "worker_id": look.worker_id})


def _mark_lost(look: Look, finding: Finding) -> str:
    metadata = look.metadata
    assert metadata is not None  # noqa: S101 - otherwise it would be another finding
    metadata.status = "lost"
    metadata.error = _LOST if finding.kind is Kind.LOST else finding.problem
    _end(metadata, look.seen)
    _count_events(look, metadata)
    _save(look, metadata)
    _note_status(look, metadata.status)
    return f"marked as lost, after {format_duration(metadata.duration_ms or 0)}"


def _note_events(look: Look, _: Finding) -> str:
    metadata = look.metadata
    assert metadata is not None  # noqa: S101 - otherwise it would be another finding
    unreadable = look.events().count_unreadable()
    metadata.completeness.unreadable_lines = unreadable
    _save(look, metadata)
    return f"{count(unreadable, 'unreadable line')} noted in {METADATA_FILE}"


def _save(look: Look, metadata: Metadata) -> None:
    """Write changed metadata; what else a later version has put into the file stays there."""
    path = look.folder / METADATA_FILE
    with files.open_plain(look.folder, [METADATA_FILE]) as file:
        before = file.read(schema.LONGEST)
    try:
        content = schema.encode_over(before, metadata)
    except schema.UNDECODABLE:  # a key that is not ours is damaged
        set_aside(path, "damaged")
        content = schema.encode(metadata)
    files.replace_file(path, content, look.mode)


def _note_status(look: Look, status: str) -> None:
    with suppress(OSError):  # as when the worker notes it itself: readers and the next look go by the folder
        look.store.registry.update_status(look.worker_id, status)


def _end(metadata: Metadata, seen: datetime) -> None:
    """Note when a worker ended, as with its last sign of life."""
    seen_ns = _ns(seen)
    began_ns = seen_ns if metadata.started_at is None else time_ns(metadata.started_at)
    _, metadata.finished_at, metadata.duration_ms = span(began_ns, seen_ns - began_ns)


def _ns(moment: datetime) -> int:
    return max(round(moment.timestamp() * 1e6) * 1000, 0)


def _count_events(look: Look, metadata: Metadata) -> None:
    """Count what the events tell; what only the collector knew stays as it was noted."""
    events = look.events()
    summary = summarize(events)
    events.require_all()
    metadata.totals = summary.totals
    metadata.completeness.recount(summary.completeness)
    metadata.completeness.unfinished_calls += len(look.store.open_calls(metadata))
    metadata.completeness.unreadable_lines = events.skipped


def _give_number(store: ArtifactStore, finding: Finding) -> Iterator[Outcome]:
    """Give a worker the next number unless the job table, which has all that are taken, has one for it."""
    try:
        before = Look(store, finding.subject)
        if before.is_busy:
            yield Outcome(finding, False, _RUNS)
            return
        with closing(store.writer(before.worker_id)):
            look = Look(store, before.worker_id, before)
            row = None if look.job is None else store.registry.find(look.job.job_id)
            if look.metadata is None or (row is not None and row.worker_id == look.worker_id):
                return
            adding = store.registry.adding(look.worker_id, look.metadata.owner_id, look.metadata.created_at)
            with adding as look.metadata.job_id:
                _save(look, look.metadata)
            _note_status(look, look.metadata.status)
    except OSError as error:
        yield Outcome(finding, False, error_text(error))
    else:
        yield Outcome(finding, True, f"is job {look.metadata.job_id} now")


_ALONE: dict[Kind, Callable[[Look, Finding], str]] = {Kind.EMPTY: _remove_folder, Kind.MOVED: _rename_folder}
_REMEDIES: dict[Kind, Callable[[Look, Finding], str]] = {
    Kind.LEFTOVER: _put_leftover,
    Kind.METADATA: _write_metadata_anew,
    Kind.LOST: _mark_lost,
    Kind.SILENT: _mark_lost,
    Kind.EVENTS: _note_events,
}
