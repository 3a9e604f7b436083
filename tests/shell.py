"""Run shell commands as a person would: in bash, in a folder, and at a terminal where output has to appear at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# `swarmlet-metrics` and `python3` of this interpreter come first, as in an activated virtual environment.
_BIN = os.path.dirname(sys.executable)  # noqa: PTH120


def require(*programs: str) -> None:
    """Skip the test where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, in the C locale, with some variables more."""
    path = f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **variables}


def run(command: str, *, cwd: Path, **variables: str) -> str:
    """Run a bash command, which must succeed, and return what it printed."""
    require("bash")
    done = subprocess.run(
        ["bash", "-euc", command], cwd=cwd, env=environment(variables), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"
    return done.stdout.decode()


class Terminal:
    """Show what a command prints, line by line, while it runs.

    Args:
        screen: file descriptor of the terminal's other side.
    """

    def __init__(self, screen: int) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(screen,), daemon=True)
        self._thread.start()

    def wait_for_lines(self, count: int, timeout_s: float = 30.0) -> list[str]:
        """Wait until that many lines were printed, and return them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._lines) >= count, timeout_s), f"only {self._lines}"
            return list(self._lines)

    def wait_for_end(self) -> list[str]:
        """Wait until nothing more can come, and return every line."""
        self._thread.join()
        return list(self._lines)

    def _read(self, screen: int) -> None:
        try:
            with open(screen, encoding="utf-8", errors="replace", closefd=False) as lines:
                for line in lines:
                    with self._changed:
                        self._lines.append(line.rstrip("\r\n"))
                        self._changed.notify_all()
        except OSError:
            return  # Linux's way to say that the other side is closed


@contextmanager
def follow(command: str, *, cwd: Path, **variables: str) -> Iterator[Terminal]:
    """Run a command that does not end by itself at a terminal of its own; it is ended with the block."""
    require("bash", "tail")
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    screen, side = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=cwd, env=environment(variables), stdout=side, start_new_session=True
    )
    os.close(side)
    terminal = Terminal(screen)
    try:
        yield terminal
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # bash, tail and grep: the group that was started here
        process.wait(timeout=30)
        terminal.wait_for_end()
        os.close(screen)
