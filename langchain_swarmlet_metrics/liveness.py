"""Whether a worker lives, when it last gave a sign, and what it was doing: from its files and their lock."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import snapshot
from langchain_swarmlet_metrics.eventlog import EventReader, is_locked
from langchain_swarmlet_metrics.events import parse_timestamp
from langchain_swarmlet_metrics.folder import (
    METADATA_FILE,
    METRICS_FILE,
    SNAPSHOT_FILE,
    FileRefusedError,
    open_alone,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.snapshot import StartedCall

OPEN_STATUSES = {"created", "running"}
"""What ``metadata.json`` says of a worker that has not ended."""

_LONGEST_SNAPSHOT = 16 << 20
_WITHIN_S = 5.0


def status(folder: Path, metadata: Metadata, latest: Callable[[], Metadata | None]) -> str:
    """Return a worker's status now: its metadata's, or ``lost`` when it has not ended and nobody has its lock.

    Args:
        folder: the worker's folder.
        metadata: what ``metadata.json`` said.
        latest: reads it again.
    """
    path = folder / METRICS_FILE
    if metadata.status not in OPEN_STATUSES or is_locked(path) is not False:
        return metadata.status
    if metadata.status == "created" and metadata.process is None:  # made by hand: nobody keeps it open
        return metadata.status
    if metadata.process is not None and metadata.process.host != platform.node():
        return metadata.status
    now = latest()  # it may have ended properly since the metadata was read
    return now.status if now is not None and now.status not in OPEN_STATUSES else "lost"


def last_sign(folder: Path, metadata: Metadata) -> datetime:
    """Return when a worker's files were written last, or when it was created if they are gone.

    That a worker is lost was written by another process: then it is when the worker finished.
    """
    if metadata.status == "lost" and metadata.finished_at is not None:
        return parse_timestamp(metadata.finished_at)
    times = []
    for name in (METADATA_FILE, METRICS_FILE, SNAPSHOT_FILE):
        with suppress(OSError, OverflowError, ValueError):  # a file system may know of the year 100,000
            times.append(datetime.fromtimestamp((folder / name).lstat().st_mtime, UTC))
    return max(times) if times else parse_timestamp(metadata.created_at)


def open_calls(folder: Path, metadata: Metadata) -> Sequence[StartedCall]:
    """Return the calls that were open at the latest sign of life of a worker that has not ended, or is lost."""
    if metadata.status not in {*OPEN_STATUSES, "lost"}:
        return []
    try:
        with open_alone(folder, [SNAPSHOT_FILE]) as file:
            taken = snapshot.decode(file.read(_LONGEST_SNAPSHOT))
    except (OSError, FileRefusedError):
        return []
    if taken is None or taken.worker_id != metadata.worker_id:
        return []
    later = EventReader(partial(open_alone, folder, [METRICS_FILE]), offset=taken.metrics_bytes, within_s=_WITHIN_S)
    ended = {event.id for event in later}
    return [call for call in taken.calls if call.id not in ended]
