"""Sinks and log handlers of the user's: slow, hanging and failing ones, and the context they run in."""

from __future__ import annotations

import contextvars
import logging
import threading

import pytest
from langchain_core.tools import tool

from langchain_swarmlet_metrics.runner import WorkerRunner
from tests.conftest import read_lines

LOGGER = logging.getLogger("langchain_swarmlet_metrics")


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.fixture
def hang():
    """Give a function that hangs until the test is over."""
    over = threading.Event()
    yield lambda *_: over.wait(60)
    over.set()


def run(root, sinks=(), calls=3):
    """Run a worker with a few calls; return it and its result."""
    runner = WorkerRunner(root, sinks=sinks)
    with runner.worker("add up") as worker:
        worker.result = str(sum(add.invoke({"a": 1, "b": 2}) for _ in range(calls)))
    assert len(read_lines(worker.dir / "metrics.jsonl")) == calls
    return worker


def test_sink_that_hangs(tmp_path, hang, caplog):
    """A sink that hangs holds up neither the agent nor the end of its worker; it is named once, and counted."""
    worker = run(tmp_path, [lambda _worker: hang])
    assert (worker.status, worker.result) == ("success", "9")
    assert worker.completeness.dropped_events == 3  # the one it hangs with is counted too
    assert "hangs" in worker.completeness.drop_reason
    assert [record.getMessage() for record in caplog.records if "hangs" in record.getMessage()]


def test_factory_that_hangs(tmp_path, hang):
    """A factory of sinks that hangs holds up nothing either, and other sinks get their events."""
    seen = []
    worker = run(tmp_path, [hang, lambda _worker: seen.append])
    assert worker.status == "success"
    assert len(seen) == 3


def test_sinks_of_the_next_worker(tmp_path):
    """A sink that hung for one worker and goes on has every event, and serves the next worker."""
    go_on, seen = threading.Event(), []
    runner = WorkerRunner(tmp_path, sinks=[lambda worker: lambda event: (go_on.wait(60), seen.append(worker.task))])
    for task in ("first", "second"):
        with runner.worker(task):
            add.invoke({"a": 1, "b": 2})
        go_on.set()
    runner.sinks[0][0].drain(60)
    assert seen == ["first", "second"]


def test_context_of_the_block(tmp_path):
    """Factory and sink see the context variables of the place where the block was entered."""
    variable = contextvars.ContextVar("request")
    variable.set("request 7")
    seen = []
    run(tmp_path, [lambda _worker: [seen.append(variable.get()), lambda _event: seen.append(variable.get())][1]], 1)
    assert seen == ["request 7"] * 2


def test_log_handler_that_hangs(tmp_path, hang):
    """A log handler that hangs holds up nothing; what it did not take is counted, and the warning does not hang."""
    handler = logging.Handler()
    handler.emit = hang
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    worker = run(tmp_path)
    assert (worker.status, worker.result) == ("success", "9")
    assert worker.completeness.dropped_events == 3
    assert worker.completeness.drop_reason.startswith("the log: ")


def test_log_handler_sees_the_context(tmp_path):
    """Filters and handlers see the context variables and the thread of the call."""
    variable = contextvars.ContextVar("request", default=None)
    variable.set("request 7")
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append((variable.get(), record.thread))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    run(tmp_path, calls=1)
    assert seen == [("request 7", threading.get_ident())]
