"""What the rows of a run come to: medians over the rounds, their spread, ratios, and what is noise."""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING

from benchmarks.contestants import Floor, NobodyAgain, Reference
from benchmarks.lineup import PEERS

if TYPE_CHECKING:
    from benchmarks.results import Overhead, Results

OURS = "ours"
"""Name of the group in which everybody but the peers is measured; a peer's group has the peer's name."""


class Figures:
    """Look up the figures of a run by workload and contestant, each within the processes it was measured in.

    Args:
        results: of the run.
    """

    def __init__(self, results: Results) -> None:
        self._rows: dict[tuple[str, str, str], list[Overhead]] = {}
        for row in results.overhead:
            self._rows.setdefault((row.group, row.workload, row.contestant), []).append(row)
        self.workloads = list(dict.fromkeys(row.workload for row in results.overhead))
        self.contestants = list(dict.fromkeys(row.contestant for row in results.overhead))

    def rows(self, workload: str, contestant: str) -> list[Overhead]:
        """Return the rows of a contestant, one a round; none if it was not measured."""
        return self._rows.get((_group_of(contestant), workload, contestant), [])

    def cpu_us(self, workload: str, contestant: str) -> float | None:
        """Return the CPU time of a unit of work in microseconds."""
        return _median([row.cpu_us for row in self.rows(workload, contestant)])

    def extra_us(self, workload: str, contestant: str) -> float | None:
        """Return how much of it is more than without callbacks."""
        return _median([row.extra_us for row in self.rows(workload, contestant)])

    def caller_us(self, workload: str, contestant: str) -> float | None:
        """Return how much of it was spent in the thread that did the work."""
        return _median([row.caller_us for row in self.rows(workload, contestant)])

    def quartiles_us(self, workload: str, contestant: str) -> tuple[float, float]:
        """Return between which values the middle half of the rounds is."""
        extras = [row.extra_us for row in self.rows(workload, contestant)]
        if len(extras) == 1:
            return extras[0], extras[0]
        lower, _, upper = quantiles(extras, n=4, method="inclusive")
        return lower, upper

    def noise_us(self, workload: str, contestant: str) -> float:
        """Return the most by which two measurements of the same work differed in a contestant's processes."""
        again = self._rows.get((_group_of(contestant), workload, NobodyAgain.name), [])
        return max((abs(row.extra_us) for row in again), default=0.0)

    def is_noise(self, workload: str, contestant: str) -> bool:
        """Tell whether a contestant's cost is too small to be told from noise."""
        return (self.extra_us(workload, contestant) or 0.0) <= self.noise_us(workload, contestant)

    def times_floor(self, workload: str, contestant: str) -> float | None:
        """Return how many times the floor's cost a contestant's is; None where one of them is noise."""
        return self._ratio(workload, contestant, Floor.name)

    def times_reference(self, workload: str, contestant: str) -> float | None:
        """Return how many times the reference's cost a contestant's is; None where one of them is noise."""
        return self._ratio(workload, contestant, Reference.name)

    def best_peer_us(self, workload: str) -> float | None:
        """Return the cost of the cheapest peer; None when none was measured."""
        costs = [self.extra_us(workload, peer) for peer in PEERS]
        return min((cost for cost in costs if cost is not None), default=None)

    def _ratio(self, workload: str, contestant: str, other: str) -> float | None:
        group = _group_of(contestant)
        others = _median([row.extra_us for row in self._rows.get((group, workload, other), [])])
        own, noise = self.extra_us(workload, contestant), self.noise_us(workload, contestant)
        if own is None or others is None or min(own, others) <= noise:
            return None
        return own / others


def _group_of(contestant: str) -> str:
    return contestant if contestant in PEERS else OURS


def _median(values: list[float]) -> float | None:
    return median(values) if values else None
