"""Sinks: what takes events; a user's own run in a thread of their own, where they may be slow or hang."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from langchain_swarmlet_metrics.relay import Relay, Sender, deliver
from langchain_swarmlet_metrics.scrub import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_swarmlet_metrics.events import Event


_NAME_LIMIT = 80


class Sink(Protocol):
    """Take one event; a sink that raises is named in one warning, then counted."""

    def __call__(self, event: Event, /) -> object:
        """Take the event."""


class RelayedSink:
    """Hand events to a sink that a factory makes, both in a relay's thread and in the context of this moment.

    Args:
        relay: whose thread; made by `sink_relay`.
        make_sink: makes the sink.
        on_failure: told what the factory or the sink raised, and which.
    """

    def __init__(
        self,
        relay: Relay[tuple[Sender[Any], Any]],
        make_sink: Callable[[], Sink],
        on_failure: Callable[[object, Exception], object],
    ) -> None:
        self._make_sink = make_sink
        self._on_failure = on_failure
        self._context = copy_context()
        self._sink: Sink | None = None
        self._sender: Sender[Event | None] = Sender(relay, self._take, self._failed)
        self._sender.send(None)

    @property
    def name(self) -> str:
        """Return the name of the sink, or of its factory as long as it has not made one."""
        return name_of(self._sink or self._make_sink)

    def __call__(self, event: Event) -> None:
        """Hand on one event.

        Raises:
            Full: so many wait for a sink that hangs that this one is dropped.
        """
        self._sender.send(event)

    def drain(self, timeout_s: float) -> int:
        """Wait until the sink has every event, and return how many it has not, as it hangs."""
        return self._sender.drain(timeout_s)

    def _take(self, event: Event | None) -> None:
        if event is None:
            self._sink = _checked(self._context.run(self._make_sink))
        elif self._sink is not None:
            self._context.run(self._sink, event)

    def _failed(self, error: Exception) -> None:
        self._on_failure(self._sink or self._make_sink, error)


def _checked(sink: Any) -> Sink:
    if callable(sink):
        return sink  # type: ignore[no-any-return]
    msg = f"it returned a {type(sink).__name__} as a sink; a sink is a callable that takes an event"
    raise TypeError(msg)


def name_of(sink: object) -> str:
    """Name a sink in a few words, without addresses and paths: by its name, or by its class."""
    while isinstance(sink, partial):
        sink = sink.func
    for attribute in ("name", "__qualname__"):
        if isinstance(name := getattr(sink, attribute, None), str):
            return one_line(name, _NAME_LIMIT)
    return type(sink).__qualname__


def sink_relay() -> Relay[tuple[Sender[Any], Any]]:
    """Return a relay for the sinks of one factory."""
    return Relay(deliver)
