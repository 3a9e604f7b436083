"""WorkerRunner: runs of agents, and what all of a runner's workers have: a root, sinks, a summarizer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver

from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics import handler as handlers
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.testing import Reply, Usage
from tests.conftest import read_lines
from tests.processes import READ_ONLY, needs_read_only_mounts, output_of
from tests.test_worker import add, adding, on_disk


def test_run_graph(runner, loopback):
    """Running a graph gives it the task as a message and keeps the text of its last one."""
    worker = runner.run(create_agent(loopback.model(adding), [add]), "calculate 40+2")
    assert (worker.status, (worker.dir / "result.txt").read_text()) == ("success", "The result is 42.")
    assert loopback.server.requests[0].messages[-1]["content"] == "calculate 40+2"


async def test_arun_graph(runner, loopback):
    """Running a graph asynchronously does the same."""
    worker = await runner.arun(create_agent(loopback.model(adding), [add]), "calculate 40+2")
    assert (worker.status, worker.totals.llm_calls) == ("success", 2)


def test_run_runnable_and_callable(runner):
    """Other Runnables and callables get the task as text, and a user's input function decides for the rest."""
    assert runner.run(RunnableLambda(str.upper), "hello").result == "HELLO"
    assert runner.run(str.title, "hello").result == "Hello"
    assert runner.run(lambda given: given["q"], "hello", input=lambda task: {"q": task * 2}).result == "hellohello"


async def test_arun_callable(runner):
    """A coroutine function runs on the loop, a plain function in a thread, with the collector current in both."""

    async def on_loop(_task):
        return get_metrics_collector().worker_id, threading.get_ident()

    def in_thread(_task):
        return get_metrics_collector().worker_id, threading.get_ident()

    first = await runner.arun(on_loop, "one")
    second = await runner.arun(in_thread, "two")
    assert first.result == (first.worker_id, threading.get_ident())
    assert second.result[0] == second.worker_id
    assert second.result[1] != threading.get_ident()


def test_run_does_not_raise_what_the_agent_raises(runner):
    """An agent's exception is the worker's outcome; cancellation and the keyboard are raised again."""

    def failing(_task):
        raise LookupError

    def interrupted(_task):
        raise KeyboardInterrupt

    worker = runner.run(failing, "try")
    assert (worker.status, worker.error) == ("failed", "LookupError")
    with pytest.raises(KeyboardInterrupt):
        runner.run(interrupted, "try")


def test_run_timeout_stops_the_agent(runner, loopback):
    """A worker that takes too long has failed, and its agent stops at its next call."""
    hold = threading.Event()
    stopped = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold), Reply(text="never asked for"))

    def agent(_task):
        try:
            model.invoke("one")
            model.invoke("two")
        finally:
            stopped.set()

    worker = runner.run(agent, "wait", timeout_s=0.2)
    assert (worker.status, worker.error) == ("failed", "AgentTimeoutError: no answer within 0.2 s")
    hold.set()
    assert stopped.wait(10)
    assert len(loopback.server.requests) == 1
    assert [event.outcome for event in read_lines(worker.dir / "metrics.jsonl")] == ["unfinished"]


async def test_arun_timeout(runner, loopback):
    """An asynchronous worker that takes too long is stopped and has failed, its call cancelled."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))
    worker = await runner.arun(model, "wait", timeout_s=0.2)
    hold.set()
    assert (worker.status, worker.error) == ("failed", "AgentTimeoutError: no answer within 0.2 s")
    assert [event.outcome for event in read_lines(worker.dir / "metrics.jsonl")] == ["cancelled"]


def test_checkpointed_agent_gets_a_thread(runner, loopback):
    """A checkpointed agent runs in the thread of the worker's name unless the config names one."""
    memory = InMemorySaver()
    agent = create_agent(loopback.model(adding), [add], checkpointer=memory)
    worker = runner.run(agent, "calculate")
    named = runner.run(agent, "calculate", config={"configurable": {"thread_id": "mine"}})
    assert (worker.status, named.status) == ("success", "success")
    assert {entry.config["configurable"]["thread_id"] for entry in memory.list(None)} == {worker.worker_id, "mine"}


def test_summarizer(tmp_path, loopback):
    """A summarizer writes the summary as a call of phase summary, outside the execution time."""
    model = loopback.model(Reply(text="It added.", usage=Usage(prompt_tokens=9, completion_tokens=2)))
    runner = WorkerRunner(tmp_path / "workers", summarizer=model)
    worker = runner.run(lambda _task: "42", "add")
    assert worker.summary == on_disk(worker).summary == "It added."
    (event,) = read_lines(worker.dir / "metrics.jsonl")
    assert (event.phase, event.prompt_tokens) == ("summary", 9)
    assert on_disk(worker).totals.llm_calls == 1


async def test_summarizer_async(tmp_path):
    """A plain function summarizes an asynchronous worker, too."""
    runner = WorkerRunner(tmp_path / "workers", summarizer=lambda prompt: prompt.splitlines()[-1])
    worker = await runner.arun(lambda _task: "42", "add")
    assert worker.summary == "42"


def test_summarizer_failure_changes_nothing(tmp_path, caplog):
    """A summarizer that fails is named in a warning; the worker has still succeeded."""

    def broken(_prompt):
        msg = "no model"
        raise RuntimeError(msg)

    worker = WorkerRunner(tmp_path / "workers", summarizer=broken).run(lambda _task: "42", "add")
    assert (worker.status, worker.summary) == ("success", None)
    assert "RuntimeError: no model" in caplog.text


def test_sinks(tmp_path, caplog):
    """A sink takes each event; one that raises is named once and counted, and stops nothing."""
    seen = []

    def make_broken(worker):
        def broken(event):
            msg = f"no disk for {worker.job_id}"
            raise OSError(msg)

        return broken

    runner = WorkerRunner(tmp_path / "workers", sinks=[make_broken, lambda worker: seen.append])
    with runner.worker("try") as worker:
        for _ in range(3):
            worker.collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    assert len(seen) == len(read_lines(worker.dir / "metrics.jsonl")) == 3
    assert on_disk(worker).completeness.dropped_events == 3
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_task_not_stored(tmp_path):
    """Without store_task neither the folder's name nor its files tell the task."""
    runner = WorkerRunner(tmp_path / "workers", store_task=False)
    with runner.worker("a private matter") as worker:
        pass
    assert on_disk(worker).task is None
    assert "private" not in worker.worker_id
    assert worker.task == "a private matter"


def test_owner(tmp_path):
    """An owner given as a callable is asked for each worker."""
    owners = iter(["alice", "bob"])
    runner = WorkerRunner(tmp_path / "workers", owner_id=lambda: next(owners))
    with runner.worker("one") as first, runner.worker("two") as second:
        pass
    assert (on_disk(first).owner_id, on_disk(second).owner_id) == ("alice", "bob")


def test_root_from_the_environment(monkeypatch, tmp_path):
    """SWARMLET_DATA_PATH names the root."""
    monkeypatch.setenv("SWARMLET_DATA_PATH", str(tmp_path / "elsewhere"))
    assert WorkerRunner().store.root == tmp_path / "elsewhere"


def test_unwritable_root(tmp_path):
    """A root that can't be written is an error at construction: path, reason, variable."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="SWARMLET_DATA_PATH") as caught:
        WorkerRunner(tmp_path / "file" / "workers")
    assert str(tmp_path / "file") in str(caught.value)


def test_root_on_a_read_only_file_system(runner):
    """A runner, which writes, refuses a root that can only be read when it is made, not when a worker starts."""
    root = runner.store.root
    needs_read_only_mounts(root)
    script = """
        import sys
        from langchain_swarmlet_metrics import WorkerRunner
        try:
            WorkerRunner(sys.argv[1])
        except OSError as error:
            print(error)
    """
    output = output_of(script, root, through=(*READ_ONLY, root))
    assert f"workers cannot be kept in {root}: Read-only file system; set SWARMLET_DATA_PATH or pass root=" in output


def test_file_mode(tmp_path):
    """The files of a runner's workers get the mode that it is made with; one that can't be is refused."""
    worker = WorkerRunner(tmp_path / "workers", file_mode=0o640).run(lambda task: "42", "task")
    modes = {path.name: path.stat().st_mode & 0o777 for path in worker.dir.iterdir()}
    assert modes == dict.fromkeys(["metadata.json", "metrics.jsonl", "result.txt"], 0o640)
    with pytest.raises(ValueError, match="file_mode=0o666 is refused"):
        WorkerRunner(tmp_path / "workers", file_mode=0o666)


def test_structured_result(runner):
    """A result that is no text is kept as JSON, a message as its text."""
    with runner.worker("one") as first:
        first.result = {"answer": 42}
    with runner.worker("two") as second:
        second.result = AIMessage("forty-two")
    assert (first.dir / "result.txt").read_text() == '{"answer":42}'
    assert (second.dir / "result.txt").read_text() == "forty-two"


def test_nothing_stays_current_when_the_summary_is_interrupted(tmp_path):
    """Ctrl-C in the summarizer passes; the worker is complete, and nothing stays current."""

    def interrupted(_prompt):
        raise KeyboardInterrupt

    runner = WorkerRunner(tmp_path / "workers", summarizer=interrupted)
    worker = runner.worker("one").open()
    worker.result = "42"
    with pytest.raises(KeyboardInterrupt):
        worker.close()
    assert get_metrics_collector() is None
    assert runner.store.status(on_disk(worker)) == "success"


def test_result_is_written_before_the_summary(tmp_path):
    """While the summarizer works, the result and the status are on disk."""
    seen = []

    def look(_prompt):
        seen.append((on_disk(worker).status, (worker.dir / "result.txt").read_text()))
        return "short"

    runner = WorkerRunner(tmp_path / "workers", summarizer=look)
    with runner.worker("one") as worker:
        worker.result = "42"
    assert seen == [("success", "42")]
    assert on_disk(worker).summary == "short"


def test_secrets_stay_out_of_the_summary(tmp_path):
    """A secret that the summarizer repeats is not written."""
    secret = "sk-proj-AbCd3fGhIjKlMnOpQrStUvWxYz0123456789AbCd"
    runner = WorkerRunner(tmp_path / "workers", summarizer=lambda _prompt: f"used {secret}")
    worker = runner.run(str.upper, "hello")
    assert on_disk(worker).summary == "used [redacted]"


def test_summary_is_recorded_in_any_context(tmp_path, loopback):
    """The summary's call is the worker's also when the block is left in another context."""
    runner = WorkerRunner(tmp_path / "workers", summarizer=loopback.model(Reply(text="short")))
    worker = runner.worker("one").open()
    worker.result = "42"
    contextvars.Context().run(worker.close)
    assert [event.phase for event in read_lines(worker.dir / "metrics.jsonl")] == ["summary"]
    collectors.set_metrics_collector(None)
    handlers.detach(None)


async def test_timeout_while_the_files_are_finished(tmp_path):
    """A time-out that strikes while the worker is being finished changes neither its files nor what is current."""
    runner = WorkerRunner(tmp_path / "workers")
    complete, release = runner.store.complete, threading.Event()

    def slow(*args, **options):
        release.wait(10)
        complete(*args, **options)

    runner.store.complete = slow
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), runner.worker("one") as worker:
            pass
    assert get_metrics_collector() is None
    release.set()
    async with asyncio.timeout(10):
        while on_disk(worker).status != "success":
            await asyncio.sleep(0.01)


def test_sink_factory_that_raises(tmp_path, caplog):
    """A sink that cannot be made is named in one warning and counted; the worker runs."""

    def no_port(_worker):
        msg = "port in use"
        raise OSError(msg)

    worker = WorkerRunner(tmp_path / "workers", sinks=[no_port]).run(str.upper, "hello")
    assert (worker.status, worker.result, worker.completeness.dropped_events) == ("success", "HELLO", 1)
    assert "port in use" in caplog.text


def test_sink_factory_that_returns_none(tmp_path, caplog):
    """Who forgets to return the sink is told, with the name of the factory."""

    def forget(_worker):
        pass

    worker = WorkerRunner(tmp_path / "workers", sinks=[forget]).run(str.upper, "hello")
    assert worker.completeness.drop_reason.endswith(
        "forget: it returned a NoneType as a sink; a sink is a callable that takes an event"
    )
    assert "returned a NoneType" in caplog.text


def test_sink_factories_are_callables(tmp_path):
    """What can't be called is refused when the runner is made."""
    with pytest.raises(TypeError, match="sinks are callables that take a worker and return a sink, not 'x'"):
        WorkerRunner(tmp_path / "workers", sinks=["x"])


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), "30"])
async def test_timeouts_are_seconds(runner, timeout_s):
    """What is no time is refused before there is a worker."""
    with pytest.raises(ValueError, match="is no number of seconds above 0"):
        runner.run(str.upper, "hello", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="is no number of seconds above 0"):
        await runner.arun(str.upper, "hello", timeout_s=timeout_s)
    assert not runner.store.list()


async def test_agents_can_be_called(runner):
    """What can't be called is refused before there is a worker, and before one is spawned."""
    with pytest.raises(TypeError, match="an agent is a graph, another Runnable or a callable, not 'x'"):
        runner.run("x", "hello")
    with pytest.raises(TypeError, match="an agent is"):
        await runner.arun("x", "hello")
    with pytest.raises(TypeError, match="an agent is"):
        runner.supervisor_tools(worker="x")
    assert not runner.store.list()


def test_config_is_a_mapping(runner):
    """Notes that are no mapping are an error that names them."""
    with pytest.raises(TypeError, match="a worker's config is a mapping, your own notes on it, not 'x'"):
        runner.worker("try", config="x")


@pytest.mark.parametrize("task", [None, 5, b"text"])
def test_task_is_a_text(runner, task):
    """A task that is no text is an error that names it."""
    with pytest.raises(TypeError, match="task is a text"):
        runner.worker(task)


def test_sink_that_cancels_its_worker(tmp_path, monkeypatch):
    """A sink may cancel the worker that feeds it, as a budget does: without waiting for itself."""
    sleep = time.sleep

    def pause(seconds):
        if threading.current_thread().name != "swarmlet-pulse":  # which sleeps all its life
            pytest.fail("it waits")
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", pause)
    runner = WorkerRunner(tmp_path / "workers", sinks=[lambda worker: lambda _event: worker.cancel("over budget")])
    with runner.worker("spend") as worker:
        add.invoke({"a": 1, "b": 2})
        worker.collector.settle()
        with pytest.raises(asyncio.CancelledError):
            add.invoke({"a": 1, "b": 2})
    assert (on_disk(worker).status, on_disk(worker).error) == ("cancelled", "CancelledError: over budget")
    assert on_disk(worker).completeness.dropped_events == 0
