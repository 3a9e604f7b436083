"""A real supervisor agent reads, through its tools, how a real worker agent performed."""

from __future__ import annotations

import re

from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_swarmlet_metrics.testing import Reply, ToolRequest


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def working(request):
    """Multiply, then answer with what the tool said; the worker's model takes its time."""
    last = request.messages[-1]
    if last["role"] == "tool":
        return Reply(text=f"The result is {last['content']}.", delay_s=0.02)
    return Reply(tool_calls=[ToolRequest("multiply", {"a": 7, "b": 6})], delay_s=0.02)


def supervising(request):
    """Read the result of job 1, then its digest, then answer with the execution time as the tool messages have it."""
    answers = [message["content"] for message in request.messages if message["role"] == "tool"]
    if not answers:
        return Reply(tool_calls=[ToolRequest("read_worker_result", {"job_id": 1})])
    if len(answers) == 1:
        return Reply(tool_calls=[ToolRequest("read_worker_metrics", {"job_id": "1"})])
    return Reply(text=f"It took {re.search(r'Execution time: (.*)', answers[0])[1]}.")


def check(runner, worker, messages):
    """Assert that the supervisor's tool messages and answer hold what the worker's files say."""
    result, digest = [message.content for message in messages if message.type == "tool"]
    milliseconds = int(re.search(r"^Execution time: (\d+)ms$", result, re.MULTILINE)[1])
    assert milliseconds > 0
    assert milliseconds == worker.duration_ms == runner.store.read(1).duration_ms
    head = f"Result from worker job 1 (worker {worker.worker_id}):"
    assert result == f"{head}\n\nExecution time: {milliseconds}ms\n\nThe result is 42."
    assert f"Execution time: {milliseconds}ms\n2 LLM calls (" in digest
    assert "- multiply: 1 call, 0 errors, " in digest
    assert messages[-1].text == f"It took {milliseconds}ms."


def test_read_worker_result_includes_duration(runner, loopback):
    """The execution time that a supervisor reads is above zero and the one in the worker's metadata.json."""
    worker = runner.run(create_agent(loopback.model(working), [multiply]), "calculate 7*6")
    supervisor = create_agent(loopback.model(supervising), runner.supervisor_tools())
    check(runner, worker, supervisor.invoke({"messages": [("user", "How long did it take?")]})["messages"])


async def test_read_worker_result_includes_duration_async(runner, loopback):
    """On a loop the same holds."""
    worker = await runner.arun(create_agent(loopback.model(working), [multiply]), "calculate 7*6")
    supervisor = create_agent(loopback.model(supervising), runner.supervisor_tools())
    check(runner, worker, (await supervisor.ainvoke({"messages": [("user", "How long did it take?")]}))["messages"])


def test_spawn_worker_includes_duration(runner, loopback):
    """A supervisor that spawns its worker and waits gets the execution time with the result."""

    def delegating(request):
        last = request.messages[-1]
        if last["role"] == "tool":
            return Reply(text=last["content"])
        return Reply(tool_calls=[ToolRequest("spawn_worker", {"task": "calculate 7*6"})])

    worker = create_agent(loopback.model(working), [multiply])
    supervisor = create_agent(loopback.model(delegating), runner.supervisor_tools(worker=worker))
    answer = supervisor.invoke({"messages": [("user", "What is 7*6?")]})["messages"][-1].text
    metadata = runner.store.read(1)
    assert metadata.duration_ms > 0
    assert f"Execution time: {metadata.duration_ms}ms\n\nThe result is 42." in answer
    assert metadata.totals.tool_calls == 1
