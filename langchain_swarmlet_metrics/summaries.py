"""Summaries of files of events that grow: reading one again takes only what has been written since."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from copy import deepcopy
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from langchain_swarmlet_metrics.eventlog import read_parts
from langchain_swarmlet_metrics.summary import Aggregator, Summary

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_FILES = 8
"""How many files are remembered, those that were asked for last."""

LARGEST_SUMMARY = 1 << 21
"""The largest summary that is remembered, in bytes of JSON: its names are bounded, the errors in it are not."""

_COMPARED = 256


class Sums(NamedTuple):
    """Hold the sums of a file's events, how many of its lines are none, and whether there was no time for the rest."""

    summary: Summary
    skipped: int = 0
    stopped: bool = False


class Summaries:
    """Sum up files of events, and remember where reading them stopped.

    Threads may ask at the same time; those that ask for the same file wait for each other, so that it is read once.
    """

    def __init__(self) -> None:
        self._remembered: OrderedDict[str, _Reading] = OrderedDict()
        self._locks = _new_locks()
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and unpickle as one that remembers nothing."""
        return Summaries, ()

    def of(self, name: str, open_file: Callable[[], BinaryIO], *, within_s: float | None = None) -> Sums:
        """Return the sums of the events that are in a file now.

        Args:
            name: of the file, to remember it by.
            open_file: opens it for reading; a missing one has no events.
            within_s: seconds after which reading stops; who asks again reads on from there. None reads to the end.

        Raises:
            OSError: the file cannot be read.
        """
        if self._pid != os.getpid():  # forked: threads that stayed behind may have held locks
            self._pid, self._locks = os.getpid(), _new_locks()
        with self._locks[hash(name) % len(self._locks)]:
            # Whoever reads takes the reading out: an error, or a signal handler that asks in the middle of it, finds
            # nothing half done.
            reading = self._remembered.pop(name, None)
            try:
                file = open_file()
            except FileNotFoundError:
                return Sums(Summary())
            with file:
                if reading is None or not reading.goes_on(file):
                    reading = _Reading(file)
                sums = reading.update(file, math.inf if within_s is None else within_s)
            if len(msgspec.json.encode(sums.summary)) <= LARGEST_SUMMARY:
                self._remembered[name] = reading
                if len(self._remembered) > MOST_FILES:
                    self._remembered.popitem(last=False)
            return sums


def _new_locks() -> list[threading.RLock]:
    """Make locks enough that two files seldom share one."""
    return [threading.RLock() for _ in range(64)]


class _Reading:
    """Hold the sums over the lines of a file that have an end, and what tells that it is this file still."""

    def __init__(self, file: BinaryIO) -> None:
        self._aggregator = Aggregator()
        self._skipped = 0
        self._offset, self._inside = 0, False
        self._before = b""
        self._identity = _identity(file)

    def goes_on(self, file: BinaryIO) -> bool:
        """Tell whether a file is the one that was read, with nothing but more at its end."""
        file.seek(self._offset - len(self._before))
        return _identity(file) == self._identity and file.read(len(self._before)) == self._before

    def update(self, file: BinaryIO, within_s: float) -> Sums:
        """Read on for so many seconds, and return the sums.

        A last line without its end is not done with: it may be torn, or somebody is writing it right now.
        """
        aggregator, skipped, stopped = self._aggregator, 0, False
        deadline = time.monotonic() + within_s
        file.seek(self._offset)
        for number, part in enumerate(read_parts(file, inside=self._inside)):
            if number and part.end is not None and time.monotonic() > deadline:
                stopped = True
                break
            if part.end is None:
                skipped = part.skipped
                aggregator = deepcopy(aggregator) if part.events else aggregator
            else:
                self._skipped += part.skipped
                self._offset, self._inside = part.end, part.inside
            for event in part.events:
                aggregator.add(event)
        start = max(self._offset - _COMPARED, 0)
        file.seek(start)
        self._before = file.read(self._offset - start)
        return Sums(aggregator.summary, self._skipped + skipped, stopped)


def _identity(file: BinaryIO) -> tuple[int, int]:
    info = os.fstat(file.fileno())
    return info.st_dev, info.st_ino
