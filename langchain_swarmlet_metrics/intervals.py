"""How calls overlap: busy time is the union of their intervals, self time is what their children leave of them."""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics.events import parse_timestamp

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.events import Event


_MOST_OPEN = 10_000  # calls at a time whose end is still to come; in a file that is none of ours, they may never end


class BusyTime:
    """Measure the union of intervals that come in about the order of their ends; 16 bytes for each disjoint one."""

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")

    def add(self, start_us: int, end_us: int) -> None:
        """Add an interval, in microseconds."""
        starts, ends = self._starts, self._ends
        after: list[tuple[int, int]] = []  # what lies wholly behind an interval that comes late
        while ends and ends[-1] >= start_us:
            start, end = starts.pop(), ends.pop()
            if start > end_us:
                after.append((start, end))
            else:
                start_us, end_us = min(start, start_us), max(end, end_us)
        starts.append(start_us)
        ends.append(end_us)
        for start, end in reversed(after):
            starts.append(start)
            ends.append(end)

    @property
    def ms(self) -> int:
        """Return the length of the union in milliseconds, rounded."""
        return (sum(self._ends) - sum(self._starts) + 500) // 1000


class SelfTime:
    """Work out what each call took itself, without the calls made inside it, from events in order of their ends."""

    def __init__(self) -> None:
        self._children: dict[int, BusyTime] = {}

    def of(self, event: Event, start_us: int, end_us: int) -> int:
        """Return a call's own time in milliseconds; its children have come before it, as they ended before it."""
        if event.parent_id is not None and (event.parent_id in self._children or len(self._children) < _MOST_OPEN):
            self._children.setdefault(event.parent_id, BusyTime()).add(start_us, end_us)
        inside = None if event.id is None else self._children.pop(event.id, None)
        return event.duration_ms if inside is None else max(event.duration_ms - inside.ms, 0)


def interval(event: Event) -> tuple[int, int]:
    """Return start and end of an event in microseconds since the epoch; an unreadable time counts as no length."""
    try:
        start, end = _microseconds(event.start_ts), _microseconds(event.end_ts)
    except ValueError:
        return 0, 0
    return start, max(start, end)


def _microseconds(timestamp: str) -> int:
    if len(timestamp) == _LENGTH and timestamp[19] == "." and timestamp[20:26].isdecimal():  # as we write them
        return _second(timestamp[:19]) * 1_000_000 + int(timestamp[20:26])
    return round(parse_timestamp(timestamp).timestamp() * 1_000_000)


@lru_cache(maxsize=64)  # neighbouring events share their second
def _second(text: str) -> int:
    return int(parse_timestamp(f"{text}+00:00").timestamp())


_LENGTH = len("2025-12-15T04:08:08.123456Z")
