"""The job table itself: its schema, its rows, and what shows that it is damaged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS jobs (
        job_id INTEGER PRIMARY KEY AUTOINCREMENT,
        worker_id TEXT UNIQUE NOT NULL,
        owner_id TEXT,
        status TEXT NOT NULL,
        created_at TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS newest ON jobs (created_at, job_id)",
    "CREATE INDEX IF NOT EXISTS newest_of_owner ON jobs (owner_id, created_at, job_id)",
    f"PRAGMA user_version = {VERSION}",
)
COLUMNS = "job_id, worker_id, owner_id, status, created_at"
# SQLite's general error is one in what is asked of it: of an index that is as it should be, all of that can be asked.
_DAMAGES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
LARGEST_JOB_ID = 2**53  # a larger one would leave no room for the next, or not survive in JSON


class Job(NamedTuple):
    """One row of the job table."""

    job_id: int
    worker_id: str
    owner_id: str | None
    status: str
    created_at: str


def is_job_id(number: int) -> bool:
    """Tell whether a number can be that of a job."""
    return 0 < number < LARGEST_JOB_ID


class DamagedIndexError(OSError):
    """The index is missing, is not a database, or has another schema, and could not be built anew."""


def fill(connection: sqlite3.Connection, jobs: Sequence[Job], given_out: int = 0) -> None:
    """Make the job table of an empty database, in which numbers up to one count as given out."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO sqlite_sequence VALUES ('jobs', ?)", (given_out,))
    insert_jobs(connection, jobs)
    connection.execute("COMMIT")


def insert_jobs(connection: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Insert jobs, the oldest first: of two folders with one number the older has it, the other only its name."""
    connection.executemany(
        f"INSERT OR REPLACE INTO jobs ({COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608 - our own text
        reversed(jobs),
    )


def checked_rows(connection: sqlite3.Connection) -> Sequence[Job]:
    """Return all rows of an index that is as it should be.

    Raises:
        DamagedIndexError: it is not.
    """
    with closing(sqlite3.connect(":memory:")) as model:
        for statement in SCHEMA:
            model.execute(statement)
        lacking = _layout(model) - _layout(connection)
    (state,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if lacking or state != "ok":
        msg = f"it lacks {', '.join(sorted(name for name, _ in lacking))}" if lacking else " ".join(state.split())
        raise DamagedIndexError(msg)
    rows = connection.execute(f"SELECT {COLUMNS} FROM jobs").fetchall()  # noqa: S608 - our own text
    try:
        return msgspec.convert(rows, list[Job])
    except msgspec.ValidationError as error:  # SQLite's columns take values of any type
        raise DamagedIndexError(str(error)) from None


def _layout(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return the names of tables and indices, and the statements that made them."""
    made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {(name, " ".join(sql.split())) for name, sql in made}


def means_damage(error: Exception) -> bool:
    """Tell whether an error says that the index is no job table, and has to be built anew."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own: a text of the index, or SQLite's message on it, is not UTF-8
        return isinstance(error, UnicodeDecodeError | sqlite3.OperationalError)
    return code & 0xFF in _DAMAGES
