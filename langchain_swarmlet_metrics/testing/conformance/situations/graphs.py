"""LangGraph: interrupt and resume, hand-offs, agents inside of agents, fan-out."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain.agents.structured_output import ToolStrategy
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation
from langchain_swarmlet_metrics.testing.conformance.situations.tools import adder, asking_for, scripted
from langchain_swarmlet_metrics.testing.conformance.stage import question
from langchain_swarmlet_metrics.testing.openai_wire import Reply

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langchain_swarmlet_metrics.testing.conformance.stage import Stage


async def _interrupt(stage: Stage) -> None:
    async def ask_user(what: str) -> str:
        """Ask the user."""
        return str(interrupt(what))

    model = stage.model(asking_for("ask_user", what="Which one?"), Reply(text="The red one."))
    agent = create_agent(model, [stage.tool(ask_user)], checkpointer=InMemorySaver())
    thread: RunnableConfig = {"configurable": {"thread_id": "1"}}
    await stage.invoke(agent, question(), thread)
    await stage.invoke(agent, Command(resume="red"), thread)


async def _handoff(stage: Stage) -> None:
    async def transfer_to_bob() -> Command[Any]:
        """Hand over to Bob."""
        return Command(graph=Command.PARENT, goto="bob", update={})

    alice = create_agent(stage.model(asking_for("transfer_to_bob")), [stage.tool(transfer_to_bob)], name="alice")
    bob = create_agent(stage.model(Reply(text="Bob here.")), [], name="bob")
    graph = StateGraph(MessagesState)
    graph.add_node("alice", alice)
    graph.add_node("bob", bob)
    graph.add_edge(START, "alice")
    await stage.invoke(graph.compile(), question())


async def _agent_as_tool(stage: Stage) -> None:
    async def research(topic: str) -> str:
        """Research a topic."""
        answer = await stage.invoke_inside(inner, question(topic))
        return str(answer["messages"][-1].text)

    inner = create_agent(stage.model(scripted), [adder(stage)], name="researcher")
    model = stage.model(asking_for("research", topic="sums"), Reply(text="It is ten."))
    await stage.invoke(create_agent(model, [stage.tool(research)]), question())


async def _model_retried(stage: Stage) -> None:
    model = stage.model(Reply(status=500), Reply(text="x"))
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0)
    await stage.invoke(create_agent(model, [], middleware=[retry]), question())


class _Weather(BaseModel):
    """The weather."""

    degrees: int


async def _structured_answer(stage: Stage) -> None:
    model = stage.model(asking_for("_Weather", degrees="hot"), asking_for("_Weather", degrees=20))
    await stage.invoke(create_agent(model, [], response_format=ToolStrategy(_Weather)), question())


async def _recursion_limit(stage: Stage) -> None:
    agent = create_agent(stage.model(lambda _: asking_for("add", a=1, b=2)), [adder(stage)])
    await stage.fails(stage.invoke(agent, question(), {"recursion_limit": 5}))


class _Topics(TypedDict):
    texts: Annotated[list[str], operator.add]


async def _fan_out(stage: Stage) -> None:
    async def write(topic: dict[str, str]) -> dict[str, list[str]]:
        return {"texts": [(await stage.invoke_inside(model, topic["topic"])).text]}

    model = stage.model(lambda request: Reply(text=request.messages[-1]["content"]))
    graph = StateGraph(_Topics)
    graph.add_node("write", stage.node(write))
    graph.add_conditional_edges(START, lambda _: [Send("write", {"topic": f"t{number}"}) for number in range(5)])
    await stage.invoke(graph.compile(), {"texts": []})


async def _passed_again(stage: Stage) -> None:
    await stage.invoke(stage.answering(stage.model(Reply(text="x")), stage.config), question())


SITUATIONS = (
    Situation(
        name="interrupt and resume",
        sentence="A tool interrupts its agent to ask the user, and runs again when the agent is resumed: one success.",
        script=_interrupt,
    ),
    Situation(
        name="hand-off",
        sentence="A tool hands over to another agent with `Command(graph=Command.PARENT)`: nothing failed.",
        script=_handoff,
    ),
    Situation(
        name="agent as a tool",
        sentence="A tool of an agent runs another agent, which calls three tools.",
        script=_agent_as_tool,
    ),
    Situation(
        name="model retried by middleware",
        sentence="A call fails and `ModelRetryMiddleware` makes another: two calls, one error.",
        script=_model_retried,
    ),
    Situation(
        name="structured answer as a tool call",
        sentence="`ToolStrategy` asks for the answer as the arguments of a tool that does not exist; the first do not "
        "fit. No tool is called.",
        script=_structured_answer,
    ),
    Situation(
        name="recursion limit",
        sentence="An agent that never comes to an end is stopped by LangGraph's recursion limit: no call failed.",
        script=_recursion_limit,
    ),
    Situation(
        name="fan-out",
        sentence="A graph sends five topics to one node with `Send`; each calls the model.",
        script=_fan_out,
    ),
    Situation(
        name="handler passed again in a node",
        sentence="A graph has the handler, and a node of it passes it to the model again.",
        script=_passed_again,
    ),
)
