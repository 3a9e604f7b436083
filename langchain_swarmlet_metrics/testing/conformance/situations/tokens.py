"""Token counts that are easy to get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.caches import InMemoryCache

from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation
from langchain_swarmlet_metrics.testing.openai_wire import Reply, Usage

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.testing.conformance.stage import Stage


async def _stream_without_usage(stage: Stage) -> None:
    await stage.stream(stage.model(Reply(text="a b c")), "hello")


async def _without_usage(stage: Stage) -> None:
    await stage.invoke(stage.model(Reply(text="a b c", usage=None)), "hello")


async def _zero(stage: Stage) -> None:
    await stage.invoke(stage.model(Reply(text="x", usage=Usage(prompt_tokens=0, completion_tokens=5))), "hello")


async def _parts(stage: Stage) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=50, cached_tokens=80, reasoning_tokens=30)
    await stage.invoke(stage.model(Reply(text="x", usage=usage)), "hello")


async def _parts_streamed(stage: Stage) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=50, cached_tokens=80, reasoning_tokens=30)
    await stage.stream(stage.model(Reply(text="a b", usage=usage), stream_usage=True), "hello")


async def _other_total(stage: Stage) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5, total_tokens=40)
    await stage.invoke(stage.model(Reply(text="x", usage=usage)), "hello")


async def _choices(stage: Stage) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5)
    await stage.invoke(stage.model(Reply(text="x", usage=usage), n=2), "hello")


async def _cache_hit(stage: Stage) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5)
    model = stage.model(Reply(text="x", usage=usage), cache=InMemoryCache())
    await stage.invoke(model, "hello")
    await stage.invoke(model, "hello")
    stage.notes.cache_hits = 1


SITUATIONS = (
    Situation(
        name="stream without usage",
        sentence="A streamed answer reports no usage: its tokens are unknown, not 0.",
        script=_stream_without_usage,
    ),
    Situation(
        name="answer without usage",
        sentence="A plain answer reports no usage: its tokens are unknown, not 0.",
        script=_without_usage,
    ),
    Situation(name="0 prompt tokens", sentence="The provider reports `prompt_tokens: 0`.", script=_zero),
    Situation(
        name="cached and reasoning tokens",
        sentence="80 of 100 prompt tokens were cached, 30 of 50 completion tokens reasoning: parts, not to be added.",
        script=_parts,
    ),
    Situation(
        name="cached and reasoning tokens, streamed",
        sentence="The same in a streamed answer.",
        script=_parts_streamed,
    ),
    Situation(
        name="another total",
        sentence="The provider reports a total of 40 for 10 + 5 tokens.",
        script=_other_total,
    ),
    Situation(
        name="n=2",
        sentence="One call returns two choices; LangChain puts the usage of the call on each of them.",
        script=_choices,
    ),
    Situation(
        name="cache hit",
        sentence="A repeated prompt is answered by LangChain's cache: no request, nothing billed.",
        script=_cache_hit,
    ),
)
