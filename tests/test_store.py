"""Tests of `store`: worker folders made, read, listed and searched by real threads and processes."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics.events import ToolCall, parse_timestamp, timestamp
from langchain_swarmlet_metrics.folder import FileRefusedError
from langchain_swarmlet_metrics.listing import FileEntry
from langchain_swarmlet_metrics.metadata import Metadata, Parent, Process, encode
from langchain_swarmlet_metrics.reader import WorkerNotFoundError
from langchain_swarmlet_metrics.store import ArtifactStore, NotRecordedError
from langchain_swarmlet_metrics.summaries import Sums
from langchain_swarmlet_metrics.summary import summarize
from tests.processes import READ_ONLY, needs_read_only_mounts, output_of, outputs_of, running

EVENT = ToolCall(tool="ssh_exec", start_ts="", end_ts="", duration_ms=1, success=True)
SECRET = "sk-" + "Zx9Qv7Lm2Tc4Rb8Wk1Hd5Ny3Jf6Gp0Sa"
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def store(tmp_path):
    """Return a store with a root of its own."""
    return ArtifactStore(tmp_path / "root")


def make(store, *tasks, **options):
    """Make workers, one after the other."""
    return [store.create(task, **options) for task in tasks]


def written(store, metadata):
    """Return what is in a worker's metadata.json."""
    return json.loads((store.root / metadata.worker_id / "metadata.json").read_bytes())


def set_in_index(store, sql):
    """Change the index behind the store's back."""
    with closing(sqlite3.connect(store.root / "index.sqlite3", isolation_level=None)) as connection:
        connection.execute(sql)


# Creating


def test_create_makes_a_folder(store):
    """A new worker has a folder, a number, and a metadata.json in which every key is present."""
    parent = Parent(worker_id="outer", event_id=3)
    metadata = store.create(
        "calculate 7*6",
        owner_id="ann",
        config={"model": "gpt-5-mini", "retries": [1, None]},
        parent=parent,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_calculate-7-6", metadata.worker_id)
    assert metadata.worker_id[:19] == metadata.created_at[:19].replace(":", "-")
    assert store.read(1) == store.read_worker(metadata.worker_id) == metadata
    assert list(written(store, metadata)) == list(Metadata.__struct_fields__)
    assert written(store, metadata) | {"totals": ..., "completeness": ..., "created_at": ..., "worker_id": ...} == {
        "schema": 1,
        "worker_id": ...,
        "job_id": 1,
        "owner_id": "ann",
        "task": "calculate 7*6",
        "status": "created",
        "created_at": ...,
        "started_at": None,
        "finished_at": None,
        "duration_ms": None,
        "error": None,
        "summary": None,
        "config": {"model": "gpt-5-mini", "retries": [1, None]},
        "trace_id": None,
        "traceparent": None,
        "parent": {"worker_id": "outer", "event_id": 3},
        "process": None,
        "totals": ...,
        "completeness": ...,
    }


def test_what_is_made_is_private(store):
    """Folders and files can be read by their owner only."""
    metadata = store.create("task")
    store.append(metadata.worker_id, [EVENT])
    store.complete(metadata, status="success", elapsed_ns=1 * 10**6, result="42")
    for path in [store.root, *store.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_group_may_be_let_in(tmp_path):
    """With a mode of its own, files can be read by others, who then may enter the folders; other modes are refused."""
    store = ArtifactStore(tmp_path / "root", file_mode=0o640)
    metadata = store.create("task")
    store.append(metadata.worker_id, [EVENT])
    store.complete(metadata, status="success", elapsed_ns=1 * 10**6, result="42")
    for path in [store.root, *store.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path
    assert stat.S_IMODE((tmp_path / "root" / metadata.worker_id / "metadata.json").stat().st_mode) == 0o640
    with pytest.raises(ValueError, match=r"file_mode=0o660 is refused.*0o640"):
        ArtifactStore(tmp_path / "other", file_mode=0o660)
    assert not (tmp_path / "other").exists()


def test_secrets_are_kept_out(store):
    """Secrets get neither into the folder's name nor into metadata.json."""
    metadata = store.create(f"use {SECRET} now", config={"api_key": SECRET, "note": f"key {SECRET}"})
    store.complete(metadata, status="failed", elapsed_ns=1 * 10**6, error=f"bad key {SECRET}", summary=f"used {SECRET}")
    assert metadata.worker_id.endswith("_use-redacted-now")
    content = (store.root / metadata.worker_id / "metadata.json").read_text()
    assert SECRET not in content
    assert "bad key [redacted]" in content


def test_long_texts_are_cut(store):
    """Of a task and a summary a million characters are kept, so that metadata.json can always be read again."""
    text = "\x00" * 1_500_000
    metadata = store.create(text)
    store.complete(metadata, status="success", elapsed_ns=0, summary=text)
    assert store.read(metadata.job_id) == metadata
    assert 999_000 < len(metadata.task) == len(metadata.summary) <= 1_000_000
    assert metadata.task.endswith(" more characters)")
    assert (store.root / metadata.worker_id / "metadata.json").stat().st_size < 16 << 20


def test_a_task_that_is_not_stored(store):
    """Without `store_task` neither the name nor the file tells the task."""
    metadata = store.create("top secret", store_task=False)
    assert metadata.worker_id.endswith("_worker")
    assert written(store, metadata)["task"] is None


@same_folder
@given(task=st.text(st.characters()), summary=st.text(st.characters()), result=st.text(st.characters()))
def test_any_text_is_kept(store, task, summary, result):
    """Whatever the texts, they can be written and read; only lone surrogates become escapes."""
    metadata = store.create(task)
    store.complete(metadata, status="success", elapsed_ns=0 * 10**6, result=result, error=task, summary=summary)
    assert store.read(metadata.job_id) == metadata
    if task.isascii() and task.isalnum():
        assert metadata.task == task
    assert store.result(metadata.worker_id) == result.encode(errors="backslashreplace").decode()


def test_processes_create_at_once(store):
    """Workers of several processes with the same task at the same time have different folders and numbers."""
    script = """
        import sys
        from langchain_swarmlet_metrics.store import ArtifactStore
        store = ArtifactStore(sys.argv[1])
        wait_for_the_others()
        for _ in range(50):
            metadata = store.create("the same task")
            print(metadata.worker_id, metadata.job_id)
    """
    made = [line.split() for output in outputs_of(4, script, store.root) for line in output.splitlines()]
    assert len({worker_id for worker_id, _ in made}) == 200
    assert sorted(int(job_id) for _, job_id in made) == list(range(1, 201))
    assert {(found.worker_id, str(found.job_id)) for found in store.list(limit=999)} == set(map(tuple, made))


def test_threads_create_at_once(store):
    """Workers of several threads have different folders and numbers."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(store.create, ["the same task"] * 80))
    assert len({metadata.worker_id for metadata in made}) == 80
    assert sorted(metadata.job_id for metadata in made) == list(range(1, 81))


def test_the_index_is_lost_again_and_again(store):
    """While the index is deleted or damaged under processes that create, no number is given out twice."""
    script = """
        import os, sys
        from contextlib import suppress
        from langchain_swarmlet_metrics.store import ArtifactStore
        store = ArtifactStore(sys.argv[1])
        index = store.root / "index.sqlite3"
        wait_for_the_others()
        for number in range(40):
            if number % 10 == 0:
                index.unlink(missing_ok=True)
            elif number % 10 == 5:
                with suppress(FileNotFoundError):
                    os.truncate(index, 100)
            metadata = store.create("the same task")
            assert store.read(metadata.job_id).worker_id == metadata.worker_id
            print(metadata.job_id)
    """
    outputs = outputs_of(3, script, store.root)
    assert len(set("".join(outputs).split())) == 120
    assert len(store.list(limit=999)) == 120
    assert list(store.root.glob("index.sqlite3.damaged-*"))


def test_a_creation_that_fails_leaves_nothing(store, monkeypatch):
    """When the folder cannot be written, none is left behind; the error has what would have been written."""
    monkeypatch.setattr(store, "save", no_room)
    with pytest.raises(NotRecordedError, match="No space left") as caught:
        store.create("task")
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == []
    assert (caught.value.errno, caught.value.metadata.task) == (28, "task")


def no_room(_metadata):
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device")


def test_an_index_that_cannot_be_used(store):
    """A worker that can't be numbered is recorded all the same, and can be read by the name of its folder."""
    (store.root / "index.sqlite3").mkdir()
    made = store.create("task")
    assert made.job_id is None
    assert store.read_worker(made.worker_id) == made


def test_the_root(tmp_path, monkeypatch):
    """The root is the argument, or what the environment says; it is absolute, and a bad one is an error at once."""
    monkeypatch.setenv("SWARMLET_DATA_PATH", str(tmp_path / "configured"))
    assert ArtifactStore().root == tmp_path / "configured"
    monkeypatch.chdir(tmp_path)
    assert ArtifactStore("relative").root == tmp_path / "relative"
    assert repr(ArtifactStore("relative")) == f"ArtifactStore({str(tmp_path / 'relative')!r})"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="set SWARMLET_DATA_PATH or pass root="):
        ArtifactStore(tmp_path / "file")


def test_a_root_with_an_odd_name(tmp_path):
    """Characters that mean something in a database's address are only characters."""
    store = ArtifactStore(tmp_path / "100% ?mode=ro#ünï")
    assert store.create("task") == store.read(1)


# Whose folders


def stranger_owns(folder):
    """Give a folder to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    os.chown(folder, 54321, 0)


def anybody_writes(folder):
    """Let everybody write to a folder."""
    folder.chmod(0o777)


def link(folder):
    """Put a link in a folder's place."""
    folder.rename(folder.parent.parent / "moved")
    folder.symlink_to(folder.parent.parent / "moved")


@pytest.mark.parametrize("spoil", [stranger_owns, anybody_writes])
def test_a_root_that_others_may_change(store, spoil):
    """Neither a writer nor a reader takes a root in which others can put workers, whether or not through a link."""
    store.create("task")
    spoil(store.root)
    (store.root.parent / "link").symlink_to(store.root)
    for root in (store.root, store.root.parent / "link"):
        with pytest.raises(PermissionError, match=f"worker folders in {store.root} are refused: .* run `ch.* root="):
            ArtifactStore(root)


@pytest.mark.parametrize("spoil", [stranger_owns, anybody_writes, link])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_worker_folder_that_others_may_change(store, spoil, rebuilt):
    """A worker whose folder is not its user's own is not found, listed or written to; the others are."""
    good, bad = make(store, "good needle", "bad needle")
    spoil(store.root / bad.worker_id)
    if rebuilt:
        (store.root / "index.sqlite3").unlink()
    assert store.list() == [good]
    assert [match.metadata for match in store.search("needle")] == [good]
    with pytest.raises(WorkerNotFoundError, match="worker job 2 not found"):
        store.read(2)
    for call in (store.read_worker, store.result, store.events, store.files):
        with pytest.raises(WorkerNotFoundError):
            call(bad.worker_id)
    with pytest.raises(FileNotFoundError):
        store.writer(bad.worker_id)


# Read-only


def test_a_root_on_a_read_only_file_system(store):
    """Everything can be read where nothing can be written, running workers included; writing is the system's error."""
    needs_read_only_mounts(store.root)
    ended, running_one = make(store, "first needle", "second")
    store.append(ended.worker_id, [EVENT])
    store.complete(ended, status="success", elapsed_ns=1 * 10**6, result="42")
    script = """
        import sys
        from langchain_swarmlet_metrics.store import ArtifactStore
        store = ArtifactStore(sys.argv[1])
        print([(found.job_id, store.status(found)) for found in store.list()])
        print([found.job_id for found in store.list(status="running")])
        metadata = store.read(1)
        events = list(store.events(metadata.worker_id))
        print(store.result(metadata.worker_id), len(events), len(store.search("needle")))
        for write in (lambda: store.create("task"), lambda: store.save(metadata), lambda: store.start(metadata)):
            try:
                write()
            except OSError as error:
                print("Read-only file system" in str(error))
    """
    with closing(store.writer(running_one.worker_id)):
        store.start(running_one)
        before = sorted(store.root.iterdir())
        output = output_of(script, store.root, through=(*READ_ONLY, store.root))
    assert output.splitlines()[:3] == ["[(2, 'running'), (1, 'success')]", "[2]", "42 1 1"]
    assert output.splitlines()[3:5] == ["True"] * 2
    assert sorted(store.root.iterdir()) == before


def test_many_workers_are_read_page_by_page(store, monkeypatch):
    """Pages grow, so that a root whose folders have to be read for each page is read few times."""
    make(store, *map(str, range(30)))
    monkeypatch.setattr("langchain_swarmlet_metrics.reader._PAGE", 2)
    monkeypatch.setattr("langchain_swarmlet_metrics.registry._is_read_only", lambda folder: True)
    scans = []
    monkeypatch.setattr(store._registry, "_scan", lambda: scans.append(1) or store._scan())
    assert [found.job_id for found in store.list(limit=99)] == list(range(30, 0, -1))
    assert len(scans) == 5


# Running and ending


def test_a_whole_life(store):
    """A worker is created, running and ended; times agree, and the file says the same as the object."""
    metadata = store.create("task")
    with closing(store.writer(metadata.worker_id)) as writer:
        store.start(metadata)
        assert written(store, metadata)["process"] == {"host": Process.current().host, "pid": os.getpid()}
        writer(EVENT)
        assert store.status(store.read(1)) == "running"
        metadata.totals.add(EVENT)
        store.complete(
            metadata, status="success", elapsed_ns=83_250 * 10**6, result="The result is 42.", summary="done"
        )
        assert store.status(store.read(1)) == "success"
    assert store.read(1) == metadata
    assert written(store, metadata)["totals"]["tool_calls"] == 1
    took = parse_timestamp(metadata.finished_at) - parse_timestamp(metadata.started_at)
    assert took == timedelta(milliseconds=83_250)
    assert metadata.finished_at == timestamp(round(parse_timestamp(metadata.finished_at).timestamp() * 1e6) * 1000)
    assert store.result(metadata.worker_id) == "The result is 42."
    assert [job.status for job in store._registry.list()] == ["success"]
    assert [entry.name for entry in store.files(metadata.worker_id)] == ["metadata.json", "metrics.jsonl", "result.txt"]


def test_a_worker_that_never_started(store):
    """A worker cancelled before it started ends now, and has no result."""
    metadata = store.create("task")
    store.complete(metadata, status="cancelled", elapsed_ns=0 * 10**6)
    assert metadata.started_at is None
    assert metadata.created_at <= metadata.finished_at <= timestamp(int(datetime.now(UTC).timestamp() * 1e9))
    assert store.result(metadata.worker_id) is None


def test_an_error_is_one_line(store):
    """An error of several lines is kept as one."""
    metadata = store.create("task")
    store.complete(metadata, status="failed", elapsed_ns=1 * 10**6, error="ValueError: no\n  such\thost")
    assert metadata.error == "ValueError: no such host"


def test_a_result_that_cannot_be_written(store):
    """When the result cannot be written, that is an error, but how the worker ended is written down."""
    metadata = store.create("task")
    (store.root / metadata.worker_id / "result.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        store.complete(metadata, status="success", elapsed_ns=1 * 10**6, result="42")
    assert store.read(1).status == "success"
    assert store._registry.find(1).status == "success"


def test_a_folder_deleted_while_its_worker_runs(store):
    """When the folder is gone, ending raises the system's error."""
    metadata = store.create("task")
    (store.root / metadata.worker_id / "metadata.json").unlink()
    (store.root / metadata.worker_id).rmdir()
    with pytest.raises(FileNotFoundError):
        store.complete(metadata, status="success", elapsed_ns=1 * 10**6, result="42")


def test_append(store):
    """Events are appended by hand, to a worker that runs as well, and after a line that a crash has torn."""
    metadata = store.create("task")
    store.append(metadata.worker_id, [EVENT])
    with closing(store.writer(metadata.worker_id)):
        store.append(metadata.worker_id, [EVENT, EVENT])
    with (store.root / metadata.worker_id / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event":"tool_')
    store.append(metadata.worker_id, [EVENT])
    events = store.events(metadata.worker_id)
    assert list(events) == [EVENT] * 4
    assert events.skipped == 1
    assert store.summary(metadata.worker_id) == Sums(summarize([EVENT] * 4), skipped=1)


@pytest.mark.parametrize(
    "worker_id", ["gone", "", "..", "../x", "a/b", "/", "\0", "\ud800", "x" * 300, "index.sqlite3"]
)
def test_there_is_no_such_worker(store, worker_id):
    """A name that is no worker's folder is not found, whatever it is, and nothing is written to it."""
    store.create("task")
    for call in (
        store.read_worker,
        store.result,
        store.events,
        store.summary,
        store.files,
        lambda name: store.open_file(name, "metadata.json"),
    ):
        with pytest.raises(WorkerNotFoundError, match=r"worker '.*' not found in "):
            call(worker_id)
    for call in (store.writer, lambda name: store.append(name, [EVENT])):
        with pytest.raises(FileNotFoundError, match=rf"not found in {re.escape(str(store.root))}; events are appended"):
            call(worker_id)


# Lost workers


HOLDER = """
    import sys
    from langchain_swarmlet_metrics.store import ArtifactStore
    store = ArtifactStore(sys.argv[1])
    metadata = store.create("task")
    writer = store.writer(metadata.worker_id)
    store.start(metadata)
    print(metadata.job_id, flush=True)
    sys.stdin.read()
"""


def test_a_killed_worker_is_lost(store):
    """A worker of another process is running while that lives and lost when it was killed; lists know it too."""
    pytest.importorskip("fcntl")
    with running(HOLDER, store.root) as process:
        job_id = int(process.stdout.readline())
        metadata = store.read(job_id)
        assert store.status(metadata) == "running"
        assert store.list(status="running") == [metadata]
        assert store.list(status="lost") == []
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert store.status(metadata) == "lost"
        assert store.list(status="lost") == [metadata]
        assert store.list(status="running") == []
    assert store.read(job_id).status == "running"


def test_a_worker_that_ended_since_is_not_lost(store):
    """Who read the metadata while the worker ran and asks after its end learns how it ended."""
    metadata = store.create("task")
    writer = store.writer(metadata.worker_id)
    store.start(metadata)
    read_early = store.read(1)
    store.complete(metadata, status="failed", elapsed_ns=1 * 10**6)
    writer.close()
    assert store.status(read_early) == "failed"


def test_a_worker_that_was_marked_as_lost(store):
    """It has ended: lists and the job table say lost, and its last sign of life is when it finished."""
    metadata = store.create("task")
    store.start(metadata)
    store.complete(metadata, status="lost", elapsed_ns=10**9)
    assert store.status(metadata) == "lost"
    assert store.list(status="lost") == [metadata]
    assert store.list(status="running") == store.list(status="created") == []
    assert store.registry.find(1).status == "lost"
    assert store.last_sign_of_life(metadata) == parse_timestamp(metadata.finished_at)


def test_a_worker_whose_files_are_gone_is_lost(store):
    """A running worker without its files is lost, and was last seen when it was created."""
    metadata = store.create("task")
    store.start(metadata)
    for path in (store.root / metadata.worker_id).iterdir():
        path.unlink()
    assert store.status(metadata) == "lost"
    assert store.last_sign_of_life(metadata) == parse_timestamp(metadata.created_at)


def test_a_worker_of_another_host_is_not_called_lost(store):
    """Locks may not reach other hosts, so a lock that is not held there says nothing."""
    metadata = store.create("task")
    store.start(metadata)
    assert store.status(metadata) == "lost"
    metadata.process = Process(host="another", pid=1)
    assert store.status(metadata) == "running"


def test_the_last_sign_of_life(store):
    """It is the latest time that one of the worker's files was written."""
    metadata = store.create("task")
    folder = store.root / metadata.worker_id
    (folder / "metrics.jsonl").touch()
    for latest in ("metadata.json", "metrics.jsonl"):
        for path in folder.iterdir():
            os.utime(path, (0, 2000 if path.name == latest else 1000))
        assert store.last_sign_of_life(metadata) == datetime.fromtimestamp(2000, UTC)


# Reading


@pytest.mark.parametrize("job_id", [0, -1, 2, 10**30])
def test_there_is_no_such_job(store, job_id):
    """A number that was not given out is not found."""
    store.create("task")
    with pytest.raises(WorkerNotFoundError, match=f"worker job {job_id} not found"):
        store.read(job_id)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"null", b"{}", b'"text"', b"\xff", b"[" * 9999],
    ids=lambda content: repr(content)[:12],
)
def test_a_damaged_worker_is_passed_over(store, content):
    """A metadata.json that is missing or damaged hides its own worker only."""
    first, damaged, last = make(store, "needle 1", "needle 2", "needle 3")
    path = store.root / damaged.worker_id / "metadata.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkerNotFoundError):
        store.read(damaged.job_id)
    with pytest.raises(WorkerNotFoundError):
        store.read_worker(damaged.worker_id)
    assert store.list(limit=2) == [last, first]
    assert [match.metadata for match in store.search("needle")] == [last, first]
    (store.root / "index.sqlite3").unlink()
    assert store.list() == [last, first]


def test_a_copied_folder_is_not_the_worker(store):
    """A folder whose metadata.json names another worker is nobody's."""
    metadata = store.create("task")
    copy = store.root / "copy"
    copy.mkdir()
    (copy / "metadata.json").write_bytes((store.root / metadata.worker_id / "metadata.json").read_bytes())
    with pytest.raises(WorkerNotFoundError):
        store.read_worker("copy")
    (store.root / "index.sqlite3").unlink()
    assert store.list() == [metadata]


@pytest.mark.parametrize("worker_id", ["../outside", "link", "..", "/", ""])
def test_an_index_that_lies(store, worker_id):
    """A name in the index that is no worker's folder leads nowhere, even if something fitting is there."""
    metadata = store.create("task")
    metadata.worker_id = worker_id
    outside = store.root.parent / "outside"
    outside.mkdir()
    (outside / "metadata.json").write_bytes(encode(metadata))
    (store.root / "link").symlink_to(outside)
    set_in_index(store, f"UPDATE jobs SET worker_id = '{worker_id}'")
    with pytest.raises(WorkerNotFoundError):
        store.read(1)
    assert store.list() == []


def test_a_number_that_another_worker_has(store):
    """An index that gives a worker another number than its own file is not believed."""
    first, second = make(store, "first", "second")
    set_in_index(store, "UPDATE jobs SET job_id = 99 WHERE job_id = 2")
    with pytest.raises(WorkerNotFoundError):
        store.read(99)
    assert store.list() == [first]
    assert store.read_worker(second.worker_id) == second


def test_files_of_a_worker(store):
    """A worker's files are listed and opened, and nothing else is."""
    metadata = store.create("task")
    (store.root / metadata.worker_id / "thread.jsonl").write_bytes(b"{}\n")
    assert FileEntry("thread.jsonl", 3) in store.files(metadata.worker_id)
    with store.open_file(metadata.worker_id, "thread.jsonl") as file:
        assert file.read() == b"{}\n"
    with pytest.raises(FileRefusedError, match="it leaves the worker's folder"):
        store.open_file(metadata.worker_id, "../index.sqlite3")
    with pytest.raises(FileNotFoundError, match=r"it has 'metadata\.json', 'thread\.jsonl'"):
        store.open_file(metadata.worker_id, "metrics.jsonl")


def test_a_result_that_is_a_link_is_refused(store):
    """A result or a log that leads outside is refused, also where no name was given."""
    metadata = store.create("task")
    (store.root.parent / "secret").write_text("secret")
    (store.root / metadata.worker_id / "result.txt").symlink_to(store.root.parent / "secret")
    (store.root / metadata.worker_id / "metrics.jsonl").hardlink_to(store.root.parent / "secret")
    with pytest.raises(FileRefusedError):
        store.result(metadata.worker_id)
    with pytest.raises(FileRefusedError):
        list(store.events(metadata.worker_id))


def test_no_file_can_be_opened(store):
    """A process that has too many files open is told so, instead of being told that there is no such worker."""
    store.create("task")
    script = """
        import os, resource, sys
        from langchain_swarmlet_metrics.store import ArtifactStore
        store = ArtifactStore(sys.argv[1])
        worker_id = store.read(1).worker_id
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        try:
            store.read_worker(worker_id)
        except OSError as error:
            print(error)
    """
    assert "Too many open files" in output_of(script, store.root)


# Lists


def test_list_is_newest_first(store):
    """The newest workers come first, as many as wanted."""
    made = make(store, *map(str, range(60)))
    assert store.list() == made[::-1][:20]
    assert store.list(limit=1000) == made[::-1]
    assert store.list(limit=1) == made[-1:]
    assert store.list(limit=0) == store.list(limit=-1) == []


def test_list_of_an_owner(store):
    """An owner sees their own workers only; None is everybody."""
    ann, bob, nobody = (store.create("task", owner_id=owner) for owner in ("ann", "bob", None))
    assert store.list(owner_id="ann") == [ann]
    assert store.list(owner_id="bob") == [bob]
    assert store.list(owner_id="eve") == []
    assert store.list() == [nobody, bob, ann]
    set_in_index(store, "UPDATE jobs SET owner_id = 'eve'")
    assert store.list(owner_id="eve") == []


def test_list_of_a_status(store):
    """Lists by status go by the worker's own file, although the index lags behind it."""
    created, failed, behind, lost = make(store, "created", "failed", "behind", "lost")
    store.complete(failed, status="failed", elapsed_ns=1 * 10**6)
    behind.status = "success"
    store.save(behind)
    store.start(lost)
    assert store.list(status="created") == [created]
    set_in_index(store, "UPDATE jobs SET status = 'created' WHERE job_id = 4")
    assert store.list(status="created") == [created]
    assert store.list(status="failed") == [failed]
    assert store.list(status="success") == [behind]
    assert store.list(status="lost") == [lost]
    assert store.list(status="running") == []
    assert store.list(status="unheard of") == []


def test_list_of_the_last_hours(store):
    """Workers older than so many hours are left out; odd numbers of hours do no harm."""
    old, new = make(store, "old", "new")
    set_in_index(store, "UPDATE jobs SET created_at = '2020-01-01T00:00:00.000000Z' WHERE job_id = 1")
    assert store.list(since_hours=1) == [new]
    assert store.list(since_hours=0.001) == [new]
    assert store.list(since_hours=1e9) == store.list(since_hours=float("inf")) == [new, old]
    assert store.list(since_hours=0) == store.list(since_hours=-1e300) == []


# Search


def test_search(store):
    """Texts are found in tasks, errors, summaries, results and metrics, newest workers first, whatever their case."""
    first, second = make(store, "find a Needle", "hay")
    store.append(first.worker_id, [ToolCall(tool="needle", start_ts="", end_ts="", duration_ms=1, success=True)])
    store.complete(
        second, status="failed", elapsed_ns=1 * 10**6, result="hay\nthe NEEDLE", error="no needle", summary="needle!"
    )
    found = [(match.metadata.job_id, match.file, match.line) for match in store.search("needle")]
    assert found == [
        (2, "metadata.json", "error: no needle"),
        (2, "metadata.json", "summary: needle!"),
        (2, "result.txt", "the NEEDLE"),
        (1, "metadata.json", "task: find a Needle"),
        (
            1,
            "metrics.jsonl",
            '{"event":"tool_call","tool":"needle","start_ts":"","end_ts":"","duration_ms":1,"success":true}',
        ),
    ]
    assert [match.line for match in store.search("needle", limit=2)] == ["error: no needle", "summary: needle!"]
    assert store.search("needle", limit=0) == store.search("absent") == []


def test_search_is_limited(store):
    """Only the owner's workers of the last hours are searched, and the empty text is a mistake."""
    old, _, new = (store.create("needle", owner_id=owner) for owner in ("ann", "bob", "ann"))
    assert [match.metadata for match in store.search("needle", owner_id="ann")] == [new, old]
    set_in_index(store, "UPDATE jobs SET created_at = '2020-01-01T00:00:00.000000Z' WHERE job_id = 1")
    assert [match.metadata for match in store.search("needle", owner_id="ann", since_hours=1)] == [new]
    with pytest.raises(ValueError, match="the pattern is empty"):
        store.search("")
