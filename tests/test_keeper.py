"""A worker whose files cannot be written: held in memory, tried again, released."""

from __future__ import annotations

import shutil

from langchain_core.tools import tool

from langchain_swarmlet_metrics import pulse, report
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.store import ArtifactStore


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def no_room(*_):
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device")


def test_held_until_there_is_room(runner, monkeypatch):
    """Until its end can be written a worker is told from memory here, and runs for everybody else; then it is read."""
    with runner.worker("full") as worker:
        add.invoke({"a": 1, "b": 2})
        worker.result = "3"
        monkeypatch.setattr("langchain_swarmlet_metrics.store.replace_file", no_room)
    others = ArtifactStore(runner.store.root)
    assert worker.record_error == "[Errno 28] No space left on device"
    assert "not on disk" in repr(worker)
    assert report.result_text(runner.store, runner.store.read(worker.job_id)).endswith(
        "Metrics are unavailable: this worker's files cannot be written ([Errno 28] No space left on device).\n\n3"
    )
    assert others.status(others.read(worker.job_id)) == "running"
    monkeypatch.undo()
    pulse.try_a_last_time()
    assert worker.record_error is None
    assert report.result_text(others, others.read(worker.job_id)).endswith("\n\n3")
    assert "Metrics are" not in report.result_text(runner.store, runner.store.read(worker.job_id))


def test_result_that_cannot_be_kept(runner, monkeypatch):
    """When only the result cannot be written, other processes are told that there was one."""
    from langchain_swarmlet_metrics import store

    replace = store.replace_file

    def no_room_for_results(path, content, *rest):
        if path.name == "result.txt":
            no_room()
        replace(path, content, *rest)

    monkeypatch.setattr(store, "replace_file", no_room_for_results)
    with runner.worker("full") as worker:
        worker.result = "3"
    others = ArtifactStore(runner.store.root)
    text = report.result_text(others, others.read(worker.job_id))
    assert "This worker's result could not be kept: result.txt could not be written: [Errno 28]" in text
    monkeypatch.undo()
    pulse.try_a_last_time()
    assert report.result_text(others, others.read(worker.job_id)).endswith("\n\n3")


def test_folder_that_is_gone(runner):
    """Nobody tries for ever to write into a folder that was deleted; the result is told from memory."""
    with runner.worker("gone") as worker:
        worker.result = "3"
        shutil.rmtree(worker.dir)
    assert pulse._pulse.try_again() == 0
    assert worker._writer.size() is None
    assert report.result_text(runner.store, worker.metadata).endswith("\n\n3")


def test_one_warning(runner, monkeypatch, caplog):
    """However often writing fails, one warning says so."""
    alone = pulse._Pulse()  # the process's own may still attempt what other tests have left behind
    monkeypatch.setattr(pulse, "_pulse", alone)
    monkeypatch.setattr("langchain_swarmlet_metrics.store.replace_file", no_room)
    with runner.worker("full") as worker:
        worker.result = "3"
    for _ in range(3):
        assert alone.try_again() in (0, 1)
    assert len([record for record in caplog.records if worker.worker_id in record.getMessage()]) == 1
    monkeypatch.undo()
    alone.try_again()


def test_memory_is_bounded(tmp_path):
    """Of workers that nobody can write at most a thousand are held."""
    runner = WorkerRunner(tmp_path / "workers")
    shutil.rmtree(runner.store.root)
    for number in range(1002):
        with runner.worker(str(number)):
            pass
    assert len(runner.store.overlay._held) <= 1000
