"""Chains, tools, retries, fallbacks and branches in any composition, run in any way: what they did is what is recorded.

The models and the tools keep account themselves of what they were asked for, inside of which tool, and how it ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.events import LLMCall
from tests.conftest import recording

MODELS = st.tuples(st.just("model"), st.lists(st.booleans(), min_size=1, max_size=3))
TREES = st.recursive(
    MODELS,
    lambda trees: st.one_of(
        st.tuples(st.sampled_from(["tool", "chain", "retry", "batch"]), trees),
        st.tuples(st.sampled_from(["sequence", "branches", "fallback"]), trees, trees),
    ),
    max_leaves=5,
)

inside = ContextVar("inside", default=None)


class Account:
    """Count what was done: the kind, the name, the tool around it, whether it went well, and the tokens."""

    def __init__(self):
        self.done = Counter()
        self.numbers = count(1)

    def add(self, kind, name, outer, *, success, tokens=None):
        """Count a call that has ended."""
        self.done[kind, name, outer, success, tokens] += 1


class Model(BaseChatModel):
    """Fail or answer, in turn; with as many tokens as it has answered calls."""

    name_: str
    fails: list[bool]
    account: Any
    turns: Any

    @property
    def _llm_type(self):
        return "spy"

    def _get_ls_params(self, **_options):
        return {"ls_provider": "spy", "ls_model_name": self.name_, "ls_model_type": "chat"}

    def _answer(self):
        turn = next(self.turns)
        if self.fails[turn % len(self.fails)]:
            self.account.add("llm", self.name_, inside.get(), success=False)
            msg = "no answer"
            raise ValueError(msg)
        self.account.add("llm", self.name_, inside.get(), success=True, tokens=turn)
        usage = {"input_tokens": turn, "output_tokens": 0, "total_tokens": turn}
        return "a b", usage

    def _generate(self, *_arguments, **_options):
        text, usage = self._answer()
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text, usage_metadata=usage))])

    async def _agenerate(self, *_arguments, **_options):
        await asyncio.sleep(0)
        return self._generate()

    def _stream(self, *_arguments, **_options):
        text, usage = self._answer()
        yield ChatGenerationChunk(message=AIMessageChunk(text))
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage))

    async def _astream(self, *_arguments, **_options):
        for chunk in self._stream():
            await asyncio.sleep(0)
            yield chunk


@contextmanager
def accounted(account, name):
    """Count a tool call that runs inside the block, and have what it asks for know that."""
    outer, token = inside.get(), inside.set(name)
    try:
        yield
    except ValueError:
        account.add("tool", name, outer, success=False)
        raise
    else:
        account.add("tool", name, outer, success=True)
    finally:
        inside.reset(token)


def tool_around(runnable, account):
    """Return a tool that asks something, for synchronous and for asynchronous callers."""
    name = f"tool{next(account.numbers)}"

    def ask(q: str) -> str:
        with accounted(account, name):
            runnable.invoke(q)
        return "x"

    async def aask(q: str) -> str:
        with accounted(account, name):
            await runnable.ainvoke(q)
        return "x"

    return StructuredTool.from_function(func=ask, coroutine=aask, name=name, description="Ask.")


TEXT = RunnableLambda(lambda _: "x")


def in_a_batch(runnable):
    """Run something twice at once, whatever comes of it."""
    inputs = ["x", "x"]
    return RunnableLambda(
        lambda _: runnable.batch(inputs, return_exceptions=True),
        afunc=lambda _: runnable.abatch(inputs, return_exceptions=True),
    )


def in_branches(first, second):
    """Run two things at once, neither of which fails, as nobody would wait for the other."""
    return RunnableParallel(a=first.with_fallbacks([TEXT]), b=second.with_fallbacks([TEXT]))


BUILDERS = {
    "chain": lambda first: RunnableLambda(first.invoke, afunc=first.ainvoke),
    "retry": lambda first: (TEXT | first).with_retry(stop_after_attempt=2, wait_exponential_jitter=False),
    "batch": lambda first: in_a_batch(first) | TEXT,
    "sequence": lambda first, second: TEXT | first | TEXT | second,
    "fallback": lambda first, second: first.with_fallbacks([second]),
    "branches": lambda first, second: in_branches(first, second) | TEXT,
}


def composed(tree, account):
    """Return what a tree describes; it takes any text."""
    kind, *rest = tree
    if kind == "model":
        return Model(name_=f"model{next(account.numbers)}", fails=rest[0], account=account, turns=count())
    parts = [composed(branch, account) for branch in rest]
    if kind == "tool":
        return RunnableLambda(lambda _: {"q": "x"}) | tool_around(*parts, account)
    return BUILDERS[kind](*parts)


async def run(runnable, way):
    """Run something in one of LangChain's ways."""
    match way:
        case "invoke":
            runnable.invoke("x")
        case "stream":
            list(runnable.stream("x"))
        case "ainvoke":
            await runnable.ainvoke("x")
        case "astream":
            async for _ in runnable.astream("x"):
                pass
        case _:
            async for _ in runnable.astream_events("x", version="v2"):
                pass


def recorded(events):
    """Count the events as an account does."""
    names = {event.id: event.name for event in events}
    return Counter(
        (
            "llm" if isinstance(event, LLMCall) else "tool",
            event.name,
            names.get(event.parent_id),
            event.success is not False,
            event.prompt_tokens if isinstance(event, LLMCall) else None,
        )
        for event in events
        if event.outcome is None
    )


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream", "astream_events"])
@given(tree=TREES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_was_done_is_recorded(way, tree):
    """Each call is recorded once, with its tokens and how it ended, inside of the tool that made it."""
    account = Account()
    with recording() as events:
        with suppress(ValueError):
            asyncio.run(run(composed(tree, account), way))
        assert recorded(events) == account.done
        assert len(events) == account.done.total()
        assert not inflight.calls
        assert not inflight._enclosing
