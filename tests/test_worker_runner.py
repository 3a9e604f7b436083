"""WorkerRunner and Worker: blocks, runs, files, context, endings."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_swarmlet_metrics import calls, inflight, metadata, pulse, report
from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics import handler as handlers
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.eventlog import is_locked
from langchain_swarmlet_metrics.events import LLMCall, ToolCall, parse_timestamp
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.summary import summarize
from langchain_swarmlet_metrics.testing import Reply, ToolRequest, Usage
from tests.conftest import read_lines
from tests.processes import READ_ONLY, needs_read_only_mounts, output_of


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def adding(request):
    """Ask for one addition, then answer."""
    if request.messages[-1]["role"] == "tool":
        return Reply(text="The result is 42.", usage=Usage(prompt_tokens=20, completion_tokens=5))
    call = ToolRequest("add", {"a": 40, "b": 2})
    return Reply(tool_calls=[call], usage=Usage(prompt_tokens=10, completion_tokens=3))


def on_disk(worker):
    """Return what metadata.json says."""
    return metadata.decode((worker.dir / "metadata.json").read_bytes())


def test_block_records_and_writes(runner, loopback):
    """A block records its calls without callbacks and leaves metadata, events and the whole result."""
    agent = create_agent(loopback.model(adding), [add])
    with runner.worker("calculate 40+2", config={"reason": "test"}) as worker:
        assert on_disk(worker).status == "running"
        assert worker.status == "running"
        worker.result = agent.invoke({"messages": [("user", worker.task)]})
    assert worker.status == "success"
    assert [type(event).__name__ for event in read_lines(worker.dir / "metrics.jsonl")] == [
        "LLMCall",
        "ToolCall",
        "LLMCall",
    ]
    assert (worker.dir / "result.txt").read_text() == "The result is 42."
    written = on_disk(worker)
    assert (written.status, written.task, written.config) == ("success", "calculate 40+2", {"reason": "test"})
    assert (written.totals.llm_calls, written.totals.tool_calls, written.totals.errors) == (2, 1, 0)
    assert (written.totals.prompt_tokens, written.totals.completion_tokens) == (30, 8)
    assert written.duration_ms == worker.duration_ms
    took = parse_timestamp(written.finished_at) - parse_timestamp(written.started_at)
    assert abs(took.total_seconds() * 1000 - written.duration_ms) <= 1
    assert not inflight.calls
    assert get_metrics_collector() is None


def test_metadata_has_every_key_from_the_start(runner):
    """Every key of metadata.json exists while the worker still runs."""
    with runner.worker("anything") as worker:
        keys = list(json.loads((worker.dir / "metadata.json").read_bytes()))
    assert keys == [
        *("schema", "worker_id", "job_id", "owner_id", "task", "status", "created_at", "started_at", "finished_at"),
        *("duration_ms", "error", "summary", "config", "trace_id", "traceparent", "parent", "process", "totals"),
        "completeness",
    ]


def test_print(runner):
    """Printing a worker says who, how it ended, how long it took and what it did."""
    worker = runner.worker("calculate 7*6")
    assert repr(worker) == "<Worker for 'calculate 7*6', not opened>"
    with worker:
        worker.collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    assert str(worker) == (
        f"{worker.worker_id} success, Execution time: {worker.execution_time}, 0 LLM calls, 1 tool call, 0 errors"
    )
    assert worker.worker_id.endswith("_calculate-7-6")


def test_failing_block_keeps_raising(runner):
    """A block that raises records the failure, with secrets out, and raises the very same exception."""
    boom = ValueError("no luck with sk-proj-AbCd3fGhIjKlMnOpQrStUvWxYz0123456789AbCd")
    with pytest.raises(ValueError, match="luck") as caught, runner.worker("try") as worker:
        raise boom
    assert caught.value is boom
    assert worker.status == "failed"
    assert worker.error.startswith("ValueError: no luck with ")
    assert "AbCd3f" not in (worker.dir / "metadata.json").read_text()
    assert not (worker.dir / "result.txt").exists()


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_cancelled_block(runner, ending):
    """A block left by cancellation or the keyboard is cancelled, not failed."""
    with pytest.raises(type(ending)), runner.worker("try") as worker:
        raise ending
    assert (worker.status, on_disk(worker).status) == ("cancelled", "cancelled")


async def test_async_block(runner, loopback):
    """An asynchronous block does the same."""
    agent = create_agent(loopback.model(adding), [add])
    async with runner.worker("calculate") as worker:
        worker.result = await agent.ainvoke({"messages": [("user", worker.task)]})
    assert worker.status == "success"
    assert on_disk(worker).totals.llm_calls == 2
    assert get_metrics_collector() is None


async def test_async_block_cancelled(runner, loopback):
    """A cancelled asynchronous block closes its open call as cancelled and is cancelled itself."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))
    workers = []

    async def work():
        async with runner.worker("wait") as worker:
            workers.append(worker)
            await model.ainvoke("hello")

    task = asyncio.create_task(work())
    await asyncio.to_thread(loopback.server.wait_for_requests, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hold.set()
    assert on_disk(workers[0]).status == "cancelled"
    assert [event.outcome for event in read_lines(workers[0].dir / "metrics.jsonl")] == ["cancelled"]


def test_open_and_close(runner, loopback):
    """A worker can be opened and closed by hand; closing twice does nothing."""
    model = loopback.model(Reply(text="x"))
    worker = runner.worker("explore").open()
    model.invoke("hello")
    worker.result = "found"
    worker.close()
    worker.close(ValueError("too late"))
    assert (worker.status, worker.totals.llm_calls) == ("success", 1)
    with pytest.raises(RuntimeError, match="has been opened before"):
        worker.open()


def test_unopened_worker_says_so(runner):
    """A worker that was not opened says what to do instead of pretending."""
    worker = runner.worker("later")
    with pytest.raises(RuntimeError, match="with runner"):
        _ = worker.worker_id
    with pytest.raises(RuntimeError, match="with runner"):
        _ = worker.collector
    worker.close()
    assert list(runner.store.root.glob("*_later*")) == []


def test_left_in_another_context(runner):
    """A block that is left in another context than it was entered in ends well, and nothing stays current."""
    worker = runner.worker("stream")
    contextvars.copy_context().run(worker.open)
    worker.close()
    assert worker.status == "success"
    assert get_metrics_collector() is None


async def test_generator_closed_by_another_task(runner):
    """A block inside a generator that another task closes is cancelled, and nothing reaches the user."""

    async def stream():
        async with runner.worker("stream") as worker:
            yield worker
            yield worker

    generator = stream()
    worker = await asyncio.create_task(anext(generator))
    await asyncio.create_task(generator.aclose())
    assert worker.status == "cancelled"
    assert get_metrics_collector() is None


def test_nested_workers(runner, loopback):
    """An inner block's calls belong to the inner worker only, and its metadata names the outer worker and call."""
    model = loopback.model(Reply(text="x"), Reply(text="x"))
    inner_workers = []

    @tool
    def delegate() -> str:
        """Delegate."""
        with runner.worker("inner") as inner:
            inner_workers.append(inner)
            return model.invoke("hello").text

    with runner.worker("outer") as outer:
        model.invoke("hello")
        delegate.invoke({})
    (inner,) = inner_workers
    assert (outer.totals.llm_calls, outer.totals.tool_calls) == (1, 1)
    assert (inner.totals.llm_calls, inner.totals.tool_calls) == (1, 0)
    call = next(event for event in read_lines(outer.dir / "metrics.jsonl") if isinstance(event, ToolCall))
    assert on_disk(inner).parent == metadata.Parent(worker_id=outer.worker_id, event_id=call.id)
    assert read_lines(inner.dir / "metrics.jsonl")[0].parent_id is None


def test_same_task_same_second(runner):
    """Two workers with the same task in the same second get different ids and job numbers."""
    workers = [runner.worker("same").open() for _ in range(5)]
    for worker in reversed(workers):
        worker.close()
    assert len({worker.worker_id for worker in workers}) == 5
    assert len({worker.job_id for worker in workers}) == 5


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


def test_secrets_stay_out_of_the_files(runner):
    """Secrets in the task and the config are scrubbed on disk and untouched in memory."""
    secret = "sk-proj-AbCd3fGhIjKlMnOpQrStUvWxYz0123456789AbCd"
    with runner.worker(f"use {secret}", config={"api_key": "hunter2", "note": secret}) as worker:
        pass
    text = (worker.dir / "metadata.json").read_text()
    assert secret not in text
    assert "hunter2" not in text
    assert "AbCd3f" not in worker.worker_id
    assert worker.task == f"use {secret}"


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


def test_late_calls_are_not_recorded(runner, loopback):
    """A call that starts after the block is left is not recorded, and counted in metadata.json soon after."""
    model = loopback.model(*[Reply(text="x")] * 3)
    with runner.worker("quick") as worker:
        handler = MetricsCallbackHandler(worker.collector)
    for _ in range(3):
        model.invoke("hello", config={"callbacks": [handler]})
    pulse.try_a_last_time()
    assert worker.completeness.late_calls == on_disk(worker).completeness.late_calls == 3
    assert read_lines(worker.dir / "metrics.jsonl") == []


def test_structured_result(runner):
    """A result that is no text is kept as JSON, a message as its text."""
    with runner.worker("one") as first:
        first.result = {"answer": 42}
    with runner.worker("two") as second:
        second.result = AIMessage("forty-two")
    assert (first.dir / "result.txt").read_text() == '{"answer":42}'
    assert (second.dir / "result.txt").read_text() == "forty-two"


def test_interpreter_exit_cancels_what_is_open(tmp_path):
    """A worker that is open when the interpreter exits ends as cancelled."""
    code = (
        "import sys; from langchain_swarmlet_metrics import WorkerRunner\n"
        "worker = WorkerRunner(sys.argv[1]).worker('explore').open()\n"
        "print(worker.dir)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    written = json.loads((tmp_path / done.stdout.strip() / "metadata.json").read_bytes())
    assert written["status"] == "cancelled"


def test_show_digest_and_metadata_agree(runner, loopback):
    """What `show`, the digest and metadata.json say of a worker are the same numbers, of the same arithmetic."""
    replies = [
        Reply(text="x", usage=Usage(prompt_tokens=11, completion_tokens=2, cached_tokens=5)),
        Reply(status=500),
        Reply(text="x", usage=None),
    ]
    model = loopback.model(*replies)
    with runner.worker("agree") as worker:
        model.invoke("one")
        with pytest.raises(Exception, match="500"):
            model.invoke("two")
        model.invoke("three")
        add.invoke({"a": 1, "b": 2})
    summary = summarize(runner.store.events(worker.worker_id))
    assert summary.totals == on_disk(worker).totals == worker.totals
    assert summary.completeness == on_disk(worker).completeness
    digest = report.digest_text(runner.store, on_disk(worker))
    assert digest in shown(worker)
    assert "Tokens: prompt 11, completion 2, total 13" in digest


def shown(worker):
    """Return what the command line shows of a worker."""
    command = [sys.executable, "-m", "langchain_swarmlet_metrics.cli", "--root", str(worker.dir.parent), "show"]
    done = subprocess.run([*command, str(worker.job_id)], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_batch_in_threads(runner, loopback):
    """A batch, which LangChain runs in threads of its own, records every call in the one worker."""
    model = loopback.model(lambda _request: Reply(text="x", usage=Usage(prompt_tokens=1, completion_tokens=1)))
    with runner.worker("batch") as worker:
        model.batch([str(number) for number in range(20)], config={"max_concurrency": 8})
    events = read_lines(worker.dir / "metrics.jsonl")
    assert len(events) == 20
    assert all(isinstance(event, LLMCall) for event in events)
    assert sorted(event.id for event in events) == list(range(1, 21))


def test_overlapping_workers(runner, loopback):
    """Workers that are open at the same time in one context keep their calls, whichever is closed first."""
    model = loopback.model(*[Reply(text="x")] * 2)
    first = runner.worker("first").open()
    second = runner.worker("second").open()
    first.close()
    model.invoke("hello")
    second.close()
    assert (first.totals.llm_calls, second.totals.llm_calls) == (0, 1)
    assert get_metrics_collector() is None
    model.invoke("hello")
    assert (first.completeness.late_calls, second.completeness.late_calls) == (0, 0)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_child_leaves_the_worker_alone(runner):
    """A forked child that ends, by exit or by leaving the block, changes nothing about its parent's worker."""
    with runner.worker("parent") as worker:
        child = os.fork()
        if child == 0:
            try:
                worker.close(ValueError("in the child"))
                worker.cancel()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert on_disk(worker).status == "running"
        assert runner.store.status(on_disk(worker)) == "running"
    assert on_disk(worker).status == "success"


def test_call_that_ends_as_the_block_ends(runner, monkeypatch):
    """A call that another thread is just ending when the block ends is on disk and in the totals."""
    reading, go_on = threading.Event(), threading.Event()
    read_labels = calls.read_labels

    def held(name, metadata):
        reading.set()
        go_on.wait(10)
        return read_labels(name, metadata)

    monkeypatch.setattr(calls, "read_labels", held)
    with runner.worker("race") as worker:
        bound = {"callbacks": [MetricsCallbackHandler(worker.collector)]}
        thread = threading.Thread(target=add.invoke, args=({"a": 1, "b": 2}, bound))
        thread.start()
        assert reading.wait(10)
        threading.Timer(0.1, go_on.set).start()
    thread.join()
    assert [event.tool for event in read_lines(worker.dir / "metrics.jsonl")] == ["add"]
    assert on_disk(worker).totals.tool_calls == 1
    assert on_disk(worker).completeness.dropped_events == 0


def test_sink_factory_that_raises(tmp_path, caplog):
    """A sink that cannot be made is named in one warning and counted; the worker runs."""

    def no_port(_worker):
        msg = "port in use"
        raise OSError(msg)

    worker = WorkerRunner(tmp_path / "workers", sinks=[no_port]).run(str.upper, "hello")
    assert (worker.status, worker.result, worker.completeness.dropped_events) == ("success", "HELLO", 1)
    assert "port in use" in caplog.text


def test_what_asked_for_tools_is_forgotten(runner, loopback):
    """After the worker's end nothing is kept of who asked for which tool."""
    worker = runner.run(create_agent(loopback.model(adding), [add]), "calculate")
    assert worker.collector.requested_by == {}


@pytest.mark.parametrize("task", [None, 5, b"text"])
def test_task_is_a_text(runner, task):
    """A task that is no text is an error that names it."""
    with pytest.raises(TypeError, match="task is a text"):
        runner.worker(task)


def test_queued_worker_of_a_dead_process_is_lost(runner):
    """A worker that never got its turn because its process died is lost, not waiting for ever."""
    code = (
        "import os, signal, sys; from langchain_swarmlet_metrics import WorkerRunner\n"
        "worker = WorkerRunner(sys.argv[1]).worker('queued'); worker.create()\n"
        "print(worker.job_id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(runner.store.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert runner.store.status(runner.store.read(int(done.stdout))) == "lost"


def test_interrupted_close_can_be_finished(runner, monkeypatch):
    """A close that is interrupted before the files are written is finished by the next one."""
    complete = runner.store.complete

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    worker = runner.worker("one").open()
    worker.result = "42"
    monkeypatch.setattr(runner.store, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.close()
    monkeypatch.setattr(runner.store, "complete", complete)
    worker.close(ValueError("too late to fail"))
    assert (on_disk(worker).status, (worker.dir / "result.txt").read_text()) == ("success", "42")


def test_worker_killed_as_it_is_made_is_lost(runner):
    """A worker whose process dies at the moment that its files can first be seen is lost, not waiting for ever."""
    code = (
        "import os, signal, sys; from langchain_swarmlet_metrics import WorkerRunner\n"
        "runner = WorkerRunner(sys.argv[1]); save = runner.store.save\n"
        "runner.store.save = lambda metadata: (save(metadata), os.kill(os.getpid(), signal.SIGKILL))\n"
        "runner.worker('one').open()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runner.store.root)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = (path.name for path in runner.store.root.iterdir() if path.is_dir())
    assert runner.store.status(runner.store.read_worker(left)) == "lost"


def test_worker_is_locked_before_it_is_seen(runner, monkeypatch):
    """However slow its process is, nobody ever sees a new worker that is not locked, and takes it for lost."""
    seen = []
    save = runner.store.save

    def look(metadata):
        save(metadata)
        locked = is_locked(runner.store.root / metadata.worker_id / "metrics.jsonl")
        seen.append((runner.store.status(metadata), locked))

    monkeypatch.setattr(runner.store, "save", look)
    with runner.worker("one"):
        pass
    assert seen == [("created", True), ("running", True), ("success", True)]


def test_worker_whose_file_cannot_be_opened(runner, monkeypatch):
    """A worker whose metrics.jsonl cannot be opened runs; its events are counted, and its end is on disk."""

    def no_files(_worker_id):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(runner.store, "writer", no_files)
    with runner.worker("one") as worker:
        add.invoke({"a": 1, "b": 2})
    assert (on_disk(worker).status, worker.record_error) == ("success", None)
    assert on_disk(worker).completeness.dropped_events == 1
    assert on_disk(worker).completeness.drop_reason == "metrics.jsonl: [Errno 24] Too many open files"


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


def test_cancelled_worker_stays_stopped_after_an_inner_one(runner):
    """A worker that was cancelled while one ran inside it is stopped at its next call."""
    with runner.worker("outer") as outer:
        with runner.worker("inner"):
            thread = threading.Thread(target=outer.cancel)
            thread.start()
            thread.join()
        with pytest.raises(asyncio.CancelledError):
            add.invoke({"a": 1, "b": 2})
    assert get_metrics_collector() is None


async def test_abandoned_generator_inside_a_block(runner):
    """A block whose generator is abandoned, and closed by the loop elsewhere, does not stay current after the outer."""

    async def stream():
        with runner.worker("inner"):
            for number in range(3):
                yield number

    with runner.worker("outer"):
        async for _ in stream():
            break
        gc.collect()
        await asyncio.sleep(0.05)
    assert get_metrics_collector() is None


def test_living_workers_are_never_lost(runner):
    """Readers that look while workers are made find none of them lost."""
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            seen.update(runner.store.status(found) for found in runner.store.list(limit=5))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    workers = [runner.worker("quick") for _ in range(40)]
    for worker in workers:
        worker.create()
    for worker in workers:
        worker.open().close()
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= {"created", "running", "success"}


def test_worker_made_by_hand_is_not_lost(tmp_path):
    """A worker folder that is filled by hand stays what its metadata says."""
    store = WorkerRunner(tmp_path / "workers").store
    made = store.create("by hand")
    collector = collectors.MetricsCollector(made.worker_id)
    collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    collector.flush(store)
    assert store.status(store.read_worker(made.worker_id)) == "created"


def test_hand_made_event_after_the_end(runner):
    """An event that is recorded by hand after the worker's end is counted late, nowhere else."""
    with runner.worker("one") as worker:
        pass
    worker.collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    assert (worker.totals.tool_calls, worker.completeness.late_calls) == (0, 1)
