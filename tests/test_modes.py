"""Tests of `modes`: what is made has exactly the modes it shall have, whatever the umask."""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.modes import (
    checked_file_mode,
    file_mode_in,
    folder_mode,
    make_folders,
    open_or_make,
    settle,
)
from tests.processes import output_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")


@contextmanager
def umask(mask):
    """Set this process's umask inside the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path):
    """Return a path's mode."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o644])
def test_modes_that_files_may_have(mode):
    """Owners read and write, others read at most."""
    assert checked_file_mode(mode) == mode


@given(st.integers(-10, 0o10000).filter(lambda mode: mode not in (0o600, 0o640, 0o604, 0o644)))
@example(640)
@example(0o660)
@example(0o700)
@example(0o400)
@example(0)
def test_modes_that_files_may_not_have(mode):
    """Each other mode is refused with those that are allowed."""
    with pytest.raises(ValueError, match=f"file_mode={mode:#o} is refused: .* 0o600 .* 0o640 .* 0o644 "):
        checked_file_mode(mode)


def test_a_mode_is_a_number():
    """A text that looks like a mode is refused like one that files may not have."""
    with pytest.raises(ValueError, match="file_mode='0640' is refused: "):
        checked_file_mode("0640")


@pytest.mark.parametrize(("file_mode", "mode"), [(0o600, 0o700), (0o640, 0o750), (0o604, 0o705), (0o644, 0o755)])
def test_who_may_read_files_may_enter_their_folder(file_mode, mode):
    """Read bits get their x bits."""
    assert folder_mode(file_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o644])
def test_a_folder_tells_the_mode_of_its_files(tmp_path, mode):
    """Going by a folder's mode, its files are for those who may read them, and never for others to write."""
    tmp_path.chmod(folder_mode(mode))
    assert file_mode_in(tmp_path) == mode
    tmp_path.chmod(folder_mode(mode) | 0o2022)
    assert file_mode_in(tmp_path) == mode
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_the_umask_does_not_matter(tmp_path, mask):
    """New folders, those above them, and new files have their mode; what exists keeps its own."""
    with umask(mask):
        make_folders(tmp_path / "a" / "b", 0o750)
        for _ in range(2):
            os.close(open_or_make(tmp_path / "a" / "file", os.O_WRONLY, 0o640))
            (tmp_path / "a" / "file").chmod(0o604)
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/file")] == [0o750, 0o750, 0o604]
    (tmp_path / "a" / "file").unlink()
    with umask(mask):
        os.close(open_or_make(tmp_path / "a" / "file", os.O_WRONLY, 0o640))
    assert mode_of(tmp_path / "a" / "file") == 0o640


def test_folders_that_cannot_be_made(tmp_path):
    """What is in the way is the system's own error."""
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folders(tmp_path / "file", 0o700)
    with pytest.raises(NotADirectoryError):
        make_folders(tmp_path / "file" / "below" / "it", 0o700)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        make_folders(tmp_path / "dangling" / "below", 0o700)


def test_a_shared_folders_group_is_handed_on(tmp_path):
    """The bit that makes new files belong to the folder's group is left alone."""
    tmp_path.chmod(0o2770)
    if mode_of(tmp_path) != 0o2770:
        pytest.skip("this file system has no such bit")
    settle(tmp_path, 0o750)
    assert mode_of(tmp_path) == 0o2750


def test_a_mode_that_cannot_be_set_is_no_error():
    """Where modes can't be changed, as on file systems that have none, files are made all the same."""
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("needs /proc, whose files keep their modes")
    before = mode_of(path)
    with pytest.raises(PermissionError):
        path.chmod(0o640)
    settle(path, 0o640)
    assert mode_of(path) == before


EVERYTHING = """
    import json, os, stat, sys
    from pathlib import Path
    os.umask(int(sys.argv[2], 8))
    from langchain_swarmlet_metrics import WorkerRunner, configure_logging
    top = Path(sys.argv[1])
    runner = WorkerRunner(top / "data" / "workers", file_mode=int(sys.argv[3], 8), summarizer=lambda prompt: "short")
    configure_logging(top / "log")
    with runner.worker("task") as worker:
        worker.collector.record_tool_call(tool_name="look", start_ts=1.0, end_ts=2.0)
        worker.result = "42"

    def look(connection):
        connection.execute("UPDATE jobs SET status = status")
        return {str(path.relative_to(top)): oct(stat.S_IMODE(path.stat().st_mode)) for path in top.rglob("*")}

    print(json.dumps(runner.store._registry._opened(look)))
"""


@pytest.mark.parametrize("mask", ["000", "022", "077"])
@pytest.mark.parametrize(("file_mode", "mode"), [(0o600, 0o700), (0o640, 0o750)])
def test_everything_that_a_process_makes(tmp_path, mask, file_mode, mode):
    """Under any umask all folders and files have the modes asked for, SQLite's own included; a log is private."""
    made = json.loads(output_of(EVERYTHING, tmp_path, mask, oct(file_mode)))
    (worker,) = (name for name in made if name.endswith("_task"))
    files = [f"{worker}/{name}" for name in ("metadata.json", "metrics.jsonl", "result.txt")]
    files += [f"data/workers/index.sqlite3{name}" for name in ("", "-wal", "-shm")]
    expected = dict.fromkeys(files, file_mode) | dict.fromkeys(["data", "data/workers", worker], mode) | {"log": 0o600}
    assert made == {name: oct(value) for name, value in expected.items()}
