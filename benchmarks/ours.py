"""This package in its ways to record: files only, with log lines, and with everything else that a process can do."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.contestants import LLM, TOOL, Contestant, count_lines
from langchain_swarmlet_metrics import WorkerRunner, configure_logging, inflight
from langchain_swarmlet_metrics.folder import METRICS_FILE, THREAD_FILE, TOOL_FOLDER
from langchain_swarmlet_metrics.logs import LOGGER_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from langchain_swarmlet_metrics import Event, Worker

_QUIET_S = 0.25


class Ours(Contestant):
    """Record into a worker's folder, while nobody listens to the log; each block of work is a worker."""

    name, title = "ours", "langchain-swarmlet-metrics"
    records = frozenset({LLM, TOOL})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runner = self._make_runner()
        self._worker: Worker | None = None
        self._recorded = 0

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Be in the block of a worker; to open and to end one is measured elsewhere."""
        self._worker = self._runner.worker("benchmark")
        self.context.run(self._worker.open)
        try:
            yield
        finally:
            self.context.run(self._worker.close)
            self._recorded += self._count(self._worker)
            shutil.rmtree(self._worker.dir, ignore_errors=True)  # what takes too long may still be writing

    def flush(self) -> None:
        """Have the sums, the log, the sinks and the content complete, as the end of a worker does."""
        if self._worker is not None:
            self._worker.collector.settle()
            _ = self._worker.totals  # which are added up some calls at a time

    def catch_up(self) -> None:
        """Wait until the worker's folder and the log no longer grow: captured content has an end with its worker."""
        before, now = -1, self._size()
        while now != before:
            time.sleep(_QUIET_S)
            before, now = now, self._size()

    def recorded(self) -> int:
        """Return how many calls stand in the files of the workers so far."""
        return self._recorded

    def left_open(self) -> int:
        """Count the open calls and the chains inside them, of the whole process."""
        return len(inflight.calls) + len(inflight._enclosing)  # noqa: SLF001 - a leak would be in there

    def _make_runner(self) -> WorkerRunner:
        return WorkerRunner(self.folder)

    def _size(self) -> int:
        return sum(path.stat().st_size for kind in ("*.jsonl", "*.log") for path in self.folder.rglob(kind))

    def _count(self, worker: Worker) -> int:
        return count_lines(worker.dir / METRICS_FILE)


class OursLogged(Ours):
    """Record into a worker's folder, and have a log file take a line per call."""

    name, title = "ours+log", "the same, log lines to a file"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._log = folder / "workers.log"

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Have the log written for this block only, as the others share the logger."""
        logger = logging.getLogger(LOGGER_NAME)
        handler = configure_logging(self._log)
        try:
            with super().switched_on():
                yield
        finally:
            logger.removeHandler(handler)
            handler.close()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
            self._log.unlink()

    def _count(self, worker: Worker) -> int:
        return min(super()._count(worker), count_lines(self._log))


class OursEverything(OursLogged):
    """Record into a worker's folder, log to a file, hand events to a sink of the user's, and capture content."""

    name, title = "ours+all", "the same, with a sink and captured content, too"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._without_content = self._taken = 0

    def _make_runner(self) -> WorkerRunner:
        return WorkerRunner(self.folder, sinks=[self._sink], capture_content=True)

    def _sink(self, _worker: Worker) -> Any:
        self._taken = 0

        def take(_event: Event) -> None:
            self._taken += 1

        return take

    def settle_in(self) -> None:
        """Leave the content of the first unit to be written with the rest: to finish it would be to end it."""

    def _count(self, worker: Worker) -> int:
        lines = super()._count(worker)
        self._without_content += lines - count_captured(worker)
        return min(lines, self._taken)

    def without_content(self) -> int:
        """Return how many calls of the workers so far have no content in their files."""
        return self._without_content


def count_captured(worker: Worker) -> int:
    """Count the calls of which a worker's folder has content."""
    with (worker.dir / THREAD_FILE).open("rb") as file:
        said = {msgspec.json.decode(line, type=_Entry).event_id for line in file}
    return len(said) + sum(1 for _ in worker.dir.glob(f"{TOOL_FOLDER}/*"))


class _Entry(msgspec.Struct):
    event_id: int
