"""Processes that are forked, or started, inside a worker's block: the worker stays its parent's alone."""

from __future__ import annotations

import json
import os
import signal
from textwrap import dedent

import pytest

from langchain_swarmlet_metrics import ArtifactStore
from tests.conftest import read_lines
from tests.processes import output_of, running

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PRELUDE = """
import json, os, sys, threading, time, warnings
from langchain_core.tools import tool
from langchain_swarmlet_metrics import MetricsCallbackHandler, WorkerRunner, carry
warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)
runner = WorkerRunner(sys.argv[1])
@tool
def add(a: int, b: int) -> int:
    "Add."
    return a + b
@tool
def wait() -> None:
    "Wait."
    print("inside", flush=True)
    os.read(0, 1)
def call():
    add.invoke({"a": 1, "b": 2})
call()  # imports what is imported late: a child keeps a half-made import for ever
"""


def test_forks_while_threads_record(tmp_path):
    """Children forked while threads record write nothing into their parent's worker, whatever they call."""
    script = """
        done, made = threading.Event(), []
        def record():
            while not done.is_set():
                call()
                made.append(None)
                time.sleep(0.001)
        with runner.worker("parent") as worker:
            bound = {"callbacks": [MetricsCallbackHandler(worker.collector)]}
            threads = [threading.Thread(target=carry(record)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for number in range(8):
                child = os.fork()
                if not child:
                    call()
                    add.invoke({"a": 1, "b": 2}, bound)
                    worker.collector.record_tool_call(tool_name="child", start_ts=0, end_ts=1)
                    with runner.worker("child"):
                        call()
                    if number % 2:
                        worker.cancel()
                        worker.close()
                    sys.exit()  # out of the parent's block, and through everything that Python does at its exit
                assert os.waitpid(child, 0)[1] == 0
            done.set()
            for thread in threads:
                thread.join()
        print(json.dumps([worker.worker_id, len(made)]))
    """
    parent, count = json.loads(output_of(PRELUDE + dedent(script), tmp_path))
    store = ArtifactStore(tmp_path)
    workers = store.list(limit=99)
    assert {(found.task, found.status) for found in workers} == {("parent", "success"), ("child", "success")}
    assert len({found.job_id for found in workers}) == len(workers) == 9
    events = read_lines(tmp_path / parent / "metrics.jsonl")
    assert sorted(event.id for event in events) == [*range(1, count + 1)]
    assert {event.name for event in events} == {"add"}
    assert store.read_worker(parent).totals.tool_calls == count
    for found in workers:
        if found.worker_id != parent:
            assert [event.name for event in store.events(found.worker_id)] == ["add"]
            assert found.parent.worker_id == parent


def test_a_pool_of_forked_processes(tmp_path):
    """The processes of a pool that forks record into workers of their own, and leave their parent's alone."""
    script = """
        import multiprocessing
        def work(number):
            call()
            return runner.run(lambda task: str(call()), f"part {number}").worker_id
        with runner.worker("parent") as worker:
            call()
            with multiprocessing.get_context("fork").Pool(3) as pool:
                parts = pool.map(work, range(9))
            call()
        print(json.dumps([worker.worker_id, parts]))
    """
    parent, parts = json.loads(output_of(PRELUDE + dedent(script), tmp_path))
    store = ArtifactStore(tmp_path)
    assert [event.id for event in store.events(parent)] == [1, 2]
    assert len(set(parts)) == 9
    assert {store.read_worker(part).status for part in parts} == {"success"}
    assert {len([*store.events(part)]) for part in parts} == {1}


def test_children_that_outlive_their_parent(tmp_path):
    """A killed parent's worker is lost at once, though a forked child and a started process live on; theirs are not.

    What the parent's worker was doing stays known: the child does not touch its files.
    """
    script = """
        import subprocess
        with runner.worker("parent") as worker:
            threading.Thread(target=carry(wait.invoke), args=({},), daemon=True).start()
            while not (worker.dir / "inflight.json").exists():
                time.sleep(0.01)
            subprocess.Popen(["cat"], close_fds=False)
            if not os.fork():
                with runner.worker("child"):
                    wait.invoke({})
                sys.exit()
            os.wait()
    """
    with running(PRELUDE + dedent(script), tmp_path) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["inside\n"] * 2
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        store = ArtifactStore(tmp_path)
        workers = {found.task: found for found in store.list()}
        assert {task: store.status(found) for task, found in workers.items()} == {"parent": "lost", "child": "running"}
        assert [call.name for call in store.open_calls(workers["parent"])] == ["wait"]
        process.stdin.close()  # lets the child go on
        process.stdout.read()
    assert store.status(store.read_worker(workers["child"].worker_id)) == "success"
    assert store.status(workers["parent"]) == "lost"
