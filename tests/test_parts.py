"""Tests of `parts`: what is shown of a file is bounded, in size and in time."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics import parts


@pytest.fixture
def endless(tmp_path):
    """Return a file of a terabyte, all zeros, on no line but one."""
    with (tmp_path / "zeros").open("w+b") as file:
        file.truncate(1 << 40)
        yield file


def test_a_line_that_is_too_far_away(endless, monkeypatch):
    """A line that can't be reached in time is answered with how far the reading came."""
    monkeypatch.setattr(parts, "_WITHIN_S", 0.1)
    with pytest.raises(
        TimeoutError, match=r"line 1000000000 is too far into 'zeros': after 0.1 s line \d+ was reached"
    ):
        parts.shown(endless, "zeros", 10**9, None)


@pytest.mark.parametrize("offset", [None, 0, 5])
def test_zeros_are_no_text(endless, offset):
    """A huge file of zeros is refused as soon as one part of it has been read."""
    with pytest.raises(ValueError, match="'zeros' is not a text file"):
        parts.shown(endless, "zeros", offset, 10**9)


def test_a_head_of_zeros(endless):
    """The head of a huge file is as large as asked for, and says how large the file is."""
    head = parts.head(endless, 200_000)
    assert (len(head.content), head.size, head.next_line) == (192_000, 1 << 40, 3)


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20), st.integers(0, 100))
def test_a_head_goes_on_where_it_ends(tmp_path_factory, lines, limit):
    """A head has whole lines, and the next line is the first that it does not have."""
    path = tmp_path_factory.getbasetemp() / "head"
    path.write_bytes(b"\n".join(lines))
    with path.open("rb") as file:
        head = parts.head(file, limit)
        file.seek(0)
        rest = [] if head.next_line is None else [*file][head.next_line :]
    assert head.content + b"".join(rest) == path.read_bytes()
    assert len(head.content) <= limit
    assert head.size == len(path.read_bytes())


def test_names_are_quoted():
    """A name that a model wrote is short and on one line."""
    assert parts.shown(io.BytesIO(), "a\n" * 100, None, None).count("\n") == 0
    assert len(parts.quoted("x" * 10_000)) < 70
