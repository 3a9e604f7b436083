"""The artifact store: the one place that touches the worker folders."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from langchain_swarmlet_metrics import logs, snapshot
from langchain_swarmlet_metrics import metadata as schema
from langchain_swarmlet_metrics.eventlog import EventWriter
from langchain_swarmlet_metrics.events import span, time_ns, timestamp
from langchain_swarmlet_metrics.folder import (
    METADATA_FILE,
    METRICS_FILE,
    RESULT_FILE,
    SNAPSHOT_FILE,
    folder_name,
    make_folder,
    replace_file,
)
from langchain_swarmlet_metrics.metadata import Metadata, Process
from langchain_swarmlet_metrics.reader import StoreReader, WorkerNotFoundError
from langchain_swarmlet_metrics.scrub import clean, error_text, one_line, scrub_value
from langchain_swarmlet_metrics.trace import NO_TRACE, Trace
from langchain_swarmlet_metrics.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from langchain_swarmlet_metrics.events import Event
    from langchain_swarmlet_metrics.metadata import Parent, Status
    from langchain_swarmlet_metrics.snapshot import Snapshot

_LONGEST_TEXT = 1_000_000  # of a task or summary, so that readers never find metadata.json too long


class NotRecordedError(OSError):
    """A worker has no folder, because the system refused it.

    Args:
        metadata: of the worker, as it would have been written.
        error: the system's.
    """

    def __init__(self, metadata: Metadata, error: OSError) -> None:
        super().__init__(error.errno, f"worker {metadata.worker_id} cannot be recorded: {error_text(error)}")
        self.metadata = metadata


class ArtifactStore(StoreReader):
    """Create, read, list and search worker folders.

    Its calls block, each opens and closes what it needs, and threads, forked children and other processes may use the
    same root at the same time. In asynchronous code call it with `asyncio.to_thread`. What the system refuses to read
    or to write, the index included, is raised as the system's own `OSError`.

    Args:
        root: the folder of the worker folders, made when it is missing; by default `settings.default_root`. One that
            cannot be written can be read.
        file_mode: of the files that are made: ``0o600``, or ``0o640`` to let the group read them; folders get the
            rights to enter that go with it.

    Raises:
        PermissionError: somebody else than this process's user and root can change what is in the root.
        OSError: the root cannot be made; of the class that the system's error has.
        ValueError: there is no such ``file_mode``; says which there are.
    """

    def create(
        self,
        task: str,
        *,
        owner_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        parent: Parent | None = None,
        trace: Trace = NO_TRACE,
        opening: Callable[[str], object] | None = None,
        store_task: bool = True,
    ) -> Metadata:
        """Make a worker's folder and its job number, with status ``created``.

        Where the index cannot be written the worker has no number, and can be read by the name of its folder only.

        Args:
            task: what the worker is asked to do; its first million characters are kept, without their secrets.
            owner_id: whose worker it is.
            config: the user's own notes; kept without their secrets.
            parent: who spawned it.
            trace: which trace it belongs to.
            opening: opens its `writer`, given its ``worker_id``, before anybody can see the worker: it is lost as soon
                as nobody has its file locked. None for one made by hand, which nobody keeps open.
            store_task: False to store no task and to keep it out of the folder's name.

        Raises:
            NotRecordedError: the folder cannot be made or written.
        """
        now_ns = time.time_ns()
        stored_task = clean(task, _LONGEST_TEXT) if store_task else None
        metadata = Metadata(
            worker_id=folder_name(now_ns, stored_task or ""),
            owner_id=owner_id,
            task=stored_task,
            created_at=timestamp(now_ns),
            config=None if config is None else cast("dict[str, Any]", scrub_value(dict(config))),
            parent=parent,
            **trace._asdict(),
            process=None if opening is None else Process.current(),
        )
        try:
            metadata.worker_id = make_folder(self.root, metadata.worker_id, self._file_mode)
        except OSError as error:
            raise NotRecordedError(metadata, error) from error
        try:
            if opening is not None:
                opening(metadata.worker_id)
            self._number(metadata)
        except OSError as error:
            shutil.rmtree(self.root / metadata.worker_id, ignore_errors=True)
            raise NotRecordedError(metadata, error) from error
        except BaseException:
            shutil.rmtree(self.root / metadata.worker_id, ignore_errors=True)
            raise
        return metadata

    def _number(self, metadata: Metadata) -> None:
        """Give a new worker its job number, and write both down."""
        try:
            with self._registry.adding(metadata.worker_id, metadata.owner_id, metadata.created_at) as metadata.job_id:
                self.save(metadata)
        except OSError as error:
            if metadata.job_id is not None:  # it is the folder that cannot be written
                raise
            text = "Worker %s has no job number: %s. `swarmlet-metrics doctor --fix` gives it one"
            logs.warn(text, metadata.worker_id, error_text(error))
            self.save(metadata)

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
            summary: kept as the task is.
        """
        metadata.status = status
        began_ns = time.time_ns() if metadata.started_at is None else time_ns(metadata.started_at)
        _, metadata.finished_at, metadata.duration_ms = span(began_ns, elapsed_ns)
        metadata.error = None if error is None else one_line(error)
        metadata.summary = None if summary is None else clean(summary, _LONGEST_TEXT)
        self.write(metadata, result)

    def write(self, metadata: Metadata, result: str | None = None) -> None:
        """Write a worker's result, if there is one, its metadata and its status; each even if the one before fails."""
        try:
            if result is not None:
                content = result.encode(errors="backslashreplace")  # a lone surrogate is no reason to lose the rest
                replace_file(self.root / metadata.worker_id / RESULT_FILE, content, self._file_mode)
        except OSError as error:
            lost = f"{RESULT_FILE} could not be written: {error_text(error)}"
            self._save_with_status(replace(metadata, error=metadata.error or lost))
            raise
        self._save_with_status(metadata)

    def save(self, metadata: Metadata) -> None:
        """Write a worker's ``metadata.json``; readers see the old one or the new one, whole."""
        replace_file(self.root / metadata.worker_id / METADATA_FILE, schema.encode(metadata), self._file_mode)

    def writer(self, worker_id: str) -> EventWriter:
        """Open a worker's ``metrics.jsonl`` for its events, and lock it: while it is open, the worker runs.

        Raises:
            FileNotFoundError: the worker has no folder.
            BlockingIOError: it is open already.
        """
        return EventWriter(self._folder_to_write(worker_id) / METRICS_FILE, self._file_mode)

    def transcript(self, worker_id: str) -> Transcript:
        """Return what writes down the content of a worker's calls; it makes files when there is something to write."""
        return Transcript(self.root / worker_id, self._file_mode)

    def append(self, worker_id: str, events: Iterable[Event]) -> None:
        """Append events to a worker's ``metrics.jsonl``, all with one write, whether or not the worker runs.

        Raises:
            FileNotFoundError: the worker has no folder.
        """
        path = self._folder_to_write(worker_id) / METRICS_FILE
        with closing(EventWriter(path, self._file_mode, lock=False)) as writer:
            writer(*events)

    def save_snapshot(self, taken: Snapshot) -> None:
        """Write a worker's ``inflight.json``; readers see the old one or the new one, whole."""
        replace_file(self.root / taken.worker_id / SNAPSHOT_FILE, snapshot.encode(taken), self._file_mode)

    def touch_snapshot(self, worker_id: str) -> None:
        """Note that a worker lives, and that its ``inflight.json`` is still right."""
        os.utime(self.root / worker_id / SNAPSHOT_FILE)

    def remove_snapshot(self, worker_id: str) -> None:
        """Remove a worker's ``inflight.json``: no call is open."""
        (self.root / worker_id / SNAPSHOT_FILE).unlink(missing_ok=True)

    def _save_with_status(self, metadata: Metadata) -> None:
        self.save(metadata)
        try:
            self._registry.update_status(metadata.worker_id, metadata.status)
        except OSError as error:  # readers look at the folder of whoever is open in the index
            logs.warn("The index could not be told of worker %s yet: %s", metadata.worker_id, error_text(error))

    def _folder_to_write(self, worker_id: str) -> Path:
        try:
            return self._folder(worker_id)
        except WorkerNotFoundError as error:
            msg = f"{error}; events are appended to a worker that ArtifactStore.create has made"
            raise FileNotFoundError(msg) from None
