"""Nothing that runs on the loop's thread blocks it, as ``langgraph dev`` would refuse."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager

import pytest
from blockbuster import BlockBuster, BlockingError
from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from tests.conftest import read_lines

ALLOWED = {
    *("os.stat", "os.listdir", "os.remove", "threading.Lock.acquire"),
    *("io.BufferedReader.read", "io.BufferedWriter.write", "io.TextIOWrapper.read", "io.TextIOWrapper.write"),
}
"""What ``langgraph dev`` lets block, besides everything in ``os.path``."""


@contextmanager
def guarded():
    """Refuse blocking calls on the loop's thread, in every module, as ``langgraph dev`` does."""
    guard = BlockBuster(excluded_modules=[])
    guard.functions["os.path.abspath"].can_block_in("inspect.py", "getmodule")
    for name in list(guard.functions):
        if name in ALLOWED or name.startswith("os.path."):
            del guard.functions[name]
    assert {"os.write", "os.mkdir", "os.replace"} <= set(guard.functions)
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


async def test_giving_way_on_a_loop():
    """A call that gives way to the pulse's thread blocks no loop, whether the guard was there first or the package."""
    assert time.sleep not in vars(inflight).values()  # which the guard would not see, or would refuse
    with guarded():
        assert inflight._give_way(time.perf_counter_ns()) > 0


@tool
async def ponder() -> str:
    """Ponder."""
    await asyncio.sleep(0.01)
    return "42"


def pondering(request):
    """Ask for a tool twice at once, then answer."""
    if request.messages[-1]["role"] == "tool":
        return Reply(text="42")
    return Reply(tool_calls=[ToolRequest("ponder"), ToolRequest("ponder")])


async def test_async_worker_never_blocks_the_loop(runner, loopback, tmp_path):
    """An asynchronous worker, its summary and the tools record every event with no blocking call on the loop."""
    agent = create_agent(loopback.model(pondering), [ponder])
    await agent.ainvoke({"messages": [("user", "warm up")]})  # first use of HTTP reads certificates
    tools = {tool.name: tool for tool in runner.supervisor_tools(worker=agent)}
    with guarded():
        with pytest.raises(BlockingError):
            (tmp_path / "the guard is up").mkdir()
        async with runner.worker("ponder") as worker:
            worker.result = await agent.ainvoke({"messages": [("user", worker.task)]})
        ran = await runner.arun(agent, "ponder again")
        spawned = await tools["spawn_worker"].ainvoke({"task": "ponder once more"})
        listed = await tools["list_workers"].ainvoke({})
        digest = await tools["read_worker_metrics"].ainvoke({"job_id": 1})
    assert (worker.status, ran.status) == ("success", "success")
    assert len(read_lines(worker.dir / "metrics.jsonl")) == len(read_lines(ran.dir / "metrics.jsonl")) == 4
    assert "Execution time:" in spawned
    assert len(listed.splitlines()) == 3
    assert "2 LLM calls" in digest
