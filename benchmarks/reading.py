"""Measure what questions about workers cost: to a root of many workers, and to one worker of very many events."""

from __future__ import annotations

import contextlib
import io
import statistics
import tracemalloc
from functools import partial
from time import perf_counter_ns, process_time_ns, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from benchmarks.generator import make_events
from benchmarks.processes import run_apart
from benchmarks.results import Reading, Root
from langchain_swarmlet_metrics import WorkerRunner, cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[[], str]

_T = TypeVar("_T")

_AGAIN_S = 1.0
_QUICK_AGAIN_S = 0.05
_MOST_TIMES = 50
_MORE_EVENTS = 10


class Question(NamedTuple):
    """Put a question the way a reader does: by a supervisor's tool, or by the command line."""

    title: str
    tool: str | None
    arguments: dict[str, Any]


def questions(root: Root) -> list[Question]:
    """Return what is asked; job numbers are of workers of the usual size."""
    job = max(root.workers // 2, 3)
    return [
        Question("`list_workers()`", "list_workers", {}),
        Question("`list_workers(limit=200)`", "list_workers", {"limit": 200}),
        Question('`list_workers(status="failed")`', "list_workers", {"status": "failed"}),
        Question('`list_workers(status="lost", limit=200)`', "list_workers", {"status": "lost", "limit": 200}),
        Question("`list_workers(since_hours=24)`", "list_workers", {"since_hours": 24}),
        Question("`get_worker_metadata`", "get_worker_metadata", {"job_id": job}),
        Question("`read_worker_result`", "read_worker_result", {"job_id": job}),
        Question("`read_worker_metrics`", "read_worker_metrics", {"job_id": job}),
        Question("`swarmlet-metrics show`", None, {"job": job}),
        Question("`grep_workers`, a common text", "grep_workers", {"pattern": "Connection timed out"}),
        Question("`grep_workers`, of the last day", "grep_workers", {"pattern": "no such text", "since_hours": 24}),
        Question("`grep_workers`, a text that nobody has", "grep_workers", {"pattern": "no such text"}),
    ]


def measure(folder: Path, root: Root, *, quick: bool) -> list[Reading]:
    """Ask each question in processes of its own.

    Args:
        folder: of the workers.
        root: what is in it; the two oldest workers have very many events, and get ten more.
        quick: whether to spare the imports of each process.
    """
    found = []
    for question in questions(root):
        spent = run_apart(quick, _ask_again, folder, question, _QUICK_AGAIN_S if quick else _AGAIN_S)
        found.append(_reading(question.title, spent, run_apart(quick, _peak, folder, question)))
    return found + _digest(folder, root, quick=quick)


class _Answer(NamedTuple):
    wall_ms: float
    cpu_ms: float
    characters: int


def _digest(folder: Path, root: Root, *, quick: bool) -> list[Reading]:
    """Ask for the digest of the largest worker: in a new process, again, after more events, in another process."""
    timed, traced = (Question("", "read_worker_metrics", {"job_id": job_id}) for job_id in (1, 2))
    answers = run_apart(quick, _before_and_after, folder, timed, _timed)
    answers += run_apart(quick, _ask_again, folder, timed, 0)[:1]
    peaks = run_apart(quick, _before_and_after, folder, traced, _peak_of)
    peaks.append(run_apart(quick, _peak, folder, traced))
    titles = ("first", "again", f"after {_MORE_EVENTS} more events", "in another process")
    size = f"{root.largest:,} events"
    return [
        _reading(f"digest of {size}, {title}", [answer], peak)
        for title, answer, peak in zip(titles, answers, peaks, strict=True)
    ]


def _reading(title: str, answers: list[_Answer], peak_kb: float) -> Reading:
    first, *again = answers
    return Reading(
        question=title,
        first_ms=first.wall_ms,
        first_cpu_ms=first.cpu_ms,
        again_ms=statistics.median(answer.wall_ms for answer in again) if again else None,
        again_cpu_ms=statistics.median(answer.cpu_ms for answer in again) if again else None,
        peak_kb=peak_kb,
        characters=first.characters,
    )


def _ask_again(folder: Path, question: Question, again_s: float) -> list[_Answer]:
    """Ask once, and again for so many seconds, at least once."""
    ask = _asking(folder, question)
    answers = [_timed(ask)]
    deadline_ns = perf_counter_ns() + again_s * 1e9
    while len(answers) == 1 or (perf_counter_ns() < deadline_ns and len(answers) <= _MOST_TIMES):
        answers.append(_timed(ask))
    return answers


def _before_and_after(folder: Path, question: Question, measure_one: Callable[[Ask], _T]) -> list[_T]:
    """Ask twice, and a third time when the worker's own process has appended events."""
    ask = _asking(folder, question)
    measured = [measure_one(ask), measure_one(ask)]
    store = WorkerRunner(folder).store
    job_id = question.arguments["job_id"]
    store.append(store.read(job_id).worker_id, make_events(_MORE_EVENTS, 0, time_ns()))
    return [*measured, measure_one(ask)]


def _peak(folder: Path, question: Question) -> float:
    return _peak_of(_asking(folder, question))


def _asking(folder: Path, question: Question) -> Ask:
    """Return what asks the question; it opens the root as a new reader does."""
    if question.tool is None:
        return partial(_shown, folder, question.arguments["job"])
    (tool,) = WorkerRunner(folder).supervisor_tools(include=[question.tool])
    return partial(tool.invoke, question.arguments)


def _shown(folder: Path, job: object) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main(["--root", str(folder), "show", str(job)])
    return printed.getvalue()


def _timed(ask: Ask) -> _Answer:
    wall_ns, cpu_ns = perf_counter_ns(), process_time_ns()
    answer = ask()
    wall_ms, cpu_ms = (perf_counter_ns() - wall_ns) / 1e6, (process_time_ns() - cpu_ns) / 1e6
    if not answer or answer.startswith("Error"):
        msg = f"the question was not answered: {answer!r}"
        raise RuntimeError(msg)
    return _Answer(wall_ms, cpu_ms, len(answer))


def _peak_of(ask: Ask) -> float:
    """Return the most that Python had allocated while it answered, in kB."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ask()
        return (tracemalloc.get_traced_memory()[1] - before) / 1024
    finally:
        tracemalloc.stop()
