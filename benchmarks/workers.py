"""Measure what a worker block costs: its folder, its job number and its files, one after the other or many at once."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from contextlib import ExitStack
from contextvars import copy_context
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING

from benchmarks.contestants import count_lines
from benchmarks.results import Workers
from benchmarks.workloads import Stage
from langchain_swarmlet_metrics import Worker, WorkerRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Manner = Callable[[WorkerRunner, int], Sequence[Worker]]

_CALLS = 2


def measure(number: int, workers: int) -> list[Workers]:
    """Measure workers that make one LLM call and one tool call each; to be called in a process of its own.

    Args:
        number: of the process, from 0 on.
        workers: how many in each manner.
    """
    return [_measure(manner, workers, number) for manner in MANNERS]


def _measure(manner: str, workers: int, number: int) -> Workers:
    watched, bare = MANNERS[manner]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as root:
        runner = WorkerRunner(root)
        watched(runner, 2)
        bare(2)
        gc.collect()
        bare_cpu_ns, bare_wall_ns, _ = _timed(lambda: bare(workers))
        gc.collect()
        cpu_ns, wall_ns, made = _timed(lambda: watched(runner, workers))
        return Workers(
            round=number,
            manner=manner,
            workers=workers,
            cpu_us=(cpu_ns - bare_cpu_ns) / workers / 1000,
            wall_us=(wall_ns - bare_wall_ns) / workers / 1000,
            recorded=sum(count_lines(worker.dir / "metrics.jsonl") for worker in made if worker.status == "success"),
            expected=workers * _CALLS,
        )


def _timed(work: Callable[[], Sequence[Worker]]) -> tuple[int, int, Sequence[Worker]]:
    cpu_ns, wall_ns = process_time_ns(), perf_counter_ns()
    made = work()
    return process_time_ns() - cpu_ns, perf_counter_ns() - wall_ns, made


def _one_after_the_other(runner: WorkerRunner, workers: int) -> Sequence[Worker]:
    stage, made = Stage(), []
    for _ in range(workers):
        with runner.worker("add 40 and 2") as worker:
            stage.do_sync(1)
            worker.result = "42"
        made.append(worker)
    return made


def _all_open_at_once(runner: WorkerRunner, workers: int) -> Sequence[Worker]:
    stage = Stage()
    made = [runner.worker("add 40 and 2") for _ in range(workers)]
    contexts = [copy_context() for _ in made]
    with ExitStack() as stack:
        for worker, context in zip(made, contexts, strict=True):
            context.run(worker.open)
            stack.callback(context.run, worker.close)
        for worker, context in zip(made, contexts, strict=True):
            context.run(stage.do_sync, 1)
            worker.result = "42"
    return made


def _awaited_one_after_the_other(runner: WorkerRunner, workers: int) -> Sequence[Worker]:
    async def run() -> list[Worker]:
        stage = Stage()
        return [await _awaited(runner, stage) for _ in range(workers)]

    return asyncio.run(run())


def _awaited_at_once(runner: WorkerRunner, workers: int) -> Sequence[Worker]:
    async def run() -> list[Worker]:
        stage, all_open = Stage(), asyncio.Barrier(workers)
        return await asyncio.gather(*(_awaited(runner, stage, all_open) for _ in range(workers)))

    return asyncio.run(run())


async def _awaited(runner: WorkerRunner, stage: Stage, all_open: asyncio.Barrier | None = None) -> Worker:
    async with runner.worker("add 40 and 2") as worker:
        if all_open is not None:
            await all_open.wait()
        await stage.pair()
        worker.result = "42"
    return worker


def _bare(workers: int) -> Sequence[Worker]:
    Stage().do_sync(workers)
    return ()


def _awaited_bare(workers: int) -> Sequence[Worker]:
    Stage().do_async(workers)
    return ()


def _gathered_bare(workers: int) -> Sequence[Worker]:
    Stage().do_gather(workers)
    return ()


MANNERS: dict[str, tuple[Manner, Callable[[int], Sequence[Worker]]]] = {
    "`with`, one after the other": (_one_after_the_other, _bare),
    "`open` and `close`, all open at once": (_all_open_at_once, _bare),
    "`async with`, one after the other": (_awaited_one_after_the_other, _awaited_bare),
    "`async with`, all open at once": (_awaited_at_once, _gathered_bare),
}
"""How workers are run -> the function that does it, and the one that does the same work without workers."""
