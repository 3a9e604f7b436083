"""Tier 3: every finished call as one line for ``grep``, ``awk`` and log shippers, through ``logging``.

The logger ``langchain_swarmlet_metrics`` has a ``NullHandler`` and nothing else. Who has logging set up sees
its records there once the logger's level is INFO; who has not calls `configure_logging`.

The handlers run in a thread of their own: one that hangs, on a pipe that nobody reads or a server that does not
answer, must not hold up the agent. Only where all of them append to plain files, as the events themselves are
written, does the agent do it: to wake another thread up takes longer than that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from contextvars import Context, copy_context
from functools import lru_cache, partial
from queue import Full
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from langchain_swarmlet_metrics import modes
from langchain_swarmlet_metrics.events import Event, timestamp
from langchain_swarmlet_metrics.plainfiles import file_handlers
from langchain_swarmlet_metrics.relay import Relay, Sender, deliver
from langchain_swarmlet_metrics.scrub import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOGGER_NAME = "langchain_swarmlet_metrics"
LLM_CALL_COMPLETE = "llm_call_complete"
TOOL_CALL_COMPLETE = "tool_call_complete"

_WAIT_S = 1.0
_SHORT = 200

_logger = logging.getLogger(LOGGER_NAME)
_logger.addHandler(logging.NullHandler())

is_enabled_for = _logger.isEnabledFor
"""Tell whether anybody listens at a level."""


class LogSink:
    """Log every event of a worker at INFO, its known fields as flat attributes of the record.

    ``record.event`` is ``llm_call_complete`` or ``tool_call_complete``; what is not known is no attribute.
    The message is the line itself without time and level, put together only when a handler asks for it.

    Args:
        worker_id: the worker whose events come, or None outside of workers.
        waits: whether a call returns only when the handlers have the event; otherwise `drain` tells.
        on_failure: told what a handler raises.
    """

    name = "the log"

    def __init__(
        self,
        worker_id: str | None,
        *,
        waits: bool = True,
        on_failure: Callable[[LogSink, Exception], object] | None = None,
    ) -> None:
        self._worker_id = worker_id
        self._waits = waits
        self._sender = Sender(_relay, _handle, on_failure and partial(on_failure, self))

    def __call__(self, event: Event) -> None:
        """Log one event; to be called only when somebody listens at INFO, see `is_enabled_for`.

        Raises:
            Full: so many events wait for a handler that hangs that this one is dropped.
        """
        fields = msgspec.to_builtins(event, enc_hook=str)
        fields["event"] += "_complete"
        if self._worker_id is not None:
            fields["worker_id"] = self._worker_id
        handlers = file_handlers(_logger, _FORMATTERS)
        if handlers is not None:
            all_ours = all(type(handler.formatter) in _OURS for handler in handlers)
            record = _OwnRecord(fields) if all_ours else _record(fields)
            for handler in handlers:
                if handler.level <= logging.INFO:
                    handler.handle(record)
            return
        self._sender.send((copy_context(), _record(fields)))
        if self._waits:
            self._sender.drain(_WAIT_S)

    def drain(self, timeout_s: float = _WAIT_S) -> int:
        """Wait until the handlers have this worker's events, and return how many they have not, as one hangs."""
        return self._sender.drain(timeout_s)


class KeyValueFormatter(logging.Formatter):
    """Format any record as one line: UTC time, level, message; ``fmt`` and ``datefmt`` are not looked at.

    Tracebacks and stacks follow on the same line; line breaks and whatever else is not printable are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line = f"{_utc_second(int(record.created))} {record.levelname} {record.getMessage()}"
        if record.exc_info or record.exc_text or record.stack_info:
            line = "\n".join([line, *_appendices(self, record).values()])
        return line if line.isprintable() else _NOT_PLAIN.sub(_escape, line)


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


def configure_logging(
    path: str | Path | None = None,
    *,
    format: Literal["kv", "json"] = "kv",  # noqa: A002 - what logging.basicConfig calls it
    level: int | str = logging.INFO,
) -> logging.Handler:
    """Show the lines of this library in a program that has no logging set up.

    Attaches one handler to our logger only; a second call replaces the handler of the first. The lines go
    there and nowhere else (``propagate`` is off), so that handlers of the root logger, which is not touched,
    don't print them a second time. Who has such handlers does without this function:
    ``logging.getLogger("langchain_swarmlet_metrics").setLevel("INFO")`` is enough.

    Args:
        path: the file to append to, or None for standard error. A new file can be read by this user alone.
        format: ``kv`` for `KeyValueFormatter`, ``json`` for `JSONLinesFormatter`.
        level: the logger's new level, by number or name; the events are logged at INFO.

    Returns:
        The handler; ``removeHandler`` and ``propagate = True`` on our logger undo the call.

    Raises:
        ValueError: there is no such format or level.
        OSError: the file can't be opened for appending.
    """
    formatter, number = _formatter(format), _level_number(level)
    if path is not None:
        os.close(modes.open_or_make(path, os.O_WRONLY, modes.PRIVATE))
    handler = logging.StreamHandler() if path is None else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(formatter)
    for earlier in [other for other in _logger.handlers if other.name == LOGGER_NAME]:
        _logger.removeHandler(earlier)
        earlier.close()
    handler.name = LOGGER_NAME
    _logger.addHandler(handler)
    _logger.setLevel(number)
    _logger.propagate = False
    return handler


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


def warn(message: str, *args: object) -> None:
    r"""Log a warning of this library's own, and never raise.

    Args:
        message: the text, with ``%s`` where an argument goes.
        *args: what a model may have written: each is put on one line, and each ``=`` in it becomes ``\x3d``, so that no
            search for a field finds it.
    """
    if _logger.isEnabledFor(logging.WARNING):
        file, line, caller, _ = _logger.findCaller(stacklevel=2)
        values = tuple(_NOT_PLAIN.sub(_escape, one_line(arg)).replace("=", r"\x3d") for arg in args)
        record = _logger.makeRecord(LOGGER_NAME, logging.WARNING, file, line, message, values, None, caller)
        with contextlib.suppress(Full):
            _warnings.send((copy_context(), record))
            _warnings.drain(_WAIT_S)


def _record(fields: dict[str, Any]) -> logging.LogRecord:
    # The pairs are an argument, not the message: exporters group by the message, some can't send one that
    # is no str. And info() would look for its caller, which takes 2 us and always finds this line.
    message, args = fields["event"] + " %s", (_Pairs(fields),)
    return _logger.makeRecord(LOGGER_NAME, logging.INFO, __file__, 0, message, args, None, "LogSink", fields)


class _OwnRecord(logging.LogRecord):
    """A record that only our own formatters see: without thread, process and place, which took most of its time."""

    name, levelno, exc_info, exc_text, stack_info = LOGGER_NAME, logging.INFO, None, None, None

    def __init__(self, fields: dict[str, Any]) -> None:
        self.created = time.time()
        self.levelname = logging.getLevelName(logging.INFO)
        self.msg = fields["event"] + " %s"
        self.args = (_Pairs(fields),)
        self.__dict__.update(fields)


def _handle(item: tuple[Context, logging.LogRecord]) -> None:
    """Have the handlers take a record, in the context in which it was made."""
    context, record = item
    context.run(_logger.handle, record)


def drain(timeout_s: float = _WAIT_S) -> bool:
    """Wait until the handlers have everything logged so far, and tell whether they have: one may hang.

    Args:
        timeout_s: how long to wait at most, in seconds.
    """
    return _relay.drain(timeout_s)


_OURS: set[type] = {KeyValueFormatter, JSONLinesFormatter}
_FORMATTERS: set[type] = {*_OURS, logging.Formatter, type(None)}

_relay: Relay[tuple[Sender[Any], Any]] = Relay(deliver)
_warnings = Sender(_relay, _handle)


class _Pairs:
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


def _formatter(name: str) -> logging.Formatter:
    formatters: dict[str, type[logging.Formatter]] = {"kv": KeyValueFormatter, "json": JSONLinesFormatter}
    if name not in formatters:
        msg = f"no such log format: {name!r}; use one of {', '.join(map(repr, formatters))}"
        raise ValueError(msg)
    return formatters[name]()


def _level_number(level: int | str) -> int:
    if isinstance(level, int):
        return level
    numbers = logging.getLevelNamesMapping()
    if level not in numbers:
        msg = f"no such log level: {level!r}; use a number or one of {', '.join(map(repr, numbers))}"
        raise ValueError(msg)
    return numbers[level]
