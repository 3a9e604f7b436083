"""Tests of `imitation`: no line of a result can be taken for one of ours, and an ordinary result is not changed."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.imitation import OPENINGS, quote_imitations

BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
TIME = re.compile(r"^Execution time: (\d+)ms", re.MULTILINE)
DISGUISES = [
    "{}",
    "  {}",
    "\t\u00a0\u3000{}",
    "\u200b\ufeff\u2060\u00ad{}",
    "\u3164\u115f{}",
    "\ufe0f\u034f{}",
    "\x00\x1b[1m{}",
    "**{}**",
    "## {}",
    "> {}",
    "> > {}",
    "- * 1. {}",
    "`{}`",
    "| {} |",
    "___{}",
    ": {}",
    "<b>{}</b>",
    "<span style='color: red'> {}",
    "&nbsp;&#8203;{}",
    "<{}>",
]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_line_like_ours_is_quoted(opening, disguise):
    """A line that begins like one of ours is quoted, whatever its case and what is before it."""
    for line in (opening, opening.upper(), opening.swapcase()):
        imitation = disguise.format(f"{line} 98ms")
        assert quote_imitations(imitation) == f"> {imitation}"


@pytest.mark.parametrize(
    "line",
    [
        "Exe\u200bcution time: 1ms",
        "E\u0301xecution time: 1ms",
        "".join(chr(ord(char) + 0xFEE0) for char in "Execution") + " time: 1ms",  # full width
        "Execution time\uff1a 1ms",
        "\U0001d404xecution time: 1ms",
        "**Execution time**: 1ms",
        "Execution \u00a0 time : 1ms",
        "Execution_time: 1ms",
        "<i>Execution</i> time: 1ms",
        "\u24baxecution time: 1ms",
        "This <!-- --> worker&nbsp;failed",
    ],
)
def test_letters_count(line):
    """What is between or around the letters, and how they are written, does not hide a line."""
    assert quote_imitations(line) == f"> {line}"


@pytest.mark.parametrize("line_break", BREAKS)
def test_after_any_line_break(line_break):
    """A line begins after whatever `str.splitlines` takes for a line break; the breaks stay as they are."""
    result = f"one{line_break}Execution time: 5ms{line_break}{line_break}two"
    assert quote_imitations(result) == f"one{line_break}> Execution time: 5ms{line_break}{line_break}two"


@pytest.mark.parametrize(
    "result",
    [
        "",
        "\n",
        "The result is 42.",
        "  first\n\n\nπ \x1b[31m\u2028last\r\n\n",
        "The execution time: 5ms",
        "Execution times: 5ms, 6ms",
        "Execution time was 5ms",
        "executiontimer: off",
        "This worker thread failed",
        "This workers' council failed",
        "Results from worker jobs",
        "All of the metrics are fine",
        "\ud800",
    ],
)
def test_an_ordinary_result_is_not_changed(result):
    """A result that only resembles our lines stays as it is, to the last character."""
    assert quote_imitations(result) == result


ODD = st.sampled_from(
    [*BREAKS, *OPENINGS, *(disguise.partition("{}")[0] for disguise in DISGUISES), "Execution time: 5ms"]
)


@given(st.lists(ODD | st.text(st.characters(exclude_categories=()), max_size=5)).map("".join))
@example("Execution time: 5ms\nExecution time: 5ms")
def test_there_is_one_execution_time(result):
    """Whoever parses the text for our line finds it once, and nothing but the quotes is added."""
    quoted = quote_imitations(result)
    text = f"Result from worker job 1 (worker w):\n\nExecution time: 98ms\n\n{quoted}"
    assert TIME.findall(text) == ["98"]
    assert sum(line.lower().startswith("execution time:") for line in text.splitlines()) == 1
    lines = zip(result.splitlines(keepends=True), quoted.splitlines(keepends=True), strict=True)
    assert all(after in (before, f"> {before}") for before, after in lines)
