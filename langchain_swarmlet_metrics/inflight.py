"""Calls in flight: one process-wide map from LangChain's run to its open call, so that each run is recorded once.

Whoever takes a call out of the map ends it; taking is one dict operation, so threads, tasks, late ends and any
number of handlers end each call exactly once.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio import _get_running_loop, current_task  # without a loop, current_task() raises
from contextlib import suppress
from itertools import repeat
from queue import Empty, SimpleQueue
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import logs
from langchain_swarmlet_metrics.collector import MetricsCollector, get_metrics_collector
from langchain_swarmlet_metrics.metadata import Parent
from langchain_swarmlet_metrics.parts import quoted
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.tasks import TaskCalls, calls_of_task
from langchain_swarmlet_metrics.trace import NO_TRACE, Trace, trace_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from langchain_swarmlet_metrics.capture import Capture
    from langchain_swarmlet_metrics.events import Event, Outcome
    from langchain_swarmlet_metrics.snapshot import StartedCall


calls: dict[int, OpenCall] = {}
"""Run (``UUID.int``) -> its open call."""

silent: set[int] = set()
"""Runs of the open LLM calls of which nothing has been streamed yet that says something."""

_enclosing: dict[int, OpenCall] = {}
"""Chain run -> the open call that it runs inside of; emptied by the chain's end, at the latest by the call's."""

UNATTACHED = MetricsCollector(None, writer=lambda _event: None)
"""Takes the calls made without a worker: they are logged, belong to no file and have no number."""

UNATTACHED.next_id = repeat(None).__next__

NEVER = 1 << 63
turn_ns = NEVER
"""From when on the pulse's thread may be waiting for its turn, on the clock of `perf_counter_ns`; set by the pulse."""

_TURN_S = 50e-6
_NOTHING: SimpleQueue[None] = SimpleQueue()
_BETWEEN_TURNS_NS = 5_000_000
_given_ns = 0
_SWEEP_FROM = 64
_sweep_at = _SWEEP_FROM


class Ending(Struct, frozen=True, gc=False):
    """Say how a call ended."""

    success: bool = True
    error: str | None = None
    error_type: str | None = None
    outcome: Outcome | None = None

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        """Read how a call ended from the exception that left it."""
        if facts.is_cancellation(error):
            return cls(success=False, outcome="cancelled")
        if facts.is_control_flow(error):
            return cls(outcome="interrupted")
        return cls(success=False, error=error_text(error), error_type=type(error).__name__)


RETURNED = Ending()


class _State(Struct, kw_only=True, eq=False, gc=False):
    """Hold what is noted of a call as it starts, and later.

    Args:
        id: its number, or None outside of workers.
        parent_run: the run that this one is a child of, as an integer, or None.
        parent_id: the number of the call that it runs inside of, or None.
        task_calls: the open calls of the task that it runs in, when that is watched.
        start_ns: when it started, in nanoseconds since the epoch.
        clock_ns: likewise, on the clock of `perf_counter_ns`.
        streamed: whether chunks of it have come.
        outlives_task: whether whoever reads the stream awaits its chunks, which may be in another task each time.
        ttft_ns: after how many nanoseconds one came that says something.
        chains: the runs of the chains inside it.
    """

    id: int | None = None
    parent_run: int | None = None
    parent_id: int | None = None
    task_calls: TaskCalls | None = None
    start_ns: int = 0
    clock_ns: int = 0
    streamed: bool = False
    outlives_task: bool = False
    ttft_ns: int | None = None
    chains: set[int] | None = None


class OpenCall(_State, eq=False, gc=False):  # nothing refers to itself through a call that has ended
    """Hold what is known of a call that has started and not ended.

    Args:
        run: LangChain's run id, as an integer.
        collector: where its event goes.
        metadata: what LangChain says of the run; kept until the call ends, as its tags are.
        tags: the run's own tags.
    """

    is_watched: ClassVar[bool] = True
    """Whether LangChain says nothing when the call's task is cancelled, so that the task is watched."""

    run: int
    collector: MetricsCollector
    metadata: Mapping[str, Any] | None
    tags: Sequence[str] | None

    def event(self, ending: Ending, said: Any) -> Event:
        """Return the event of the call, which ends now; the arguments are those of `end`."""
        raise NotImplementedError

    def describe(self) -> StartedCall:
        """Return what is known of the call while it is open."""
        raise NotImplementedError

    def show(self, capture: Capture, given: Any) -> None:
        """Have what the call starts with captured."""
        raise NotImplementedError

    def start(self, parent_run_id: UUID | None, given: Any = None) -> None:
        """Put the call, which starts now, into the map, and watch its task.

        Args:
            parent_run_id: LangChain's id of the run that this one is a child of, or None.
            given: what it starts with, for content capture.
        """
        run, collector = self.run, self.collector
        try:
            if parent_run_id is not None:
                self._find_parent(facts.run_key(parent_run_id))
            if self.is_watched and _get_running_loop() is not None:
                self.task_calls = calls_of_task()
            clock_ns = perf_counter_ns()
            if clock_ns > turn_ns:
                clock_ns = _give_way(clock_ns)
            self.start_ns, self.clock_ns, self.id = time_ns(), clock_ns, collector.next_id()
            if collector.capture is not None:
                self.show(collector.capture, given)
            collector.open[run] = calls[run] = self
            if self.task_calls is not None:
                self.task_calls.open[run] = self
                if len(calls) >= _sweep_at:
                    _sweep()
            if collector.closed and self.take():  # its worker ended at this very moment
                self.withdraw()
                collector.count_late(run)
        except Exception as error:  # noqa: BLE001 - as below
            self.take()
            self.withdraw()
            collector.count_unread(error)

    def _find_parent(self, parent_run: int) -> None:
        self.parent_run = parent_run
        enclosing = calls.get(parent_run) or _enclosing.get(parent_run)
        if enclosing is not None and enclosing.collector is self.collector:
            self.parent_id = enclosing.id

    def end(self, ending: Ending, said: Any = None) -> None:
        """Hand the event of a call that has been taken out of the map to its collector.

        Args:
            ending: how it ended.
            said: an LLM call's result, a tool's output or error; None when there is none.
        """
        collector = self.collector
        try:
            silent.discard(self.run)
            if self.task_calls is not None or self.chains is not None:
                self.leave()
            event = self.event(ending, said)
            if collector.capture is not None:
                collector.capture.ended(event, said)
            collector.add(event)
        except Exception as error:  # noqa: BLE001 - whatever LangChain hands over, a call does not vanish without a trace
            if collector.capture is not None:
                collector.capture.lose(self.id)
            collector.count_unread(error)
        finally:
            collector.open.pop(self.run, None)

    def leave(self) -> None:
        """Let go of the task and of the chains that ran inside the call."""
        if self.task_calls is not None:
            self.task_calls.open.pop(self.run, None)
        if self.chains is not None:
            for chain in list(self.chains):
                _enclosing.pop(chain, None)

    def withdraw(self) -> None:
        """Forget a call that has been taken out of the map: it is no event of this collector."""
        silent.discard(self.run)
        self.leave()
        if self.collector.capture is not None:
            self.collector.capture.forget(self.id)
        self.collector.open.pop(self.run, None)

    def take(self) -> bool:
        """Take the call out of the map; False when it is not there any more."""
        return calls.get(self.run) is self and calls.pop(self.run, None) is self

    def abandon(self, outcome: Outcome) -> None:
        """End a call that will never be told its end, unless somebody else just ends it."""
        if self.take():
            self.end(Ending(success=False, outcome=outcome))

    def is_cancelled(self, leaving: asyncio.Task[Any] | None) -> bool:
        """Tell whether a call still open is one that was cancelled, given the task that leaves the worker."""
        if self.task_calls is None:
            return False
        return self.task_calls.is_over() or (self.task_calls.task is leaving and not self.outlives_task)


def enter_chain(run: int, parent_run: int | None) -> None:
    """Note which open call a chain runs inside of, if any."""
    call = _enclosing_call(parent_run)
    if call is not None:
        _enclosing[run] = call
        if call.chains is None:
            call.chains = set()
        call.chains.add(run)
        if calls.get(call.run) is not call:  # it has ended, in another thread, and may have let go of its chains before
            leave_chain(run)


def collector_around(parent_run_id: UUID | None) -> MetricsCollector | None:
    """Return where the open call goes that a run is inside of, if any."""
    call = None if parent_run_id is None else _enclosing_call(facts.run_key(parent_run_id))
    return None if call is None else call.collector


def leave_chain(run: int) -> None:
    """Forget a chain that has ended."""
    call = _enclosing.pop(run, None)
    if call is not None and call.chains is not None:
        call.chains.discard(run)


def cancel_children(parent_run: int) -> None:
    """Close the open calls that are direct children of a run that was cancelled, but for those that go on.

    What runs in a thread does, and so does a task of its own that nobody has cancelled; LangChain tells their end.
    """
    for call in list(calls.values()):
        if call.parent_run == parent_run and call.task_calls is not None and call.task_calls.is_cancelled():
            call.abandon("cancelled")


def close_calls(collector: MetricsCollector, *, cancelled: bool) -> None:
    """Close what is still open when a worker ends, as cancelled or unfinished.

    Args:
        collector: the worker's collector.
        cancelled: whether the worker itself ends by cancellation.
    """
    leaving = None if _get_running_loop() is None else current_task()
    for call in open_calls(collector):
        call.abandon("cancelled" if cancelled or call.is_cancelled(leaving) else "unfinished")


async def hear_last_ends(collector: MetricsCollector | None) -> None:
    """Give LangChain a turn of the loop to tell the ends of open calls: that of a typed stream comes after its events.

    A cancellation meanwhile is put off until the next await.
    """
    if collector is None or not collector.open:
        return
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        task = current_task()
        if task is not None:
            task.uncancel()
            task.cancel(*error.args)


def open_calls(collector: MetricsCollector) -> list[OpenCall]:
    """Return a collector's calls whose lines may not be written yet, those that are just being ended among them."""
    return list(collector.open.values())


def ending_here() -> set[int]:
    """Return the runs of the calls that this very thread is ending, further down its stack.

    A signal handler may come in between, or a sink, and end their worker.
    """
    runs, frame = set(), inspect.currentframe()
    while frame is not None:
        if frame.f_code is OpenCall.end.__code__:
            runs.add(frame.f_locals["self"].run)
        frame = frame.f_back
    return runs


def enclosing_worker() -> Parent | None:
    """Name whoever starts a worker in this context: the current worker, and its call that is open here."""
    current = get_metrics_collector()
    if current is None or current.worker_id is None:
        return None
    call = _enclosing_call(facts.current_run())
    event_id = call.id if call is not None and call.collector is current else None
    return Parent(worker_id=current.worker_id, event_id=event_id)


def enclosing_trace(traceparent: str | None) -> Trace:
    """Return the trace that a worker started in this context belongs to.

    Args:
        traceparent: its own header; without one, and with one that is not valid, it belongs to the current worker's.
    """
    if traceparent is not None:
        if (trace := trace_of(traceparent)) is not None:
            return trace
        logs.warn("The traceparent %s is no W3C Trace Context header and is not kept", quoted(traceparent))
    current = get_metrics_collector()
    return NO_TRACE if current is None else Trace(current.trace_id)


def _give_way(now_ns: int) -> int:
    """Let the pulse's thread run, and return the time after that.

    Each write lets go of the interpreter, but has it back before another thread is awake. Beside an agent that makes
    many short calls the pulse would be woken up by every write, for nothing, at some 6 us each, and hardly ever run.
    """
    global _given_ns  # noqa: PLW0603 - the one pulse of the process
    if now_ns - _given_ns > _BETWEEN_TURNS_NS:  # it may hang: on a file system that does, for example
        _given_ns = now_ns
        with suppress(Empty):
            _NOTHING.get(timeout=_TURN_S)  # unlike sleep(), it may be used on an event loop's thread
    return perf_counter_ns()


def _enclosing_call(run: int | None) -> OpenCall | None:
    if run is None:
        return None
    return calls.get(run) or _enclosing.get(run)


def _sweep() -> None:
    """Close calls whose loop is gone without telling their tasks, and look again when the map has doubled."""
    global _sweep_at  # noqa: PLW0603 - the one threshold of the one map
    for call in list(calls.values()):
        if call.task_calls is not None and call.task_calls.loop.is_closed():
            call.abandon("cancelled")
    _sweep_at = max(_SWEEP_FROM, 2 * len(calls))
