"""Traps 1 to 14: a run always ends exactly once."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import uuid

import pytest
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.testing import Reply
from tests.conftest import recording


class Model(GenericFakeChatModel):
    """A chat model whose answers are given by a function of the prompt's text."""

    messages: object = iter(())
    answer: object

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = self.answer(messages[-1].text)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        message = self.answer(messages[-1].text)
        if asyncio.iscoroutine(message):
            message = await message
        return ChatResult(generations=[ChatGeneration(message=message)])


def answer_or_fail(text):
    """Answer, but fail on the text ``bad``."""
    if text == "bad":
        msg = "refused"
        raise ValueError(msg)
    return AIMessage(text)


async def cancel_in_flight(loopback, start):
    """Cancel what `start` makes of a model, once its request has arrived."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))
    task = asyncio.create_task(start(model))
    await asyncio.to_thread(loopback.server.wait_for_requests, 1)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    hold.set()


async def test_trap_01_cancelled_model(loopback):
    """A cancelled ainvoke, of which LangChain tells nothing, is one cancelled event with its duration."""
    with recording() as events:
        await cancel_in_flight(loopback, lambda model: model.ainvoke("hello"))
        assert not inflight.calls
    assert [(event.outcome, event.success, event.error) for event in events] == [("cancelled", False, None)]
    assert events[0].start_ts < events[0].end_ts


async def test_trap_01_wait_for(loopback):
    """A wait_for that runs out leaves one cancelled event per call, for each of ten."""
    hold = threading.Event()
    model = loopback.model(lambda _request: Reply(text="x", hold=hold))
    with recording() as events:
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(model.ainvoke("hello"), 0.02)
    hold.set()
    assert [event.outcome for event in events] == ["cancelled"] * 10


async def test_trap_02_cancelled_async_tool():
    """A cancelled asynchronous tool is one cancelled event, whether LangChain tells its end or not."""
    started = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait for ever."""
        started.set()
        await asyncio.Event().wait()
        return "never"

    with recording() as events:
        task = asyncio.create_task(wait.ainvoke({}))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert [(event.tool, event.outcome, event.success) for event in events] == [("wait", "cancelled", False)]


@pytest.mark.parametrize("closing", ["sync", "async"])
async def test_trap_03_parent_ends_first(loopback, closing):
    """A chain whose stream is closed early ends its root before its model; the model's call is recorded once."""
    chain = RunnableLambda(lambda text: text) | loopback.model(Reply(text="a b c d e f"), stream_usage=True)
    with recording() as events:
        if closing == "sync":
            stream = chain.stream("hello")
            next(stream)
            stream.close()
        else:
            stream = chain.astream("hello")
            await anext(stream)
            await stream.aclose()
            await asyncio.sleep(0)
    assert [(event.outcome, event.success) for event in events] == [("cancelled", False)]


async def test_trap_04_root_ends_with_open_children(loopback):
    """A call still open when its chain failed is not lost: its task's end or the worker's closes it."""
    hold = threading.Event()
    slow = loopback.model(Reply(text="x", hold=hold))
    server = loopback.server

    async def fork(_given):
        running = asyncio.create_task(slow.ainvoke("hello"))
        await asyncio.to_thread(server.wait_for_requests, 1)
        tasks.append(running)
        msg = "the chain fails"
        raise ValueError(msg)

    tasks = []
    with recording() as events:
        with pytest.raises(ValueError, match="the chain fails"):
            await RunnableLambda(fork).ainvoke("go")
        assert events == []
        assert len(inflight.calls) == 1
    assert [event.outcome for event in events] == ["unfinished"]
    hold.set()
    await tasks[0]
    assert len(events) == 1


async def test_trap_05_no_root_and_no_worker(loopback):
    """A cancelled call with neither chain nor worker leaves nothing open."""
    handler = MetricsCallbackHandler()
    await cancel_in_flight(loopback, lambda model: model.ainvoke("hello", {"callbacks": [handler]}))
    assert not inflight.calls
    assert get_metrics_collector() is None


def test_trap_06_abandoned_generator(loopback):
    """A stream that is neither read on nor closed is open until the worker ends, then unfinished."""
    model = loopback.model(Reply(text="a b c d e f"), stream_usage=True)
    with recording() as events:
        stream = model.stream("hello")
        next(stream)
        (call,) = inflight.calls.values()
        assert call.streamed
        assert events == []
    assert [event.outcome for event in events] == ["unfinished"]
    stream.close()


async def test_trap_07_user_closed_stream(loopback):
    """A stream that the user closes is cancelled: no error, and not in the error count."""
    model = loopback.model(*[Reply(text="a b c d e f")] * 2, stream_usage=True)
    with recording() as events:
        collector = get_metrics_collector()
        for _ in model.stream("hello"):
            break
        stream = model.astream("hello")
        await anext(stream)
        await stream.aclose()
    assert [(event.outcome, event.error, event.failed) for event in events] == [("cancelled", None, False)] * 2
    assert collector.totals.errors == 0


def test_trap_08_partial_usage_on_failure():
    """The usage that a failed stream had reported by then is kept."""

    class Breaking(Model):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            usage = {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11}
            yield ChatGenerationChunk(message=AIMessageChunk("a", usage_metadata=usage))
            msg = "the line is dead"
            raise ConnectionError(msg)

    with recording() as events, pytest.raises(ConnectionError):
        list(Breaking(answer=None).stream("hello"))
    assert [(event.success, event.prompt_tokens, event.completion_tokens) for event in events] == [(False, 10, 1)]
    assert events[0].usage_source is None


def test_trap_09_sync_batch_failure():
    """A synchronous batch that fails in the middle closes the calls that LangChain tells no end of."""
    model = Model(answer=answer_or_fail)
    with recording() as events:
        with pytest.raises(ValueError, match="refused"):
            model.generate([[HumanMessage(text)] for text in ("ok", "bad", "fine")])
        assert not inflight.calls
    assert sorted((event.outcome or "", event.failed) for event in events) == [
        ("", True),
        ("unfinished", False),
        ("unfinished", False),
    ]


async def test_trap_09_async_batch_failure():
    """An asynchronous batch that fails in the middle tells the end of all its calls."""
    model = Model(answer=answer_or_fail)
    with recording() as events, pytest.raises(ValueError, match="refused"):
        await model.agenerate([[HumanMessage(text)] for text in ("ok", "bad", "fine")])
    assert sorted(event.failed for event in events) == [False, False, True]
    assert [event.outcome for event in events] == [None] * 3


async def test_trap_10_provider_raises_cancelled_error():
    """A provider that raises CancelledError itself gives one cancelled event, whatever LangChain makes of it."""

    async def cancelled():
        raise asyncio.CancelledError

    model = Model(answer=lambda _text: cancelled())
    with recording() as events, pytest.raises((asyncio.CancelledError, AttributeError)):
        await model.ainvoke("hello")
    assert [event.outcome for event in events] == ["cancelled"]


def test_trap_11_duplicate_end():
    """An end that is told twice is recorded once."""
    with recording() as events:
        (run,) = CallbackManager.configure().on_chat_model_start({}, [[HumanMessage("hello")]])
        result = LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]])
        run.on_llm_end(result)
        run.on_llm_end(result)
        run.on_llm_error(ValueError("and an error"))
    assert len(events) == 1
    assert events[0].success is None


def test_trap_12_end_without_start():
    """An end whose start nobody saw is ignored and breaks nothing."""
    (late,) = CallbackManager.configure().on_chat_model_start({}, [[HumanMessage("hello")]])
    late.handlers.append(MetricsCallbackHandler())
    with recording() as events:
        late.on_llm_end(LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]]))
        late.on_llm_error(ValueError("x"))
    assert events == []


def test_trap_13_ids_as_text():
    """A run whose id is text in one event and a UUID in another is one run."""
    run_id = uuid.uuid4()
    with recording() as events:
        (run,) = CallbackManager.configure().on_chat_model_start({}, [[HumanMessage("hello")]], run_id=str(run_id))
        run.run_id = run_id
        run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]]))
    assert len(events) == 1


async def test_trap_13_ids_as_text_async():
    """The same through the asynchronous manager."""
    run_id = uuid.uuid4()
    with recording() as events:
        manager = AsyncCallbackManager.configure()
        (run,) = await manager.on_chat_model_start({}, [[HumanMessage("hello")]], run_id=run_id)
        run.run_id = str(run_id)
        await run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]]))
    assert len(events) == 1


def test_trap_14_no_growth():
    """Calls that have ended leave no memory behind: the second 2,000 take no more than the first."""
    model = Model(answer=AIMessage)
    with recording() as events:
        collector = get_metrics_collector()
        for _ in range(200):
            model.invoke("warm up")
        events.clear()
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(2000):
                model.invoke("go")
                events.clear()
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert collector.totals.llm_calls == 2200
    assert grown < 50_000


async def test_trap_14_memory_flat():
    """After 10,000 calls, 1,000 of them cancelled, nothing is held."""
    gate = asyncio.Event()

    async def wait_for_ever():
        await gate.wait()
        return AIMessage("never")

    model = Model(answer=lambda text: wait_for_ever() if text == "wait" else AIMessage("x"))
    with recording() as events:
        collector = get_metrics_collector()
        for _ in range(9):
            for _ in range(1000):
                await model.ainvoke("go")
        waiting = [asyncio.create_task(model.ainvoke("wait")) for _ in range(1000)]
        while len(inflight.calls) < 1000:
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await asyncio.sleep(0)
        assert not inflight.calls
        assert not inflight._enclosing
        assert not collector.requested_by
        assert not collector.unbound_tools
    assert len(events) == 10_000
    assert sum(event.outcome == "cancelled" for event in events) == 1000
