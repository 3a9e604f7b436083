"""Fuzz all targets, each in a process of its own, and say what was found: ``python -m tests.fuzz --seconds 600``."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TARGETS = (
    *("metadata.json", "metrics.jsonl", "inflight.json", "result.txt", "tools", "task", "pattern", "texts", "log line"),
)
LONGER_S = 120  # for a process to start, and to end after its time


class Outcome(NamedTuple):
    """Say how the fuzzing of one target ended."""

    target: str
    runs: str
    problem: str | None


def main() -> int:
    """Return 1 when something was found: an undocumented exception, a hang, a read outside, too much memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET", help=f"of: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600, help="how long in all (default: 600)")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help="where inputs are kept (default: .fuzz)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"there is no target {min(unknown)!r}; there are {', '.join(TARGETS)}")
    at_once = min(os.cpu_count() or 1, len(options.targets))
    seconds = max(options.seconds * at_once // len(options.targets), 1)
    failed = False
    with ThreadPoolExecutor(at_once) as pool:
        for outcome in pool.map(lambda target: _fuzz(target, seconds, options.folder), options.targets):
            failed |= outcome.problem is not None
            print(f"{outcome.target}: {outcome.problem or 'nothing found'} ({outcome.runs} runs)", flush=True)
    if failed:
        print(f"the inputs are in {options.folder / 'findings'}")
    return int(failed)


def _fuzz(target: str, seconds: int, folder: Path) -> Outcome:
    command = [sys.executable, "-m", "tests.fuzz.engine", target, "--seconds", str(seconds), "--folder", str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds + LONGER_S
        )
    except subprocess.TimeoutExpired:
        return Outcome(target, "unknown", "it does not end")
    output = done.stdout + done.stderr
    runs = re.findall(r"Done (\d+) runs|number_of_executed_units: (\d+)", output)
    problem = None
    if done.returncode:
        print(output[-8000:], file=sys.stderr)
        problem = f"exit status {done.returncode}"
    return Outcome(target, "".join(runs[-1]) if runs else "unknown", problem)


if __name__ == "__main__":
    sys.exit(main())
