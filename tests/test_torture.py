"""Short versions of ``make torture``, and that each of its checks can fail."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from contextlib import closing

import pytest

from langchain_swarmlet_metrics import ArtifactStore, ToolCall
from langchain_swarmlet_metrics.events import timestamp
from langchain_swarmlet_metrics.snapshot import Snapshot, StartedCall
from tests.torture import __main__ as command
from tests.torture.audit import audit
from tests.torture.case import Case
from tests.torture.crowd import Crowd
from tests.torture.examine import examine
from tests.torture.hunt import Hunt

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="killing from outside needs Linux's pidfd_open")


@needs_pidfd
def test_killed_processes(tmp_path):
    """Whatever the moment at which a process is killed, nothing that it has acknowledged is lost."""
    seed = random.randrange(10**6)
    hunt = Hunt(tmp_path / "hunt", kills=12, seed=seed, at_once=6, longest_s=1.5)
    hunt.run()
    assert not hunt.violations, f"seed {seed}"
    assert hunt.figures["kills"] == 12
    assert hunt.figures["acknowledged"] > 0
    assert hunt.figures["lost"] > 0


def test_a_crowd(tmp_path):
    """Many threads of several processes write to one root while others read, and every event is there once."""
    crowd = Crowd(tmp_path / "crowd", processes=4, threads=8, events=4001)
    crowd.run()
    assert not crowd.violations
    assert crowd.figures["written"] == crowd.figures["there"] == 4001
    assert crowd.figures["workers"] == 4 * (8 * 2 + 2)
    assert crowd.figures["reads"] > 0


def test_the_command(tmp_path, capsys, monkeypatch):
    """The command prints the figures and leaves nothing; after a violation it keeps everything and says where."""
    arguments = ["--folder", str(tmp_path), "crowd"]
    monkeypatch.setattr(Crowd, "run", lambda crowd: crowd.figures.update(written=1234))
    assert command.main(arguments) == 0
    assert "written                        1,234\nviolations" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Crowd, "run", lambda crowd: crowd.violations.append("something was lost"))
    assert command.main(arguments) == 1
    (kept,) = tmp_path.iterdir()
    assert f"VIOLATION something was lost\n1 violations; everything is kept in {kept}\n" in capsys.readouterr().err


# Of a worker whose process died in the middle of its work


class Left:
    """Leave the files of a worker that nobody runs any more: three events, and a fourth call that was open."""

    def __init__(self, root):
        self.store = ArtifactStore(root)
        writers = []
        made = self.store.create("work", owner_id="victim", opening=lambda id_: writers.append(self.store.writer(id_)))
        self.store.start(made)
        now = timestamp(time.time_ns())
        for id_ in (1, 2, 3):
            writers[0](ToolCall(tool="add", start_ts=now, end_ts=now, duration_ms=0, success=True, id=id_))
        writers[0].close()
        self.metadata, self.path, self.now = made, root / made.worker_id / "metrics.jsonl", now
        self.snapshot([StartedCall(event="tool_call", tool="wait", start_ts=now, id=4)])
        self.case = {
            "owner": "victim",
            "root": str(root),
            "opened": {made.worker_id: made.job_id},
            "events": [(made.worker_id, 1, 3)],
            "starts": [(made.worker_id, id_, time.monotonic()) for id_ in (1, 2, 3, 4)],
            "signalled": time.monotonic(),
            "dead_at": time.time(),
        }

    def snapshot(self, calls):
        """Say which calls were open."""
        size = self.path.stat().st_size
        taken = Snapshot(worker_id=self.metadata.worker_id, written_at=self.now, metrics_bytes=size, calls=calls)
        self.store.save_snapshot(taken)

    def examine(self, **known):
        """Return what an examination finds."""
        return examine(Case(**(self.case | known)))


@pytest.fixture
def left(tmp_path):
    """Leave a worker."""
    return Left(tmp_path)


def test_a_worker_that_is_as_it_should_be(left):
    """Nothing is found wrong with what a killed process leaves."""
    report = left.examine()
    assert report.violations == []
    assert (report.figures["acknowledged"], report.figures["lost"]) == (3, 1)
    assert report.lost == {left.metadata.worker_id: "victim"}


def test_a_torn_last_line(left):
    """A torn last line is counted, and no violation."""
    left.path.write_bytes(left.path.read_bytes() + b'{"event":"tool_')
    report = left.examine()
    assert (report.violations, report.figures["torn"]) == ([], 1)


DAMAGES = [
    (lambda lines: lines[:2], "has not the acknowledged events [3]"),
    (lambda lines: [*lines, lines[0]], "has the events [1] twice"),
    (lambda lines: [lines[0], b"{\n", *lines[1:]], "has unreadable lines"),
    (lambda lines: [lines[0][:-20] + lines[1], lines[2]], "has unreadable lines"),
    (lambda lines: [*lines, lines[0].replace(b'"id":1', b'"id":9')], "events of calls that never started: [9]"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES)
def test_damaged_events(left, damage, expected):
    """Lost, doubled, torn, glued and invented events are found."""
    left.path.write_bytes(b"".join(damage(left.path.read_bytes().splitlines(keepends=True))))
    assert expected in "\n".join(left.examine().violations)


WRONG_CASES = [
    ({"opened": {"another": 7}}, "another is not listed as job 7"),
    ({"dead_at": 1.0}, "ran for"),
    ({"alive": {"another": "nursery"}}, None),
]


@pytest.mark.parametrize(("known", "expected"), WRONG_CASES)
def test_a_case_that_is_otherwise(left, known, expected):
    """A worker that is not listed, a wrong time and one that does not run are found."""
    report = left.examine(**known)
    assert report.not_running == known.get("alive", {})
    assert expected is None or expected in "\n".join(report.violations)


def test_an_end_that_is_lost(left):
    """A worker that had ended and is called lost is found."""
    assert "had ended as success and is lost" in left.examine(ended={left.metadata.worker_id: "success"}).violations[0]


def test_a_dead_worker_that_runs(left):
    """A worker that was killed and is called running is found."""
    with closing(left.store.writer(left.metadata.worker_id)):
        assert "was killed and is running" in left.examine().violations[0]


def test_totals_that_are_otherwise(left):
    """Totals that are not the sums of the events are found."""
    left.store.complete(left.metadata, status="success", elapsed_ns=1)
    assert "has totals unlike its events" in left.examine().violations[0]


@pytest.mark.parametrize(("starved_s", "is_found"), [(0.1, True), (0.3, False)])
def test_an_old_call_that_is_not_listed(left, starved_s, is_found):
    """A call that was open for half a second and is not listed is found, unless its process could do nothing."""
    started = {(1, 0.0), (2, 0.0), (3, 0.0), (5, 0.0), (4, 0.7)}
    starts = [(left.metadata.worker_id, id_, at) for id_, at in started]
    report = left.examine(starts=starts, signalled=0.7, starved_s=starved_s)
    assert [text for text in report.violations if "has open calls that are not listed, {5: 0.7}" in text] == (
        report.violations if is_found else []
    )
    assert report.figures["starved"] == (not is_found)
    assert bool(report.violations) == is_found


def test_an_ended_call_that_is_listed(left):
    """A call that is listed as open and had ended is found."""
    left.snapshot([StartedCall(event="tool_call", tool="add", start_ts=left.now, id=3)])
    assert "lists as open what has ended: [3]" in left.examine().violations[0]


def test_a_call_with_another_age(left):
    """A call whose age is told wrongly is found."""
    left.snapshot([StartedCall(event="tool_call", tool="add", start_ts="2020-01-01T00:00:00.000000Z", id=4)])
    signalled = left.case["signalled"] + 0.6
    assert "has open calls with a listed and a real age of" in left.examine(signalled=signalled).violations[0]


def test_an_audit(left):
    """A root as it should be has nothing wrong."""
    assert audit(left.store.root, were_killed=False) == []


def change_index(root, statement):
    """Change the job table."""
    with closing(sqlite3.connect(root / "index.sqlite3")) as connection, connection:
        connection.execute(statement)


def twin(root):
    """Copy a worker under another name, with the same number."""
    (made,) = (path for path in root.iterdir() if path.is_dir())
    metadata = json.loads((made / "metadata.json").read_bytes())
    (root / "twin").mkdir()
    (root / "twin" / "metadata.json").write_text(json.dumps(metadata | {"worker_id": "twin"}))


AUDITS = [
    (twin, "the job number 1 was given out 2 times"),
    (lambda root: (root / "folder").mkdir(), "folder has no metadata.json"),
    (lambda root: (root / "index.sqlite3.damaged-1").touch(), "was taken for damaged"),
    (lambda root: change_index(root, "DELETE FROM jobs"), "the job table has None for"),
    (lambda root: change_index(root, "UPDATE jobs SET status = 'success'"), "the job table has (1, "),
    (lambda root: change_index(root, "UPDATE jobs SET job_id = 2"), "other jobs are listed than there are folders: "),
]


@pytest.mark.parametrize(("damage", "expected"), AUDITS)
def test_an_audit_that_finds_something(left, damage, expected):
    """Numbers given out twice, folders without metadata, and job tables unlike the folders are found."""
    damage(left.store.root)
    assert expected in "\n".join(audit(left.store.root, were_killed=False))


def test_a_crowd_whose_events_are_otherwise(tmp_path):
    """Events that are missing, torn or not in the totals are found."""
    crowd = Crowd(tmp_path, processes=1, threads=1, events=3)
    left = Left(crowd.root)
    crowd._check_events({left.metadata.worker_id: 4, "another": 1})
    text = "\n".join(crowd.violations)
    for expected in ("other workers than were made", "has 3 events of 4", "has totals unlike", "ended as running"):
        assert expected in text
