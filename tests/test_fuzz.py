"""A short fuzz with the same inputs each time, so that ``make fuzz`` works when it is needed."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import engine, targets

pytest.importorskip("fcntl")

PROJECT = Path(__file__).parent.parent
INPUTS = 60


@pytest.fixture(scope="module")
def bench():
    """Return the targets and their seeds."""
    with targets.bench() as made:
        yield made


def test_every_target_is_fuzzed(bench):
    """The command fuzzes each target that there is, and each has seeds."""
    assert set(command.TARGETS) == set(bench.targets) == set(bench.seeds)
    assert all(bench.seeds.values())


@pytest.mark.parametrize("name", command.TARGETS)
def test_a_short_fuzz(bench, name):
    """Nothing is found by the seeds and a few mutations of them."""
    inputs = engine.mutations(bench.seeds[name], targets.words(), random.Random(name))
    for data in itertools.islice(inputs, len(bench.seeds[name]) + INPUTS):
        bench.targets[name](data)


def test_mutations_differ():
    """A fuzzer gets the seeds first and then mostly new inputs, the same ones for the same chance."""
    made = [list(itertools.islice(engine.mutations([b"abc", b"xyz"], [b"w"], random.Random(0)), 200)) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0][:2] == [b"abc", b"xyz"]
    assert len(set(made[0])) > 100


def test_an_input_that_breaks_a_target_is_kept(tmp_path, capfd):
    """An exception ends the fuzzing with an exit status; its input is kept and its traceback printed."""

    def target(data):
        if b"broken" in data:
            raise RecursionError

    with pytest.raises(SystemExit, match="77"):
        engine.mutate(target, [b"whole"], [b"broken"], tmp_path / "texts", tmp_path, 60)
    (kept,) = tmp_path.iterdir()
    assert b"broken" in kept.read_bytes()
    assert kept.name.startswith("texts-crash-")
    assert "RecursionError" in capfd.readouterr().err


def test_an_input_that_hangs_is_kept(tmp_path):
    """An input that takes too long ends the process; it is kept, and the place where it hangs is printed."""
    script = """
    import sys, time
    from pathlib import Path
    from tests.fuzz import engine

    def hang(data):
        time.sleep(100)

    engine.HANG_S = 0.2
    folder = Path(sys.argv[1])
    engine.mutate(hang, [b"slow"], [b"w"], folder / "texts", folder, 60)
    """
    command = [sys.executable, "-c", dedent(script), str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "in hang" in done.stderr
    assert (tmp_path / "texts-running").read_bytes() == b"slow"


@pytest.mark.parametrize("target", ["texts", "nonsense"])
def test_the_command(tmp_path, target):
    """The command fuzzes what it is told and says what was found; a target that does not exist is named."""
    command = [sys.executable, "-m", "tests.fuzz", target, "--seconds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=100)
    if target == "texts":
        assert re.fullmatch(r"texts: nothing found \([1-9]\d* runs\)\n", done.stdout), done.stderr
        assert (done.returncode, list((tmp_path / "findings").iterdir())) == (0, [])
    else:
        assert done.returncode == 2
        assert "there is no target 'nonsense'; there are metadata.json, " in done.stderr
