"""Acknowledge what the package has handled: by a handler that comes after its own, and a sink after its file."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics import runner as _  # noqa: F401 - registers the package's handler before this one

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_swarmlet_metrics import Event, Sink, Worker
    from tests.torture.notes import Notes

_WITHOUT_CALLBACK = ("cancelled", "unfinished", "unknown_tool")


class Acknowledging(BaseCallbackHandler):
    """Note each call whose start the package's handler has seen, and each whose end callback has returned.

    LangChain calls the handlers of one event one after the other; that this one comes later is checked at each.

    Args:
        notes: where to write.
    """

    run_inline = True
    ignore_chain = True

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._open: dict[int, tuple[str, int]] = {}

    def on_chat_model_start(self, *_args: object, run_id: UUID, **_kwargs: object) -> None:
        """Note the start of an LLM call."""
        self._started(run_id)

    def on_tool_start(self, *_args: object, run_id: UUID, **_kwargs: object) -> None:
        """Note the start of a tool call."""
        self._started(run_id)

    def on_llm_end(self, *_args: object, run_id: UUID, **_kwargs: object) -> None:
        """Acknowledge an LLM call that returned."""
        self._returned(run_id)

    def on_llm_error(self, *_args: object, run_id: UUID, **_kwargs: object) -> None:
        """Acknowledge an LLM call that raised."""
        self._returned(run_id)

    def on_tool_end(self, *_args: object, run_id: UUID, **_kwargs: object) -> None:
        """Acknowledge a tool call that returned."""
        self._returned(run_id)

    def on_tool_error(self, *_args: object, run_id: UUID, **_kwargs: object) -> None:
        """Acknowledge a tool call that raised."""
        self._returned(run_id)

    def _started(self, run_id: UUID) -> None:
        call = inflight.calls.get(run_id.int)
        if call is None or call.collector.worker_id is None or call.id is None:
            return  # it came after its worker's end, or belongs to none
        self._open[run_id.int] = (call.collector.worker_id, call.id)
        self._notes.say("start", worker=call.collector.worker_id, id=call.id, at=time.monotonic())

    def _returned(self, run_id: UUID) -> None:
        known = self._open.pop(run_id.int, None)
        if run_id.int in inflight.calls:
            self._notes.say("fault", text="the acknowledging handler was called before the package's own")
        elif known is not None:
            self._notes.say_event(*known)


def acknowledging_sink(notes: Notes, worker: Worker) -> Sink:
    """Return a sink that acknowledges what ends without a callback of its own; the file comes before it."""

    def acknowledge(event: Event) -> None:
        if event.outcome in _WITHOUT_CALLBACK and event.id is not None:
            notes.say_event(worker.worker_id, event.id)

    return acknowledge


_current: ContextVar[Acknowledging | None] = ContextVar("acknowledging", default=None)
register_configure_hook(_current, inheritable=True)


def acknowledge_here(handler: Acknowledging) -> None:
    """Attach the handler to every run of this context, after the package's own."""
    _current.set(handler)
