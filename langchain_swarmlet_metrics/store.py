"""The artifact store: the one place that touches the worker folders."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import time
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from langchain_swarmlet_metrics import liveness, settings, snapshot
from langchain_swarmlet_metrics import metadata as schema
from langchain_swarmlet_metrics.eventlog import EventReader, EventWriter
from langchain_swarmlet_metrics.events import span, time_ns, timestamp
from langchain_swarmlet_metrics.folder import (
    METADATA_FILE,
    METRICS_FILE,
    RESULT_FILE,
    SNAPSHOT_FILE,
    FileEntry,
    FileRefusedError,
    list_files,
    make_folder,
    make_root,
    open_alone,
    open_file,
    open_plain,
    replace_file,
)
from langchain_swarmlet_metrics.liveness import OPEN_STATUSES
from langchain_swarmlet_metrics.metadata import Metadata, Process
from langchain_swarmlet_metrics.registry import Job, Registry
from langchain_swarmlet_metrics.scrub import one_line, scrub, scrub_value
from langchain_swarmlet_metrics.search import Match, matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from langchain_swarmlet_metrics.events import Event
    from langchain_swarmlet_metrics.metadata import Parent, Status
    from langchain_swarmlet_metrics.snapshot import Snapshot, StartedCall

INDEX_FILE = "index.sqlite3"

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # says nothing about the file that could not be opened
_PAGE = 50
_MAX_HOURS = 1e6


class WorkerNotFoundError(LookupError):
    """There is no such worker, or its ``metadata.json`` cannot be read."""


class ArtifactStore:
    """Create, read, list and search worker folders.

    Its calls block, each opens and closes what it needs, and threads, forked children and other processes may use the
    same root at the same time. In asynchronous code call it with `asyncio.to_thread`. What the system refuses to read
    or to write, the index included, is raised as the system's own `OSError`.

    Args:
        root: the folder of the worker folders, made when it is missing; by default `settings.default_root`.

    Raises:
        OSError: the root cannot be made or written; of the class that the system's error has.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = (settings.default_root() if root is None else Path(root).expanduser()).absolute()
        make_root(self.root)
        self._registry = Registry(self.root / INDEX_FILE, self._scan)

    def __repr__(self) -> str:
        return f"ArtifactStore({str(self.root)!r})"

    # The life of a worker, as its own process writes it down

    def create(
        self,
        task: str,
        *,
        owner_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        parent: Parent | None = None,
        process: Process | None = None,
        store_task: bool = True,
    ) -> Metadata:
        """Make a worker's folder and its job number, with status ``created``.

        Args:
            task: what the worker is asked to do; kept without its secrets.
            owner_id: whose worker it is.
            config: the user's own notes; kept without their secrets.
            parent: who spawned it.
            process: who opens its `writer` now, so that it is lost when nobody has it open; None made by hand.
            store_task: False to store no task and to keep it out of the folder's name.
        """
        now_ns = time.time_ns()
        stored_task = _clean(task) if store_task else None
        metadata = Metadata(
            worker_id=make_folder(self.root, now_ns, stored_task or ""),
            owner_id=owner_id,
            task=stored_task,
            created_at=timestamp(now_ns),
            config=None if config is None else cast("dict[str, Any]", scrub_value(dict(config))),
            parent=parent,
            process=process,
        )
        try:
            with self._registry.adding(metadata.worker_id, owner_id, metadata.created_at) as metadata.job_id:
                self.save(metadata)
        except BaseException:
            shutil.rmtree(self.root / metadata.worker_id, ignore_errors=True)
            raise
        return metadata

    def start(self, metadata: Metadata) -> None:
        """Note that a worker runs now, in this process.

        Open its `writer` before: a running worker whose events nobody writes is lost.
        """
        metadata.status = "running"
        metadata.started_at = timestamp(time.time_ns())
        metadata.process = Process.current()
        self._save_with_status(metadata)

    def complete(
        self,
        metadata: Metadata,
        *,
        status: Status,
        elapsed_ns: int,
        result: str | None = None,
        error: str | None = None,
        summary: str | None = None,
    ) -> None:
        """Note how a worker ended. Close its `writer` only after, so that nobody takes it for lost.

        Each file is written even if the one before could not be.

        Args:
            metadata: of the worker; ``finished_at`` becomes ``started_at`` plus the elapsed time, so that they agree
                with ``duration_ms``; for a worker that never started, it is now.
            status: how it ended.
            elapsed_ns: how long it ran, in nanoseconds.
            result: its answer, kept as it is in ``result.txt``; None when it has none.
            error: what went wrong; kept as one line without secrets.
            summary: kept without secrets.
        """
        metadata.status = status
        began_ns = time.time_ns() if metadata.started_at is None else time_ns(metadata.started_at)
        _, metadata.finished_at, metadata.duration_ms = span(began_ns, elapsed_ns)
        metadata.error = None if error is None else one_line(error)
        metadata.summary = None if summary is None else _clean(summary)
        try:
            if result is not None:
                content = result.encode(errors="backslashreplace")  # a lone surrogate is no reason to lose the rest
                replace_file(self.root / metadata.worker_id / RESULT_FILE, content)
        finally:
            self._save_with_status(metadata)

    def save(self, metadata: Metadata) -> None:
        """Write a worker's ``metadata.json``; readers see the old one or the new one, whole."""
        replace_file(self.root / metadata.worker_id / METADATA_FILE, schema.encode(metadata))

    def writer(self, worker_id: str) -> EventWriter:
        """Open a worker's ``metrics.jsonl`` for its events, and lock it: while it is open, the worker runs.

        Raises:
            FileNotFoundError: the worker has no folder.
            BlockingIOError: it is open already.
        """
        return EventWriter(self._folder_to_write(worker_id) / METRICS_FILE)

    def append(self, worker_id: str, events: Iterable[Event]) -> None:
        """Append events to a worker's ``metrics.jsonl``, all with one write, whether or not the worker runs.

        Raises:
            FileNotFoundError: the worker has no folder.
        """
        with closing(EventWriter(self._folder_to_write(worker_id) / METRICS_FILE, lock=False)) as writer:
            writer.extend(events)

    def save_snapshot(self, taken: Snapshot) -> None:
        """Write a worker's ``inflight.json``; readers see the old one or the new one, whole."""
        replace_file(self.root / taken.worker_id / SNAPSHOT_FILE, snapshot.encode(taken))

    def touch_snapshot(self, worker_id: str) -> None:
        """Note that a worker lives, and that its ``inflight.json`` is still right."""
        os.utime(self.root / worker_id / SNAPSHOT_FILE)

    def remove_snapshot(self, worker_id: str) -> None:
        """Remove a worker's ``inflight.json``: no call is open."""
        (self.root / worker_id / SNAPSHOT_FILE).unlink(missing_ok=True)

    # What readers want to know

    def read(self, job_id: int) -> Metadata:
        """Return the metadata of a job's worker.

        Raises:
            WorkerNotFoundError: there is no such job, or its folder cannot be read.
        """
        job = self._registry.find(job_id)
        metadata = None if job is None else self._metadata(job.worker_id)
        if metadata is None or metadata.job_id != job_id:
            msg = f"worker job {job_id} not found in {self.root}"
            raise WorkerNotFoundError(msg)
        return metadata

    def read_worker(self, worker_id: str) -> Metadata:
        """Return the metadata of a worker by the name of its folder.

        Raises:
            WorkerNotFoundError: there is no such worker, or its folder cannot be read.
        """
        metadata = self._metadata(worker_id)
        if metadata is None:
            raise self._not_found(worker_id)
        return metadata

    def list(
        self,
        *,
        owner_id: str | None = None,
        status: str | None = None,
        since_hours: float | None = None,
        limit: int = 20,
    ) -> Sequence[Metadata]:
        """Return the metadata of workers, newest first; damaged folders are left out.

        Args:
            owner_id: only this owner's workers; None is everybody's.
            status: only those that have this `status`.
            since_hours: only those created in so many last hours.
            limit: how many at most.
        """
        return [*islice(self._newest(owner_id, status, since_hours), max(limit, 0))]

    def search(
        self, pattern: str, *, owner_id: str | None = None, since_hours: float | None = None, limit: int = 50
    ) -> Sequence[Match]:
        """Find a text in tasks, summaries, errors, results and metrics, whatever its case, newest workers first.

        Args:
            pattern: the text, as it is on one line of a file.
            owner_id: only this owner's workers; None is everybody's.
            since_hours: only workers created in so many last hours.
            limit: how many matches at most.

        Raises:
            ValueError: the pattern is empty.
        """
        if not pattern:
            msg = "the pattern is empty; give a text to look for"
            raise ValueError(msg)
        wanted = re.compile(re.escape(pattern), re.IGNORECASE)
        workers = self._newest(owner_id, None, since_hours)
        found = (match for worker in workers for match in matches(self.root / worker.worker_id, worker, wanted))
        return [*islice(found, max(limit, 0))]

    def status(self, metadata: Metadata) -> str:
        """Return a worker's status now: its metadata's, or ``lost`` when it has not ended and nobody has its lock.

        Locks may not reach other hosts, so a worker of another host stays ``running``; see `last_sign_of_life`.
        """
        return liveness.status(self.root / metadata.worker_id, metadata, lambda: self._metadata(metadata.worker_id))

    def last_sign_of_life(self, metadata: Metadata) -> datetime:
        """Return when a worker's files were written last, or when it was created if they are gone."""
        return liveness.last_sign(self.root / metadata.worker_id, metadata)

    def open_calls(self, metadata: Metadata) -> Sequence[StartedCall]:
        """Return the calls that were open at the latest sign of life of a worker that has not ended.

        All that had been open for half a second are among them.
        """
        return liveness.open_calls(self.root / metadata.worker_id, metadata)

    def result(self, worker_id: str) -> str | None:
        """Return a worker's answer, whole, or None when it set none.

        Raises:
            WorkerNotFoundError: there is no such worker.
            FileRefusedError: ``result.txt`` is not a plain file.
        """
        try:
            with open_alone(self._folder(worker_id), [RESULT_FILE]) as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return None

    def events(self, worker_id: str) -> EventReader:
        """Return a reader of a worker's events so far.

        Raises:
            WorkerNotFoundError: there is no such worker.
        """
        return EventReader(partial(open_alone, self._folder(worker_id), [METRICS_FILE]))

    def files(self, worker_id: str) -> Sequence[FileEntry]:
        """Return names and sizes of a worker's plain files, of the first few hundred.

        Raises:
            WorkerNotFoundError: there is no such worker.
        """
        return list_files(self._folder(worker_id))

    def open_file(self, worker_id: str, file_path: str) -> BinaryIO:
        """Open a file of a worker for reading; nothing outside its folder is ever opened.

        Args:
            worker_id: the name of its folder.
            file_path: the file's path inside the folder, with ``/``.

        Raises:
            WorkerNotFoundError: there is no such worker.
            FileRefusedError: the path leaves the folder, or names no plain file.
            FileNotFoundError: there is no such file; says which there are.
        """
        return open_file(self._folder(worker_id), file_path)

    def _save_with_status(self, metadata: Metadata) -> None:
        try:
            self.save(metadata)
        finally:
            self._registry.update_status(metadata.worker_id, metadata.status)

    def _folder_to_write(self, worker_id: str) -> Path:
        try:
            return self._folder(worker_id)
        except WorkerNotFoundError as error:
            msg = f"{error}; events are appended to a worker that ArtifactStore.create has made"
            raise FileNotFoundError(msg) from None

    def _folder(self, worker_id: str) -> Path:
        path = self.root / worker_id
        if not _WORKER_ID.fullmatch(worker_id) or path.is_symlink() or not path.is_dir():
            raise self._not_found(worker_id)
        return path

    def _not_found(self, worker_id: str) -> WorkerNotFoundError:
        return WorkerNotFoundError(f"worker {one_line(worker_id, 128)!r} not found in {self.root}")

    def _metadata(self, worker_id: str) -> Metadata | None:
        """Read a worker's metadata; None when it is missing, damaged, or another worker's."""
        if not _WORKER_ID.fullmatch(worker_id):
            return None
        try:
            with open_plain(self.root / worker_id, [METADATA_FILE]) as file:
                metadata = schema.decode(file.read())
        except (OSError, FileRefusedError) as error:
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                raise
            return None
        return metadata if metadata is not None and metadata.worker_id == worker_id else None

    def _scan(self) -> Iterator[Job]:
        """Read the jobs from the folders. A folder without a number is no job: it was never given out."""
        for path in self.root.iterdir():
            metadata = self._metadata(path.name)
            if metadata is not None and metadata.job_id is not None:
                yield Job(metadata.job_id, path.name, metadata.owner_id, metadata.status, metadata.created_at)

    def _newest(self, owner_id: str | None, status: str | None, since_hours: float | None) -> Iterator[Metadata]:
        # The index may lag behind a worker's own file, and never says lost: what is open in it is always looked at.
        statuses = None if status is None else OPEN_STATUSES | {status}
        since = None if since_hours is None else _hours_ago(since_hours)
        last: Job | None = None
        while jobs := self._registry.list(owner_id=owner_id, statuses=statuses, since=since, before=last, limit=_PAGE):
            for job in jobs:
                metadata = self._metadata(job.worker_id)
                if metadata is None or metadata.job_id != job.job_id or metadata.owner_id != job.owner_id:
                    continue
                if status is None or self.status(metadata) == status:
                    yield metadata
            last = jobs[-1]


def _clean(text: str) -> str:
    """Take the secrets out of a text, and make it one that encodes as UTF-8."""
    return scrub(text).encode(errors="backslashreplace").decode()


def _hours_ago(hours: float) -> str:
    if math.isnan(hours):
        msg = "since_hours is not a number; give how many hours to look back, such as 24"
        raise ValueError(msg)
    return timestamp(max(time.time_ns() - round(max(min(hours, _MAX_HOURS), 0) * 3600e9), 0))
