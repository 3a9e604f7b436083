"""Tests of `plainfiles`: which log handlers the agent's own thread may call."""

from __future__ import annotations

import logging
import os
import threading
from logging.handlers import QueueHandler
from queue import SimpleQueue

import pytest

from langchain_swarmlet_metrics.plainfiles import file_handlers

FORMATTERS = {logging.Formatter, type(None)}


@pytest.fixture
def logger():
    """Return a logger that is nobody else's, below another."""
    child = logging.getLogger("of plain files.child")
    parent = logging.getLogger("of plain files")
    parent.parent = None
    yield child
    child.propagate = True
    for one in (child, parent):
        one.filters.clear()
        for handler in [*one.handlers]:
            one.removeHandler(handler)
            handler.close()


def test_plain_files(logger, tmp_path):
    """Handlers of plain files are named, those of the loggers above too; one that does nothing changes nothing."""
    first, second = (logging.FileHandler(tmp_path / name) for name in ("first.log", "second.log"))
    second.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(logging.NullHandler())
    logger.addHandler(first)
    logger.parent.addHandler(second)
    for _ in range(2):
        assert file_handlers(logger, FORMATTERS) == [first, second]
    logger.propagate = False
    assert file_handlers(logger, FORMATTERS) == [first]


class Own(logging.FileHandler):
    """A handler with code of the user's own."""


class OwnFormatter(logging.Formatter):
    """A formatter with code of the user's own."""


def formatted(handler, formatter):
    """Return the handler with a formatter."""
    handler.setFormatter(formatter)
    return handler


def filtered(handler):
    """Return the handler with a filter."""
    handler.addFilter(lambda _record: True)
    return handler


OTHERS = {
    "a stream": lambda _path: logging.StreamHandler(),
    "a queue": lambda _path: QueueHandler(SimpleQueue()),
    "a class of the user's own": Own,
    "a formatter of the user's own": lambda path: formatted(logging.FileHandler(path), OwnFormatter()),
    "a filter": lambda path: filtered(logging.FileHandler(path)),
    "a file that is not open yet": lambda path: logging.FileHandler(path, delay=True),
    "a device": lambda _path: logging.FileHandler(os.devnull),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_anything_else(logger, tmp_path, make):
    """One handler that may do more than to append to a plain file is enough to say no."""
    logger.addHandler(logging.FileHandler(tmp_path / "plain.log"))
    logger.parent.addHandler(make(tmp_path / "other.log"))
    assert file_handlers(logger, FORMATTERS) is None


def test_a_pipe(logger, tmp_path):
    """A pipe has a name like a file, and hangs when nobody reads it."""
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=(tmp_path / "pipe").read_bytes)
    reader.start()
    handler = logging.FileHandler(tmp_path / "pipe")
    logger.addHandler(handler)
    assert file_handlers(logger, FORMATTERS) is None
    handler.close()
    reader.join()


def test_a_filter_of_the_logger(logger, tmp_path):
    """A filter is code of the user's own, wherever it is."""
    logger.addHandler(logging.FileHandler(tmp_path / "plain.log"))
    logger.addFilter(lambda _record: True)
    assert file_handlers(logger, FORMATTERS) is None


def test_a_file_that_is_closed_and_opened_anew(logger, tmp_path):
    """What is known of a file is known of that one only: a handler that is closed has none."""
    handler = logging.FileHandler(tmp_path / "plain.log")
    logger.addHandler(handler)
    assert file_handlers(logger, FORMATTERS) == [handler]
    handler.close()
    assert file_handlers(logger, FORMATTERS) is None
    handler.baseFilename = os.devnull
    handler.stream = handler._open()  # what emit() does
    assert file_handlers(logger, FORMATTERS) is None
