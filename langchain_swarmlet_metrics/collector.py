"""The collector receives a worker's events and hands each to the sinks; the current one is in a ContextVar."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from logging import INFO
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec

from langchain_swarmlet_metrics import handmade, logs
from langchain_swarmlet_metrics.events import Event, LLMCall, ToolCall
from langchain_swarmlet_metrics.logs import is_enabled_for
from langchain_swarmlet_metrics.metadata import Completeness, Totals
from langchain_swarmlet_metrics.scrub import error_text, identifier
from langchain_swarmlet_metrics.sinks import RelayedSink, Sink, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from langchain_swarmlet_metrics.capture import Capture
    from langchain_swarmlet_metrics.handmade import Moment
    from langchain_swarmlet_metrics.inflight import OpenCall
    from langchain_swarmlet_metrics.relay import Relay
    from langchain_swarmlet_metrics.store import ArtifactStore


_COUNT_AT = 64
_CLOSE_S = 1.0


class MetricsCollector:
    """Receive the events of one worker and hand each to the sinks.

    Usable by hand, without LangChain and without a runner: it then buffers its events until `flush`.

    Args:
        worker_id: name of the worker's folder; None for calls that belong to no worker.
        writer: the sink that writes ``metrics.jsonl``; without one, events are held until `flush`.
        sinks: what else takes each event, after the file and the log.
        waits: whether a log line is out when the recording of its call returns; a worker waits when it ends.
        parent: the collector of the worker that this one is nested in.
        trace_id: the trace that the worker belongs to, and the workers that are made in it.
        on_late: called after each call that starts when the worker has ended and is only counted.
        capture: takes what the calls say; None when nobody wants to know.
    """

    def __init__(
        self,
        worker_id: str | None,
        *,
        writer: Sink | None = None,
        sinks: Iterable[Sink] = (),
        waits: bool = True,
        parent: MetricsCollector | None = None,
        trace_id: str | None = None,
        on_late: Callable[[], object] | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.worker_id = worker_id
        self.parent = parent
        self.capture = capture
        self.trace_id = trace_id
        self._totals = Totals()
        self._completeness = Completeness()
        self._uncounted: list[Event] = []
        self.requested_by: dict[str, int] = {}
        """Tool call id -> id of the LLM call whose answer asked for it; an interrupted tool resumes under its id."""
        self.unbound_tools: dict[str, str] = {}
        """Tool call id -> name of a tool that was asked for, is not among the bound tools and was never started."""
        self.open: dict[int, OpenCall] = {}
        """Run -> call, from its start until its event has been handed to the sinks."""
        self._by_hand: list[int] = []  # threads that record an event by hand just now
        self.left = False
        """Whether the worker's block has been left; it may be closed, when cancelled, long before."""
        self.closed = False
        self.cancelled = False
        self._buffer: list[Event] = []
        log = logs.LogSink(worker_id, waits=waits, on_failure=self._count_failure)
        self._sinks: tuple[Sink, ...] = (writer or self._buffer.append, log, *sinks)
        self._unlogged = (self._sinks[0], *sinks)
        self._failed_sinks: set[int] = set()
        self._says_unread = False
        self._late: deque[object] = deque(maxlen=64)
        self._on_late = on_late
        self.next_id: Callable[[], Any] = itertools.count(1).__next__
        """Return the id of the next call to start: 1, 2, 3 ..."""
        self._lock = threading.RLock()  # a signal handler may ask for the totals while this thread counts
        self._key = uuid4().hex
        _live[self._key] = self

    def __repr__(self) -> str:
        return f"<MetricsCollector {self.worker_id}: {self.totals.llm_calls} LLM, {self.totals.tool_calls} tool calls>"

    def __deepcopy__(self, memo: dict[int, Any]) -> MetricsCollector:
        """Return itself: a copy of whoever holds a collector records into the same worker."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle as itself in this process, and as None in another one: its file is not open there."""
        return _find, (self._key,)

    @property
    def totals(self) -> Totals:
        """Return the sums over the events so far."""
        self._count()
        return self._totals

    @property
    def completeness(self) -> Completeness:
        """Return what the totals leave out."""
        self._count()
        return self._completeness

    def is_within(self, other: MetricsCollector) -> bool:
        """Tell whether this is the other collector, or one of a worker nested in that one's."""
        return self is other or (self.parent is not None and self.parent.is_within(other))

    def open_ancestor(self) -> MetricsCollector | None:
        """Return the nearest collector around this one whose block has not been left, or None."""
        outer = self.parent
        while outer is not None and outer.left:
            outer = outer.parent
        return outer

    def add(self, event: Event) -> None:
        """Count a finished call and hand it to every sink; never raises."""
        uncounted = self._uncounted
        uncounted.append(event)
        if len(uncounted) >= _COUNT_AT:
            self._count()
        for sink in self._sinks if is_enabled_for(INFO) else self._unlogged:
            try:
                sink(event)
            except Exception as error:  # noqa: BLE001 - the one guard: no sink may reach the agent
                self._count_failure(sink, error)

    def stop(self) -> None:
        """Take no more calls from this moment on, and stop the agent at its next one."""
        self.cancelled = True
        self.closed = True

    def close(self, but_for: Collection[int] = ()) -> None:
        """Take no more calls, wait for those that are being ended right now, and forget who asked for which tool.

        Args:
            but_for: the runs of the calls not to wait for.
        """
        self.closed = True
        deadline = time.monotonic() + _CLOSE_S
        here = threading.get_ident()  # a sink that ends the worker must not wait for itself
        while time.monotonic() < deadline and (
            self.open.keys() - but_for or any(thread != here for thread in self._by_hand[:])
        ):
            time.sleep(0)
        self.requested_by.clear()
        self.unbound_tools.clear()

    def settle(self) -> None:
        """Wait up to a second for each sink that has not caught up, and count what it has not taken by then.

        What is captured has two seconds to be written.
        """
        if self.capture is not None:
            self._completeness.dropped_content += self.capture.close()
        for sink in self._sinks:
            if isinstance(sink, logs.LogSink | RelayedSink) and (left := sink.drain(_CLOSE_S)):
                self._count_failure(sink, TimeoutError("it takes too long, or hangs"), left)

    def add_sink(self, relay: Relay[Any], make_sink: Callable[[], Sink]) -> None:
        """Add what a factory makes in the thread of a relay; one that raises is treated as a sink that does."""
        sink = RelayedSink(relay, make_sink, self._count_failure)
        self._sinks, self._unlogged = (*self._sinks, sink), (*self._unlogged, sink)

    def count_late(self, run: object) -> None:
        """Count a call that started after the worker ended; it is not recorded.

        Args:
            run: identifies the call, so that several handlers count it once.
        """
        with self._lock:
            if run in self._late:
                return
            self._late.append(run)
            self._completeness.late_calls += 1
            first = self._completeness.late_calls == 1
        if first:
            text = "A call started after worker %s had ended; such calls are only counted. Await them inside its block."
            logs.warn(text, self.worker_id)
        if self._on_late is not None:
            self._on_late()

    def count_unread(self, error: Exception) -> None:
        """Count a call that has ended in a way that cannot be read; it has no line."""
        with self._lock:
            self._completeness.dropped_events += 1
            reason = f"unreadable: {error_text(error)}"
            self._completeness.drop_reason = self._completeness.drop_reason or reason
            first, self._says_unread = not self._says_unread, True
        if first:
            text = "A call of worker %s cannot be read, and is only counted: %s. The agent is not affected."
            logs.warn(text, self.worker_id, error_text(error))

    def record_llm_call(
        self,
        *,
        phase: str,
        model: str,
        start_ts: Moment,
        end_ts: Moment,
        error: object = None,
        **known: Any,
    ) -> LLMCall:
        """Record a finished LLM call by hand.

        Args:
            phase: ``initial``, ``tool_decision``, ``synthesis``, ``summary`` or a name of your own.
            model: name of the model.
            start_ts: when it started: an aware datetime, seconds since the epoch, or a timestamp of our files.
            end_ts: when it ended, likewise.
            error: what went wrong, an exception or a text; None when the call succeeded.
            **known: other fields of `LLMCall` that are known, such as ``prompt_tokens``.

        Raises:
            ValueError: a timestamp cannot be read, or a field has a value that it cannot have.
            TypeError: a field that `LLMCall` does not have.
        """
        return self._add_by_hand(handmade.llm_call(phase, model, start_ts, end_ts, error, known))

    def record_tool_call(
        self,
        *,
        tool_name: str,
        start_ts: Moment,
        end_ts: Moment,
        success: bool | None = None,
        error: object = None,
        **known: Any,
    ) -> ToolCall:
        """Record a finished tool call by hand.

        Args:
            tool_name: name of the tool.
            start_ts: when it started: an aware datetime, seconds since the epoch, or a timestamp of our files.
            end_ts: when it ended, likewise.
            success: whether it did what it should; by default, whether there is no error.
            error: what went wrong, an exception or a text; None when the call succeeded.
            **known: other fields of `ToolCall` that are known, such as ``agent``.

        Raises:
            ValueError: a timestamp cannot be read, or a field has a value that it cannot have.
            TypeError: a field that `ToolCall` does not have.
        """
        return self._add_by_hand(handmade.tool_call(tool_name, start_ts, end_ts, success, error, known))

    def requester_of(self, tool_call_id: str) -> int | None:
        """Return the id of the LLM call that asked for a tool call that starts now, or None."""
        if self.unbound_tools:
            self.unbound_tools.pop(tool_call_id, None)
        return self.requested_by.get(tool_call_id)

    def _add_by_hand(self, event: _Event) -> _Event:
        """Number a hand-made event and add it."""
        if self.closed:
            self.count_late(object())
            return event
        event = msgspec.structs.replace(event, id=self.next_id())
        here = threading.get_ident()
        self._by_hand.append(here)
        try:
            self.add(event)
        finally:
            self._by_hand.remove(here)
        return event

    def flush(self, artifact_store: ArtifactStore) -> None:
        """Append the events held so far to the worker's ``metrics.jsonl``; a second call writes nothing twice.

        Raises:
            OSError: the file cannot be written, or the worker has no folder; the events are still held.
        """
        with self._lock:
            held = len(self._buffer)
            if held and self.worker_id is not None:
                artifact_store.append(self.worker_id, self._buffer[:held])
                del self._buffer[:held]

    def _count(self) -> None:
        """Add up the events since the last time: adding up several at once is twice as fast, and needs one lock."""
        with self._lock, suppress(IndexError):  # a signal handler in this thread may have counted the last one
            while self._uncounted:
                event = self._uncounted.pop()
                self._totals.add(event)
                self._completeness.add(event)

    def _count_failure(self, sink: object, error: Exception, number: int = 1) -> None:
        with self._lock:
            self._completeness.dropped_events += number
            if self._completeness.drop_reason is None or sink is self._sinks[0]:  # what is not in the file matters most
                self._completeness.drop_reason = f"{name_of(sink)}: {error_text(error)}"
            first = id(sink) not in self._failed_sinks
            self._failed_sinks.add(id(sink))
        if first:
            text = "Sink %s of worker %s failed: %s. The agent is not affected; further failures are only counted."
            logs.warn(text, name_of(sink), self.worker_id, error_text(error))


_live: WeakValueDictionary[str, MetricsCollector] = WeakValueDictionary()


def _renew_locks() -> None:
    """Give the collectors of a forked child new locks: another thread of the parent may have held the old ones."""
    for collector in list(_live.values()):
        collector._lock = threading.RLock()  # noqa: SLF001 - the other half of this class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _find(key: str) -> MetricsCollector | None:
    return _live.get(key)


_T = TypeVar("_T")
_Event = TypeVar("_Event", LLMCall, ToolCall)

_collector: ContextVar[MetricsCollector | None] = ContextVar("swarmlet_collector", default=None)
_phase: ContextVar[str | None] = ContextVar("swarmlet_phase", default=None)

current_collector = _collector.get
"""Return the current collector of this context, or None."""

current_phase = _phase.get
"""Return the phase that the user named for this context, or None."""


def checked(collector: object) -> MetricsCollector | None:
    """Return a collector, or None, as it is given.

    Raises:
        TypeError: it is something else.
    """
    if collector is None or isinstance(collector, MetricsCollector):
        return collector
    msg = f"a {type(collector).__name__} is no MetricsCollector; of a worker, give worker.collector"
    raise TypeError(msg)


def set_metrics_collector(collector: MetricsCollector | None) -> Token[MetricsCollector | None]:
    """Make a collector the current one of this context; returns the token for `reset_metrics_collector`.

    Raises:
        TypeError: it is no collector, but a worker for instance.
    """
    return _collector.set(checked(collector))


def get_metrics_collector() -> MetricsCollector | None:
    """Return the current collector of this context, or None."""
    return current_collector()


def reset_metrics_collector(token: Token[MetricsCollector | None]) -> None:
    """Make the collector current that was so before; in a context other than the token's, none is afterwards."""
    restore(_collector, token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name the phase of every LLM call that starts inside the block."""
    token = _phase.set(identifier(name))
    try:
        yield
    finally:
        restore(_phase, token)


def restore(variable: ContextVar[_T | None], token: Token[_T | None]) -> None:
    """Give a context variable its value from before, or clear it.

    It is cleared where the block is left in another context than it was entered in, as happens to a generator that
    a web framework closes; the token is of no use there.
    """
    try:
        variable.reset(token)
    except ValueError:
        variable.set(None)
