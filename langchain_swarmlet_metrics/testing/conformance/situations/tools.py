"""Tools of an agent: called in parallel, failing in every way, made up by the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import ToolMessage
from langchain_core.tools import ToolException
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation
from langchain_swarmlet_metrics.testing.conformance.stage import question
from langchain_swarmlet_metrics.testing.openai_wire import Reply, ToolRequest, Usage

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from langchain_swarmlet_metrics.testing.conformance.stage import Stage
    from langchain_swarmlet_metrics.testing.openai_server import Request


def scripted(request: Request) -> Reply:
    """Ask for two additions at once, then for one more, then answer; each with a usage of its own."""
    step = sum(message["role"] == "assistant" for message in request.messages)
    if step == 0:
        calls = [ToolRequest("add", {"a": 1, "b": 2}), ToolRequest("add", {"a": 3, "b": 4})]
        return Reply(tool_calls=calls, usage=Usage(prompt_tokens=100, completion_tokens=10))
    if step == 1:
        call = ToolRequest("add", {"a": 3, "b": 7})
        return Reply(tool_calls=[call], usage=Usage(prompt_tokens=200, completion_tokens=20))
    return Reply(text="It is ten.", usage=Usage(prompt_tokens=300, completion_tokens=30))


def adder(stage: Stage) -> BaseTool:
    """Return a tool that works."""

    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return stage.tool(add)


def asking_for(name: str, **args: Any) -> Reply:
    """Return an answer that asks for one tool."""
    return Reply(tool_calls=[ToolRequest(name, args)])


async def _parallel(stage: Stage) -> None:
    await stage.invoke(create_agent(stage.model(scripted), [adder(stage)]), question())


async def _parallel_streamed(stage: Stage) -> None:
    agent = create_agent(stage.model(scripted, stream_usage=True), [adder(stage)])
    await stage.stream(agent, question(), stream_mode="messages")


async def _raises(stage: Stage) -> None:
    async def look_up(word: str) -> str:
        """Look up a word."""
        msg = f"no entry for {word}"
        raise ValueError(msg)

    agent = create_agent(stage.model(asking_for("look_up", word="ten")), [stage.tool(look_up)])
    await stage.fails(stage.invoke(agent, question()))


async def _handled(stage: Stage) -> None:
    async def look_up(word: str) -> str:
        """Look up a word."""
        msg = f"no entry for {word}"
        raise ToolException(msg)

    model = stage.model(asking_for("look_up", word="ten"), Reply(text="sorry"))
    await stage.invoke(create_agent(model, [stage.tool(look_up, handle_tool_error=True)]), question())


async def _handled_by_node(stage: Stage) -> None:
    async def look_up(word: str) -> str:
        """Look up a word."""
        msg = f"no entry for {word}"
        raise ValueError(msg)

    graph = StateGraph(MessagesState)
    graph.add_node("decide", stage.answering(stage.model(asking_for("look_up", word="ten"))))
    graph.add_node("act", ToolNode([stage.tool(look_up)], handle_tool_errors=True))
    graph.add_edge(START, "decide")
    graph.add_edge("decide", "act")
    await stage.invoke(graph.compile(), question())


async def _answers_error(stage: Stage) -> None:
    async def look_up() -> ToolMessage:
        """Look up a word."""
        return ToolMessage("no entry", tool_call_id="call_1", status="error")

    model = stage.model(asking_for("look_up"), Reply(text="sorry"))
    await stage.invoke(create_agent(model, [stage.tool(look_up)]), question())


async def _bad_arguments(stage: Stage) -> None:
    model = stage.model(asking_for("add", a="three"), Reply(text="sorry"))
    await stage.invoke(create_agent(model, [adder(stage)]), question())
    stage.notes.tool_calls.append(("add", "error"))


async def _one_of_two_raises(stage: Stage) -> None:
    async def look_up(word: str) -> str:
        """Look up a word."""
        msg = f"no entry for {word}"
        raise ValueError(msg)

    calls = [ToolRequest("look_up", {"word": "ten"}), ToolRequest("add", {"a": 1, "b": 2})]
    agent = create_agent(stage.model(Reply(tool_calls=calls)), [stage.tool(look_up), adder(stage)])
    await stage.fails(stage.invoke(agent, question()))


async def _retried(stage: Stage) -> None:
    async def look_up(word: str) -> str:
        """Look up a word."""
        if not stage.notes.tool_calls:
            msg = "not yet"
            raise ValueError(msg)
        return word

    model = stage.model(asking_for("look_up", word="ten"), Reply(text="It is ten."))
    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0)
    await stage.invoke(create_agent(model, [stage.tool(look_up)], middleware=[retry]), question())


async def _unknown(stage: Stage) -> None:
    model = stage.model(asking_for("subtract", a=3, b=1), Reply(text="sorry"))
    await stage.invoke(create_agent(model, [adder(stage)]), question())
    stage.notes.tool_calls.append(("subtract", "error"))


_RETURNED = "The tool returned, if with a `ToolMessage` of status `error`; not everybody calls that a failed call."

SITUATIONS = (
    Situation(
        name="agent with parallel tools",
        sentence="An agent calls two tools at once, then one more, then answers.",
        script=_parallel,
    ),
    Situation(
        name="agent, messages streamed",
        sentence="The same agent with its messages streamed.",
        script=_parallel_streamed,
    ),
    Situation(name="tool raises", sentence="A tool raises and with it the agent.", script=_raises),
    Situation(
        name="tool error handled by the tool",
        sentence="A tool with `handle_tool_error=True` raises ToolException; the model reads an error message.",
        script=_handled,
        disputed=_RETURNED,
    ),
    Situation(
        name="tool error handled by the graph",
        sentence="A tool raises and `ToolNode(handle_tool_errors=True)` turns that into an error message.",
        script=_handled_by_node,
    ),
    Situation(
        name="tool answers with an error",
        sentence='A tool returns `ToolMessage(status="error")`.',
        script=_answers_error,
        disputed=_RETURNED,
    ),
    Situation(
        name="bad tool arguments",
        sentence="The model's arguments do not fit the tool, which is not run; the model reads an error message.",
        script=_bad_arguments,
    ),
    Situation(
        name="one of two parallel tools raises",
        sentence="Of two tools called at once one raises and with it the agent.",
        script=_one_of_two_raises,
    ),
    Situation(
        name="tool retried by middleware",
        sentence="A tool raises, `ToolRetryMiddleware` calls it again, and it returns: two calls, one error.",
        script=_retried,
    ),
    Situation(
        name="unknown tool",
        sentence="The model asks for a tool that does not exist; it reads an error message.",
        script=_unknown,
        disputed="LangChain calls no tool and tells handlers nothing; a record of it can only be inferred.",
    ),
)
