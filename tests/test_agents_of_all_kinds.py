"""Agents of all kinds: what is recorded is what the loopback servers' own logs say was asked and answered."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
    ToolRetryMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send
from pydantic import BaseModel

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from tests.conftest import read_lines, recording

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol")

THREAD = {"configurable": {"thread_id": "1"}}
QUICK = {"initial_delay": 0, "jitter": False}

NODES_KEEP_THEIR_NAME = not version("langgraph").startswith("1.1.")
"""Whether LangGraph passes on the name of an agent that is a node of another graph."""

both = pytest.mark.parametrize("way", ["invoke", "ainvoke"])
every_way = pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "events v2", "events v3"])


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


class Number(BaseModel):
    """An answer that is a number."""

    number: int


class Cast:
    """Make models with a server each. Answers are numbered, so that the model in an event names the answer."""

    def __init__(self, loopback):
        self._loopback = loopback
        self._servers = []

    def model(self, choose, name="model", **options):
        """Return a model whose answers the function chooses."""

        def numbered(request):
            reply, number = choose(request), f"{name}-{request.number}"
            calls = [replace(call, id=f"{number}-{place}") for place, call in enumerate(reply.tool_calls)]
            return replace(reply, model=number, tool_calls=calls)

        model = self._loopback.model(numbered, stream_usage=True, **options)
        self._servers.append(self._loopback.server)
        return model

    def check(self, events, *, not_run=(), again=()):
        """Assert that the events are what the servers' logs say: each answer once, and each tool it asked for.

        The names are of tools that were asked for and not run, and of those that were run once more.
        """
        requests = [request for server in self._servers for request in server.requests]
        answered = {request.reply.model: request.reply for request in requests if request.reply.status == 200}
        llm = {event.model: event for event in llm_calls(events) if not event.failed}
        assert llm.keys() == answered.keys()
        assert len(llm_calls(events)) == len(requests)
        for model, reply in answered.items():
            usage = llm[model].prompt_tokens, llm[model].completion_tokens, llm[model].total_tokens
            told = reply.usage.prompt_tokens, reply.usage.completion_tokens
            assert usage == (*told, sum(told))
        asked = [(call.name, llm[model].id) for model, reply in answered.items() for call in reply.tool_calls]
        run = Counter((event.tool, event.requested_by) for event in tool_calls(events))
        assert run.keys() == {(name, by) for name, by in asked if name not in not_run}
        assert sum(run.values()) == len(asked) - len(not_run) + len(again)
        assert sorted(event.id for event in events) == list(range(1, len(events) + 1))
        assert not inflight.calls
        assert not inflight._enclosing


@pytest.fixture
def cast(loopback):
    """Give models whose servers are the truth."""
    return Cast(loopback)


def llm_calls(events):
    """Return the LLM calls in order of their start."""
    return sorted((event for event in events if isinstance(event, LLMCall)), key=lambda event: event.id)


def tool_calls(events):
    """Return the tool calls in order of their start."""
    return sorted((event for event in events if isinstance(event, ToolCall)), key=lambda event: event.id)


def phases(events):
    """Return the phases of the LLM calls in order of their start."""
    return [event.phase for event in llm_calls(events)]


def named(agent):
    """Return the name of an agent that is a node of another graph, as far as it can be known."""
    return agent if NODES_KEEP_THEIR_NAME else None


def question(*before):
    """Return the input of an agent: a new question, after what was said before."""
    return {"messages": [*before, HumanMessage("What is 7 * 6?")]}


def answer(_request):
    """Answer with a text."""
    return Reply(text="The answer is 42.")


def use(name, **args):
    """Return a model's mind: call a tool, then answer."""
    ask = Reply(tool_calls=[ToolRequest(name, args)])
    return lambda request: answer(request) if request.messages[-1]["role"] == "tool" else ask


calculate = use("multiply", a=7, b=6)


async def drive(graph, given, way, config=None):
    """Run a graph to its end in one of the ways there are; the first two return its answer."""
    if way == "invoke":
        return graph.invoke(given, config)
    if way == "ainvoke":
        return await graph.ainvoke(given, config)
    if way == "stream":
        return list(graph.stream(given, config, stream_mode="messages"))
    if way == "astream":
        events = graph.astream(given, config, stream_mode="messages")
    elif way == "events v2":
        events = graph.astream_events(given, config, version="v2")
    else:
        if not hasattr(graph, "stream_events"):
            pytest.skip("this LangGraph has no typed stream events")
        events = await graph.astream_events(given, config, version="v3")
    return [event async for event in events]


@every_way
async def test_agent(cast, way):
    """An agent's calls are those that happened, however it is run or followed."""
    agent = create_agent(cast.model(calculate), [multiply], name="calculator")
    with recording() as events:
        await drive(agent, question(), way)
    cast.check(events)
    assert phases(events) == ["initial", "synthesis"]
    assert [event.ttft_ms is None for event in llm_calls(events)] == [way in {"invoke", "ainvoke"}] * 2
    assert {(event.agent, event.parent_id) for event in events} == {("calculator", None)}


def graph_by_hand(model):
    """Return a graph that calls a model and runs the tools it asks for."""

    def think(state):
        return {"messages": [model.invoke(state["messages"])]}

    async def athink(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    graphs = {}
    for way, node in {"invoke": think, "ainvoke": athink}.items():
        graph = StateGraph(MessagesState)
        graph.add_node("think", node)
        graph.add_node("tools", ToolNode([multiply]))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")
        graphs[way] = graph.compile()
    return graphs


@both
async def test_graph_by_hand(cast, way):
    """In a graph made by hand the node that calls the model is the agent."""
    graph = graph_by_hand(cast.model(calculate).bind_tools([multiply]))[way]
    with recording() as events:
        await drive(graph, question(), way)
    cast.check(events)
    assert phases(events) == ["initial", "synthesis"]
    assert [event.agent for event in llm_calls(events)] == ["think", "think"]
    assert {event.parent_id for event in events} == {None}


@both
async def test_subgraphs(cast, way):
    """Calls in graphs that are nodes of graphs belong to nobody but their agent."""
    inner = graph_by_hand(cast.model(calculate, "hand").bind_tools([multiply]))[way]
    agent = create_agent(cast.model(calculate, "made"), [multiply], name="calculator")
    middle = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()
    outer = StateGraph(MessagesState).add_node("middle", middle).add_node("agent", agent)
    outer.add_edge(START, "middle").add_edge(START, "agent")
    with recording() as events:
        await drive(outer.compile(), question(), way)
    cast.check(events)
    assert Counter(phases(events)) == {"initial": 2, "synthesis": 2}
    assert Counter(event.agent for event in llm_calls(events)) == {"think": 2, named("calculator"): 2}
    assert {event.parent_id for event in events} == {None}


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
@both
async def test_supervisor_hands_off(cast, way):
    """A supervisor's hand-offs are tool calls that succeeded; each agent's calls bear its name."""
    supervising = pytest.importorskip("langgraph_supervisor", reason="langgraph-supervisor is not installed")
    ask = Reply(tool_calls=[ToolRequest("multiply", {"a": 7, "b": 6})])
    mind = cast.model(lambda request: ask if request.number == 1 else answer(request), "calculator")
    calculator = create_agent(mind, [multiply], name="calculator")
    writer = create_agent(cast.model(answer, "writer"), name="writer")
    steps = iter(["transfer_to_calculator", "transfer_to_writer", None])

    def delegate(request):
        name = next(steps)
        return Reply(tool_calls=[ToolRequest(name)]) if name else answer(request)

    team = supervising.create_supervisor([calculator, writer], model=cast.model(delegate, "boss"))
    with recording() as events:
        await drive(team.compile(), question(), way)
    cast.check(events)
    working = [None, named("calculator"), named("calculator"), None, named("writer"), None]
    assert [event.agent for event in llm_calls(events)] == working
    # a hand-off leaves a tool message: who takes over does not begin anew
    assert phases(events) == ["initial", "tool_decision", "synthesis", "tool_decision", "synthesis", "synthesis"]
    hand_offs = [event for event in tool_calls(events) if event.tool.startswith("transfer_to")]
    assert [(event.success, event.error, event.failed) for event in hand_offs] == [(True, None, False)] * 2
    assert {event.parent_id for event in events} == {None}


@every_way
async def test_deep_agent(cast, way):
    """A deep agent's subagent works inside the call of the task tool."""
    deep = pytest.importorskip("deepagents", reason="deepagents is not installed")
    subagent = {
        "name": "calculator",
        "description": "calculates",
        "system_prompt": "Calculate.",
        "tools": [multiply],
        "model": cast.model(calculate, "sub"),
    }
    delegate = use("task", description="calculate 7 * 6", subagent_type="calculator")
    agent = deep.create_deep_agent(model=cast.model(delegate, "deep"), subagents=[subagent])
    with recording() as events:
        await drive(agent, question(), way)
    cast.check(events)
    task, used = tool_calls(events)
    assert (task.tool, task.parent_id, used.tool, used.parent_id) == ("task", None, "multiply", task.id)
    assert [event.parent_id for event in llm_calls(events)] == [None, task.id, task.id, None]
    assert [event.agent for event in llm_calls(events)] == [None, "calculator", "calculator", None]
    assert phases(events) == ["initial", "initial", "synthesis", "synthesis"]


@every_way
async def test_agents_as_tools(cast, way):
    """What an agent does that is a tool of another one has that tool call as its parent, at any depth."""
    expert = create_agent(cast.model(calculate, "expert"), [multiply], name="expert")

    @tool
    def ask_expert(text: str) -> str:
        """Ask the expert."""
        return expert.invoke({"messages": [HumanMessage(text)]})["messages"][-1].text

    manager = create_agent(cast.model(use("ask_expert", text="7 * 6"), "manager"), [ask_expert], name="manager")

    @tool
    def ask_manager(text: str) -> str:
        """Ask the manager."""
        return manager.invoke({"messages": [HumanMessage(text)]})["messages"][-1].text

    boss = create_agent(cast.model(use("ask_manager", text="7 * 6"), "boss"), [ask_manager], name="boss")
    with recording() as events:
        await drive(boss, question(), way)
    cast.check(events)
    outer, middle, inner = tool_calls(events)
    assert (outer.parent_id, middle.parent_id, inner.parent_id) == (None, outer.id, middle.id)
    parents = {"boss": None, "manager": outer.id, "expert": middle.id}
    assert all(event.parent_id == parents[event.agent] for event in events)
    assert Counter(event.agent for event in events) == {"boss": 3, "manager": 3, "expert": 3}


@pytest.mark.parametrize("way", ["ainvoke", "astream", "events v2", "events v3"])
async def test_async_only_tools(cast, way):
    """Tools that exist only asynchronously run at the same time and are recorded each."""
    together = asyncio.Barrier(2)

    @tool
    async def meet(name: str) -> str:
        """Wait until everybody is here."""
        async with asyncio.timeout(10):
            await together.wait()
        return name

    ask = Reply(tool_calls=[ToolRequest("meet", {"name": "a"}), ToolRequest("meet", {"name": "b"})])
    agent = create_agent(
        cast.model(lambda request: answer(request) if request.messages[-1]["role"] == "tool" else ask), [meet]
    )
    with recording() as events:
        await drive(agent, question(), way)
    cast.check(events)
    assert [event.success for event in tool_calls(events)] == [True, True]


def test_async_only_tool_in_a_synchronous_agent(cast):
    """Running a tool synchronously that exists only asynchronously is a failed call."""

    @tool
    async def sleep() -> None:
        """Sleep."""

    with recording() as events, pytest.raises(NotImplementedError):
        create_agent(cast.model(use("sleep")), [sleep]).invoke(question())
    cast.check(events)
    assert [(event.failed, event.error_type) for event in tool_calls(events)] == [(True, "NotImplementedError")]


class Poem(TypedDict):
    """The state of a graph that maps and reduces."""

    lines: Annotated[list[str], operator.add]


@both
async def test_send_fans_out(cast, way):
    """Each branch of a fan-out is a call of its own, and so is what puts them together."""
    model = cast.model(answer)

    def write(given):
        return {"lines": [model.invoke(given["topic"]).text]}

    async def awrite(given):
        return {"lines": [(await model.ainvoke(given["topic"])).text]}

    graph = StateGraph(Poem)
    graph.add_node("write", write if way == "invoke" else awrite)
    graph.add_node("join", lambda state: {"lines": [model.invoke(" ".join(state["lines"])).text]})
    graph.add_conditional_edges(START, lambda _state: [Send("write", {"topic": f"line {n}"}) for n in range(8)])
    graph.add_edge("write", "join")
    with recording() as events:
        await drive(graph.compile(), {"lines": []}, way)
    cast.check(events)
    assert Counter(event.agent for event in events) == {"write": 8, "join": 1}
    assert llm_calls(events)[-1].agent == "join"


@both
@pytest.mark.parametrize("decision", ["approve", "edit", "reject"])
async def test_human_in_the_loop(cast, way, decision):
    """A tool call that waits for a human has not begun; it happens once when approved, and not when rejected."""
    response = {"type": decision}
    if decision == "edit":
        response["edited_action"] = {"name": "multiply", "args": {"a": 6, "b": 7}}
    agent = create_agent(
        cast.model(calculate),
        [multiply],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"multiply": True})],
        checkpointer=InMemorySaver(),
    )
    with recording() as events:
        await drive(agent, question(), way, THREAD)
        assert [type(event) for event in events] == [LLMCall]
        assert not inflight.calls
        await drive(agent, Command(resume={"decisions": [response]}), way, THREAD)
    cast.check(events, not_run=["multiply"] if decision == "reject" else [])
    assert phases(events) == ["initial", "synthesis"]
    assert [event.success for event in tool_calls(events)] == ([] if decision == "reject" else [True])


@both
async def test_checkpointed_conversation(cast, way):
    """Each turn of a conversation begins anew with an initial call, and old calls are not told again."""
    agent = create_agent(cast.model(calculate), [multiply], checkpointer=InMemorySaver())
    with recording() as events:
        await drive(agent, question(), way, THREAD)
        await drive(agent, question(), way, THREAD)
    cast.check(events)
    assert phases(events) == ["initial", "synthesis"] * 2


@both
async def test_structured_output_by_tool(cast, way):
    """A structured answer given as a tool call runs no tool; after tools its call looks like deciding on one."""
    steps = iter([ToolRequest("multiply", {"a": 7, "b": 6}), ToolRequest("Number", {"number": 42})])
    model = cast.model(lambda _request: Reply(tool_calls=[next(steps)]))
    agent = create_agent(model, [multiply], response_format=ToolStrategy(Number))
    with recording() as events:
        state = await drive(agent, question(), way)
    assert state["structured_response"] == Number(number=42)
    cast.check(events, not_run=["Number"])
    assert phases(events) == ["initial", "tool_decision"]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # langchain-openai up to 1.1
@both
@pytest.mark.parametrize("method", ["function_calling", "json_mode", "json_schema"])
async def test_with_structured_output(cast, way, method):
    """A structured answer is one call, whichever way the model is made to give it."""
    call = Reply(tool_calls=[ToolRequest("Number", {"number": 42})])
    model = cast.model(lambda _request: call if method == "function_calling" else Reply(text='{"number": 42}'))
    with recording() as events:
        assert await drive(model.with_structured_output(Number, method=method), "7 * 6?", way) == Number(number=42)
    cast.check(events, not_run=["Number"] if method == "function_calling" else [])
    assert phases(events) == ["initial"]


def second_time(request):
    """Fail at first."""
    return Reply(status=500) if request.number == 1 else answer(request)


@both
async def test_with_retry_and_fallbacks(cast, way):
    """Attempts and fallbacks are calls of their own, inside an agent's tool as well."""
    first, second = cast.model(lambda _request: Reply(status=500), "first"), cast.model(second_time, "second")
    careful = first.with_fallbacks([second.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)])

    @tool
    def consult() -> str:
        """Consult a model."""
        return careful.invoke("7 * 6?").text

    agent = create_agent(cast.model(use("consult")), [consult])
    with recording() as events:
        await drive(agent, question(), way)
    cast.check(events)
    inner = llm_calls(events)[1:-1]
    assert [(event.failed, event.attempt) for event in inner] == [(True, None), (True, None), (False, 2)]
    assert {event.parent_id for event in inner} == {tool_calls(events)[0].id}


@both
async def test_batches(cast, way):
    """A batch is as many calls as it has inputs; those that fail are errors, the others are not."""
    model = cast.model(
        lambda request: Reply(status=500) if request.messages[-1]["content"] == "bad" else answer(request)
    )
    agent = create_agent(cast.model(calculate, "agent"), [multiply])
    texts = ["good", "bad", "fine", "bad", "well"]
    with recording() as events:
        if way == "invoke":
            model.batch(texts, return_exceptions=True)
            list(model.batch_as_completed(texts, return_exceptions=True))
            agent.batch([question()] * 3)
        else:
            await model.abatch(texts, return_exceptions=True)
            _ = [each async for each in model.abatch_as_completed(texts, return_exceptions=True)]
            await agent.abatch([question()] * 3)
    cast.check(events)
    assert Counter(event.failed for event in events) == {True: 4, False: 6 + 3 * 3}


@both
async def test_model_retry_middleware(cast, way):
    """What the middleware tries again is a call of its own; it puts no attempt on it."""
    model = cast.model(second_time)
    agent = create_agent(model, [multiply], middleware=[ModelRetryMiddleware(max_retries=2, **QUICK)])
    with recording() as events:
        await drive(agent, question(), way)
    cast.check(events)
    assert [(event.failed, event.attempt) for event in llm_calls(events)] == [(True, None), (False, None)]
    assert phases(events) == ["initial", "initial"]


@both
async def test_tool_retry_middleware(cast, way):
    """A tool that the middleware runs again was asked for once: both calls name the same LLM call."""
    results = iter([ValueError("not yet"), 42])

    @tool
    def flaky() -> int:
        """Fail at first."""
        if isinstance(result := next(results), Exception):
            raise result
        return result

    agent = create_agent(cast.model(use("flaky")), [flaky], middleware=[ToolRetryMiddleware(max_retries=2, **QUICK)])
    with recording() as events:
        await drive(agent, question(), way)
    cast.check(events, again=["flaky"])
    assert [(event.failed, event.error) for event in tool_calls(events)] == [(True, "not yet"), (False, None)]


@every_way
async def test_summarization_middleware(cast, way):
    """The call that sums up a long conversation is in the phase summary; the agent's own are not."""
    middleware = SummarizationMiddleware(cast.model(answer, "summary"), trigger=("messages", 5), keep=("messages", 1))
    agent = create_agent(cast.model(calculate), [multiply], middleware=[middleware])
    long = [HumanMessage("hello"), AIMessage("hello"), HumanMessage("how are you"), AIMessage("fine")]
    with recording() as events:
        await drive(agent, question(*long), way)
    cast.check(events)
    assert [event.model for event in llm_calls(events) if event.phase == "summary"] == ["summary-1"]
    assert [event.phase for event in llm_calls(events) if event.model != "summary-1"] == ["initial", "synthesis"]


@both
async def test_agents_side_by_side(cast, runner, way):
    """Agents that run at the same time, each as a worker, have their own calls and nobody else's."""
    agents = [create_agent(cast.model(calculate, f"m{n}"), [multiply], name=f"agent-{n}") for n in range(6)]
    if way == "invoke":
        with ThreadPoolExecutor() as pool:
            workers = list(pool.map(lambda agent: runner.run(agent, f"task of {agent.name}"), agents))
    else:
        workers = await asyncio.gather(*(runner.arun(agent, f"task of {agent.name}") for agent in agents))
    for number, worker in enumerate(workers):
        events = read_lines(worker.dir / "metrics.jsonl")
        assert worker.status == "success"
        assert [event.model for event in llm_calls(events)] == [f"m{number}-1", f"m{number}-2"]
        assert {event.agent for event in events} == {f"agent-{number}"}
        (used,) = tool_calls(events)
        assert (used.requested_by, sorted(event.id for event in events)) == (1, [1, 2, 3])
    assert not inflight.calls
