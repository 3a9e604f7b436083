"""WorkerState: what is known of a worker before, while and after it runs."""

from __future__ import annotations

import os
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics.events import milliseconds
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.summary import count, format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_swarmlet_metrics.collector import MetricsCollector
    from langchain_swarmlet_metrics.metadata import Completeness, Metadata, Status, Totals


class Ending(NamedTuple):
    """Say how a worker ended."""

    status: Status
    elapsed_ns: int
    error: str | None

    @classmethod
    def of(cls, error: BaseException | None, elapsed_ns: int = 0) -> Ending:
        """Read how a worker ended from what left its block."""
        if error is None:
            return cls("success", elapsed_ns, None)
        return cls("cancelled" if facts.is_cancellation(error) else "failed", elapsed_ns, describe(error))


def describe(error: BaseException) -> str:
    """Name an exception's class and what it says, on one line."""
    kind, text = type(error).__name__, error_text(error)
    return kind if text == kind else f"{kind}: {text}"


class WorkerState:
    """Hold what is known of a worker.

    Args:
        root: where the worker folders are.
        task: what the worker is asked to do.
    """

    def __init__(self, root: Path, task: str) -> None:
        self.task = task
        self.result: Any = None
        """The worker's answer: a text, a message, or a graph's state, whose last message is the answer."""
        self._root = root
        self._created: Metadata | None = None
        self._collector: MetricsCollector | None = None
        self._clock_ns: int | None = None
        self._ended: Ending | None = None
        self._summary: str | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    @property
    def metadata(self) -> Metadata:
        """Return what ``metadata.json`` says.

        Raises:
            RuntimeError: the worker has not been opened.
        """
        if self._created is None:
            msg = f"The worker for task {self.task!r} has not been opened; use `with runner.worker(...) as worker:`"
            raise RuntimeError(msg)
        return self._created

    @property
    def collector(self) -> MetricsCollector:
        """Return the collector, for ``MetricsCallbackHandler(worker.collector)`` where the context is lost.

        Raises:
            RuntimeError: the worker has not been opened.
        """
        if self._collector is None:
            msg = f"The worker for task {self.task!r} has not started; use `with runner.worker(...) as worker:`"
            raise RuntimeError(msg)
        return self._collector

    @property
    def worker_id(self) -> str:
        """Return the name of the worker's folder."""
        return self.metadata.worker_id

    @property
    def job_id(self) -> int | None:
        """Return the number of the job, which the supervisor tools take; None when the system refused to note one."""
        return self.metadata.job_id

    @property
    def dir(self) -> Path:
        """Return the worker's folder."""
        return self._root / self.worker_id

    @property
    def status(self) -> Status:
        """Return ``created``, ``running``, ``success``, ``failed`` or ``cancelled``."""
        return self.metadata.status if self._ended is None else self._ended.status

    @property
    def error(self) -> str | None:
        """Return what went wrong, as one line, or None."""
        return self.metadata.error if self._ended is None else self._ended.error

    @property
    def summary(self) -> str | None:
        """Return what the summarizer wrote, or None."""
        return self._summary

    @property
    def duration_ms(self) -> int:
        """Return how long the worker ran, so far if it still runs, in milliseconds."""
        if self._ended is not None:
            return milliseconds(self._ended.elapsed_ns)
        return 0 if self._clock_ns is None else milliseconds(perf_counter_ns() - self._clock_ns)

    @property
    def execution_time(self) -> str:
        """Return the duration as tier 1 shows it: ``98ms``, ``83250ms (1m 23s)``."""
        return format_duration(self.duration_ms)

    @property
    def totals(self) -> Totals:
        """Return the sums over the events so far."""
        return self.collector.totals

    @property
    def completeness(self) -> Completeness:
        """Return what the totals leave out."""
        return self.collector.completeness

    def __repr__(self) -> str:
        if self._created is None:
            return f"<Worker for {self.task!r}, not opened>"
        if self._collector is None:
            return f"{self.worker_id} {self.status}"
        return (
            f"{self.worker_id} {self.status}, Execution time: {self.execution_time}, "
            f"{count(self.totals.llm_calls, 'LLM call')}, {count(self.totals.tool_calls, 'tool call')}, "
            f"{count(self.totals.errors, 'error')}"
        )
