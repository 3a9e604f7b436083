"""Worker: one run of a task by an agent, from its folder's creation to its last event."""

from __future__ import annotations

import asyncio
import atexit
import os
import weakref
from asyncio import CancelledError
from contextlib import contextmanager
from copy import copy
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics import agents, handler, inflight, logs, pulse, settings, tokens
from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics.capture import Capture
from langchain_swarmlet_metrics.eventlog import NoWriter
from langchain_swarmlet_metrics.folder import METRICS_FILE
from langchain_swarmlet_metrics.keeper import Keeper
from langchain_swarmlet_metrics.state import Ending, WorkerState, describe
from langchain_swarmlet_metrics.store import NotRecordedError
from langchain_swarmlet_metrics.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from langchain_swarmlet_metrics.agents import Summarizer
    from langchain_swarmlet_metrics.eventlog import EventWriter
    from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.runner import WorkerRunner

_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker(WorkerState):
    """Record one run of a task: every LLM call and tool call inside its block, its result and how it ended.

    Made by `WorkerRunner.worker`. A block that raises keeps raising; the worker is then ``failed``, or ``cancelled``
    for CancelledError, KeyboardInterrupt and a generator closed early.

    Args:
        runner: whose root, owner, sinks and summarizer apply.
        task: what the worker is asked to do.
        config: the user's own notes.
        traceparent: the header of the trace that it belongs to.
    """

    def __init__(
        self,
        runner: WorkerRunner,
        task: str,
        config: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
    ) -> None:
        super().__init__(runner.store.root, task)
        self._runner = runner
        self._config = config
        self._traceparent = traceparent
        self._writer: EventWriter | None = None
        self._watch: pulse.Watch | None = None
        self._attached: tuple[MetricsCallbackHandler | None] | None = None
        self._is_noting_late = False
        self._text: str | None = None
        self._is_done = False
        self._keeper = Keeper(runner.store, self._lock, self._known)

    @property
    def record_error(self) -> str | None:
        """Return why the files of the worker cannot be written, or None; it runs all the same."""
        return self._keeper.error

    def __repr__(self) -> str:
        return super().__repr__() + ("" if self.record_error is None else f", not on disk: {self.record_error}")

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
        try:
            if self._stop(error):
                summarizer = self._summarizer()
                self._complete(last=summarizer is None)
                if summarizer is not None:
                    try:
                        with self._summarizing():
                            self._summary = agents.summarize(summarizer, self.task, self._answer() or "")
                    finally:
                        self._complete(last=True)
        finally:
            self._detach()

    async def aclose(self, error: BaseException | None = None) -> None:
        """End the worker as `close` does, with no blocking call on the running loop."""
        try:
            await inflight.hear_last_ends(self._collector)
            if self._stop(error):
                summarizer = self._summarizer()
                try:
                    await in_thread(self._complete, last=summarizer is None)
                    if summarizer is not None:
                        with self._summarizing():
                            self._summary = await agents.asummarize(summarizer, self.task, self._answer() or "")
                finally:
                    if summarizer is not None:
                        await in_thread(self._complete, last=True)
        finally:
            self._detach()

    def cancel(self, reason: str = "cancelled on request") -> None:
        """End the worker as cancelled, from any thread; its agent stops at its next LLM call or tool call.

        Args:
            reason: why, for its ``error``.
        """
        error = CancelledError(reason)
        if self._clock_ns is None:
            with self._lock:
                if self._clock_ns is None:
                    self._end_before_start(error)
                    return
        if self._stop(error):
            if self.status == "cancelled":
                self.collector.stop()
            self._complete(last=True)

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

        A system that refuses them keeps no agent from running: the worker then is in no file, see `record_error`.

        Raises:
            CancelledError: it has been cancelled.
        """
        with self._lock:
            if self._created is not None:
                return
            self._refuse_after_end()
            owner_id = self._runner.owner_id
            refused: list[OSError] = []
            try:
                self._created = self._runner.store.create(
                    self.task,
                    owner_id=owner_id,
                    config=None if self._config is None else dict(self._config),
                    parent=inflight.enclosing_worker(),
                    trace=inflight.enclosing_trace(self._traceparent),
                    opening=partial(self._open_writer, refused=refused),
                    store_task=self._runner.store_task,
                )
            except NotRecordedError as error:
                self._created = error.metadata
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None
                self._keeper.hold(error, try_again=False)
            except BaseException as error:
                self._end_before_start(error)
                raise
            for reason in refused:
                self._keeper.hold(reason)
            _alive.add(self)

    def _open_writer(self, worker_id: str, refused: list[OSError]) -> None:
        try:
            self._writer = self._runner.store.writer(worker_id)  # locked from now on: unlocked is lost
        except OSError as error:
            refused.append(error)

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
        is_captured = self._runner.capture_content and self._writer is not None  # else the folder may be another's
        self._collector = collectors.MetricsCollector(
            self.worker_id,
            writer=self._writer or NoWriter(METRICS_FILE, self.record_error or "it could not be opened"),
            waits=False,
            parent=collectors.get_metrics_collector(),
            trace_id=self.metadata.trace_id,
            on_late=self._note_late,
            capture=Capture(self._runner.store.transcript(self.worker_id)) if is_captured else None,
        )
        for relay, make_sink in self._runner.sinks:
            self._collector.add_sink(relay, partial(make_sink, self))
        tokens.preload(settings.tiktoken_cache_dir())
        clock_ns = perf_counter_ns()  # before it notes the start, so that no call ends after the worker did
        self._keeper.keep(self._runner.store.start, self.metadata)
        self._clock_ns = clock_ns
        if self._writer is not None:
            self._watch = pulse.Watch(self._collector, self._writer, self._runner.store)

    def _refuse_after_end(self) -> None:
        if self._ended is not None:
            raise CancelledError(self._ended.error)

    def _attach(self) -> None:
        collectors.set_metrics_collector(self.collector)
        self._attached = (handler.attach(),)

    def _detach(self) -> None:
        """Make the nearest worker around this one current, if this one is or one inside it that has been left."""
        if self._attached is None:
            return
        (before,) = self._attached
        self._attached = None
        self.collector.left = True
        current = collectors.get_metrics_collector()
        if current is not None and current.left and current.is_within(self.collector):
            outer = self.collector.open_ancestor()
            collectors.set_metrics_collector(outer)
            handler.detach(None if outer is None else before)

    def _stop(self, error: BaseException | None) -> bool:
        """Settle how the worker ended, unless that is settled; True while somebody has to write it down."""
        if os.getpid() != self._pid:
            return False
        with self._lock:
            if self._clock_ns is None or self._is_done:
                return False
            if self._ended is None:
                self._ended = Ending.of(error, perf_counter_ns() - self._clock_ns)
                inflight.close_calls(self.collector, cancelled=self._ended.status == "cancelled")
                self._ended = self._ended._replace(elapsed_ns=perf_counter_ns() - self._clock_ns)
        return True

    def _end_before_start(self, error: BaseException) -> None:
        """Write down that the worker never got to run; called with the lock held."""
        if self._ended is not None or os.getpid() != self._pid:
            return
        self._ended = Ending.of(error)
        if self._created is not None:
            self._write_down(self._ended)
        self._let_go()

    def _summarizer(self) -> Summarizer | None:
        """Return what shall write the summary, or None when there is nothing to sum up."""
        return self._runner.summarizer if self._answer() and self.status == "success" else None

    def _answer(self) -> str | None:
        if self._text is None:
            self._text = agents.text_of(self.result)
        return self._text

    @contextmanager
    def _summarizing(self) -> Iterator[None]:
        """Record the summary's call as the worker's, also where the block is left in another context."""
        current = collectors.set_metrics_collector(self.collector)
        before = handler.attach()
        try:
            with collectors.phase("summary"):
                yield
        except Exception as error:  # noqa: BLE001 - a summary that fails changes nothing else
            logs.warn("The summary of worker %s failed: %s", self.worker_id, describe(error))
        finally:
            handler.detach(before)
            collectors.reset_metrics_collector(current)

    def _complete(self, *, last: bool) -> None:
        """Write down how the worker ended, its result and its summary; unless this is the last, a summary follows."""
        with self._lock:
            if self._ended is None or self._is_done:
                return
            self._write_down(self._ended)
            if not last:
                return
            self._close_collector()
        self.collector.settle()  # without the lock: a sink may be cancelling the worker, as a budget does
        self._finish()

    def _finish(self) -> None:
        with self._lock:
            if self._is_done:
                return
            if (self.metadata.totals, self.metadata.completeness) != (self.totals, self.completeness):
                self._save()
            self._is_done = True
            self._let_go()

    def _close_collector(self) -> None:
        collector = self.collector
        collector.closed = True
        inflight.close_calls(collector, cancelled=self.status == "cancelled")
        collector.close(but_for=inflight.ending_here())

    def _let_go(self) -> None:
        """Free the lock, only now that the files say how it ended, so that nobody takes the worker for lost.

        Of a worker whose files could not be finished it is kept until they are, or until the process ends.
        """
        if self._watch is not None:
            self._watch.close()
        if self._writer is not None:
            self._keeper.afterwards(self._writer.close)
        _alive.discard(self)

    def _note_late(self) -> None:
        """Have ``metadata.json`` say soon how many calls came late; in a thread, as callbacks must not write."""
        if not self._is_noting_late:
            self._is_noting_late = True
            pulse.try_again(self._save_late)

    def _save_late(self) -> bool:
        self._is_noting_late = False
        self._save()
        return True

    def _copy_totals(self) -> None:
        self.metadata.totals, self.metadata.completeness = copy(self.totals), copy(self.completeness)

    def _save(self) -> None:
        self._copy_totals()
        self._keeper.keep(self._runner.store.save, self.metadata)

    def _write_down(self, ended: Ending) -> None:
        if self._collector is not None:
            self._copy_totals()
        is_written = self._keeper.keep(
            self._runner.store.complete,
            self.metadata,
            status=ended.status,
            elapsed_ns=ended.elapsed_ns,
            error=ended.error,
            result=self._answer(),
            summary=self._summary,
        )
        if is_written:
            self._keeper.release()

    def _known(self) -> tuple[Metadata, str | None]:
        return self.metadata, None if self._ended is None else self._answer()


@atexit.register
def _cancel_alive() -> None:
    """End what is still running as the interpreter exits; nobody will hear of it again."""
    for worker in list(_alive):
        worker.cancel("the interpreter exited")
    pulse.try_a_last_time()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alive.clear)  # they are the parent's
