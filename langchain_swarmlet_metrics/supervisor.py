"""The supervisor's tools: read results, files and metrics of workers, find them, spawn and cancel them.

A tool answers every mistake with a sentence that says what to do; it never raises into the agent. Another owner's job
answers exactly as one that does not exist, after the same steps.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

from langchain_core.tools import StructuredTool

from langchain_swarmlet_metrics import report
from langchain_swarmlet_metrics.parts import quoted, shown
from langchain_swarmlet_metrics.reader import WorkerNotFoundError
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.spawn import SpawnRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.tools import BaseTool
    from pydantic import ValidationError

    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.spawn import Spawner
    from langchain_swarmlet_metrics.store import ArtifactStore
    from langchain_swarmlet_metrics.worker import Worker

SUPERVISOR_PROMPT_HINT = "For detailed performance metrics, read 'metrics.jsonl' from the worker directory."
"""The sentence for a supervisor's prompt that tells it where the details are."""

_LISTED = 200
_MATCHES = 50
_STOPPED = (
    "[the search took too long and stopped here, older jobs and later lines may have more matches; "
    "narrow it down with since_hours, a longer text or a simpler pattern]"
)
_FIND = "Call list_workers to see the jobs there are."
_STATUSES = ("created", "running", "success", "failed", "cancelled", "lost")


def tools(
    store: ArtifactStore,
    owner_id: Callable[[], str | None],
    spawner: Spawner | None,
    include: Sequence[str] | None,
) -> list[BaseTool]:
    """Return the supervisor's tools.

    Args:
        store: where the workers are.
        owner_id: asked at each call for whose jobs may be seen; None sees all.
        spawner: runs spawned workers; without one there are no tools to spawn and cancel.
        include: names of the tools to return, in that order; by default all.

    Raises:
        ValueError: a name in ``include`` is no tool.
    """
    reading = _Reading(store, owner_id)
    made = [
        _reading_tool(function)
        for function in (
            reading.read_worker_result,
            reading.read_worker_file,
            reading.list_workers,
            reading.get_worker_metadata,
            reading.read_worker_metrics,
            reading.grep_workers,
        )
    ]
    if spawner is not None:
        spawning = _Spawning(reading, spawner)
        made += [
            _tool(spawning.spawn_worker, spawning.aspawn_worker),
            _reading_tool(spawning.cancel_worker),
        ]
    by_name = {tool.name: tool for tool in made}
    if include is None:
        return list(made)
    if unknown := [name for name in include if name not in by_name]:
        more = "" if spawner is not None else "; with worker=, what they run, also spawn_worker and cancel_worker"
        msg = f"no supervisor tool is called {unknown[0]!r}; there are {', '.join(by_name)}{more}"
        raise ValueError(msg)
    return [by_name[name] for name in include]


class _Reading:
    """Answer questions about workers, each with a text."""

    def __init__(self, store: ArtifactStore, owner_id: Callable[[], str | None]) -> None:
        self.store = store
        self.owner_id = owner_id

    def find(self, job_id: int | str) -> Metadata:
        """Return a job's metadata.

        Raises:
            ValueError: the id is no number from 1 on.
            WorkerNotFoundError: there is no such job, or it is another owner's.
        """
        text = str(job_id).strip()
        if not (text.isascii() and text.isdecimal() and int(text[:18]) > 0 and len(text) <= 18):  # noqa: PLR2004
            msg = f"{quoted(text)} is no job id; job ids are whole numbers from 1 on. {_FIND}"
            raise ValueError(msg)
        try:
            return self.store.read(int(text), owner_id=self.owner_id())
        except WorkerNotFoundError:
            msg = f"worker job {int(text)} not found. {_FIND}"
            raise WorkerNotFoundError(msg) from None

    def read_worker_result(self, job_id: int | str) -> str:
        """Read the result of a worker job, with its execution time. Says so if the job failed or still runs."""
        return report.result_text(self.store, self.find(job_id))

    def read_worker_file(
        self, job_id: int | str, file_path: str, offset: int | None = None, limit: int | None = None
    ) -> str:
        """Read a file from a worker's directory, such as 'metrics.jsonl' (one JSON line per LLM call and tool call).

        A file over 64 kB comes in parts: offset is the first line to read (from 0), limit how many lines.
        """
        with self.store.open_file(self.find(job_id).worker_id, file_path) as file:
            return shown(file, file_path, offset, limit)

    def list_workers(self, limit: int = 20, status: str | None = None, since_hours: float | None = None) -> str:
        """List worker jobs, newest first, 200 at most: id, status, execution time and summary of each.

        Optionally only those of a status (created, running, success, failed, cancelled, lost) or of the last hours.
        """
        if status is not None and status not in _STATUSES:
            msg = f"{quoted(status)} is no status; use one of {', '.join(_STATUSES)}"
            raise ValueError(msg)
        most = min(max(limit, 1), _LISTED)
        found = self.store.list(owner_id=self.owner_id(), status=status, since_hours=since_hours, limit=most + 1)
        lines = [report.line_text(self.store, metadata) for metadata in found[:most]]
        if len(found) > most:
            how = "give a larger limit" if most < _LISTED else "narrow them down with status or since_hours"
            lines.append(f"[these are the newest {most}, there are more; {how}]")
        return "\n".join(lines) or "No worker jobs found."

    def get_worker_metadata(self, job_id: int | str) -> str:
        """Read a worker job's metadata: task, status, times, token totals, and what is not known, as JSON."""
        return report.metadata_text(self.store, self.find(job_id))

    def read_worker_metrics(self, job_id: int | str) -> str:
        """Read a digest of a worker job's metrics: totals by phase, model and tool, slowest calls, failures."""
        return report.digest_text(self.store, self.find(job_id))

    def grep_workers(self, pattern: str, since_hours: float | None = None, regex: bool = False) -> str:
        """Search tasks, results, summaries, errors, metrics and captured content of all worker jobs, newest first.

        The pattern is plain text on one line, in upper or lower case; with regex it is a regular expression.
        """
        if not pattern.strip():
            msg = "the pattern is empty; give a text to look for"
            raise ValueError(msg)
        found = self.store.search(
            pattern, regex=regex, owner_id=self.owner_id(), since_hours=since_hours, limit=_MATCHES + 1
        )
        lines = [
            f"job {match.metadata.job_id}  {match.file}:{match.line_no}: {match.line}" for match in found[:_MATCHES]
        ]
        if len(found) > _MATCHES:
            lines.append(f"[these are the newest {_MATCHES}, there are more; look for a longer text]")
        elif found.stopped:
            lines.append(_STOPPED)
        return "\n".join(lines) or f"No worker job mentions {quoted(pattern)}."


class _Spawning:
    """Start and cancel workers."""

    def __init__(self, reading: _Reading, spawner: Spawner) -> None:
        self._reading = reading
        self._spawner = spawner

    def spawn_worker(self, task: str, wait: bool = True) -> str:
        """Delegate a task to a worker agent. With wait, returns its result; else a job id to read the result later."""
        return self._answer(self._spawner.spawn(task, wait=wait), wait=wait)

    async def aspawn_worker(self, task: str, wait: bool = True) -> str:
        """Do what `spawn_worker` does, on the running loop."""
        worker = await self._spawner.aspawn(task, wait=wait)
        return await asyncio.to_thread(self._answer, worker, wait=wait)

    def _answer(self, worker: Worker, *, wait: bool) -> str:
        job_id = worker.job_id
        if wait or job_id is None:  # without a number it cannot be asked for later, so the spawner has waited for it
            return report.result_text(self._reading.store, worker.metadata)
        return f"Started worker job {job_id}. Read its result later with read_worker_result({job_id})."

    def cancel_worker(self, job_id: int | str) -> str:
        """Cancel a worker job that was spawned here and has not ended."""
        number = self._reading.find(job_id).job_id or 0
        status = self._spawner.cancel(number)
        if status == "cancelled":
            return f"Worker job {number} is cancelled."
        if status is None:
            status = self._reading.store.status(self._reading.find(number))
        if status in ("created", "running"):
            return f"Error: worker job {number} was started elsewhere and can be cancelled only there. It is {status}."
        return f"Worker job {number} has already ended: {status}."


def _reading_tool(function: Callable[..., str]) -> StructuredTool:
    """Make a tool of a function that reads files; in asynchronous agents it runs in a thread."""

    @functools.wraps(function)
    async def in_thread(*args: Any, **kwargs: Any) -> str:
        return await asyncio.to_thread(function, *args, **kwargs)

    return _tool(function, in_thread)


def _tool(function: Callable[..., str], coroutine: Callable[..., Any]) -> StructuredTool:
    return StructuredTool.from_function(
        func=_answering(function),
        coroutine=_aanswering(coroutine),
        name=function.__name__,
        description=inspect.getdoc(function),
        handle_validation_error=_invalid_arguments,
    )


def _answering(function: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> str:
        try:
            return function(*args, **kwargs)
        except _MISTAKES as error:
            return _sentence(error)

    return answer


def _aanswering(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def answer(*args: Any, **kwargs: Any) -> str:
        try:
            return str(await function(*args, **kwargs))
        except _MISTAKES as error:
            return _sentence(error)

    return answer


_MISTAKES = (LookupError, ValueError, OSError, SpawnRefusedError)


def _sentence(error: Exception) -> str:
    text = error_text(error)
    return f"Error: {text}" if text.endswith((".", "?", "!")) else f"Error: {text}."


def _invalid_arguments(error: ValidationError | Any) -> str:
    problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return f"Error: the arguments do not fit ({error_text(problems)}). Call the tool again with them corrected."
