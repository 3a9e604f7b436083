"""Run the torture and print its figures: ``python -m tests.torture kills`` and ``python -m tests.torture crowd``."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.crowd import Crowd
from tests.torture.hunt import Hunt

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say.

    Returns:
        The exit status: 0, or 1 after a violation; the root is kept then.
    """
    options = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=options.folder))
    torture = options.make(folder, options)
    began = time.monotonic()
    torture.run()
    for name, number in [*torture.figures.items(), ("violations", len(torture.violations))]:
        print(f"{name.replace('_', ' '):24}{number:>12,}")
    print(f"{'took seconds':24}{time.monotonic() - began:>12,.0f}")
    if not torture.violations:
        shutil.rmtree(folder)
        return 0
    for text in torture.violations[:_SHOWN]:
        print(f"VIOLATION {text}", file=sys.stderr)
    print(f"{len(torture.violations)} violations; everything is kept in {folder}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="See whether anything is lost.")
    parser.add_argument("--folder", type=Path, help="where to work (default: the temporary folder)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    kills = commands.add_parser("kills", help="kill processes in the middle of their work")
    kills.add_argument("--kills", type=int, default=500)
    kills.add_argument("--seed", type=int, default=random.randrange(10**6))
    kills.add_argument("--at-once", type=int, default=5, help="processes at a time")
    kills.set_defaults(make=_hunt)

    crowd = commands.add_parser("crowd", help="write from many threads and processes")
    crowd.add_argument("--processes", type=int, default=8)
    crowd.add_argument("--threads", type=int, default=32, help="in each process")
    crowd.add_argument("--events", type=int, default=200_000, help="in all")
    crowd.add_argument("--readers", type=int, default=2, help="processes that read meanwhile")
    crowd.set_defaults(make=_crowd)
    return parser


def _hunt(folder: Path, options: argparse.Namespace) -> Hunt:
    print(f"seed {options.seed}", flush=True)
    return Hunt(folder, kills=options.kills, seed=options.seed, at_once=options.at_once)


def _crowd(folder: Path, options: argparse.Namespace) -> Crowd:
    counts = {"processes": options.processes, "threads": options.threads, "events": options.events}
    return Crowd(folder, **counts, readers=options.readers)


if __name__ == "__main__":
    sys.exit(main())
