"""Tests of `registry`: numbers that are never given out twice, whatever happens to the index."""

from __future__ import annotations

import os
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics import locks, registry
from langchain_swarmlet_metrics.jobs import DamagedIndexError, Job
from langchain_swarmlet_metrics.registry import Registry
from tests.processes import READ_ONLY, needs_read_only_mounts, output_of, outputs_of, running

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FOLDERS = [
    Job(number, f"worker-{number}", "ann", "success", f"2025-12-15T04:08:0{number}.000000Z") for number in (1, 2, 7)
]
AFTER = "2025-12-15T04:09:00.000000Z"


@pytest.fixture
def path(tmp_path):
    """Name an index that does not exist."""
    return tmp_path / "index.sqlite3"


def add(jobs, worker_id, owner_id=None, created_at=AFTER):
    """Add a job and return its number."""
    with jobs.adding(worker_id, owner_id, created_at) as job_id:
        return job_id


def test_a_job_is_found(path):
    """A job is found by its number and by its worker, with the status it has then."""
    jobs = Registry(path, list)
    assert add(jobs, "a", "ann") == 1
    assert add(jobs, "b") == 2
    assert jobs.find(1) == Job(1, "a", "ann", "created", AFTER)
    jobs.update_status("a", "failed")
    assert jobs.find(1) == Job(1, "a", "ann", "failed", AFTER)
    assert jobs.find(2) == Job(2, "b", None, "created", AFTER)


@pytest.mark.parametrize("job_id", [0, -1, 3, 2**53, 2**63, 10**30])
def test_there_is_no_such_job(path, job_id):
    """A number that was not given out is None, however large it is."""
    jobs = Registry(path, list)
    add(jobs, "a")
    assert jobs.find(job_id) is None
    assert [job.worker_id for job in jobs.list() if job.worker_id == "b"] == []


def test_a_worker_made_again_has_a_new_number(path):
    """A folder that was deleted and made again under the same name is another job."""
    jobs = Registry(path, list)
    assert [add(jobs, "a"), add(jobs, "a")] == [1, 2]
    assert jobs.find(1) is None
    assert [job.job_id for job in jobs.list()] == [2]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("read_only", [False, True])
def test_list_is_newest_first(tmp_path_factory, monkeypatch, data, read_only):
    """Every combination of filters gives what a plain loop over all jobs gives, page by page; read-only or not."""
    monkeypatch.setattr(registry, "_is_read_only", lambda folder: read_only)
    texts = st.sampled_from(["a", "b", "c"])
    stored = [
        Job(number, f"w{number}", *values)
        for number, values in enumerate(data.draw(st.lists(st.tuples(texts | st.none(), texts, texts))), start=1)
    ]
    jobs = Registry(tmp_path_factory.mktemp("root") / "index.sqlite3", lambda: stored)
    owner, since = data.draw(texts | st.none()), data.draw(texts | st.none())
    statuses = data.draw(st.sets(texts) | st.none())
    wanted = [
        job
        for job in sorted(stored, key=lambda job: (job.created_at, job.job_id), reverse=True)
        if owner in (None, job.owner_id)
        and (statuses is None or job.status in statuses)
        and (since is None or job.created_at >= since)
    ]
    found, last, limit = [], None, data.draw(st.integers(1, 4))
    while page := jobs.list(owner_id=owner, statuses=statuses, since=since, before=last, limit=limit):
        assert len(page) <= limit
        found += page
        last = page[-1]
    assert found == wanted


def test_a_missing_index_is_built_from_the_folders(path):
    """Deleting the index loses nothing, and the next number is above the largest."""
    jobs = Registry(path, lambda: FOLDERS)
    assert jobs.list() == FOLDERS[::-1]
    path.unlink()
    assert jobs.find(7) == FOLDERS[-1]
    path.unlink()
    assert add(jobs, "next") == 8
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def empty(path):
    """Leave an empty file."""
    path.write_bytes(b"")


def garbage(path):
    """Leave something that is no database."""
    path.write_bytes(b"not a database at all" * 1000)


def cut(path):
    """Leave the first pages of the database only."""
    os.truncate(path, 5000)


def overwritten(path):
    """Leave a database whose tables cannot be read."""
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 9000)


def other_schema(path):
    """Leave the database of a later version."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def no_text(path):
    """Leave a database with a text that is not UTF-8."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE jobs SET owner_id = CAST(x'ff' AS TEXT)")


def no_text_in_schema(path):
    """Leave a database on which SQLite's own message is not UTF-8."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = CAST(x'435245415445205441424C452022FF' AS TEXT) WHERE name = 'jobs'"
        )


@pytest.mark.parametrize("damage", [empty, garbage, cut, overwritten, other_schema, no_text, no_text_in_schema])
@pytest.mark.parametrize("write", [False, True])
def test_a_damaged_index_is_moved_aside(path, caplog, damage, write):
    """Whoever meets a damaged index first, reader or writer, keeps it beside the one that is built from the folders."""
    jobs = Registry(path, lambda: FOLDERS)
    jobs.list()
    damage(path)
    left = path.read_bytes()
    if write and damage is not no_text:  # which only readers meet
        assert add(jobs, "next") == 8
    else:
        assert jobs.list() == FOLDERS[::-1]
    (aside,) = path.parent.glob("index.sqlite3.damaged-*")
    assert aside.read_bytes() == left
    assert f"{path} is built anew from the worker folders" in caplog.text
    assert jobs.list()[-3:] == FOLDERS[::-1]


def test_a_journal_left_over_is_not_played(path):
    """The journal that a killed process left with an index that was then deleted does not get into the new one."""
    script = """
        import os, signal, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                           "LIMIT 500) SELECT i, randomblob(500) AS blob FROM n")
        connection.execute("BEGIN")
        connection.execute("UPDATE filler SET blob = randomblob(400)")
        print("open", flush=True)
        sys.stdin.read()
    """
    jobs = Registry(path, lambda: FOLDERS)
    add(jobs, "only in the old one")
    with running(script, path) as process:
        assert process.stdout.readline() == "open\n"
        process.kill()
        process.wait(timeout=30)
    assert path.with_name("index.sqlite3-wal").stat().st_size > 100_000
    path.unlink()
    assert jobs.list() == FOLDERS[::-1]
    assert list(path.parent.iterdir()) == [path]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def change(path, *statements):
    """Change the index behind everybody's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("damage", [os.unlink, empty, garbage, cut, overwritten, other_schema, no_text])
def test_rows_of_a_damaged_index(path, damage):
    """Who asks for the rows as they are learns that the index is damaged, and it stays as it is."""
    jobs = Registry(path, lambda: FOLDERS)
    jobs.list()
    assert sorted(jobs.rows()) == FOLDERS
    damage(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(DamagedIndexError):
        jobs.rows()
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("change_it", "named"),
    [
        ("DROP INDEX newest", "it lacks newest"),
        ("DROP TABLE jobs", "it lacks jobs, newest, newest_of_owner"),
        ("ALTER TABLE jobs DROP COLUMN status", "it lacks jobs"),
        ("UPDATE jobs SET worker_id = CAST(worker_id AS BLOB)", "Expected `str`, got `bytes`"),
    ],
)
def test_rows_of_an_index_that_is_not_as_it_should_be(path, change_it, named):
    """What an index lacks is named, and `sync` builds it anew."""
    jobs = Registry(path, lambda: FOLDERS)
    jobs.list()
    change(path, change_it)
    with pytest.raises(DamagedIndexError, match=named):
        jobs.rows()
    jobs.sync()
    assert sorted(jobs.rows()) == FOLDERS


def test_an_index_without_its_table_is_built_anew(path):
    """Readers do not need the doctor for a database of this version that has no table."""
    jobs = Registry(path, lambda: FOLDERS)
    jobs.list()
    change(path, "DROP TABLE jobs")
    assert jobs.list() == FOLDERS[::-1]


def test_sync(path):
    """Rows become what the folders say, those of folders that are gone vanish, those of unreadable ones stay."""
    folders = [*FOLDERS]
    jobs = Registry(path, lambda: folders)
    jobs.list()
    unreadable = Job(8, "unreadable", "bob", "running", AFTER)
    (path.parent / unreadable.worker_id).mkdir()
    for worker_id, owner_id in (("unreadable", "bob"), ("gone", None)):
        add(jobs, worker_id, owner_id)
    jobs.update_status("unreadable", "running")
    change(
        path, "UPDATE jobs SET owner_id = 'eve', status = 'odd' WHERE job_id = 1", "DELETE FROM jobs WHERE job_id = 7"
    )
    folders.append(Job(2, "copy-of-2", "ann", "success", AFTER))
    jobs.sync()
    assert sorted(jobs.rows()) == [*FOLDERS, unreadable]
    assert jobs.find_worker("unreadable") == unreadable
    assert jobs.find_worker("gone") is None
    assert add(jobs, "next") == 10


@pytest.mark.parametrize("damage", [other_schema, no_text])
def test_numbers_of_deleted_folders_are_not_given_out_again(path, damage):
    """An index that is built anew goes on where the old one was, as long as that still tells."""
    folders = [*FOLDERS]
    jobs = Registry(path, lambda: folders)
    assert add(jobs, "deleted since") == 8
    damage(path)
    jobs.sync()
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    assert add(jobs, "next") == 9


@pytest.mark.parametrize("told", ["'many'", "-5", f"{2**60}", "NULL"])
def test_an_index_that_tells_nonsense_of_its_numbers(path, told):
    """What a damaged index says of the numbers given out is believed only if it can be."""
    jobs = Registry(path, lambda: FOLDERS)
    jobs.list()
    change(path, f"UPDATE sqlite_sequence SET seq = {told}")
    other_schema(path)
    assert add(jobs, "next") == 8


def test_numbers_that_cannot_be(path):
    """Of two folders with one number the older has it, and numbers that leave no room for the next are nobody's."""
    copy = Job(7, "copy-of-7", "ann", "success", AFTER)
    odd = [Job(number, f"odd{number}", None, "success", AFTER) for number in (0, -3, 2**53, 2**63 - 1, 2**80)]
    jobs = Registry(path, lambda: [copy, *odd, *FOLDERS])
    assert jobs.list() == FOLDERS[::-1]
    assert add(jobs, "next") == 8


@pytest.mark.parametrize("damage", [os.unlink, garbage])
def test_processes_that_meet_a_damaged_index_build_one(path, damage):
    """Several processes that open a missing or damaged index at once all see the same right one."""
    script = """
        import os, sys
        from pathlib import Path
        from langchain_swarmlet_metrics.jobs import Job
        from langchain_swarmlet_metrics.registry import Registry
        jobs = Registry(Path(sys.argv[1]), lambda: [Job(7, "worker-7", None, "success", "2025")])
        wait_for_the_others()
        with jobs.adding(f'worker of {os.getpid()}', None, "2026") as job_id:
            print(job_id, jobs.find(7).worker_id)
    """
    Registry(path, list).list()
    damage(path)
    assert sorted(outputs_of(4, script, path)) == [f"{job_id} worker-7\n" for job_id in (10, 11, 8, 9)]
    assert len(list(path.parent.glob("*damaged*"))) == (damage is garbage)


def test_no_index_is_built_while_a_number_is_written_down(path):
    """While a new worker's number is not in its folder yet, nobody else builds an index without it."""
    pytest.importorskip("fcntl")
    script = """
        import sys
        from pathlib import Path
        from langchain_swarmlet_metrics import registry
        registry._LOCK_S = 0.1
        try:
            registry.Registry(Path(sys.argv[1]), list).list()
        except TimeoutError:
            print("must wait")
    """
    jobs = Registry(path, list)
    with jobs.adding("new", None, AFTER):
        path.unlink()
        assert output_of(script, path) == "must wait\n"
    assert output_of(script, path) == ""


def test_a_thread_that_is_interrupted(path):
    """A signal handler or finalizer that uses the index while its thread does so already does not wait for itself."""
    jobs = Registry(path, lambda: FOLDERS)
    with jobs.adding("outer", None, AFTER) as outer, jobs.adding("inner", None, AFTER) as inner:
        assert [job.job_id for job in jobs.list(limit=2)] == [inner, outer]
    jobs.update_status("outer", "success")


@needs_fork
def test_forks_while_threads_use_the_index(path):
    """Children forked while other threads are inside SQLite can use the index, and do not disturb the parent's use."""
    script = """
        import os, sys, threading
        from pathlib import Path
        from langchain_swarmlet_metrics.registry import Registry
        jobs = Registry(Path(sys.argv[1]), list)
        def add(jobs, worker_id):
            with jobs.adding(worker_id, None, "2026"):
                pass
        done = threading.Event()
        def use(name):
            count = 0
            while not done.is_set():
                add(jobs, f"{name}-{count}")
                jobs.list(limit=3)
                count += 1
        threads = [threading.Thread(target=use, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for number in range(40):
            child = os.fork()
            if not child:
                try:
                    add(jobs, f"child-{number}")
                finally:
                    os._exit(f"child-{number}" not in [job.worker_id for job in jobs.list(limit=10_000)])
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        for thread in threads:
            thread.join()
        print(sum(job.worker_id.startswith("child") for job in jobs.list(limit=10**6)))
    """
    assert output_of(script, path) == "40\n"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(path.parent.glob("*damaged*"))


def test_somebody_holds_the_lock_for_ever(path, monkeypatch):
    """A lock that is never freed makes a call fail after a while, with what to do, instead of hanging."""
    pytest.importorskip("fcntl")
    jobs = Registry(path, list)
    add(jobs, "a")
    monkeypatch.setattr(registry, "_LOCK_S", 0.02)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        assert locks.take(descriptor)
        with pytest.raises(TimeoutError, match="has been locked by another process"):
            jobs.list()
    finally:
        os.close(descriptor)
    assert len(jobs.list()) == 1


@contextmanager
def locked(folder):
    """Hold the folder's lock, as another process would."""
    pytest.importorskip("fcntl")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        assert locks.take(descriptor)
        yield
    finally:
        os.close(descriptor)


def test_a_status_that_has_to_wait(path):
    """A status that cannot be set now, as others hold the index, is set with the next change; the latest one counts."""
    jobs = Registry(path, list)
    add(jobs, "a")
    with locked(path.parent):
        for status in ("running", "success"):
            with pytest.raises(TimeoutError):
                jobs.update_status("a", status)
    assert jobs.find(1).status == "created"
    add(jobs, "b")
    assert jobs.find(1).status == "success"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE jobs SET status = 'changed'")
    jobs.update_status("b", "running")
    assert jobs.find(1).status == "changed"  # it is told once


def test_a_status_that_waits_for_the_exit(path):
    """What could not be set by then is set as the interpreter exits; a forked child leaves that to its parent."""
    script = """
        import os, sys
        from contextlib import suppress
        from pathlib import Path
        from langchain_swarmlet_metrics.registry import Registry
        jobs = Registry(Path(sys.argv[1]), list)
        with suppress(TimeoutError):
            jobs.update_status("a", "running")
        print("late", flush=True)
        input()
        if hasattr(os, "fork") and not os.fork():
            sys.exit()
        if hasattr(os, "fork"):
            os.wait()
        print(jobs.find(1).status, flush=True)
    """
    jobs = Registry(path, list)
    add(jobs, "a")
    with running(script, path) as process:
        with locked(path.parent):
            assert process.stdout.readline() == "late\n"
        assert process.communicate("\n", timeout=60)[0] == "created\n"
    assert jobs.find(1).status == "running"


def test_threads_that_change_statuses(path):
    """However many threads of a process set statuses at once, each is set in the end, without failing."""
    jobs = Registry(path, list)
    names = [str(number) for number in range(60)]
    with ThreadPoolExecutor(60) as pool:
        list(pool.map(lambda name: (add(jobs, name), jobs.update_status(name, "running")), names))
    add(jobs, "last")
    assert {job.status for job in jobs.list(limit=99) if job.worker_id != "last"} == {"running"}


def test_a_system_without_locks(path, monkeypatch):
    """Without flock SQLite's own locks have to do."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    jobs = Registry(path, lambda: FOLDERS)
    assert add(jobs, "next") == 8
    assert len(jobs.list()) == 4


def test_what_is_no_damage_is_the_systems_error(path):
    """An index that cannot be opened for another reason is left as it is, and the error names it."""
    path.mkdir()
    with pytest.raises(OSError, match=r"index\.sqlite3: unable to open database file"):
        Registry(path, list).list()
    assert path.is_dir()
    with pytest.raises(FileNotFoundError):
        Registry(path.parent / "gone" / path.name, list).list()


@pytest.mark.parametrize("state", ["current", "missing", "damaged", "journal"])
def test_a_root_that_cannot_be_written(path, state):
    """On a read-only file system the jobs are those of the folders, whatever the index is like; it stays as it is."""
    needs_read_only_mounts(path.parent)
    script = """
        import sqlite3, sys
        from contextlib import closing
        from pathlib import Path
        from langchain_swarmlet_metrics.jobs import Job
        from langchain_swarmlet_metrics.registry import Registry
        folders = [Job(number, f"worker-{number}", "ann", "success", f"2025-{number}") for number in (1, 2, 7)]
        copy = folders[2]._replace(worker_id="copy", created_at="2026")
        jobs = Registry(Path(sys.argv[1]), lambda: [*folders, copy])
        assert jobs.list() == folders[::-1]
        assert jobs.list(owner_id="ann", since="2025-2", before=folders[2]) == folders[1:2]
        assert jobs.find(7) == folders[2]
        assert jobs.find(3) is None
        update, add = lambda: jobs.update_status("worker-1", "failed"), jobs.adding("a", None, "b").__enter__
        for write in (update, add):
            try:
                write()
            except OSError as error:
                print(error)
    """
    Registry(path, list).list()
    if state == "missing":
        path.unlink()
    elif state == "damaged":
        garbage(path)
    elif state == "journal":
        path.with_name("index.sqlite3-wal").write_bytes(b"left over")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    output = output_of(script, path, through=(*READ_ONLY, path.parent))
    assert len(output.splitlines()) == 2
    assert "index.sqlite3" in output
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_folders_that_cannot_be_read_build_nothing(path):
    """When the folders cannot be read, no index is made that would have fewer jobs than there are."""

    def fail():
        msg = "disk trouble"
        raise OSError(msg)

    with pytest.raises(OSError, match="disk trouble"):
        Registry(path, fail).list()
    assert not path.exists()
    assert Registry(path, lambda: FOLDERS).list() == FOLDERS[::-1]
