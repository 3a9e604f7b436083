"""What has to be true of a root as a whole, when nobody writes to it any more: names, numbers and the job table."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics import ArtifactStore
from tests.torture import raw

if TYPE_CHECKING:
    from pathlib import Path

_ALL = 1_000_000
_OPEN = ("created", "running")
_COLUMNS = ("job_id", "worker_id", "owner_id", "status", "created_at")


def audit(root: Path, *, were_killed: bool) -> list[str]:
    """Return what is wrong.

    Args:
        root: the folder of the worker folders.
        were_killed: whether processes were killed: one that was killed as it made a folder left it without metadata,
            and the job table may not know yet how a worker ended.
    """
    workers = {folder.name: raw.metadata(folder) for folder in raw.folders(root)}
    described = {name: found for name, found in workers.items() if found is not None}
    numbers = Counter(found["job_id"] for found in described.values())
    wrong = [f"the job number {number} was given out {count} times" for number, count in numbers.items() if count > 1]
    wrong += [
        f"{name} says it is {found['worker_id']}" for name, found in described.items() if found["worker_id"] != name
    ]
    if not were_killed:
        wrong += [f"{name} has no metadata.json" for name in workers.keys() - described.keys()]
    return wrong + _compare_index(root, described, were_killed=were_killed) + _compare_lists(root, described)


def _compare_index(root: Path, described: dict[str, dict[str, Any]], *, were_killed: bool) -> list[str]:
    wrong = [f"{path.name} was taken for damaged" for path in root.glob("*damaged*")]
    with closing(sqlite3.connect(root / "index.sqlite3")) as connection:
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        rows = {row[1]: row for row in connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs")}
    if integrity != "ok":
        wrong.append(f"the job table is damaged: {integrity}")
    if not were_killed and rows.keys() != described.keys():
        wrong.append(f"the job table has other workers than there are folders: {[*rows.keys() ^ described.keys()][:5]}")
    for name, found in described.items():
        expected = tuple(found[column] for column in _COLUMNS)
        row = rows.get(name)
        if were_killed and row is not None and row[3] in _OPEN:
            row = (*row[:3], found["status"], *row[4:])
        if row != expected:
            wrong.append(f"the job table has {row} for {expected}")
    return wrong


def _compare_lists(root: Path, described: dict[str, dict[str, Any]]) -> list[str]:
    """Compare what is listed, before and after the job table is built anew, with the folders."""
    wrong = []
    numbers = {name: found["job_id"] for name, found in described.items()}
    for when in ("", " once the job table is built anew"):
        listed = {found.worker_id: found.job_id for found in ArtifactStore(root).list(limit=_ALL)}
        if listed != numbers:
            wrong.append(
                f"other jobs are listed than there are folders{when}: {[*listed.items() ^ numbers.items()][:5]}"
            )
        for path in root.glob("index.sqlite3*"):
            path.unlink()
    return wrong
