"""The open calls of a task: closed when it is done, with one callback for all of them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import closing

import pytest
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.tasks import TaskCalls, calls_of_task
from langchain_swarmlet_metrics.testing import Reply
from tests.conftest import recording


async def start_call():
    """Start an LLM call in the current task, as LangChain does, and return who is to be told of its end."""
    (run,) = await AsyncCallbackManager.configure().on_chat_model_start({}, [[HumanMessage("x")]])
    return run


async def test_one_for_all_calls_of_a_task():
    """A task has the same one however often it is asked for; a task that it starts has its own."""
    here = calls_of_task()
    assert here is not None
    assert calls_of_task() is here

    async def ask():
        return calls_of_task()

    child = await asyncio.create_task(ask())
    assert child is not None
    assert child is not here
    assert calls_of_task() is here


async def test_in_no_task():
    """What the loop calls by itself runs in no task."""
    found = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: found.set_result(calls_of_task()))
    assert await found is None


async def test_all_open_calls_of_a_cancelled_task_are_closed():
    """However many calls a cancelled task has open, each is closed, and those of other tasks go on."""
    with recording() as events:
        started = asyncio.Event()

        async def hang():
            for _ in range(3):
                await start_call()
            started.set()
            await asyncio.sleep(60)

        other = await start_call()
        task = asyncio.create_task(hang())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert [(event.id, event.outcome) for event in events] == [(2, "cancelled"), (3, "cancelled"), (4, "cancelled")]
        await other.on_llm_error(ValueError("no answer"))
    assert [event.error for event in events[3:]] == ["no answer"]


async def start_stream():
    """Start an LLM call in the current task and stream its first chunk."""
    run = await start_call()
    await run.on_llm_new_token("x", chunk=ChatGenerationChunk(message=AIMessageChunk("x")))
    return run


@pytest.mark.parametrize("count", [1, 300])
async def test_a_call_that_streams_outlives_the_task_of_its_first_chunk(count, monkeypatch):
    """Who awaits each chunk in a task of its own has one call, which ends with the stream, however many there are."""
    monkeypatch.setattr(inflight, "_sweep_at", 64)  # as in a new process
    with recording() as events:
        runs = [await asyncio.create_task(start_stream()) for _ in range(count)]
        await asyncio.sleep(0)
        assert events == []
        for run in runs:
            await run.on_llm_error(ValueError("later"))
    assert [event.error for event in events] == ["later"] * count


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_call_that_is_streamed_inside_of_ainvoke_ends_with_its_task(in_time):
    """LangChain reads such a stream in a task of its own, and does not tell that it was cancelled."""
    with recording() as events:

        async def read(run, chunks):
            for chunk in chunks:
                await run.on_llm_new_token(chunk, chunk=ChatGenerationChunk(message=AIMessageChunk(chunk)))
                await asyncio.sleep(0)
            await asyncio.sleep(0 if in_time else 60)

        async def ainvoke():
            run = await start_call()
            await asyncio.gather(read(run, "abc"))
            await run.on_llm_error(ValueError("told"))

        task = asyncio.create_task(ainvoke())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert [(event.outcome, event.error) for event in events] == [
            (None, "told") if in_time else ("cancelled", None)
        ]


async def test_a_streaming_model_that_is_cancelled(loopback):
    """A model that streams by itself is closed like one that does not, as soon as its task is cancelled."""
    model = loopback.model(Reply(text="a b c d", chunk_delay_s=0.05), streaming=True)
    with recording() as events:
        task = asyncio.create_task(model.ainvoke("hello"))
        while not any(call.streamed for call in inflight.calls.values()):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert [event.outcome for event in events] == ["cancelled"]


@pytest.mark.parametrize("where", ["thread", "task"])
async def test_a_call_that_goes_on_when_its_chain_is_cancelled(loopback, where):
    """What runs in a thread, or is shielded in a task of its own, is recorded as it ends."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))

    async def shield(text):
        return await asyncio.shield(asyncio.create_task(model.ainvoke(text)))

    chain = RunnableLambda(model.invoke, afunc=shield if where == "task" else None)
    with recording() as events:
        task = asyncio.create_task(chain.ainvoke("hello"))
        await asyncio.to_thread(loopback.server.wait_for_requests, 1)
        task.cancel()
        await asyncio.wait([task])
        assert events == []
        hold.set()
        while inflight.calls:
            await asyncio.sleep(0.005)
    assert [(event.outcome, event.total_tokens is None) for event in events] == [(None, False)]


def test_calls_of_a_loop_that_was_closed_under_them(monkeypatch):
    """Their tasks are not told; the calls are closed when many others are open."""
    monkeypatch.setattr(inflight, "_sweep_at", 64)

    async def hang():
        await start_call()
        started.set()
        await asyncio.Event().wait()

    async def start_many():
        for _ in range(300):
            await start_call()
        return [(event.id, event.outcome) for event in events]

    with recording() as events, closing(asyncio.new_event_loop()) as loop:
        started = asyncio.Event()
        hanging = hang()
        task = loop.create_task(hanging)
        loop.run_until_complete(started.wait())
        loop.close()
        assert asyncio.run(start_many()) == [(1, "cancelled")]
        hanging.close()
        task._log_destroy_pending = False  # it was meant to be
    assert len(events) == 301


async def test_a_task_that_is_done_is_let_go_of():
    """Contexts that were made in a task do not keep it, nor its result, once it is done."""

    async def work() -> TaskCalls | None:
        return calls_of_task()

    task = asyncio.create_task(work())
    known = await task
    await asyncio.sleep(0)
    gone = weakref.ref(task)
    del task
    gc.collect()
    assert gone() is None
    assert known is not None
    assert known.is_over()
