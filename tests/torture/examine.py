"""Look at the workers of a process that was killed as a fresh reader does, and say what must not be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import ArtifactStore, WorkerRunner
from tests.torture import as_told, on_disk
from tests.torture.case import Case, Look, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALL = 100_000
_LISTED = 200


def examine(case: Case) -> Report:
    """Check all that has to be true."""
    report = Report()
    store = ArtifactStore(case.root)
    tools = {tool.name: tool for tool in WorkerRunner(case.root).supervisor_tools()}
    looks = [Look(case, report, store, found) for found in store.list(owner_id=case.owner, limit=_ALL)]
    _check_presence(case, report, looks)
    for look in looks:
        on_disk.check_lines(look)
        on_disk.check_events(look)
        on_disk.check_totals(look)
        as_told.check_status(look)
        as_told.check_time(look)
        as_told.check_answers(look, tools)
    _check_lists(case, looks, str(tools["list_workers"].invoke({"status": "lost", "limit": _LISTED})))
    _tell_of_others(case, report, store)
    for look in looks:
        on_disk.check_append(look)
    _check_creation(case, report)
    return report


def _check_presence(case: Case, report: Report, looks: Sequence[Look]) -> None:
    listed = {look.worker_id: look.metadata.job_id for look in looks}
    for worker_id, job_id in (case.opened | case.made).items():
        if listed.get(worker_id) != job_id:
            report.violations.append(f"{case.owner}: {worker_id} is not listed as job {job_id}")


def _check_lists(case: Case, looks: Sequence[Look], listed: str) -> None:
    printed = as_told.command(case.root, "list", "--status", "lost", "--limit", str(_LISTED))
    lost = looks[0].store.list(status="lost", limit=_LISTED) if looks else []
    since = lost[-1].created_at if len(lost) == _LISTED else ""
    for look in looks:
        if look.metadata.created_at <= since:
            continue  # so many have been lost after it that it may be on the next page
        line, is_lost = f"job {look.metadata.job_id}  lost  ", look.status == "lost"
        look.require((line in listed) == is_lost, f"is {look.status}, unlike in list_workers")
        look.require((line in printed) == is_lost, f"is {look.status}, unlike on the command line")


def _tell_of_others(case: Case, report: Report, store: ArtifactStore) -> None:
    """Tell who else is lost, for those who know who lives, and which of those that live are not listed as running."""
    report.lost = {found.worker_id: found.owner_id or "" for found in store.list(status="lost", limit=_LISTED)}
    running = {
        found.worker_id for owner in case.alive.values() for found in store.list(owner_id=owner, status="running")
    }
    report.not_running = {worker: owner for worker, owner in case.alive.items() if worker not in running}


def _check_creation(case: Case, report: Report) -> None:
    """Require that a worker can be made at once, under a name and a number that lead to it."""
    runner = WorkerRunner(case.root, owner_id="reader")
    with runner.worker(f"after {case.owner}") as worker:
        if runner.store.read(worker.job_id) != runner.store.read_worker(worker.worker_id):
            report.violations.append(f"{case.owner}: {worker.worker_id} is not job {worker.job_id}")
