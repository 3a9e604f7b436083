"""The schema of ``metrics.jsonl``: one event per finished LLM call or tool call, one JSON line each.

Field names, their order and the rule "absent is unknown, 0 is zero" are the file format; see ``docs/formats.md``.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SCHEMA_VERSION = 1
"""Version of ``metrics.jsonl`` and ``metadata.json``; every ``metadata.json`` names it."""

LARGEST_COUNT = 2**53
"""The largest whole number that every JSON reader keeps exact."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
"""A whole number from 0 on, small enough for every JSON reader."""

Cost: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
"""An amount of money, from 0 on and finite."""

Outcome: TypeAlias = Literal["cancelled", "unfinished", "interrupted", "unknown_tool"]
"""What ``success`` alone cannot say about a call."""

UsageSource: TypeAlias = Literal["estimated", "missing"]
"""Where token counts come from when the provider did not report them."""


class LLMCall(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="event", tag="llm_call"):
    """Describe one finished LLM call: a line with ``"event": "llm_call"``."""

    phase: str
    model: str
    start_ts: str
    end_ts: str
    duration_ms: Count
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    id: Count | None = None
    parent_id: Count | None = None
    success: bool | None = None
    error: str | None = None
    error_type: str | None = None
    outcome: Outcome | None = None
    ttft_ms: Count | None = None
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    usage_source: UsageSource | None = None
    cache_hit: bool | None = None
    attempt: Count | None = None
    agent: str | None = None
    provider: str | None = None
    cost_usd: Cost | None = None

    @property
    def name(self) -> str:
        """Return what was called: the model."""
        return self.model

    @property
    def failed(self) -> bool:
        """Tell whether the call counts as an error; cancelled and unfinished calls do not."""
        return self.success is False and self.outcome is None


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="event", tag="tool_call"):
    """Describe one finished tool call: a line with ``"event": "tool_call"``."""

    tool: str
    start_ts: str
    end_ts: str
    duration_ms: Count
    success: bool
    error: str | None = None
    id: Count | None = None
    parent_id: Count | None = None
    requested_by: Count | None = None
    error_type: str | None = None
    outcome: Outcome | None = None
    attempt: Count | None = None
    agent: str | None = None

    @property
    def name(self) -> str:
        """Return what was called: the tool."""
        return self.tool

    @property
    def failed(self) -> bool:
        """Tell whether the call counts as an error; cancelled and unfinished calls do not."""
        return not self.success and self.outcome in (None, "unknown_tool")


Event: TypeAlias = LLMCall | ToolCall

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(LLMCall | ToolCall)
_NO_EVENT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


encode_lines: Callable[[Iterable[Event]], bytes] = _encoder.encode_lines
"""Encode events as lines of ``metrics.jsonl``."""


def encode(event: Event) -> bytes:
    r"""Encode an event as its line of ``metrics.jsonl``, ending in ``\n``."""
    return _encoder.encode(event) + b"\n"


def decode(line: bytes) -> Event | None:
    """Decode one line of ``metrics.jsonl``; keys of later versions are ignored.

    Returns:
        The event, or None for a line that is not one (torn by a crash, damaged, or of an unknown kind).
    """
    try:
        return _decoder.decode(line)
    except _NO_EVENT:
        return None


def decode_lines(lines: Sequence[bytes]) -> tuple[list[Event], int]:
    """Decode lines of ``metrics.jsonl`` as `decode` does, fast when all are events.

    Returns:
        The events, and how many lines are none; blank lines do not count.
    """
    try:
        return [*map(_decoder.decode, lines)], 0
    except _NO_EVENT:
        events = [event for line in lines if (event := decode(line)) is not None]
        return events, sum(1 for line in lines if line.strip()) - len(events)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a line of ``metrics.jsonl``: what is unknown is absent, never null."""
    return without_null(msgspec.json.schema(LLMCall | ToolCall))


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that msgspec made, for a format in which what is unknown is absent, never null."""
    for definition in schema["$defs"].values():
        definition["description"] = cleandoc(definition["description"])
        for name, field in definition["properties"].items():
            if "anyOf" in field:
                kinds = [kind for kind in field["anyOf"] if kind != {"type": "null"}]
                definition["properties"][name] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return schema


def timestamp(time_ns: int) -> str:
    """Format nanoseconds since the epoch as ``2025-12-15T04:08:08.123456Z``: six digits, so text sorts as time."""
    return _timestamp(time_ns // 1000)


def parse_timestamp(text: str) -> datetime:
    """Parse a timestamp of our files into an aware UTC datetime.

    Raises:
        ValueError: the text is not an ISO 8601 timestamp, or not one of the years 1 to 9999 of UTC.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:  # its offset leads out of the years that there are
        msg = f"{text!r} is no time"
        raise ValueError(msg) from None


def require_timestamp(text: str) -> None:
    """See that a text is a timestamp that can be shown as it is.

    Raises:
        ValueError: it is not an ISO 8601 timestamp, or is one on several lines.
    """
    parse_timestamp(text)
    if not text.isprintable():
        msg = f"{text!r} is no timestamp"
        raise ValueError(msg)


def time_ns(text: str) -> int:
    """Parse a timestamp of our files into nanoseconds since the epoch.

    Raises:
        ValueError: the text is not an ISO 8601 timestamp.
    """
    return time_us(text) * 1000


def time_us(text: str) -> int:
    """Parse a timestamp of our files into microseconds since the epoch.

    Raises:
        ValueError: the text is not an ISO 8601 timestamp.
    """
    return (parse_timestamp(text) - _EPOCH) // _MICROSECOND


def hours_ago(hours: float) -> str:
    """Return the timestamp of so many hours ago; 1970 for more hours than that, now for fewer than none.

    Raises:
        ValueError: the hours are not a number.
    """
    if math.isnan(hours):
        msg = "since_hours is not a number; give how many hours to look back, such as 24"
        raise ValueError(msg)
    return timestamp(max(time.time_ns() - round(max(min(hours, _MAX_HOURS), 0) * 3600e9), 0))


def span(start_ns: int, elapsed_ns: int) -> tuple[str, str, int]:
    """Return ``(start_ts, end_ts, duration_ms)`` of a call, so that the three always agree.

    Args:
        start_ns: wall clock at the start, nanoseconds since the epoch.
        elapsed_ns: monotonic time that the call took, nanoseconds; below 0 counts as 0.
    """
    elapsed_us = (elapsed_ns + 500) // 1000 if elapsed_ns > 0 else 0
    duration_ms = (elapsed_us + 500) // 1000
    second_us, text = _latest
    start = start_ns // 1000 - second_us
    end = start + elapsed_us
    if start >= 0 and end < _SECOND_US:  # most short calls are within one second
        start_ts = text + _DIGITS[start // 1000] + _LAST_DIGITS[start % 1000]
        return start_ts, text + _DIGITS[end // 1000] + _LAST_DIGITS[end % 1000], duration_ms
    return _timestamp(second_us + start), _timestamp(second_us + end), duration_ms


def milliseconds(elapsed_ns: int) -> int:
    """Return the ``duration_ms`` that `span` gives a call that took so many nanoseconds."""
    return ((elapsed_ns + 500) // 1000 + 500) // 1000 if elapsed_ns > 0 else 0


def _timestamp(time_us: int) -> str:
    global _latest  # noqa: PLW0603 - replaced as a whole, so that whoever reads it needs no lock
    seconds, micros = divmod(time_us, _SECOND_US)
    text = _second(seconds)
    _latest = (seconds * _SECOND_US, text)
    return text + _DIGITS[micros // 1000] + _LAST_DIGITS[micros % 1000]


@lru_cache(maxsize=16)  # neighbouring events share their second, and formatting it is most of the cost
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.")


_SECOND_US = 1_000_000
_DIGITS = tuple(f"{number:03d}" for number in range(1000))  # formatting a number takes three times as long
_LAST_DIGITS = tuple(f"{digits}Z" for digits in _DIGITS)
_latest = (0, "1970-01-01T00:00:00.")  # a second, in microseconds since the epoch, and its text
_MAX_HOURS = 1e6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def token_count(value: object) -> int | None:
    """Return a token count as it may stand in a file: a whole number from 0 to 2**53, or None (not known)."""
    if type(value) is int and 0 <= value <= LARGEST_COUNT:
        return value
    if isinstance(value, float) and value.is_integer():  # some providers report 12.0
        return token_count(int(value))
    return None
