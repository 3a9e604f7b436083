"""Sum up a worker's events in one pass, and say the result in a few plain lines that an LLM reads.

The texts in events are written by models and tools: nothing of them leaves here but printable, capped, on one line.
"""

from __future__ import annotations

from bisect import insort
from copy import deepcopy
from typing import TYPE_CHECKING

import msgspec

from langchain_swarmlet_metrics.events import Event, LLMCall
from langchain_swarmlet_metrics.intervals import BusyTime, SelfTime, interval
from langchain_swarmlet_metrics.metadata import Completeness, Metadata, Totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_swarmlet_metrics.snapshot import StartedCall

LISTED_CALLS = 5
"""How many of the slowest and of the failed calls a summary keeps."""

LISTED_GROUPS = 8
"""How many phases, models and tools a digest names; a summary counts them all."""

OTHER_NAMES = "(other names)"
"""Sums up the calls of all further names, once there are a thousand in a summary."""

_GROUPS_KEPT = 1000
_NAME_KEPT = 200
_ROUNDING_MS = 2  # milliseconds are rounded one by one, so that sums may differ by a little
_NAME_LIMIT = 60
_LINE_LIMIT = 200


class Group(Totals, kw_only=True):
    """Sum up the calls that share a phase, a model or a tool: their totals and durations (milliseconds).

    ``self_ms`` leaves out the calls made inside them: a tool that calls a model is busy with little else.
    """

    total_ms: int = 0
    self_ms: int = 0
    max_ms: int = 0

    @property
    def calls(self) -> int:
        """Return how many calls there were."""
        return self.llm_calls + self.tool_calls

    def add(self, event: Event) -> None:
        """Count one event."""
        super().add(event)
        duration_ms = event.duration_ms
        self.total_ms += duration_ms
        if duration_ms > self.max_ms:  # noqa: PLR1730 - cheaper than max(), and done for every event
            self.max_ms = duration_ms


class Summary(msgspec.Struct, kw_only=True):
    """Sum up the events of a worker.

    ``llm_ms`` and ``tool_ms`` are sums of durations: calls overlap, so they may exceed the worker's own time.
    ``llm_busy_ms`` and ``tool_busy_ms`` count time in which several calls ran once. Of the tokens, ``totals`` has all
    that were billed, as far as they are known; ``wasted_tokens`` is the part of them in calls that brought no answer.
    ``cache_served_tokens`` were not billed and are in no total.
    ``slowest`` has the slowest calls first, ``failures`` the calls that failed first.
    """

    totals: Totals = msgspec.field(default_factory=Totals)
    completeness: Completeness = msgspec.field(default_factory=Completeness)
    llm_ms: int = 0
    tool_ms: int = 0
    llm_busy_ms: int = 0
    tool_busy_ms: int = 0
    cancelled: int = 0
    wasted_tokens: int = 0
    cache_hits: int = 0
    cache_served_tokens: int = 0
    by_phase: dict[str, Group] = msgspec.field(default_factory=dict)
    by_model: dict[str, Group] = msgspec.field(default_factory=dict)
    by_tool: dict[str, Group] = msgspec.field(default_factory=dict)
    slowest: list[Event] = msgspec.field(default_factory=list)
    failures: list[Event] = msgspec.field(default_factory=list)


class Aggregator:
    """Sum up events as they come; memory is bounded, whatever the events are."""

    def __init__(self) -> None:
        self._sums = Summary()  # without what follows from its groups; the cost of all depends on the order of adding
        self._llm_busy = BusyTime()
        self._tool_busy = BusyTime()
        self._self_time = SelfTime()

    @property
    def summary(self) -> Summary:
        """Return the sums so far; what is added later does not change them."""
        sums = deepcopy(self._sums)
        for group in (*sums.by_phase.values(), *sums.by_tool.values()):
            sums.totals.include(group)
        sums.totals.cost_usd = self._sums.totals.cost_usd
        sums.llm_ms = sum(group.total_ms for group in sums.by_phase.values())
        sums.tool_ms = sum(group.total_ms for group in sums.by_tool.values())
        sums.llm_busy_ms, sums.tool_busy_ms = self._llm_busy.ms, self._tool_busy.ms
        return sums

    def add(self, event: Event) -> None:
        """Count one event."""
        sums, duration_ms = self._sums, event.duration_ms
        start_us, end_us = interval(event)
        self_ms = self._self_time.of(event, start_us, end_us)
        if isinstance(event, LLMCall):
            self._llm_busy.add(start_us, end_us)
            _add_to(sums.by_phase, event.phase, event, self_ms)
            _add_to(sums.by_model, event.model, event, self_ms)
            if event.cost_usd is not None or event.cache_hit or event.success is False:
                self._add_to_ledgers(event)
        else:
            self._tool_busy.add(start_us, end_us)
            _add_to(sums.by_tool, event.tool, event, self_ms)
        sums.completeness.add(event)
        if event.outcome == "cancelled":
            sums.cancelled += 1
        if len(sums.slowest) < LISTED_CALLS or duration_ms > sums.slowest[-1].duration_ms:
            insort(sums.slowest, event, key=_slower)
            del sums.slowest[LISTED_CALLS:]
        if len(sums.failures) < LISTED_CALLS and event.failed:
            sums.failures.append(event)

    def _add_to_ledgers(self, event: LLMCall) -> None:
        sums, tokens = self._sums, event.total_tokens
        if tokens is None:
            tokens = (event.prompt_tokens or 0) + (event.completion_tokens or 0)
        if event.cache_hit:
            sums.cache_hits += 1
            sums.cache_served_tokens += tokens
            return
        if event.success is False:
            sums.wasted_tokens += tokens
        if event.cost_usd is not None:
            sums.totals.cost_usd = (sums.totals.cost_usd or 0) + event.cost_usd


def summarize(events: Iterable[Event]) -> Summary:
    """Sum up events in one pass."""
    aggregator = Aggregator()
    for event in events:
        aggregator.add(event)
    return aggregator.summary


def digest(
    metadata: Metadata,
    status: str,
    summary: Summary,
    *,
    skipped: int = 0,
    stopped: bool = False,
    elapsed_ms: int | None = None,
    open_calls: Sequence[tuple[StartedCall, int]] = (),
) -> str:
    """Describe how a worker performed, in plain text for an LLM: short, one fact a line, the same for the same input.

    Args:
        metadata: the worker.
        status: its status as readers see it, ``lost`` included.
        summary: the sums of its events.
        skipped: how many lines of its ``metrics.jsonl`` could not be read.
        stopped: whether there was no time to read that file to its end.
        elapsed_ms: the time so far of a worker whose duration is not known yet, milliseconds.
        open_calls: its calls that have started and not ended, each with its age in milliseconds.
    """
    lines = [
        *header_lines(metadata, status, elapsed_ms),
        *total_lines(summary),
        *silence_lines(metadata, summary, skipped),
        *open_lines(open_calls),
        *group_lines("LLM calls by phase", summary.by_phase),
        *group_lines("LLM calls by model", summary.by_model),
        *group_lines("Tool calls by tool", summary.by_tool),
        *slowest_lines(summary),
        *failure_lines(summary),
        *unknown_lines(metadata, summary, skipped, stopped=stopped),
    ]
    return "\n".join(lines)


def header_lines(metadata: Metadata, status: str, elapsed_ms: int | None = None) -> list[str]:
    """Name the worker, its job, its status and error, and its execution time."""
    job = "" if metadata.job_id is None else f" (job {metadata.job_id})"
    lines = [f"Worker {metadata.worker_id}{job}: {status}"]
    if metadata.error is not None:
        lines.append(f"Error: {metadata.error}")
    if metadata.duration_ms is not None:
        lines.append(f"Execution time: {format_duration(metadata.duration_ms)}")
    elif elapsed_ms is not None:
        so_far = "" if metadata.finished_at else " so far"
        lines.append(f"Execution time{so_far}: {format_duration(elapsed_ms)}")
    else:
        lines.append("Execution time: unknown")
    return _bounded(lines)


def total_lines(summary: Summary) -> list[str]:
    """Count calls, errors and tokens; without any LLM call say so, as zeros would claim to be a measurement."""
    totals = summary.totals
    if not totals.llm_calls and not totals.tool_calls:
        return ["No LLM calls were recorded, and no tool calls."]
    kinds = [
        (totals.llm_calls, "LLM call", summary.llm_ms, summary.llm_busy_ms),
        (totals.tool_calls, "tool call", summary.tool_ms, summary.tool_busy_ms),
    ]
    counts = [f"{count(number, noun)} ({_summed(ms, busy)})" for number, noun, ms, busy in kinds if number]
    counts.append(count(totals.errors, "error"))
    if summary.cancelled:
        counts.append(f"{summary.cancelled} cancelled")
    tokens = "No LLM calls were recorded."
    if totals.llm_calls:
        tokens = (
            f"Tokens: prompt {_known(totals.prompt_tokens)}, completion {_known(totals.completion_tokens)}, "
            f"total {_known(totals.total_tokens)}"
        )
        if summary.wasted_tokens:
            tokens += f", {summary.wasted_tokens} of them in calls that brought no answer"
        if summary.cache_hits:
            tokens += f"; {summary.cache_served_tokens} more served by the cache, not billed"
    return _bounded([", ".join(counts), tokens])


def silence_lines(metadata: Metadata, summary: Summary, skipped: int = 0) -> list[str]:
    """Say why there may be no events of a worker that ran, unless it is known that there were some."""
    if summary.totals.calls or skipped or metadata.totals.calls or metadata.started_at is None:
        return []
    return ["If any have finished, the callbacks were not passed on to the agent."]


def group_lines(title: str, groups: Mapping[str, Group]) -> list[str]:
    """List the groups that took the most time, and say how many more there are."""
    ranked = sorted(groups.items(), key=lambda item: (-item[1].total_ms, item[0]))
    items = [f"{one_line(name, _NAME_LIMIT)}: {_describe(group)}" for name, group in ranked[:LISTED_GROUPS]]
    if more := ranked[LISTED_GROUPS:]:
        items.append(f"{len(more)} more: {count(sum(group.calls for _, group in more), 'call')}")
    return _section(title, items)


def open_lines(open_calls: Sequence[tuple[StartedCall, int]]) -> list[str]:
    """List the calls that have been open the longest, and say how many more there are."""
    ranked = sorted(open_calls, key=lambda item: -item[1])
    items = [
        f"{age_ms}ms so far: {one_line(call.name, _NAME_LIMIT)} ({call.event}, id {call.id})"
        for call, age_ms in ranked[:LISTED_CALLS]
    ]
    if more := len(ranked) - len(items):
        items.append(f"{more} more")
    return _section("Open calls", items)


def slowest_lines(summary: Summary) -> list[str]:
    """List the slowest calls."""
    return _section("Slowest calls", [f"{event.duration_ms}ms {_name(event)}" for event in summary.slowest])


def failure_lines(summary: Summary) -> list[str]:
    """List the calls that failed first, with their errors."""
    failures = [f"{_name(event)}: {_reason(event)}" for event in summary.failures]
    more = summary.totals.errors - len(failures)
    return _section(f"Failures (first {len(failures)} of {summary.totals.errors})" if more else "Failures", failures)


def unknown_lines(metadata: Metadata, summary: Summary, skipped: int = 0, *, stopped: bool = False) -> list[str]:
    """Say what the numbers leave out: what the events themselves tell, and what only their collector knew."""
    told, noted = summary.completeness, metadata.completeness
    missing = 0 if stopped else metadata.missing_events(summary.totals.calls + skipped)
    gaps = [
        (told.calls_without_usage, "LLM call", "without token usage: not in the token counts"),
        (told.unfinished_calls, "call", "still open when the worker ended: durations up to then"),
        (noted.late_calls, "call", "started after the worker had ended: not counted"),
        (
            noted.dropped_events,
            "event",
            f"could not be written or handed on, so maybe not counted ({noted.drop_reason})",
        ),
        (skipped, "line", "of metrics.jsonl could not be read: not counted"),
        (missing, "event", "counted in metadata.json but not in metrics.jsonl: not counted here"),
    ]
    items = [f"{count(number, noun)} {what}" for number, noun, what in gaps if number]
    if stopped:
        items.append("metrics.jsonl is too long to be read in time: only its first events are counted")
    return _section("Not known", items)


def format_duration(ms: int) -> str:
    """Format a duration as ``98ms``; from one second on with a reading aid, as ``83250ms (1m 23s)``.

    The aid is rounded, to tenths of a second below a minute and to the smaller of two units above: ``59.9s``,
    ``1m 0s``, ``2h 5m``, ``3d 4h``.

    Args:
        ms: the duration in milliseconds.
    """
    return f"{ms}ms ({_reading_aid(ms)})" if ms >= _SECOND else f"{ms}ms"


def one_line(text: str, limit: int) -> str:
    """Escape what is not printable, line breaks and terminal codes among it, and cut at ``limit`` characters."""
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


_SECOND = 1_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


def _reading_aid(ms: int) -> str:
    tenths = _rounded(ms, _SECOND // 10)
    if tenths < 10 * 60:
        return f"{tenths / 10:g}s"
    # Round to the smaller unit first: then no unit ever reads 60, and what rounds up to the next is shown in it.
    if (seconds := _rounded(ms, _SECOND)) * _SECOND < _HOUR:
        return f"{seconds // 60}m {seconds % 60}s"
    if (minutes := _rounded(ms, _MINUTE)) * _MINUTE < _DAY:
        return f"{minutes // 60}h {minutes % 60}m"
    hours = _rounded(ms, _HOUR)
    return f"{hours // 24}d {hours % 24}h"


def _rounded(ms: int, unit: int) -> int:
    return (ms + unit // 2) // unit


def _add_to(groups: dict[str, Group], name: str, event: Event, self_ms: int) -> None:
    group = groups.get(name)
    if group is None:
        name = name[:_NAME_KEPT]
        if name not in groups and len(groups) >= _GROUPS_KEPT:
            name = OTHER_NAMES
        group = groups.setdefault(name, Group())
    group.add(event)
    group.self_ms += self_ms


def _summed(total_ms: int, busy_ms: int) -> str:
    """Give the sum of durations, and the time in which any call ran where calls overlapped."""
    return f"{total_ms}ms summed" + (f", {busy_ms}ms busy" if total_ms - busy_ms > _ROUNDING_MS else "")


def _slower(event: Event) -> int:
    """Order slow calls first; `insort` keeps equal ones in the order in which they came."""
    return -event.duration_ms


def _bounded(lines: list[str]) -> list[str]:
    return [one_line(line, _LINE_LIMIT) for line in lines]


def _section(title: str, items: list[str]) -> list[str]:
    return ["", f"{title}:", *_bounded([f"- {item}" for item in items])] if items else []


def _describe(group: Group) -> str:
    parts = [count(group.calls, "call"), count(group.errors, "error")]
    parts += [f"{group.total_ms}ms total", f"{_rounded(group.total_ms, group.calls)}ms mean"]
    if group.total_ms - group.self_ms > _ROUNDING_MS:
        parts.append(f"{group.self_ms}ms self")
    if group.total_tokens is not None:
        parts.append(f"{group.total_tokens} tokens")
    return ", ".join(parts)


def _name(event: Event) -> str:
    details = [one_line(event.phase, _NAME_LIMIT)] if isinstance(event, LLMCall) else []
    if event.id is not None:
        details.append(f"id {event.id}")
    name = one_line(event.name, _NAME_LIMIT)
    return f"{name} ({', '.join(details)})" if details else name


def _reason(event: Event) -> str:
    return ": ".join(text for text in (event.error_type, event.error) if text) or "no error text"


def _known(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def count(number: int, noun: str) -> str:
    """Count something in words: ``1 call``, ``2 calls``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
