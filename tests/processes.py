"""Run pieces of Python in real processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

_PROJECT = Path(__file__).parent.parent
_PREAMBLE = """
def wait_for_the_others():
    print("ready", flush=True)
    input()
"""


READ_ONLY = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"')
"""Runs the command that follows with the folder named before it mounted read-only, for that command alone."""


def needs_read_only_mounts(folder):
    """Skip a test where a folder cannot be mounted read-only."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a folder read-only")
    if not shutil.which("unshare"):
        pytest.skip("needs the program unshare")
    if subprocess.run([*READ_ONLY, folder, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a folder read-only")


@contextmanager
def running(script, *arguments, through=()):
    """Run a script in another process, killed when the block is left; it talks through its stdin and stdout.

    Args:
        script: Python code.
        arguments: its arguments.
        through: a command that runs the command which follows it.
    """
    process = subprocess.Popen(
        [*through, sys.executable, "-c", _PREAMBLE + dedent(script), *map(str, arguments)],
        cwd=_PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def output_of(script, *arguments, through=()):
    """Run a script in another process to its end and return what it printed."""
    with running(script, *arguments, through=through) as process:
        return _rest_of_output(process)


def outputs_of(count, script, *arguments):
    """Run a script in several processes, let all go on from ``wait_for_the_others()``, and return what each printed."""
    with ExitStack() as stack:
        processes = [stack.enter_context(running(script, *arguments)) for _ in range(count)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return [_rest_of_output(process) for process in processes]


def _rest_of_output(process):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output
