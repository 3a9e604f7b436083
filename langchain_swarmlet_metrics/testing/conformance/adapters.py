"""Adapters: how to attach a handler, and how to read what it recorded. Here the base class and those without spans."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_core.callbacks import UsageMetadataCallbackHandler

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.eventlog import read_events
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.testing.conformance.observed import LLMRecord, Observed, Status, Tokens, ToolRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages.ai import UsageMetadata

    from langchain_swarmlet_metrics.events import Event
    from langchain_swarmlet_metrics.worker import Worker


class Adapter(ABC):
    """Attach a handler to a run and read what it recorded; used for one run after the other, never for two at once."""

    name: str
    """Of the handler, as reports show it."""

    leaves_out: frozenset[str] = frozenset()
    """Names of situations in which the handler by design records nothing."""

    @abstractmethod
    def attach(self) -> AbstractContextManager[object]:
        """Begin a run with empty records; leaving the block means that the run has ended."""

    @abstractmethod
    def handlers(self) -> Sequence[BaseCallbackHandler]:
        """Return what goes into ``callbacks=[...]`` of the run, new at each call; empty if it attaches itself."""

    @abstractmethod
    def observed(self) -> Observed:
        """Return what was recorded of the run that has ended, after everything pending has been written."""


class SwarmletAdapter(Adapter):
    """Read this project's records: the ``metrics.jsonl`` of a worker block."""

    name = "langchain-swarmlet-metrics"

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._events: list[Event] = []
        self._open_before = 0

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Run inside a worker block of its own."""
        self._open_before = _open_calls()
        with tempfile.TemporaryDirectory() as root:
            with WorkerRunner(root).worker("conformance") as self._worker:
                yield
            self._events = list(read_events(Path(self._worker.dir, "metrics.jsonl")))

    def handlers(self) -> list[BaseCallbackHandler]:
        """Return a handler bound to the worker, which also records in threads that do not have the context."""
        assert self._worker is not None  # noqa: S101 - called inside the block
        return [MetricsCallbackHandler(self._worker.collector)]

    def observed(self) -> Observed:
        """Return the events of the worker."""
        return observed_events(self._events, left_open=_open_calls() - self._open_before)


def observed_events(events: Sequence[Event], left_open: int) -> Observed:
    """Put events of this project into the common words; a call that was still open at the end counts as cancelled."""
    return Observed(
        llm_calls=tuple(_llm_record(event) for event in events if isinstance(event, LLMCall)),
        tool_calls=tuple(
            ToolRecord(tool=event.tool, status=_status(event), error=event.error)
            for event in events
            if isinstance(event, ToolCall)
        ),
        left_open=left_open,
        held=left_open,
        other_errors=0,  # only calls are recorded, no chains
    )


def _llm_record(event: LLMCall) -> LLMRecord:
    tokens = Tokens(
        prompt=event.prompt_tokens,
        completion=event.completion_tokens,
        total=event.total_tokens,
        cached=event.cached_tokens,
        reasoning=event.reasoning_tokens,
    )
    return LLMRecord(
        model=event.model,
        tokens=Tokens() if event.usage_source == "estimated" else tokens,
        status=_status(event),
        error=event.error,
        billed=not event.cache_hit,
    )


def _status(event: Event) -> Status:
    if event.failed:
        return "error"
    if event.outcome == "interrupted":
        return "interrupted"
    return "cancelled" if event.outcome else "ok"


def _open_calls() -> int:
    return len(inflight.calls) + len(inflight._enclosing)  # noqa: SLF001 - a conformance suite may look inside


class UsageMetadataAdapter(Adapter):
    """Read the sums of ``langchain_core.callbacks.UsageMetadataCallbackHandler``, whose only job they are."""

    name = "UsageMetadataCallbackHandler"
    leaves_out = frozenset({"completion model"})  # it reads chat messages

    def __init__(self) -> None:
        self._made: list[UsageMetadataCallbackHandler] = []

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Forget the handlers of the run before."""
        self._made = []
        yield

    def handlers(self) -> list[BaseCallbackHandler]:
        """Return a new handler."""
        self._made.append(UsageMetadataCallbackHandler())
        return [self._made[-1]]

    def observed(self) -> Observed:
        """Return the sums over all models and handlers."""
        usages = [usage for handler in self._made for usage in handler.usage_metadata.values()]
        return Observed(tokens=sum(map(_tokens_of_usage, usages), Tokens()))


def _tokens_of_usage(usage: UsageMetadata) -> Tokens:
    return Tokens(
        prompt=usage["input_tokens"],
        completion=usage["output_tokens"],
        total=usage["total_tokens"],
        cached=usage.get("input_token_details", {}).get("cache_read"),
        reasoning=usage.get("output_token_details", {}).get("reasoning"),
    )
