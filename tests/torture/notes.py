"""What a process tells before it can be killed: notes on a pipe, each written with one system call."""

from __future__ import annotations

import json
import os
import threading
import time

PULSE_S = 0.05


class Notes:
    """Write notes on a pipe; once written, a note outlives the process.

    Args:
        descriptor: of the pipe's end to write to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, kind: str, **facts: object) -> None:
        """Write one note, whole: it is shorter than what a pipe takes at once."""
        os.write(self._descriptor, json.dumps({"kind": kind, **facts}).encode() + b"\n")

    def say_event(self, worker_id: str, first: int, last: int | None = None) -> None:
        """Acknowledge the event with this id, or all from the first to the last."""
        self.say("events", worker=worker_id, first=first, last=first if last is None else last)

    def say_of(self, worker_id: str, kind: str, value: object) -> None:
        """Tell of a worker that it is ``opened`` or ``made`` (with its job number), or has ``ended`` (how)."""
        self.say(kind, worker=worker_id, value=value)

    def keep_pulse(self) -> None:
        """Write from now on that this process gets to run its threads; end it when nobody reads."""
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def close(self) -> None:
        """Leave the pipe to whoever else has it open."""
        os.close(self._descriptor)

    def _beat(self) -> None:
        try:
            while True:
                self.say("pulse", at=time.monotonic())
                time.sleep(PULSE_S)
        except BrokenPipeError:
            os._exit(1)
