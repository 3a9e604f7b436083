"""The schema of metrics.jsonl: order of keys, absence, times, damaged lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics import events
from langchain_swarmlet_metrics.events import LLMCall, ToolCall

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
COUNTS = st.none() | st.integers(0, 2**53)
TIMES = st.integers(0, 4_102_444_800 * 10**9).map(events.timestamp)

LLM_CALLS = st.builds(
    LLMCall,
    phase=TEXTS,
    model=TEXTS,
    start_ts=TIMES,
    end_ts=TIMES,
    duration_ms=st.integers(0, 10**9),
    **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "id", "ttft_ms"), COUNTS),
    error=st.none() | TEXTS,
    outcome=st.sampled_from([None, "cancelled", "unfinished", "interrupted"]),
    cost_usd=st.none() | st.floats(0, 1e6),
)
TOOL_CALLS = st.builds(
    ToolCall,
    tool=TEXTS,
    start_ts=TIMES,
    end_ts=TIMES,
    duration_ms=st.integers(0, 10**9),
    success=st.booleans(),
    error=st.none() | TEXTS,
    requested_by=COUNTS,
)


@given(LLM_CALLS | TOOL_CALLS)
def test_round_trip(event):
    """Every event is one line, valid against the JSON Schema, and reads back as it was."""
    line = events.encode(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert events.decode(line) == event
    jsonschema.validate(json.loads(line), events.json_schema())


def test_order_of_keys():
    """The keys of a line stand in the order of the format."""
    assert [field.encode_name for field in msgspec.structs.fields(LLMCall)] == [
        *("phase", "model", "start_ts", "end_ts", "duration_ms", "prompt_tokens", "completion_tokens", "total_tokens"),
        *("id", "parent_id", "success", "error", "error_type", "outcome", "ttft_ms", "cached_tokens"),
        *("cache_write_tokens", "reasoning_tokens", "usage_source", "cache_hit", "attempt", "agent", "provider"),
        "cost_usd",
    ]
    assert [field.encode_name for field in msgspec.structs.fields(ToolCall)] == [
        *("tool", "start_ts", "end_ts", "duration_ms", "success", "error", "id", "parent_id", "requested_by"),
        *("error_type", "outcome", "attempt", "agent"),
    ]


def test_unknown_is_absent_and_zero_is_zero():
    """What is not known is no key; zero is written."""
    call = LLMCall(phase="initial", model="m", start_ts="a", end_ts="b", duration_ms=0, prompt_tokens=0)
    assert json.loads(events.encode(call)) == {
        "event": "llm_call",
        "phase": "initial",
        "model": "m",
        "start_ts": "a",
        "end_ts": "b",
        "duration_ms": 0,
        "prompt_tokens": 0,
    }


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{", b"null", b'{"event":"llm_call"}', b'{"event":"later_kind","x":1}', b"\xff\xfe", b"[" * 100_000],
)
def test_damaged_lines(line):
    """A line that is no event is None, whatever is wrong with it."""
    assert events.decode(line) is None


@given(
    st.lists(LLM_CALLS.map(events.encode) | TOOL_CALLS.map(events.encode) | st.sampled_from([b"", b" ", b"x", b"{}"]))
)
def test_decode_lines(lines):
    """Many lines are decoded as each by itself would be; blank ones are nothing."""
    decoded = [events.decode(line) for line in lines]
    found, skipped = events.decode_lines(lines)
    assert found == [event for event in decoded if event is not None]
    assert skipped == sum(event is None and bool(line.strip()) for event, line in zip(decoded, lines, strict=True))


def test_later_versions():
    """Keys that a later version adds are ignored."""
    line = b'{"event":"tool_call","tool":"t","start_ts":"a","end_ts":"b","duration_ms":1,"success":true,"new":[1]}'
    assert events.decode(line) == ToolCall(tool="t", start_ts="a", end_ts="b", duration_ms=1, success=True)


@pytest.mark.parametrize(
    ("call", "failed"),
    [
        ({"success": None}, False),
        ({"success": False, "error": "x"}, True),
        ({"success": False, "outcome": "cancelled"}, False),
        ({"success": False, "outcome": "unfinished"}, False),
        ({"outcome": "interrupted"}, False),
    ],
)
def test_which_llm_calls_count_as_errors(call, failed):
    """Only an LLM call that failed and says nothing else counts as an error."""
    assert LLMCall(phase="p", model="m", start_ts="", end_ts="", duration_ms=0, **call).failed is failed


@pytest.mark.parametrize(
    ("call", "failed"),
    [
        ({"success": True}, False),
        ({"success": False}, True),
        ({"success": False, "outcome": "unknown_tool"}, True),
        ({"success": False, "outcome": "cancelled"}, False),
        ({"success": False, "outcome": "unfinished"}, False),
        ({"success": True, "outcome": "interrupted"}, False),
    ],
)
def test_which_tool_calls_count_as_errors(call, failed):
    """Tools that failed or do not exist count as errors; cancelled and unfinished ones do not."""
    assert ToolCall(tool="t", start_ts="", end_ts="", duration_ms=0, **call).failed is failed


@given(st.integers(0, 4_102_444_800 * 10**9), st.integers(-(10**12), 10**15))
def test_span_agrees_with_itself(start_ns, elapsed_ns):
    """Start, end and duration always agree, and time never runs backwards."""
    start_ts, end_ts, duration_ms = events.span(start_ns, elapsed_ns)
    took = events.parse_timestamp(end_ts) - events.parse_timestamp(start_ts)
    assert duration_ms == (took + timedelta(microseconds=500)) // timedelta(milliseconds=1)
    assert start_ts <= end_ts
    assert abs(duration_ms - max(elapsed_ns, 0) / 1e6) <= 0.501


@given(st.lists(st.integers(0, 4_102_444_800 * 10**9), min_size=2))
def test_timestamps_sort_as_time(moments):
    """Timestamps sort as text in the order of time, with six digits always."""
    texts = [events.timestamp(moment) for moment in sorted(moments)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {27}


def test_timestamp():
    """A timestamp is UTC with six digits."""
    moment = datetime(2025, 12, 15, 4, 8, 8, 123456, tzinfo=UTC)
    assert events.timestamp(int(moment.timestamp()) * 10**9 + 123_456_789) == "2025-12-15T04:08:08.123456Z"
    assert events.parse_timestamp("2025-12-15T04:08:08.123456Z") == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2025-13-01T00:00:00Z",
        "x" * 10_000,
        "\ud800",
    ],
)
def test_a_text_that_is_no_timestamp(text):
    """A text that is no time, or a time that does not exist in UTC, is a ValueError."""
    for read in (events.parse_timestamp, events.time_ns, events.require_timestamp):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is Python's own
            read(text)


def test_a_timestamp_on_two_lines():
    """Python reads a time with a line break in it; such a one is not shown as it is."""
    assert events.parse_timestamp("2025-12-15\n04:08:08Z")
    with pytest.raises(ValueError, match="is no timestamp"):
        events.require_timestamp("2025-12-15\n04:08:08Z")


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *[(0, 0), (12, 12), (12.0, 12), (2**53, 2**53), (2**53 + 1, None), (-1, None), (1.5, None), (True, None)],
        *[(None, None), ("12", None), (float("nan"), None), (float("inf"), None), ([1], None)],
    ],
)
def test_token_count(value, count):
    """A token count is a whole number that every JSON reader keeps exact, or it is not known."""
    assert events.token_count(value) == count
