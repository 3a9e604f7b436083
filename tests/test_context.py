"""The context of a worker, carried into threads and executors."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
from langchain_core.tools import tool

from langchain_swarmlet_metrics import carry
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.testing import Reply
from tests.conftest import recording

setting: ContextVar[str] = ContextVar("setting", default="unset")


def answer(_request) -> Reply:
    """Answer anything."""
    return Reply(text="fine")


def in_thread(function, *args):
    """Run a function in a raw thread, to its end."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


async def test_calls_in_threads_are_lost_without_it(loopback):
    """A raw thread, a plain executor and an event loop's executor don't know the worker; this is why carry exists."""
    model = loopback.model(answer)
    with recording() as events, ThreadPoolExecutor() as pool:
        in_thread(model.invoke, "hello")
        pool.submit(model.invoke, "hello").result()
        await asyncio.get_running_loop().run_in_executor(None, model.invoke, "hello")
    assert len(loopback.server.requests) == 3
    assert events == []


async def test_carried_calls_are_recorded(loopback):
    """A carried function records into the worker from a raw thread, a plain executor and an event loop's executor."""
    model = loopback.model(answer)
    with recording() as events, ThreadPoolExecutor() as pool:
        in_thread(carry(model.invoke), "hello")
        pool.submit(carry(model.invoke), "hello").result()
        await asyncio.get_running_loop().run_in_executor(None, carry(model.invoke), "hello")
    assert len(loopback.server.requests) == len(events) == 3
    assert [event.phase for event in events] == ["initial"] * 3


def test_one_carried_function_runs_in_several_threads_at_once():
    """Calls of one carried function overlap; each runs in a context of its own."""
    together = threading.Barrier(3, timeout=10)
    seen = []

    def work(name):
        seen.append(setting.get())
        setting.set(name)
        together.wait()
        seen.append(setting.get())

    setting.set("outer")
    carried = carry(work)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(carried, ("a", "b", "c")))
    assert seen[:3] == ["outer"] * 3
    assert sorted(seen[3:]) == ["a", "b", "c"]
    assert setting.get() == "outer"


def test_each_function_stays_with_its_worker(loopback):
    """A carried function belongs to the worker in whose block it was carried, whatever runs when it is called."""
    model = loopback.model(answer)
    with recording("outer") as outer:
        carried = carry(model.invoke)
        with recording("inner") as inner:
            in_thread(carried, "hello")
            in_thread(carry(model.invoke), "hello")
            in_thread(carry(model.invoke), "hello")
    assert (len(outer), len(inner)) == (1, 2)


def test_carried_inside_a_tool(loopback):
    """Calls that a tool makes in threads of its own have the tool call as their parent."""
    model = loopback.model(answer)

    @tool
    def ask_twice(text: str) -> str:
        """Ask two models at once."""
        with ThreadPoolExecutor() as pool:
            return " ".join(reply.text for reply in pool.map(carry(model.invoke), [text, text]))

    with recording() as events:
        ask_twice.invoke({"text": "hello"})
    (outer,) = [event for event in events if isinstance(event, ToolCall)]
    assert [event.parent_id for event in events if isinstance(event, LLMCall)] == [outer.id, outer.id]


def test_a_loop_of_its_own(loopback):
    """A thread that runs an event loop of its own carries the function that runs the loop."""
    model = loopback.model(answer)
    with recording() as events:
        in_thread(carry(lambda: asyncio.run(model.ainvoke("hello"))))
    assert len(events) == 1


def test_a_call_after_the_worker_is_late(runner, loopback):
    """A carried function that is called when its worker has ended is counted, not recorded."""
    model = loopback.model(answer)
    with runner.worker("leave something behind") as worker:
        carried = carry(model.invoke)
    in_thread(carried, "hello")
    assert (worker.totals.llm_calls, worker.completeness.late_calls) == (0, 1)


def test_arguments_answers_and_errors_pass():
    """A carried function takes and returns what the function does, raises what it raises, and has its name."""

    def divide(numerator, *, by):
        """Divide."""
        return numerator / by

    carried = carry(divide)
    assert carried(6, by=2) == 3
    assert (carried.__name__, carried.__doc__) == ("divide", "Divide.")
    assert carry(functools.partial(divide, by=3))(6) == 2
    with pytest.raises(ZeroDivisionError):
        carried(1, by=0)


def test_without_a_worker():
    """Outside of any worker a carried function runs and records nothing."""
    assert carry(get_metrics_collector)() is None


def test_what_runs_later_is_refused(loopback):
    """An asynchronous function and a generator run later and elsewhere: carrying them is a mistake that is said."""
    model = loopback.model(answer)

    async def generate():
        yield 1

    for function in (model.ainvoke, model.stream, functools.partial(model.ainvoke, "hello"), generate):
        with pytest.raises(TypeError, match="carry a plain function that awaits or reads it"):
            carry(function)
