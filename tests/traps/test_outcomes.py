"""Traps 15 to 25: what succeeded, failed, was interrupted or handed off."""

from __future__ import annotations

from typing import TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.testing import Reply, ToolRequest, Usage
from tests.conftest import recording


@tool
def refuse(text: str) -> str:
    """Refuse."""
    msg = f"no {text}"
    raise ToolException(msg)


@tool
def break_down(number: int) -> str:
    """Break down."""
    msg = "broken"
    raise ValueError(msg)


refuse.handle_tool_error = True


def asked(name, **args):
    """Return a tool call as an agent makes it."""
    return {"type": "tool_call", "id": "call_1", "name": name, "args": args}


def tools_only(*tools, **options):
    """Return a graph that only runs tools."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(list(tools), **options))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    return graph.compile()


def asking(name, **args):
    """Return the state in which an agent has asked for a tool."""
    calls = [{"name": name, "args": args, "id": "call_1"}]
    return {"messages": [HumanMessage("go"), AIMessage("", tool_calls=calls)]}


async def both(runnable, given, config=None):
    """Run synchronously, then asynchronously."""
    runnable.invoke(given, config)
    await runnable.ainvoke(given, config)


async def test_trap_15_handled_tool_exception():
    """A handled ToolException comes as a message that says error: a failed call."""
    with recording() as events:
        await both(refuse, asked("refuse", text="way"))
    assert [(event.success, event.error) for event in events] == [(False, "no way")] * 2


async def test_trap_16_handled_without_tool_call_id():
    """A handled ToolException without an id comes as plain text; nothing is guessed from it."""
    with recording() as events:
        await both(refuse, {"text": "way"})
    assert [(event.success, event.error) for event in events] == [(True, None)] * 2


async def test_trap_17_tool_node_handles_the_error():
    """A tool node that handles a tool's error leaves one failed tool call."""
    with recording() as events:
        await both(tools_only(break_down, handle_tool_errors=True), asking("break_down", number=1))
    assert [(event.success, event.error, event.error_type) for event in events] == [(False, "broken", "ValueError")] * 2


async def test_trap_18_bad_arguments():
    """Arguments that do not fit are a ValidationError, apart from a bug of the tool."""
    with recording() as events:
        await both(tools_only(break_down), asking("break_down", number="many"))
    assert [(event.success, event.error_type) for event in events] == [(False, "ValidationError")] * 2


def unknown_then_answer(request):
    """Ask for a tool that does not exist, then answer."""
    if request.messages[-1]["role"] == "tool":
        return Reply(text="sorry")
    return Reply(tool_calls=[ToolRequest("no_such_tool")])


async def test_trap_19_unknown_tool(loopback):
    """A tool that does not exist has no callback; its call is a failed one with the outcome unknown_tool."""
    agent = create_agent(loopback.model(unknown_then_answer), [break_down])
    with recording() as events:
        await both(agent, {"messages": [HumanMessage("go")]})
    unknown = [event for event in events if isinstance(event, ToolCall)]
    assert [(event.tool, event.outcome, event.failed) for event in unknown] == [
        ("no_such_tool", "unknown_tool", True)
    ] * 2


@tool
def approve(text: str) -> str:
    """Ask a human."""
    return f"{text}: {interrupt('may I?')}"


def approve_then_answer(request):
    """Ask for approval, then answer."""
    if request.messages[-1]["role"] == "tool":
        return Reply(text="done")
    return Reply(tool_calls=[ToolRequest("approve", {"text": "it"})])


async def test_trap_20_interrupt(loopback):
    """An interrupt in a tool is an interrupted call, not an error."""
    agent = create_agent(loopback.model(approve_then_answer), [approve], checkpointer=InMemorySaver())
    with recording() as events:
        collector = get_metrics_collector()
        agent.invoke({"messages": [HumanMessage("go")]}, {"configurable": {"thread_id": "1"}})
        await agent.ainvoke({"messages": [HumanMessage("go")]}, {"configurable": {"thread_id": "2"}})
    tools = [event for event in events if isinstance(event, ToolCall)]
    assert [(event.outcome, event.success, event.failed) for event in tools] == [("interrupted", True, False)] * 2
    assert collector.totals.errors == 0


async def test_trap_21_resume(loopback):
    """A resumed tool is a second call of the same request: the first is interrupted, only the second returned."""
    agent = create_agent(loopback.model(approve_then_answer), [approve], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with recording() as events:
        agent.invoke({"messages": [HumanMessage("go")]}, config)
        state = await agent.ainvoke(Command(resume="yes"), config)
    assert state["messages"][-1].text == "done"
    llm = [event for event in events if isinstance(event, LLMCall)]
    tools = [event for event in events if isinstance(event, ToolCall)]
    assert [(event.outcome, event.requested_by) for event in tools] == [("interrupted", llm[0].id), (None, llm[0].id)]
    assert [event.phase for event in llm] == ["initial", "synthesis"]


async def test_trap_22_handoff():
    """A handoff to the parent graph is no error."""

    @tool
    def hand_over() -> Command:
        """Hand over."""
        message = ToolMessage("over to you", tool_call_id="call_1")
        return Command(graph=Command.PARENT, goto="other", update={"messages": [message]})

    graph = StateGraph(MessagesState)
    graph.add_node("first", tools_only(hand_over))
    graph.add_node("other", lambda _state: {"messages": [AIMessage("mine now")]})
    graph.add_edge(START, "first")
    with recording() as events:
        collector = get_metrics_collector()
        await both(graph.compile(), asking("hand_over"))
    assert [(event.tool, event.success, event.failed) for event in events] == [("hand_over", True, False)] * 2
    assert collector.totals.errors == 0


async def test_trap_23_command_output():
    """A tool that returns a Command failed only if a message in its update says so."""

    @tool
    def fine() -> Command:
        """Succeed."""
        return Command(update={"messages": [ToolMessage("ok", tool_call_id="call_1")]})

    @tool
    def failing() -> Command:
        """Fail."""
        return Command(update={"messages": [ToolMessage("no room", tool_call_id="call_1", status="error")]})

    with recording() as events:
        await both(tools_only(fine), asking("fine"))
        await both(tools_only(failing), asking("failing"))
    assert [(event.success, event.error) for event in events] == [(True, None)] * 2 + [(False, "no room")] * 2


async def test_trap_24_one_failure_is_one_error(loopback):
    """An error that rises through chain, agent and graph is one error, at its leaf."""
    agent = create_agent(loopback.model(lambda _request: Reply(status=500)), [break_down])
    with recording() as events:
        collector = get_metrics_collector()
        with pytest.raises(Exception, match="500"):
            agent.invoke({"messages": [HumanMessage("go")]})
        with pytest.raises(Exception, match="500"):
            await agent.ainvoke({"messages": [HumanMessage("go")]})
    assert [event.failed for event in events] == [True, True]
    assert collector.totals.errors == 2


class Answer(BaseModel):
    """An answer with a number."""

    number: int


class AnswerDict(TypedDict):
    """An answer with a number."""

    number: int


async def test_trap_25_parse_failure_after_success(loopback):
    """A structured answer that cannot be parsed was a successful call, whose tokens count."""
    broken = Reply(text='{"number": "many"}', usage=Usage(prompt_tokens=5, completion_tokens=3))
    model = loopback.model(broken, broken).with_structured_output(Answer, method="json_mode")
    with recording() as events:
        with pytest.raises(Exception, match="number"):
            model.invoke("count")
        with pytest.raises(Exception, match="number"):
            await model.ainvoke("count")
    assert [(event.success, event.prompt_tokens) for event in events] == [(None, 5)] * 2
