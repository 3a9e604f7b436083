"""Traps 43 to 61, and 71: time, and how handlers are called."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import count

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.collector import MetricsCollector, get_metrics_collector
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from tests.conftest import read_lines, recording


class SyncOnly(GenericFakeChatModel):
    """A chat model that can only block, for so long."""

    messages: object = iter(())
    seconds: float = 0.0

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        time.sleep(self.seconds)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])


def test_trap_43_clock_steps_back(monkeypatch):
    """A wall clock that steps back in the middle of a call changes neither its duration nor the order of its times."""
    wall = count(time.time_ns(), -3600 * 10**9)
    monkeypatch.setattr(inflight, "time_ns", lambda: next(wall))
    with recording() as events:
        SyncOnly(seconds=0.02).invoke("hello")
        SyncOnly(seconds=0.0).invoke("hello")
    assert events[0].duration_ms >= 20
    assert all(event.start_ts <= event.end_ts for event in events)
    assert events[1].start_ts < events[0].start_ts


async def test_trap_44_queue_time():
    """A call's time starts where LangChain starts it: waiting for an executor's thread is inside, as documented."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1)
    loop.set_default_executor(pool)
    with recording() as events:
        await asyncio.gather(*(SyncOnly(seconds=0.02).ainvoke("hello") for _ in range(4)))
    durations = sorted(event.duration_ms for event in events)
    assert durations[-1] >= 3 * 20
    assert durations[0] >= 20


async def test_trap_45_a_busy_executor_does_not_slow_calls():
    """With every thread of the executor busy, calls on the loop are recorded without waiting for one."""
    release = threading.Event()
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(2)
    loop.set_default_executor(pool)
    blocked = [loop.run_in_executor(None, release.wait, 30) for _ in range(2)]

    class OnLoop(SyncOnly):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    with recording() as events:
        async with asyncio.timeout(20):
            await asyncio.gather(*(OnLoop().ainvoke("hello") for _ in range(20)))
    assert len(events) == 20
    release.set()
    await asyncio.gather(*blocked)


def test_trap_46_rate_limiter():
    """The wait for a rate limiter is inside the call's time, as documented."""
    limiter = InMemoryRateLimiter(requests_per_second=20, check_every_n_seconds=0.01, max_bucket_size=1)
    model = SyncOnly(rate_limiter=limiter)
    with recording() as events:
        model.invoke("one")
        model.invoke("two")
        model.invoke("three")
    assert events[-1].duration_ms >= 20


async def test_trap_47_first_token(loopback):
    """The first token is the first chunk that says something: text, or part of a tool call; without a stream, none."""
    hold = threading.Event()
    call = Reply(tool_calls=[ToolRequest("add", {"a": 1})], hold=hold, hold_after=0)
    model = loopback.model(Reply(text="x"), call)
    with recording() as events:
        model.invoke("hello")
        threading.Timer(0.1, hold.set).start()
        async for _ in model.astream("hello"):
            pass
    assert events[0].ttft_ms is None
    assert 80 <= events[1].ttft_ms <= events[1].duration_ms


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_trap_48_typed_events(loopback):
    """Streaming typed events gives the first token's time and one event."""
    model = loopback.model(Reply(text="a b c"), Reply(text="a b c"), stream_usage=True)
    if not hasattr(model, "stream_events"):
        pytest.skip("this langchain-core has no typed stream events")
    with recording() as events:
        stream = await model.astream_events("hello", version="v3")
        async for _ in stream:
            pass
        async with asyncio.timeout(10):
            while inflight.calls:
                await asyncio.sleep(0.01)
    assert [(event.success, event.ttft_ms is not None) for event in events] == [(None, True)]


def test_trap_49_failed_calls_have_latency(loopback):
    """A failed call has its duration and the class of its error."""
    model = loopback.model(Reply(status=500, delay_s=0.05))
    with recording() as events, pytest.raises(Exception, match="500"):
        model.invoke("hello")
    assert events[0].duration_ms >= 50
    assert events[0].error_type.endswith("Error")


async def test_trap_50_never_raises(loopback, caplog):
    """A sink that cannot take an event does not reach the user's call: one warning, then a count."""

    def broken(_event):
        msg = "disk full"
        raise OSError(msg)

    collector = MetricsCollector("w", writer=broken)
    model = loopback.model(*[Reply(text="x")] * 3)
    handler = MetricsCallbackHandler(collector)
    for _ in range(2):
        assert model.invoke("hello", {"callbacks": [handler]}).text == "x"
    assert (await model.ainvoke("hello", {"callbacks": [handler]})).text == "x"
    assert collector.completeness.dropped_events == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_trap_51_no_serialized():
    """Graphs hand over no description of themselves; tools have theirs there."""

    @tool
    def named() -> str:
        """Do nothing."""
        return "x"

    with recording() as events:
        named.invoke({})
        await RunnableLambda(lambda _given: named.invoke({})).ainvoke("x")
    assert [event.tool for event in events] == ["named", "named"]


async def test_trap_52_names_of_arguments(loopback, caplog):
    """Every hook takes what LangChain's managers pass, by name and by position: no warning from LangChain."""
    caplog.set_level("WARNING", logger="langchain_core")
    model = loopback.model(*[Reply(text="a b")] * 4, stream_usage=True)
    with recording() as events:
        model.invoke("hello")
        await model.ainvoke("hello")
        list(model.stream("hello"))
        async for _ in model.astream("hello"):
            pass
    assert len(events) == 4
    assert caplog.records == []


def test_trap_53_no_prompt_is_rendered():
    """The handler takes chat messages as they are, so LangChain never renders the prompt into a text for it."""

    class Unprintable(HumanMessage):
        def pretty_repr(self, html=False):
            raise AssertionError

    with recording() as events:
        SyncOnly().invoke([Unprintable("hello")])
    assert len(events) == 1


async def test_trap_54_synchronous_and_inline():
    """The handler is called on the caller's own thread, synchronously, so that it costs no loop and no hop."""
    threads = []

    class Noting(MetricsCallbackHandler):
        def on_llm_end(self, response, **kwargs):
            threads.append(threading.get_ident())
            super().on_llm_end(response, **kwargs)

    class OnLoop(SyncOnly):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    OnLoop().invoke("hello", {"callbacks": [Noting()]})
    await OnLoop().ainvoke("hello", {"callbacks": [Noting()]})
    assert threads == [threading.get_ident()] * 2


def test_trap_55_two_instances(loopback):
    """One instance given twice, or two instances for one worker, record a call once."""
    collector = MetricsCollector("w", writer=(recorded := []).append)
    one, two = MetricsCallbackHandler(collector), MetricsCallbackHandler(collector)
    model = loopback.model(Reply(text="x"), Reply(text="x"), callbacks=[one])
    model.invoke("hello", {"callbacks": [one]})
    model.invoke("hello", {"callbacks": [one, two]})
    assert len(recorded) == 2


def test_trap_57_raw_threads(loopback):
    """A raw thread loses the context: its call is not recorded unless a bound handler or the context goes along."""
    model = loopback.model(*[Reply(text="x")] * 3)
    with recording() as events:
        collector = get_metrics_collector()
        bound = {"callbacks": [MetricsCallbackHandler(collector)]}
        for target, arguments in (
            (model.invoke, ("lost",)),
            (model.invoke, ("bound", bound)),
            (copy_context().run, (model.invoke, "carried")),
        ):
            thread = threading.Thread(target=target, args=arguments)
            thread.start()
            thread.join()
    assert len(loopback.server.requests) == 3
    assert len(events) == 2


async def test_trap_58_graph_lifecycle(loopback, caplog):
    """Interrupts and resumes of a graph cause no warning about our handler."""

    @tool
    def approve() -> str:
        """Ask a human."""
        return interrupt("may I?")

    def reply(request):
        if request.messages[-1]["role"] == "tool":
            return Reply(text="done")
        return Reply(tool_calls=[ToolRequest("approve")])

    agent = create_agent(loopback.model(reply), [approve], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}, "callbacks": [MetricsCallbackHandler()]}
    agent.invoke({"messages": [HumanMessage("go")]}, config)
    await agent.ainvoke(Command(resume="yes"), config)
    assert [record for record in caplog.records if "Handler" in record.getMessage()] == []


def test_trap_59_thread_safety(runner):
    """32 threads on one worker: as many starts as ends as lines."""

    @tool
    def work(number: int) -> int:
        """Work."""
        return number

    with runner.worker("many") as worker, ThreadPoolExecutor(32) as pool:
        handler = MetricsCallbackHandler(worker.collector)
        list(pool.map(lambda number: work.invoke({"number": number}, {"callbacks": [handler]}), range(3200)))
    events = read_lines(worker.dir / "metrics.jsonl")
    assert sorted(event.id for event in events) == list(range(1, 3201))


def test_trap_60_copies(loopback):
    """A handler that is copied or pickled records into the same collector, once."""
    collector = MetricsCollector("w", writer=(recorded := []).append)
    handler = MetricsCallbackHandler(collector)
    copies = [handler, copy.copy(handler), copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))]
    loopback.model(Reply(text="x")).invoke("hello", {"callbacks": copies})
    assert len(recorded) == 1
    assert pickle.loads(pickle.dumps(MetricsCallbackHandler()))._collector is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_trap_60_fork(runner):
    """A process forked while a worker is open writes nothing twice, and does not keep the worker alive."""
    with runner.worker("parent") as worker:
        worker.collector.record_tool_call(tool_name="before", start_ts=0, end_ts=1)
        child = os.fork()
        if child == 0:
            worker.collector.record_tool_call(tool_name="child", start_ts=0, end_ts=1)
            os._exit(0)
        os.waitpid(child, 0)
        worker.collector.record_tool_call(tool_name="after", start_ts=0, end_ts=1)
    assert [event.tool for event in read_lines(worker.dir / "metrics.jsonl")] == ["before", "after"]


def test_trap_61_no_events(runner):
    """A worker whose calls never reached us says that none were recorded, not that there were zero tokens."""
    worker = runner.run(lambda _task: "done elsewhere", "go")
    (digest,) = runner.supervisor_tools(include=["read_worker_metrics"])
    text = digest.invoke({"job_id": worker.job_id})
    assert "no llm calls were recorded" in text.lower()
    assert "tokens" not in text


async def test_trap_71_generator_in_a_web_framework(runner, loopback):
    """A worker block inside a response that a web framework drives and closes records and ends, unseen by the user."""
    model = loopback.model(lambda _request: Reply(text="a b c d e f"), stream_usage=True)
    workers = []

    async def stream():
        async with runner.worker("stream") as worker:
            workers.append(worker)
            async for chunk in model.astream("hello"):
                yield chunk.text

    def sync_stream():
        with runner.worker("sync stream") as worker:
            workers.append(worker)
            for chunk in model.stream("hello"):
                yield chunk.text

    app = Starlette(
        routes=[
            Route("/async", lambda _request: StreamingResponse(stream())),
            Route("/sync", lambda _request: StreamingResponse(sync_stream())),
        ]
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/async", "/sync"):
            assert (await client.get(path)).text == "a b c d e f"
    assert [worker.status for worker in workers] == ["success", "success"]
    for worker in workers:
        (event,) = read_lines(worker.dir / "metrics.jsonl")
        assert isinstance(event, LLMCall)
        assert event.success is None
    assert get_metrics_collector() is None


async def test_trap_71_closed_in_the_middle(runner, loopback):
    """A stream that the framework closes in the middle, from another task, is cancelled and reaches nobody."""
    model = loopback.model(Reply(text="a b c d e f"), stream_usage=True)
    workers = []

    async def stream():
        async with runner.worker("stream") as worker:
            workers.append(worker)
            async for chunk in model.astream("hello"):
                yield chunk.text

    async def first(generator):
        return await anext(generator)

    generator = stream()
    await asyncio.create_task(first(generator))
    await asyncio.create_task(generator.aclose())
    (event,) = read_lines(workers[0].dir / "metrics.jsonl")
    assert (workers[0].status, event.outcome) == ("cancelled", "cancelled")
    assert not inflight.calls


def test_streaming_model_without_usage_chunks():
    """A model whose chunks never say anything has no first token."""

    class Silent(SyncOnly):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            yield ChatGenerationChunk(message=AIMessageChunk(""))

    with recording() as events:
        list(Silent().stream("hello"))
    assert [event.ttft_ms for event in events] == [None]
    assert not any(isinstance(event, ToolCall) for event in events)
