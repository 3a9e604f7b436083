"""Work that is cancelled, timed out or abandoned: the caller left, nothing went wrong."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool

from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation
from langchain_swarmlet_metrics.testing.conformance.stage import question
from langchain_swarmlet_metrics.testing.openai_wire import Reply, ToolRequest

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from langchain_swarmlet_metrics.testing.conformance.stage import Stage

_TIMEOUT_S = 0.2
_GIVE_UP_S = 10.0
_SENT = 3  # chunks of a stream that never ends; the first one names the role


def _unanswered(_request: object) -> Reply:
    """Never answer, or never end the stream; the server lets go when the client leaves."""
    return Reply(text="a b c d", hold=threading.Event(), hold_after=_SENT - 1)


async def _ten_cancelled(stage: Stage) -> None:
    model = stage.model(_unanswered)
    tasks = [asyncio.create_task(model.ainvoke("hello", stage.config)) for _ in range(10)]
    await stage.requested(10)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _wait_for(stage: Stage) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stage.model(_unanswered).ainvoke("hello", stage.config), _TIMEOUT_S)


async def _shielded(stage: Stage) -> None:
    slow = stage.model(Reply(text="x", delay_s=2 * _TIMEOUT_S))
    task = asyncio.create_task(slow.ainvoke("hello", stage.config))
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), _TIMEOUT_S)
    await task


async def _task_group(stage: Stage) -> None:
    async def fail() -> None:
        await stage.requested(2)
        msg = "a sibling failed"
        raise ValueError(msg)

    model = stage.model(_unanswered)
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(model.ainvoke("hello", stage.config))
            group.create_task(fail())


async def _step_timeout(stage: Stage) -> None:
    graph = stage.answering(stage.model(_unanswered))
    graph.step_timeout = _TIMEOUT_S
    await stage.fails(stage.invoke(graph, question()))


async def _chain(stage: Stage) -> None:
    chain = RunnableLambda(lambda text: text) | stage.model(_unanswered)
    await stage.cancel(chain.ainvoke("hello", stage.config), stage.requested())


async def _agent(stage: Stage) -> None:
    agent = create_agent(stage.model(_unanswered), [])
    await stage.cancel(agent.ainvoke(question(), stage.config), stage.requested())


async def _stream_closed(stage: Stage) -> None:
    await stage.stream(stage.model(_unanswered, stream_usage=True), "hello", chunks=2)


async def _stream_cancelled(stage: Stage) -> None:
    async def read() -> None:
        chunks: list[object] = []
        async for chunk in model.astream("hello", stage.config):
            chunks.append(chunk)
            if len(chunks) == _SENT:  # before that, the HTTP client itself may lose the cancellation
                waiting.set()

    model = stage.model(_unanswered, stream_usage=True)
    waiting = asyncio.Event()
    await stage.cancel(read(), waiting.wait())


async def _agent_stream_closed(stage: Stage) -> None:
    # Synchronously LangGraph waits for the node to end, so the answer must have an end.
    slow = Reply(text="a b c d e f", chunk_delay_s=0.05)
    agent = create_agent(stage.model(slow, stream_usage=True), [])
    await stage.stream(agent, question(), chunks=2, stream_mode="messages")


def _endless(stage: Stage, begun: asyncio.Event) -> BaseTool:
    async def wait_for_news(topic: str) -> str:
        """Wait until there is news."""
        with stage.noting("wait_for_news"):
            begun.set()
            await asyncio.Event().wait()
        return topic

    return StructuredTool.from_function(coroutine=wait_for_news)


async def _tool(stage: Stage) -> None:
    begun = asyncio.Event()
    tool = _endless(stage, begun)
    await stage.cancel(tool.ainvoke({"topic": "weather"}, stage.config), begun.wait())


async def _thread_of_tool(stage: Stage) -> None:
    begun, done, finished = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def compute(topic: str) -> str:
        """Compute in a thread, which cannot be cancelled."""
        with stage.noting("compute"):
            loop.call_soon_threadsafe(begun.set)
            done.wait(_GIVE_UP_S)
        finished.set()
        return topic

    ask = Reply(tool_calls=[ToolRequest("compute", {"topic": "weather"})])
    agent = create_agent(stage.model(ask), [StructuredTool.from_function(compute)])
    await stage.cancel(agent.ainvoke(question(), stage.config), begun.wait())
    done.set()
    await asyncio.to_thread(finished.wait, _GIVE_UP_S)
    stage.notes.either.append(("tool calls", "ok", "cancelled"))


async def _tool_of_agent(stage: Stage) -> None:
    begun = asyncio.Event()
    ask = Reply(tool_calls=[ToolRequest("wait_for_news", {"topic": "weather"})])
    agent = create_agent(stage.model(ask), [_endless(stage, begun)])
    await stage.cancel(agent.ainvoke(question(), stage.config), begun.wait())


SITUATIONS = (
    Situation(
        name="ten cancelled calls",
        sentence="The tasks of ten `ainvoke` are cancelled while they wait for the answer.",
        script=_ten_cancelled,
        modes=("async",),
    ),
    Situation(
        name="wait_for timeout",
        sentence="`asyncio.wait_for` gives up on a call.",
        script=_wait_for,
        modes=("async",),
    ),
    Situation(
        name="shielded call",
        sentence="`asyncio.wait_for` gives up on a call that `asyncio.shield` protects; the call is answered later.",
        script=_shielded,
        modes=("async",),
    ),
    Situation(
        name="task group",
        sentence="One task of an `asyncio.TaskGroup` fails, which cancels two calls beside it.",
        script=_task_group,
        modes=("async",),
    ),
    Situation(
        name="graph's step timeout",
        sentence="LangGraph's `step_timeout` ends a graph whose model waits for the answer.",
        script=_step_timeout,
        modes=("async",),
    ),
    Situation(
        name="cancelled chain",
        sentence="A chain is cancelled while its model waits for the answer.",
        script=_chain,
        modes=("async",),
    ),
    Situation(
        name="cancelled agent",
        sentence="An agent is cancelled while its model waits for the answer.",
        script=_agent,
        modes=("async",),
    ),
    Situation(
        name="stream closed early",
        sentence="The reader of a streamed call closes it after two chunks.",
        script=_stream_closed,
    ),
    Situation(
        name="cancelled stream",
        sentence="The task that reads a streamed call is cancelled.",
        script=_stream_cancelled,
        modes=("async",),
    ),
    Situation(
        name="agent's stream closed early",
        sentence="The reader of an agent's messages closes the stream after two chunks; synchronously the call is "
        "still answered, asynchronously it is cancelled.",
        script=_agent_stream_closed,
    ),
    Situation(
        name="cancelled tool",
        sentence="An asynchronous tool is cancelled while it waits.",
        script=_tool,
        modes=("async",),
    ),
    Situation(
        name="cancelled tool of an agent",
        sentence="An agent is cancelled while its tool waits.",
        script=_tool_of_agent,
        modes=("async",),
    ),
    Situation(
        name="cancelled agent, tool in a thread",
        sentence="An agent is cancelled while a synchronous tool of it runs in a thread, which goes on to its end: the "
        "tool's call may be said to have returned or to have been cancelled.",
        script=_thread_of_tool,
        modes=("async",),
    ),
)
