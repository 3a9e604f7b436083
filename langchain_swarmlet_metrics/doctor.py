"""The doctor looks at a whole root, its workers and its job table, and says what is not right. It only reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from langchain_swarmlet_metrics import metadata as schema
from langchain_swarmlet_metrics.findings import REMEDIES, Finding, Kind, Look
from langchain_swarmlet_metrics.folder import METADATA_FILE, is_worker_folder
from langchain_swarmlet_metrics.jobs import DamagedIndexError, Job
from langchain_swarmlet_metrics.liveness import OPEN_STATUSES
from langchain_swarmlet_metrics.scrub import error_text, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from langchain_swarmlet_metrics.store import ArtifactStore

_SHOWN = 60


class Checkup(NamedTuple):
    """Say how many workers were looked at, and what is not right."""

    workers: int
    findings: Sequence[Finding]


class _Entry(NamedTuple):
    """What the job table should say of a worker, and whether its status may not differ for a moment."""

    job: Job
    is_settled: bool


def check(store: ArtifactStore) -> Checkup:
    """Look at every worker of a root and at its job table, without changing anything.

    Raises:
        OSError: the root cannot be read.
    """
    findings: list[Finding] = []
    entries: list[_Entry] = []
    workers = 0
    for worker_id in _folders(store.root):
        try:
            look = Look(store, worker_id)
            found = list(look.findings())
        except FileNotFoundError:  # it has just been deleted
            continue
        except OSError as error:
            found = [Finding(Kind.BY_HAND, worker_id, error_text(error), "put it right")]
        else:
            workers += look.metadata is not None
            if look.job is not None:
                entries.append(_Entry(look.job, look.is_settled(METADATA_FILE) and not look.is_busy))
        findings += found
    # After the folders: whoever makes a worker has it in the job table before its metadata.json is there.
    findings += _of_table(store, entries)
    order = [*Kind]
    return Checkup(workers, sorted(findings, key=lambda finding: order.index(finding.kind)))


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_worker_folder(root, entry.name))


def _of_table(store: ArtifactStore, entries: list[_Entry]) -> Iterator[Finding]:
    """Compare the job table with what it should say."""
    keepers: dict[int, _Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.job.created_at, entry.job.worker_id)):
        keeper = keepers.setdefault(entry.job.job_id, entry)
        if keeper is not entry:
            problem = f"job {entry.job.job_id} is {keeper.job.worker_id}, which is older"
            yield _finding(Kind.SAME_NUMBER, entry.job.worker_id, problem)
    index = store.registry.path
    try:
        rows = {row.worker_id: row for row in store.registry.rows()}
    except DamagedIndexError as error:
        if entries or index.exists():
            yield _finding(Kind.INDEX, index.name, error_text(error))
    except OSError as error:
        yield Finding(Kind.BY_HAND, index.name, error_text(error), "put it right")
    else:
        yield from _of_rows(store.root, rows, keepers.values())


def _of_rows(root: Path, rows: dict[str, Job], entries: Iterable[_Entry]) -> Iterator[Finding]:
    for job, is_settled in entries:
        row = rows.get(job.worker_id)
        if row is None:
            yield _finding(Kind.ROW, job.worker_id, f"job {job.job_id} is missing")
        elif differing := [*_differing(root, row, job, is_settled=is_settled)]:
            yield _finding(Kind.ROW, job.worker_id, ", ".join(differing))
    for worker_id, row in rows.items():
        if not is_worker_folder(root, worker_id):
            yield _finding(Kind.ROW, worker_id, f"the folder of job {row.job_id} is missing")


def _differing(root: Path, row: Job, job: Job, *, is_settled: bool) -> Iterator[str]:
    for name, told, true in zip(Job._fields, row, job, strict=True):
        if told == true:
            continue
        if name == "status":
            if row.status in OPEN_STATUSES or not is_settled:  # behind, which readers know may be
                continue
            latest = schema.load(root / job.worker_id)
            if latest is None or latest.status != job.status:  # it has changed since it was read
                continue
        yield f"its {name} is {_quoted(told)} instead of {_quoted(true)}"


def _quoted(value: object) -> str:
    return "none" if value is None else one_line(value, _SHOWN)


def _finding(kind: Kind, subject: str, problem: str) -> Finding:
    return Finding(kind, subject, problem, REMEDIES[kind])
