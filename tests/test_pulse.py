"""inflight.json: written while calls stay open, never by a callback, and what readers make of it."""

from __future__ import annotations

import errno
import gc
import json
import os
import threading
import time
import warnings
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.tools import tool

from langchain_swarmlet_metrics import calls as open_calls
from langchain_swarmlet_metrics import inflight, pulse, report, snapshot
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.snapshot import Snapshot, StartedCall
from langchain_swarmlet_metrics.store import ArtifactStore
from tests.processes import running

MOMENT = "2026-01-01T00:00:00.000000Z"


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def eventually(check):
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + 30
    while not (answer := check()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert answer
    return answer


def snapshot_of(worker):
    """Return what a worker's inflight.json says, or None without one."""
    try:
        return json.loads((worker.dir / "inflight.json").read_bytes())
    except FileNotFoundError:
        return None


def waiting_tool():
    """Return a tool that waits, what it sets when it is called, and what it waits for."""
    inside, go_on = threading.Event(), threading.Event()

    @tool
    def slow(query: str) -> str:
        """Wait."""
        inside.set()
        go_on.wait(60)
        return query

    return slow, inside, go_on


def test_open_calls_of_a_live_worker(runner):
    """While calls stay open the file names them, nested ones too; the digest and the metadata tell their age."""
    inside, go_on = threading.Event(), threading.Event()

    @tool
    def outer(query: str) -> str:
        """Call another tool."""
        add.invoke({"a": 1, "b": 2})
        return slow.invoke(query)

    @tool
    def slow(query: str) -> str:
        """Wait."""
        inside.set()
        go_on.wait(60)
        return query

    with runner.worker("wait") as worker:
        pool = threading.Thread(target=_carried(lambda: outer.invoke("x")))
        pool.start()
        inside.wait(60)
        taken = eventually(lambda: snapshot_of(worker))
        taken = eventually(lambda: snapshot_of(worker) if len(snapshot_of(worker)["calls"]) == 2 else None)
        assert [(call["event"], call["tool"], call["id"]) for call in taken["calls"]] == [
            ("tool_call", "outer", 1),
            ("tool_call", "slow", 3),
        ]
        assert taken["calls"][1]["parent_id"] == 1
        metadata = runner.store.read_worker(worker.worker_id)
        digest = report.digest_text(runner.store, metadata)
        assert "Open calls:" in digest
        assert "outer (tool_call, id 1)" in digest
        shown = json.loads(report.metadata_text(runner.store, metadata))
        assert [call["tool"] for call in shown["open_calls"]] == ["outer", "slow"]
        assert all(call["age_ms"] > 0 for call in shown["open_calls"])
        assert shown["totals"]["tool_calls"] == 1  # what has ended so far
        go_on.set()
        pool.join()
        eventually(lambda: snapshot_of(worker) is None)
    assert "Open calls" not in report.digest_text(runner.store, runner.store.read_worker(worker.worker_id))


def _carried(function):
    from langchain_swarmlet_metrics import carry

    return carry(function)


def test_call_that_is_just_ending(runner, monkeypatch):
    """A call whose end has been told and whose line is not written yet is open: a crash would leave no other trace."""
    reading, go_on = threading.Event(), threading.Event()
    read_labels = open_calls.read_labels

    def held(name, metadata):
        if threading.current_thread() is thread:
            reading.set()
            go_on.wait(60)
        return read_labels(name, metadata)

    with runner.worker("wait") as worker:
        thread = threading.Thread(target=_carried(lambda: add.invoke({"a": 1, "b": 2})))
        monkeypatch.setattr(open_calls, "read_labels", held)
        thread.start()
        reading.wait(60)
        taken = eventually(lambda: snapshot_of(worker))
        first = (worker.dir / "inflight.json").stat()
        eventually(lambda: (worker.dir / "inflight.json").stat().st_mtime_ns > first.st_mtime_ns)
        assert [call["id"] for call in taken["calls"]] == [1]
        assert [call.id for call in runner.store.open_calls(worker.metadata)] == [1]
        go_on.set()
        thread.join()
        assert not runner.store.open_calls(worker.metadata)
        eventually(lambda: snapshot_of(worker) is None)


def test_beside_a_busy_agent(runner):
    """A call that stays open is noted in time, though another thread makes short calls without a pause."""
    slow, inside, go_on = waiting_tool()
    with runner.worker("wait") as worker:
        thread = threading.Thread(target=_carried(lambda: slow.invoke("x")))
        thread.start()
        inside.wait(60)
        count, until = 0, time.monotonic() + 60
        while snapshot_of(worker) is None and time.monotonic() < until:
            for _ in range(20):
                add.invoke({"a": 1, "b": 2})
            count += 20
        taken = snapshot_of(worker)
        go_on.set()
        thread.join()
    assert [call["id"] for call in taken["calls"]] == [1]  # the short ones are over before they are worth a file
    assert worker.totals.tool_calls == count + 1


class Unreadable(dict):
    """What LangChain says of a run, of a kind that nobody can read."""

    def get(self, *_: object) -> object:
        """Fail."""
        msg = "no such luck"
        raise RuntimeError(msg)


def test_call_that_cannot_be_read(runner, caplog):
    """A call that cannot be described is left out, and counted and said when it ends."""
    slow, inside, go_on = waiting_tool()
    with runner.worker("odd") as worker:
        handler, run = MetricsCallbackHandler(worker.collector), uuid4()
        handler.on_tool_start({"name": "odd"}, "x", run_id=run, metadata=Unreadable({"a": 1}))
        thread = threading.Thread(target=_carried(lambda: slow.invoke("x")))
        thread.start()
        inside.wait(60)
        eventually(lambda: [call["id"] for call in (snapshot_of(worker) or {"calls": []})["calls"]] == [2])
        go_on.set()
        thread.join()
        handler.on_tool_end("y", run_id=run)
        assert not inflight.open_calls(worker.collector)
    assert (worker.totals.tool_calls, worker.completeness.dropped_events) == (1, 1)
    assert worker.completeness.drop_reason == "unreadable: no such luck"
    assert caplog.text.count("no such luck") == 1
    assert snapshot_of(worker) is None


def test_file_that_could_not_be_replaced(runner, monkeypatch):
    """When the file cannot be written any more, the one from before is still removed with the last open call."""
    save = ArtifactStore.save_snapshot
    with runner.worker("wait") as worker:
        handler, run = MetricsCallbackHandler(worker.collector), uuid4()
        handler.on_tool_start({"name": "first"}, "x", run_id=run)
        eventually(lambda: snapshot_of(worker))
        tried = threading.Event()

        def fail(*_arguments):
            tried.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(ArtifactStore, "save_snapshot", fail)
        handler.on_tool_start({"name": "second"}, "x", run_id=(second := uuid4()))
        assert tried.wait(60)
        handler.on_tool_end("y", run_id=run)
        handler.on_tool_end("y", run_id=second)
        eventually(lambda: snapshot_of(worker) is None)
    monkeypatch.setattr(ArtifactStore, "save_snapshot", save)


def test_no_thread_to_be_had(runner, monkeypatch, caplog):
    """A system without another thread gets one warning, its agent goes on; the next worker has its open calls noted."""
    monkeypatch.setattr(inflight, "turn_ns", inflight.NEVER)
    monkeypatch.setattr(pulse, "_pulse", pulse._Pulse())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        with runner.worker("alone") as worker:
            add.invoke({"a": 1, "b": 2})
    assert (worker.status, worker.totals.tool_calls, inflight.turn_ns) == ("success", 1, inflight.NEVER)
    assert caplog.text.count("can't start new thread") == 1
    with runner.worker("wait") as worker:
        handler, run = MetricsCallbackHandler(worker.collector), uuid4()
        handler.on_tool_start({"name": "slow"}, "x", run_id=run)
        eventually(lambda: snapshot_of(worker))
        handler.on_tool_end("y", run_id=run)


def _no_thread(_thread):
    msg = "can't start new thread"
    raise RuntimeError(msg)


def test_wake_up(monkeypatch):
    """From when the thread is woken up until it runs, calls give way to it; while it sleeps, they do not."""
    monkeypatch.setattr(inflight, "turn_ns", inflight.NEVER)
    woken = pulse._Pulse()
    woken._thread = threading.current_thread()  # so that none is started, which would run at once
    woken.add_attempt(bool)
    assert inflight.turn_ns <= time.perf_counter_ns()
    inflight.turn_ns, woken._is_resting = inflight.NEVER, False
    woken.add_attempt(bool)
    assert inflight.turn_ns == inflight.NEVER


def test_worker_that_ends_with_open_calls(runner):
    """The end of a worker removes the file, also while a call in a thread goes on."""
    slow, inside, go_on = waiting_tool()
    with runner.worker("wait") as worker:
        thread = threading.Thread(target=_carried(lambda: slow.invoke("x")))
        thread.start()
        inside.wait(60)
        eventually(lambda: snapshot_of(worker))
    assert snapshot_of(worker) is None
    time.sleep(2 * pulse.INTERVAL_S)
    assert snapshot_of(worker) is None
    go_on.set()
    thread.join()


def test_sign_of_life_of_a_long_call(runner):
    """The file is touched, not written, while nothing changes: its time of modification is the sign of life."""
    go_on = threading.Event()

    @tool
    def slow(query: str) -> str:
        """Wait."""
        go_on.wait(60)
        return query

    with runner.worker("wait") as worker:
        thread = threading.Thread(target=_carried(lambda: slow.invoke("x")))
        thread.start()
        eventually(lambda: snapshot_of(worker))
        path = worker.dir / "inflight.json"
        first = path.stat()
        eventually(lambda: path.stat().st_mtime_ns > first.st_mtime_ns)
        assert path.stat().st_ino == first.st_ino
        go_on.set()
        thread.join()


def test_killed_process(tmp_path):
    """Of a killed process the open calls are known with their age, and the execution time up to its last sign."""
    script = """
        import sys, threading
        from langchain_core.tools import tool
        from langchain_swarmlet_metrics import WorkerRunner
        @tool
        def add(a: int, b: int) -> int:
            "Add."
            return a + b
        @tool
        def slow(query: str) -> str:
            "Wait."
            print("inside", flush=True)
            threading.Event().wait()
        with WorkerRunner(sys.argv[1]).worker("wait"):
            add.invoke({"a": 1, "b": 2})
            slow.invoke("x")
    """
    with running(script, tmp_path) as process:
        assert process.stdout.readline() == "inside\n"
        time.sleep(1.0)
        process.kill()
        process.wait()
    store = ArtifactStore(tmp_path)
    (metadata,) = store.list()
    assert store.status(metadata) == "lost"
    (call,) = store.open_calls(metadata)
    assert (call.name, call.id) == ("slow", 2)
    digest = report.digest_text(store, metadata)
    age = int(digest.partition("Open calls:\n- ")[2].partition("ms")[0])
    assert 500 <= age <= 1500
    assert 500 <= report.elapsed_ms(store, metadata, "lost") <= 20_000
    assert "slow" in report.metadata_text(store, metadata)


def test_call_that_ended_after_the_snapshot(runner):
    """A call whose event was written after the snapshot is not open; one that is not in it yet is found by its lock."""
    with runner.worker("add") as worker:
        size = (worker.dir / "metrics.jsonl").stat().st_size
        add.invoke({"a": 1, "b": 2})
        calls = [StartedCall(event="tool_call", tool="add", start_ts=MOMENT, id=id_) for id_ in (1, 2)]
        runner.store.save_snapshot(
            Snapshot(
                worker_id=worker.worker_id,
                written_at=MOMENT,
                metrics_bytes=size,
                calls=calls,
            )
        )
        assert [call.id for call in runner.store.open_calls(worker.metadata)] == [2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b'{"calls":[]}'])
def test_damaged_snapshot(runner, content):
    """A snapshot that cannot be read tells of no open calls."""
    with runner.worker("add") as worker:
        (worker.dir / "inflight.json").write_bytes(content)
        assert not runner.store.open_calls(worker.metadata)


def test_worker_that_nobody_closes(runner):
    """A worker that is dropped without being closed is not kept alive by its pulse."""
    import weakref

    worker = runner.worker("dropped").open()
    gone, store, metadata = weakref.ref(worker), runner.store, worker.metadata
    worker._detach()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        del worker
        gc.collect()
    assert gone() is None
    assert store.status(metadata) == "lost"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_has_a_pulse_of_its_own(tmp_path):
    """A forked child watches its own workers, and leaves its parent's snapshot alone."""
    from tests.processes import output_of

    output_of(
        """
        import os, sys, threading, time
        from langchain_core.tools import tool
        from langchain_swarmlet_metrics import WorkerRunner, carry
        go_on = threading.Event()
        @tool
        def slow(query: str) -> str:
            "Wait."
            go_on.wait(60)
            return query
        def work(task):
            with WorkerRunner(sys.argv[1]).worker(task) as worker:
                thread = threading.Thread(target=carry(lambda: slow.invoke("x")))
                thread.start()
                path = worker.dir / "inflight.json"
                while not path.exists():
                    time.sleep(0.01)
                yield path
                go_on.set()
                thread.join()
        parent = work("parent")
        path = next(parent)
        before = path.read_bytes()
        child = os.fork()
        if not child:
            mine = work("child")
            next(mine)
            next(mine, None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert path.read_bytes() == before
        next(parent, None)
        assert not path.exists()
        """,
        tmp_path,
    )


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.lists(
        st.builds(
            StartedCall,
            event=st.sampled_from(["llm_call", "tool_call"]),
            model=st.none() | NAMES,
            tool=st.none() | NAMES,
            start_ts=st.just(MOMENT),
            id=st.integers(0, 2**53),
            parent_id=st.none() | st.integers(0, 2**53),
            agent=st.none() | NAMES,
        ),
        max_size=5,
    )
)
def test_format_roundtrip(calls):
    """What is encoded decodes to itself, and fits the JSON Schema."""
    import jsonschema

    taken = Snapshot(worker_id="w", written_at=MOMENT, metrics_bytes=7, calls=calls)
    assert snapshot.decode(snapshot.encode(taken)) == taken
    jsonschema.validate(msgspec.to_builtins(taken), snapshot.json_schema())


def test_runner_without_workers_has_no_pulse(tmp_path):
    """A runner that has no open worker wakes nobody."""
    with WorkerRunner(tmp_path).worker("one"):
        pass
    eventually(lambda: not pulse._pulse._is_wanted.is_set())
