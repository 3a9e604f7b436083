"""Reading worker folders: find, list and search workers, and open their files."""

from __future__ import annotations

import sys
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from langchain_swarmlet_metrics import liveness, settings
from langchain_swarmlet_metrics import metadata as schema
from langchain_swarmlet_metrics.eventlog import EventReader
from langchain_swarmlet_metrics.events import hours_ago
from langchain_swarmlet_metrics.folder import (
    METRICS_FILE,
    RESULT_FILE,
    is_worker_id,
    make_root,
    open_alone,
    open_file,
)
from langchain_swarmlet_metrics.jobs import Job
from langchain_swarmlet_metrics.listing import FileEntry, list_files
from langchain_swarmlet_metrics.liveness import OPEN_STATUSES
from langchain_swarmlet_metrics.modes import PRIVATE, checked_file_mode
from langchain_swarmlet_metrics.overlay import Overlay
from langchain_swarmlet_metrics.owners import is_trusted
from langchain_swarmlet_metrics.parts import Head, head
from langchain_swarmlet_metrics.registry import Registry
from langchain_swarmlet_metrics.scrub import one_line
from langchain_swarmlet_metrics.search import Found, Query, find
from langchain_swarmlet_metrics.summaries import Summaries, Sums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.snapshot import StartedCall

INDEX_FILE = "index.sqlite3"

_PAGE = 50


class WorkerNotFoundError(LookupError):
    """There is no such worker, or its ``metadata.json`` cannot be read."""


class StoreReader:
    """Read, list and search worker folders; `ArtifactStore` writes them as well."""

    def __init__(self, root: str | Path | None = None, *, file_mode: int = PRIVATE) -> None:
        self._file_mode = checked_file_mode(file_mode)
        self.root = make_root(settings.default_root() if root is None else Path(root).expanduser(), file_mode)
        self.overlay = Overlay()
        """Workers of this process whose files could not be written; readers are told of them from here."""
        self._summaries = Summaries()
        self._registry = Registry(self.root / INDEX_FILE, self._scan, file_mode)

    def __repr__(self) -> str:
        return f"ArtifactStore({str(self.root)!r})"

    @property
    def registry(self) -> Registry:
        """Return the job table, which is derived from the folders."""
        return self._registry

    def read(self, job_id: int, *, owner_id: str | None = None) -> Metadata:
        """Return the metadata of a job's worker.

        Args:
            job_id: the number of the job.
            owner_id: whose it must be: another's is missing, and its folder is not looked at; None is anybody's.

        Raises:
            WorkerNotFoundError: there is no such job, or its folder cannot be read.
        """
        job = self._registry.find(job_id, owner_id)
        metadata = None if job is None else self._metadata(job.worker_id)
        if metadata is None or metadata.job_id != job_id or owner_id not in (None, metadata.owner_id):
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
        return [*islice(self._newest(owner_id, status, since_hours), min(max(limit, 0), sys.maxsize))]

    def search(
        self,
        pattern: str,
        *,
        regex: bool = False,
        owner_id: str | None = None,
        since_hours: float | None = None,
        limit: int = 50,
        within_s: float = 5.0,
    ) -> Found:
        """Find a text in tasks, summaries, errors, results and metrics, whatever its case, newest workers first.

        Args:
            pattern: the text, as it is on one line of a file.
            regex: whether the pattern is a regular expression instead.
            owner_id: only this owner's workers; None is everybody's.
            since_hours: only workers created in so many last hours.
            limit: how many matches at most.
            within_s: seconds after which the search stops, and says so in the answer's ``stopped``.

        Raises:
            ValueError: the pattern is empty, too long, or no regular expression.
        """
        query = Query(pattern, regex=regex, within_s=within_s)
        return find(self.root, self._newest(owner_id, None, since_hours), query, limit)

    def status(self, metadata: Metadata) -> str:
        """Return a worker's status now: its metadata's, or ``lost`` when it has not ended and nobody has its lock.

        Locks may not reach other hosts, so a worker of another host stays ``running``; see `last_sign_of_life`.
        """
        if held := self.overlay.get(metadata.worker_id):
            return held.metadata.status
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
        """Return a worker's answer, whole, or None when it set none; `result_head` reads one of any size.

        Raises:
            WorkerNotFoundError: there is no such worker.
            FileRefusedError: ``result.txt`` is not a plain file.
        """
        if held := self.overlay.get(worker_id):
            return held.result
        try:
            with open_alone(self._folder(worker_id), [RESULT_FILE]) as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return None

    def result_head(self, worker_id: str, limit: int) -> Head | None:
        """Return the beginning of a worker's answer, or None when it set none.

        Args:
            worker_id: the name of its folder.
            limit: how many bytes at most.

        Raises:
            WorkerNotFoundError: there is no such worker.
            FileRefusedError: ``result.txt`` is not a plain file.
        """
        if held := self.overlay.get(worker_id):
            return None if held.result is None else head(BytesIO(held.result.encode(errors="replace")), limit)
        try:
            with open_alone(self._folder(worker_id), [RESULT_FILE]) as file:
                return head(file, limit)
        except FileNotFoundError:
            return None

    def events(self, worker_id: str, *, within_s: float | None = None) -> EventReader:
        """Return a reader of a worker's events so far.

        Args:
            worker_id: the name of its folder.
            within_s: seconds after which the reader stops, and says so in ``stopped``; None reads to the end.

        Raises:
            WorkerNotFoundError: there is no such worker.
        """
        return EventReader(partial(open_alone, self._folder(worker_id), [METRICS_FILE]), within_s=within_s)

    def summary(self, worker_id: str, *, within_s: float | None = None) -> Sums:
        """Return the sums of a worker's events so far.

        Of the workers that were asked for last only what has been written since is read.

        Args:
            worker_id: the name of its folder.
            within_s: seconds after which reading stops, and the answer says so in ``stopped``; None reads to the end.

        Raises:
            WorkerNotFoundError: there is no such worker.
            FileRefusedError: ``metrics.jsonl`` is not a plain file.
        """
        file = partial(open_alone, self._folder(worker_id), [METRICS_FILE])
        return self._summaries.of(worker_id, file, within_s=within_s)

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

    def _folder(self, worker_id: str) -> Path:
        path = self.root / worker_id
        if not is_worker_id(worker_id) or not is_trusted(path):
            raise self._not_found(worker_id)
        return path

    def _not_found(self, worker_id: str) -> WorkerNotFoundError:
        return WorkerNotFoundError(f"worker {one_line(worker_id, 128)!r} not found in {self.root}")

    def _metadata(self, worker_id: str) -> Metadata | None:
        """Read a worker's metadata; None when it is missing, damaged, another worker's, or not to be trusted."""
        if held := self.overlay.get(worker_id):
            return held.metadata
        try:
            folder = self._folder(worker_id)
        except (OSError, WorkerNotFoundError):
            return None
        return schema.load(folder)

    def _scan(self) -> Iterator[Job]:
        """Read the jobs from the folders. A folder without a number is no job: it was never given out."""
        for path in self.root.iterdir():
            metadata = self._metadata(path.name)
            if metadata is not None and metadata.job_id is not None:
                yield Job(metadata.job_id, path.name, metadata.owner_id, metadata.status, metadata.created_at)

    def _newest(self, owner_id: str | None, status: str | None, since_hours: float | None) -> Iterator[Metadata]:
        # The index may lag behind a worker's own file and seldom says lost: what is open in it is always looked at.
        # It is never ahead of the file, so that who is created now is created in it, too.
        statuses = None if status is None else {status} if status == "created" else OPEN_STATUSES | {status}
        since = None if since_hours is None else hours_ago(since_hours)
        last: Job | None = None
        page = _PAGE
        while jobs := self._registry.list(owner_id=owner_id, statuses=statuses, since=since, before=last, limit=page):
            page *= 2  # in a root that is read-only all folders are read for each page
            for job in jobs:
                metadata = self._metadata(job.worker_id)
                if metadata is None or metadata.job_id != job.job_id or metadata.owner_id != job.owner_id:
                    continue
                if status is None or self.status(metadata) == status:
                    yield metadata
            last = jobs[-1]
