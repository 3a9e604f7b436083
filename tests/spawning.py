"""Workers that are spawned and held up, for the tests of that: what overlaps is decided by the test."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import wait
from contextvars import copy_context

import pytest

from langchain_swarmlet_metrics.threads import DaemonExecutor

LIMIT_S = 20


class Watched(DaemonExecutor):
    """Remember the futures, so that a test can wait for what runs in the background."""

    def __init__(self):
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        """Start a thread for the call, remember and return its future."""
        self.futures.append(super().submit(fn, *args, **kwargs))
        return self.futures[-1]

    def join(self):
        """Wait until all has ended."""
        assert not wait(self.futures, timeout=LIMIT_S).not_done


class Gate:
    """An agent that says when it has begun and goes on when it is let; it counts how many are inside."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.tasks = []
        self.inside = self.peak = 0
        self._lock = threading.Lock()

    def __call__(self, task):
        """Wait to be let go."""
        with self._lock:
            self.tasks.append(task)
            self.inside += 1
            self.peak = max(self.peak, self.inside)
        self.begun.release()
        assert self.go.wait(2 * LIMIT_S)  # longer than any test waits for what the gate must not hold up
        with self._lock:
            self.inside -= 1
        return f"{task} done"

    def wait_for(self, count):
        """Wait until so many more have begun."""
        for _ in range(count):
            assert self.begun.acquire(timeout=LIMIT_S)


@pytest.fixture
def gate():
    """Return a gate that is open when the test ends, whatever happens."""
    gate = Gate()
    yield gate
    gate.go.set()


def tools_of(runner, agent, **options):
    """Return the supervisor's tools by name."""
    return {tool.name: tool for tool in runner.supervisor_tools(worker=agent, **options)}


def within(function, *args):
    """Call a function in another thread with this context, and fail if it takes too long."""
    return DaemonExecutor().submit(copy_context().run, function, *args).result(LIMIT_S)


def spawn(tools, task, wait=True):
    """Spawn a worker with the tool and return its answer."""
    return within(tools["spawn_worker"].invoke, {"task": task, "wait": wait})


async def aspawn(tools, task, wait=True):
    """Spawn a worker with the asynchronous tool and return its answer."""
    return await asyncio.wait_for(tools["spawn_worker"].ainvoke({"task": task, "wait": wait}), LIMIT_S)


def statuses(runner):
    """Return the status of each job."""
    return {found.job_id: runner.store.status(found) for found in runner.store.list(limit=100)}


async def until_ended(runner, job_id):
    """Wait until a job's files say that it has ended."""
    deadline = time.monotonic() + LIMIT_S
    while (status := statuses(runner)[job_id]) in ("created", "running"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    return status
