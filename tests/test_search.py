"""Tests of `search`: every line is looked at, however long it is, and little of it is shown."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics import search
from langchain_swarmlet_metrics.folder import METADATA_FILE, METRICS_FILE, RESULT_FILE
from langchain_swarmlet_metrics.metadata import Metadata, encode
from langchain_swarmlet_metrics.search import Match, OutOfTimeError, Query, excerpt, find, grep, matches
from tests.processes import output_of

ENDLESS = "(a|aa)+$"
ALMOST = "a" * 60_000 + "b"


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.text("abé*", min_size=1)
)
def test_the_lines_that_contain_a_text(lines, text):
    """Exactly the lines that contain the text are found, with their numbers from 1 on."""
    file = io.BytesIO("\n".join(lines).encode())
    wanted = re.compile(re.escape(text), re.IGNORECASE)
    expected = [number for number, line in enumerate(lines, start=1) if wanted.search(line)]
    assert [number for number, _ in grep(file, Query(text))] == expected


@given(st.integers(0, 40), st.sampled_from(["needle", "nähnadel", "針針針"]), st.integers(10, 30))
def test_a_line_in_pieces(position, text, piece):
    """A text is found wherever it is in a line that is read in pieces, and once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_PIECE", piece)
        patch.setattr(search, "_OVERLAP", 4 * len(text))
        line = "x" * position + text + "y" * 45 + text
        found = list(grep(io.BytesIO(f"first\n{line}\nlast {text}".encode()), Query(text)))
    assert [number for number, _ in found] == [2, 3]
    assert all(text in shown for _, shown in found)


@given(st.integers(0, 600), st.integers(0, 600))
def test_an_excerpt_is_short_and_shows_the_text(before, after):
    """What is shown has 200 characters at most, with the match among them."""
    shown = excerpt("a" * before + "NEEDLE" + "b" * after, Query("needle"))
    assert len(shown) == min(before + 6 + after, 200)
    assert "NEEDLE" in shown


def test_an_excerpt_is_one_line():
    """Line breaks and tabs around a match become spaces."""
    assert excerpt("one\n\ttwo\r\nthree", Query("two")) == "one two three"
    assert excerpt("one", Query("two")) is None


def test_a_pattern_is_plain_text():
    """Characters that mean something in regular expressions mean themselves."""
    assert excerpt("calculate 7*6", Query("7*6")) == "calculate 7*6"
    assert excerpt("calculate 776", Query("7*6")) is None


def test_a_damaged_encoding_hides_nothing():
    """Bytes that are no UTF-8 do not keep a text in the same line from being found."""
    assert list(grep(io.BytesIO(b"\xff\xfe needle\n"), Query("needle"))) == [(1, "�� needle")]


def test_matches_of_a_worker(tmp_path):
    """Task, error, summary, result and metrics are searched; the numbers are those of the lines in the files."""
    metadata = Metadata(
        worker_id="w",
        created_at="",
        task="find a Needle",
        error="NEEDLE lost",
        summary="one\nneedle",
        config={"x": "needle"},
    )
    (tmp_path / METADATA_FILE).write_bytes(encode(metadata))
    (tmp_path / RESULT_FILE).write_text("hay\nneedle needle\n")
    (tmp_path / METRICS_FILE).write_text('{"tool":"hay"}\n{"tool":"needle"}\n')
    found = list(matches(tmp_path, metadata, Query("needle")))
    assert found == [
        Match(metadata, METADATA_FILE, 6, "task: find a Needle"),
        Match(metadata, METADATA_FILE, 12, "error: NEEDLE lost"),
        Match(metadata, METADATA_FILE, 13, "summary: one needle"),
        Match(metadata, RESULT_FILE, 2, "needle needle"),
        Match(metadata, METRICS_FILE, 2, '{"tool":"needle"}'),
    ]
    for match in found:
        line = (tmp_path / match.file).read_text().splitlines()[match.line_no - 1]
        assert "needle" in line.lower()


def test_files_that_are_refused_have_no_matches(tmp_path):
    """A link to a file elsewhere is not searched, and what is missing is passed over."""
    (tmp_path / "secret").write_text("needle")
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / RESULT_FILE).symlink_to(tmp_path / "secret")
    (folder / METRICS_FILE).hardlink_to(tmp_path / "secret")
    metadata = Metadata(worker_id="w", created_at="")
    assert list(matches(folder, metadata, Query("needle"))) == []
    assert list(matches(tmp_path / "gone", metadata, Query("needle"))) == []


# Regular expressions


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("^error: .*refused$", [2]),
        (r"\berror\b", [1, 2]),
        (r"status=\d{3}$", [4]),
        (r"[^x]$", [1, 2, 4]),
        (r"\s$", []),
        ("^$", [3]),
        ('{"no": [0-9]+', [1]),
        ("(?-i:Error)", [1]),
    ],
)
def test_a_regular_expression_sees_one_line(pattern, numbers):
    """A regular expression is matched with each line without its end, whatever its case unless it says otherwise."""
    file = io.BytesIO(b'{"no": 12} Error\nERROR: connection refused\n\nstatus=503\r\nx')
    assert [number for number, _ in grep(file, Query(pattern, regex=True))] == numbers


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a", "is no regular expression: missing )"),
        ("*a", "is no regular expression: nothing to repeat"),
        ("[a", "is no regular expression: unterminated character set"),
        (r"\L<names>", "is no regular expression: undefined named list"),
        ("a{9999999999}", "is refused: "),
        ("(" * 500 + ")" * 500, "is no regular expression: "),
        ("(?R)", "is refused: group calls, "),
        ("(?:a(?&b))(?P<b>c)", "is refused: group calls, "),
        ("((a{100}){100}){100}", "is refused: group calls, approximate matches, (?x) and many repeats"),
        ("(?x)a{1 000}{1 000}", "is refused: "),
        ("(?:foo){e<=5}", "is refused: "),
        ("x" * 1001, "the pattern has 1001 characters; give one of at most 1000"),
        ("", "the pattern is empty"),
    ],
    ids=lambda text: text[:20],
)
def test_a_pattern_that_is_refused(pattern, problem):
    """What is no regular expression, or could take any amount of memory, is refused with a short sentence."""
    with pytest.raises(ValueError, match=re.escape(problem)) as refused:
        Query(pattern, regex=True)
    assert len(str(refused.value)) < 250


def test_what_is_refused_as_a_pattern_is_found_as_text():
    """As plain text any pattern is allowed that is not too long."""
    for text in ("(a", "(?R)", "((a{100}){100}){100}", "{e}"):
        assert excerpt(f"see {text}", Query(text)) == f"see {text}"
    with pytest.raises(ValueError, match="1001 characters"):
        Query("x" * 1001)


def test_a_catastrophic_pattern_is_stopped():
    """A pattern that would take for ever is stopped when the time is up."""
    query = Query(ENDLESS, regex=True, within_s=0.2)
    with pytest.raises(OutOfTimeError):
        query.start_in(ALMOST)
    with pytest.raises(OutOfTimeError):
        Query("x", within_s=0).start_in("x")


def test_other_threads_go_on_during_a_long_match():
    """While a pattern takes long, other threads run: the interpreter is not held."""
    done = threading.Event()

    def count():
        while not done.is_set():
            counted.append(time.monotonic())
            time.sleep(0.001)

    counted = []
    thread = threading.Thread(target=count)
    thread.start()
    try:
        with pytest.raises(OutOfTimeError):
            Query(ENDLESS, regex=True, within_s=0.5).start_in(ALMOST)
    finally:
        done.set()
        thread.join(10)
    assert len(counted) > 5


def test_a_pattern_that_fills_the_memory_is_stopped(mocker):
    """When the engine has no memory left, the search stops as if the time were up."""
    query = Query("a")
    query._compiled = mocker.Mock(search=mocker.Mock(side_effect=MemoryError))
    with pytest.raises(OutOfTimeError):
        query.start_in("a")


def test_a_search_that_is_stopped_keeps_what_it_has(tmp_path):
    """Matches found before the time was up are there, and the answer says that it stopped."""
    workers = [Metadata(worker_id=name, created_at="", task=task) for name, task in (("w1", "aa"), ("w2", ALMOST))]
    found = find(tmp_path, workers, Query(ENDLESS, regex=True, within_s=0.3), 10)
    assert ([match.metadata for match in found], found.stopped) == (workers[:1], True)
    whole = find(tmp_path, workers[:1], Query(ENDLESS, regex=True), 10)
    assert (len(whole), whole.stopped) == (1, False)


def test_plain_text_is_stopped_too(tmp_path):
    """However many workers and however large their files, the search ends in time."""
    with (tmp_path / RESULT_FILE).open("wb") as file:
        file.truncate(1 << 40)
    endless = iter(lambda: Metadata(worker_id=".", created_at=""), None)
    found = find(tmp_path, endless, Query("needle", within_s=0.2), 10)
    assert (list(found), found.stopped) == ([], True)
    (tmp_path / RESULT_FILE).unlink()
    assert find(tmp_path, endless, Query("needle", within_s=0.2), 10).stopped


def test_the_engine_is_loaded_by_a_search_only():
    """Importing the store does not load the engine, which would make every start slower."""
    script = """
    import sys
    import langchain_swarmlet_metrics.store
    before = "regex" in sys.modules
    langchain_swarmlet_metrics.search.Query("a")
    print(before, "regex" in sys.modules)
    """
    assert output_of(script) == "False True\n"
