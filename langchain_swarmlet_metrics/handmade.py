"""Events made by hand: checked as a reader would check them, their names and counts made safe."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from langchain_swarmlet_metrics import events
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.scrub import error_text, identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

Moment: TypeAlias = datetime | float | str
"""A point in time: an aware datetime, seconds since the epoch, or a timestamp of our files."""

_LATEST_S = 250_000_000_000  # the year 9892

_Event = TypeVar("_Event", LLMCall, ToolCall)


def llm_call(
    phase: str, model: str, start_ts: Moment, end_ts: Moment, error: object, known: Mapping[str, Any]
) -> LLMCall:
    """Return the event of an LLM call.

    Args:
        phase: ``initial``, ``tool_decision``, ``synthesis``, ``summary`` or another name.
        model: name of the model.
        start_ts: when it started.
        end_ts: when it ended.
        error: what went wrong, an exception or a text; None when the call succeeded.
        known: other fields of `LLMCall`.

    Raises:
        ValueError: a timestamp cannot be read, or a field has a value that it cannot have.
        TypeError: a field that `LLMCall` does not have.
    """
    start, end, duration_ms = _span(start_ts, end_ts)
    fields = _clean_all({**known, **_failure(error)})
    name, of_model = identifier(phase), identifier(model)
    return _checked(LLMCall(phase=name, model=of_model, start_ts=start, end_ts=end, duration_ms=duration_ms, **fields))


def tool_call(
    tool: str, start_ts: Moment, end_ts: Moment, success: bool | None, error: object, known: Mapping[str, Any]
) -> ToolCall:
    """Return the event of a tool call.

    Args:
        tool: name of the tool.
        start_ts: when it started.
        end_ts: when it ended.
        success: whether it did what it should; None: whether there is no error.
        error: what went wrong, an exception or a text; None when the call succeeded.
        known: other fields of `ToolCall`.

    Raises:
        ValueError: a timestamp cannot be read, or a field has a value that it cannot have.
        TypeError: a field that `ToolCall` does not have.
    """
    start, end, duration_ms = _span(start_ts, end_ts)
    failure = _failure(error)
    fields = _clean_all({**known, **failure, "success": not failure if success is None else success})
    return _checked(ToolCall(tool=identifier(tool), start_ts=start, end_ts=end, duration_ms=duration_ms, **fields))


def _checked(event: _Event) -> _Event:
    try:
        msgspec.convert(msgspec.to_builtins(event), type(event))
    except (msgspec.ValidationError, TypeError) as error:
        msg = f"this is no {type(event).__name__}: {error_text(error)}; see docs/formats.md"
        raise ValueError(msg) from None
    return event


def _nanoseconds(moment: Moment) -> int:
    if isinstance(moment, str):
        try:
            moment = events.parse_timestamp(moment)
        except ValueError:
            raise _no_time(moment) from None
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            msg = f"{moment!r} has no time zone; use datetime.now(UTC)"
            raise ValueError(msg)
        moment = moment.timestamp()
    if not math.isfinite(moment) or abs(moment) > _LATEST_S:
        raise _no_time(moment)
    return round(moment * 1e6) * 1000


def _no_time(moment: Moment) -> ValueError:
    return ValueError(f"{moment!r} is no time; give seconds since the epoch, or datetime.now(UTC)")


def _span(start_ts: Moment, end_ts: Moment) -> tuple[str, str, int]:
    start = _nanoseconds(start_ts)
    return events.span(start, _nanoseconds(end_ts) - start)


def _failure(error: object) -> dict[str, Any]:
    if error is None:
        return {}
    kind = {"error_type": type(error).__name__} if isinstance(error, BaseException) else {}
    return {"success": False, "error": error_text(error), **kind}


def _clean_all(fields: dict[str, Any]) -> dict[str, Any]:
    """Make counts and names safe: what is not a whole number from 0 on is not known, a name is short, on one line."""
    return {key: _clean(key, value) for key, value in fields.items()}


def _clean(key: str, value: object) -> object:
    if key.endswith("_tokens"):
        return events.token_count(value)
    return identifier(value) if key in ("agent", "provider", "error_type") and value is not None else value
