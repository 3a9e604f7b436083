"""Calls in flight: one process-wide map from LangChain's run to its open call, so that each run is recorded once.

Whoever takes a call out of the map ends it; taking is one dict operation, so threads, tasks, late ends and any
number of handlers end each call exactly once.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop, current_task  # current_task() raises without a loop
from contextvars import Context
from threading import get_ident
from time import perf_counter_ns, sleep, time_ns
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import logs
from langchain_swarmlet_metrics._langchain import NO_ANSWER, Answer
from langchain_swarmlet_metrics.collector import MetricsCollector, get_metrics_collector
from langchain_swarmlet_metrics.metadata import Parent
from langchain_swarmlet_metrics.parts import quoted
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.trace import NO_TRACE, Trace, trace_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_swarmlet_metrics.events import Event, Outcome
    from langchain_swarmlet_metrics.snapshot import StartedCall


calls: dict[int, OpenCall] = {}
"""Run (``UUID.int``) -> its open call."""

silent: set[int] = set()
"""Runs of the open LLM calls of which nothing has been streamed yet that says something."""

_enclosing: dict[int, OpenCall] = {}
"""Chain run -> the open call that it runs inside of; emptied by the chain's end, at the latest by the call's."""

UNATTACHED = MetricsCollector(None, writer=lambda _event: None)
"""Takes the calls made without a worker: they are logged and belong to no file."""

NEVER = 1 << 63
turn_ns = NEVER
"""From when on the pulse's thread may be waiting for its turn, on the clock of `perf_counter_ns`; set by the pulse."""

_TURN_S = 50e-6
_BETWEEN_TURNS_NS = 5_000_000
_given_ns = 0
_NO_CONTEXT = Context()  # a done callback would otherwise keep the whole context of the agent alive
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


class _State(Struct, kw_only=True, eq=False):
    """Hold what is noted of a call after it was made."""

    id: int | None = None
    parent_id: int | None = None
    streamed: bool = False
    ttft_ns: int | None = None
    chains: set[int] | None = None
    task: asyncio.Task[Any] | None = None
    start_ns: int = 0
    clock_ns: int = 0


class OpenCall(_State, eq=False):
    """Hold what is known of a call that has started and not ended.

    Args:
        run: LangChain's run id, as an integer.
        parent_run: the run that this one is a child of, likewise, or None.
        collector: where its event goes.
        metadata: what LangChain says of the run; kept until the call ends, as its tags are.
        tags: the run's own tags.
    """

    run: int
    parent_run: int | None
    collector: MetricsCollector
    metadata: Mapping[str, Any] | None
    tags: Sequence[str] | None

    def __post_init__(self) -> None:
        collector = self.collector
        if collector is not UNATTACHED:
            self.id = collector.next_id()
            if self.parent_run is not None:
                enclosing = calls.get(self.parent_run) or _enclosing.get(self.parent_run)
                if enclosing is not None and enclosing.collector is collector:
                    self.parent_id = enclosing.id
        if _get_running_loop() is not None:
            self.task = current_task()
        self.start_ns = time_ns()
        self.clock_ns = clock_ns = perf_counter_ns()
        if clock_ns > turn_ns:
            _give_way(clock_ns)

    def event(self, ending: Ending, answer: Answer) -> Event:
        """Return the event of the call, which ends now."""
        raise NotImplementedError

    def describe(self) -> StartedCall:
        """Return what is known of the call while it is open."""
        raise NotImplementedError

    def end(self, ending: Ending, answer: Answer = NO_ANSWER, said: object = None) -> None:
        """Take the call out of the map and hand its event to its collector, unless somebody else just did.

        Args:
            ending: how it ended.
            answer: what an LLM's result says that the event needs.
            said: the result, output or error itself, for content capture.
        """
        collector = self.collector
        ending_now, this = collector.ending, (get_ident(), self)
        ending_now.append(this)  # the worker waits for this before it ends, and until it is written it counts as open
        try:
            if calls.pop(self.run, None) is self:
                self.leave()
                event = self.event(ending, answer)
                if collector.capture is not None:
                    collector.capture.ended(event, said)
                collector.add(event)
        finally:
            ending_now.remove(this)

    def enter(self) -> None:
        """Put the call into the map, and watch its task: LangChain says nothing when it is cancelled."""
        calls[self.run] = self
        if self.task is not None:
            self.task.add_done_callback(self._task_done, context=_NO_CONTEXT)
        if len(calls) >= _sweep_at:
            _sweep()
        if self.collector.closed and calls.pop(self.run, None) is self:  # its worker ended at this very moment
            self.leave()
            self.collector.count_late(self.run)

    def leave(self) -> None:
        """Let go of the task and of the chains that ran inside the call."""
        if self.task is not None:
            self.task.remove_done_callback(self._task_done)
        if self.chains is not None:
            for chain in self.chains:
                _enclosing.pop(chain, None)

    def abandon(self, outcome: Outcome) -> None:
        """End a call that will never be told its end."""
        self.end(Ending(success=False, outcome=outcome))

    def is_cancelled(self, leaving: asyncio.Task[Any] | None) -> bool:
        """Tell whether a call still open is one that was cancelled, given the task that leaves the worker."""
        if self.task is None:
            return False
        return self.task.done() or (self.task is leaving and not self.streamed)

    def _task_done(self, _task: asyncio.Task[Any]) -> None:
        # A stream outlives the task of its first chunk when each chunk is awaited in a task of its own.
        if not self.streamed:
            self.abandon("cancelled")


def enter_chain(run: int, parent_run: int | None) -> None:
    """Note which open call a chain runs inside of, if any."""
    call = _enclosing_call(parent_run)
    if call is not None:
        _enclosing[run] = call
        if call.chains is None:
            call.chains = set()
        call.chains.add(run)


def leave_chain(run: int) -> None:
    """Forget a chain that has ended."""
    call = _enclosing.pop(run, None)
    if call is not None and call.chains is not None:
        call.chains.discard(run)


def cancel_children(parent_run: int) -> None:
    """Close the open calls that are direct children of a run that was cancelled."""
    for call in list(calls.values()):
        if call.parent_run == parent_run:
            call.abandon("cancelled")


def close_calls(collector: MetricsCollector, *, cancelled: bool) -> None:
    """Close what is still open when a worker ends, as cancelled or unfinished.

    Args:
        collector: the worker's collector.
        cancelled: whether the worker itself ends by cancellation.
    """
    leaving = None if _get_running_loop() is None else current_task()
    for call in list(calls.values()):
        if call.collector is collector:
            call.abandon("cancelled" if cancelled or call.is_cancelled(leaving) else "unfinished")


def with_ending(seen: Sequence[OpenCall], collector: MetricsCollector) -> Sequence[OpenCall]:
    """Add to a collector's calls in the map those that are just being ended: their lines may not be written yet."""
    ending = [call for _, call in collector.ending[:] if isinstance(call, OpenCall)]
    by_id = {call.id: call for call in (*seen, *ending)}
    return sorted(by_id.values(), key=lambda call: call.id or 0)


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


def _give_way(now_ns: int) -> None:
    """Let the pulse's thread run.

    Each write lets go of the interpreter, but has it back before another thread is awake. Beside an agent that makes
    many short calls the pulse would be woken up by every write, for nothing, at some 6 us each, and hardly ever run.
    """
    global _given_ns  # noqa: PLW0603 - the one pulse of the process
    if now_ns - _given_ns > _BETWEEN_TURNS_NS:  # it may hang: on a file system that does, for example
        _given_ns = now_ns
        sleep(_TURN_S)


def _enclosing_call(run: int | None) -> OpenCall | None:
    if run is None:
        return None
    return calls.get(run) or _enclosing.get(run)


def _sweep() -> None:
    """Close calls whose task is done or whose loop is gone, and look again when the map has doubled."""
    global _sweep_at  # noqa: PLW0603 - the one threshold of the one map
    for call in list(calls.values()):
        if call.task is not None and (call.task.done() or call.task.get_loop().is_closed()):
            call.abandon("cancelled")
    _sweep_at = max(_SWEEP_FROM, 2 * len(calls))
