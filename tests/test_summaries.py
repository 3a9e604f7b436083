"""Summaries that go on where reading stopped say what a summary of the whole file says, however it grows or changes."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics import summaries
from langchain_swarmlet_metrics.eventlog import read_events
from langchain_swarmlet_metrics.events import LLMCall, ToolCall, encode, span
from langchain_swarmlet_metrics.summaries import MOST_FILES, Summaries, Sums
from langchain_swarmlet_metrics.summary import Summary, summarize
from tests.processes import output_of

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def tool(number, *, name="t", started_ms=None, ms=5, **known):
    """Return a tool call; one follows the other unless its start is given."""
    started_ms = number * 10 if started_ms is None else started_ms
    start_ts, end_ts, duration_ms = span(started_ms * 10**6, ms * 10**6)
    times = {"start_ts": start_ts, "end_ts": end_ts, "duration_ms": duration_ms}
    return ToolCall(**({"tool": name, "success": True, "id": number} | times | known))


def llm(number, *, started_ms=0, ms=5, **known):
    """Return an LLM call."""
    call = tool(number, started_ms=started_ms, ms=ms)
    return LLMCall(
        phase="p",
        model=f"m{number % 3}",
        start_ts=call.start_ts,
        end_ts=call.end_ts,
        duration_ms=call.duration_ms,
        **known,
    )


NUMBERS = st.integers(1, 20)
TIMES = {"started_ms": st.integers(0, 60), "ms": st.integers(0, 40)}
EVENTS = st.one_of(
    st.builds(
        tool,
        NUMBERS,
        success=st.booleans(),
        parent_id=st.none() | NUMBERS,
        error=st.none() | st.just("“no”"),
        **TIMES,
    ),
    st.builds(
        llm,
        NUMBERS,
        total_tokens=st.none() | NUMBERS,
        cost_usd=st.none() | st.sampled_from([0.1, 0.2, 1e-9]),
        parent_id=st.none() | NUMBERS,
        success=st.none() | st.just(False),
        cache_hit=st.none() | st.just(True),
        **TIMES,
    ),
)
NO_EVENTS = st.sampled_from([b"\n", b" \r\n", b"damaged\n", b"\xff\n", b"{}\n", b'{"event":"tool_call",', b"x"])
FILES = st.lists(EVENTS.map(encode) | NO_EVENTS, max_size=25).map(b"".join)


@pytest.fixture
def path(tmp_path):
    """Name a file that does not exist."""
    return tmp_path / "metrics.jsonl"


def whole(path):
    """Return what reading all of a file says."""
    reader = read_events(path)
    return Sums(summarize(reader), reader.skipped)


def lines(first, last):
    """Return the lines of some tool calls."""
    return b"".join(encode(tool(number)) for number in range(first, last))


def append(path, content):
    """Write behind what is there."""
    with path.open("ab") as file:
        file.write(content)


def ask(sums, path):
    """Return what is remembered of a file and what is new."""
    return sums.of(path.name, partial(path.open, "rb"))


class Counting(io.FileIO):
    """Count the bytes that are read."""

    read_bytes = 0

    def readinto(self, buffer):
        """Read on."""
        count = super().readinto(buffer)
        Counting.read_bytes += count or 0
        return count


@same_folder
@given(FILES, st.data())
def test_reading_on_is_reading_all(tmp_path, content, data):
    """Whatever a file holds and wherever it ended when somebody asked, in a line or a character, sums are equal."""
    path, sums = tmp_path / "cut.jsonl", Summaries()
    path.write_bytes(b"")
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=4).map(sorted))
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        append(path, content[start:end])
        assert ask(sums, path) == whole(path)


def test_a_torn_line_is_counted_until_it_is_whole(path):
    """The part of a line that is being written is a line that cannot be read, and then the event that it is."""
    line = encode(tool(2))
    sums = Summaries()
    path.write_bytes(lines(1, 2) + line[:40])
    assert [ask(sums, path).skipped for _ in range(2)] == [1, 1]
    append(path, line[40:-1])  # an event, though more might come
    for _ in range(2):
        summary, skipped, _ = ask(sums, path)
        assert (summary.totals.tool_calls, skipped) == (2, 0)
    append(path, b"and more\n" + lines(3, 4))
    summary, skipped, _ = ask(sums, path)
    assert (summary.totals.tool_calls, skipped) == (2, 1)


def test_only_what_is_new_is_read(path):
    """After ten more events hardly more than these are read, and nothing of a file that has not changed."""
    sums = Summaries()
    path.write_bytes(lines(0, 5000))

    def count():
        Counting.read_bytes = 0
        summary = sums.of("file", lambda: io.BufferedReader(Counting(path))).summary
        return summary.totals.tool_calls, Counting.read_bytes

    calls, read_bytes = count()
    assert calls == 5000
    assert read_bytes >= path.stat().st_size
    append(path, lines(5000, 5010))
    calls, read_bytes = count()
    assert calls == 5010
    assert read_bytes < 5 * summaries._COMPARED + len(lines(5000, 5010))
    calls, read_bytes = count()
    assert calls == 5010
    assert read_bytes < 5 * summaries._COMPARED


def replaced(path, content):
    """Put another file in its place, the old one still there so that its number is not used again."""
    path.rename(path.with_name("old"))
    path.write_bytes(content)


def rewritten(path, content):
    """Write into the same file from its beginning."""
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)


@pytest.mark.parametrize("change", [replaced, rewritten])
@pytest.mark.parametrize("content", [b"", lines(50, 52), lines(50, 53), lines(50, 90), b"x"])
def test_another_file_is_read_anew(path, change, content):
    """Of a file that was replaced, cut or rewritten nothing remains, whether it is shorter, longer or of one length."""
    sums = Summaries()
    path.write_bytes(lines(0, 3))
    ask(sums, path)
    change(path, content)
    assert ask(sums, path) == whole(path)
    append(path, b"\n" + lines(1, 3))
    assert ask(sums, path) == whole(path)


def test_a_replaced_file_of_the_same_end(path):
    """That it ends as the other did where reading stopped does not make it the same file."""
    sums = Summaries()
    path.write_bytes(lines(0, 30))
    ask(sums, path)
    replaced(path, lines(0, 31).replace(b'"tool":"t"', b'"tool":"u"', 1))
    assert ask(sums, path) == whole(path)


def test_who_has_no_time_reads_on_later(path):
    """When time is over the sums are those of the first events, and whoever asks again is told of more."""
    sums = Summaries()
    path.write_bytes(lines(0, 6000) + b"torn")
    told = [sums.of("file", partial(path.open, "rb"), within_s=-1) for _ in range(10)]
    counts = [then.summary.totals.tool_calls for then in told]
    assert 0 < counts[0] < counts[1] < counts[2] < 6000
    assert told[0].stopped
    assert told[-1] == whole(path)


def test_an_over_long_line_is_read_once(path):
    """Of a line longer than any event only what is new is read, and it is one line, wherever it was cut."""
    sums = Summaries()
    path.write_bytes(lines(0, 3) + b"x" * 1_500_000)
    for more in (b"", b"y" * 700_000, b"z", b"\n", lines(3, 4), b"v" * (1 << 20), b"\n" + lines(4, 5) + b"torn"):
        append(path, more)
        Counting.read_bytes = 0
        assert sums.of("file", lambda: io.BufferedReader(Counting(path))) == whole(path)
        assert Counting.read_bytes < (len(more) or path.stat().st_size) + 9 * summaries._COMPARED


def test_a_missing_file_has_no_events(path):
    """A file that is not there, not yet or not any more, has no events."""
    sums = Summaries()
    assert ask(sums, path) == Sums(Summary())
    path.write_bytes(lines(0, 3))
    assert ask(sums, path).summary.totals.tool_calls == 3
    path.unlink()
    assert ask(sums, path) == Sums(Summary())


def test_what_was_told_does_not_change(path):
    """A summary stays as it was told while the file grows."""
    sums = Summaries()
    path.write_bytes(lines(0, 3) + encode(llm(1)))
    told = ask(sums, path).summary
    before = copy.deepcopy(told)
    append(path, encode(tool(9, ms=900, success=False, outcome="unfinished")) + encode(llm(2)) + encode(llm(1)))
    assert ask(sums, path) == whole(path)
    assert told == before


def test_the_latest_files_are_remembered(tmp_path):
    """Of more files than the bound those asked for last are remembered."""
    sums = Summaries()
    paths = [tmp_path / f"{number}.jsonl" for number in range(MOST_FILES + 2)]
    for number, path in enumerate(paths):
        path.write_bytes(lines(0, number))
        ask(sums, path)
        ask(sums, paths[0])
    assert [*sums._remembered] == [path.name for path in [*paths[-MOST_FILES + 1 :], paths[0]]]
    for number, path in enumerate(paths):
        assert ask(sums, path).summary.totals.tool_calls == number


def test_a_large_summary_is_not_remembered(path):
    """A file whose errors take megabytes is summed up, and they are not kept."""
    sums = Summaries()
    failed = {"success": False, "error": "no" * 250_000}
    path.write_bytes(b"".join(encode(tool(number, **failed)) for number in range(5)))
    assert ask(sums, path) == whole(path)
    assert not sums._remembered


def test_threads_ask_at_the_same_time(path):
    """Threads that ask while the file grows are told of whole events, never of one twice."""
    sums = Summaries()
    path.touch()

    def look(_):
        summary, skipped, _ = ask(sums, path)
        assert (summary.tool_ms, skipped) == (5 * summary.totals.tool_calls, 0)
        return summary.totals.tool_calls

    with path.open("ab", buffering=0) as file, ThreadPoolExecutor(8) as pool:
        looks = []
        for number in range(200):
            file.write(encode(tool(number)))
            looks.append(pool.submit(look, number))
        assert all(number < look.result() <= 200 for number, look in enumerate(looks))
    assert ask(sums, path) == whole(path)


def test_nothing_is_read_twice(path):
    """A thread that asks while another one reads the same file waits for it and goes on from there."""
    sums, asked, opened = Summaries(), threading.Event(), []

    def open_file():
        asked.wait()
        opened.append(io.BufferedReader(Counting(path)))
        return opened[-1]

    path.write_bytes(lines(0, 9000))
    Counting.read_bytes = 0
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(sums.of, "file", open_file) for _ in range(2))
        asked.set()
        assert first.result() == second.result() == whole(path)
    assert len(opened) == 2
    assert Counting.read_bytes < path.stat().st_size + 9 * summaries._COMPARED


@pytest.mark.parametrize("interruption", [OSError, KeyboardInterrupt])
def test_an_interrupted_reading_leaves_nothing_half_done(path, interruption):
    """After an error in the middle of reading the sums are those of the file, none counted twice."""

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if self.tell() > 300_000:
                raise interruption
            return super().readinto(buffer)

    sums = Summaries()
    path.write_bytes(lines(0, 10))
    ask(sums, path)
    append(path, lines(10, 9000))
    with pytest.raises(interruption):
        sums.of(path.name, lambda: io.BufferedReader(Failing(path)))
    assert ask(sums, path) == whole(path)


def test_asking_in_the_middle_of_reading(path):
    """Who asks from a signal handler, in the middle of a reading, is told the truth, and so is who was interrupted."""
    told = []

    class Interrupted(io.FileIO):
        def readinto(self, buffer):
            if self.tell() > 300_000 and not told:
                told.append(ask(sums, path))
            return super().readinto(buffer)

    sums = Summaries()
    path.write_bytes(lines(0, 10))
    ask(sums, path)
    append(path, lines(10, 9000))
    told.append(sums.of(path.name, lambda: io.BufferedReader(Interrupted(path))))
    assert told == [whole(path)] * 2
    append(path, lines(9000, 9001))
    assert ask(sums, path) == whole(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_forked_while_a_thread_reads(path):
    """A forked child does not wait for a thread that stayed in its parent."""
    script = """
        import os, sys, threading
        from functools import partial
        from pathlib import Path
        from langchain_swarmlet_metrics.summaries import Summaries
        path, sums, reading, go_on = Path(sys.argv[1]), Summaries(), threading.Event(), threading.Event()
        def open_late():
            reading.set()
            go_on.wait()
            return path.open("rb")
        thread = threading.Thread(target=sums.of, args=("file", open_late))
        thread.start()
        reading.wait()
        child = os.fork()
        if not child:
            print(sums.of("file", partial(path.open, "rb")).summary.totals.tool_calls, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        go_on.set()
        thread.join()
    """
    path.write_bytes(lines(0, 3))
    assert output_of(script, path) == "3\n"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda sums: pickle.loads(pickle.dumps(sums))])
def test_a_copy_starts_with_nothing(path, copied):
    """Copies and pickles work, as those of what holds them do, and share nothing."""
    sums = Summaries()
    path.write_bytes(lines(0, 3))
    ask(sums, path)
    assert ask(copied(sums), path) == ask(sums, path)
