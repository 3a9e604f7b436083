"""Busy time is the union of intervals, self time what children leave."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics import intervals as module
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


@pytest.fixture
def few(monkeypatch):
    """Keep no more than eight intervals and three parents."""
    monkeypatch.setattr(module, "MOST_INTERVALS", 8)
    monkeypatch.setattr(module, "MOST_PARENTS", 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 3)), max_size=60))
@pytest.mark.usefixtures("few")
def test_busy_time_of_many_intervals(steps):
    """Few are kept of many; the union is exact in order of ends when no call runs for as long as many others."""
    busy, apart, now = BusyTime(), [], 0
    for gap, length, covered in steps:
        now += gap + length
        start = now - length
        if covered and len(apart) >= covered:  # it began in or before one of the last three
            start = apart[-covered][0] - gap % 2
        busy.add(start * 1000, now * 1000)
        while apart and apart[-1][1] >= start:
            start = min(start, apart.pop()[0])
        apart.append((start, now))
        assert busy.ms == sum(end - start for start, end in apart)
        assert len(busy._ends) == len(busy._starts) <= 8


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("start", [-5, 0])
def test_a_call_around_many_others(start):
    """A call that ran all the time is the whole union, however many ran inside it and were moved together."""
    busy = BusyTime()
    for moment in range(0, 10_000, 10):
        busy.add(moment * 1000, (moment + 4) * 1000)
    assert busy.ms == 4000
    busy.add(start * 1000, 10_000_000)
    assert busy.ms == 10_000 - start


@pytest.mark.usefixtures("few")
def test_a_call_that_began_between_others_moved_together():
    """A call that began long ago counts at least its own time, and is off by no more than the pauses before it."""
    busy = BusyTime()
    for moment in range(0, 1000, 10):
        busy.add(moment * 1000, (moment + 4) * 1000)
    busy.add(505_000, 1_000_000)
    assert 495 <= busy.ms <= 1000


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


@pytest.mark.usefixtures("few")
def test_children_of_calls_that_never_end():
    """Their times are forgotten when others have had children since, those of a call that is still busy are not."""
    times = SelfTime()
    for number in range(10, 30):
        event = call(number, number + 1, id=number, parent_id=1)
        times.of(event, *interval(event))
        orphan = call(number, number + 1, id=100 + number, parent_id=200 + number)
        times.of(orphan, *interval(orphan))
    assert len(times._children) == 3
    ended = call(0, 50, id=1)
    assert times.of(ended, *interval(ended)) == 30
    late = call(0, 50, id=210)
    assert times.of(late, *interval(late)) == 50


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


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"])
def test_times_at_the_ends_of_the_calendar(text):
    """A time that no calendar has in UTC does no harm."""
    odd = ToolCall(tool="t", start_ts=text, end_ts=text, duration_ms=5, success=True)
    busy = BusyTime()
    busy.add(*interval(odd))
    assert busy.ms == 0
