"""What is known of a process from the notes that it wrote before it was killed."""

from __future__ import annotations

import json
import os
import threading
from itertools import pairwise
from typing import Any

from tests.torture.notes import PULSE_S

MOMENTS = ("up", "ending", "bye")
"""It has let go of what it inherited; it is about to leave a block; it has done its rounds."""

_WINDOW_S = 1.0


class Witness:
    """Read a process's notes in a thread, to their end.

    Args:
        pipe: the end to read from; closed when the notes have ended.
    """

    def __init__(self, pipe: int) -> None:
        self.opened: dict[str, int] = {}
        """Worker -> its job number, of those whose block was entered."""
        self.made: dict[str, int] = {}
        """Likewise, of those made by hand, which no process keeps open."""
        self.ended: dict[str, str] = {}
        """Worker -> how it ended."""
        self.events: list[tuple[str, int, int]] = []
        """Worker, first and last id of what was acknowledged."""
        self.starts: list[tuple[str, int, float]] = []
        """Worker, id and monotonic time of each call that started."""
        self.faults: list[str] = []
        self._reached = {moment: threading.Event() for moment in MOMENTS}
        self._pulses: list[float] = []
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def wait_for(self, moment: str, timeout_s: float) -> None:
        """Wait until the process has reached a moment, or will never reach it."""
        self._reached[moment].wait(timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Wait for the last note; False if there may be more."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def starved_s(self, until: float) -> float:
        """Return how much of the last second before a moment the process's threads waited for their turn.

        Args:
            until: the moment, as `time.monotonic` tells it.
        """
        before = [at for at in self._pulses if at < until - _WINDOW_S][-1:]
        last = [at for at in self._pulses if until - _WINDOW_S <= at < until]
        return sum(max(later - earlier - PULSE_S, 0.0) for earlier, later in pairwise([*before, *last, until]))

    def _read(self, pipe: int) -> None:
        with os.fdopen(pipe, "rb") as lines:
            for line in lines:
                self._take(json.loads(line))
        for event in self._reached.values():
            event.set()

    def _take(self, note: dict[str, Any]) -> None:
        kind, worker = note["kind"], note.get("worker", "")
        if kind in self._reached:
            self._reached[kind].set()
        elif kind in ("opened", "made", "ended"):
            getattr(self, kind)[worker] = note["value"]
        elif kind == "pulse":
            self._pulses.append(note["at"])
        elif kind == "start":
            self.starts.append((worker, note["id"], note["at"]))
        elif kind == "events":
            self.events.append((worker, note["first"], note["last"]))
        else:
            self.faults.append(note["text"])
