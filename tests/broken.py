"""Roots that something has happened to, for the tests of the doctor."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from langchain_swarmlet_metrics.events import LLMCall, ToolCall, encode
from tests.processes import running

HOUR_S = 3600.0
EVENTS = [
    LLMCall(
        phase="initial",
        model="gpt-5-mini",
        start_ts="2025-12-15T04:08:08.000000Z",
        end_ts="2025-12-15T04:08:09.000000Z",
        duration_ms=1000,
        total_tokens=8,
        usage_source="missing",
    ),
    ToolCall(
        tool="ssh_exec",
        start_ts="2025-12-15T04:08:09.000000Z",
        end_ts="2025-12-15T04:08:10.000000Z",
        duration_ms=1000,
        success=False,
        outcome="unfinished",
    ),
]

# A worker in a process of its own that ends in the way that the second argument says when its input is closed.
RUNNING = """
    import sys
    from langchain_swarmlet_metrics.store import ArtifactStore
    from tests.broken import EVENTS, create
    store = ArtifactStore(sys.argv[1])
    metadata, writer = create(store, "back up", owner_id="ann")
    if sys.argv[2] == "running":
        store.start(metadata)
        for event in EVENTS:
            writer(event)
    print(metadata.worker_id, flush=True)
    sys.stdin.read()
"""


def create(store, task, **options):
    """Make a worker as the runner does, and return its metadata and its open writer."""
    opened = []
    metadata = store.create(task, opening=lambda worker_id: opened.append(store.writer(worker_id)), **options)
    return metadata, opened[0]


def lose(store, task="back up"):
    """Make a worker that runs, and that nobody keeps open."""
    metadata, writer = create(store, task)
    store.start(metadata)
    writer.close()
    return metadata


def killed(store, status="running"):
    """Return the metadata of a worker whose process was killed when it had this status."""
    with running(RUNNING, store.root, status) as process:
        worker_id = process.stdout.readline().strip()
        process.kill()
        process.wait(timeout=30)
    return store.read_worker(worker_id)


def ended(store, task="back up", **options):
    """Return the metadata of a worker that ended well, with two events and a result."""
    metadata, writer = create(store, task, **options)
    with closing(writer):
        store.start(metadata)
        writer(*EVENTS)
        for event in EVENTS:
            metadata.totals.add(event)
            metadata.completeness.add(event)
        store.complete(metadata, status="success", elapsed_ns=10**9, result="The result is 42.")
    return metadata


def age(root, seconds=HOUR_S):
    """Make everything in a root look as if it had been written so long ago."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)


def change(store, metadata, **values):
    """Change keys of a worker's metadata.json behind the store's back."""
    path = store.root / metadata.worker_id / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2))


def in_index(store, *statements):
    """Change the index behind the store's back."""
    with closing(sqlite3.connect(store.root / "index.sqlite3", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def events_of(root):
    """Count every whole event line that is anywhere in a root."""
    lines = Counter(line for path in root.rglob("*") if path.is_file() for line in path.read_bytes().splitlines())
    return Counter({line: number for line, number in lines.items() if line + b"\n" in map(encode, EVENTS)})


def contents_of(root):
    """Count the contents of the files in a root but for its index, and tell what each file holds."""
    files = {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file() and path.parent != root}
    return Counter(files.values()), files
