"""A process that may be killed, as its keeper sees it: its pid, its death, its notes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tests.torture.forkserver import ForkServer
from tests.torture.witness import Witness

if TYPE_CHECKING:
    from pathlib import Path

    from tests.torture.victim import Order

_DIES_WITHIN_S = 30.0


class Death(NamedTuple):
    """Say when a process was killed: monotonic time before the signal; seconds until, and wall clock at its death."""

    signalled: float
    dying_s: float
    dead_at: float


class Captive:
    """Hold a running process that writes notes.

    Args:
        order: what it does.
        pid: of the process; nobody may have waited for it yet.
        pipe: the end of its notes to read from.
    """

    def __init__(self, order: Order, pid: int, pipe: int) -> None:
        self.order = order
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self.witness = Witness(pipe)

    def kill(self) -> Death:
        """Kill it with SIGKILL, wait for its death, and read its notes to their end.

        Raises:
            TimeoutError: it does not die.
        """
        signalled = time.monotonic()
        with suppress(ProcessLookupError):  # it has ended already, and its nursery is dead
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        if not self.is_dead(_DIES_WITHIN_S):
            msg = f"process {self.pid} did not die within {_DIES_WITHIN_S:.0f} s of SIGKILL"
            raise TimeoutError(msg)
        death = Death(signalled, time.monotonic() - signalled, time.time())
        os.close(self._descriptor)
        if not self.witness.join(_DIES_WITHIN_S):
            msg = f"somebody else holds the notes of {self.order.owner}, process {self.pid}, open"
            raise TimeoutError(msg)
        return death

    def is_dead(self, within_s: float = 0) -> bool:
        """Tell whether all of it is dead; its files are closed then."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        return bool(waiting.poll(within_s * 1000))


class Plain(Captive):
    """Start a process the usual way, as a Python interpreter of its own."""

    def __init__(self, order: Order, errors: Path) -> None:
        ours, theirs = os.pipe()
        command = [sys.executable, "-m", "tests.torture.victim", msgspec.json.encode(order).decode(), str(theirs)]
        try:
            with errors.open("ab") as log:
                self._process = subprocess.Popen(command, pass_fds=[theirs], stderr=log)
        finally:
            os.close(theirs)
        super().__init__(order, self._process.pid, ours)

    def kill(self) -> Death:
        """Kill it, as a `Captive`, and let the system forget it."""
        death = super().kill()
        self._process.wait()
        return death


class Nursery(Captive):
    """Start a process that runs a worker of its own and forks others."""

    def __init__(self, order: Order, errors: Path) -> None:
        ours, theirs = os.pipe()
        try:
            arguments = (msgspec.json.encode(order).decode(), theirs)
            self._server = ForkServer("tests.torture.nursery", *arguments, errors=errors, descriptors=(theirs,))
        finally:
            os.close(theirs)
        self.children: list[Captive] = []
        super().__init__(order, self._server.process.pid, ours)

    def fork(self, order: Order) -> Captive:
        """Fork a process that does what the order says.

        Raises:
            OSError: the nursery is dead.
        """
        ours, theirs = os.pipe()
        child = Captive(order, self._server.fork(msgspec.to_builtins(order), theirs), ours)
        self.children.append(child)
        return child

    def kill(self) -> Death:
        """Kill it, as a `Captive`; its children live on."""
        death = super().kill()
        self._server.close()
        return death
