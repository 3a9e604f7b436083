"""The lines of tier 3: how the record of an event becomes one line, and how that is read back."""

from __future__ import annotations

import json
import logging
import re
import time
from functools import lru_cache
from typing import Any

import msgspec

from langchain_swarmlet_metrics.events import timestamp

LLM_CALL_COMPLETE = "llm_call_complete"
TOOL_CALL_COMPLETE = "tool_call_complete"

_SHORT = 200


class KeyValueFormatter(logging.Formatter):
    """Format any record as one line: UTC time, level, message; ``fmt`` and ``datefmt`` are not looked at.

    Tracebacks and stacks follow on the same line; line breaks and whatever else is not printable are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line = f"{_utc_second(int(record.created))} {record.levelname} {record.getMessage()}"
        if record.exc_info or record.exc_text or record.stack_info:
            line = "\n".join([line, *_appendices(self, record).values()])
        return line if line.isprintable() else plain(line)


class JSONLinesFormatter(logging.Formatter):
    """Format any record as one line of ASCII JSON; ``fmt`` and ``datefmt`` are not looked at.

    Keys: ``ts`` (RFC 3339, UTC), ``level``, ``logger``, then ``event`` and its fields, or ``message`` and the
    record's extra attributes. NaN and infinity become null, values that JSON does not have become text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        head = {
            "ts": timestamp(round(record.created * 1_000_000) * 1000),
            "level": record.levelname,
            "logger": record.name,
        }
        extra = {key: value for key, value in record.__dict__.items() if key not in _RECORD_ATTRIBUTES}
        if extra.get("event") not in (LLM_CALL_COMPLETE, TOOL_CALL_COMPLETE):
            head["message"] = record.getMessage()
        head |= _appendices(self, record)
        return _json_line({**head, **extra, **head})  # the head comes first and is not overwritten


def parse_line(line: str) -> dict[str, str]:
    r"""Read the line of an event back into its fields, as text; the exact inverse of how values are escaped.

    The escapes are Python's own: ``\x3d`` for ``=``, ``\\`` for a backslash, ``\n``, ``\x1b``, ``\u2028`` and
    the like for what is not printable, ``\"`` for a quote in ``error``, ``\x20`` for a space everywhere else.
    What stands before the event's name is ignored.

    Returns:
        The fields in the order of the line, or no fields when it is not the line of an event.
    """
    start = _EVENT_NAME.search(line)
    if start is None:
        return {}
    fields = {}
    for pair in _PAIR.finditer(line, start.end()):
        text = pair["text"] if pair["key"] else pair["error"]
        fields[pair["key"] or "error"] = _ESCAPE.sub(_unescape, text)
    return fields


class Pairs:
    """Write an event's fields as ``key=value`` pairs when a handler asks, once for all handlers."""

    __slots__ = ("_fields", "_text")

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._text: str | None = None

    def __str__(self) -> str:
        if self._text is None:
            self._text = _pairs(self._fields)
        return self._text


def _pairs(fields: dict[str, Any]) -> str:
    pairs = []
    for key in _in_order(*fields):
        value = fields[key]
        if type(value) is str:
            value = _short_bare(value) if len(value) <= _SHORT else _NOT_BARE.sub(_escape, value)
        pairs.append(f"{key}={value}")
    if "error" in fields:
        pairs.append(f'error="{_NOT_QUOTED.sub(_escape, str(fields["error"]))}"')
    return " ".join(pairs)


@lru_cache(maxsize=256)  # phases, models and workers come again and again
def _short_bare(text: str) -> str:
    return _NOT_BARE.sub(_escape, text)


@lru_cache(maxsize=256)  # an agent's events have the same few sets of fields
def _in_order(*keys: str) -> tuple[str, ...]:
    """Order a line's keys: the first ones, the others as in the schema but for times and error, the event."""
    first = (_TOOL_FIRST if "tool" in keys else _LLM_FIRST).split()
    elsewhere = {*first, "start_ts", "end_ts", "error", "event"}
    return (*(key for key in first if key in keys), *(key for key in keys if key not in elsewhere), "event")


_LLM_FIRST = "phase duration_ms worker_id model prompt_tokens completion_tokens total_tokens"
_TOOL_FIRST = "tool duration_ms success worker_id"

# Whatever may have to be escaped; _escape decides. Not in them is the ASCII that common names are made of.
_NOT_PLAIN = re.compile(r"[^ -~]")
_NOT_BARE = re.compile(r"[^!-<>-\[\]-~]")
_NOT_QUOTED = re.compile(r"[^ !#-<>-\[\]-~]")
_ASCII_ESCAPES = {" ": r"\x20", "=": r"\x3d", '"': r"\"", "\\": r"\\"}


def plain(text: str) -> str:
    """Escape what is not printable."""
    return _NOT_PLAIN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in _ASCII_ESCAPES:
        return _ASCII_ESCAPES[char]
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


_EVENT_NAME = re.compile(rf"\b(?:{LLM_CALL_COMPLETE}|{TOOL_CALL_COMPLETE})(?= )")
_PAIR = re.compile(r' error="(?P<error>(?:[^"\\]|\\.)*)"| (?P<key>[a-z_]+)=(?P<text>\S*)')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4})|(.))")
_LETTER_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    return chr(int(code, 16)) if code else _LETTER_ESCAPES.get(match[4], match[4])


@lru_cache(maxsize=16)  # neighbouring records share their second, and formatting it costs more than the line
def _utc_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _appendices(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """Return the record's traceback and stack, where it has them."""
    if record.exc_info and not record.exc_text:  # kept on the record for other formatters, as logging does
        record.exc_text = formatter.formatException(record.exc_info)
    found = {"exc_info": record.exc_text, "stack_info": record.stack_info}
    return {key: text for key, text in found.items() if text}


# taskName came with Python 3.12; message and asctime are left behind by other formatters
_RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

_json_encoder = msgspec.json.Encoder(enc_hook=str)
_NOT_JSON = (ValueError, TypeError, OverflowError, RecursionError)  # lone surrogates, odd keys, cycles


def _json_line(fields: dict[str, Any]) -> str:
    try:
        line = _json_encoder.encode(fields).decode()
    except _NOT_JSON:
        encodable = {_valid(key): _encodable(value) for key, value in fields.items()}
        line = _json_encoder.encode(encodable).decode()
    plain = line if line.isascii() else json.dumps(json.loads(line), separators=(",", ":"))
    return plain.replace("\x7f", r"\u007f")  # the one control character that JSON leaves as it is


def _encodable(value: Any) -> Any:
    try:
        _json_encoder.encode(value)
    except _NOT_JSON:
        return _valid(str(value))
    return value


def _valid(text: str) -> str:
    """Escape lone surrogates, which UTF-8 can't hold."""
    return text.encode("utf-8", "backslashreplace").decode()
