"""The job table: which worker folder belongs to which job number, for lists that need not read every folder.

``index.sqlite3`` is derived from the folders. When it is missing or damaged, whoever opens it next builds it anew. In a
root that cannot be written, where SQLite can't read it either, a table in memory takes its place.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
import time
import weakref
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from langchain_swarmlet_metrics import locks, logs, modes
from langchain_swarmlet_metrics.folder import is_worker_folder, set_aside
from langchain_swarmlet_metrics.jobs import (
    COLUMNS,
    VERSION,
    DamagedIndexError,
    Job,
    checked_rows,
    fill,
    insert_jobs,
    is_job_id,
    means_damage,
)
from langchain_swarmlet_metrics.listing import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

_TRIES = 5
_BUSY_S = 5.0
_LOCK_S = 10.0
_STATUS_S = 0.25
_EXIT_S = 2.0
_POLL_S = 0.001
_QUICK = "PRAGMA synchronous = OFF"  # what a power cut damages is built anew

_Result = TypeVar("_Result")


class Registry:
    """Number jobs, and find and list them.

    Each call opens the index and closes it again: then a file that was deleted is noticed, and no connection is ever
    carried into a forked child or another thread. The folder's lock keeps processes apart; it is shared by those
    that only read.

    Args:
        path: the index, in the folder of the worker folders.
        scan: reads the jobs from the worker folders. Must not use the registry.
        file_mode: of an index that is made.
    """

    def __init__(self, path: Path, scan: Callable[[], Iterable[Job]], file_mode: int = modes.PRIVATE) -> None:
        self.path = path
        self._scan = scan
        self._file_mode = file_mode
        self._is_held = False
        self._untold: dict[str, str] = {}  # worker -> status that the index has not been told of yet
        _registries.add(self)

    @contextmanager
    def adding(self, worker_id: str, owner_id: str | None, created_at: str) -> Iterator[int]:
        """Add a job with status ``created`` and yield its number; the block writes it into the worker's folder.

        The index is not built anew before the block is left, so the number cannot be given out a second time.

        Raises:
            OSError: the index cannot be written.
        """

        def insert(connection: sqlite3.Connection) -> int | None:
            self._tell(connection)
            sql = "INSERT OR REPLACE INTO jobs (worker_id, owner_id, status, created_at) VALUES (?, ?, 'created', ?)"
            return connection.execute(sql, (worker_id, owner_id, created_at)).lastrowid

        with self._locked():
            job_id = self._repairing(insert)
            assert job_id is not None  # noqa: S101 - SQLite has a number for every row it inserted
            yield job_id

    def update_status(self, worker_id: str, status: str) -> None:
        """Set a job's status. It waits for others but a moment: readers look at the folder of whoever is open here.

        What cannot be set now is set together with the next change that this process makes, or at its exit.

        Raises:
            OSError: the index cannot be written.
        """
        self._untold[worker_id] = status
        self._catch_up(_STATUS_S)

    def _catch_up(self, timeout_s: float) -> None:
        if not _no_fork.acquire(timeout=timeout_s):
            return  # so many threads of this process change the index that one of them will tell it soon
        try:
            if self._untold:  # unless another thread has told it meanwhile
                with self._locked(timeout_s=timeout_s):
                    self._repairing(self._tell, busy_s=timeout_s)
        finally:
            _no_fork.release()

    def _tell(self, connection: sqlite3.Connection) -> None:
        for worker_id, status in self._untold.copy().items():
            connection.execute("UPDATE jobs SET status = ? WHERE worker_id = ?", (status, worker_id))
            if self._untold.get(worker_id) == status:
                self._untold.pop(worker_id, None)

    def find(self, job_id: int, owner_id: str | None = None) -> Job | None:
        """Return a job by its number, or None.

        Args:
            job_id: its number.
            owner_id: whose it must be, asked in the same query: another's takes as long as none; None is anybody's.

        Raises:
            OSError: the index cannot be read.
        """
        if not is_job_id(job_id):
            return None
        rows = self._select("WHERE job_id = ? AND (? IS NULL OR owner_id = ?)", (job_id, owner_id, owner_id))
        return rows[0] if rows else None

    def find_worker(self, worker_id: str) -> Job | None:
        """Return a worker's job, or None.

        Raises:
            OSError: the index cannot be read.
        """
        rows = self._select("WHERE worker_id = ?", (worker_id,))
        return rows[0] if rows else None

    def rows(self) -> Sequence[Job]:
        """Return every job as the index has it, after a close look at the index, which is left as it is.

        In a root that cannot be written nobody reads the index, so there the rows are what the folders say.

        Raises:
            DamagedIndexError: it is missing, damaged, or not of this schema.
            OSError: it cannot be read.
        """
        if _is_read_only(self.path.parent):
            return self._in_memory(checked_rows)
        with self._locked(shared=True):
            return self._opened(checked_rows)

    def sync(self) -> None:
        """Make the index say what the worker folders say. Numbers that were given out once stay given out.

        Raises:
            OSError: the index cannot be written, or the folders cannot be read.
        """

        def refill(connection: sqlite3.Connection) -> None:
            rows, jobs = checked_rows(connection), self._jobs()
            named = {job.worker_id for job in jobs}
            connection.execute("BEGIN IMMEDIATE")
            for row in rows:  # that of a folder without readable metadata is all that is known of its worker
                if row.worker_id in named or not is_worker_folder(self.path.parent, row.worker_id):
                    connection.execute("DELETE FROM jobs WHERE job_id = ?", (row.job_id,))
            insert_jobs(connection, jobs)
            connection.execute("COMMIT")

        with self._locked():
            self._repairing(refill)

    def list(
        self,
        *,
        owner_id: str | None = None,
        statuses: Collection[str] | None = None,
        since: str | None = None,
        before: Job | None = None,
        limit: int = 20,
    ) -> Sequence[Job]:
        """Return jobs, newest first.

        Args:
            owner_id: only this owner's; None is everybody's.
            statuses: only those with one of these.
            since: only those created at this timestamp or later.
            before: only those that come after this one in the list, to go on where the last call ended.
            limit: how many at most.

        Raises:
            OSError: the index cannot be read.
        """
        conditions = {
            "owner_id = ?": None if owner_id is None else (owner_id,),
            f"status IN ({', '.join('?' * len(statuses or ()))})": statuses,
            "created_at >= ?": None if since is None else (since,),
            "(created_at, job_id) < (?, ?)": None if before is None else (before.created_at, before.job_id),
        }
        wanted = {condition: values for condition, values in conditions.items() if values is not None}
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        values = [value for given in wanted.values() for value in given]
        return self._select(f"{where} ORDER BY created_at DESC, job_id DESC LIMIT ?", (*values, limit))

    def _select(self, clauses: str, values: Sequence[object]) -> Sequence[Job]:
        def select(connection: sqlite3.Connection) -> list[Job]:
            rows = connection.execute(f"SELECT {COLUMNS} FROM jobs {clauses}", values)  # noqa: S608 - our own text
            return [Job._make(row) for row in rows]

        if _is_read_only(self.path.parent):
            return self._in_memory(select)
        with suppress(DamagedIndexError), self._locked(shared=True):
            return self._opened(select)
        with self._locked():
            return self._repairing(select)

    def _in_memory(self, operation: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Do something with a table of what the folders say now, as reading a file in WAL mode writes beside it."""
        jobs = self._jobs()
        with _no_fork, closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            fill(connection, jobs)
            return operation(connection)

    def _repairing(self, operation: Callable[[sqlite3.Connection], _Result], busy_s: float = _BUSY_S) -> _Result:
        """Do something with the index, built anew if need be. The lock is held, so nobody else builds it meanwhile."""
        damage: DamagedIndexError | None = None
        for _ in range(_TRIES):
            try:
                if damage is not None:
                    self._rebuild(str(damage))
                return self._opened(operation, busy_s=busy_s)
            except DamagedIndexError as error:  # or somebody deletes it all the time, whom no lock stops
                damage = error
        assert damage is not None  # noqa: S101 - otherwise the loop has returned
        raise damage

    def _opened(self, operation: Callable[[sqlite3.Connection], _Result], busy_s: float = _BUSY_S) -> _Result:
        """Do something with the index.

        Args:
            operation: what to do.
            busy_s: how long to wait for whoever else writes to it, in seconds.

        Raises:
            DamagedIndexError: the index has to be built anew first.
            OSError: anything else that SQLite reports.
        """
        try:
            with closing(_connect(self.path, busy_s)) as connection:
                connection.execute(_QUICK)
                if connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
                    msg = f"{self.path} has another schema"
                    raise DamagedIndexError(msg)
                return operation(connection)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            is_damaged = means_damage(error) or not self.path.exists()
            msg = f"{self.path}: {error}"
            raise (DamagedIndexError if is_damaged else OSError)(msg) from error

    def _rebuild(self, reason: str) -> None:
        given_out = self._given_out()
        with suppress(FileNotFoundError):  # it is missing, or somebody has just deleted it
            aside = set_aside(self.path, "damaged")
            logs.warn("%s is built anew from the worker folders: %s. The old one is %s", self.path, reason, aside)
        made = self.path.with_name(f".{self.path.name}{TEMPORARY}")
        made.unlink(missing_ok=True)
        os.close(modes.open_or_make(made, os.O_WRONLY, self._file_mode))  # SQLite's own files beside it get its mode
        try:
            with closing(_connect(made)) as connection:
                connection.execute(_QUICK)
                connection.execute("PRAGMA journal_mode = WAL")
                fill(connection, self._jobs(), given_out)
        except sqlite3.Error as error:
            msg = f"{made}: {error}"
            raise OSError(msg) from error
        for journal in ("-wal", "-shm"):  # SQLite would take an old one for the new file's
            Path(f"{self.path}{journal}").unlink(missing_ok=True)
        made.replace(self.path)

    def _jobs(self) -> Sequence[Job]:
        """Read the jobs that have a proper number from the worker folders, the oldest first."""
        jobs = [job for job in self._scan() if is_job_id(job.job_id)]
        return sorted(jobs, key=lambda job: (job.created_at, job.worker_id))

    def _given_out(self) -> int:
        """Return the largest number that was ever given out, if the index still tells; else 0."""
        with suppress(sqlite3.Error, UnicodeDecodeError), closing(_connect(self.path)) as connection:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
            return row[0] if row and isinstance(row[0], int) and is_job_id(row[0]) else 0
        return 0

    @contextmanager
    def _locked(self, *, shared: bool = False, timeout_s: float | None = None) -> Iterator[None]:
        with _no_fork:
            if self._is_held:  # by this thread, which a signal handler or a finalizer has interrupted
                yield
                return
            timeout = _LOCK_S if timeout_s is None else timeout_s
            descriptor = _lock_folder(self.path.parent, shared=shared, timeout_s=timeout)
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False
                if descriptor is not None:
                    locks.free(descriptor)
                    os.close(descriptor)


def _connect(path: Path, busy_s: float = _BUSY_S) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode=rw"  # a missing file is not made, but missed
    return sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None)


def _is_read_only(folder: Path) -> bool:
    return os.access(folder, os.R_OK) and not os.access(folder, os.W_OK)


_registries: weakref.WeakSet[Registry] = weakref.WeakSet()


@atexit.register
def _catch_up_all() -> None:
    for registry in list(_registries):
        with suppress(OSError):
            registry._catch_up(_EXIT_S)  # noqa: SLF001 - the other half of this class


def _forget_untold() -> None:
    """Leave what a forked child's parent has to tell to the parent."""
    for registry in list(_registries):
        registry._untold.clear()  # noqa: SLF001 - the other half of this class


# A child that is forked while another thread is inside SQLite inherits SQLite's notes on locks that it does not have:
# it sees a malformed or locked database. So a fork waits for whoever uses an index, and so does the next user.
_no_fork = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)
    os.register_at_fork(after_in_child=_forget_untold)


def _lock_folder(folder: Path, *, shared: bool, timeout_s: float) -> int | None:
    """Lock a folder; return the descriptor that holds the lock, or None where folders have none.

    Raises:
        TimeoutError: others hold it all the time.
        OSError: the folder is missing.
    """
    if os.name == "nt":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + timeout_s
    try:
        while locks.take(descriptor, shared=shared) is False:
            if time.monotonic() > deadline:
                msg = f"{folder} has been locked by another process for {timeout_s:g} s; try again"
                raise TimeoutError(msg)
            time.sleep(_POLL_S)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
