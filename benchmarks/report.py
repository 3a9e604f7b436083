"""Tables of a run, for the terminal and for ``docs/performance.md``, where prose stands around them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks.contestants import Nobody
from benchmarks.figures import Figures
from benchmarks.goals import goals
from benchmarks.lineup import EVERYBODY
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.results import Overhead, Results

_TITLES = {name: kind.title for name, kind in EVERYBODY.items()}
_NOTHING = "-"
_DETAILS = ("median", "quartiles", "x floor", "x reference", "caller's thread", "calls recorded")


def sections(results: Results) -> dict[str, str]:
    """Return the tables of a run by the names of their places on the page; empty where nothing was measured."""
    figures = Figures(results)
    return {
        "run": _run(results),
        "goals": _goals(results, figures),
        "overview": _overview(figures),
        "details": _details(figures),
        "memory": _memory(results),
        "workers": _workers(results),
        "reading": _reading(results),
    }


def renew(page: str, results: Results) -> str:
    """Return a page with the tables of a run between its markers.

    Args:
        page: text with ``<!-- generated: NAME -->`` and ``<!-- end -->`` around each table.
        results: of the run.

    Raises:
        LookupError: the page does not have each marker exactly once.
    """
    for name, text in sections(results).items():
        begin = f"<!-- generated: {name} -->\n"
        block = f"{begin}\n{text}\n<!-- end -->"
        page, count = re.subn(f"{re.escape(begin)}.*?<!-- end -->", lambda _, new=block: new, page, flags=re.DOTALL)
        if count != 1:
            msg = f"the page has {count} places marked for {name}; there must be one"
            raise LookupError(msg)
    return page


def for_terminal(results: Results) -> str:
    """Return what was measured as text."""
    return "\n".join(f"== {name}\n\n{text}" for name, text in sections(results).items() if text)


def _run(results: Results) -> str:
    facts = {
        "when": f"{results.began}, {results.took_s / 60:.0f} minutes",
        "rounds": f"{results.rounds}{', a smoke run: its figures say nothing' if results.quick else ''}",
        **results.machine,
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        **{f"left out: {name}": why for name, why in results.skipped.items()},
    }
    return _table(("", ""), facts.items())


def _goals(results: Results, figures: Figures) -> str:
    words = {True: "yes", False: "**no**", None: "open"}
    rows = [(goal.what, goal.goal, goal.measured, words[goal.reached]) for goal in goals(results, figures)]
    return _table(("workload", "goal", "measured", "reached"), rows)


def _overview(figures: Figures) -> str:
    rows = [
        (
            "*no callbacks, in all*",
            *(_number(figures.cpu_us(workload, Nobody.name)) for workload in figures.workloads),
        )
    ]
    rows += [
        (_TITLES[name], *(_cost(figures, workload, name) for workload in figures.workloads))
        for name in figures.contestants
        if name != Nobody.name
    ]
    return _table(("CPU µs over no callbacks", *figures.workloads), rows if figures.workloads else [])


def _details(figures: Figures) -> str:
    parts = []
    for workload in figures.workloads:
        rows = [
            _detail(figures, workload, name)
            for name in figures.contestants
            if name != Nobody.name and figures.rows(workload, name)
        ]
        header = ("CPU µs over no callbacks", *_DETAILS)
        parts.append(f"### {workload}: {WORKLOADS[workload].title}\n\n{_table(header, rows)}")
    return "\n".join(parts)


def _detail(figures: Figures, workload: str, name: str) -> tuple[str, ...]:
    lower, upper = figures.quartiles_us(workload, name)
    return (
        _TITLES[name],
        _cost(figures, workload, name),
        f"{lower:.0f} to {upper:.0f}",
        _times(figures.times_floor(workload, name)),
        _times(figures.times_reference(workload, name)),
        _number(figures.caller_us(workload, name)),
        _calls(figures.rows(workload, name)),
    )


def _memory(results: Results) -> str:
    rows = [
        (
            _TITLES[row.contestant],
            _number(row.left_open),
            _number(row.rss_kb),
            _number(row.bytes_per_call),
            _share(row.recorded, row.expected),
        )
        for row in results.memory
    ]
    calls = next((f"{row.calls:,} calls, {row.cancelled:,} of them cancelled" for row in results.memory), "")
    return _table((f"after {calls}", "left open", "growth, kB", "bytes a call, traced", "calls recorded"), rows)


def _workers(results: Results) -> str:
    rows = []
    for manner in dict.fromkeys(row.manner for row in results.workers):
        of_manner = [row for row in results.workers if row.manner == manner]
        figures = [[getattr(row, field) for row in of_manner] for field in ("cpu_us", "wall_us")]
        counts = [sum(getattr(row, field) for row in of_manner) for field in ("recorded", "expected")]
        rows.append((manner, *map(_spread, figures), _share(*counts)))
    workers = next((row.workers for row in results.workers), 0)
    return _table((f"{workers} workers", "CPU µs per worker", "elapsed µs per worker", "calls recorded"), rows)


def _reading(results: Results) -> str:
    if results.root is None:
        return ""
    rows = [
        (
            row.question,
            f"{row.first_ms:.1f} ({row.first_cpu_ms:.1f})",
            _NOTHING if row.again_ms is None else f"{row.again_ms:.1f} ({row.again_cpu_ms:.1f})",
            f"{row.peak_kb:,.0f}",
            f"{row.characters:,}",
        )
        for row in results.reading
    ]
    root = results.root
    header = (f"{root.workers:,} workers of {root.events} events", "first, ms (CPU)", "again, ms (CPU)", "peak, kB")
    return _table((*header, "characters"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned as text, too; nothing without rows."""
    lines = [list(header), *map(list, rows)]
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _cost(figures: Figures, workload: str, name: str) -> str:
    extra = figures.extra_us(workload, name)
    return f"({extra:.0f})" if extra is not None and figures.is_noise(workload, name) else _number(extra)


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:,.0f}"


def _times(ratio: float | None) -> str:
    return _NOTHING if ratio is None else f"{ratio:.2f}"


def _spread(values: list[float]) -> str:
    middle = sorted(values)[len(values) // 2]
    return f"{middle:,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _calls(rows: Sequence[Overhead]) -> str:
    if rows[0].recorded is None or rows[0].expected is None:
        return _NOTHING
    missing = sum(row.without_content for row in rows)
    lacking = f", {missing:,} without content" if missing else ""
    return _share(sum(row.recorded or 0 for row in rows), sum(row.expected or 0 for row in rows)) + lacking


def _share(recorded: int | None, expected: int | None) -> str:
    if recorded is None or expected is None:
        return _NOTHING
    return f"all {expected:,}" if recorded == expected else f"**{recorded:,} of {expected:,}**"
