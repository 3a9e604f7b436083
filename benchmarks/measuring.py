"""Measure contestants against each other: CPU time of the same work, in turns, in one process.

Two runs of the same work in two processes, or a minute apart, differ by more than a light handler costs. So the
contestants take turns in short blocks, in a new order each time, and what counts is the difference within a round of
turns.
"""

from __future__ import annotations

import gc
import random
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import process_time_ns, thread_time_ns
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.contestants import LLM, TOOL, Nobody
from benchmarks.lineup import EVERYBODY
from benchmarks.results import Overhead
from benchmarks.workloads import WORKLOADS, Stage, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contestants import Contestant

_BLOCKS = 16
_WARM_UP_SHARE = 10
_QUICK_BLOCKS = 2
_QUICK_DIVISOR = 50


class Spent(NamedTuple):
    """Say what a unit of work took, in microseconds: CPU time of all threads, and of the one that did the work."""

    cpu_us: float
    caller_us: float

    def minus(self, other: Spent) -> Spent:
        """Return how much more this is."""
        return Spent(self.cpu_us - other.cpu_us, self.caller_us - other.caller_us)


@dataclass
class Turn:
    """Hold a contestant, the stage that it watches, and what each of its blocks took."""

    contestant: Contestant
    stage: Stage
    spent: list[Spent] = field(default_factory=list)
    recorded: int | None = None
    without_content: int = 0


def measure(
    group: str, contestants: Sequence[str], workloads: Sequence[str], number: int, *, quick: bool
) -> list[Overhead]:
    """Measure some contestants on some workloads; to be called in a process of its own.

    Args:
        group: what to call them together.
        contestants: names, of which one is ``none``. Who patches LangChain for good is measured after the others, and
            compared with what they took before.
        workloads: names of the workloads.
        number: of the process, from 0 on.
        quick: whether to do next to nothing, to see that everything works.
    """
    kinds = [EVERYBODY[name] for name in contestants]
    chosen = [WORKLOADS[name] for name in workloads]
    order = random.Random(number)
    bare: dict[str, list[Spent]] = {}
    measured = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        for patches in (False, True):
            present = [_opened(kind, folder, stack) for kind in kinds if kind.patches is patches]
            for workload in chosen if present else []:
                units, turns = _take_turns(present, workload, order, quick=quick)
                if not patches:
                    bare[workload.name] = next(turn.spent for turn in turns if isinstance(turn.contestant, Nobody))
                for turn in turns:
                    extra = _extra(turn.spent, bare[workload.name], in_turns=not patches)
                    measured.append(_row(turn, workload, units, extra, group, number))
    return measured


def expected_calls(contestant: type[Contestant] | Contestant, llm_calls: int, tool_calls: int) -> int | None:
    """Return how many of the calls made a contestant is made to record; None when it is not made to record any."""
    if not contestant.records:
        return None
    return llm_calls * (LLM in contestant.records) + tool_calls * (TOOL in contestant.records)


def difference(before: int | None, after: int | None) -> int | None:
    """Return how much was added, or None where nothing is counted."""
    return None if before is None or after is None else after - before


def _opened(kind: type[Contestant], folder: Path, stack: ExitStack) -> Contestant:
    own = folder / kind.name
    own.mkdir()
    contestant = kind(own)
    stack.callback(contestant.close)
    return contestant


def _take_turns(
    contestants: Sequence[Contestant], workload: Workload, order: random.Random, *, quick: bool
) -> tuple[int, list[Turn]]:
    """Have each contestant watch the same blocks; return how many units that were for each, and what they took."""
    times = max(workload.times // _QUICK_DIVISOR, 1) if quick else workload.times
    blocks = _QUICK_BLOCKS if quick else _BLOCKS
    turns = [Turn(contestant, Stage(contestant.callbacks), []) for contestant in contestants]
    before = [(contestant.recorded(), contestant.without_content()) for contestant in contestants]
    for turn in turns:
        _block(turn, workload, times)  # to warm up
    gc.collect()
    gc.freeze()  # to look through all that has been imported takes 30 ms, and would be charged to whoever's turn it is
    for _ in range(blocks):
        for turn in order.sample(turns, len(turns)):
            turn.spent.append(_block(turn, workload, times))
    for turn, (recorded, without_content) in zip(turns, before, strict=True):
        turn.recorded = difference(recorded, turn.contestant.recorded())
        turn.without_content = turn.contestant.without_content() - without_content
    return (_warm_up(times) + times) * (1 + blocks), turns


def _block(turn: Turn, workload: Workload, times: int) -> Spent:
    """Do one block of work and return what a unit took.

    Units before it shall have done with what belongs to the switching on: who opens files has the caches full of that,
    and so has even nobody after whoever has just closed some. To open and end workers is measured elsewhere.
    """
    gc.collect(1)  # what the block before has left; to collect all generations takes longer than a block
    contestant = turn.contestant
    with contestant.switched_on():
        contestant.context.run(turn.stage.do, workload.name, _warm_up(times))
        contestant.settle_in()
        began_ns, caller_began_ns = process_time_ns(), thread_time_ns()
        contestant.context.run(turn.stage.do, workload.name, times)
        caller_ns = thread_time_ns() - caller_began_ns
        contestant.flush()
        spent_ns = process_time_ns() - began_ns
    return Spent(spent_ns / times / 1000, caller_ns / times / 1000)


def _warm_up(times: int) -> int:
    return max(times // _WARM_UP_SHARE, 1)


def _extra(spent: Sequence[Spent], bare: Sequence[Spent], *, in_turns: bool) -> Spent:
    if not in_turns:
        return _median(spent).minus(_median(bare))
    return _median([one.minus(other) for one, other in zip(spent, bare, strict=True)])


def _median(spent: Sequence[Spent]) -> Spent:
    return Spent(*map(median, zip(*spent, strict=True)))


def _row(turn: Turn, workload: Workload, units: int, extra: Spent, group: str, number: int) -> Overhead:
    return Overhead(
        group=group,
        round=number,
        workload=workload.name,
        contestant=turn.contestant.name,
        cpu_us=_median(turn.spent).cpu_us,
        extra_us=extra.cpu_us,
        caller_us=extra.caller_us,
        recorded=turn.recorded,
        without_content=turn.without_content,
        expected=expected_calls(turn.contestant, units * workload.llm_calls, units * workload.tool_calls),
    )
