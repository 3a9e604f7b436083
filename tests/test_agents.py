"""How agents are called, and what text their answers are: real graphs, Runnables, functions and odd objects."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from langchain_swarmlet_metrics import agents
from langchain_swarmlet_metrics.agents import AgentTimeoutError
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.testing import Reply


class Numbers(TypedDict):
    """The state of a graph without messages."""

    number: int


def chat(loopback, **options):
    """Return a real agent that answers with the number of messages it was given."""
    return create_agent(loopback.model(lambda request: Reply(text=f"{len(request.messages)} seen")), [], **options)


def counting_graph():
    """Return a graph whose state has no messages."""
    graph = StateGraph(Numbers)
    graph.add_node("add", lambda state: {"number": state["number"] + 1})
    graph.add_edge(START, "add")
    graph.add_edge("add", END)
    return graph.compile()


# What an agent is given


@pytest.mark.parametrize(
    "wrap",
    [
        lambda graph: graph,
        lambda graph: graph.with_config(tags=["x"]),
        lambda graph: graph.bind(),
        lambda graph: graph.with_retry(),
        lambda graph: graph.with_retry().with_config(tags=["x"]).bind(),
        lambda graph: graph.with_fallbacks([graph]),
    ],
)
def test_graph_with_messages(loopback, runner, wrap):
    """A graph with messages gets the task as a HumanMessage, however it is wrapped."""
    graph = wrap(chat(loopback))
    assert agents.input_of(graph, "hello", None) == {"messages": [HumanMessage("hello")]}
    assert runner.run(graph, "hello").result["messages"][-1].text == "1 seen"


@pytest.mark.parametrize(
    "agent", [RunnableLambda(str.upper), str.upper, functools.partial(str.upper), RunnableLambda(str.upper) | str.strip]
)
def test_others_get_the_task(runner, agent):
    """Any other Runnable or callable gets the task itself."""
    worker = runner.run(agent, "hello")
    assert (worker.status, worker.result) == ("success", "HELLO")


def test_graph_without_messages_gets_what_input_makes(runner):
    """A graph of another state is run with what the user's function makes of the task."""
    worker = runner.run(counting_graph(), "41", input=lambda task: {"number": int(task)})
    assert (worker.status, worker.result, worker.dir.joinpath("result.txt").read_text()) == (
        "success",
        {"number": 42},
        '{"number":42}',
    )


def test_failing_input_is_a_failed_worker(runner):
    """A user's input function that fails is the worker's failure."""
    worker = runner.run(str.upper, "hello", input=int)
    assert worker.status == "failed"
    assert worker.error.startswith("ValueError: invalid literal")


# The thread of a checkpointed agent


def threads_of(memory):
    """Return the names of the threads in a checkpointer."""
    return {entry.config["configurable"]["thread_id"] for entry in memory.list(None)}


@pytest.mark.parametrize("wrap", [lambda graph: graph, lambda graph: graph.with_retry(), lambda graph: graph.bind()])
def test_checkpointed_agent_runs_in_the_workers_thread(loopback, runner, wrap):
    """A checkpointed agent gets a thread named as its worker; two workers don't see each other's messages."""
    memory = InMemorySaver()
    agent = wrap(chat(loopback, checkpointer=memory))
    first, second = runner.run(agent, "one"), runner.run(agent, "two")
    assert [worker.result["messages"][-1].text for worker in (first, second)] == ["1 seen", "1 seen"]
    assert threads_of(memory) == {first.worker_id, second.worker_id}


def test_thread_of_the_config_wins(loopback, runner):
    """A thread that the run's config names is used, and the config's other settings stay."""
    memory = InMemorySaver()
    agent = chat(loopback, checkpointer=memory)
    config = {"configurable": {"thread_id": "mine"}, "tags": ["kept"]}
    runner.run(agent, "one", config=config)
    assert runner.run(agent, "two", config=config).result["messages"][-1].text == "3 seen"
    assert threads_of(memory) == {"mine"}
    assert agents.config_of(agent, "w", {"tags": ["kept"]}) == {"tags": ["kept"], "configurable": {"thread_id": "w"}}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda graph, config: graph.with_config(config),
        lambda graph, config: graph.bind().with_config(config),
        lambda graph, config: graph.with_retry().with_config(config),
        lambda graph, config: graph.with_config(config).with_retry(),
    ],
)
def test_thread_bound_to_the_agent_wins(loopback, runner, wrap):
    """A thread that was bound with ``with_config`` is used as well."""
    memory = InMemorySaver()
    agent = wrap(chat(loopback, checkpointer=memory), {"configurable": {"thread_id": "bound"}})
    assert runner.run(agent, "one").status == "success"
    assert threads_of(memory) == {"bound"}


def test_no_checkpointer_no_thread(loopback):
    """Without a checkpointer the config is passed on untouched."""
    config = {"tags": ["kept"]}
    assert agents.config_of(chat(loopback), "w", config) is config
    assert agents.config_of(chat(loopback), "w", None) is None
    assert agents.config_of(str.upper, "w", None) is None


def test_callable_with_a_checkpointer_of_its_own():
    """An object that is only called keeps whatever it calls its checkpointer and config."""

    class Agent:
        checkpointer = "mine"
        config = 42

        def __call__(self, task):
            return task

    assert agents.config_of(Agent(), "w", None) is None


# Calling


def test_coroutine_function_needs_arun(runner):
    """A coroutine function run synchronously is a failure that says what to do, not a coroutine as the answer."""

    async def ask(task):
        return task

    worker = runner.run(ask, "hello")
    assert worker.status == "failed"
    assert "run it with arun" in worker.error


@pytest.mark.parametrize("timeout_s", [None, 10])
async def test_acall_of_every_kind(timeout_s):
    """Coroutine functions, functions that return an awaitable, plain ones and Runnables are all called on the loop."""

    async def ask(task):
        return task.upper()

    class Agent:
        async def __call__(self, task):
            return task.upper()

    for agent in (ask, functools.partial(ask), lambda task: ask(str(task)), Agent(), str.upper, RunnableLambda(ask)):
        assert await agents.acall(agent, "hello", None, timeout_s) == "HELLO"


def test_call_keeps_the_context(runner):
    """The agent sees the worker's collector, also in the thread that a time-out needs."""
    seen = []
    for timeout_s in (None, 10):
        worker = runner.run(lambda _: seen.append(get_metrics_collector().worker_id), "look", timeout_s=timeout_s)
        assert seen.pop() == worker.worker_id


def test_timeout():
    """An agent that takes too long is given up."""
    go = threading.Event()
    try:
        with pytest.raises(AgentTimeoutError, match=r"no answer within 0\.05 s"):
            agents.call(lambda _: go.wait(10), "hello", None, 0.05)
    finally:
        go.set()


async def test_timeout_async():
    """An asynchronous agent that takes too long is cancelled."""
    cancelled = []

    async def ask(_task):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(AgentTimeoutError, match=r"no answer within 0\.05 s"):
        await agents.acall(ask, "hello", None, 0.05)
    assert cancelled == [True]


async def test_timeout_of_a_synchronous_agent_on_the_loop(runner, loopback):
    """A synchronous agent that is given up asynchronously stops in its thread at its next call."""
    hold, stopped = threading.Event(), threading.Event()
    model = loopback.model(Reply(text="x", hold=hold), Reply(text="never asked for"))

    def agent(_task):
        try:
            model.invoke("one")
            model.invoke("two")
        finally:
            stopped.set()

    worker = await runner.arun(agent, "wait", timeout_s=0.2)
    hold.set()
    assert (worker.status, worker.error) == ("failed", "AgentTimeoutError: no answer within 0.2 s")
    assert await asyncio.to_thread(stopped.wait, 10)
    assert len(loopback.server.requests) == 1


@pytest.mark.parametrize("timeout_s", [None, 30])
def test_agents_own_timeout_is_not_ours(timeout_s):
    """A TimeoutError that the agent raises itself stays what it is."""

    def ask(_task):
        msg = "the database did not answer"
        raise TimeoutError(msg)

    with pytest.raises(TimeoutError, match="the database") as caught:
        agents.call(ask, "hello", None, timeout_s)
    assert not isinstance(caught.value, AgentTimeoutError)


@pytest.mark.parametrize("timeout_s", [None, 30])
async def test_agents_own_timeout_is_not_ours_async(timeout_s):
    """A TimeoutError that an asynchronous agent raises itself, or that it waits for, stays what it is."""

    async def ask(_task):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    with pytest.raises(TimeoutError) as caught:
        await agents.acall(ask, "hello", None, timeout_s)
    assert not isinstance(caught.value, AgentTimeoutError)


def test_answer_that_comes_as_time_runs_out(monkeypatch):
    """An answer that arrives between the time-out and the look at it is taken."""

    class Future:
        def result(self, timeout_s=None):
            if timeout_s is not None:
                raise TimeoutError
            return "just in time"

        def done(self):
            return True

    class Executor:
        def submit(self, *_args):
            return Future()

    monkeypatch.setattr(agents, "DaemonExecutor", Executor)
    assert agents.call(str.upper, "hello", None, 1) == "just in time"


# What text an answer is


class Point(BaseModel):
    """A structured answer."""

    x: int


@dataclasses.dataclass
class Size:
    """Another structured answer."""

    width: int


class Silent:
    """An object that has no text."""

    def __str__(self):
        raise RuntimeError


class SilentModel(BaseModel):
    """A structured answer that can't be dumped."""

    inside: object


CYCLE: list = []
CYCLE.append(CYCLE)
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, None),
        ("", ""),
        ("two\nlines", "two\nlines"),
        (b"bytes \xff", "bytes \\xff"),
        (42, "42"),
        (2**70, str(2**70)),
        ({"a": 1, "b": [None, True]}, '{"a":1,"b":[null,true]}'),
        ([1, "zwei"], '[1,"zwei"]'),
        (Path("/tmp/x"), "/tmp/x"),
        ({"path": Path("/tmp/x")}, '{"path":"/tmp/x"}'),
        (Point(x=1), '{"x":1}'),
        ([Point(x=1)], '[{"x":1}]'),
        (Size(2), '{"width":2}'),
        (AIMessage("It is 42."), "It is 42."),
        (AIMessage(""), ""),
        (AIMessage([{"type": "text", "text": "It is "}, PICTURE, {"type": "text", "text": "42."}]), "It is 42."),
        ({"messages": [HumanMessage("?"), AIMessage("It is 42.")]}, "It is 42."),
        ({"messages": [AIMessage("x")], "structured_response": Point(x=1)}, "x"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, '{"role":"assistant","content":"x"}'),
        ({"messages": []}, '{"messages":[]}'),
        ({"messages": "none"}, '{"messages":"none"}'),
        ({"messages": {"a": 1}}, '{"messages":{"a":1}}'),
        ({"messages": [AIMessage("x")], "__interrupt__": ["?"]}, None),
        ({"messages": [AIMessage("x")], "__interrupt__": []}, "x"),
        (Silent(), "<Silent>"),
        ([Silent()], '["<Silent>"]'),
        (SilentModel(inside=Silent()), "<SilentModel>"),
        (CYCLE, "[[...]]"),
        ({"a": "\ud800"}, "{'a': '\\ud800'}"),
    ],
    ids=repr,
)
def test_text_of(answer, text):
    """Every kind of answer has a text, or none when there is no answer."""
    assert agents.text_of(answer) == text


def test_interrupted_graph_has_no_answer(runner):
    """A graph that stopped to ask a human has set no result."""
    graph = StateGraph(Numbers)
    graph.add_node("ask", lambda _state: {"number": interrupt("which number?")})
    graph.add_edge(START, "ask")
    agent = graph.compile(checkpointer=InMemorySaver())
    worker = runner.run(agent, "ask me", input=lambda _task: {"number": 1})
    assert worker.status == "success"
    assert not worker.dir.joinpath("result.txt").exists()


ODD_TEXT = st.text(st.characters(exclude_categories=()))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT | st.binary() | st.just(Silent()),
        lambda inner: st.lists(inner) | st.dictionaries(ODD_TEXT | st.integers(), inner),
        max_leaves=10,
    )
)
def test_text_of_never_raises(answer):
    """Whatever an agent returns, its text is a text or None."""
    assert isinstance(agents.text_of(answer), str | None)


# Summaries


async def test_summarizer_sees_task_and_result():
    """A summarizer is asked with the task and the beginning of the result, braces and all."""
    prompts = []

    def note(prompt):
        prompts.append(prompt)
        return AIMessage("short")

    assert agents.summarize(note, "do {this}", "{result} " * 10_000) == "short"
    assert await agents.asummarize(note, "do {this}", "{result}") == "short"
    assert all("do {this}" in prompt and "{result}" in prompt for prompt in prompts)
    assert len(prompts[0]) < 21_000
