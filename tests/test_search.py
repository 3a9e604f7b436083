"""Tests of `search`: every line is looked at, however long it is, and little of it is shown."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics import search
from langchain_swarmlet_metrics.folder import METADATA_FILE, METRICS_FILE, RESULT_FILE
from langchain_swarmlet_metrics.metadata import Metadata, encode
from langchain_swarmlet_metrics.search import Match, excerpt, grep, matches


def wanting(text):
    """Make the pattern that the store makes of a text."""
    return re.compile(re.escape(text), re.IGNORECASE)


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.text("abé*", min_size=1)
)
def test_the_lines_that_contain_a_text(lines, text):
    """Exactly the lines that contain the text are found, with their numbers from 1 on."""
    file = io.BytesIO("\n".join(lines).encode())
    expected = [number for number, line in enumerate(lines, start=1) if wanting(text).search(line)]
    assert [number for number, _ in grep(file, wanting(text))] == expected


@given(st.integers(0, 40), st.sampled_from(["needle", "nähnadel", "針針針"]), st.integers(10, 30))
def test_a_line_in_pieces(position, text, piece):
    """A text is found wherever it is in a line that is read in pieces, and once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_PIECE", piece)
        line = "x" * position + text + "y" * 45 + text
        found = list(grep(io.BytesIO(f"first\n{line}\nlast {text}".encode()), wanting(text)))
    assert [number for number, _ in found] == [2, 3]
    assert all(text in shown for _, shown in found)


@given(st.integers(0, 600), st.integers(0, 600))
def test_an_excerpt_is_short_and_shows_the_text(before, after):
    """What is shown has 200 characters at most, with the match among them."""
    shown = excerpt("a" * before + "NEEDLE" + "b" * after, wanting("needle"))
    assert len(shown) == min(before + 6 + after, 200)
    assert "NEEDLE" in shown


def test_an_excerpt_is_one_line():
    """Line breaks and tabs around a match become spaces."""
    assert excerpt("one\n\ttwo\r\nthree", wanting("two")) == "one two three"
    assert excerpt("one", wanting("two")) is None


def test_a_pattern_is_plain_text():
    """Characters that mean something in regular expressions mean themselves."""
    assert excerpt("calculate 7*6", wanting("7*6")) == "calculate 7*6"
    assert excerpt("calculate 776", wanting("7*6")) is None


def test_a_damaged_encoding_hides_nothing():
    """Bytes that are no UTF-8 do not keep a text in the same line from being found."""
    assert list(grep(io.BytesIO(b"\xff\xfe needle\n"), wanting("needle"))) == [(1, "�� needle")]


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
    found = list(matches(tmp_path, metadata, wanting("needle")))
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
    assert list(matches(folder, metadata, wanting("needle"))) == []
    assert list(matches(tmp_path / "gone", metadata, wanting("needle"))) == []
