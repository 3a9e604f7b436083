"""Worker: one run of a task by an agent, from its folder's creation to its last event."""

from __future__ import annotations

import asyncio
import atexit
import sqlite3
import threading
import weakref
from asyncio import CancelledError
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import agents, handler, inflight, logs, settings, tokens
from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics.collector import MetricsCollector
from langchain_swarmlet_metrics.events import milliseconds
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.summary import count, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextvars import Token
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from langchain_swarmlet_metrics.agents import Summarizer
    from langchain_swarmlet_metrics.eventlog import EventWriter
    from langchain_swarmlet_metrics.metadata import Completeness, Metadata, Status, Totals
    from langchain_swarmlet_metrics.runner import WorkerRunner

_NOTE_LATE_AFTER_S = 0.25

_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """Record one run of a task: every LLM call and tool call inside its block, its result and how it ended.

    Made by `WorkerRunner.worker`. A block that raises keeps raising; the worker is then ``failed``, or ``cancelled``
    for CancelledError, KeyboardInterrupt and a generator closed early.

    Args:
        runner: whose root, owner, sinks and summarizer apply.
        task: what the worker is asked to do.
        config: the user's own notes.
    """

    def __init__(self, runner: WorkerRunner, task: str, config: Mapping[str, Any] | None = None) -> None:
        self.task = task
        self.result: Any = None
        """The worker's answer: a text, a message, or a graph's state, whose last message is the answer."""
        self._runner = runner
        self._config = config
        self._created: Metadata | None = None
        self._collector: MetricsCollector | None = None
        self._writer: EventWriter | None = None
        self._tokens: tuple[Token[Any], Token[Any]] | None = None
        self._clock_ns: int | None = None
        self._lock = threading.RLock()
        self._ended: _Ended | None = None
        self._noting_late: threading.Timer | None = None
        self._text: str | None = None
        self._summary: str | None = None

    # What is known of it

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
    def job_id(self) -> int:
        """Return the number of the job, which the supervisor tools take."""
        job_id = self.metadata.job_id
        assert job_id is not None  # noqa: S101 - the store numbers every worker it creates
        return job_id

    @property
    def dir(self) -> Path:
        """Return the worker's folder."""
        return self._runner.store.root / self.worker_id

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

    # Its block

    def open(self) -> Self:
        """Start the worker; `close` ends it. For notebooks, where a ``with`` block can't span cells.

        Raises:
            RuntimeError: it has been opened before.
        """
        self.start()
        self._attach()
        return self

    def close(self, error: BaseException | None = None) -> None:
        """End the worker; a second call does nothing.

        Args:
            error: what ended it; by default it ended well.
        """
        if self._stop(error):
            try:
                if (summarizer := self._summarizer()) is not None:
                    with self._summarizing():
                        self._summary = agents.summarize(summarizer, self.task, self._text or "")
            finally:
                self._complete()
        self._detach()

    async def aclose(self, error: BaseException | None = None) -> None:
        """End the worker as `close` does, with no blocking call on the running loop."""
        if self._stop(error):
            try:
                if (summarizer := self._summarizer()) is not None:
                    with self._summarizing():
                        self._summary = await agents.asummarize(summarizer, self.task, self._text or "")
            finally:
                await asyncio.to_thread(self._complete)
        self._detach()

    def cancel(self) -> None:
        """End the worker as cancelled, from any thread; its agent stops at its next LLM call or tool call."""
        error = CancelledError("cancelled on request")
        with self._lock:
            if self._clock_ns is None:
                self._end_before_start(error)
                return
        if self._stop(error):
            self.collector.cancelled = True
            self._complete()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
        except CancelledError:
            await asyncio.to_thread(self.cancel)  # the thread has started it all the same
            raise
        self._attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(error)

    # Its parts

    def create(self) -> None:
        """Make the folder and the job number; done by the block itself unless the worker has to wait for its turn.

        Raises:
            CancelledError: it has been cancelled.
        """
        with self._lock:
            if self._created is not None:
                return
            self._refuse_after_end()
            self._created = self._runner.store.create(
                self.task,
                owner_id=self._runner.owner_id,
                config=None if self._config is None else dict(self._config),
                parent=inflight.enclosing_worker(),
                store_task=self._runner.store_task,
            )
            _alive.add(self)

    def start(self) -> None:
        """Make the worker ``running``: open its ``metrics.jsonl`` and build its sinks; without touching the context.

        Raises:
            CancelledError: it has been cancelled.
        """
        with self._lock:  # `cancel` comes before this or after it
            if self._collector is not None:
                msg = f"Worker {self.worker_id} has been opened before; make a new one with runner.worker(...)"
                raise RuntimeError(msg)
            self.create()
            self._refuse_after_end()
            try:
                self._start()
            except BaseException as error:
                self._end_before_start(error)
                raise

    def _start(self) -> None:
        store = self._runner.store
        self._writer = store.writer(self.worker_id)
        self._collector = MetricsCollector(
            self.worker_id,
            writer=self._writer,
            sinks=[make_sink(self) for make_sink in self._runner.sinks],
            parent=collectors.get_metrics_collector(),
            on_late=self._note_late,
        )
        tokens.preload(settings.tiktoken_cache_dir())
        clock_ns = perf_counter_ns()  # before it notes the start, so that no call ends after the worker did
        store.start(self.metadata)
        self._clock_ns = clock_ns

    def _refuse_after_end(self) -> None:
        if self._ended is not None:
            raise CancelledError(self._ended.error)

    def _attach(self) -> None:
        self._tokens = (collectors.set_metrics_collector(self.collector), handler.attach())

    def _detach(self) -> None:
        if self._tokens is not None:
            collector_token, handler_token = self._tokens
            self._tokens = None
            handler.detach(handler_token)
            collectors.reset_metrics_collector(collector_token)

    def _stop(self, error: BaseException | None) -> bool:
        """Settle how the worker ended, unless that is settled; True for the one caller that has to write it down."""
        with self._lock:
            if self._ended is not None or self._clock_ns is None:
                return False
            status = _status_after(error)
            inflight.close_calls(self.collector, cancelled=status == "cancelled")
            self._ended = _Ended(status, perf_counter_ns() - self._clock_ns, _describe(error))
        self._text = agents.text_of(self.result)
        return True

    def _end_before_start(self, error: BaseException) -> None:
        """Write down that the worker never got to run; called with the lock held."""
        if self._ended is not None:
            return
        self._ended = _Ended(_status_after(error), 0, _describe(error))
        if self._created is not None:
            self._write_down(self._ended)
        if self._writer is not None:
            self._writer.close()
        _alive.discard(self)

    def _summarizer(self) -> Summarizer | None:
        """Return what shall write the summary, or None when there is nothing to sum up."""
        return self._runner.summarizer if self._text and self.status == "success" else None

    @contextmanager
    def _summarizing(self) -> Iterator[None]:
        with collectors.phase("summary"):
            try:
                yield
            except Exception as error:  # noqa: BLE001 - a summary that fails changes nothing else
                logs.warn("The summary of worker %s failed: %s", self.worker_id, _describe(error))

    def _complete(self) -> None:
        """Write down how the worker ended; only then its lock is freed, so that nobody takes it for lost."""
        collector, ended = self.collector, self._ended
        assert ended is not None and self._writer is not None  # noqa: S101, PT018 - called after _stop only
        collector.closed = True
        inflight.close_calls(collector, cancelled=ended.status == "cancelled")
        self.metadata.totals, self.metadata.completeness = collector.totals, collector.completeness
        self._write_down(ended)
        self._writer.close()
        _alive.discard(self)

    def _note_late(self) -> None:
        """Have ``metadata.json`` say soon how many calls came late; in a thread, as callbacks must not write."""
        with self._lock:
            if self._noting_late is None or not self._noting_late.is_alive():
                self._noting_late = threading.Timer(_NOTE_LATE_AFTER_S, self._save)
                self._noting_late.daemon = True
                self._noting_late.start()

    def _save(self) -> None:
        try:
            self._runner.store.save(self.metadata)
        except OSError as error:
            logs.warn("Late calls of worker %s could not be noted: %s", self.worker_id, _describe(error))

    def _write_down(self, ended: _Ended) -> None:
        try:
            self._runner.store.complete(
                self.metadata,
                status=ended.status,
                elapsed_ns=ended.elapsed_ns,
                error=ended.error,
                result=self._text,
                summary=self._summary,
            )
        except (OSError, sqlite3.Error) as error:
            logs.warn("The files of worker %s could not be finished: %s", self.worker_id, _describe(error))


class _Ended(NamedTuple):
    """Say how a worker ended."""

    status: Status
    elapsed_ns: int
    error: str | None


def _status_after(error: BaseException | None) -> Status:
    if error is None:
        return "success"
    return "cancelled" if facts.is_cancellation(error) else "failed"


def _describe(error: BaseException | None) -> str | None:
    """Name an exception's class and what it says, on one line."""
    if error is None:
        return None
    kind, text = type(error).__name__, error_text(error)
    return kind if text == kind else f"{kind}: {text}"


@atexit.register
def _cancel_alive() -> None:
    """End what is still running as the interpreter exits; nobody will hear of it again."""
    for worker in list(_alive):
        worker.cancel()
