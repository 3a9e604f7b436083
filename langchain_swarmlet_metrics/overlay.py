"""What could not be written to a worker's folder, held in memory until it can be, for readers in this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.metadata import Metadata

_MOST = 1000


class Held(NamedTuple):
    """Hold a worker as its own process knows it, and why its files don't say so."""

    metadata: Metadata
    result: str | None
    reason: str
    pid: int


class Overlay:
    """Hold workers whose files could not be written: the latest thousand, by the names of their folders."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def hold(self, metadata: Metadata, result: str | None, reason: str) -> None:
        """Hold a worker; what changes in its metadata from now on is seen."""
        self._held[metadata.worker_id] = Held(metadata, result, reason, os.getpid())
        if len(self._held) > _MOST:
            self.let_go(next(iter(self._held)))

    def let_go(self, worker_id: str) -> None:
        """Forget a worker: its files say everything, or nobody will ask."""
        self._held.pop(worker_id, None)

    def get(self, worker_id: str) -> Held | None:
        """Return a worker that is held in this process; what a forked child inherits is its parent's to know."""
        held = self._held.get(worker_id)
        return held if held is not None and held.pid == os.getpid() else None
