"""Workers: blocks, files, context, endings."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManager
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from langchain_swarmlet_metrics import calls, inflight, metadata, pulse, report
from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.eventlog import is_locked
from langchain_swarmlet_metrics.events import LLMCall, ToolCall, parse_timestamp
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.summary import summarize
from langchain_swarmlet_metrics.testing import Reply, ToolRequest, Usage
from tests.conftest import read_lines


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


def shown(worker):
    """Return what the command line shows of a worker."""
    command = [sys.executable, "-m", "langchain_swarmlet_metrics.cli", "--root", str(worker.dir.parent), "show"]
    done = subprocess.run([*command, str(worker.job_id)], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


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


def test_what_asked_for_tools_is_forgotten(runner, loopback):
    """After the worker's end nothing is kept of who asked for which tool."""
    worker = runner.run(create_agent(loopback.model(adding), [add]), "calculate")
    assert worker.collector.requested_by == {}


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


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_end_that_is_told_a_turn_of_the_loop_later(runner, is_cancelled):
    """A call whose stream has been read to its end is not unfinished as LangChain is about to tell its end.

    A cancellation that comes meanwhile still does, and changes nothing in the files.
    """
    here = asyncio.current_task()
    with pytest.raises(asyncio.CancelledError, match="stop") if is_cancelled else nullcontext():
        async with runner.worker("read") as worker:
            (run,) = CallbackManager.configure().on_chat_model_start({}, [[HumanMessage("x")]])
            asyncio.get_running_loop().call_soon(run.on_llm_error, ValueError("told"))
            if is_cancelled:
                here.cancel("stop")
    assert here.cancelling() == int(is_cancelled)
    here.uncancel()
    while on_disk(worker).status == "running":  # a thread writes it to the end
        await asyncio.sleep(0.005)
    assert on_disk(worker).status == "success"
    assert [event.error for event in read_lines(worker.dir / "metrics.jsonl")] == ["told"]


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
