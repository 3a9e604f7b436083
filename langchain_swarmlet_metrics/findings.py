"""What is not right with one worker's folder. Looking only reads, and may be done while the worker runs.

What no lock decides is judged only after it has been left alone for a minute, as somebody may be writing it.
"""

from __future__ import annotations

import os
import platform
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from langchain_swarmlet_metrics import folder as files
from langchain_swarmlet_metrics import metadata as schema
from langchain_swarmlet_metrics import modes, owners
from langchain_swarmlet_metrics.eventlog import is_locked
from langchain_swarmlet_metrics.events import SCHEMA_VERSION, timestamp
from langchain_swarmlet_metrics.folder import (
    METADATA_FILE,
    METRICS_FILE,
    RESULT_FILE,
    SNAPSHOT_FILE,
    TOOL_FOLDER,
    FileRefusedError,
)
from langchain_swarmlet_metrics.jobs import Job, is_job_id
from langchain_swarmlet_metrics.listing import is_temporary
from langchain_swarmlet_metrics.liveness import OPEN_STATUSES
from langchain_swarmlet_metrics.metadata import Metadata
from langchain_swarmlet_metrics.scrub import error_text, one_line
from langchain_swarmlet_metrics.summary import count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from langchain_swarmlet_metrics.eventlog import EventReader
    from langchain_swarmlet_metrics.store import ArtifactStore

_SETTLED_S = 60.0  # longer than anybody waits for the index in the middle of making or ending a worker
_WITHIN_S = 60.0
_SILENT = timedelta(days=1)
_SHOWN = 60
_FOLDER = "."
_OURS = (METADATA_FILE, METRICS_FILE, SNAPSHOT_FILE, RESULT_FILE)
_MOST_TEMPORARY = 1000
_LATER = "it was written by a later version of this package", "update this package"


class Kind(StrEnum):
    """What a finding is about."""

    LOST = "lost worker"
    SILENT = "silent worker"
    EVENTS = "unreadable events"
    METADATA = "unreadable worker"
    LEFTOVER = "left-over file"
    EMPTY = "empty folder"
    MOVED = "moved folder"
    NUMBER = "worker without a number"
    SAME_NUMBER = "number given twice"
    ROW = "job table entry"
    INDEX = "job table"
    BY_HAND = "by hand"


REMEDIES = {
    Kind.LOST: "mark it as lost",
    Kind.SILENT: "mark it as lost",
    Kind.EVENTS: "note how many they are; the lines stay, and readers skip them",
    Kind.METADATA: "write a new one from what is known; a damaged one is set aside",
    Kind.LEFTOVER: "set it aside",
    Kind.EMPTY: "remove it",
    Kind.MOVED: "give it its name again",
    Kind.NUMBER: "give it the next job number",
    Kind.SAME_NUMBER: "give it the next job number",
    Kind.ROW: "make the job table say what the folders say",
    Kind.INDEX: "build it anew from the folders; the old one is set aside",
}
"""What is done about each kind of finding that is not to be seen to by hand, unless it says something else itself."""

REMOVE = "remove it, as it is empty"
FINISH = f"make it {METADATA_FILE}, which it was to replace"
"""What else is done about left-over files."""


class Finding(NamedTuple):
    """One thing that is not right."""

    kind: Kind
    subject: str
    """The name of the worker's folder, or of the index."""
    problem: str
    remedy: str
    file: str | None = None
    """The file of the worker that it is about, if the kind does not say."""

    def __str__(self) -> str:
        return f"{self.kind}: {one_line(self.subject, 2 * _SHOWN)}: {self.problem} -> {self.remedy}"


class Look:
    """Look at one worker's folder once.

    Args:
        store: where it is.
        worker_id: the folder's name.
        earlier: a look before its lock was taken by who looks now; then nobody else is at it, and the last sign of
            life is that of then.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, store: ArtifactStore, worker_id: str, earlier: Look | None = None) -> None:
        self.store, self.worker_id, self.folder = store, worker_id, store.root / worker_id
        self.is_held = earlier is not None
        self._distrust = owners.distrust(self.folder)
        self.metadata = schema.load(self.folder) if self._distrust is None else None
        # Between two looks at an open worker's metadata: it is locked before it runs, and ends before it is freed.
        self.lock: bool | None = is_locked(self.folder / METRICS_FILE) if earlier is None else earlier.lock
        self.is_busy = earlier is None and (self.lock is True or self._changes())
        self._now = time.time()
        self._entries = _stats(self.folder)
        self.seen: datetime = self._last_sign_of_life() if earlier is None else earlier.seen

    @property
    def job(self) -> Job | None:
        """Return what the job table should say of this worker; None when it has no proper number."""
        metadata = self.metadata
        if metadata is None or metadata.job_id is None or not is_job_id(metadata.job_id):
            return None
        return Job(metadata.job_id, self.worker_id, metadata.owner_id, metadata.status, metadata.created_at)

    @property
    def mode(self) -> int:
        """Return the mode for a new ``metadata.json``: that of the present one, else what goes with the folder's."""
        present = self._entries.get(METADATA_FILE)
        return modes.file_mode_in(self.folder) if present is None else stat.S_IMODE(present.st_mode)

    def events(self) -> EventReader:
        """Return a reader of the worker's events, which does not go on for ever."""
        return self.store.events(self.worker_id, within_s=_WITHIN_S)

    def findings(self) -> Iterator[Finding]:
        """Yield what is not right in the folder; nothing of a worker that runs, as its process may yet see to it."""
        if self.is_busy:
            return
        if self.metadata is None:
            yield from self._without_metadata()
            return
        if self.metadata.schema > SCHEMA_VERSION:
            yield self._by_hand(*_LATER)
            return
        is_lost = self._is_lost(self.metadata)
        yield from self._leftovers(is_lost=is_lost)
        try:
            torn, gone = self._wrong_events(self.metadata) if is_lost or self.is_settled(METRICS_FILE) else (None, 0)
        except (OSError, FileRefusedError) as error:
            yield self._by_hand(f"{METRICS_FILE}: {error_text(error)}", "put it right")
            return
        if is_lost:
            yield self._finding(Kind.LOST, f"its process ended without a word, after {self._last_seen()}")
        elif host := self._silent_host(self.metadata):
            problem = f"no sign of life from its process on {one_line(host, _SHOWN)} since {self._last_seen()}"
            yield self._finding(Kind.SILENT, problem)
        if torn is not None:
            yield self._finding(Kind.EVENTS, torn)
        if gone:
            problem = f"{count(gone, 'event')} counted in {METADATA_FILE} but not in {METRICS_FILE}"
            yield self._by_hand(problem, "put the file back from a copy, if there is one")
        if self.job is None and self.is_settled(METADATA_FILE):
            yield self._finding(Kind.NUMBER, f"its job_id is {self.metadata.job_id}")

    def is_settled(self, *names: str) -> bool:
        """Tell whether none of these files, by default of all and the folder, was changed in the last minute."""
        if self.is_held:
            return True
        times = [info.st_mtime for name, info in self._entries.items() if not names or name in names]
        return all(abs(self._now - time) > _SETTLED_S for time in times)

    def has(self, name: str) -> bool:
        """Tell whether the folder has a plain file of this name."""
        return name in self._entries and stat.S_ISREG(self._entries[name].st_mode)

    def _changes(self) -> bool:
        if self.metadata is None or self.metadata.status not in OPEN_STATUSES:
            return False
        latest = schema.load(self.folder)
        return latest is None or latest.status != self.metadata.status

    def _last_sign_of_life(self) -> datetime:
        created_at = files.created_at(self.worker_id) or timestamp(0)
        return self.store.last_sign_of_life(self.metadata or Metadata(worker_id=self.worker_id, created_at=created_at))

    def _is_lost(self, metadata: Metadata) -> bool:
        if metadata.status not in OPEN_STATUSES or self.lock is None or self._is_elsewhere(metadata):
            return False
        return metadata.status == "running" or metadata.process is not None  # made by hand, nobody keeps it open

    def _silent_host(self, metadata: Metadata) -> str | None:
        """Return where a worker runs that no lock tells of, and that has shown no sign of life for long."""
        if metadata.status not in OPEN_STATUSES or metadata.process is None:
            return None
        is_untold = self.lock is None or self._is_elsewhere(metadata)
        return metadata.process.host if is_untold and datetime.now(UTC) - self.seen > _SILENT else None

    def _is_elsewhere(self, metadata: Metadata) -> bool:
        return metadata.process is not None and metadata.process.host != platform.node()

    def _last_seen(self) -> str:
        return timestamp(max(int(self.seen.timestamp()), 0) * 10**9)[:19] + "Z"

    def _leftovers(self, *, is_lost: bool) -> Iterator[Finding]:
        for name in sorted(filter(self.has, self._entries)):
            if is_temporary(name.rpartition("/")[2]) and (is_lost or self.is_settled(name)):
                remedy = self._fate(name)
                yield Finding(Kind.LEFTOVER, self.worker_id, f"{one_line(name, _SHOWN)} was not finished", remedy, name)
        # What was open when a worker was lost stays readable.
        has_ended = self.metadata is not None and self.metadata.status not in {*OPEN_STATUSES, "lost"}
        if has_ended and self.has(SNAPSHOT_FILE) and self.is_settled(SNAPSHOT_FILE):
            problem = f"{SNAPSHOT_FILE} tells of open calls, but the worker has ended"
            yield self._finding(Kind.LEFTOVER, problem, SNAPSHOT_FILE)

    def _fate(self, name: str) -> str:
        """Say what to do with a file that its process was writing when it died."""
        if not self._entries[name].st_size:
            return REMOVE
        found = None
        if name.startswith(f".{METADATA_FILE}."):
            with suppress(OSError, FileRefusedError), files.open_plain(self.folder, [name]) as file:
                found = schema.decode(file.read(schema.LONGEST))
        is_next = found is not None and found.worker_id == self.worker_id and _comes_after(found, self.metadata)
        return FINISH if is_next else REMEDIES[Kind.LEFTOVER]

    def _wrong_events(self, metadata: Metadata) -> tuple[str | None, int]:
        """Say how many lines cannot be read, unless that has been noted, and return how many events are gone."""
        lines = self.events()
        readable = sum(1 for _ in lines)
        lines.require_all()
        gone, unreadable = metadata.missing_events(readable + lines.skipped), lines.skipped
        if METRICS_FILE not in self._entries or unreadable == metadata.completeness.unreadable_lines:
            return None, gone
        with files.open_alone(self.folder, [METRICS_FILE]) as file:
            torn = ", the last one is torn" if files.ends_torn(file) else ""
        return f"{count(unreadable, 'line')} of {METRICS_FILE} cannot be read{torn}", gone

    def _without_metadata(self) -> Iterator[Finding]:
        """Say why there is no metadata, unless the folder is new or never was a worker's."""
        is_ours = files.created_at(self.worker_id) is not None or {METADATA_FILE, METRICS_FILE} & self._entries.keys()
        if not is_ours or not self.is_settled():
            return
        if self._distrust is not None:
            reason, command = self._distrust
            yield self._by_hand(f"readers pass it over: {reason}", f"run: {command}")
            return
        if _is_empty(self.folder):
            yield self._finding(Kind.EMPTY, "its worker never came to be")
            return
        problem = self._why_unreadable()
        if isinstance(problem, Finding):
            yield problem
            return
        leftovers = [*self._leftovers(is_lost=True)]
        yield from leftovers
        if FINISH not in {leftover.remedy for leftover in leftovers}:
            yield self._finding(Kind.METADATA, problem)

    def _why_unreadable(self) -> str | Finding:
        try:
            with files.open_plain(self.folder, [METADATA_FILE]) as file:
                text = file.read(schema.LONGEST)
        except FileNotFoundError:
            return f"it has no {METADATA_FILE}"
        except (OSError, FileRefusedError) as error:
            return self._by_hand(f"{METADATA_FILE}: {error_text(error)}", "put it right")
        known, metadata = schema.legible(text), schema.decode(text)
        if known.get("schema", 0) > SCHEMA_VERSION:
            return self._by_hand(*_LATER)
        if metadata is None or not files.is_worker_id(metadata.worker_id):
            return f"{METADATA_FILE} is damaged"
        if files.is_worker_folder(self.store.root, metadata.worker_id):
            return self._by_hand(f"it is a copy of worker {metadata.worker_id}", "move it out of this root")
        return self._finding(Kind.MOVED, f"it is worker {metadata.worker_id}", metadata.worker_id)

    def _finding(self, kind: Kind, problem: str, file: str | None = None) -> Finding:
        return Finding(kind, self.worker_id, problem, REMEDIES[kind], file)

    def _by_hand(self, problem: str, remedy: str) -> Finding:
        return Finding(Kind.BY_HAND, self.worker_id, problem, remedy)


def _comes_after(found: Metadata, present: Metadata | None) -> bool:
    """Tell whether metadata is of the same worker as the present one, and of a later time in its life."""
    if present is None:
        return True
    is_same = found.created_at == present.created_at and present.job_id in (None, found.job_id)
    return is_same and _stage(found) > _stage(present)


def _stage(metadata: Metadata) -> int:
    return ("created", "running").index(metadata.status) if metadata.status in OPEN_STATUSES else 2


def _stats(folder: Path) -> dict[str, os.stat_result]:
    """Return what the system knows of a folder and of those in it that matter: our own files and temporary ones."""
    found = {_FOLDER: folder.lstat()}
    for name in (*_OURS, *_temporary(folder), *(f"{TOOL_FOLDER}/{name}" for name in _temporary(folder / TOOL_FOLDER))):
        with suppress(FileNotFoundError):
            found[name] = (folder / name).lstat()
    return found


def _temporary(folder: Path) -> list[str]:
    """Return the names of the temporary files in a folder, of very many the first ones only."""
    try:
        with os.scandir(folder) as entries:
            return [*islice(filter(is_temporary, (entry.name for entry in entries)), _MOST_TEMPORARY)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_empty(folder: Path) -> bool:
    """Tell whether there is nothing in a folder, or only files in which nothing is."""
    with os.scandir(folder) as entries:
        return all(entry.is_file(follow_symlinks=False) and not entry.stat().st_size for entry in entries)
