"""What was measured, as it stands in ``results.json``: the rows that the report makes its tables of."""

from __future__ import annotations

import msgspec


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """Say what one contestant spent on one workload in one process.

    Args:
        group: who was measured in the same process.
        round: number of the process, from 0 on.
        workload: name of the work.
        contestant: name of who watched it.
        cpu_us: CPU time of one unit of work, the median over the blocks, in microseconds.
        extra_us: how much of it is more than without callbacks, in microseconds.
        caller_us: how much more it is in the thread that did the work, before anything was waited for.
        recorded: how many calls it recorded; None when it records none.
        expected: how many there were of those that it is made to record.
        without_content: of how many of those recorded the content is missing that was to be captured.
    """

    group: str
    round: int
    workload: str
    contestant: str
    cpu_us: float
    extra_us: float
    caller_us: float
    recorded: int | None = None
    expected: int | None = None
    without_content: int = 0


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Say what one contestant holds after many calls, some of them cancelled.

    Args:
        contestant: name of who watched.
        calls: how many calls there were.
        cancelled: how many of them were cancelled.
        rss_kb: growth of the process's resident memory, in kB; None where the system does not tell.
        bytes_per_call: growth of what Python has allocated with each of some more such calls, in bytes.
        left_open: calls or spans that it still holds as open; None when it holds none by design.
        recorded: how many calls it recorded; None when it records none.
        expected: how many there were of those that it is made to record.
    """

    contestant: str
    calls: int
    cancelled: int
    rss_kb: int | None
    bytes_per_call: float
    left_open: int | None
    recorded: int | None = None
    expected: int | None = None


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """Say what one worker block costs.

    Args:
        round: number of the process, from 0 on.
        manner: how the workers were run.
        workers: how many there were.
        cpu_us: CPU time of one block over the same work without it, in microseconds.
        wall_us: elapsed time of one block over the same work without it, in microseconds.
        recorded: how many calls stand in the files.
        expected: how many there were.
    """

    round: int
    manner: str
    workers: int
    cpu_us: float
    wall_us: float
    recorded: int
    expected: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Say what one question to a root of workers costs.

    Args:
        question: what was asked.
        first_ms: elapsed time of the first answer in a new process, its imports done, in milliseconds.
        first_cpu_ms: CPU time of it.
        again_ms: elapsed time of asking again, the median, in milliseconds; None when it was asked once.
        again_cpu_ms: CPU time of it.
        peak_kb: the most that Python had allocated for the first answer, in kB.
        characters: length of the answer.
    """

    question: str
    first_ms: float
    first_cpu_ms: float
    again_ms: float | None
    again_cpu_ms: float | None
    peak_kb: float
    characters: int


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """Say what was read: how many workers, of how many events each, how many in the largest, and how long it took."""

    workers: int
    events: int
    largest: int
    made_in_s: float


class Results(msgspec.Struct, kw_only=True):
    """Hold one run of the benchmarks."""

    began: str
    took_s: float = 0.0
    rounds: int
    quick: bool
    machine: dict[str, str]
    versions: dict[str, str]
    skipped: dict[str, str] = msgspec.field(default_factory=dict)
    overhead: list[Overhead] = msgspec.field(default_factory=list)
    memory: list[Memory] = msgspec.field(default_factory=list)
    workers: list[Workers] = msgspec.field(default_factory=list)
    root: Root | None = None
    reading: list[Reading] = msgspec.field(default_factory=list)
