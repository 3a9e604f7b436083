"""Traps 26 to 42: tokens are counted once, and never guessed."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from langchain_swarmlet_metrics import calls, inflight
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.testing import Reply, Usage
from tests.conftest import recording

USAGE = Usage(prompt_tokens=10, completion_tokens=5)


class Reporting(GenericFakeChatModel):
    """A chat model that reports just this."""

    messages: object = iter(())
    usage: object = None
    about: object = None

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = AIMessage("x", usage_metadata=self.usage, response_metadata=self.about or {})
        return ChatResult(generations=[ChatGeneration(message=message)])


def usage(prompt, completion, total=None, **details):
    """Return usage as a chat model reports it."""
    total = prompt + completion if total is None else total
    return {"input_tokens": prompt, "output_tokens": completion, "total_tokens": total} | details


async def test_trap_26_cache_hit(loopback):
    """What LangChain's cache serves is a call that was not billed; its tokens stay out of the totals."""
    model = loopback.model(*[Reply(text="x", usage=USAGE)] * 2, cache=InMemoryCache())
    with recording() as events:
        collector = get_metrics_collector()
        model.invoke("one")
        model.invoke("one")
        await model.ainvoke("two")
        await model.ainvoke("two")
    assert [event.cache_hit for event in events] == [None, True, None, True]
    assert [event.prompt_tokens for event in events] == [10] * 4
    assert (collector.totals.llm_calls, collector.totals.prompt_tokens, collector.totals.total_tokens) == (4, 20, 30)
    assert len(loopback.server.requests) == 2


def test_trap_27_float_total_cost():
    """A provider that adds a cost to its usage loses no call."""
    model = Reporting(usage=usage(10, 5, total_cost=0.5))
    with recording() as events:
        model.invoke("one")
        model.invoke("two")
    assert [(event.prompt_tokens, event.cache_hit) for event in events] == [(10, None)] * 2


def test_trap_28_missing_model_name():
    """A call whose answer names no model keeps its usage; the model is what was asked for, or unknown."""
    with recording() as events:
        Reporting(usage=usage(10, 5)).invoke("one")
        Reporting(usage=usage(10, 5), about={"model_name": "m"}).invoke("two")
    assert [event.total_tokens for event in events] == [15, 15]
    assert events[1].model == "m"
    assert events[0].model


async def test_trap_29_several_choices(loopback):
    """Two choices, each of which carries the usage of both, are one call's usage once."""
    model = loopback.model(*[Reply(text="x", usage=USAGE)] * 2, n=2)
    with recording() as events:
        model.invoke("hello")
        await model.ainvoke("hello")
    assert [(event.prompt_tokens, event.completion_tokens) for event in events] == [(10, 5)] * 2


async def test_trap_30_zero_is_not_missing(loopback):
    """Zero prompt tokens are recorded as zero; no usage at all as unknown."""
    zero = Reply(text="x", usage=Usage(prompt_tokens=0, completion_tokens=5))
    model = loopback.model(zero, zero, Reply(text="x", usage=None))
    with recording() as events:
        model.invoke("hello")
        await model.ainvoke("hello")
        model.invoke("hello")
    assert [(event.prompt_tokens, event.total_tokens) for event in events] == [(0, 5), (0, 5), (None, None)]


def test_trap_31_cached_tokens_are_inside_the_prompt():
    """Cached tokens are part of the prompt's, never added to them."""
    with recording() as events:
        Reporting(usage=usage(10, 2, input_token_details={"cache_read": 8})).invoke("hello")
    assert (events[0].prompt_tokens, events[0].cached_tokens, events[0].total_tokens) == (10, 8, 12)


def test_trap_32_reasoning_is_inside_the_completion(loopback):
    """Reasoning tokens are part of the completion's, never added to them."""
    model = loopback.model(Reply(text="x", usage=Usage(prompt_tokens=1, completion_tokens=5, reasoning_tokens=3)))
    with recording() as events:
        model.invoke("hello")
    assert (events[0].completion_tokens, events[0].reasoning_tokens) == (5, 3)


def test_trap_33_total_is_the_providers(loopback):
    """A total that is not the sum is kept as the provider reported it."""
    model = loopback.model(Reply(text="x", usage=Usage(prompt_tokens=1, completion_tokens=5, total_tokens=99)))
    with recording() as events:
        model.invoke("hello")
    assert events[0].total_tokens == 99


async def test_trap_34_stream_without_usage(loopback, caplog, monkeypatch):
    """A stream that reports no usage is unknown, and one warning says how to have it."""
    monkeypatch.setattr(calls, "_warned_of_streams", False)
    model = loopback.model(*[Reply(text="a b c")] * 3)
    with recording() as events:
        list(model.stream("hello"))
        async for _ in model.astream("hello"):
            pass
        list(model.stream("hello"))
    assert [(event.prompt_tokens, event.usage_source) for event in events] == [(None, "missing")] * 3
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "stream_usage=True" in warning


def test_trap_35_cumulative_chunks():
    """What is recorded is the usage of the merged message, as LangChain merges it, not a sum of our own."""

    class Cumulative(Reporting):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            for completion in (1, 0, 2):
                part = usage(10 if completion == 1 else 0, completion)
                yield ChatGenerationChunk(message=AIMessageChunk("a", usage_metadata=part))

    with recording() as events:
        merged = None
        for chunk in Cumulative().stream("hello"):
            merged = chunk if merged is None else merged + chunk
    assert merged.usage_metadata["total_tokens"] == events[0].total_tokens == 13


def test_trap_36_a_tool_that_calls_a_model(loopback):
    """A tool that calls a model contains that call; its tokens are counted once."""
    model = loopback.model(Reply(text="x", usage=USAGE))

    @tool
    def delegate() -> str:
        """Delegate."""
        return model.invoke("hello").text

    with recording() as events:
        collector = get_metrics_collector()
        delegate.invoke({})
    llm, outer = events
    assert (llm.parent_id, outer.id) == (outer.id, 1)
    assert outer.duration_ms >= llm.duration_ms
    assert collector.totals.total_tokens == 15


async def test_trap_37_parallel_calls_overlap():
    """Parallel calls keep their own times, from which busy and summed time can be told apart."""
    together = asyncio.Barrier(5)

    @tool
    async def meet() -> str:
        """Meet the others."""
        await together.wait()
        return "met"

    with recording() as events:
        await asyncio.gather(*(meet.ainvoke({}) for _ in range(5)))
    assert max(event.start_ts for event in events) <= min(event.end_ts for event in events)


def test_trap_38_unknown_price(loopback):
    """A call without a price has none, and is counted as unpriced; its cost is not zero."""
    model = loopback.model(Reply(text="x", usage=USAGE), model="nobody-knows-me")
    with recording() as events:
        collector = get_metrics_collector()
        model.invoke("hello")
    assert events[0].cost_usd is None
    assert (collector.totals.cost_usd, collector.completeness.unpriced_calls) == (None, 1)


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_trap_40_retries(loopback, way):
    """Attempts are calls of their own, numbered from the second on, the failed one an error."""
    model = loopback.model(Reply(status=500), Reply(text="x", usage=USAGE))
    patient = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    with recording() as events:
        _ = patient.invoke("hello") if way == "sync" else await patient.ainvoke("hello")
    assert [(event.attempt, event.failed, event.prompt_tokens) for event in events] == [
        (None, True, None),
        (2, False, 10),
    ]


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_trap_41_fallbacks(loopback, way):
    """A fallback's call, which LangChain gives another parent, belongs to the same worker and tool."""
    first = loopback.model(Reply(status=500))
    second = loopback.model(Reply(text="x", usage=USAGE))
    careful = first.with_fallbacks([second])

    @tool
    def ask() -> str:
        """Ask."""
        return careful.invoke("hello").text

    @tool
    async def aask() -> str:
        """Ask."""
        return (await careful.ainvoke("hello")).text

    with recording() as events:
        _ = ask.invoke({}) if way == "sync" else await aask.ainvoke({})
    llm = [event for event in events if isinstance(event, LLMCall)]
    outer = next(event for event in events if isinstance(event, ToolCall))
    assert [(event.failed, event.parent_id) for event in llm] == [(True, outer.id), (False, outer.id)]
    assert not inflight.calls


async def test_trap_41_fallbacks_with_callbacks_of_the_call(loopback):
    """With callbacks given to the call itself, both attempts are recorded once."""
    careful = loopback.model(Reply(status=500)).with_fallbacks([loopback.model(*[Reply(text="x")] * 2)])
    with recording() as events:
        careful.invoke("hello", {"callbacks": [MetricsCallbackHandler()]})
    assert [event.failed for event in events] == [True, False]


class Constant(Embeddings):
    """Embed everything as the same point."""

    def embed_documents(self, texts):
        """Embed each text as the point."""
        return [[1.0] for _ in texts]

    def embed_query(self, text):
        """Embed the text as the point."""
        return [1.0]


async def test_trap_42_embeddings_have_no_callbacks():
    """Embeddings tell no callback anything, so nothing is recorded of them."""
    with recording() as events:
        model = Constant()
        model.embed_query("hello")
        await model.aembed_documents(["hello"])
    assert events == []


async def test_trap_56_manual_pass_inside_a_node(loopback):
    """A handler on the graph and passed again to the model inside a node records the call once."""
    handler = MetricsCallbackHandler()
    model = loopback.model(*[Reply(text="x", usage=USAGE)] * 2)

    def node(state):
        return {"messages": [model.invoke(state["messages"], {"callbacks": [handler]})]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", RunnableLambda(node))
    graph.add_edge(START, "ask")
    agent = graph.compile()
    with recording() as events:
        agent.invoke({"messages": [("user", "hello")]}, {"callbacks": [handler]})
        await agent.ainvoke({"messages": [("user", "hello")]}, {"callbacks": [handler]})
    assert [event.prompt_tokens for event in events] == [10, 10]
