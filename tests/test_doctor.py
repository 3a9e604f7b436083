"""The doctor: every kind of damage is found and mended, beside workers that run, and nothing is ever lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tracemalloc
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics import doctor, remedies, report
from langchain_swarmlet_metrics.events import parse_timestamp, timestamp
from langchain_swarmlet_metrics.findings import Kind
from langchain_swarmlet_metrics.metadata import decode
from langchain_swarmlet_metrics.snapshot import Snapshot, StartedCall
from langchain_swarmlet_metrics.store import ArtifactStore
from langchain_swarmlet_metrics.summary import count
from tests import damages
from tests.broken import EVENTS, HOUR_S, RUNNING, age, change, contents_of, ended, events_of, in_index, killed
from tests.damages import DAMAGES, path_of
from tests.processes import running

pytest.importorskip("fcntl")


@pytest.fixture
def store(tmp_path):
    """Return a store with a root of its own."""
    return ArtifactStore(tmp_path / "root")


def kinds(store):
    """Return the kinds of what the doctor finds."""
    return [finding.kind for finding in doctor.check(store).findings]


def mend(store):
    """Mend what the doctor finds, all of which must be possible, and return what was done."""
    outcomes = list(remedies.mend(store, doctor.check(store).findings))
    assert [str(outcome) for outcome in outcomes if not outcome.is_done] == []
    return [outcome.text for outcome in outcomes]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damage_is_found_and_mended(store, damage):
    """Each kind of damage is found as what it is and nothing else; after it was mended all is well, and stays so."""
    ended(store, owner_id="ann"), damage(store, ended(store, owner_id="ann"))
    age(store.root)
    assert kinds(store) == DAMAGES[damage]
    events, (before, _) = events_of(store.root), contents_of(store.root)
    mend(store)
    assert events_of(store.root) == events
    rewritten = {content for content in before if content.startswith(b"{\n")} | {b""}
    assert set(before) - rewritten <= set(contents_of(store.root)[0])
    assert kinds(store) == []
    age(store.root)
    assert kinds(store) == []
    assert mend(store) == []
    jobs = store.list(limit=100)
    assert [store.read(metadata.job_id) for metadata in jobs] == jobs
    assert len(jobs) == sum(path.is_dir() for path in store.root.iterdir())


def test_all_is_well(store):
    """With workers that ended, run, wait or were made by hand there is nothing to find, and nothing changes."""
    assert doctor.check(store) == (0, [])
    ended(store)
    store.create("made by hand")
    with running(RUNNING, store.root, "running") as one, running(RUNNING, store.root, "created") as other:
        assert one.stdout.readline()
        assert other.stdout.readline()
        age(store.root)
        before = contents_of(store.root)
        assert doctor.check(store) == (4, [])
        assert contents_of(store.root) == before


@pytest.mark.parametrize("status", ["running", "created"])
def test_nothing_is_said_of_a_worker_that_lives(store, status):
    """Whatever is in the folder of a worker whose lock is held, it is left alone."""
    with running(RUNNING, store.root, status) as process:
        metadata = store.read_worker(process.stdout.readline().strip())
        damages.torn_tail(store, metadata)
        damages.unfinished_file(store, metadata)
        damages.inflight(store, metadata)
        damages.no_metadata(store, metadata)
        age(store.root)
        assert kinds(store) == []


def test_a_worker_that_has_come_back_is_not_touched(store):
    """What somebody has opened since it was found is left to them, and the rest is mended."""
    with running(RUNNING, store.root, "running") as process:
        opened = store.read_worker(process.stdout.readline().strip())
        process.kill()
    other, third = killed(store), store.create("no number")
    change(store, third, job_id=None)
    age(store.root)
    found = doctor.check(store).findings
    assert [finding.kind for finding in found] == [Kind.LOST, Kind.LOST, Kind.NUMBER]
    writers = [store.writer(metadata.worker_id) for metadata in (opened, third)]
    before = path_of(store, opened).read_bytes(), path_of(store, third).read_bytes()
    try:
        outcomes = {outcome.finding.subject: outcome for outcome in remedies.mend(store, found)}
    finally:
        for writer in writers:
            writer.close()
    assert (path_of(store, opened).read_bytes(), path_of(store, third).read_bytes()) == before
    assert str(outcomes[opened.worker_id]) == f"not done: {opened.worker_id}: it runs; try again when it has ended"
    assert str(outcomes[third.worker_id]) == f"not done: {third.worker_id}: it runs; try again when it has ended"
    assert outcomes[other.worker_id].is_done


def test_workers_come_and_go_meanwhile(store):
    """Beside processes that make, run and end workers all the time the doctor finds nothing, and mends nothing."""
    script = """
        import sys, threading
        from langchain_swarmlet_metrics import WorkerRunner
        runner = WorkerRunner(sys.argv[1])
        def work():
            for _ in range(40):
                assert runner.run(str.upper, "shout").status == "success"
                with runner.worker("wait") as worker:
                    worker.result = "done"
        threads = [threading.Thread(target=work) for _ in range(2)]
        wait_for_the_others()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    with running(script, store.root) as one, running(script, store.root) as other:
        assert one.stdout.readline() == other.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("\n")
            process.stdin.flush()
        while one.poll() is None or other.poll() is None:
            found = doctor.check(store).findings
            assert [str(finding) for finding in found] == []
            assert list(remedies.mend(store, found)) == []
        assert one.returncode == other.returncode == 0
    age(store.root)
    assert doctor.check(store) == (320, [])


def test_the_table_is_mended_beside_workers(store):
    """While the job table is mended, processes make and end workers, and in the end it has all of them."""
    script = """
        import sys
        from langchain_swarmlet_metrics import WorkerRunner
        runner = WorkerRunner(sys.argv[1])
        print("ready", flush=True)
        for number in range(60):
            runner.run(str.upper, "shout")
        print("done")
    """
    ended(store)
    with running(script, store.root) as process:
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:
            in_index(store, "PRAGMA busy_timeout = 5000", "UPDATE jobs SET owner_id = 'eve' WHERE job_id = 1")
            mend(store)
    age(store.root)
    assert doctor.check(store) == (61, [])
    assert sorted(metadata.job_id for metadata in store.list(limit=100)) == list(range(1, 62))


# What is written of a lost worker


def test_a_lost_worker_is_marked(store):
    """It ends with its last sign of life, and is summed up from its events."""
    metadata = killed(store)
    started = parse_timestamp(metadata.started_at)
    for path in path_of(store, metadata).parent.iterdir():
        os.utime(path, (started.timestamp() + 83.25,) * 2)
    (text,) = mend(store)
    assert text == "marked as lost, after 83250ms (1m 23s)"
    marked = store.read(metadata.job_id)
    assert (marked.status, marked.error) == ("lost", "its process ended without a word")
    assert (marked.duration_ms, parse_timestamp(marked.finished_at)) == (83250, started + timedelta(seconds=83.25))
    assert (marked.totals.llm_calls, marked.totals.tool_calls, marked.totals.total_tokens) == (1, 1, 8)
    assert (marked.completeness.calls_without_usage, marked.completeness.unfinished_calls) == (1, 1)
    assert (marked.owner_id, marked.task, marked.started_at) == ("ann", "back up", metadata.started_at)
    assert store.registry.find(metadata.job_id).status == "lost"
    assert store.list(status="lost") == [marked]
    assert store.list(status="running") == []


def test_a_lost_worker_that_never_began(store):
    """It took no time."""
    metadata = killed(store, "created")
    age(store.root, HOUR_S)
    mend(store)
    marked = store.read(metadata.job_id)
    assert (marked.status, marked.started_at, marked.duration_ms) == ("lost", None, 0)
    assert parse_timestamp(metadata.created_at) - parse_timestamp(marked.finished_at) == pytest.approx(
        timedelta(hours=1), abs=timedelta(minutes=10)
    )


def test_a_silent_worker_is_marked(store):
    """A worker of another host is left alone for a day, and then said to have been silent, and on which host."""
    damages.silent_elsewhere(store, None)
    age(store.root, 23 * HOUR_S)
    assert kinds(store) == []
    age(store.root, 25 * HOUR_S)
    (finding,) = doctor.check(store).findings
    assert finding.kind == Kind.SILENT
    assert "no sign of life from its process on another\\x1b[2J since 20" in str(finding)
    mend(store)
    assert store.read(1).status == "lost"
    assert store.read(1).error == finding.problem
    assert kinds(store) == []


def test_without_locks_silence_decides(store, monkeypatch):
    """Where the system has no locks, nobody is lost before a day of silence."""
    metadata = killed(store)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    age(store.root, 23 * HOUR_S)
    assert kinds(store) == []
    age(store.root, 25 * HOUR_S)
    assert kinds(store) == [Kind.SILENT]
    mend(store)
    assert store.read(metadata.job_id).status == "lost"


def test_what_a_later_version_wrote_is_kept(store):
    """Keys that this version does not know stay in a metadata.json that the doctor changes."""
    metadata = killed(store)
    whole = json.loads(path_of(store, metadata).read_text())
    change(store, metadata, mood="good", totals=whole["totals"] | {"sighs": 3})
    mend(store)
    changed = json.loads(path_of(store, metadata).read_text())
    assert (changed["status"], changed["mood"], changed["totals"]["sighs"]) == ("lost", "good", 3)
    assert changed["totals"]["llm_calls"] == 1


# Torn files


def test_unreadable_lines_are_counted_once(store):
    """They are told with their number until that is noted; what comes later is told again."""
    metadata = ended(store)
    damages.torn_middle(store, metadata)
    damages.torn_tail(store, metadata)
    age(store.root)
    (finding,) = doctor.check(store).findings
    assert finding.problem == "2 lines of metrics.jsonl cannot be read, the last one is torn"
    before = path_of(store, metadata, "metrics.jsonl").read_bytes()
    assert mend(store) == ["2 unreadable lines noted in metadata.json"]
    assert path_of(store, metadata, "metrics.jsonl").read_bytes() == before
    assert store.read(1).completeness.unreadable_lines == 2
    store.append(metadata.worker_id, EVENTS)
    age(store.root)
    assert kinds(store) == []
    damages.torn_tail(store, metadata)
    age(store.root)
    assert kinds(store) == [Kind.EVENTS]


@pytest.mark.parametrize("left", [None, b"", b"{\n"])
def test_events_that_are_gone_are_told(store, left):
    """A file that has fewer lines than its worker had events is for people; an unreadable line is still there."""
    path = path_of(store, ended(store), "metrics.jsonl")
    path.unlink() if left is None else path.write_bytes(left)
    age(store.root)
    gone = 2 - bool(left)
    text = "counted in metadata.json but not in metrics.jsonl -> put the file back from a copy, if there is one"
    *_, finding = doctor.check(store).findings
    assert str(finding).endswith(f": {count(gone, 'event')} {text}")
    assert finding.kind is Kind.BY_HAND


def test_memory_does_not_grow_with_a_file(store):
    """An event log is read a line at a time, to look at it and to sum it up."""
    peaks = []
    for times in (1, 20_000):
        metadata = killed(store)
        path = path_of(store, metadata, "metrics.jsonl")
        path.write_bytes(path.read_bytes() * times)
        tracemalloc.start()
        try:
            mend(store)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert store.read(metadata.job_id).totals.llm_calls == times
    assert peaks[1] - peaks[0] < path.stat().st_size / 10


def test_what_is_being_written_is_not_judged(store):
    """A file that changed in the last minute may be in the middle of a write."""
    metadata = ended(store)
    age(store.root)
    damages.torn_tail(store, metadata)
    damages.unfinished_file(store, metadata)
    assert kinds(store) == []


# Metadata


def test_metadata_is_written_anew_from_the_table(store):
    """Without any metadata.json the job table says whose and which, the events how it went; its files are there."""
    first, metadata = ended(store), ended(store, owner_id="ann")
    damages.no_metadata(store, metadata)
    age(store.root)
    assert mend(store) == ["metadata.json written anew, with status success"]
    anew = store.read(metadata.job_id)
    assert (anew.owner_id, anew.created_at, anew.task) == ("ann", metadata.created_at, None)
    assert (anew.started_at, anew.totals) == (EVENTS[0].start_ts, metadata.totals)
    assert store.result(anew.worker_id) == "The result is 42."
    assert store.read(1) == first


def test_metadata_is_written_anew_from_what_is_legible(store):
    """What is sound in a damaged metadata.json is kept, and so is the file."""
    metadata = ended(store, owner_id="ann", config={"retries": 3})
    change(store, metadata, status="splendid", duration_ms="long", error="none")
    damaged = path_of(store, metadata).read_bytes()
    age(store.root)
    mend(store)
    anew = store.read(1)
    assert (anew.status, anew.task, anew.config, anew.owner_id) == ("success", "back up", {"retries": 3}, "ann")
    assert (anew.started_at, anew.finished_at) == (metadata.started_at, metadata.finished_at)
    (aside,) = path_of(store, metadata).parent.glob("metadata.json.damaged-*")
    assert aside.read_bytes() == damaged


def test_a_duration_that_is_damaged_is_told_from_the_times(store):
    """A worker that has ended does not begin to take longer."""
    metadata = ended(store)
    change(store, metadata, duration_ms=-5)
    age(store.root)
    mend(store)
    assert store.read(1).duration_ms == metadata.duration_ms
    assert store.read(1).finished_at == metadata.finished_at


def test_metadata_is_written_anew_from_nothing(store):
    """With neither metadata.json nor index a folder is a worker of which it is not known how it ended."""
    metadata = ended(store)
    damages.no_metadata(store, metadata)
    damages.index_deleted(store, metadata)
    age(store.root)
    assert kinds(store) == [Kind.METADATA]
    assert mend(store)[-1] == "is job 1 now"
    anew = store.read(1)
    assert (anew.status, anew.error) == ("lost", "how it ended is not known: it has no metadata.json")
    assert anew.created_at == f"{metadata.created_at[:19]}.000000Z"


def test_a_worker_that_was_killed_as_it_ended(store):
    """The metadata.json that a killed process had written, but not put in its place, is put there."""
    metadata = ended(store)
    damages.replacement(store, metadata)
    assert kinds(store) == [Kind.LOST, Kind.LEFTOVER]  # even now: nobody holds the lock
    assert mend(store) == [".metadata.json.abc.tmp made its metadata.json"]
    assert store.read(1) == metadata
    assert store.registry.find(1).status == "success"


def test_a_replacement_for_a_damaged_file(store):
    """It is preferred to what is legible of the damaged one, which is kept."""
    metadata = ended(store)
    damages.replacement(store, metadata)
    damages.cut_metadata(store, metadata)
    age(store.root)
    assert [finding.remedy for finding in doctor.check(store).findings] == [
        "make it metadata.json, which it was to replace"
    ]
    mend(store)
    assert store.read(1) == metadata
    assert len([*path_of(store, metadata).parent.glob("metadata.json.damaged-*")]) == 1


@pytest.mark.parametrize(
    "changes", [{"worker_id": "another"}, {"created_at": timestamp(0)}, {"job_id": 9}, {"status": "created"}]
)
def test_a_replacement_that_does_not_fit(store, changes):
    """A left-over file that is not this worker's, or tells of an earlier time, only steps aside."""
    metadata = ended(store)
    damages.replacement(store, metadata)
    path = path_of(store, metadata, ".metadata.json.abc.tmp")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    left = path.read_bytes()
    assert mend(store)[0].startswith(".metadata.json.abc.tmp set aside as metadata.json.abc.tmp.left-over-")
    (aside,) = path.parent.glob("metadata.json.abc.tmp.left-over-*")
    assert aside.read_bytes() == left
    assert store.read(1).status == "lost"


def test_open_calls_of_a_lost_worker(store):
    """What was open when a worker was lost is counted, and can be read after it has been marked, too."""
    metadata = killed(store)
    call = StartedCall(event="tool_call", tool="ssh_exec", start_ts=EVENTS[1].end_ts, id=9)
    taken = Snapshot(worker_id=metadata.worker_id, written_at=EVENTS[1].end_ts, metrics_bytes=0, calls=[call])
    store.save_snapshot(taken)
    assert kinds(store) == [Kind.LOST]
    digest = report.digest_text(store, metadata)
    mend(store)
    marked = store.read(metadata.job_id)
    assert marked.completeness.unfinished_calls == 2
    assert store.open_calls(marked) == [call]
    open_calls = digest[digest.index("Open calls:") :].partition("\n\n")[0]
    assert open_calls in report.digest_text(store, marked)
    assert json.loads(report.metadata_text(store, marked))["open_calls_in_all"] == 1
    age(store.root)
    assert kinds(store) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
@pytest.mark.parametrize("damage", [damages.no_metadata, damages.cut_metadata, damages.torn_tail])
def test_who_may_read_a_file_stays(tmp_path, mode, damage):
    """What the doctor writes has the mode of what it replaces, or of what else is there."""
    store = ArtifactStore(tmp_path / "root", file_mode=mode)
    metadata = ended(store)
    damage(store, metadata)
    age(store.root)
    mend(ArtifactStore(store.root))
    assert path_of(store, metadata).stat().st_mode & 0o777 == mode


def test_a_file_among_the_tool_calls(store):
    """What a process was writing there when it died is set aside there."""
    metadata = ended(store)
    left = path_of(store, metadata, "tool_calls/.001_ssh_exec.txt.abc.tmp")
    left.parent.mkdir(mode=0o700)
    left.write_text("outcome: op")
    age(store.root)
    assert kinds(store) == [Kind.LEFTOVER]
    mend(store)
    (aside,) = left.parent.iterdir()
    assert aside.name.startswith("001_ssh_exec.txt.abc.tmp.left-over-")
    assert kinds(store) == []


# Numbers and the job table


def test_the_older_keeps_the_number(store):
    """Of two workers with one number the older keeps it, and the other gets one that nobody had."""
    first, second, third = ended(store), ended(store), ended(store)
    change(store, second, job_id=1)
    in_index(
        store, "DELETE FROM jobs WHERE job_id IN (1, 2)", f"UPDATE jobs SET job_id = 1 WHERE job_id = {third.job_id}"
    )
    shutil.rmtree(path_of(store, third).parent)
    age(store.root)
    (same, *_) = doctor.check(store).findings
    assert (same.kind, same.subject) == (Kind.SAME_NUMBER, second.worker_id)
    assert same.problem == f"job 1 is {first.worker_id}, which is older"
    assert mend(store)[-1] == "is job 4 now"  # 3 was given out
    assert store.read(1) == first
    assert store.read(4).worker_id == second.worker_id


@pytest.mark.parametrize("job_id", [None, 1])
@pytest.mark.parametrize("damage", [damages.moved_folder, damages.replacement, damages.cut_metadata])
def test_a_worker_that_is_read_again_gets_a_number(store, damage, job_id):
    """A worker that nobody could read, and whose number is none or another's, has one of its own at once."""
    first, second = ended(store), ended(store)
    second.job_id = job_id
    store.save(second)
    in_index(store, "DELETE FROM jobs WHERE job_id = 2")
    damage(store, second)
    if damage is damages.replacement:
        damages.no_metadata(store, second)
    age(store.root)
    mend(store)
    age(store.root)
    assert kinds(store) == []
    assert store.read(1) == first
    assert store.read(3).worker_id == second.worker_id


@pytest.mark.parametrize("name", ["2025-99-99T99-99-99_task", "9999-12-31T23-59-59_task", "0001-01-01T00-00-00_task"])
def test_a_name_that_tells_no_time(store, name):
    """A folder whose name only looks like a worker's is seen to as any other."""
    (store.root / name).mkdir(mode=0o700)
    (store.root / name / "metrics.jsonl").write_bytes(b"{}\n")
    age(store.root)
    assert kinds(store) == [Kind.METADATA]
    mend(store)
    assert store.read(1).worker_id == name
    age(store.root)
    assert kinds(store) == []


def test_a_number_is_above_all_in_the_folders(store):
    """The next number is above every one that a folder has, whether the index knew of it or not."""
    ended(store), change(store, ended(store), job_id=None), change(store, ended(store), job_id=50)
    age(store.root)
    assert mend(store)[-1] == "is job 51 now"
    assert sorted(metadata.job_id for metadata in store.list()) == [1, 50, 51]


def test_a_row_says_what_differs(store):
    """A row that disagrees is told with what it says and what it should."""
    metadata = ended(store, owner_id="ann")
    in_index(store, "UPDATE jobs SET owner_id = NULL, status = 'a\x1bb'")
    age(store.root)
    (finding,) = doctor.check(store).findings
    assert str(finding) == (
        f"job table entry: {metadata.worker_id}: its owner_id is none instead of ann, its status is a\\x1bb instead of "
        "success -> make the job table say what the folders say"
    )


def test_a_row_that_is_behind(store):
    """A worker whose end the job table has not heard of is no finding: readers look at the folders of open ones."""
    ended(store)
    in_index(store, "UPDATE jobs SET status = 'running'")
    age(store.root)
    assert kinds(store) == []


def test_a_row_that_is_ahead(store):
    """A row is not compared with a metadata.json that has just been written."""
    ended(store)
    in_index(store, "UPDATE jobs SET status = 'failed'")
    assert kinds(store) == []


def test_the_row_of_an_unreadable_worker_is_kept(store):
    """The job table keeps all that is known of a worker whose metadata cannot be read."""
    metadata, other = ended(store, owner_id="ann"), ended(store)
    path_of(store, metadata).unlink()
    path_of(store, metadata).symlink_to(path_of(store, other))
    in_index(store, "DELETE FROM jobs WHERE job_id = 2")
    age(store.root)
    assert kinds(store) == [Kind.ROW, Kind.BY_HAND]
    mend(store)
    assert store.registry.find(1).owner_id == "ann"
    assert kinds(store) == [Kind.BY_HAND]


# What is left to people


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damages.copied, "by hand: copy: it is a copy of worker {} -> move it out of this root"),
        (damages.linked_metadata, "by hand: {}: metadata.json: 'metadata.json' is refused: it is a symbolic link -> "),
        (damages.linked_events, "by hand: {}: metrics.jsonl: 'metrics.jsonl' is refused: it has another hard link"),
        (
            damages.changeable_by_all,
            "by hand: {}: readers pass it over: everybody may write to it (mode 0777) -> run: chmod o-w {root}/",
        ),
        (
            damages.later_version,
            "by hand: {}: it was written by a later version of this package -> update this package",
        ),
        (
            damages.later_version_not_understood,
            "by hand: {}: it was written by a later version of this package -> update ",
        ),
        (
            damages.index_is_a_folder,
            "by hand: index.sqlite3: {root}/index.sqlite3: unable to open database file -> put it",
        ),
    ],
)
def test_what_is_left_to_people(store, damage, said):
    """What the doctor cannot know it names, with what to do, and leaves as it is."""
    metadata = ended(store)
    damage(store, metadata)
    age(store.root)
    before = contents_of(store.root)
    (finding,) = doctor.check(store).findings
    assert str(finding).startswith(said.format(metadata.worker_id, root=store.root))
    assert list(remedies.mend(store, [finding])) == []
    assert contents_of(store.root) == before


def test_folders_of_others(store):
    """What never was a worker's is no finding: folders of other names, hidden ones, links and files."""
    metadata = ended(store)
    for name in ("lost+found", ".git", "archive", "2025"):
        (store.root / name).mkdir()
        (store.root / name / "file").touch()
    (store.root / "2025-12-15T04-08-08_link").symlink_to(path_of(store, metadata).parent)
    (store.root / "notes.txt").touch()
    age(store.root)
    assert doctor.check(store) == (1, [])


def test_a_folder_that_is_new(store):
    """A folder that somebody has just made is not judged yet."""
    damages.empty_folder(store, None)
    assert kinds(store) == []


def test_what_cannot_be_done_is_told(store):
    """When a remedy fails, that is told with the reason, and the others go on."""
    first, second = killed(store), killed(store)
    found = doctor.check(store).findings
    shutil.rmtree(path_of(store, first).parent)
    path_of(store, first).parent.write_text("a file")
    told = [str(outcome) for outcome in remedies.mend(store, found)]
    assert told[0].startswith(f"not done: {first.worker_id}: ")
    assert told[1] == f"done: {second.worker_id}: marked as lost, after {told[1].rpartition('after ')[2]}"


def test_the_index_cannot_be_written(store):
    """When the job table cannot be mended, nobody gets a number that may be taken."""
    metadata = ended(store)
    change(store, metadata, job_id=None)
    age(store.root)
    found = doctor.check(store).findings
    damages.index_is_a_folder(store, metadata)
    (outcome,) = remedies.mend(store, found)
    assert not outcome.is_done
    assert "unable to open database file" in outcome.text
    assert store.read_worker(metadata.worker_id).job_id is None


# Anything at all


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Return a root with workers of every kind, to be copied."""
    store = ArtifactStore(tmp_path_factory.mktemp("template") / "root")
    (
        ended(store, owner_id="ann"),
        ended(store, "another"),
        killed(store),
        killed(store, "created"),
        store.create("by hand"),
    )
    return store.root


def _cut(path, number, _):
    os.truncate(path, number % (path.stat().st_size + 1))


def _overwrite(path, number, data):
    content = path.read_bytes()
    place = number % (len(content) + 1)
    path.write_bytes(content[:place] + data + content[place + len(data) :])


def _insert(path, number, data):
    content = path.read_bytes()
    place = number % (len(content) + 1)
    path.write_bytes(content[:place] + data + content[place:])


def _delete(path, *_):
    path.unlink()


def _write(path, _, data):
    path.write_bytes(data)


def _leave_temporary(path, number, data):
    content = path.read_bytes() if number % 2 else data
    path.with_name(f".{path.name}.{number}.tmp").write_bytes(content)


def _rename(path, number, _):
    target = path.parent.with_name(f"moved-{number}")
    path.parent.rename(target) if not target.exists() else None


def _copy(path, number, _):
    target = path.parent.with_name(f"copy-{number}")
    shutil.copytree(path.parent, target) if not target.exists() else None


def _swap(path, number, _):
    others = sorted(path.parent.parent.glob("*/metadata.json"))
    shutil.copyfile(others[number % len(others)], path) if others and others[number % len(others)] != path else None


ACTIONS = [_cut, _overwrite, _insert, _delete, _write, _leave_temporary, _rename, _copy, _swap]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.integers(0, 99), st.integers(0, 9999), st.binary(max_size=40)),
        max_size=6,
    ),
    index=st.none() | st.tuples(st.sampled_from([_cut, _overwrite, _write, _delete]), st.integers(0), st.binary()),
)
def test_any_damage(template, tmp_path_factory, actions, index):
    """Whatever happened to a root, the doctor says so or not, mends it without losing anything, and then is done."""
    root = tmp_path_factory.mktemp("any") / "root"
    shutil.copytree(template, root)
    store = ArtifactStore(root)
    for action, which, number, data in actions:
        paths = sorted(path for path in root.glob("*/*") if path.is_file())
        action(paths[which % len(paths)], number, data) if paths else None
    if index is not None and (root / "index.sqlite3").exists():
        index[0](root / "index.sqlite3", *index[1:])
    age(root)
    events, (before, files) = events_of(root), contents_of(root)
    found = doctor.check(store).findings
    assert contents_of(root)[1] == files
    first = list(remedies.mend(store, found))
    for _ in range(len(actions)):  # folders whose names went round: each needs the name that another one has
        first += remedies.mend(store, [other for other in doctor.check(store).findings if other.kind is Kind.MOVED])
    assert events_of(root) == events
    after, _ = contents_of(root)
    replaced = {content for path, content in files.items() if "metadata.json" in path.name and decode(content)}
    assert set(before) - replaced - {b""} <= set(after)
    age(root)
    left = doctor.check(store).findings
    assert {finding.kind for finding in left} <= {Kind.BY_HAND}, (first, left)
    before = contents_of(root)
    assert list(remedies.mend(store, left)) == []
    assert contents_of(root) == before
    shutil.rmtree(root)
