"""``metrics.jsonl``: one event a line, appended while a worker runs, never rewritten."""

from __future__ import annotations

import math
import os
import time
import weakref
from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from langchain_swarmlet_metrics import locks, modes
from langchain_swarmlet_metrics.events import decode_lines, encode_lines
from langchain_swarmlet_metrics.folder import ends_torn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_swarmlet_metrics.events import Event

_LONGEST_LINE = 1 << 20
_READ_SIZE = 1 << 18
_TRIES = 20
_PAUSE_S = 0.01
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class EventWriter:
    """Append events to a file, each with exactly one unbuffered write, and hold the file's lock until closed.

    The lock tells readers that the worker runs. It belongs to the process that opened the file: in a forked child the
    writer is closed, and neither writes nor holds the lock.

    Args:
        path: the file; made when it is missing, but not its folder.
        mode: of a file that is made.
        lock: False to append to a file that another writer may have locked.

    Raises:
        BlockingIOError: another writer holds the lock.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, mode: int = modes.PRIVATE, *, lock: bool = True) -> None:
        self.name = path.name
        self._path = path
        file = _File(path, "a+b", opener=partial(_open, mode=mode))
        self._file: _File | None = file
        _writers.add(self)  # before it has the lock, which a child forked in between would keep
        try:
            if lock and not _locked(file.fileno()):
                msg = f"{path} is locked: another writer has it open. A worker's events are written by one process only"
                raise BlockingIOError(msg)
            self._torn = ends_torn(file)
        except BaseException:
            file.close()
            raise

    def __repr__(self) -> str:
        return f"EventWriter({str(self._path)!r})"

    def __call__(self, *events: Event) -> None:
        """Append one event, or several with one write.

        Raises:
            OSError: the events were not written, or only a part of them, which readers skip.
            ValueError: the writer is closed.
        """
        # No lock around the write: it is one system call on a file opened for append, and threads that wait for each
        # other here would lose far more time than they need for it.
        file = self._file
        if file is None:
            msg = f"{self._path} is closed: its worker has ended, or this process was forked from its worker's"
            raise ValueError(msg)
        lines = encode_lines(events)
        if self._torn:
            lines = b"\n" + lines
        written = file.write(lines)
        if written == len(lines) and not self._torn:
            return
        self._torn = written != len(lines)
        if self._torn:
            msg = f"only {written} of {len(lines)} bytes could be written to {self._path}"
            raise OSError(msg)

    def size(self) -> int | None:
        """Return how many bytes the file has, or None when the writer is closed."""
        file = self._file
        return None if file is None else os.fstat(file.fileno()).st_size

    def close(self) -> None:
        """Free the lock and close the file, once a thread that is writing has done so; closing again does nothing."""
        file, self._file = self._file, None
        if file is not None:
            locks.free(file.fileno())

    def _leave_to_parent(self) -> None:
        """Close the file in a forked child; the lock stays with the parent, which has the file open still."""
        file, self._file = self._file, None
        if file is not None:
            file.close()  # threads of the parent that were writing never let go of it here


class _File(FileIO):
    """Close with the last reference to it.

    Closed under a thread that is about to write, its descriptor could be another file's by then. Whoever writes has a
    reference, so nobody needs to keep account of who does.
    """

    def __del__(self) -> None:
        self.close()


class NoWriter:
    """Stand in for a writer that could not be opened: drops every event, for that reason.

    Args:
        name: of the file.
        reason: why it could not be opened.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def __call__(self, event: Event) -> None:  # noqa: ARG002 - it is dropped
        """Drop one event.

        Raises:
            OSError: always.
        """
        raise OSError(self._reason)


_writers: weakref.WeakSet[EventWriter] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for writer in list(_writers):
        writer._leave_to_parent()  # noqa: SLF001 - the other half of this class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


class EventReader:
    """Read the events of a file one by one; a missing file has none.

    Each iteration opens the file, reads it once from its beginning, and holds a few hundred kilobytes of it at a time.

    Args:
        open_file: opens the file for reading.
        offset: where to start, in bytes; in a file that is shorter than that, its beginning.
        within_s: seconds after which an iteration stops, wherever it is; None reads to the end.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], *, offset: int = 0, within_s: float | None = None) -> None:
        self._open_file = open_file
        self._offset = offset
        self._within_s = math.inf if within_s is None else within_s
        self.skipped = 0
        """Lines that the latest iteration has read so far and that are no events: torn, damaged or unknown."""
        self.stopped = False
        """Whether the latest iteration ran out of time: it has only the first events."""

    def __iter__(self) -> Iterator[Event]:
        self.skipped, self.stopped = 0, False
        deadline = time.monotonic() + self._within_s
        try:
            file = self._open_file()
        except FileNotFoundError:
            return
        with file:
            is_shorter = os.fstat(file.fileno()).st_size < self._offset
            file.seek(0 if is_shorter else self._offset)
            for part in read_parts(file):
                if time.monotonic() > deadline:
                    self.stopped = True
                    return
                self.skipped += part.skipped
                yield from part.events

    def count_unreadable(self) -> int:
        """Read all of the file and return how many of its lines are no events.

        Raises:
            TimeoutError: there is no time to read all of it.
        """
        for _ in self:
            pass
        self.require_all()
        return self.skipped

    def require_all(self) -> None:
        """See that the latest iteration had the time to read to the end.

        Raises:
            TimeoutError: it had not.
        """
        if self.stopped:
            msg = f"it is too long to be read in {self._within_s:g} s"
            raise TimeoutError(msg)


class Part(NamedTuple):
    """Hold the events of some lines that follow each other in a file.

    ``skipped`` counts those of the lines that are no events. ``end`` is the offset behind them, in bytes; None for one
    last line whose end has not been written. ``inside`` tells that it is inside of an over-long line.
    """

    events: list[Event]
    skipped: int
    end: int | None
    inside: bool = False


def read_parts(file: BinaryIO, *, inside: bool = False) -> Iterator[Part]:
    """Read a file of events from where it stands to its end, some hundred lines at a time.

    Args:
        file: to be read; of an over-long line only the beginning is looked at.
        inside: whether it stands inside of such a line.
    """
    end, begun = file.tell(), b""
    while read := file.read(_READ_SIZE):
        if inside:
            rest, newline, read = read.partition(b"\n")
            inside, end = not newline, end + len(rest) + len(newline)
            if inside:
                yield Part([], 0, end, inside=True)
        lines, newline, begun = (begun + read).rpartition(b"\n")
        if newline:
            end += len(lines) + 1
            first, *others = lines.split(b"\n")
            yield Part(*decode_lines([first[:_LONGEST_LINE], *others]), end)
        if len(begun) >= _LONGEST_LINE:
            end += len(begun)
            yield Part(*decode_lines([begun[:_LONGEST_LINE]]), end, inside=True)
            begun, inside = b"", True
    if begun:
        yield Part(*decode_lines([begun]), None)


def read_events(path: Path) -> EventReader:
    """Return a reader of the events in a file; a missing file has none."""
    return EventReader(lambda: path.open("rb"))


def is_locked(path: Path) -> bool | None:
    """Tell whether a writer holds the lock of a file; None where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        free = locks.take(descriptor, shared=True)
        locks.free(descriptor)
    finally:
        os.close(descriptor)
    return None if free is None else not free


def _locked(descriptor: int) -> bool:
    """Take the lock, or tell that another writer has it; where there are no locks, do without."""
    for _ in range(_TRIES):
        if locks.take(descriptor) is not False:
            return True
        time.sleep(_PAUSE_S)  # a reader that asks `is_locked` holds it for a few microseconds
    return False


def _open(path: str, flags: int, mode: int) -> int:
    return modes.open_or_make(path, flags | _NO_LINK, mode)
