"""Single calls of a model: plain, streamed, through each API, failing, many at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from langchain_core.language_models import BaseChatModel
from langchain_openai import OpenAI

from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation
from langchain_swarmlet_metrics.testing.openai_wire import Reply, Usage

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.testing.conformance.stage import Stage

_USAGE = Usage(prompt_tokens=11, completion_tokens=7)
_THREADS = 32


async def _plain(stage: Stage) -> None:
    await stage.invoke(stage.model(Reply(text="a b c", usage=_USAGE)), "hello")


async def _streamed(stage: Stage) -> None:
    await stage.stream(stage.model(Reply(text="a b c", usage=_USAGE), stream_usage=True), "hello")


async def _responses(stage: Stage) -> None:
    await stage.invoke(stage.model(Reply(text="a b c", usage=_USAGE), use_responses_api=True), "hello")


async def _responses_streamed(stage: Stage) -> None:
    await stage.stream(stage.model(Reply(text="a b c", usage=_USAGE), use_responses_api=True), "hello")


async def _completion(stage: Stage) -> None:
    options = stage.model_options(Reply(text="a b c", usage=_USAGE)) | {"model": "gpt-3.5-turbo-instruct"}
    await stage.invoke(OpenAI(**options), "hello")


async def _snapshot(stage: Stage) -> None:
    await stage.invoke(stage.model(Reply(text="x", usage=_USAGE, model="gpt-5-mini-2025-08-07")), "hello")


async def _events(stage: Stage) -> None:
    model = stage.model(Reply(text="a b c", usage=_USAGE), stream_usage=True)
    async for _ in model.astream_events("hello", stage.config, version="v2"):
        pass


async def _typed_events(stage: Stage) -> None:
    model = stage.model(Reply(text="a b c", usage=_USAGE), stream_usage=True)
    if stage.mode == "sync":
        list(model.stream_events("hello", stage.config, version="v3"))
        return
    async for _ in await model.astream_events("hello", stage.config, version="v3"):
        pass


async def _chunk_by_chunk(stage: Stage) -> None:
    model = stage.model(Reply(text="a b c", usage=_USAGE), stream_usage=True)
    stream = model.astream("hello", stage.config)
    with suppress(StopAsyncIteration):
        while True:
            await asyncio.create_task(anext(stream))  # type: ignore[arg-type]


async def _refused(stage: Stage) -> None:
    model = stage.model(Reply(status=401), Reply(status=429), Reply(status=500))
    for _ in range(3):
        await stage.fails(stage.invoke(model, "hello"))


async def _malformed(stage: Stage) -> None:
    await stage.fails(stage.invoke(stage.model(Reply(body=b"{broken")), "hello"))


async def _client_timeout(stage: Stage) -> None:
    stage.notes.unanswered = "error"
    await stage.fails(stage.invoke(stage.model(Reply(text="x", delay_s=5), timeout=0.2), "hello"))


async def _cut(stage: Stage) -> None:
    await stage.fails(stage.stream(stage.model(Reply(text="a b c d", cut_after=2), stream_usage=True), "hello"))


async def _many(stage: Stage) -> None:
    model = stage.model(lambda request: Reply(text="x", usage=Usage(prompt_tokens=request.number, completion_tokens=1)))
    if stage.mode == "async":
        await asyncio.gather(*(model.ainvoke("hello", stage.config) for _ in range(2 * _THREADS)))
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda _: model.invoke("hello", stage.config), range(2 * _THREADS)))


async def _same_handler_twice(stage: Stage) -> None:
    model = stage.model(Reply(text="x", usage=_USAGE)).with_config(callbacks=list(stage.handlers))
    await stage.invoke(model, "hello")


async def _two_handlers(stage: Stage) -> None:
    model = stage.model(Reply(text="x", usage=_USAGE)).with_config(callbacks=list(stage.make_handlers()))
    await stage.invoke(model, "hello")


SITUATIONS = (
    Situation(name="plain call", sentence="A chat model is called once.", script=_plain),
    Situation(name="streamed call", sentence="A streamed call reports its usage at the end.", script=_streamed),
    Situation(name="Responses API", sentence="A chat model is called through the Responses API.", script=_responses),
    Situation(
        name="Responses API, streamed",
        sentence="A call through the Responses API is streamed.",
        script=_responses_streamed,
    ),
    Situation(
        name="completion model", sentence="A completion model, not a chat model, is called once.", script=_completion
    ),
    Situation(
        name="model snapshot",
        sentence="The answer names a dated snapshot of the model that was asked.",
        script=_snapshot,
    ),
    Situation(
        name="event stream",
        sentence="A call is followed with `astream_events`.",
        script=_events,
        modes=("async",),
    ),
    Situation(
        name="typed event stream",
        sentence='A call is followed as typed events, `version="v3"`.',
        script=_typed_events,
        modes=("sync", "async") if hasattr(BaseChatModel, "stream_events") else (),
    ),
    Situation(
        name="stream read by many tasks",
        sentence="Each chunk of a streamed call is awaited in a task of its own.",
        script=_chunk_by_chunk,
        modes=("async",),
    ),
    Situation(name="401, 429, 500", sentence="The provider refuses three calls.", script=_refused),
    Situation(name="answer that is no JSON", sentence="The provider answers with broken JSON.", script=_malformed),
    Situation(name="client timeout", sentence="The client gives up waiting; that is an error.", script=_client_timeout),
    Situation(name="stream cut", sentence="The connection drops in the middle of a streamed answer.", script=_cut),
    Situation(
        name="64 calls at once",
        sentence="32 threads, or 64 tasks, call one model with one handler.",
        script=_many,
    ),
    Situation(
        name="same handler twice",
        sentence="One handler is attached to the model and passed to the call again.",
        script=_same_handler_twice,
    ),
    Situation(
        name="two handlers",
        sentence="One handler is attached to the model, a second one of the same kind passed to the call.",
        script=_two_handlers,
        disputed="Two handlers that each record the call do what each was asked to do; adding both up counts it twice.",
    ),
)
