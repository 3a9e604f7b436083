"""The handler, driven through LangChain's real managers, models and agents over real HTTP."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import tiktoken
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool, create_retriever_tool, tool
from langchain_openai import OpenAI
from pydantic import BaseModel, ValidationError

from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics import inflight, tokens
from langchain_swarmlet_metrics.collector import MetricsCollector, phase
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.testing import Reply, ToolRequest, Usage
from tests.conftest import recording


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def add_async(a: int, b: int) -> int:
    """Add two numbers on the loop."""
    await asyncio.sleep(0)
    return a + b


class Town(BaseModel):
    """A town."""

    inhabitants: int


def scripted(request):
    """Ask for two additions at once, then for one more, then answer; each with a usage of its own."""
    step = sum(message["role"] == "assistant" for message in request.messages)
    name = next(iter(request.tools))
    if step == 0:
        calls = [ToolRequest(name, {"a": 1, "b": 2}), ToolRequest(name, {"a": 3, "b": 4})]
        return Reply(tool_calls=calls, usage=Usage(prompt_tokens=100, completion_tokens=10, cached_tokens=40))
    if step == 1:
        call = ToolRequest(name, {"a": 3, "b": 7})
        return Reply(tool_calls=[call], usage=Usage(prompt_tokens=200, completion_tokens=20, reasoning_tokens=15))
    return Reply(text="It is ten.", usage=Usage(prompt_tokens=300, completion_tokens=30))


def check_agent_run(events, tool_name):
    """Assert that exactly the calls of `scripted` were recorded, with its usage, phases and links."""
    llm = [event for event in events if isinstance(event, LLMCall)]
    tools = [event for event in events if isinstance(event, ToolCall)]
    assert len(events) == len(llm) + len(tools) == 6
    assert [call.phase for call in llm] == ["initial", "tool_decision", "synthesis"]
    assert [(call.prompt_tokens, call.completion_tokens, call.total_tokens) for call in llm] == [
        (100, 10, 110),
        (200, 20, 220),
        (300, 30, 330),
    ]
    assert [call.cached_tokens for call in llm] == [40, 0, 0]
    assert [call.reasoning_tokens for call in llm] == [0, 15, 0]
    assert [(call.tool, call.success) for call in tools] == [(tool_name, True)] * 3
    assert [call.requested_by for call in tools] == [llm[0].id, llm[0].id, llm[1].id]
    assert sorted(event.id for event in events) == [1, 2, 3, 4, 5, 6]
    assert all(event.parent_id is None for event in events)
    assert all(event.model == "gpt-5-mini" and event.provider == "openai" for event in llm)
    assert not inflight.calls


def question(text="What is 3 + 7?"):
    """Return the input of an agent."""
    return {"messages": [HumanMessage(text)]}


def test_agent_sync(loopback):
    """A synchronous agent with parallel tool calls gives exactly the calls that happened."""
    agent = create_agent(loopback.model(scripted), [add])
    with recording() as events:
        agent.invoke(question())
    check_agent_run(events, "add")
    assert [call.ttft_ms for call in events if isinstance(call, LLMCall)] == [None] * 3


async def test_agent_async(loopback):
    """An asynchronous agent with asynchronous tools gives exactly the calls that happened."""
    agent = create_agent(loopback.model(scripted), [add_async])
    with recording() as events:
        await agent.ainvoke(question())
    check_agent_run(events, "add_async")


def test_agent_streamed(loopback):
    """Streaming an agent's messages gives the same calls, with the time to the first token."""
    agent = create_agent(loopback.model(scripted, stream_usage=True), [add])
    with recording() as events:
        for _ in agent.stream(question(), stream_mode="messages"):
            pass
    check_agent_run(events, "add")
    assert all(call.ttft_ms is not None for call in events if isinstance(call, LLMCall))


async def test_agent_streamed_async(loopback):
    """Streaming an agent's messages asynchronously gives the same calls."""
    agent = create_agent(loopback.model(scripted, stream_usage=True), [add_async])
    with recording() as events:
        async for _ in agent.astream(question(), stream_mode="messages"):
            pass
    check_agent_run(events, "add_async")


async def test_agent_events_v2(loopback):
    """Following an agent's events gives the same calls."""
    agent = create_agent(loopback.model(scripted, stream_usage=True), [add_async])
    with recording() as events:
        async for _ in agent.astream_events(question(), version="v2"):
            pass
    check_agent_run(events, "add_async")


def test_responses_api(loopback):
    """The Responses API gives the usage that its server reported, streamed or not."""
    usage = Usage(prompt_tokens=50, completion_tokens=7, cached_tokens=20, reasoning_tokens=3)
    model = loopback.model(Reply(text="a b c", usage=usage), Reply(text="a b c", usage=usage), use_responses_api=True)
    with recording() as events:
        model.invoke("hello")
        list(model.stream("hello"))
    for event in events:
        assert (event.prompt_tokens, event.completion_tokens, event.total_tokens) == (50, 7, 57)
        assert (event.cached_tokens, event.reasoning_tokens) == (20, 3)
    assert [event.ttft_ms is None for event in events] == [True, False]


def test_completion_model(loopback):
    """A completion model's calls are recorded, the usage of a batch once."""
    server = loopback.serve(Reply(text="x", usage=Usage(prompt_tokens=9, completion_tokens=4)))
    model = OpenAI(model="gpt-3.5-turbo-instruct", api_key="loopback", base_url=server.url, max_retries=0)
    with recording() as events:
        model.generate(["one"])
    assert [(event.prompt_tokens, event.completion_tokens) for event in events] == [(9, 4)]
    assert events[0].phase == "initial"
    assert events[0].model == "gpt-3.5-turbo-instruct"


async def test_completion_model_async(loopback):
    """An asynchronous completion, which LangChain starts in a task of its own, is recorded when it returns or not."""
    hold = threading.Event()
    usage = Usage(prompt_tokens=9, completion_tokens=4)
    server = loopback.serve(Reply(text="x", usage=usage), Reply(text="x", hold=hold))
    model = OpenAI(model="gpt-3.5-turbo-instruct", api_key="loopback", base_url=server.url, max_retries=0)
    with recording() as events:
        await model.ainvoke("one")
        task = asyncio.create_task(model.ainvoke("two"))
        await asyncio.to_thread(server.wait_for_requests, 2)
        task.cancel()
        await asyncio.wait([task])
        assert not inflight.calls
    hold.set()
    assert [(event.outcome, event.prompt_tokens) for event in events] == [(None, 9), ("cancelled", None)]


def test_answer_that_cannot_be_parsed(loopback):
    """An answer that the integration could not parse was billed: its tokens count, the call has failed."""
    usage = Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=3)
    replies = [Reply(text="There are many.", usage=usage, model="m-2025")] * 2
    with recording() as events:
        for api in (False, True):
            model = loopback.model(*replies, use_responses_api=api)
            with pytest.raises(ValidationError):
                model.with_structured_output(Town, method="json_schema").invoke("hello")
    assert [(event.failed, event.prompt_tokens, event.cached_tokens) for event in events] == [(True, 9, 3)] * 2


def test_model_snapshot_name(loopback):
    """The model is named as the answer names it, not as it was asked for."""
    model = loopback.model(Reply(text="x", model="gpt-5-mini-2025-08-07"))
    with recording() as events:
        model.invoke("hello")
    assert events[0].model == "gpt-5-mini-2025-08-07"


def test_zero_tokens_are_zero(loopback):
    """A provider that reports 0 tokens is recorded as 0, one that reports nothing as unknown."""
    model = loopback.model(Reply(text="x", usage=Usage(prompt_tokens=0, completion_tokens=0)), Reply(usage=None))
    with recording() as events:
        model.invoke("hello")
        model.invoke("hello")
    assert (events[0].prompt_tokens, events[0].usage_source) == (0, None)
    assert (events[1].prompt_tokens, events[1].usage_source) == (None, "missing")


def test_estimate_when_the_provider_reports_nothing(loopback, monkeypatch):
    """Without reported usage tokens are estimated when an encoding is loaded, and marked as such."""
    byte_ranks = {bytes([number]): number for number in range(256)}
    encoding = tiktoken.Encoding("o200k_base", pat_str=r"(?s:.)", mergeable_ranks=byte_ranks, special_tokens={})
    monkeypatch.setitem(tokens._encodings, "o200k_base", encoding)
    model = loopback.model(Reply(text="four", usage=None), Reply(text="x" * 100_001, usage=None))
    with recording() as events:
        model.invoke("hello")
        model.invoke("hello")
    assert (events[0].completion_tokens, events[0].usage_source) == (4, "estimated")
    assert events[0].prompt_tokens > len("hello")
    assert events[0].total_tokens == events[0].prompt_tokens + 4
    assert (events[1].total_tokens, events[1].usage_source) == (None, "missing")


def test_provider_errors(loopback):
    """A call that the provider refuses is one failed call with its error and no tokens."""
    model = loopback.model(Reply(status=401), Reply(status=429), Reply(status=500))
    with recording() as events:
        for _ in range(3):
            with pytest.raises(Exception, match="Error code"):
                model.invoke("hello")
    assert [event.success for event in events] == [False] * 3
    assert all(event.error and event.error_type and event.outcome is None for event in events)
    assert all(event.failed for event in events)


def test_malformed_answer(loopback):
    """An answer that is no JSON is a failed call."""
    model = loopback.model(Reply(body=b"{broken"))
    with recording() as events, pytest.raises(json.JSONDecodeError):
        model.invoke("hello")
    assert [event.failed for event in events] == [True]


def test_stream_closed_early(loopback):
    """Closing a stream is a cancellation, not an error."""
    model = loopback.model(Reply(text="a b c d e f"), stream_usage=True)
    with recording() as events:
        stream = model.stream("hello")
        next(stream)
        stream.close()
    assert [(event.success, event.outcome, event.failed) for event in events] == [(False, "cancelled", False)]


def test_stream_left_open(loopback):
    """A stream that is still held when the worker ends is unfinished."""
    model = loopback.model(Reply(text="a b c d e f"))
    with recording() as events:
        stream = model.stream("hello")
        next(stream)
    assert [event.outcome for event in events] == ["unfinished"]
    stream.close()
    assert len(events) == 1


async def test_cancelled_call(loopback):
    """A cancelled call, of which LangChain says nothing, is recorded when its task ends."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))
    with recording() as events:
        task = asyncio.create_task(model.ainvoke("hello"))
        await asyncio.to_thread(loopback.server.wait_for_requests, 1)
        assert len(inflight.calls) == 1
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert [(event.success, event.outcome, event.error) for event in events] == [(False, "cancelled", None)]
        assert not inflight.calls
    hold.set()


async def test_timed_out_in_the_same_task(loopback):
    """A call that asyncio.timeout cancels inside its own task is cancelled when the worker ends."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))
    with recording() as events:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await model.ainvoke("hello")
        inflight.close_calls(next(iter(inflight.calls.values())).collector, cancelled=False)
    hold.set()
    assert [event.outcome for event in events] == ["cancelled"]


async def test_cancelled_chain_closes_its_call(loopback):
    """A chain that is cancelled closes the call it waited for at once."""
    hold = threading.Event()
    chain = RunnableLambda(lambda text: text) | loopback.model(Reply(text="x", hold=hold))
    with recording() as events:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await chain.ainvoke("hello")
        assert [event.outcome for event in events] == ["cancelled"]
    hold.set()


def test_tool_errors():
    """A tool that raises is one failed call with what it said."""

    @tool
    def broken(text: str) -> str:
        """Break."""
        msg = f"no\nluck with {text}"
        raise ValueError(msg)

    with recording() as events, pytest.raises(ValueError, match="luck"):
        broken.invoke({"text": "this"})
    assert [(event.tool, event.success, event.error, event.error_type) for event in events] == [
        ("broken", False, "no luck with this", "ValueError")
    ]


def test_handled_tool_error():
    """A tool that answers with an error message is a failed call."""

    @tool
    def refusing() -> ToolMessage:
        """Refuse."""
        return ToolMessage("disk is full", tool_call_id="call_1", status="error")

    with recording() as events:
        refusing.invoke({"type": "tool_call", "id": "call_1", "name": "refusing", "args": {}})
    assert [(event.success, event.error, event.outcome) for event in events] == [(False, "disk is full", None)]


class Proxy:
    """What a tool may return: an object that looks up whatever it is asked for, and fails."""

    def __getattr__(self, name: str) -> object:
        """Fail as a mapping does."""
        return {}[name]


def test_output_that_cannot_be_asked():
    """A tool that returns an object of its own, which raises when it is asked for anything, has succeeded."""
    proxying = StructuredTool.from_function(Proxy, name="proxy", description="proxy")
    with recording() as events:
        proxying.invoke({})
    assert [(event.tool, event.success) for event in events] == [("proxy", True)]


def test_unknown_tool(loopback):
    """A tool that was asked for and does not exist is a failed call with the outcome unknown_tool."""
    ask = Reply(tool_calls=[ToolRequest("no_such_tool", {}), ToolRequest("add", {"a": 1, "b": 2})])
    agent = create_agent(loopback.model(ask, Reply(text="sorry")), [add])
    with recording() as events:
        agent.invoke(question())
    unknown = [event for event in events if event.outcome == "unknown_tool"]
    assert [(event.tool, event.success, event.duration_ms, event.requested_by) for event in unknown] == [
        ("no_such_tool", False, 0, 1)
    ]
    assert unknown[0].failed
    assert len(events) == 4


def test_call_inside_a_tool(loopback):
    """An LLM call made inside a tool names the tool call as its parent, through whatever chains lie between."""
    model = loopback.model(Reply(text="inner"), Reply(text="inner"))
    chain = RunnableLambda(lambda text: text) | model

    @tool
    def ask(text: str) -> str:
        """Ask a model."""
        return model.invoke(text).text + chain.invoke(text).text

    with recording() as events:
        ask.invoke({"text": "hello"})
    outer = next(event for event in events if isinstance(event, ToolCall))
    assert [event.parent_id for event in events if isinstance(event, LLMCall)] == [outer.id, outer.id]
    assert outer.parent_id is None
    assert not inflight._enclosing


def test_any_number_of_handlers_counts_once(loopback):
    """A run that several handlers see is recorded once."""
    handler = MetricsCallbackHandler()
    model = loopback.model(Reply(text="x")).with_config(callbacks=[handler])
    with recording() as events:
        model.invoke("hello", config={"callbacks": [handler, MetricsCallbackHandler()]})
    assert len(events) == 1


def test_bound_handler_in_a_thread(loopback):
    """A bound handler records where the context of the block is lost, and loses nothing to an unbound one."""
    collector = MetricsCollector("bound", writer=(recorded := []).append)
    model = loopback.model(Reply(text="x"), Reply(text="x"))
    with ThreadPoolExecutor(1) as pool:
        for callbacks in (
            [MetricsCallbackHandler(), MetricsCallbackHandler(collector)],
            [MetricsCallbackHandler(collector), MetricsCallbackHandler()],
        ):
            pool.submit(model.invoke, "hello", {"callbacks": callbacks}).result()
    assert [event.id for event in recorded] == [1, 2]


def test_config_in_a_raw_thread_inside_of_a_tool(loopback):
    """A call that loses the context, but whose config says what it runs inside of, goes where that goes."""
    model = loopback.model(Reply(text="x"))

    def in_a_thread(text, config):
        with ThreadPoolExecutor() as pool:
            return pool.submit(model.invoke, text, config).result().text

    @tool
    def ask(text: str) -> str:
        """Ask a model."""
        return RunnableLambda(in_a_thread).invoke(text)

    with recording() as events:
        ask.invoke({"text": "hello"})
    assert [(event.name, event.id, event.parent_id) for event in events] == [(model.model_name, 2, 1), ("ask", 1, None)]


@pytest.mark.parametrize("outcome", [None, ValueError("no index")])
@pytest.mark.parametrize("is_async", [False, True])
async def test_retriever_inside_of_a_tool(loopback, outcome, is_async):
    """A call that a tool's retriever makes has the tool as its parent; nothing is kept of the retriever."""
    model = loopback.model(Reply(text="x"))

    class Asking(BaseRetriever):
        """Ask a model what to look for."""

        def _get_relevant_documents(self, query, *, run_manager):
            model.invoke(query, {"callbacks": run_manager.get_child()})
            if outcome is not None:
                raise outcome
            return [Document("found")]

    look = create_retriever_tool(Asking(), "look", "Look for something.")
    with recording() as events, suppress(ValueError):
        if is_async:
            await look.ainvoke({"query": "x"})
        else:
            look.invoke({"query": "x"})
    assert [(event.name, event.parent_id) for event in events] == [(model.model_name, 1), ("look", None)]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_handler_of_a_worker_that_has_ended(runner, loopback, is_cancelled):
    """A handler left on a model that others use neither stops their calls nor counts them as late."""
    with runner.worker("first") as first:
        model = loopback.model(Reply(text="x"), callbacks=[MetricsCallbackHandler(first.collector)])
        if is_cancelled:
            first.cancel()
    with runner.worker("second") as second:
        model.invoke("hello")
    assert second.totals.llm_calls == 1
    assert first.completeness.late_calls == 0


def test_chain_that_starts_as_its_call_ends(loopback):
    """A chain in a thread that comes too late is not remembered: its end would not be told."""
    late = RunnableLambda(str)

    @tool
    def leave() -> str:
        """Leave a chain behind."""
        (call,) = inflight.calls.values()
        inflight.calls.pop(call.run)  # as the end of the call does in another thread
        late.invoke("x")
        inflight.calls[call.run] = call
        return "left"

    with recording() as events:
        leave.invoke({})
    assert len(events) == 1
    assert not inflight._enclosing


def test_nested_collector_wins_over_the_bound_one(loopback):
    """The collector of an inner block takes the calls inside it from a handler bound to the outer one."""
    outer = MetricsCollector("outer", writer=(outside := []).append)
    inner = MetricsCollector("inner", writer=(inside := []).append, parent=outer)
    model = loopback.model(Reply(text="x"))
    from langchain_swarmlet_metrics.collector import reset_metrics_collector, set_metrics_collector

    token = set_metrics_collector(inner)
    model.invoke("hello", config={"callbacks": [MetricsCallbackHandler(outer)]})
    reset_metrics_collector(token)
    assert (len(outside), len(inside)) == (0, 1)


def test_without_a_worker(loopback, caplog):
    """Without a worker a handler still logs each call, with no worker and no id."""
    caplog.set_level("INFO", logger="langchain_swarmlet_metrics")
    loopback.model(Reply(text="x")).invoke("hello", config={"callbacks": [MetricsCallbackHandler()]})
    (record,) = caplog.records
    assert record.event == "llm_call_complete"
    assert not hasattr(record, "worker_id")
    assert not inflight.UNATTACHED.requested_by


def test_late_call_is_counted(loopback, caplog):
    """A call that starts after its worker ended is counted once and not recorded."""
    collector = MetricsCollector("ended", writer=(recorded := []).append)
    collector.closed = True
    handlers = [MetricsCallbackHandler(collector), MetricsCallbackHandler(collector)]
    loopback.model(Reply(text="x")).invoke("hello", config={"callbacks": handlers})
    assert recorded == []
    assert collector.completeness.late_calls == 1
    assert len([record for record in caplog.records if "had ended" in record.message]) == 1


def test_phase_named_by_the_user(loopback):
    """A phase that the user names, by block or by metadata, wins over the rule."""
    model = loopback.model(Reply(text="x"), Reply(text="x"))
    with recording() as events:
        with phase("planning"):
            model.invoke("hello")
        model.invoke("hello", config={"metadata": {"swarmlet_phase": "review"}})
    assert [event.phase for event in events] == ["planning", "review"]


def test_phase_follows_the_last_question(loopback):
    """Tool messages before the last HumanMessage do not count."""
    model = loopback.model(Reply(text="x"))
    asked = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}])
    history = [HumanMessage("one"), asked, ToolMessage("3", tool_call_id="1"), AIMessage("3"), HumanMessage("two")]
    with recording() as events:
        model.invoke(history)
    assert events[0].phase == "initial"


def test_retry_attempts(loopback):
    """Each attempt of with_retry is a call of its own, numbered from the second on."""
    model = loopback.model(Reply(status=500), Reply(text="x"))
    with recording() as events:
        model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("hello")
    assert [(event.attempt, event.success) for event in events] == [(None, False), (2, None)]


def test_agent_name(loopback):
    """A named agent's calls carry its name, an unnamed one's none."""
    named = create_agent(loopback.model(scripted), [add], name="calculator")
    with recording() as events:
        named.invoke(question())
    assert {event.agent for event in events} == {"calculator"}


def test_other_handlers_are_untouched(loopback):
    """Another handler beside ours sees the same usage as without it."""
    usage = UsageMetadataCallbackHandler()
    model = loopback.model(Reply(text="x", usage=Usage(prompt_tokens=3, completion_tokens=2)))
    with recording():
        model.invoke("hello", config={"callbacks": [usage]})
    assert usage.usage_metadata["gpt-5-mini"]["total_tokens"] == 5


def test_handler_survives_copies():
    """A handler that somebody copies deeply records into the same collector."""
    collector = MetricsCollector("w")
    assert copy.deepcopy(MetricsCallbackHandler(collector))._collector is collector


def test_threads(loopback):
    """32 threads on one handler give one event per call, each id once."""
    collector = MetricsCollector("w", writer=(recorded := []).append)
    handler = MetricsCallbackHandler(collector)

    def work(_number):
        add.invoke({"a": 1, "b": 2}, config={"callbacks": [handler]})

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(640)))
    assert sorted(event.id for event in recorded) == list(range(1, 641))
    assert collector.totals.tool_calls == 640


def test_a_sink_that_ends_the_worker_does_not_wait_for_the_call(monkeypatch):
    """A call that this very thread is ending is none to wait for, and is open until its sinks have it."""
    monkeypatch.setattr(collectors, "_CLOSE_S", 60.0)
    found = []

    def end_worker(_event):
        found.append([call.id for call in inflight.open_calls(collector)])
        collector.close(but_for=inflight.ending_here())

    collector = MetricsCollector("w", sinks=[end_worker])
    begun = time.monotonic()
    StructuredTool.from_function(lambda: "x", name="say", description="say").invoke(
        {}, {"callbacks": [MetricsCallbackHandler(collector)]}
    )
    assert time.monotonic() - begun < 30
    assert (found, inflight.open_calls(collector), collector.totals.tool_calls) == ([[1]], [], 1)
    assert inflight.ending_here() == set()
