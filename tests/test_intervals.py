"""Busy time is the union of intervals, self time what children leave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.events import ToolCall, timestamp
from langchain_swarmlet_metrics.intervals import BusyTime, SelfTime, interval

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))))


def call(start_ms, end_ms, **known):
    """Return a call with these times."""
    return ToolCall(
        tool="t",
        start_ts=timestamp(start_ms * 10**6),
        end_ts=timestamp(end_ms * 10**6),
        duration_ms=end_ms - start_ms,
        success=True,
        **known,
    )


@given(INTERVALS)
def test_busy_time_is_the_union(intervals):
    """Whatever the order, the busy time is the number of moments in which anything ran."""
    busy = BusyTime()
    for start, end in intervals:
        busy.add(start * 1000, end * 1000)
    assert busy.ms == len({moment for start, end in intervals for moment in range(start, end)})


def test_parallel_calls():
    """Five calls of a second at once are busy for a second."""
    busy = BusyTime()
    for shift in range(5):
        busy.add(shift * 1000, 1_000_000 + shift * 1000)
    assert busy.ms == 1004


def test_self_time():
    """A call's own time leaves out what ran inside it, once, however its children overlap."""
    times = SelfTime()
    taken = [
        times.of(event, *interval(event))
        for event in (
            call(10, 60, id=2, parent_id=1),
            call(20, 80, id=3, parent_id=1),
            call(82, 90, id=5, parent_id=4),
            call(81, 95, id=4, parent_id=1),
            call(0, 101, id=1),
        )
    ]
    assert taken == [50, 60, 8, 6, 101 - 70 - 14]


def test_unreadable_times():
    """A time that cannot be read has no length, an end before its start neither."""
    odd = ToolCall(tool="t", start_ts="yesterday", end_ts="", duration_ms=5, success=True)
    assert interval(odd) == (0, 0)
    assert interval(call(50, 20))[0] == interval(call(50, 20))[1]


def test_other_timestamps():
    """Timestamps of other writers, with an offset or fewer digits, are read, too."""
    odd = ToolCall(
        tool="t", start_ts="1970-01-01T01:00:01+01:00", end_ts="1970-01-01T00:00:02.5Z", duration_ms=5, success=True
    )
    assert interval(odd) == (1_000_000, 2_500_000)
