"""Whatever the order in which LangChain tells things: nothing raises, nothing is recorded twice, nothing stays open."""

from __future__ import annotations

import asyncio
import uuid
from asyncio import CancelledError

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics.collector import MetricsCollector, get_metrics_collector
from langchain_swarmlet_metrics.events import decode, encode
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from tests.conftest import recording

RUNS = st.integers(0, 7)
ANSWER = LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]])
ENDINGS = [None, ValueError("x"), CancelledError(), GeneratorExit(), KeyboardInterrupt()]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["start_llm", "start_tool", "start_chain"]), RUNS, st.none() | RUNS),
        st.tuples(st.sampled_from(["end", "token"]), RUNS, st.none()),
        st.tuples(st.just("fail"), RUNS, st.integers(1, len(ENDINGS) - 1)),
    ),
    max_size=60,
)


class Script:
    """Tell LangChain's real managers what happens to a handful of runs, in any order, repeated or out of place."""

    def __init__(self, *handlers):
        self._handlers = handlers
        self._ids = [uuid.uuid4() for _ in range(8)]
        self._managers = {}
        self.started = set()

    def play(self, step):
        """Tell one thing."""
        what, run, argument = step
        getattr(self, what)(run, argument)

    def _configured(self, parent):
        manager = CallbackManager.configure(list(self._handlers))
        manager.parent_run_id = None if parent is None else self._ids[parent]
        return manager

    def start_llm(self, run, parent):
        """Start an LLM call under this id, even if it has run before."""
        self.started.add(run)
        prompt = [[HumanMessage("x"), ToolMessage("no", tool_call_id="1", status="error")]]
        (self._managers[run],) = self._configured(parent).on_chat_model_start({}, prompt, run_id=self._ids[run])

    def start_tool(self, run, parent):
        """Start a tool call."""
        self.started.add(run)
        self._managers[run] = self._configured(parent).on_tool_start({"name": "t"}, "", run_id=self._ids[run])

    def start_chain(self, run, parent):
        """Start a chain."""
        self._managers[run] = self._configured(parent).on_chain_start(None, {}, run_id=self._ids[run])

    def end(self, run, _argument):
        """End whatever runs under this id, or ran."""
        manager = self._managers.get(run)
        for name, value in (("on_llm_end", ANSWER), ("on_tool_end", "x"), ("on_chain_end", {})):
            if hasattr(manager, name):
                getattr(manager, name)(value)

    def fail(self, run, ending):
        """Fail it."""
        manager = self._managers.get(run)
        for name in ("on_llm_error", "on_tool_error", "on_chain_error"):
            if hasattr(manager, name):
                getattr(manager, name)(ENDINGS[ending])

    def token(self, run, _argument):
        """Stream a token of it."""
        manager = self._managers.get(run)
        if hasattr(manager, "on_llm_new_token"):
            manager.on_llm_new_token("x", chunk=ChatGenerationChunk(message=AIMessageChunk("x")))


def check(events, starts):
    """Assert that each start has one event, every id is there once, and every line is one."""
    assert len(events) == starts
    assert sorted(event.id for event in events) == list(range(1, starts + 1))
    assert all(decode(encode(event)) == event for event in events)
    assert not inflight.calls
    assert not inflight._enclosing


@given(STEPS)
@settings(deadline=None)
def test_any_order(steps):
    """Any order of starts, ends, errors, repeated and late ones gives one event per call."""
    with recording() as events:
        script = Script(MetricsCallbackHandler(), MetricsCallbackHandler())
        collector = get_metrics_collector()
        for step in steps:
            script.play(step)
    assert sorted(event.id for event in events) == list(
        range(1, collector.totals.llm_calls + collector.totals.tool_calls + 1)
    )
    assert not inflight.calls
    assert not inflight._enclosing


@given(STEPS, STEPS)
@settings(deadline=None)
def test_late_ends(steps, late):
    """What is told after the worker has ended raises nothing, adds nothing and leaves nothing open."""
    recorded = []
    collector = MetricsCollector("w", writer=recorded.append)
    script = Script(MetricsCallbackHandler(collector))
    for step in steps:
        script.play(step)
    inflight.close_calls(collector, cancelled=False)
    collector.closed = True
    ended = len(recorded)
    for step in late:
        script.play(step)
    assert len(recorded) == ended
    assert not inflight.calls
    assert not inflight._enclosing


@given(st.lists(st.sampled_from(["return", "raise", "cancel", "hang"]), max_size=12), st.randoms())
@settings(deadline=None, max_examples=60)
def test_tasks(fates, random):
    """Calls in tasks that return, raise, are cancelled or hang, ended in any order, give one event each."""

    async def call(manager, fate, gate):
        (run,) = await manager.on_chat_model_start({}, [[HumanMessage("x")]])
        if fate in ("cancel", "hang"):
            await gate.wait()
        await (run.on_llm_end(ANSWER) if fate == "return" else run.on_llm_error(ValueError("x")))

    async def play():
        gate = asyncio.Event()
        with recording() as events:
            manager = AsyncCallbackManager.configure()
            tasks = [asyncio.create_task(call(manager, fate, gate)) for fate in fates]
            await asyncio.sleep(0)
            while sum(fate in ("cancel", "hang") for fate in fates) > len(inflight.calls):
                await asyncio.sleep(0)
            doomed = [task for task, fate in zip(tasks, fates, strict=True) if fate == "cancel"]
            random.shuffle(doomed)
            for task in doomed:
                task.cancel()
            await asyncio.gather(*doomed, return_exceptions=True)
            finished = [task for task, fate in zip(tasks, fates, strict=True) if fate in ("return", "raise")]
            await asyncio.gather(*finished)
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return events

    events = asyncio.run(play())
    outcomes = [event.outcome for event in events]
    check(events, len(fates))
    assert outcomes.count("cancelled") == fates.count("cancel")
    assert outcomes.count("unfinished") == fates.count("hang")
    assert sum(event.failed for event in events) == fates.count("raise")
