"""Measure what recording costs an agent, and what reading the records costs.

    python -m benchmarks [--rounds 5] [--only sync,agent,ours] [--quick] [--page docs/performance.md]

Each round measures every contestant in new processes. A figure is the median over the rounds; the table says how far
they were apart. Quote ratios: figures in microseconds differ from machine to machine, and with what else runs there.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import generator, measuring, memory, reading, report, workers
from benchmarks.figures import OURS
from benchmarks.lineup import COMPARED, EVERYBODY, PEERS, missing
from benchmarks.processes import ChildError, ignore_settings, run_apart
from benchmarks.results import Results
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

_PARTS = (*WORKLOADS, "workers", "memory", "reading")
_COMPARED = [kind.name for kind in COMPARED]
_VERSIONS = (
    "langchain-swarmlet-metrics",
    "langchain-core",
    "langchain",
    "langgraph",
    "msgspec",
    "orjson",
    *dict.fromkeys(name for kind in PEERS.values() for name in kind.distributions),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks as the command line says."""
    options = _options(arguments)
    ignore_settings()
    run = _Run(options)
    run.measure()
    print(report.for_terminal(run.results))
    if options.page is not None:
        options.page.write_text(report.renew(options.page.read_text(encoding="utf-8"), run.results), encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join((*_PARTS, *EVERYBODY))
    parser.add_argument("--rounds", type=int, default=5, help="how many processes measure each (default: 5)")
    parser.add_argument("--only", type=_names, default=[], help=f"parts and contestants, with commas: {names}")
    parser.add_argument("--quick", action="store_true", help="do next to nothing, to see that everything works")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.json"), help="where they go")
    parser.add_argument("--page", type=Path, help="a page whose tables are to be renewed")
    options = parser.parse_args(arguments)
    if options.page is not None and (options.only or options.quick):
        parser.error("--page needs a whole run; leave out --only and --quick")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in {*_PARTS, *EVERYBODY}]
    if unknown:
        msg = f"there is no part or contestant {unknown[0]!r}"
        raise argparse.ArgumentTypeError(msg)
    return names


class _Run:
    """Measure part after part, and keep the results as far as it has come.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.rounds = 1 if options.quick else options.rounds
        self.quick = options.quick
        self.parts = [part for part in _PARTS if part in options.only] or list(_PARTS)
        wanted = [name for name in EVERYBODY if name in options.only] or list(EVERYBODY)
        self.results = Results(
            began=f"{datetime.now(UTC):%Y-%m-%d}",
            rounds=self.rounds,
            quick=self.quick,
            machine=_machine(),
            versions=_versions(),
            skipped={name: why for name in wanted if name in PEERS and (why := missing(PEERS[name]))},
        )
        self.contestants = [name for name in wanted if name not in self.results.skipped]
        self._path = options.results
        self._loads: list[float] = []
        self._began = time.monotonic()

    def measure(self) -> None:
        """Measure everything that is wanted."""
        for number in range(self.rounds):
            self._overhead(number)
            if "workers" in self.parts:
                self.results.workers += run_apart(self.quick, workers.measure, number, 4 if self.quick else 100)
            self._keep()
        if "memory" in self.parts:
            self._memory()
            self._keep()
        if "reading" in self.parts:
            self._reading()
            self._keep()

    def _overhead(self, number: int) -> None:
        workloads = [name for name in WORKLOADS if name in self.parts]
        own = [name for name in self.contestants if name not in {*_COMPARED, *PEERS}]
        peers = [name for name in self.contestants if name in PEERS]
        groups = {OURS: [*_COMPARED, *own]} | {name: [*_COMPARED, name] for name in peers}
        for group, names in groups.items() if workloads else ():
            self._say(f"round {number + 1} of {self.rounds}: {group}")
            try:
                self.results.overhead += run_apart(
                    self.quick, measuring.measure, group, names, workloads, number, quick=self.quick
                )
            except ChildError as error:
                self._leave_out(group, error)

    def _memory(self) -> None:
        calls = 50 if self.quick else 10_000
        for name in list(self.contestants):
            self._say(f"memory: {name}")
            try:
                self.results.memory.append(run_apart(self.quick, memory.measure, name, calls))
            except ChildError as error:
                self._leave_out(name, error)

    def _reading(self) -> None:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            self._say("reading: a root is made")
            size = (20, 10, 200) if self.quick else (10_000, 50, 100_000)
            self.results.root = generator.make_root(Path(folder), *size)
            self._say("reading: questions are asked")
            self.results.reading = reading.measure(Path(folder), self.results.root, quick=self.quick)

    def _leave_out(self, name: str, error: ChildError) -> None:
        """Go on without a peer that fails, and say so; nobody else may fail.

        Raises:
            ChildError: it is no peer.
        """
        if name not in PEERS:
            raise error
        self.results.skipped[name] = f"it failed: {str(error).splitlines()[-1]}"
        self.contestants.remove(name)

    def _keep(self) -> None:
        """Write down what has been measured so far, and how busy the machine was meanwhile."""
        if hasattr(os, "getloadavg"):
            self._loads.append(os.getloadavg()[0])
            load = f"{min(self._loads):.1f} to {max(self._loads):.1f} on {os.cpu_count()} cores"
            self.results.machine["load"] = f"{load}; about 1 is this run's own"
        self.results.took_s = time.monotonic() - self._began
        self._path.write_bytes(msgspec.json.format(msgspec.json.encode(self.results), indent=1))

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {what}", file=sys.stderr, flush=True)


def _machine() -> dict[str, str]:
    """Describe the machine, without its name."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    kernel = ".".join(platform.release().split(".")[:2])
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {kernel}, {platform.machine()}, {python}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
