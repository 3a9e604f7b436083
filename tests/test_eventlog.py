"""Tests of `eventlog`: whole lines under threads, processes, forks, full disks and crashes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics.eventlog import EventReader, EventWriter, is_locked, read_events
from langchain_swarmlet_metrics.events import LLMCall, ToolCall, encode
from tests.processes import output_of, outputs_of, running

pytest.importorskip("fcntl")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

START, END = "2025-12-15T04:08:08.000000Z", "2025-12-15T04:08:08.098000Z"


def llm_call(number):
    """Make an event of an LLM call."""
    return LLMCall(phase="initial", model="gpt-5-mini", start_ts=START, end_ts=END, duration_ms=98, id=number)


def tool_call(number, error=None):
    """Make an event of a tool call."""
    return ToolCall(
        tool="ssh_exec", start_ts=START, end_ts=END, duration_ms=98, success=error is None, error=error, id=number
    )


EVENTS = [llm_call(1), tool_call(2), tool_call(3, error="exit status 1: “no such host”"), llm_call(4)]
HOLDER = """
    import sys
    from pathlib import Path
    from langchain_swarmlet_metrics.eventlog import EventWriter
    writer = EventWriter(Path(sys.argv[1]))
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    """Name a file that does not exist."""
    return tmp_path / "metrics.jsonl"


def write(path, events):
    """Append events to a file."""
    with closing(EventWriter(path)) as writer:
        for event in events:
            writer(event)


def test_what_is_written_is_read(path):
    """Events come back as they were written, in their order."""
    write(path, EVENTS)
    reader = read_events(path)
    assert list(reader) == EVENTS
    assert reader.skipped == 0


def test_an_event_is_on_disk_at_once(path):
    """Each event is one line of the file as soon as the call returns, while the writer is still open."""
    with closing(EventWriter(path)) as writer:
        for count, event in enumerate(EVENTS, start=1):
            writer(event)
            assert path.read_bytes() == b"".join(map(encode, EVENTS[:count]))


def test_extend_appends_all(path):
    """Several events are appended after what is there."""
    write(path, EVENTS[:1])
    with closing(EventWriter(path)) as writer:
        writer(*EVENTS[1:])
        writer()
    assert list(read_events(path)) == EVENTS


def test_the_file_is_private(path):
    """Nobody else may read the file."""
    write(path, [])
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_folder(tmp_path):
    """A writer does not make the folder."""
    with pytest.raises(FileNotFoundError, match="gone"):
        EventWriter(tmp_path / "gone" / "metrics.jsonl")


def test_a_missing_file_is_an_empty_log(path):
    """A file that does not exist has no events and nothing to skip."""
    reader = read_events(path)
    assert list(reader) == []
    assert reader.skipped == 0


def test_reading_again_counts_again(path):
    """Each pass over a reader sees the file as it is then, and counts from 0."""
    path.write_bytes(b"damaged\n")
    reader = read_events(path)
    assert list(reader) == []
    write(path, EVENTS)
    assert list(reader) == EVENTS
    assert reader.skipped == 1


@pytest.mark.parametrize(
    "line",
    [
        b"damaged",
        b"{}",
        b"[1]",
        b'{"event":"unknown","tool":"x"}',
        b'{"event":"tool_call"}',
        b"\0" * 9,
        b"\xff\xfe",
        b"[" * 9999,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_no_event_is_skipped_and_counted(path, line):
    """A line that is no event is passed over, and the reader says so."""
    path.write_bytes(encode(EVENTS[0]) + line + b"\n" + encode(EVENTS[1]))
    reader = read_events(path)
    assert list(reader) == EVENTS[:2]
    assert reader.skipped == 1


def test_blank_lines_are_nothing(path):
    """Blank lines are neither events nor damage."""
    path.write_bytes(b"\n" + encode(EVENTS[0]) + b"\r\n \n")
    reader = read_events(path)
    assert list(reader) == EVENTS[:1]
    assert reader.skipped == 0


def test_unreadable_lines_are_counted(path):
    """All of a file is read to count what is no event; of a missing file nothing is."""
    assert read_events(path).count_unreadable() == 0
    path.write_bytes(b"\0\n" + encode(EVENTS[0]) + b"\n{}\n" + encode(EVENTS[1])[:-9])
    assert read_events(path).count_unreadable() == 3


def test_a_link_is_not_written_through(path):
    """A file's events are not written to wherever a symbolic link leads."""
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        EventWriter(path)
    assert not path.with_name("elsewhere").exists()


def test_an_endless_line_is_one_damage(path):
    """A line longer than any event is skipped as one, without being kept in memory."""
    path.write_bytes(encode(EVENTS[0]) + b"x" * 3_500_000 + b"\n" + encode(EVENTS[1]) + b"y" * (1 << 20))
    reader = read_events(path)
    assert list(reader) == EVENTS[:2]
    assert reader.skipped == 2


def test_leaving_a_reader_early_closes_the_file(path):
    """Who stops in the middle leaves nothing open."""
    write(path, EVENTS)
    events = iter(read_events(path))
    assert next(events) == EVENTS[0]
    del events


@same_folder
@given(st.lists(st.sampled_from(EVENTS), min_size=1), st.data())
def test_a_crash_costs_the_torn_line_only(tmp_path, events, data):
    """Wherever a crash cut the file, the whole lines are read, and what is appended then is read as well."""
    path = tmp_path / "torn.jsonl"
    lines = [encode(event) for event in events]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    if whole[:cut].endswith(b"}"):  # only the line's end is missing
        kept += 1
    reader = read_events(path)
    assert list(reader) == events[:kept]
    assert reader.skipped == (sum(map(len, lines[:kept])) < cut)
    write(path, EVENTS)
    assert list(reader) == [*events[:kept], *EVENTS]


def test_threads_share_a_writer(path):
    """Events of many threads are all there, each on a line of its own."""
    with closing(EventWriter(path)) as writer, ThreadPoolExecutor(8) as pool:
        list(pool.map(writer, [tool_call(number, error="x" * 999) for number in range(800)]))
    reader = read_events(path)
    assert sorted(event.id for event in reader) == list(range(800))
    assert reader.skipped == 0


def test_processes_append_to_one_file(path):
    """Writers that do without the lock append whole lines from several processes."""
    script = """
        import sys
        from contextlib import closing
        from pathlib import Path
        from langchain_swarmlet_metrics.eventlog import EventWriter
        from langchain_swarmlet_metrics.events import ToolCall
        event = ToolCall(tool="x" * 3000, start_ts="", end_ts="", duration_ms=0, success=True)
        wait_for_the_others()
        with closing(EventWriter(Path(sys.argv[1]), lock=False)) as writer:
            for _ in range(250):
                writer(event)
    """
    outputs_of(3, script, path)
    reader = read_events(path)
    assert len(list(reader)) == 750
    assert reader.skipped == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_error():
    """A disk without room raises, and the writer can still be closed."""
    from pathlib import Path

    with closing(EventWriter(Path("/dev/full"), lock=False)) as writer, pytest.raises(OSError, match="No space"):
        writer(EVENTS[0])


def test_a_short_write_is_an_error_and_the_next_event_is_whole(path):
    """When only a part of a line fits, the call raises, and the next event starts on a new line."""
    script = """
        import resource, sys
        from contextlib import closing
        from pathlib import Path
        from langchain_swarmlet_metrics.eventlog import EventWriter
        from tests.test_eventlog import EVENTS
        path = Path(sys.argv[1])
        with closing(EventWriter(path)) as writer:
            writer(EVENTS[0])
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
            for _ in range(2):
                try:
                    writer(EVENTS[1])
                except OSError as error:
                    print(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            writer(EVENTS[2])
            writer(EVENTS[3])
    """
    first, second = output_of(script, path).splitlines()
    assert first.startswith("only 20 of ")
    assert "File too large" in second
    reader = read_events(path)
    assert list(reader) == [EVENTS[0], EVENTS[2], EVENTS[3]]
    assert reader.skipped == 1


def test_a_closed_writer_refuses(path):
    """Writing after closing raises and names the file; closing again does nothing."""
    writer = EventWriter(path)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is closed: its worker has ended"):
        writer(EVENTS[0])
    assert repr(writer) == f"EventWriter({str(path)!r})"


def test_one_locking_writer_at_a_time(path):
    """A second writer is refused while the first is open, unless it does without the lock."""
    with closing(EventWriter(path)):
        with pytest.raises(BlockingIOError, match=r"metrics\.jsonl is locked: another writer"):
            EventWriter(path)
        with closing(EventWriter(path, lock=False)) as other:
            other(EVENTS[0])
        assert is_locked(path) is True
    with closing(EventWriter(path)):
        assert list(read_events(path)) == EVENTS[:1]


def test_a_reader_that_looks_does_not_refuse_the_writer(path):
    """Readers that ask for the lock all the time do not keep a writer from taking it."""
    path.touch()
    done = threading.Event()

    def look():
        while not done.is_set():
            is_locked(path)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(200):
            EventWriter(path).close()
    finally:
        done.set()
        reader.join()


def test_is_locked(path, tmp_path):
    """The lock is seen while a writer is open, from the same process as well."""
    assert is_locked(path) is False
    with closing(EventWriter(path)):
        assert is_locked(path) is True
        assert is_locked(path) is True
    assert is_locked(path) is False
    assert is_locked(path / "below a file") is None


def test_a_system_without_locks(path, monkeypatch):
    """Without flock events are written all the same, and nobody knows who writes."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with closing(EventWriter(path)) as writer:
        writer(EVENTS[0])
        assert is_locked(path) is None
    assert list(read_events(path)) == EVENTS[:1]


def test_a_killed_process_frees_its_lock(path):
    """A writer's lock is seen from another process, and is free once that process was killed."""
    with running(HOLDER, path) as process:
        assert process.stdout.readline() == "open\n"
        assert is_locked(path) is True
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert is_locked(path) is False


@needs_fork
def test_a_forked_child_neither_writes_nor_holds_the_lock(path):
    """A forked child's writer is closed, the parent's is not, and the child does not keep the lock of a dead parent."""
    script = """
        import os, sys
        from pathlib import Path
        from langchain_swarmlet_metrics.eventlog import EventWriter, is_locked
        from tests.test_eventlog import EVENTS
        path = Path(sys.argv[1])
        writer = EventWriter(path)
        writer(EVENTS[0])
        if os.fork():
            os.wait()  # for the child's end, which comes only when the test closes its stdin
        try:
            writer(EVENTS[1])
        except ValueError as error:
            print("refused", is_locked(path), flush=True)
        writer.close()
        print(is_locked(path), flush=True)
        sys.stdin.read()
        os._exit(0)
    """
    with running(script, path) as process:
        assert process.stdout.readline() == "refused True\n"
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGKILL)  # the parent; the child lives on
        process.wait(timeout=30)
        assert is_locked(path) is False
    assert list(read_events(path)) == EVENTS[:1]


@needs_fork
def test_a_fork_in_the_middle_of_a_write(path):
    """Children forked while other threads write neither hang nor write."""
    script = """
        import os, sys, threading
        from pathlib import Path
        from langchain_swarmlet_metrics.eventlog import EventWriter
        from tests.test_eventlog import EVENTS
        writer = EventWriter(Path(sys.argv[1]))
        done = threading.Event()
        def write():
            while not done.is_set():
                writer(EVENTS[0])
        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            child = os.fork()
            if not child:
                try:
                    writer(EVENTS[1])
                except ValueError:
                    writer.close()
                    os._exit(7)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        for thread in threads:
            thread.join()
        writer.close()
    """
    assert output_of(script, path).split() == ["7"] * 30
    reader = read_events(path)
    assert set(reader) == {EVENTS[0]}
    assert reader.skipped == 0


async def test_writing_passes_on_an_event_loop(path):
    """Neither a single event nor several count as blocking calls where those are forbidden on the loop."""
    writer = EventWriter(path)
    with blockbuster_ctx():
        writer(EVENTS[0])
        writer(*EVENTS[1:])
    writer.close()
    assert list(read_events(path)) == EVENTS


@pytest.mark.parametrize("offset", [10_000, 2**53, 2**62])
def test_a_reader_that_starts_behind_the_end(path, offset):
    """Whoever claims that a file was longer than it is, even longer than files can be, is not believed."""
    with closing(EventWriter(path)) as writer:
        writer(*EVENTS)
    assert list(EventReader(lambda: path.open("rb"), offset=offset)) == EVENTS


def test_a_reader_that_runs_out_of_time(path):
    """A reader stops when its time is up, in the middle of an endless line as well, and says so."""
    with closing(EventWriter(path)) as writer:
        writer(*EVENTS)
    reader = EventReader(lambda: path.open("rb"), within_s=60)
    assert (list(reader), reader.stopped) == (EVENTS, False)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    reader = EventReader(lambda: path.open("rb"), within_s=0.2)
    assert (list(reader), reader.stopped, reader.skipped) == (EVENTS, True, 1)
