"""Spawned workers: how many at once, how deep, and who spawned them.

The agents wait on events, so that what overlaps is decided here. Every wait has an end.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver

from langchain_swarmlet_metrics.events import ToolCall
from langchain_swarmlet_metrics.metadata import Parent
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from langchain_swarmlet_metrics.threads import DaemonExecutor
from tests import spawning
from tests.conftest import read_lines
from tests.spawning import LIMIT_S, Watched, aspawn, spawn, statuses, tools_of, until_ended, within

gate = spawning.gate


# Spawning


def test_spawn_and_wait(runner):
    """A spawned worker's result comes back as the result tool would give it."""
    tools = tools_of(runner, lambda task: f"{task} done")
    text = spawn(tools, "dig")
    assert re.fullmatch(r"Result from worker job 1 \(worker \S+_dig\):\n\nExecution time: \d+ms\n\ndig done", text)
    assert tools["read_worker_result"].invoke({"job_id": 1}) == text


async def test_spawn_and_wait_async(runner):
    """On a loop, the worker runs on it."""

    async def agent(task):
        return f"{task} on loop {id(asyncio.get_running_loop())}"

    text = await aspawn(tools_of(runner, agent), "dig")
    assert text.endswith(f"dig on loop {id(asyncio.get_running_loop())}")


def test_failing_worker_is_told(runner):
    """A worker that failed is told as failed to whoever waited for it."""
    assert "This worker failed at " in spawn(tools_of(runner, int), "x")


def test_spawn_without_waiting(runner, gate):
    """Without waiting, the supervisor gets a job number at once and can read the result later."""
    executor = Watched()
    tools = tools_of(runner, gate, executor=executor)
    answer = spawn(tools, "dig", wait=False)
    assert answer == "Started worker job 1. Read its result later with read_worker_result(1)."
    gate.wait_for(1)
    assert "This worker is still running" in tools["read_worker_result"].invoke({"job_id": 1})
    gate.go.set()
    executor.join()
    assert tools["read_worker_result"].invoke({"job_id": 1}).endswith("dig done")


async def test_spawn_without_waiting_async(runner):
    """Without waiting, an asynchronous worker runs beside the supervisor on the same loop."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        await go.wait()
        return f"{task} done"

    tools = tools_of(runner, agent)
    assert (await aspawn(tools, "dig", wait=False)).startswith("Started worker job 1.")
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    assert statuses(runner) == {1: "running"}
    go.set()
    assert await until_ended(runner, 1) == "success"


def test_job_is_there_when_spawn_returns(runner, gate):
    """The folder and the job number exist before the worker gets its turn."""
    tools = tools_of(runner, gate, max_workers=1)
    for _ in range(3):
        spawn(tools, "same", wait=False)
    assert set(statuses(runner)) == {1, 2, 3}
    assert len(list(runner.store.root.glob("*_same*"))) == 3


# How many at once


def test_max_workers(runner, gate):
    """No more run at once than allowed; the others wait as created and start in the order they were spawned."""
    executor = Watched()
    tools = tools_of(runner, gate, max_workers=2, executor=executor)
    for number in range(5):
        spawn(tools, f"task {number}", wait=False)
    gate.wait_for(2)
    assert sorted(statuses(runner).values()) == ["created"] * 3 + ["running"] * 2
    assert tools["list_workers"].invoke({"status": "created"}).count("job") == 3
    gate.go.set()
    executor.join()
    assert set(statuses(runner).values()) == {"success"}
    assert gate.peak == 2
    assert set(gate.tasks[:2]) == {"task 0", "task 1"}


async def test_max_workers_async(runner):
    """On a loop the same limit holds."""
    go = asyncio.Event()
    tasks, inside, peak = [], 0, 0

    async def agent(task):
        nonlocal inside, peak
        tasks.append(task)
        inside += 1
        peak = max(peak, inside)
        await go.wait()
        inside -= 1

    tools = tools_of(runner, agent, max_workers=2)
    for number in range(5):
        await aspawn(tools, f"task {number}", wait=False)
    while len(tasks) < 2:
        await asyncio.sleep(0.005)
    assert sorted(statuses(runner).values()) == ["created"] * 3 + ["running"] * 2
    go.set()
    assert [await until_ended(runner, job_id) for job_id in range(1, 6)] == ["success"] * 5
    assert peak == 2
    assert set(tasks[:2]) == {"task 0", "task 1"}


async def test_threads_and_loop_share_the_limit(runner, gate):
    """Workers that were spawned synchronously and on a loop wait in one queue."""
    executor = Watched()
    tools = tools_of(runner, gate, max_workers=1, executor=executor)
    await asyncio.to_thread(spawn, tools, "in a thread", False)
    await asyncio.to_thread(gate.wait_for, 1)
    await aspawn(tools, "on the loop", wait=False)
    await asyncio.to_thread(spawn, tools, "in a thread again", False)
    assert statuses(runner) == {1: "running", 2: "created", 3: "created"}
    gate.go.set()
    assert [await until_ended(runner, job_id) for job_id in (1, 2, 3)] == ["success"] * 3
    assert gate.tasks == ["in a thread", "on the loop", "in a thread again"]
    assert gate.peak == 1
    await asyncio.to_thread(executor.join)


def test_slots_are_given_back(runner):
    """Whether workers end well, fail or cannot start, their slots are free again."""
    tools = tools_of(runner, int, max_workers=1)
    for task in ("1", "x", "2", "y", "3"):
        spawn(tools, task)
    assert list(statuses(runner).values()) == ["success", "failed", "success", "failed", "success"]


def test_worker_that_cannot_start(tmp_path, monkeypatch):
    """A worker whose start can't be noted runs all the same, and holds up nobody."""
    runner = WorkerRunner(tmp_path / "workers")
    start, tools = runner.store.start, tools_of(runner, str.upper, max_workers=1)
    monkeypatch.setattr(runner.store, "start", no_room)
    assert spawn(tools, "one").endswith("ONE")
    monkeypatch.setattr(runner.store, "start", start)
    assert spawn(tools, "two").endswith("TWO")


def no_room(_metadata):
    """Fail as a full disk does."""
    msg = "no room"
    raise OSError(msg)


async def test_worker_that_cannot_start_async(tmp_path, monkeypatch):
    """On a loop the same holds."""
    runner = WorkerRunner(tmp_path / "workers")
    monkeypatch.setattr(runner.store, "start", no_room)
    tools = tools_of(runner, str.upper, max_workers=1)
    for _ in range(2):
        assert (await aspawn(tools, "one")).endswith("ONE")


# Workers that spawn workers


def nesting(runner, depth, **options):
    """Return tools whose workers spawn one more each, until the task is 0, and wait for it."""

    def agent(task):
        if task == "0":
            return "bottom"
        return spawn(tools, str(int(task) - 1))

    tools = tools_of(runner, agent, max_depth=depth, **options)
    return tools


def test_nested_spawning_with_one_slot(runner):
    """A worker that waits for one it spawned gives its slot to it, so that nobody waits for ever."""
    assert spawn(nesting(runner, 4, max_workers=1), "3").endswith("bottom")
    assert set(statuses(runner).values()) == {"success"}
    assert len(statuses(runner)) == 4


async def test_nested_spawning_with_one_slot_async(runner):
    """On a loop the same holds."""

    async def agent(task):
        return "bottom" if task == "0" else await aspawn(tools, str(int(task) - 1))

    tools = tools_of(runner, agent, max_workers=1, max_depth=4)
    assert (await aspawn(tools, "3")).endswith("bottom")


def test_slots_after_nested_spawning(runner, gate):
    """A worker that has waited takes its slot back: afterwards no more run at once than before."""

    def agent(task):
        return spawn(tools, task[1:]) if task.startswith("x") else gate(task)

    executor = Watched()
    tools = tools_of(runner, agent, max_workers=1, executor=executor)
    gate.go.set()
    spawn(tools, "xx bottom")
    gate.wait_for(1)
    gate.go.clear()
    for number in range(3):
        spawn(tools, f"task {number}", wait=False)
    gate.wait_for(1)
    assert list(statuses(runner).values()).count("created") == 2
    gate.go.set()
    executor.join()
    assert gate.peak == 1


async def test_nested_spawning_from_a_thread_of_an_asynchronous_worker(runner):
    """A synchronous agent on a loop spawns from its thread and waits there."""
    assert (await aspawn(nesting(runner, 4, max_workers=1), "3")).endswith("bottom")


def test_nested_spawning_in_a_small_pool(runner):
    """In a user's pool with a single thread, a worker that waits for one it spawned does not wait for ever."""
    with ThreadPoolExecutor(1) as pool:
        assert spawn(nesting(runner, 4, max_workers=8, executor=pool), "3").endswith("bottom")


def test_nested_spawning_from_a_block_inside_a_worker(runner):
    """A spawned worker that opens a block of its own around its spawning still gives its slot away."""

    def agent(task):
        if task == "inner":
            return "inner done"
        with runner.worker("block"):
            return spawn(tools, "inner")

    tools = tools_of(runner, agent, max_workers=1)
    assert spawn(tools, "outer").endswith("inner done")


def test_two_kinds_of_workers_that_spawn_each_other(runner):
    """Slots are given away across two sets of tools as well."""

    def digger(task):
        return spawn(painters, task[1:]) if task else "bottom"

    def painter(task):
        return spawn(diggers, task[1:]) if task else "bottom"

    diggers = tools_of(runner, digger, max_workers=1, max_depth=9)
    painters = tools_of(runner, painter, max_workers=1, max_depth=9)
    assert spawn(diggers, "xxxxx").endswith("bottom")


@pytest.mark.parametrize("max_workers", [1, 2])
def test_several_waits_of_one_worker_free_one_slot(runner, gate, max_workers):
    """A worker that waits for several at once makes room for one more, not for all of them."""

    def agent(task):
        if task != "outer":
            return gate(task)
        threads = [DaemonExecutor().submit(copy_context().run, spawn, tools, f"inner {n}") for n in range(4)]
        assert not wait(threads, timeout=LIMIT_S).not_done
        return "outer done"

    executor = Watched()
    tools = tools_of(runner, agent, max_workers=max_workers, executor=executor)
    spawn(tools, "outer", wait=False)
    gate.wait_for(max_workers)
    while len(statuses(runner)) < 5:
        time.sleep(0.005)
    assert sorted(statuses(runner).values()) == ["created"] * (4 - max_workers) + ["running"] * (1 + max_workers)
    gate.go.set()
    executor.join()
    assert (len(gate.tasks), gate.peak) == (4, max_workers)
    assert spawn(tools, "inner again").endswith("inner again done")


def test_depth_is_limited(runner):
    """Workers that would be nested too deep are refused with a sentence, and no folder is made."""
    answer = spawn(nesting(runner, 2), "5")
    assert answer.endswith("Error: workers may be nested 2 deep at most; do this task yourself.")
    assert len(statuses(runner)) == 2


async def test_depth_is_limited_async(runner):
    """On a loop the same holds, also for workers that nobody waits for."""
    refusals = []

    async def agent(task):
        answer = await aspawn(tools, task, wait=False)
        if answer.startswith("Error: "):
            refusals.append(answer)

    tools = tools_of(runner, agent, max_depth=3)
    await aspawn(tools, "more", wait=False)
    while not refusals:
        await asyncio.sleep(0.005)
    assert [await until_ended(runner, job_id) for job_id in (1, 2, 3)] == ["success"] * 3
    assert set(statuses(runner)) == {1, 2, 3}


def test_depth_one_lets_the_supervisor_spawn(runner):
    """With a depth of 1 only the supervisor spawns, and it may be a worker itself."""
    tools = nesting(runner, 1)
    with runner.worker("supervise"):
        assert spawn(tools, "0").endswith("bottom")
        assert "nested 1 deep at most" in spawn(tools, "1")


# The user's own executor


def test_own_executor(runner):
    """Workers that are spawned synchronously run in the user's threads."""
    names = []
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
        tools = tools_of(runner, lambda _: names.append(threading.current_thread().name), executor=pool)
        spawn(tools, "one")
        spawn(tools, "two", wait=False)
    assert len(names) == 2
    assert all(name.startswith("mine") for name in names)
    assert set(statuses(runner).values()) == {"success"}


def test_executor_that_is_shut_down(runner):
    """An executor that takes no more work is answered with a sentence; the job ends as cancelled."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    tools = tools_of(runner, str.upper, executor=pool, max_workers=1)
    for _ in range(2):
        answer = spawn(tools, "late")
        assert answer.startswith("Error: the worker can't be started (cannot schedule new futures after shutdown)")
    assert set(statuses(runner).values()) == {"cancelled"}
    assert runner.store.read(1).error == (
        "CancelledError: it could not be started: cannot schedule new futures after shutdown"
    )


def test_executor_of_processes(runner):
    """A worker runs in the process that spawns it; who gives an executor of others is told at once."""
    with ProcessPoolExecutor(1) as pool, pytest.raises(TypeError, match="give one that runs them in threads"):
        runner.supervisor_tools(worker=str.upper, executor=pool)


class Refusing(ThreadPoolExecutor):
    """Fail with what it is given to do, as one does that can't send it to where it runs things."""

    def submit(self, fn, /, *args, **kwargs):
        """Return a future that has failed."""
        return super().submit(lambda: 1 / 0)


def test_executor_that_fails(runner):
    """Why a worker never began is its error, also for who has waited for it."""
    tools = tools_of(runner, str.upper, executor=Refusing(1), max_workers=1)
    answer = spawn(tools, "try")
    assert "CancelledError: it could not be run: ZeroDivisionError: division by zero" in answer
    assert runner.store.read(1).status == "cancelled"


async def test_executor_that_drops_what_it_has(runner, gate):
    """Workers that the user's executor drops before they began end as cancelled."""
    pool = ThreadPoolExecutor(1)
    tools = tools_of(runner, gate, executor=pool)
    for task in ("one", "two"):
        spawn(tools, task, wait=False)
    await asyncio.to_thread(gate.wait_for, 1)
    pool.shutdown(wait=False, cancel_futures=True)
    assert await until_ended(runner, 2) == "cancelled"
    assert runner.store.read(2).error == "CancelledError: it was dropped before it could start"
    gate.go.set()
    assert await until_ended(runner, 1) == "success"
    assert gate.tasks == ["one"]


# Who spawned them, and what they see of that


def delegating(request):
    """Spawn a worker as the supervisor, then answer; as the worker, answer at once, in several words."""
    if "spawn_worker" not in request.tools:
        return Reply(text="words of the worker", chunks=4)
    if request.messages[-1]["role"] == "tool":
        return Reply(text="words of the supervisor", chunks=4)
    return Reply(tool_calls=[ToolRequest("spawn_worker", {"task": "dig"})])


def supervisor_on(runner, loopback, **options):
    """Return a real supervisor agent whose workers are real agents, all with the same model."""
    model = loopback.model(delegating, stream_usage=True)
    return create_agent(model, runner.supervisor_tools(worker=create_agent(model, [])), **options)


def check_parents(runner, boss):
    """Assert that the spawned worker names its parent and the very call that spawned it."""
    (call,) = [event for event in read_lines(boss.dir / "metrics.jsonl") if isinstance(event, ToolCall)]
    (spawned,) = [found for found in runner.store.list() if found.worker_id != boss.worker_id]
    assert call.tool == "spawn_worker"
    assert spawned.parent == Parent(worker_id=boss.worker_id, event_id=call.id)
    assert (boss.totals.llm_calls, boss.totals.tool_calls) == (2, 1)
    assert (spawned.totals.llm_calls, spawned.totals.tool_calls) == (1, 0)


def test_parent(runner, loopback):
    """A spawned worker's metadata names the worker and the call that spawned it; each records its own calls only."""
    check_parents(runner, runner.run(supervisor_on(runner, loopback), "supervise"))


async def test_parent_async(runner, loopback):
    """On a loop the same holds."""
    check_parents(runner, await runner.arun(supervisor_on(runner, loopback), "supervise"))


def test_no_parent(runner):
    """A worker that is spawned outside of any worker has no parent."""
    spawn(tools_of(runner, str.upper), "dig")
    assert runner.store.read(1).parent is None


def check_stream(memory, streamed):
    """Assert that a supervisor's stream and its checkpoints hold nothing of its worker's."""
    said = "".join(chunk.text for chunk, _ in streamed if isinstance(chunk, AIMessageChunk))
    assert said == "words of the supervisor"
    assert {details["langgraph_checkpoint_ns"].split(":")[0] for _, details in streamed} == {"model", "tools"}
    saved = list(memory.list(None))
    assert {entry.config["configurable"]["thread_id"] for entry in saved} == {"boss"}
    assert {entry.config["configurable"].get("checkpoint_ns", "") for entry in saved} == {""}
    messages = saved[0].checkpoint["channel_values"]["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]


BOSS = {"configurable": {"thread_id": "boss"}}


def test_worker_is_isolated_from_the_supervisors_graph(runner, loopback):
    """A worker's tokens and checkpoints don't leak into the graph of the supervisor that spawned it."""
    memory = InMemorySaver()
    supervisor = supervisor_on(runner, loopback, checkpointer=memory)
    question = {"messages": [("user", "supervise")]}
    check_stream(memory, list(supervisor.stream(question, BOSS, stream_mode="messages")))
    assert statuses(runner) == {1: "success"}


async def test_worker_is_isolated_from_the_supervisors_graph_async(runner, loopback):
    """On a loop the same holds."""
    memory = InMemorySaver()
    supervisor = supervisor_on(runner, loopback, checkpointer=memory)
    question = {"messages": [("user", "supervise")]}
    check_stream(memory, [item async for item in supervisor.astream(question, BOSS, stream_mode="messages")])
    assert statuses(runner) == {1: "success"}


def test_parallel_spawns_of_a_real_supervisor(runner, loopback):
    """Workers that a model asks for in one answer run at the same time."""
    together = threading.Barrier(3, timeout=LIMIT_S)

    def agent(task):
        together.wait()
        return f"{task} done"

    def reply(request):
        if request.messages[-1]["role"] == "tool":
            return Reply(text="all done")
        return Reply(tool_calls=[ToolRequest("spawn_worker", {"task": f"task {n}"}) for n in range(3)])

    supervisor = create_agent(loopback.model(reply), runner.supervisor_tools(worker=agent))
    answers = within(supervisor.invoke, {"messages": [("user", "go")]})["messages"]
    assert [message.content.splitlines()[-1] for message in answers if message.type == "tool"] == [
        "task 0 done",
        "task 1 done",
        "task 2 done",
    ]


# The end of the interpreter


def leave(script, *arguments):
    """Start a script that ends while a worker runs."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


LEAVE_WITH_A_CALLABLE = """
import sys, threading
from langchain_swarmlet_metrics.runner import WorkerRunner

begun = threading.Event()

def agent(task):
    begun.set()
    threading.Event().wait()

tools = {tool.name: tool for tool in WorkerRunner(sys.argv[1]).supervisor_tools(worker=agent, max_workers=1)}
for task in ("one", "two"):
    tools["spawn_worker"].invoke({"task": task, "wait": False})
assert begun.wait(20)
"""

LEAVE_WITH_AN_AGENT = """
import sys
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langchain_swarmlet_metrics.runner import WorkerRunner

model = ChatOpenAI(model="gpt-5-mini", api_key="loopback", base_url=sys.argv[2], max_retries=0)
tools = {tool.name: tool for tool in WorkerRunner(sys.argv[1]).supervisor_tools(worker=create_agent(model, []))}
tools["spawn_worker"].invoke({"task": "one", "wait": False})
input()
"""


def test_interpreter_exit(runner):
    """A process that ends while spawned workers run or wait leaves them cancelled and does not wait for them."""
    with leave(LEAVE_WITH_A_CALLABLE, runner.store.root) as process:
        _, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (0, "")
    assert statuses(runner) == {1: "cancelled", 2: "cancelled"}


def test_interpreter_exit_in_the_middle_of_a_call(runner, loopback):
    """So does one whose worker waits for its model's answer."""
    hold = threading.Event()
    server = loopback.serve(lambda _: Reply(text="x", hold=hold))
    with leave(LEAVE_WITH_AN_AGENT, runner.store.root, server.url) as process:
        server.wait_for_requests(1, timeout_s=LIMIT_S)
        _, errors = process.communicate("\n", timeout=LIMIT_S)
    hold.set()
    assert (process.returncode, errors) == (0, "")
    assert statuses(runner) == {1: "cancelled"}
    worker = runner.store.read(1)
    assert [event.outcome for event in runner.store.events(worker.worker_id)] == ["cancelled"]
    assert json.loads((runner.store.root / worker.worker_id / "metadata.json").read_bytes())["totals"]["errors"] == 0
