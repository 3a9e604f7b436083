"""The benchmarks: they run, record every call, and say what they measured; how fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks import generator, report
from benchmarks.__main__ import main
from benchmarks.contestants import Reference
from benchmarks.figures import OURS, Figures
from benchmarks.goals import goals
from benchmarks.lineup import COMPARED, CONTESTANTS, PEERS, missing
from benchmarks.processes import ChildError, run_apart
from benchmarks.results import Memory, Overhead, Results
from benchmarks.workloads import WORKLOADS, Stage
from langchain_swarmlet_metrics import ArtifactStore
from langchain_swarmlet_metrics.metadata import Completeness, Totals
from tests.conftest import read_lines

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
INSTALLED = [name for name, peer in PEERS.items() if missing(peer) is None]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Results, str]:
    """Run the suite's smoke run once, and return its results and what it printed."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--results", str(folder / "results.json")]
    environment = os.environ | {"TMPDIR": str(folder)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    left = {path.name for path in folder.iterdir()}
    assert left == {"results.json"}
    return msgspec.json.decode((folder / "results.json").read_bytes(), type=Results), ran.stdout.decode()


def test_every_contestant_watches_every_workload(quick):
    """Each workload is measured with everybody who is installed; who is not is named with the reason."""
    results, _ = quick
    own = {(OURS, workload, name) for workload in WORKLOADS for name in CONTESTANTS}
    compared = [kind.name for kind in COMPARED]
    peers = {(peer, workload, name) for peer in INSTALLED for workload in WORKLOADS for name in (*compared, peer)}
    assert {(row.group, row.workload, row.contestant) for row in results.overhead} == own | peers
    assert results.skipped == {name: missing(peer) for name, peer in PEERS.items() if name not in INSTALLED}


def test_no_contestant_loses_a_call(quick):
    """Whoever records has recorded exactly the calls that there were, and all content that was to be captured."""
    results, _ = quick
    recording = [row for row in results.overhead if row.expected is not None]
    assert {row.contestant for row in recording} == {"reference", "ours", "ours+log", "ours+all", "usage", *INSTALLED}
    assert [row for row in recording if row.recorded != row.expected or row.without_content] == []
    assert all(row.recorded is None for row in results.overhead if row.expected is None)


def test_calls_are_expected_as_the_workloads_make_them(quick):
    """How many calls are expected is a whole number of units, each with the calls that its workload makes."""
    results, _ = quick
    for row in results.overhead:
        work = WORKLOADS[row.workload]
        if row.contestant == "reference":
            assert row.expected % (work.llm_calls + work.tool_calls) == 0
        elif row.contestant == "usage":
            assert row.expected % work.llm_calls == 0


def test_ours_holds_nothing_of_cancelled_calls(quick):
    """After calls of which some were cancelled ours has recorded all, and holds none as open; the reference does."""
    results, _ = quick
    rows = {row.contestant: row for row in results.memory}
    assert rows.keys() == {*CONTESTANTS, *INSTALLED}
    for name in ("ours", "ours+log", "ours+all"):
        assert rows[name].left_open == 0
        assert rows[name].recorded == rows[name].expected
    assert rows["reference"].left_open == rows["reference"].cancelled > 0


def test_workers_are_run_in_every_manner(quick):
    """Workers one after the other and at once, synchronous and not, record the two calls of each."""
    results, _ = quick
    assert len({row.manner for row in results.workers}) == 4
    assert [row for row in results.workers if row.recorded != row.expected or row.expected != 2 * row.workers] == []


def test_questions_are_answered(quick):
    """Every question has an answer and was measured in time and memory."""
    results, _ = quick
    assert results.root.workers > 0
    asked = [row.question for row in results.reading]
    for name in ("list_workers", "get_worker_metadata", "read_worker_result", "show", "grep_workers", "digest"):
        assert any(name in question for question in asked), name
    assert all(row.characters > 0 and row.peak_kb > 0 for row in results.reading)
    assert sum("more events" in question for question in asked) == 1


def test_what_was_measured_is_printed(quick):
    """The terminal shows every section of the report."""
    results, printed = quick
    for name, text in report.sections(results).items():
        assert f"== {name}\n" in printed
        assert text in printed


def test_the_page_takes_the_tables_and_keeps_its_prose(quick):
    """Renewing the page changes what stands between its markers, again and again, and nothing else."""
    results, _ = quick
    page = PAGE.read_text(encoding="utf-8")
    renewed = report.renew(page, results)
    assert report.renew(renewed, results) == renewed
    assert prose_of(renewed) == prose_of(page)
    for text in report.sections(results).values():
        assert text in renewed


def prose_of(page: str) -> list[str]:
    """Return what stands outside of the markers."""
    return [part.rpartition("<!-- end -->")[2] for part in page.split("<!-- generated: ")]


def test_a_page_without_its_markers_is_refused(quick):
    """A page that has lost a marker is not written to."""
    results, _ = quick
    with pytest.raises(LookupError, match="0 places marked for run"):
        report.renew("# Performance\n", results)


def test_the_report_does_not_name_the_machine(quick):
    """Neither the results nor the page say what the machine is called, or where anything is on it."""
    results, printed = quick
    told = f"{printed}{msgspec.json.encode(results).decode()}{PAGE.read_text(encoding='utf-8')}"
    assert str(ROOT) not in told
    assert "/home/" not in told
    assert f" {platform.node()} " not in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nobody"], "there is no part or contestant 'nobody'"),
        (["--page", "page.md", "--only", "sync"], "--page needs a whole run"),
        (["--page", "page.md", "--quick"], "--page needs a whole run"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_a_mistake_in_the_command_line_is_explained(arguments, said, capsys):
    """A mistake ends the run before anything is measured, with a sentence."""
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def row(contestant: str, extra_us: float, number: int = 0, group: str = OURS, workload: str = "sync") -> Overhead:
    """Return a row with some cost."""
    return Overhead(
        group=group,
        round=number,
        workload=workload,
        contestant=contestant,
        cpu_us=200 + extra_us,
        extra_us=extra_us,
        caller_us=extra_us,
    )


def results_of(*rows: Overhead, memory: tuple[Memory, ...] = ()) -> Results:
    """Return results that have these rows."""
    return Results(
        began="2026-01-01", rounds=1, quick=False, machine={}, versions={}, overhead=[*rows], memory=[*memory]
    )


def test_figures_are_medians_and_ratios_within_a_group():
    """A figure is the median over the rounds; a peer's ratios are to the floor and the reference of its own group."""
    rows = [row("ours", cost, number) for number, cost in enumerate((40, 60, 50))]
    rows += [row(name, cost) for name, cost in (("again", -2), ("floor", 10), ("reference", 25))]
    rows += [row(name, cost, group="langfuse") for name, cost in (("again", 1), ("floor", 20), ("langfuse", 400))]
    figures = Figures(results_of(*rows))
    assert figures.extra_us("sync", "ours") == 50
    assert figures.quartiles_us("sync", "ours") == (45, 55)
    assert figures.times_floor("sync", "ours") == 5
    assert figures.times_reference("sync", "ours") == 2
    assert figures.times_floor("sync", "langfuse") == 20
    assert figures.times_reference("sync", "langfuse") is None
    assert figures.best_peer_us("sync") == 400


def test_a_figure_that_is_not_above_the_noise_has_no_ratio():
    """What is not above the largest difference of the same work is noise, in parentheses and without ratios."""
    rows = [row("again", -30), row("again", 5, 1), row("floor", 20), row("reference", 40), row("ours", 60)]
    figures = Figures(results_of(*rows))
    assert figures.noise_us("sync", "ours") == 30
    assert figures.is_noise("sync", "floor")
    assert not figures.is_noise("sync", "reference")
    assert figures.times_floor("sync", "ours") is None
    assert figures.times_reference("sync", "ours") == 1.5
    assert "(20)" in report.sections(results_of(*rows))["overview"]


def test_goals_are_reached_missed_or_open():
    """A goal says what was measured and whether that is enough; without anything to compare with it is left out."""
    rows = [row("again", 1), row("reference", 50), row("ours", 60), row("ours+log", 200)]
    rows += [row(name, cost, workload="async") for name, cost in (("again", 90), ("reference", 50), ("ours", 60))]
    memory = Memory(contestant="ours", calls=10, cancelled=1, rss_kb=0, bytes_per_call=1, left_open=1)
    results = results_of(*rows, memory=(memory,))
    found = {(goal.what, goal.measured): goal.reached for goal in goals(results, Figures(results))}
    assert found == {
        ("sync", "1.20 x"): True,
        ("sync", "70 µs"): False,
        ("async", "noise"): None,
        ("memory", "1 left open, 1 bytes a call"): False,
    }


def test_lost_calls_stand_out():
    """A contestant that lost calls, or content, is shown with what is missing."""
    lossy = msgspec.structs.replace(row("ours", 60), recorded=9, expected=10)
    partial = msgspec.structs.replace(row("ours+all", 60), recorded=10, expected=10, without_content=3)
    details = report.sections(results_of(lossy, partial))["details"]
    assert "**9 of 10**" in details
    assert "all 10, 3 without content" in details


def test_the_reference_writes_a_line_per_call(tmp_path):
    """The reference handler writes one JSON object per call, with what it was and how long it took."""
    reference = Reference(tmp_path)
    Stage(reference.callbacks).do_sync(2)
    reference.close()
    (path,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["llm_call", "tool_call"] * 2
    assert lines[0]["model"] == "gpt-5-mini"
    assert lines[0]["total_tokens"] == 110
    assert lines[1]["tool"] == "echo"
    assert reference.recorded() == 4
    assert reference.left_open() == 0


def test_a_process_of_its_own_starts_anew_and_answers():
    """A function runs in a new interpreter and its value comes back."""
    assert run_apart(False, os.getpid) != os.getpid()


def test_what_fails_in_a_process_of_its_own_is_told():
    """What a function raises in its process is raised here, with its traceback."""
    with pytest.raises(ChildError, match="ValueError: invalid literal"):
        run_apart(False, int, "no number")


def test_a_process_of_its_own_reaches_no_network():
    """A connection to another machine is refused."""
    with pytest.raises(ChildError, match="the benchmarks reach no network"):
        run_apart(False, socket.create_connection, ("192.0.2.1", 80))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> ArtifactStore:
    """Make a root of made-up workers, the first two of which are large; tests only read it."""
    root = tmp_path_factory.mktemp("made") / "workers"
    generator.make_root(root, 150, 25, 60)
    return ArtifactStore(root)


def test_made_up_workers_are_numbered_and_listed(made):
    """A made-up root has every worker under its number, newest first, and more than one way to end."""
    workers = made.list(limit=200)
    assert [worker.job_id for worker in workers] == list(range(150, 0, -1))
    assert made.read(7).job_id == 7
    assert [worker.created_at for worker in workers] == sorted((w.created_at for w in workers), reverse=True)
    assert {made.status(worker) for worker in workers} == {"success", "failed", "cancelled", "lost"}


def test_made_up_events_are_as_many_as_asked_and_fit_their_metadata(made):
    """Each worker has so many events, each with an id of its own, and its metadata has their sums and times."""
    for worker in made.list(limit=200):
        events = read_lines(made.root / worker.worker_id / "metrics.jsonl")
        assert len(events) == (60 if worker.job_id <= 2 else 25)
        assert len({event.id for event in events}) == len(events)
        assert events[-1].phase == "synthesis"
        if worker.finished_at is None:
            continue
        totals, completeness = Totals(), Completeness()
        for event in events:
            totals.add(event)
            completeness.add(event)
        assert (worker.totals, worker.completeness) == (totals, completeness)
        assert worker.finished_at == max(event.end_ts for event in events)


def test_made_up_events_are_the_same_for_the_same_seed():
    """The same seed gives the same events; another one gives others."""
    assert generator.make_events(50, 1, 0) == generator.make_events(50, 1, 0)
    assert generator.make_events(50, 1, 0) != generator.make_events(50, 2, 0)
    assert generator.make_events(0, 1, 0) == []
    assert [event.phase for event in generator.make_events(1, 1, 0)] == ["synthesis"]


def test_a_folder_with_something_in_it_is_not_filled(tmp_path):
    """Made-up workers never get among anything else."""
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        generator.make_root(tmp_path, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
