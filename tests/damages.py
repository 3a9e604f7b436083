"""Damages that a root may have: each is done to one with two workers that ended well, of which it gets the second."""

from __future__ import annotations

import os
import shutil

from langchain_swarmlet_metrics import folder
from langchain_swarmlet_metrics.findings import Kind
from langchain_swarmlet_metrics.metadata import encode
from tests.broken import change, in_index, killed, lose


def path_of(store, metadata, name="metadata.json"):
    """Return the path of a worker's file."""
    return store.root / metadata.worker_id / name


def killed_while_running(store, _):
    """Kill a worker's process."""
    killed(store)


def killed_while_queued(store, _):
    """Kill a worker's process before the worker had its turn."""
    killed(store, "created")


def died_before_its_file(store, _):
    """Leave a worker whose process died right after it had made the folder."""
    store.create("never began", opening=lambda _worker_id: None)


def silent_elsewhere(store, _):
    """Leave a worker that runs on another host."""
    metadata = lose(store)
    change(store, metadata, process={"host": "another\x1b[2J", "pid": 1})


def torn_tail(store, metadata):
    """Cut the last event."""
    path = path_of(store, metadata, "metrics.jsonl")
    path.write_bytes(path.read_bytes()[:-9])


def torn_middle(store, metadata):
    """Put what is no event between the events."""
    path = path_of(store, metadata, "metrics.jsonl")
    path.write_bytes(b"\0\0\n".join(path.read_bytes().splitlines(keepends=True)))


def no_metadata(store, metadata):
    """Delete metadata.json."""
    path_of(store, metadata).unlink()


def cut_metadata(store, metadata):
    """Cut metadata.json."""
    os.truncate(path_of(store, metadata), 100)


def impossible_metadata(store, metadata):
    """Give metadata.json a value that cannot be."""
    change(store, metadata, finished_at="yesterday")


def unfinished_file(store, metadata):
    """Leave a part of a file that was to replace another."""
    path_of(store, metadata, ".metadata.json.abc.tmp").write_bytes(b'{"schema"')


def empty_file(store, metadata):
    """Leave a file that nothing was written to yet."""
    path_of(store, metadata, ".result.txt.abc.tmp").touch()


def replacement(store, metadata):
    """Leave how the worker ended beside what was before."""
    path_of(store, metadata, ".metadata.json.abc.tmp").write_bytes(encode(metadata))
    change(store, metadata, status="running", finished_at=None, duration_ms=None)
    store.registry.update_status(metadata.worker_id, "running")


def inflight(store, metadata):
    """Leave the snapshot of open calls of a worker that has ended."""
    path_of(store, metadata, "inflight.json").write_text('{"calls":[]}')


def empty_folder(store, _):
    """Leave a folder that nothing was written to yet."""
    folder.make_folder(store.root, folder.folder_name(10**18, "never came to be"))


def folder_with_nothing(store, _):
    """Leave a folder in which a process had only opened its events."""
    empty_folder(store, None)
    next(store.root.glob("2001-*")).joinpath("metrics.jsonl").touch()


def moved_folder(store, metadata):
    """Rename a folder."""
    path_of(store, metadata).parent.rename(store.root / "renamed")


def no_number(store, metadata):
    """Leave a worker that got no number."""
    change(store, metadata, job_id=None)
    in_index(store, "DELETE FROM jobs WHERE job_id = 2")


def impossible_number(store, metadata):
    """Give a worker a number that cannot be."""
    change(store, metadata, job_id=2**60)


def same_number(store, metadata):
    """Give a worker another one's number."""
    change(store, metadata, job_id=1)
    in_index(store, "DELETE FROM jobs WHERE job_id = 2")


def row_deleted(store, _):
    """Delete a row of the index."""
    in_index(store, "DELETE FROM jobs WHERE job_id = 2")


def row_status(store, _):
    """Give a row another status."""
    in_index(store, "UPDATE jobs SET status = 'failed' WHERE job_id = 2")


def row_owner(store, _):
    """Give a row another owner."""
    in_index(store, "UPDATE jobs SET owner_id = 'eve' WHERE job_id = 2")


def row_time(store, _):
    """Give a row another time."""
    in_index(store, "UPDATE jobs SET created_at = '2020' WHERE job_id = 2")


def row_number(store, _):
    """Give a row another number."""
    in_index(store, "UPDATE jobs SET job_id = 7 WHERE job_id = 2")


def folder_deleted(store, metadata):
    """Delete a folder."""
    shutil.rmtree(path_of(store, metadata).parent)


def index_deleted(store, _):
    """Delete the index."""
    (store.root / "index.sqlite3").unlink()


def index_garbage(store, _):
    """Overwrite the index."""
    (store.root / "index.sqlite3").write_bytes(b"garbage" * 1000)


def index_of_later_version(store, _):
    """Give the index another schema."""
    in_index(store, "PRAGMA user_version = 99")


def index_without_index(store, _):
    """Take what makes lists fast from the index."""
    in_index(store, "DROP INDEX newest")


def index_without_table(store, _):
    """Take the table from the index."""
    in_index(store, "DROP TABLE jobs")


def index_with_blob(store, _):
    """Put bytes where a text should be."""
    in_index(store, "UPDATE jobs SET worker_id = CAST(worker_id AS BLOB) WHERE job_id = 2")


def index_out_of_step(store, _):
    """Have the index's own index not know of a row."""
    in_index(
        store,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX newest ON jobs (status)' WHERE name = 'newest'",
    )


DAMAGES = {
    killed_while_running: [Kind.LOST],
    killed_while_queued: [Kind.LOST],
    died_before_its_file: [Kind.LOST],
    torn_tail: [Kind.EVENTS],
    torn_middle: [Kind.EVENTS],
    no_metadata: [Kind.METADATA],
    cut_metadata: [Kind.METADATA],
    impossible_metadata: [Kind.METADATA],
    unfinished_file: [Kind.LEFTOVER],
    empty_file: [Kind.LEFTOVER],
    replacement: [Kind.LOST, Kind.LEFTOVER],
    inflight: [Kind.LEFTOVER],
    empty_folder: [Kind.EMPTY],
    folder_with_nothing: [Kind.EMPTY],
    moved_folder: [Kind.MOVED, Kind.ROW],
    no_number: [Kind.NUMBER],
    impossible_number: [Kind.NUMBER],
    same_number: [Kind.SAME_NUMBER],
    row_deleted: [Kind.ROW],
    row_status: [Kind.ROW],
    row_owner: [Kind.ROW],
    row_time: [Kind.ROW],
    row_number: [Kind.ROW],
    folder_deleted: [Kind.ROW],
    index_deleted: [Kind.INDEX],
    index_garbage: [Kind.INDEX],
    index_of_later_version: [Kind.INDEX],
    index_without_index: [Kind.INDEX],
    index_without_table: [Kind.INDEX],
    index_with_blob: [Kind.INDEX],
    index_out_of_step: [Kind.INDEX],
}


def copied(store, metadata):
    """Copy a folder."""
    shutil.copytree(path_of(store, metadata).parent, store.root / "copy")


def linked_metadata(store, metadata):
    """Make metadata.json a link."""
    target = store.root / "elsewhere"
    path_of(store, metadata).rename(target)
    path_of(store, metadata).symlink_to(target)


def linked_events(store, metadata):
    """Make metrics.jsonl a file from elsewhere."""
    (store.root / "elsewhere").hardlink_to(path_of(store, metadata, "metrics.jsonl"))


def changeable_by_all(store, metadata):
    """Let everybody write to a folder."""
    path_of(store, metadata).parent.chmod(0o777)


def later_version(store, metadata):
    """Make a worker one of a later version."""
    change(store, metadata, schema=2)


def later_version_not_understood(store, metadata):
    """Make a worker one of a later version, with a status that this one does not know."""
    change(store, metadata, schema=2, status="splendid")


def index_is_a_folder(store, _):
    """Put a folder where the index should be."""
    (store.root / "index.sqlite3").unlink()
    (store.root / "index.sqlite3").mkdir()
