"""What is known from outside of a process that was killed, and what a fresh reader finds of its workers."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tests.torture import raw

if TYPE_CHECKING:
    from langchain_swarmlet_metrics import ArtifactStore
    from langchain_swarmlet_metrics.metadata import Metadata


class Case(msgspec.Struct, kw_only=True, frozen=True):
    """Say what is known from outside: what `Witness` read, and when the process was killed.

    Args:
        owner: the process's name, and the owner of its workers.
        root: the folder of the worker folders.
        opened: worker -> its job number, of those whose block was entered.
        made: likewise, of those made by hand, which no process keeps open.
        ended: worker -> how it ended.
        events: worker, first and last id of what was acknowledged.
        starts: worker, id and monotonic time of each call that started.
        signalled: monotonic time just before the signal.
        dying_s: how long after that it was dead for certain.
        dead_at: wall clock, seconds since the epoch, at that time.
        starved_s: how much of its last second its threads waited for their turn.
        alive: worker -> owner of what must be running now.
    """

    owner: str
    root: str
    opened: dict[str, int] = {}
    made: dict[str, int] = {}
    ended: dict[str, str] = {}
    events: list[tuple[str, int, int]] = []
    starts: list[tuple[str, int, float]] = []
    signalled: float = 0
    dying_s: float = 0
    dead_at: float = 0
    starved_s: float = 0
    alive: dict[str, str] = {}


class Report(msgspec.Struct, kw_only=True):
    """Say what a reader found: figures by name, and what must not be.

    Args:
        lost: worker -> owner of all that it takes for lost, of the newest.
        not_running: likewise of those that should be alive and are not listed as running.
    """

    figures: dict[str, int] = msgspec.field(default_factory=Counter)
    violations: list[str] = []
    lost: dict[str, str] = {}
    not_running: dict[str, str] = {}


class Look:
    """Look at one worker of a killed process.

    Args:
        case: what is known of the process.
        report: where to say what is found.
        store: the folders.
        metadata: of the worker.
    """

    def __init__(self, case: Case, report: Report, store: ArtifactStore, metadata: Metadata) -> None:
        self.case = case
        self.report = report
        self.store = store
        self.metadata = metadata
        self.worker_id = metadata.worker_id
        self.folder = Path(case.root) / metadata.worker_id
        self.lines = raw.read_lines(self.folder)
        self.acknowledged = {
            id_ for worker, first, last in case.events if worker == self.worker_id for id_ in range(first, last + 1)
        }
        self.started = {id_: at for worker, id_, at in case.starts if worker == self.worker_id}

    @cached_property
    def status(self) -> str:
        """Return the worker's status as readers see it."""
        return self.store.status(self.metadata)

    def require(self, condition: bool, text: str) -> None:
        """Report a violation unless the condition holds."""
        if not condition:
            self.report.violations.append(f"{self.case.owner}: {self.worker_id} {text}")

    def count(self, **figures: int) -> None:
        """Add to the report's figures."""
        for name, number in figures.items():
            self.report.figures[name] += number
