"""Run a supervisor's tool in a process of its own in which the system fails, and print what came of it, as JSON.

Usage: ``python -m tests.faulty ROOT FAULT MOMENT [UNDO]``. The agent is a real one, its model talks HTTP over loopback.
The fault comes ``before`` the worker starts, or ``during`` its run, inside its tool.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_swarmlet_metrics import WorkerRunner, pulse
from langchain_swarmlet_metrics.testing import OpenAIServer, Reply, ToolRequest

ROOT = Path(sys.argv[1])
used = []


def disk_full():
    """Fill the file system of the root to the last byte."""
    with suppress(OSError), (ROOT / "ballast").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def disk_free():
    """Undo it."""
    (ROOT / "ballast").unlink()


def short_files():
    """Let no file grow much longer than the shortest of them is, so that a line is cut in its middle."""
    shortest = min(path.stat().st_size for path in ROOT.glob("*/metrics.jsonl"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (shortest + 50, resource.RLIM_INFINITY))


def long_files():
    """Undo it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def no_descriptors():
    """Use up every file descriptor."""
    with suppress(OSError):
        while True:
            used.append(os.open(os.devnull, os.O_RDONLY))


def descriptors():
    """Undo it."""
    for descriptor in used:
        os.close(descriptor)


def read_only():
    """Make the root read-only."""
    subprocess.run(["mount", "-o", "remount,bind,ro", ROOT], check=True)


def folder_deleted():
    """Delete the worker's folder while it runs."""
    for path in ROOT.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def root_deleted():
    """Delete the root."""
    shutil.rmtree(ROOT)


def registry_locked():
    """Keep the lock that guards the index."""
    fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX)


def registry_busy():
    """Keep the index itself locked, as a tool that writes to it would."""
    global _busy  # noqa: PLW0603 - the connection has to stay open
    _busy = sqlite3.connect(ROOT / "index.sqlite3", isolation_level=None)
    _busy.execute("BEGIN EXCLUSIVE")


def registry_corrupt():
    """Overwrite the index."""
    for path in ROOT.glob("index.sqlite3*"):
        path.write_bytes(b"\xff" * 8192)


def nothing():
    """Cause no fault, to compare with."""


def clock_back():
    """Set the clock back by a day, for this process."""
    Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).write_text("-1d")


def clock_forward():
    """Set the clock forward by a day, for this process."""
    Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).write_text("+1d")


def make_agent(url, faults, *, offline):
    """Return an agent that multiplies with a tool, or its tool alone; a fault may come inside the tool."""

    @tool
    def multiply(a: int, b: int) -> int:
        """Multiply."""
        faults["during"]()
        return a * b

    if offline:
        return lambda _task: f"The answer is {multiply.invoke({'a': 7, 'b': 6})}."
    return create_agent(ChatOpenAI(model="gpt-5-mini", api_key="loopback", base_url=url, max_retries=0), [multiply])


def reply(request):
    """Ask for the tool, and tell what it answered."""
    results = [message["content"] for message in request.messages if message["role"] == "tool"]
    if not results:
        return Reply(tool_calls=[ToolRequest("multiply", {"a": 7, "b": 6})])
    return Reply(text=f"The answer is {results[-1]}.")


def collect_warnings():
    """Return a list that gets every warning of ours."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("langchain_swarmlet_metrics").addHandler(handler)
    return said


def main(fault, moment, undo=None):
    """Run one worker without and one with the fault, undo it if asked to, and print what came of the second."""
    faults = {"before": nothing, "during": nothing}
    warnings = collect_warnings()
    with OpenAIServer(reply) as server:
        runner = WorkerRunner(ROOT)
        agent = make_agent(server.url, faults, offline=fault == "no_descriptors")  # HTTP needs them as well
        (spawn,) = runner.supervisor_tools(worker=agent, include=["spawn_worker"])
        spawn.invoke({"task": "warm up"})
        faults[moment] = globals()[fault]
        faults["before"]()
        began = time.monotonic()
        answer = spawn.invoke({"task": "calculate 7*6"})
        took = time.monotonic() - began
        if undo is not None:
            globals()[undo]()
            pulse.try_a_last_time()
    print(json.dumps({"answer": answer, "seconds": took, "warnings": warnings}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[2:])
