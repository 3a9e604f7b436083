"""Models of other providers, through LangChain's own integrations, over the wire formats that the providers speak."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from tests.conftest import recording
from tests.providers import AnthropicServer, GeminiServer, Said

USAGE = {
    AnthropicServer: {
        "input_tokens": 10,  # apart from what was read from or written to the cache
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 1000,
        "output_tokens": 27,
        "output_tokens_details": {"thinking_tokens": 20},
    },
    GeminiServer: {
        "promptTokenCount": 1110,
        "cachedContentTokenCount": 1000,
        "candidatesTokenCount": 7,  # apart from thoughts
        "thoughtsTokenCount": 20,
        "totalTokenCount": 1137,
    },
}
"""The same call in each provider's words: 1110 tokens in, 1000 of them cached, 27 out, 20 of them thoughts."""

CACHE_WRITES = {AnthropicServer: 100, GeminiServer: None}
PROVIDER = {AnthropicServer: "anthropic", GeminiServer: "google_genai"}

every_provider = pytest.mark.parametrize("kind", [AnthropicServer, GeminiServer], ids=["anthropic", "gemini"])


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def model_of(server):
    """Return the integration's real chat model, talking to the server; skip where it is not installed."""
    if isinstance(server, AnthropicServer):
        anthropic = pytest.importorskip("langchain_anthropic", reason="langchain-anthropic is not installed")
        return anthropic.ChatAnthropic(model="claude-loopback", api_key="loopback", base_url=server.url, max_retries=0)
    google = pytest.importorskip("langchain_google_genai", reason="langchain-google-genai is not installed")
    return google.ChatGoogleGenerativeAI(
        model="gemini-loopback",
        api_key="loopback",
        base_url=server.url,
        max_retries=1,  # the first attempt counts
    )


def check_usage(event, kind):
    """Assert that an event has the numbers of `USAGE`, and who answered."""
    assert (event.prompt_tokens, event.completion_tokens, event.total_tokens) == (1110, 27, 1137)
    assert (event.cached_tokens, event.cache_write_tokens) == (1000, CACHE_WRITES[kind])
    assert (event.model, event.provider) == (kind.MODEL, PROVIDER[kind])
    assert (event.usage_source, event.cache_hit, event.success) == (None, None, None)


@every_provider
async def test_call(kind):
    """A call has the usage that the provider reported, and the model and provider that answered."""
    said = Said(text="The answer is ten.", usage=USAGE[kind])
    with kind(said, said) as server:
        model = model_of(server)
        with recording() as events:
            model.invoke("What is 3 + 7?")
            await model.ainvoke("What is 3 + 7?")
        assert [asked.stream for asked in server.requests] == [False, False]
    assert [event.phase for event in events] == ["initial", "initial"]
    assert [event.ttft_ms for event in events] == [None, None]
    for event in events:
        check_usage(event, kind)
    assert not inflight.calls


@every_provider
async def test_streamed_call(kind):
    """A streamed call has the same usage, once, and the time to its first chunk."""
    said = Said(text="The answer is ten.", usage=USAGE[kind])
    with kind(said, said) as server:
        model = model_of(server)
        with recording() as events:
            text = "".join(chunk.text for chunk in model.stream("What is 3 + 7?"))
            async for _ in model.astream("What is 3 + 7?"):
                pass
        assert [asked.stream for asked in server.requests] == [True, True]
    assert text == said.text
    assert len(events) == 2
    for event in events:
        check_usage(event, kind)
        assert event.ttft_ms is not None
    assert not inflight.calls


@every_provider
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_reasoning_tokens(kind, streamed):
    """Thoughts are a part of the completion tokens, where the integration hands them on."""
    with kind(Said(text="ten", usage=USAGE[kind])) as server:
        model = model_of(server)
        with recording() as events:
            answer = None
            for chunk in model.stream("hello") if streamed else [model.invoke("hello")]:
                answer = chunk if answer is None else answer + chunk
    handed_on = answer.usage_metadata.get("output_token_details", {}).get("reasoning")
    assert kind is AnthropicServer or handed_on == 20
    assert [event.reasoning_tokens for event in events] == [handed_on]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_anthropic_cache_writes_by_time_to_live(streamed):
    """What was written to the cache is counted, also where the provider tells apart for how long."""
    usage = USAGE[AnthropicServer] | {
        "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}
    }
    with AnthropicServer(Said(text="ten", usage=usage)) as server:
        model = model_of(server)
        with recording() as events:
            list(model.stream("hello")) if streamed else model.invoke("hello")
    check_usage(events[0], AnthropicServer)


@every_provider
def test_zero_is_zero(kind):
    """A cache that was not used is 0 when the provider says so."""
    usage = {
        AnthropicServer: {
            "input_tokens": 9,
            "output_tokens": 4,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        },
        GeminiServer: {
            "promptTokenCount": 9,
            "candidatesTokenCount": 4,
            "totalTokenCount": 13,
            "cachedContentTokenCount": 0,
        },
    }[kind]
    with kind(Said(text="ten", usage=usage)) as server:
        model = model_of(server)
        with recording() as events:
            model.invoke("hello")
    assert [(event.total_tokens, event.cached_tokens) for event in events] == [(13, 0)]


@every_provider
async def test_refused_call(kind):
    """A call that the provider refuses is one failed call, without tokens."""
    refused = Said(status=429, text="slow down")
    with kind(refused, refused) as server:
        model = model_of(server)
        with recording() as events:
            with pytest.raises(Exception, match="slow down"):
                model.invoke("hello")
            with pytest.raises(Exception, match="slow down"):
                await model.ainvoke("hello")
        assert len(server.requests) == 2
    assert [(event.success, event.total_tokens, event.outcome) for event in events] == [(False, None, None)] * 2
    assert all("slow down" in event.error for event in events)
    assert not inflight.calls


def test_gemini_without_usage():
    """An answer without any usage has tokens that are not known."""
    with GeminiServer(Said(text="ten")) as server:
        model = model_of(server)
        with recording() as events:
            model.invoke("hello")
    assert [(event.total_tokens, event.usage_source) for event in events] == [(None, "missing")]


@every_provider
async def test_stream_closed_early(kind):
    """Closing a stream is a cancellation, whichever the provider."""
    said = Said(text="The answer is ten.", usage=USAGE[kind])
    with kind(said, said) as server:
        model = model_of(server)
        with recording() as events:
            stream = model.stream("hello")
            next(stream)
            stream.close()
            stream = model.astream("hello")
            await anext(stream)
            await stream.aclose()
    assert [(event.success, event.outcome, event.failed) for event in events] == [(False, "cancelled", False)] * 2
    assert not inflight.calls


@every_provider
async def test_agent(kind):
    """An agent's calls have their phases, and its tool calls name the call that asked for them."""
    ask, answer = Said(tool="add", args={"a": 3, "b": 7}, usage=USAGE[kind]), Said(text="ten", usage=USAGE[kind])
    with kind(ask, answer, ask, answer, ask, answer) as server:
        agent = create_agent(model_of(server), [add], name="calculator")
        runs = []
        for way in ("invoke", "ainvoke", "astream"):
            with recording() as events:
                await run(agent, way)
            runs.append(events)
        assert [asked.stream for asked in server.requests] == [False] * 4 + [True] * 2
    for events in runs:
        first, used, last = events
        assert [type(event) for event in events] == [LLMCall, ToolCall, LLMCall]
        assert (first.phase, last.phase) == ("initial", "synthesis")
        assert (used.tool, used.success, used.requested_by) == ("add", True, first.id)
        assert {event.agent for event in events} == {"calculator"}
        check_usage(first, kind)
        check_usage(last, kind)
    assert not inflight.calls


async def run(agent, way):
    """Ask an agent in one of the ways there are."""
    given = {"messages": [HumanMessage("What is 3 + 7?")]}
    if way == "invoke":
        agent.invoke(given)
    elif way == "ainvoke":
        await agent.ainvoke(given)
    else:
        async for _ in agent.astream(given, stream_mode="messages"):
            pass


@every_provider
def test_unknown_tool(kind):
    """A tool that does not exist is found out from how each integration names the bound tools."""
    replies = Said(tool="no_such_tool", usage=USAGE[kind]), Said(text="sorry", usage=USAGE[kind])
    with kind(*replies) as server:
        agent = create_agent(model_of(server), [add])
        with recording() as events:
            agent.invoke({"messages": [HumanMessage("go")]})
    unknown = [event for event in events if isinstance(event, ToolCall)]
    assert [(event.tool, event.outcome, event.requested_by) for event in unknown] == [
        ("no_such_tool", "unknown_tool", 1)
    ]
    assert len(events) == 3
