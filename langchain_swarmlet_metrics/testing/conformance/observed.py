"""What a handler recorded of one run, in words that every handler's records can be put into."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "error", "cancelled", "interrupted"]
"""How a record says that its call ended."""

_NAMES_CANCELLATION = re.compile(r"cancel|GeneratorExit", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Sum token counts; None is not recorded, 0 is zero.

    Args:
        prompt: Tokens of the prompts, cached ones included.
        completion: Tokens of the answers, reasoning included.
        total: What is called the total.
        cached: The part of the prompts that was read from the provider's cache.
        reasoning: The part of the answers spent on reasoning.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int | None = None
    reasoning: int | None = None

    def __add__(self, other: Tokens) -> Tokens:
        """Add two counts field by field; what neither knows stays None."""
        return Tokens(
            prompt=_add(self.prompt, other.prompt),
            completion=_add(self.completion, other.completion),
            total=_add(self.total, other.total),
            cached=_add(self.cached, other.cached),
            reasoning=_add(self.reasoning, other.reasoning),
        )


def _add(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


@dataclass(frozen=True, kw_only=True)
class LLMRecord:
    """Describe one LLM call as a handler recorded it.

    Args:
        model: The model it names, or None.
        tokens: The counts it holds; without estimates, which are no report of the provider.
        status: How it says the call ended; a record without any status counts as ``ok``.
        error: What it says of the error, its type first, or None.
        billed: False when the record says that LangChain's cache served the call.
    """

    model: str | None = None
    tokens: Tokens = field(default_factory=Tokens)
    status: Status = "ok"
    error: str | None = None
    billed: bool = True


@dataclass(frozen=True, kw_only=True)
class ToolRecord:
    """Describe one tool call as a handler recorded it.

    Args:
        tool: Name of the tool.
        status: How it says the call ended; a record without any status counts as ``ok``.
        error: What it says of the error, its type first, or None.
    """

    tool: str
    status: Status = "ok"
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Hold all that a handler recorded of one run. None: recording this is not the handler's job.

    Args:
        llm_calls: The LLM calls.
        tool_calls: The tool calls.
        tokens: The sums, of a handler that keeps no single calls; None: those of ``llm_calls``.
        left_open: Calls, chains or spans that it never ended.
        held: How many of these are still in memory.
        other_errors: Further records, such as chains, that say they failed.
    """

    llm_calls: tuple[LLMRecord, ...] | None = None
    tool_calls: tuple[ToolRecord, ...] | None = None
    tokens: Tokens | None = None
    left_open: int | None = None
    held: int | None = None
    other_errors: int | None = None

    @property
    def billed_tokens(self) -> Tokens | None:
        """Return the sums of what it says was used, without what a cache served; None when it counts no tokens."""
        if self.tokens is not None or self.llm_calls is None:
            return self.tokens
        return sum((call.tokens for call in self.llm_calls if call.billed), Tokens())


def status_word(record: LLMRecord | ToolRecord) -> str:
    """Return a record's status; an error that names a cancellation is told apart from those that do not."""
    if record.status == "error" and _NAMES_CANCELLATION.search(record.error or ""):
        return "error naming a cancellation"
    return record.status
