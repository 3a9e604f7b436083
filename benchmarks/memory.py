"""Measure what contestants hold after many calls, some of which were cancelled while they waited for their model."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lineup import EVERYBODY
from benchmarks.measuring import difference, expected_calls
from benchmarks.processes import resident_kb
from benchmarks.results import Memory
from benchmarks.workloads import Stage

if TYPE_CHECKING:
    from benchmarks.contestants import Contestant

_CANCELLED_OF = 10
_AT_ONCE = 100
_WARM_UP = 500
_TRACED = 2000  # tracing makes everything slow


def measure(name: str, calls: int) -> Memory:
    """Measure one contestant; to be called in a process of its own.

    Args:
        name: of the contestant.
        calls: how many LLM calls to make, each tenth of which is cancelled.
    """
    warm_up, traced = min(calls, _WARM_UP), min(calls, _TRACED)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        contestant = EVERYBODY[name](Path(folder))
        with contestant.switched_on():
            stage = Stage(contestant.callbacks)
            _make_calls(contestant, stage, warm_up)
            before_kb, open_before = resident_kb(), contestant.left_open()
            _make_calls(contestant, stage, calls)
            after_kb, open_after = resident_kb(), contestant.left_open()
            tracemalloc.start()
            _make_calls(contestant, stage, warm_up)
            before, _ = tracemalloc.get_traced_memory()
            _make_calls(contestant, stage, traced)
            after, _ = tracemalloc.get_traced_memory()
        contestant.close()
        recorded = contestant.recorded()
    return Memory(
        contestant=name,
        calls=calls,
        cancelled=calls // _CANCELLED_OF,
        rss_kb=difference(before_kb, after_kb),
        bytes_per_call=(after - before) / traced,
        left_open=difference(open_before, open_after),
        recorded=recorded,
        expected=expected_calls(contestant, 2 * warm_up + calls + traced, 0),
    )


def _make_calls(contestant: Contestant, stage: Stage, calls: int) -> None:
    async def make() -> None:
        for begin in range(0, calls, _AT_ONCE):
            numbers = range(begin, min(begin + _AT_ONCE, calls))
            await asyncio.gather(
                *(stage.call() if number % _CANCELLED_OF else stage.cancelled_call() for number in numbers)
            )

    contestant.context.run(asyncio.run, make())
    contestant.catch_up()
    gc.collect()
