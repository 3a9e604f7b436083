"""The ways in which a process that will be killed runs workers, one after the other: each lane is one way."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from msgspec import structs

from langchain_swarmlet_metrics import MetricsCallbackHandler, MetricsCollector, ToolCall, WorkerRunner, carry
from langchain_swarmlet_metrics.events import span
from tests.torture.acknowledging import Acknowledging, acknowledging_sink
from tests.torture.model import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_swarmlet_metrics import Worker
    from tests.torture.notes import Notes

_SOME_ERROR = "x" * 400
_AT_ONCE = 20_000
_FEW = 1000
_LONG_S = 10.0


class Ground:
    """Hold what the lanes of one process share.

    Args:
        root: the folder of the worker folders.
        url: of the model server.
        owner: names the process; the owner of its workers.
        notes: where to acknowledge what has happened.
    """

    def __init__(self, root: str, url: str, owner: str, notes: Notes) -> None:
        self.owner = owner
        self.notes = notes
        self.acknowledging = Acknowledging(notes)
        self.runner = WorkerRunner(root, owner_id=owner, sinks=[lambda worker: acknowledging_sink(notes, worker)])
        # Clients of its own: in a forked child, a thread of the parent may hold the locks of shared ones.
        options = {"model": "gpt-5-mini", "base_url": url, "api_key": "loopback", "max_retries": 0}
        options |= {"http_client": httpx.Client(timeout=60), "http_async_client": httpx.AsyncClient(timeout=60)}
        model = ChatOpenAI(**options)
        self.agent = create_agent(model, tools(model))
        self.streaming = create_agent(ChatOpenAI(streaming=True, stream_usage=True, **options), tools(model))
        spawning = self.runner.supervisor_tools(worker=self.agent, include=["spawn_worker"])
        self.supervisor = create_agent(model, spawning)

    def note_open(self, worker: Worker) -> None:
        """Note that a worker's block has been entered."""
        self.notes.say_of(worker.worker_id, "opened", worker.job_id)

    @contextmanager
    def watched(self, worker: Worker) -> Iterator[Worker]:
        """Note how the worker ended; the block is around the worker's own."""
        try:
            yield worker
        finally:
            with suppress(RuntimeError):  # it was cancelled before it had a folder
                self.notes.say_of(worker.worker_id, "ended", worker.status)


def asked(task: str) -> dict[str, Any]:
    """Return an agent's input that asks for a task."""
    return {"messages": [("user", task)]}


def in_block(ground: Ground, task: str) -> None:
    """Invoke an agent in a ``with`` block."""
    with ground.watched(ground.runner.worker(task)) as worker, worker:
        ground.note_open(worker)
        worker.result = ground.agent.invoke(asked(task))
        ground.notes.say("ending")


def run(ground: Ground, task: str) -> None:
    """Have the runner run an agent, and sum up what it did."""
    with ground.watched(ground.runner.worker(task)) as worker:
        ground.runner.run(ground.agent, worker)


def stream(ground: Ground, task: str) -> None:
    """Read the stream of an agent whose model streams."""
    with ground.watched(ground.runner.worker(task)) as worker, worker:
        ground.note_open(worker)
        for _ in ground.streaming.stream(asked(task), stream_mode="messages"):
            pass
        ground.notes.say("ending")


def supervise(ground: Ground, task: str) -> None:
    """Run an agent that spawns workers, some of them in the background."""
    with ground.watched(ground.runner.worker(task)) as worker, worker:
        ground.note_open(worker)
        worker.result = ground.supervisor.invoke(asked(task))
        ground.notes.say("ending")


def in_threads(ground: Ground, task: str) -> None:
    """Invoke agents in several threads that share one worker, by its context and by a bound handler."""
    with ground.watched(ground.runner.worker(task)) as worker, worker:
        ground.note_open(worker)
        bound = {"callbacks": [MetricsCallbackHandler(worker.collector), ground.acknowledging]}
        carried = carry(ground.agent.invoke)
        with ThreadPoolExecutor(4) as pool:
            pending = [pool.submit(carried, asked(f"{task} carried {number}")) for number in range(2)]
            invoke = ground.agent.invoke
            pending += [pool.submit(invoke, asked(f"{task} bound {number}"), bound) for number in range(2)]
            errors = [future.exception() for future in pending]
        ground.notes.say("ending")
        for error in errors:
            if error is not None:
                raise error


def by_hand(ground: Ground, task: str) -> None:
    """Record events by hand into a worker."""
    with ground.watched(ground.runner.worker(task)) as worker, worker:
        ground.note_open(worker)
        for number in range(random.Random(task).randint(1, 200)):
            at = time.time()
            event = worker.collector.record_tool_call(tool_name="by hand", start_ts=at, end_ts=at, error=_SOME_ERROR)
            ground.notes.say_event(worker.worker_id, event.id or 0)
            if number % 20 == 0:
                time.sleep(0.01)
        ground.notes.say("ending")


def flushed(ground: Ground, task: str) -> None:
    """Record many events without a file and append them all with one write, again and again."""
    made = ground.runner.store.create(task, owner_id=ground.owner)
    ground.notes.say_of(made.worker_id, "made", made.job_id)
    collector = MetricsCollector(made.worker_id)
    rng = random.Random(task)
    for size in rng.choices((1, 20, 200), k=20):
        at = time.time()
        events = [
            collector.record_tool_call(tool_name="flushed", start_ts=at, end_ts=at, error=_SOME_ERROR)
            for _ in range(size)
        ]
        collector.flush(ground.runner.store)
        ground.notes.say_event(made.worker_id, events[0].id or 0, events[-1].id)
        time.sleep(0.01)


def at_once(ground: Ground, task: str) -> None:
    """Append a few events, then thousands with one write, and be killed meanwhile: from outside, nobody would hit it.

    A write lets other threads run, and one of them kills the process.
    """
    store = ground.runner.store
    made = store.create(task, owner_id=ground.owner)
    ground.notes.say_of(made.worker_id, "made", made.job_id)
    start_ts, end_ts, duration_ms = span(time.time_ns(), 0)
    event = ToolCall(
        tool="at once", start_ts=start_ts, end_ts=end_ts, duration_ms=duration_ms, success=False, error=_SOME_ERROR
    )
    events = [structs.replace(event, id=id_) for id_ in range(1, _AT_ONCE + 1)]
    began = time.monotonic()
    store.append(made.worker_id, events[:_FEW])
    ground.notes.say_event(made.worker_id, 1, _FEW)
    expected_s = (time.monotonic() - began) * (len(events) / _FEW - 1)
    threading.Timer(random.Random(task).uniform(0, expected_s), os.kill, (os.getpid(), signal.SIGKILL)).start()
    store.append(made.worker_id, events[_FEW:])
    ground.notes.say_event(made.worker_id, _FEW + 1, len(events))
    time.sleep(_LONG_S)


async def in_async_block(ground: Ground, task: str) -> None:
    """Invoke an agent in an ``async with`` block; some are cancelled."""
    rng = random.Random(task)
    with ground.watched(ground.runner.worker(task)) as worker:
        async with asyncio.timeout(rng.choice([None, None, rng.random()])), worker:
            ground.note_open(worker)
            worker.result = await ground.agent.ainvoke(asked(task))
            ground.notes.say("ending")


async def arun(ground: Ground, task: str) -> None:
    """Have the runner run an agent that does several things at once."""
    with ground.watched(ground.runner.worker(task)) as worker:
        await ground.runner.arun(ground.agent, worker)


async def astream(ground: Ground, task: str) -> None:
    """Read the stream of an agent whose model streams; some are given up in the middle."""
    left = random.Random(task).choice([3, 1000])
    with ground.watched(ground.runner.worker(task)) as worker:
        async with worker:
            ground.note_open(worker)
            async for _ in ground.streaming.astream(asked(task), stream_mode="messages"):
                left -= 1
                if not left:
                    break
            ground.notes.say("ending")


async def asupervise(ground: Ground, task: str) -> None:
    """Run an agent that spawns workers on the same loop."""
    with ground.watched(ground.runner.worker(task)) as worker:
        async with worker:
            ground.note_open(worker)
            worker.result = await ground.supervisor.ainvoke(asked(task))
            ground.notes.say("ending")


IN_THREADS = {lane.__name__: lane for lane in (in_block, run, stream, supervise, in_threads, by_hand, flushed)}
ON_THE_LOOP = {lane.__name__: lane for lane in (in_async_block, arun, astream, asupervise)}
LETHAL = {at_once.__name__: at_once}
"""What ends by the death of its process."""
