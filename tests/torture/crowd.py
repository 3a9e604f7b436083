"""Let many threads in many processes write events to one root, while others read, and count what is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics.eventlog import read_events
from tests.torture import raw
from tests.torture.audit import audit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LONGEST_S = 1200.0


class Crowd:
    """Write to one root from many threads.

    Args:
        folder: for the root and for what the crowd itself keeps.
        processes: how many write.
        threads: how many in each of them.
        events: how many in all.
        readers: how many processes read meanwhile.
    """

    def __init__(self, folder: Path, *, processes: int, threads: int, events: int, readers: int = 1) -> None:
        self.root = folder / "workers"
        self.figures: Counter[str] = Counter()
        self.violations: list[str] = []
        self._errors = folder / "crowd.err"
        self._processes = processes
        self._readers = readers
        self._sizes = [(threads, events // processes + (number < events % processes)) for number in range(processes)]

    def run(self) -> None:
        """Write, read, count."""
        self.root.mkdir(parents=True)
        with ExitStack() as stack, ThreadPoolExecutor(self._processes) as pool:
            members = [self._start(stack, "member", *sizes) for sizes in self._sizes]
            readers = [self._start(stack, "audience") for _ in range(self._readers)]
            for process in members:
                process.stdout.readline()  # it is ready
            began = time.monotonic()
            counts = [*pool.map(_output_of, members)]
            self.figures["seconds"] = round(time.monotonic() - began)
            told = [_output_of(process) for process in readers]
        self._check_events({worker: number for text in counts for worker, number in json.loads(text).items()})
        self._check_readers([json.loads(text) for text in told])
        self.violations += audit(self.root, were_killed=False)
        if errors := self._errors.read_text():
            self.violations.append(f"a process wrote errors: {errors[:2000]}")

    def _start(self, stack: ExitStack, module: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"tests.torture.{module}", str(self.root), *map(str, arguments)]
        with self._errors.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    def _check_events(self, written: Mapping[str, int]) -> None:
        self.figures.update(workers=len(written), written=sum(written.values()))
        there = {folder.name: folder for folder in raw.folders(self.root)}
        if there.keys() != written.keys():
            self.violations.append(f"there are other workers than were made: {[*there.keys() ^ written.keys()][:5]}")
        for name in there.keys() & written.keys():
            self._check_worker(there[name], written[name])

    def _check_worker(self, folder: Path, number: int) -> None:
        lines, metadata, reader = (
            raw.read_lines(folder),
            raw.metadata(folder) or {},
            read_events(folder / "metrics.jsonl"),
        )
        self.figures.update(there=len(lines.events), torn=len(lines.unreadable) + (not lines.ends_whole))
        for is_right, text in (
            (len(lines.events) == number, f"has {len(lines.events)} events of {number}"),
            (lines.ends_whole and not lines.unreadable, "has torn lines"),
            (
                sorted(event["id"] for event in lines.events) == [*range(1, number + 1)],
                "has other ids than 1, 2, 3 ...",
            ),
            (metadata.get("totals") == raw.sums(lines.events), "has totals unlike its events"),
            (metadata["completeness"]["dropped_events"] == 0, f"dropped events: {metadata['completeness']}"),
            (metadata.get("status") == "success", f"ended as {metadata.get('status')}"),
            (len([*reader]) == number and not reader.skipped, "has other events for its reader"),
        ):
            if not is_right:
                self.violations.append(f"{folder.name} {text}")

    def _check_readers(self, told: Sequence[Mapping[str, list[str]]]) -> None:
        for one in told:
            self.figures["reads"] += one["reads"]
            self.violations += [f"a reader was told: {answer}" for answer in one["wrong"]]


def _output_of(process: subprocess.Popen[str]) -> str:
    """Let a process go on, and return what it prints until its end."""
    output, _ = process.communicate("\n", timeout=_LONGEST_S)
    if process.returncode:
        msg = f"{process.args} ended with {process.returncode}"
        raise RuntimeError(msg)
    return output
