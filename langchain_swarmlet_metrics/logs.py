"""Tier 3: every finished call as one line for ``grep``, ``awk`` and log shippers, through ``logging``.

The logger ``langchain_swarmlet_metrics`` has a ``NullHandler`` and nothing else. Who has logging set up sees
its records there once the logger's level is INFO; who has not calls `configure_logging`.

The handlers run in a thread of their own: one that hangs, on a pipe that nobody reads or a server that does not
answer, must not hold up the agent. Only where all of them append to plain files, as the events themselves are
written, does the agent do it: to wake another thread up takes longer than that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from contextvars import Context, copy_context
from functools import partial
from queue import Full
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from langchain_swarmlet_metrics import modes
from langchain_swarmlet_metrics.loglines import JSONLinesFormatter, KeyValueFormatter, Pairs, plain
from langchain_swarmlet_metrics.plainfiles import file_handlers
from langchain_swarmlet_metrics.relay import Relay, Sender, deliver
from langchain_swarmlet_metrics.scrub import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langchain_swarmlet_metrics.events import Event

LOGGER_NAME = "langchain_swarmlet_metrics"

_WAIT_S = 1.0

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
            is_plain = all_ours and logging.getLogRecordFactory() is logging.LogRecord
            record = _OwnRecord(fields) if is_plain else _record(fields)
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


def warn(message: str, *args: object) -> None:
    r"""Log a warning of this library's own, and never raise.

    Args:
        message: the text, with ``%s`` where an argument goes.
        *args: what a model may have written: each is put on one line, and each ``=`` in it becomes ``\x3d``, so that no
            search for a field finds it.
    """
    if _logger.isEnabledFor(logging.WARNING):
        file, line, caller, _ = _logger.findCaller(stacklevel=2)
        values = tuple(plain(one_line(arg)).replace("=", r"\x3d") for arg in args)
        record = _logger.makeRecord(LOGGER_NAME, logging.WARNING, file, line, message, values, None, caller)
        with contextlib.suppress(Full):
            _warnings.send((copy_context(), record))
            _warnings.drain(_WAIT_S)


def _record(fields: dict[str, Any]) -> logging.LogRecord:
    # The pairs are an argument, not the message: exporters group by the message, some can't send one that
    # is no str. And info() would look for its caller, which takes 2 us and always finds this line.
    message, args = fields["event"] + " %s", (Pairs(fields),)
    return _logger.makeRecord(LOGGER_NAME, logging.INFO, __file__, 0, message, args, None, "LogSink", fields)


class _OwnRecord(logging.LogRecord):
    """A record that only our own formatters see: without thread, process and place, which took most of its time."""

    name, levelno, exc_info, exc_text, stack_info = LOGGER_NAME, logging.INFO, None, None, None

    def __init__(self, fields: dict[str, Any]) -> None:
        self.created = time.time()
        self.levelname = logging.getLevelName(logging.INFO)
        self.msg = fields["event"] + " %s"
        self.args = (Pairs(fields),)
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
