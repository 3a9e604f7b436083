"""Calls inside of LangChain's own constructs: retries, fallbacks, batches, structured output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableParallel
from pydantic import BaseModel

from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation
from langchain_swarmlet_metrics.testing.openai_wire import Reply, ToolRequest

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.testing.conformance.stage import Stage
    from langchain_swarmlet_metrics.testing.openai_server import Request


class _City(BaseModel):
    """A city."""

    inhabitants: int


def _bad_fails(request: Request) -> Reply:
    is_bad = request.messages[-1]["content"] == "bad"
    return Reply(status=500) if is_bad else Reply(text="fine")


async def _retry(stage: Stage) -> None:
    model = stage.model(Reply(status=500), Reply(status=500), Reply(text="x"))
    await stage.invoke(model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False), "hello")


async def _fallbacks(stage: Stage) -> None:
    model = stage.model(Reply(status=500)).with_fallbacks(
        [stage.model(Reply(status=429)), stage.model(Reply(text="x"))]
    )
    await stage.invoke(model, "hello")


async def _batch(stage: Stage) -> None:
    await stage.batch(stage.model(_bad_fails), ["good", "bad", "fine", "well"])


async def _parallel(stage: Stage) -> None:
    branches = RunnableParallel(one=stage.model(Reply(text="x")), two=stage.model(Reply(text="y z")))
    await stage.invoke(branches, "hello")


async def _generate(stage: Stage) -> None:
    stage.notes.untold = True
    prompts: list[list[BaseMessage]] = [[HumanMessage(text)] for text in ("good", "bad", "fine")]
    model = stage.model(_bad_fails)

    async def generate() -> None:
        model.generate(prompts, callbacks=list(stage.handlers))

    await stage.fails(generate())


async def _parse_failure(stage: Stage) -> None:
    wrong = Reply(tool_calls=[ToolRequest("_City", {"inhabitants": "many"})])
    model = stage.model(wrong).with_structured_output(_City, method="function_calling")
    await stage.fails(stage.invoke(model, "How many live there?"))


async def _parse_failure_json(stage: Stage) -> None:
    model = stage.model(Reply(text="There are many.")).with_structured_output(_City, method="json_mode")
    await stage.fails(stage.invoke(model, "How many live there? Answer in JSON."))


async def _parse_failure_inside(stage: Stage) -> None:
    model = stage.model(Reply(text="There are many.")).with_structured_output(_City, method="json_schema")
    await stage.fails(stage.invoke(model, "How many live there?"))
    stage.notes.either.append(("LLM calls", "ok", "error"))


SITUATIONS = (
    Situation(
        name="with_retry", sentence="Two attempts fail, the third succeeds: three calls, two errors.", script=_retry
    ),
    Situation(
        name="with_fallbacks",
        sentence="Two models fail, the second fallback answers: three calls, two errors.",
        script=_fallbacks,
    ),
    Situation(
        name="batch with a failure", sentence="One of the four calls of a batch fails, three return.", script=_batch
    ),
    Situation(name="parallel branches", sentence="A `RunnableParallel` calls two models at once.", script=_parallel),
    Situation(
        name="generate with a failure",
        sentence="The second of three prompts of `generate` fails; LangChain reports no end of the other two and "
        "no tokens of the first, so only the error and what stays open are compared.",
        script=_generate,
        modes=("sync",),
    ),
    Situation(
        name="structured output, bad arguments",
        sentence="The model's answer does not fit the schema: the call succeeded and is billed, its parser failed.",
        script=_parse_failure,
    ),
    Situation(
        name="structured output, no JSON",
        sentence="The model was to answer in JSON and did not: likewise.",
        script=_parse_failure_json,
    ),
    Situation(
        name="structured output parsed by the integration",
        sentence="With a JSON schema the integration itself parses the answer: it reports an error, the call is billed "
        "all the same, and the raw answer with its usage is handed to `on_llm_error`.",
        script=_parse_failure_inside,
        disputed="LangChain reports an error and no usage; it is only in the raw answer that it hands along.",
    ),
)
