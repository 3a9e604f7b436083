"""Processes of their own: each begins with nothing of what the one before left, and reaches no network."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

_FOREIGN_SETTINGS = ("LANGCHAIN_", "LANGSMITH_", "LANGFUSE_", "OTEL_", "TRACELOOP_")

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class ChildError(RuntimeError):
    """A process of its own failed; the message is its traceback."""


def ignore_settings() -> None:
    """Take the settings that would make contestants trace elsewhere out of the environment."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN_SETTINGS)]:
        del os.environ[name]


def run_apart(fast: bool, function: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
    """Call a function in a new process and return what it returns.

    Args:
        fast: whether the process may inherit what this one has imported; otherwise its interpreter starts anew, and
            with it the layout of memory and the seed of hashes, on which times depend, too.
        function: one that stands in a module.
        *args: its arguments.
        **kwargs: its arguments.

    Raises:
        ChildError: it raised, or its process died.
    """
    method = "fork" if fast and "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args, kwargs))
    process.start()
    sender.close()
    try:
        error, value = receiver.recv()
    except EOFError:
        error, value = "it died", None
    process.join()
    if error is not None:
        msg = f"{function.__module__}.{function.__name__} failed in its process, exit code {process.exitcode}: {error}"
        raise ChildError(msg)
    return value


def resident_kb() -> int | None:
    """Return the resident memory of this process in kB, or None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _answer(sender: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    _stay_offline()
    logging.getLogger().addHandler(logging.NullHandler())  # warnings on standard error would be measured, too
    try:
        sender.send((None, function(*args, **kwargs)))
    except BaseException:  # noqa: BLE001 - it is raised where the function was called from
        sender.send((traceback.format_exc(), None))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what would export at exit is not waited for


def _stay_offline() -> None:
    """Let this process connect to nobody but this machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            msg = f"the benchmarks reach no network, and {address[0]} is not on this machine"
            raise PermissionError(msg)
        connect(self, address)

    socket.socket.connect = refuse
