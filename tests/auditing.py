"""Watch what this process opens, through Python's audit events."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from contextlib import contextmanager

_WATCHED = ("open", "os.listdir", "os.scandir", "sqlite3.connect")
_LIBRARIES = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""From where Python imports late."""

_watchers = []


def _hook(event, arguments):
    if _watchers and event in _WATCHED and threading.current_thread().name != "swarmlet-pulse":
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            flags = arguments[2] if event == "open" else 0
            for watcher in _watchers:
                watcher.append((event, os.fsdecode(path), flags))


sys.addaudithook(_hook)  # can't be removed again, so it looks at nothing unless somebody watches


@contextmanager
def watching():
    """Collect what any thread opens inside the block: event, path as it was given, and flags of an open.

    But for the pulse's, which may still be trying to write for a worker of an earlier test.
    """
    seen = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


def opened_outside(seen, root, folders):
    """Return what was opened that is neither the index nor, without following a link, in one of the folders.

    Args:
        seen: what `watching` has collected.
        root: the folder of the worker folders.
        folders: the worker folders that may be opened.
    """
    known = {str(root), *map(str, folders)}
    index = (str(root / "index.sqlite3"), f"{root.as_uri()}/index.sqlite3")

    def is_inside(event, path, flags):
        if path in known or path.startswith((*index, *_LIBRARIES)):
            return True
        if event == "os.scandir":
            return os.path.realpath(path).startswith(tuple(f"{folder}/" for folder in folders))
        if not flags & os.O_NOFOLLOW:
            return False
        parent, _, name = path.rpartition("/")  # without a parent, it is a step from a folder that is inside
        return name not in ("", ".", "..") and parent in {"", *known}

    return [entry for entry in seen if not is_inside(*entry)]
