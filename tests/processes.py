"""Run pieces of Python in real processes of their own."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

_PROJECT = Path(__file__).parent.parent
_PREAMBLE = """
def wait_for_the_others():
    print("ready", flush=True)
    input()
"""


@contextmanager
def running(script, *arguments):
    """Run a script in another process, killed when the block is left; it talks through its stdin and stdout."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + dedent(script), *map(str, arguments)],
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


def output_of(script, *arguments):
    """Run a script in another process to its end and return what it printed."""
    with running(script, *arguments) as process:
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
