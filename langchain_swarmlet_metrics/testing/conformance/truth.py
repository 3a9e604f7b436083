"""What really happened in a run: read from the server's request log and from what the script noted, from no handler."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from langchain_swarmlet_metrics.testing.conformance.observed import Status, Tokens
from langchain_swarmlet_metrics.testing.openai_wire import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_swarmlet_metrics.testing.openai_server import Request


@dataclass(kw_only=True)
class Notes:
    """Keep what only the script of a situation can know.

    Args:
        tool_calls: Name of each tool that was called and how the call ended, noted by the tools themselves.
        cache_hits: Answers that LangChain's cache gave; no request reached the server.
        unanswered: How a call ended whose answer the client did not wait for.
        untold: LangChain reports no end of the calls that did not fail, so only failures are compared.
        either: Calls of which either of two things may be said: what was compared, how the call ended, how else it
            may be said to have ended.
        broken_off: The run raised or was closed early, even where every call in it succeeded.
    """

    tool_calls: list[tuple[str, Status]] = field(default_factory=list)
    cache_hits: int = 0
    unanswered: Literal["cancelled", "error"] = "cancelled"
    untold: bool = False
    either: list[tuple[str, Status, Status]] = field(default_factory=list)
    broken_off: bool = False


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Say what a right handler records.

    Args:
        llm_calls: How many LLM calls ended how.
        tool_calls: How many tool calls ended how.
        tokens: What the provider reported and billed.
        models: Names under which an LLM call may be recorded: as asked for and as answered.
        tools: Names of the tools.
        cache_hits: Calls that may be recorded beyond ``llm_calls``.
        untold: Whether only failures are compared.
        either: Calls of which either of two things may be said.
        went_well: Whether nothing failed, was cancelled or broken off.
    """

    llm_calls: Counter[str]
    tool_calls: Counter[str]
    tokens: Tokens
    models: frozenset[str]
    tools: frozenset[str]
    cache_hits: int = 0
    untold: bool = False
    either: tuple[tuple[str, Status, Status], ...] = ()
    went_well: bool = True


def truth_of(requests: Iterable[Request], notes: Notes) -> Truth:
    """Return what a right handler records, given every request that the servers saw, after they were closed."""
    seen = list(requests)
    llm_calls: Counter[str] = Counter(_status(request, notes) for request in seen)
    tool_calls: Counter[str] = Counter(status for _, status in notes.tool_calls)
    return Truth(
        llm_calls=llm_calls,
        tool_calls=tool_calls,
        tokens=sum((_reported(request) for request in seen), Tokens()),
        models=frozenset(name for request in seen for name in (request.model, _answered_model(request)) if name),
        tools=frozenset(name for name, _ in notes.tool_calls),
        cache_hits=notes.cache_hits,
        untold=notes.untold,
        either=tuple(notes.either),
        went_well=not notes.broken_off and {*llm_calls, *tool_calls} <= {"ok", "interrupted"},
    )


def _status(request: Request, notes: Notes) -> Status:
    reply = request.reply
    if reply is None or reply.status != HTTPStatus.OK or reply.cut_after is not None or reply.body is not None:
        return "error"
    return "ok" if request.completed else notes.unanswered


def _reported(request: Request) -> Tokens:
    """Return the usage that reached the client; the server logs None where it sent none."""
    usage = None if request.reply is None or not request.completed else request.reply.usage
    if not isinstance(usage, Usage):
        return Tokens()
    total = usage.total_tokens
    return Tokens(
        prompt=usage.prompt_tokens,
        completion=usage.completion_tokens,
        total=usage.prompt_tokens + usage.completion_tokens if total is None else total,
        cached=usage.cached_tokens,
        reasoning=usage.reasoning_tokens,
    )


def _answered_model(request: Request) -> str | None:
    return None if request.reply is None else request.reply.model
