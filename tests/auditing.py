"""Watch what this process opens, through Python's audit events."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

_WATCHED = ("open", "os.listdir", "os.scandir", "sqlite3.connect")
_watchers = []


def _hook(event, arguments):
    if _watchers and event in _WATCHED:
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            flags = arguments[2] if event == "open" else 0
            for watcher in _watchers:
                watcher.append((event, os.fsdecode(path), flags))


sys.addaudithook(_hook)  # can't be removed again, so it looks at nothing unless somebody watches


@contextmanager
def watching():
    """Collect what any thread opens inside the block: event, path as it was given, and flags of an open."""
    seen = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)
