"""How calls overlap: busy time is the union of their intervals, self time is what their children leave of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics.events import time_us

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.events import Event

MOST_INTERVALS = 1 << 17
"""How many disjoint intervals a busy time keeps apart."""

MOST_PARENTS = 10_000
"""How many calls whose end is still to come a self time keeps the children of; in a foreign file it may never come."""

_BEFORE_ALL = -(1 << 63)


class BusyTime:
    """Measure the union of intervals, at best in the order of their ends; 16 bytes for each disjoint one, 2 MB at most.

    A call that began long ago can end at any time and cover any of the intervals since, so they are kept apart. Beyond
    `MOST_INTERVALS` of them older ones are moved together by pairs: the union stays exact but for a call that begins
    between two of them, that is one that runs for as long as half as many others, one after another.
    """

    __slots__ = ("_end_us", "_ends", "_starts", "_total_us")

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")
        self._end_us = _BEFORE_ALL
        self._total_us = 0

    def add(self, start_us: int, end_us: int) -> None:
        """Add an interval, in microseconds."""
        if start_us > self._end_us:
            self._starts.append(start_us)
            self._ends.append(end_us)
            self._end_us = end_us
            self._total_us += end_us - start_us
        else:
            self._unite(start_us, end_us)
        if len(self._ends) > MOST_INTERVALS:
            self._move_together()

    @property
    def ms(self) -> int:
        """Return the length of the union in milliseconds, rounded."""
        return (self._total_us + 500) // 1000

    def _unite(self, start_us: int, end_us: int) -> None:
        """Put an interval in the place of those that it touches."""
        starts, ends = self._starts, self._ends
        first, behind = bisect_left(ends, start_us), bisect_right(starts, end_us)
        if first < behind:
            self._total_us -= sum(ends[first:behind]) - sum(starts[first:behind])
            start_us, end_us = min(start_us, starts[first]), max(end_us, ends[behind - 1])
        starts[first:behind] = array("q", (start_us,))
        ends[first:behind] = array("q", (end_us,))
        self._end_us = ends[-1]
        self._total_us += end_us - start_us

    def _move_together(self) -> None:
        """Move each second interval of the older half up to the next one, so that both are one of the same length."""
        starts, ends = self._starts, self._ends
        old = len(ends) // 4 * 2
        starts[:old] = array("q", (starts[i + 1] - (ends[i] - starts[i]) for i in range(0, old, 2)))
        ends[:old] = ends[1:old:2]


class SelfTime:
    """Work out what each call took itself, without the calls made inside it, from events in order of their ends.

    Children of calls that never end are forgotten when `MOST_PARENTS` others have had children since.
    """

    __slots__ = ("_children",)

    def __init__(self) -> None:
        self._children: dict[int, BusyTime] = {}

    def of(self, event: Event, start_us: int, end_us: int) -> int:
        """Return a call's own time in milliseconds; its children have come before it, as they ended before it."""
        if event.parent_id is not None:
            self._add_to(event.parent_id, start_us, end_us)
        inside = self._children.pop(event.id, None) if self._children and event.id is not None else None
        return event.duration_ms if inside is None else max(event.duration_ms - inside.ms, 0)

    def _add_to(self, parent_id: int, start_us: int, end_us: int) -> None:
        children = self._children
        inside = children.pop(parent_id, None)
        if inside is None:
            inside = BusyTime()
        inside.add(start_us, end_us)
        children[parent_id] = inside  # behind those that have had no child for longer
        if len(children) > MOST_PARENTS:
            del children[next(iter(children))]


def interval(event: Event) -> tuple[int, int]:
    """Return start and end of an event in microseconds since the epoch; an unreadable time counts as no length."""
    try:
        start, end = time_us(event.start_ts), time_us(event.end_ts)
    except ValueError:
        return 0, 0
    return (start, end) if start <= end else (start, start)
