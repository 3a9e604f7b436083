"""Processes that import everything once and then fork children, so that a new process costs milliseconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LONGEST_MESSAGE = 1 << 16


def serve(control: socket.socket, child: Callable[[Any, int], None]) -> None:
    """Fork a child for each message, and tell its pid; return in a child that is done, or when nobody asks any more.

    Children that died are not waited for: until this process ends, none of their pids can name another process.

    Args:
        control: where messages arrive, each with the end of a pipe that is the child's to write to.
        child: what a child does with a message and the descriptor of its pipe.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _LONGEST_MESSAGE, 1)
        if not message:
            return
        (pipe,) = descriptors
        pid = os.fork()
        if not pid:
            control.close()
            child(json.loads(message), pipe)
            return
        os.close(pipe)
        control.send(str(pid).encode())


class ForkServer:
    """Talk to such a process, from any thread.

    Args:
        module: what the process runs; calls `serve` with the socket whose descriptor is its last argument.
        arguments: of the module, before that one.
        descriptors: what it inherits besides.
        errors: the file that its standard error, and that of its children, is appended to.
    """

    def __init__(self, module: str, *arguments: object, errors: Path, descriptors: tuple[int, ...] = ()) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        command = [sys.executable, "-m", module, *map(str, arguments), str(theirs.fileno())]
        with theirs, errors.open("ab") as log:
            self.process = subprocess.Popen(command, pass_fds=(*descriptors, theirs.fileno()), stderr=log)

    def fork(self, message: Any, pipe: int) -> int:
        """Have a child forked and return its pid.

        Args:
            message: what it shall do, as JSON takes it.
            pipe: the end that it writes to; closed here, whether or not there is a child.

        Raises:
            OSError: the process is dead.
        """
        try:
            with self._asking:
                socket.send_fds(self._control, [json.dumps(message).encode()], [pipe])
                answer = self._control.recv(64)
        finally:
            os.close(pipe)
        if not answer:
            msg = "the fork server is dead"
            raise ConnectionResetError(msg)
        return int(answer)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        self._control.close()
        self.process.wait(timeout=60)
