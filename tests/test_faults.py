"""Real faults of the system: the agent answers, in time; what could not be written is counted and said.

Each runs in a process of its own; those that mount file systems need root privileges, in a namespace of their own.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_swarmlet_metrics import report
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.store import ArtifactStore

PROJECT = Path(__file__).parent.parent
ANSWER = "The answer is 42."
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def can_mount() -> bool:
    """Tell whether this process may mount file systems in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    script = "mount -t tmpfs tmpfs /mnt"
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=False).returncode == 0


mounts = pytest.mark.skipif(not can_mount(), reason="needs root privileges, to mount a file system")


def run(root, *arguments, mount=None, environment=None):
    """Run an agent with a fault in another process and return what it printed; it has answered, and in time."""
    command = [sys.executable, "-m", "tests.faulty", str(root), *arguments]
    if mount is not None:
        command = ["unshare", "-m", "sh", "-c", f'{mount} && "$@"', "sh", *command]
    environment = os.environ | (environment or {})
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert ANSWER in found["answer"]
    assert "Execution time: " in found["answer"]
    assert found["seconds"] < 30
    return found


@pytest.fixture
def root(tmp_path):
    """Return a folder for the workers."""
    path = tmp_path / "workers"
    path.mkdir(mode=0o700)
    return path


def worker_of(root):
    """Return store and metadata of the worker that had the fault."""
    store = ArtifactStore(root)
    (path,) = root.glob("*calculate*")
    return store, store.read_worker(path.name)


def test_no_fault(root):
    """Without a fault nothing is said of metrics."""
    found = run(root, "nothing", "during")
    assert "Metrics are" not in found["answer"]
    assert not found["warnings"]


def tmpfs(root, size="256k"):
    """Return the command that mounts a small file system over the root."""
    return f"mount -t tmpfs -o size={size},mode=700 tmpfs {root}"


@mounts
def test_disk_full_before(root):
    """On a full disk a worker runs without a folder, and its result says why it has no metrics."""
    found = run(root, "disk_full", "before", mount=tmpfs(root))
    assert "Metrics are unavailable: this worker's files cannot be written (" in found["answer"]
    assert "No space left on device" in found["answer"]
    assert len([text for text in found["warnings"] if "cannot be written" in text]) == 1


@mounts
def test_disk_full_during(root):
    """When the disk fills up while a worker runs, its result is told from memory."""
    found = run(root, "disk_full", "during", mount=tmpfs(root))
    assert "Metrics are unavailable" in found["answer"]
    assert "No space left on device" in found["answer"]


@mounts
def test_disk_full_and_free_again(root, tmp_path):
    """What could not be written is written once there is room again."""
    keep = f"trap 'cp -r {root} {tmp_path}/kept' EXIT"
    found = run(root, "disk_full", "during", "disk_free", mount=f"{tmpfs(root)} && {keep}")
    assert "Metrics are unavailable" in found["answer"]
    store, metadata = worker_of(tmp_path / "kept")
    assert metadata.status == "success"
    assert report.result_text(store, metadata).endswith(f"\n\n{ANSWER}")


def test_file_too_large(root):
    """A line that is cut by a limit is counted, skipped by readers, and said."""
    found = run(root, "short_files", "during", "long_files")
    assert "Metrics are unavailable" in found["answer"]
    store, metadata = worker_of(root)
    events = store.events(metadata.worker_id)
    assert len(list(events)) == 1
    assert events.skipped == 1
    assert metadata.completeness.dropped_events == 2
    text = report.result_text(store, metadata)
    assert "could not be written (metrics.jsonl: " in text
    assert text.endswith(f"\n\n{ANSWER}")


def test_no_descriptors(root):
    """Without file descriptors a worker runs without a folder."""
    found = run(root, "no_descriptors", "before", "descriptors")
    assert "Too many open files" in found["answer"]


def test_no_descriptors_during(root):
    """When the descriptors run out while a worker runs, its events are written and its result is told from memory."""
    found = run(root, "no_descriptors", "during", "descriptors")
    assert "Too many open files" in found["answer"]
    store, metadata = worker_of(root)
    assert len(list(store.events(metadata.worker_id))) == 1


@mounts
def test_read_only(root):
    """On a file system that became read-only a worker runs without a folder."""
    found = run(root, "read_only", "before", mount=f"mount --bind {root} {root}")
    assert "Read-only file system" in found["answer"]


def test_folder_deleted(root):
    """A worker whose folder is deleted while it runs answers, and says what happened to its metrics."""
    found = run(root, "folder_deleted", "during")
    assert "Metrics are unavailable" in found["answer"]
    assert "No such file or directory" in found["answer"]


@pytest.mark.parametrize("moment", ["before", "during"])
def test_root_deleted(root, moment):
    """A root that is deleted keeps no worker from answering."""
    found = run(root, "root_deleted", moment)
    assert "Metrics are unavailable" in found["answer"]


@pytest.mark.parametrize("fault", ["registry_locked", "registry_busy"])
@pytest.mark.parametrize("moment", ["before", "during"])
def test_registry_locked(root, fault, moment):
    """An index that stays locked costs a new worker its number, and nobody the result or the metrics."""
    found = run(root, fault, moment)
    store, metadata = worker_of(root)
    assert metadata.status == "success"
    assert (metadata.job_id is None) == (moment == "before")
    assert ("without a job number" in found["answer"]) == (moment == "before")
    assert len(list(store.events(metadata.worker_id))) == 3
    assert "Metrics are" not in found["answer"]
    assert found["warnings"]


@pytest.mark.parametrize("moment", ["before", "during"])
def test_registry_corrupt(root, moment):
    """A damaged index is built anew, and every worker keeps its number."""
    run(root, "registry_corrupt", moment)
    store, metadata = worker_of(root)
    assert sorted(found.job_id for found in store.list()) == [1, 2]
    assert metadata.status == "success"


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed; it sets the clock of one process")
@pytest.mark.parametrize("fault", ["clock_back", "clock_forward"])
def test_clock_steps(root, tmp_path, fault):
    """A clock that is set changes no duration; start, end and duration of every event agree."""
    now = tmp_path / "now"
    now.write_text("+0")
    environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(now), "FAKETIME_NO_CACHE": "1"}
    environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    run(root, fault, "during", environment=environment)
    store, metadata = worker_of(root)
    assert metadata.duration_ms < 30_000
    assert all(event.duration_ms < 30_000 for event in store.events(metadata.worker_id))


class Refusing:
    """Stand in for an open file whose every write the system refuses."""

    def __init__(self, file, number):
        self._file = file
        self._number = number

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, _data):
        """Fail as the system does."""
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_input_output_error_and_quota(tmp_path, number):
    """An error of the disk, and a quota that is used up, are counted and said; neither can be caused here for real."""
    runner = WorkerRunner(tmp_path / "workers")
    with runner.worker("calculate 7*6") as worker:
        worker._writer._file = Refusing(worker._writer._file, number)
        worker.collector.record_tool_call(tool_name="multiply", start_ts=0, end_ts=1)
        worker.result = ANSWER
    text = report.result_text(runner.store, worker.metadata)
    reason = f"metrics.jsonl: [Errno {number}] {os.strerror(number)}"
    assert f"Metrics are incomplete: 1 event could not be written ({reason})." in text
    assert text.endswith(f"\n\n{ANSWER}")
