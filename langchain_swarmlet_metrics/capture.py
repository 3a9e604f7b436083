"""Capture takes the content out of what LangChain hands over, and has another thread write it down."""

from __future__ import annotations

from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_swarmlet_metrics import logs
from langchain_swarmlet_metrics._content import answers_of, data_of, output_of, said_of
from langchain_swarmlet_metrics.events import LLMCall, time_ns
from langchain_swarmlet_metrics.messages import Said
from langchain_swarmlet_metrics.relay import Relay
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.transcript import Begun, Received, Returned, Sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_swarmlet_metrics.calls import OpenLLMCall, OpenToolCall
    from langchain_swarmlet_metrics.events import Event, ToolCall
    from langchain_swarmlet_metrics.transcript import Item, Transcript

_WAITING = 10_000
_Item = TypeVar("_Item", bound="Item")
_CLOSE_S = 2.0


class Capture:
    """Take what the calls of one worker say, in the callbacks; a thread of its own writes it down.

    Texts are taken out at once, as messages may be changed later, and no object of LangChain's is kept.

    Args:
        transcript: writes them down.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._relay: Relay[Item] | None = Relay(transcript.take, limit=_WAITING)
        self._accepted = count()
        self._refused = count()
        self._problem: str | None = None
        self._begun: dict[int, Begun] = {}
        self._closing = RLock()  # a signal handler may close while this thread does

    def llm_started(self, call: OpenLLMCall) -> None:
        """Take the prompt of an LLM call."""
        if not self._transcript.is_full:
            self._put(_sent, call)

    def tool_started(self, call: OpenToolCall, given: object) -> None:
        """Take the input of a tool call."""
        if not self._transcript.is_full:
            self._begin(_begun, call, given)

    def answered(self, event: ToolCall, given: object, output: object) -> None:
        """Take the input of a call of a tool that does not exist, and how it was answered."""
        self._begin(_asked, event, given)
        self.ended(event, output)

    def ended(self, event: Event, said: object) -> None:
        """Take how a call ended.

        Args:
            event: the call's event.
            said: an LLM call's result, a tool's output or error; None when there is none.
        """
        if self._transcript.is_full and isinstance(event, LLMCall):
            return
        begun = self._begun.pop(event.id or 0, None)
        if self._put(_ended, event, said) is not None and begun is not None:
            begun.is_over = True

    def forget(self, event_id: int | None) -> None:
        """Take nothing more of a call that is none of this worker's."""
        self._begun.pop(event_id or 0, None)

    def lose(self, event_id: int | None) -> None:
        """Count what a call said at its end, which could not be read, as not captured."""
        self.forget(event_id)
        self._problem = "a call could not be read"
        next(self._refused)

    def close(self) -> int:
        """Wait for what has been taken to be written, about two seconds at most; returns how much could not be."""
        with self._closing:
            relay, self._relay = self._relay, None  # let go of, its thread ends
            return 0 if relay is None else self._finish(relay)

    def _finish(self, relay: Relay[Item]) -> int:
        transcript = self._transcript
        is_done = relay.drain(_CLOSE_S)
        transcript.is_closed = True
        waiting = 0 if is_done else next(self._accepted) - transcript.handled
        lost = transcript.failed + transcript.held + waiting + next(self._refused)
        if lost:
            text = "%s prompts, answers or texts of tools of worker %s are not captured: %s. The agent is not affected."
            problem = transcript.problem or self._problem or "writing them takes too long"
            logs.warn(text, lost, transcript.worker_id, problem)
        return lost

    def _begin(self, make: Callable[..., Begun], *taken: Any) -> None:
        begun = self._put(make, *taken)
        if begun is not None:
            self._begun[begun.event_id] = begun

    def _put(self, make: Callable[..., _Item], *taken: Any) -> _Item | None:
        """Have what is taken written; returns what waits for that now, or None."""
        relay = self._relay
        if relay is None:
            return None
        try:
            item = make(*taken)
            if relay.put(item):
                next(self._accepted)
                return item
            self._problem = "too many were waiting to be written"
        except Exception as error:  # noqa: BLE001 - what tools and models hand over may be anything
            self._problem = error_text(error)
        next(self._refused)
        return None


def _sent(call: OpenLLMCall) -> Sent:
    if call.messages is None:
        return Sent(call.id or 0, call.start_ns, [Said("human", call.prompt)])
    return Sent(call.id or 0, call.start_ns, [*map(said_of, call.messages)])


def _begun(call: OpenToolCall, given: object) -> Begun:
    return Begun(call.id or 0, call.start_ns, call.tool, call.requested_by, data_of(given))


def _asked(event: ToolCall, given: object) -> Begun:
    return Begun(event.id or 0, time_ns(event.start_ts), event.tool, event.requested_by, data_of(given))


def _ended(event: Event, said: Any) -> Received | Returned:
    if isinstance(event, LLMCall):
        return Received(event, answers_of(said, is_partial=event.success is False))
    return Returned(event, None if said is None or event.outcome == "cancelled" else output_of(said))
