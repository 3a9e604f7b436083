"""What this package is held to, and whether a run reached it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.ours import Ours, OursLogged

if TYPE_CHECKING:
    from benchmarks.figures import Figures
    from benchmarks.results import Results

_TIMES_REFERENCE = {"sync": 1.4, "async": 1.4, "gather": 1.4, "threads": 1.5}
_TIMES_FLOOR = {"stream": 1.1, "astream": 1.1}
_BELOW_PEERS = {"sync": 5, "async": 4, "gather": 4, "agent": 10, "history": 25}
_AGENT_US = 300
_LOGGED_EVENT_US = 20
_BYTES_PER_CALL = 100


class Goal(NamedTuple):
    """State a goal, and what was measured; ``reached`` is None where noise or a missing peer leaves it open."""

    what: str
    goal: str
    measured: str
    reached: bool | None


def goals(results: Results, figures: Figures) -> list[Goal]:
    """Return the goals of what was measured in a run."""
    found = [
        _ratio(workload, limit, "the reference", figures.times_reference(workload, Ours.name))
        for workload, limit in _TIMES_REFERENCE.items()
        if figures.rows(workload, Ours.name)
    ]
    found += [
        _ratio(workload, limit, "the floor", figures.times_floor(workload, Ours.name))
        for workload, limit in _TIMES_FLOOR.items()
        if figures.rows(workload, Ours.name)
    ]
    found += _costs(figures)
    found += [_below_peers(workload, factor, figures) for workload, factor in _BELOW_PEERS.items()]
    found += _memory(results)
    return [goal for goal in found if goal.measured]


def _ratio(workload: str, limit: float, other: str, ratio: float | None) -> Goal:
    measured = "noise" if ratio is None else f"{ratio:.2f} x"
    return Goal(workload, f"at most {limit:.2f} x {other}", measured, None if ratio is None else ratio <= limit)


def _costs(figures: Figures) -> list[Goal]:
    found = []
    agent = figures.extra_us("agent", Ours.name)
    if agent is not None:
        is_open = figures.is_noise("agent", Ours.name) and figures.noise_us("agent", Ours.name) > _AGENT_US
        reached = None if is_open else agent <= _AGENT_US
        found.append(Goal("agent", f"at most {_AGENT_US} µs", "noise" if is_open else f"{agent:.0f} µs", reached))
    plain, logged = (figures.extra_us("sync", name) for name in (Ours.name, OursLogged.name))
    if plain is not None and logged is not None:
        each = (logged - plain) / 2
        goal = f"at most {_LOGGED_EVENT_US} µs more per event with log lines to a file"
        found.append(Goal("sync", goal, f"{each:.0f} µs", each <= _LOGGED_EVENT_US))
    short, long = (figures.extra_us(workload, Ours.name) for workload in ("message", "history"))
    if short is not None and long is not None:
        limit = short + figures.noise_us("message", Ours.name) + figures.noise_us("history", Ours.name)
        measured = f"{long:.0f} µs, with one message {short:.0f} µs"
        found.append(Goal("history", "no more than with one message, but for noise", measured, long <= limit))
    return found


def _below_peers(workload: str, factor: int, figures: Figures) -> Goal:
    own, best = figures.extra_us(workload, Ours.name), figures.best_peer_us(workload)
    goal = f"{factor} x below the cheapest peer"
    if own is None or best is None:
        return Goal(workload, goal, "", None)
    if figures.is_noise(workload, Ours.name):
        return Goal(workload, goal, "noise", None)
    return Goal(workload, goal, f"{best / own:.1f} x", best / own >= factor)


def _memory(results: Results) -> list[Goal]:
    return [
        Goal(
            "memory",
            "nothing left open, no growth",
            f"{row.left_open} left open, {row.bytes_per_call:.0f} bytes a call",
            row.left_open == 0 and row.bytes_per_call < _BYTES_PER_CALL,
        )
        for row in results.memory
        if row.contestant == Ours.name
    ]
