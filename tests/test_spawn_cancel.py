"""How spawned workers are cancelled: by a tool, by whoever waits for them, and by whoever spawned them.

Every wait has an end.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from langchain_swarmlet_metrics.threads import DaemonExecutor
from tests import spawning
from tests.spawning import LIMIT_S, Watched, aspawn, spawn, statuses, tools_of, until_ended, within

gate = spawning.gate


@pytest.mark.parametrize("job_id", [1, "1"])
async def test_cancel_running_async(runner, job_id):
    """A running asynchronous worker is stopped where it awaits."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def agent(_task):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    tools = tools_of(runner, agent, max_workers=1)
    await aspawn(tools, "dig", wait=False)
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    assert await tools["cancel_worker"].ainvoke({"job_id": job_id}) == "Worker job 1 is cancelled."
    assert statuses(runner) == {1: "cancelled"}
    await asyncio.wait_for(stopped.wait(), LIMIT_S)
    text = await tools["read_worker_result"].ainvoke({"job_id": 1})
    assert re.search(r"This worker was cancelled at \S+: CancelledError: cancelled on request", text)
    begun.clear()
    await aspawn(tools, "dig again", wait=False)
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    await tools["cancel_worker"].ainvoke({"job_id": 2})


async def test_cancel_what_somebody_waits_for(runner):
    """Who waits for a worker that is cancelled is told so, and is not cancelled itself."""
    begun = asyncio.Event()

    async def agent(_task):
        begun.set()
        await asyncio.Event().wait()

    tools = tools_of(runner, agent)
    waiting = asyncio.create_task(aspawn(tools, "dig"))
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    await tools["cancel_worker"].ainvoke({"job_id": 1})
    assert "This worker was cancelled at " in await asyncio.wait_for(waiting, LIMIT_S)


def test_cancel_running_sync(runner, loopback):
    """A running synchronous worker is cancelled at once; its agent stops when its model answers, and calls no tool."""
    hold, called = threading.Event(), []

    @tool
    def dig() -> str:
        """Dig."""
        called.append(True)
        return "a hole"

    executor = Watched()
    agent = create_agent(loopback.model(lambda _: Reply(tool_calls=[ToolRequest("dig")], hold=hold)), [dig])
    tools = tools_of(runner, agent, executor=executor)
    spawn(tools, "dig", wait=False)
    loopback.server.wait_for_requests(1)
    assert within(tools["cancel_worker"].invoke, {"job_id": 1}) == "Worker job 1 is cancelled."
    assert statuses(runner) == {1: "cancelled"}
    hold.set()
    executor.join()
    assert len(loopback.server.requests) == 1
    assert called == []
    (worker,) = runner.store.list()
    assert worker.status == "cancelled"
    assert [event.outcome for event in runner.store.events(worker.worker_id)] == ["cancelled"]


def test_cancelled_agent_without_tools_stops_at_its_next_call(runner, loopback):
    """An agent that would go on calling its model is stopped at the next call."""
    hold = threading.Event()
    model = loopback.model(lambda _: Reply(text="more", hold=hold))
    executor = Watched()

    def agent(_task):
        for _ in range(5):
            model.invoke("more?")

    tools = tools_of(runner, agent, executor=executor)
    spawn(tools, "talk", wait=False)
    loopback.server.wait_for_requests(1)
    within(tools["cancel_worker"].invoke, {"job_id": 1})
    hold.set()
    executor.join()
    assert len(loopback.server.requests) == 1


async def test_cancel_synchronous_agent_on_a_loop(runner, loopback):
    """A synchronous agent that runs in a thread of an asynchronous worker stops at its next call, too."""
    hold, ended = threading.Event(), threading.Event()
    model = loopback.model(lambda _: Reply(text="more", hold=hold))

    def agent(_task):
        try:
            for _ in range(5):
                model.invoke("more?")
        finally:
            ended.set()

    tools = tools_of(runner, agent)
    waiting = asyncio.create_task(aspawn(tools, "talk"))
    await asyncio.to_thread(loopback.server.wait_for_requests, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await until_ended(runner, 1) == "cancelled"
    hold.set()
    assert await asyncio.to_thread(ended.wait, LIMIT_S)
    assert len(loopback.server.requests) == 1


def test_cancel_queued(runner, gate):
    """A worker that waits for its turn is cancelled at once and never runs."""
    executor = Watched()
    tools = tools_of(runner, gate, max_workers=1, executor=executor)
    for task in ("one", "two", "three"):
        spawn(tools, task, wait=False)
    gate.wait_for(1)
    assert tools["cancel_worker"].invoke({"job_id": 2}) == "Worker job 2 is cancelled."
    assert statuses(runner) == {1: "running", 2: "cancelled", 3: "created"}
    gate.go.set()
    executor.join()
    assert gate.tasks == ["one", "three"]
    assert statuses(runner) == {1: "success", 2: "cancelled", 3: "success"}


def test_cancel_queued_that_somebody_waits_for(runner, gate):
    """Who waits for a queued worker that is cancelled goes on at once, although the queue does not move."""
    tools = tools_of(runner, gate, max_workers=1, executor=Watched())
    spawn(tools, "one", wait=False)
    gate.wait_for(1)
    waiting = DaemonExecutor().submit(tools["spawn_worker"].invoke, {"task": "two"})
    while 2 not in statuses(runner):
        time.sleep(0.005)
    assert within(tools["cancel_worker"].invoke, {"job_id": 2}) == "Worker job 2 is cancelled."
    assert "This worker was cancelled at " in waiting.result(LIMIT_S)
    assert gate.tasks == ["one"]


async def test_cancel_queued_async(runner):
    """On a loop the same holds."""
    begun, go, tasks = asyncio.Event(), asyncio.Event(), []

    async def agent(task):
        tasks.append(task)
        begun.set()
        await go.wait()

    tools = tools_of(runner, agent, max_workers=1)
    for task in ("one", "two", "three"):
        await aspawn(tools, task, wait=False)
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    assert await tools["cancel_worker"].ainvoke({"job_id": 2}) == "Worker job 2 is cancelled."
    assert statuses(runner) == {1: "running", 2: "cancelled", 3: "created"}
    go.set()
    assert [await until_ended(runner, job_id) for job_id in (1, 3)] == ["success"] * 2
    assert tasks == ["one", "three"]


def test_cancel_ended(runner):
    """A worker that has ended stays as it is, and the answer says how it ended."""
    tools = tools_of(runner, int)
    spawn(tools, "1")
    spawn(tools, "x")
    assert tools["cancel_worker"].invoke({"job_id": 1}) == "Worker job 1 has already ended: success."
    assert tools["cancel_worker"].invoke({"job_id": 2}) == "Worker job 2 has already ended: failed."
    assert statuses(runner) == {1: "success", 2: "failed"}


def test_cancel_twice(runner, gate):
    """A second cancellation says that the worker has already ended."""
    executor = Watched()
    tools = tools_of(runner, gate, executor=executor)
    spawn(tools, "dig", wait=False)
    gate.wait_for(1)
    assert tools["cancel_worker"].invoke({"job_id": 1}) == "Worker job 1 is cancelled."
    gate.go.set()
    executor.join()
    assert tools["cancel_worker"].invoke({"job_id": 1}) == "Worker job 1 has already ended: cancelled."


def test_cancel_what_was_started_elsewhere(runner):
    """A worker that was not spawned with these tools can't be cancelled with them."""
    tools = tools_of(runner, str.upper)
    with runner.worker("elsewhere"):
        assert tools["cancel_worker"].invoke({"job_id": 1}) == (
            "Error: worker job 1 was started elsewhere and can be cancelled only there. It is running."
        )
    assert statuses(runner) == {1: "success"}


def test_cancel_foreign(tmp_path, gate):
    """Another owner's running worker is not found, and runs on."""
    owners, executor = {"now": "ann"}, Watched()
    runner = WorkerRunner(tmp_path / "workers", owner_id=lambda: owners["now"])
    tools = tools_of(runner, gate, executor=executor)
    spawn(tools, "dig", wait=False)
    gate.wait_for(1)
    owners["now"] = "bob"
    missing = "Error: worker job 1 not found. Call list_workers to see the jobs there are."
    assert tools["cancel_worker"].invoke({"job_id": 1}) == missing
    assert statuses(runner) == {1: "running"}
    gate.go.set()
    executor.join()
    assert statuses(runner) == {1: "success"}


def test_cancel_while_it_starts(tmp_path, gate):
    """A worker that is cancelled while it starts ends as cancelled, on disk too."""
    runner = WorkerRunner(tmp_path / "workers", sinks=[lambda worker: gate(worker.task) and (lambda _event: None)])
    executor = Watched()
    tools = tools_of(runner, str.upper, executor=executor)
    spawn(tools, "dig", wait=False)
    gate.wait_for(1)
    cancelling = DaemonExecutor().submit(tools["cancel_worker"].invoke, {"job_id": 1})
    gate.go.set()
    executor.join()
    answer = cancelling.result(LIMIT_S)
    assert statuses(runner)[1] == ("cancelled" if answer == "Worker job 1 is cancelled." else "success")
    assert answer in ("Worker job 1 is cancelled.", "Worker job 1 has already ended: success.")


def test_cancel_wins_over_a_start_that_follows(runner):
    """A worker that was cancelled first is not started, and one that starts first is cancelled."""
    first = runner.worker("one")
    first.create()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        first.start()
    never_made = runner.worker("two")
    never_made.cancel()
    with pytest.raises(asyncio.CancelledError):
        never_made.create()
    assert statuses(runner) == {1: "cancelled"}
    assert len(list(runner.store.root.glob("*_*"))) == 1


async def test_supervisor_cancelled_while_it_waits(runner):
    """When a supervisor's task is cancelled, so is the worker that it waits for."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def agent(_task):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    supervisor = asyncio.create_task(aspawn(tools_of(runner, agent), "dig"))
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    supervisor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await supervisor
    await asyncio.wait_for(stopped.wait(), LIMIT_S)
    assert await until_ended(runner, 1) == "cancelled"


async def test_worker_cancelled_while_it_waits_for_its_own(runner):
    """When a worker that waits for one it spawned is cancelled, both are, and both slots are free again."""
    begun = asyncio.Event()

    async def agent(task):
        if task == "outer":
            return await aspawn(tools, "inner")
        if task == "inner":
            begun.set()
            await asyncio.Event().wait()
        return "quick"

    tools = tools_of(runner, agent, max_workers=1)
    await aspawn(tools, "outer", wait=False)
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    await tools["cancel_worker"].ainvoke({"job_id": 1})
    assert [await until_ended(runner, job_id) for job_id in (1, 2)] == ["cancelled"] * 2
    assert (await aspawn(tools, "next")).endswith("quick")
    assert (await aspawn(tools, "next")).endswith("quick")


async def test_supervisor_cancelled_while_the_folder_is_made(runner, monkeypatch):
    """When a supervisor is cancelled in the middle of spawning, the job does not wait for its turn for ever."""
    making, go = threading.Event(), threading.Event()
    create = runner.store.create

    def slow_create(*args, **kwargs):
        making.set()
        assert go.wait(LIMIT_S)
        return create(*args, **kwargs)

    monkeypatch.setattr(runner.store, "create", slow_create)
    supervisor = asyncio.create_task(aspawn(tools_of(runner, str.upper), "dig"))
    assert await asyncio.to_thread(making.wait, LIMIT_S)
    supervisor.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await supervisor
    assert statuses(runner) == {1: "cancelled"}


def test_loop_that_ends_cancels_its_workers(runner):
    """Workers that nobody waited for end with the loop they run on, as cancelled, queued ones too."""

    async def agent(_task):
        await asyncio.Event().wait()

    async def supervise():
        tools = tools_of(runner, agent, max_workers=1)
        for task in ("one", "two"):
            await aspawn(tools, task, wait=False)

    within(asyncio.run, supervise())
    assert statuses(runner) == {1: "cancelled", 2: "cancelled"}


def test_interrupted_wait_cancels_the_worker(runner, gate, monkeypatch):
    """Ctrl-C while a synchronous supervisor waits cancels the worker, which nobody will read."""

    def interrupted(_futures):
        raise KeyboardInterrupt

    monkeypatch.setattr("langchain_swarmlet_metrics.spawn.concurrent.futures.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tools_of(runner, gate)["spawn_worker"].invoke({"task": "dig"})
    assert statuses(runner) == {1: "cancelled"}
