"""List which test, or which documented limit, answers each numbered trap: ``python -m tests.traps.mapping``."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
LIMITS = HERE.parents[1] / "docs" / "limits.md"
NUMBERS = range(1, 72)


def mapping() -> dict[int, list[str]]:
    """Return what answers each trap: tests with the behaviour they state, and lines of the documented limits."""
    answers = defaultdict(list)
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if found := re.match(r"test_trap_(\d+)_", node.name):
                answers[int(found[1])].append(f"{path.name}::{node.name}: {ast.get_docstring(node)}")
    for number, line in enumerate(LIMITS.read_text(encoding="utf-8").splitlines(), 1):
        for trap in re.findall(r"<!-- trap (\d+) -->", line):
            answers[int(trap)].append(f"{LIMITS.name}:{number}: {line.strip()}")
    return dict(answers)


def main() -> int:
    """Print the mapping; the exit status is 1 when a trap has no answer."""
    answers = mapping()
    for number in NUMBERS:
        for answer in answers.get(number, ["no answer"]):
            print(f"{number:2}  {answer}")
    return int(set(answers) != set(NUMBERS))


if __name__ == "__main__":
    raise SystemExit(main())
