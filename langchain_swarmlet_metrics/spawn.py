"""Spawner: runs the workers that a supervisor spawns, so many at once and so deep, and cancels them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from asyncio import CancelledError
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import agents
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.threads import DaemonExecutor, InlineExecutor

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from contextvars import Context

    from langchain_swarmlet_metrics.agents import Agent
    from langchain_swarmlet_metrics.runner import WorkerRunner
    from langchain_swarmlet_metrics.worker import Worker


class SpawnRefusedError(RuntimeError):
    """Say why a worker was not spawned."""


class Spawner:
    """Run one agent as workers in the background.

    Args:
        runner: makes and runs the workers.
        agent: what each worker runs.
        max_workers: how many run at once; a worker that waits for one it spawned does not count.
        max_depth: how deep workers may spawn workers.
        executor: where workers run that were spawned synchronously; by default daemon threads.

    Raises:
        ValueError: a limit is below 1.
        TypeError: the agent can't be called, or the executor runs things in other processes.
    """

    def __init__(
        self,
        runner: WorkerRunner,
        agent: Agent,
        *,
        max_workers: int,
        max_depth: int,
        executor: Executor | None = None,
    ) -> None:
        if max_workers < 1 or max_depth < 1:
            msg = f"max_workers and max_depth must be at least 1, not {max_workers} and {max_depth}"
            raise ValueError(msg)
        agents.require(agent)
        if isinstance(executor, ProcessPoolExecutor):
            msg = "workers can't run in a ProcessPoolExecutor: give one that runs them in threads of this process"
            raise TypeError(msg)
        self._runner = runner
        self._agent = agent
        self._max_depth = max_depth
        self._threads = DaemonExecutor()
        self._executor = executor or self._threads
        self._slots = _Slots(max_workers)
        self._jobs: dict[int, _Job] = {}

    def spawn(self, task: str, *, wait: bool) -> Worker:
        """Start a worker on the executor.

        A worker that waits for the one it spawns runs it in its own thread: an executor in which every thread waits
        would never get to it.

        Args:
            task: what it is asked to do.
            wait: whether to return only when it has ended.

        Raises:
            SpawnRefusedError: workers are nested too deep, or the executor takes no more.
        """
        job = self._job(task)
        job.worker.create()
        wait = self._enter(job, wait=wait)
        executor = self._executor if job.waiting is None else InlineExecutor()
        try:
            future = executor.submit(job.context.run, self._run, job)
        except RuntimeError as error:  # it has been shut down, or there can be no more threads
            job.worker.cancel(f"it could not be started: {error_text(error)}")
            self._leave(job)
            msg = f"the worker can't be started ({error}); do this task yourself"
            raise SpawnRefusedError(msg) from error
        future.add_done_callback(lambda future: self._leave(job, future))
        if wait:
            try:
                concurrent.futures.wait([future])
            except BaseException:
                job.worker.cancel("the wait for it was interrupted")
                raise
            if job.worker.status == "created":
                job.worker.cancel(_why_it_never_began(future))  # `_leave` does so, too, and may come later
        return job.worker

    async def aspawn(self, task: str, *, wait: bool) -> Worker:
        """Start a worker on the running loop; otherwise as `spawn`. Cancelling the wait cancels the worker.

        Args:
            task: what it is asked to do.
            wait: whether to return only when it has ended.

        Raises:
            SpawnRefusedError: workers are nested too deep.
        """
        job = self._job(task)
        try:
            await asyncio.to_thread(job.worker.create)
        except CancelledError:  # the thread has made it all the same
            await asyncio.to_thread(job.worker.cancel, "the wait for it was cancelled")
            raise
        wait = self._enter(job, wait=wait)
        job.task = asyncio.create_task(self._arun(job), context=job.context)
        job.task.add_done_callback(lambda task: self._leave(job, task))
        if wait:
            try:
                await asyncio.wait({job.task})
            except CancelledError:
                job.task.cancel()
                raise
        return job.worker

    def cancel(self, job_id: int) -> str | None:
        """Cancel a worker that this spawner runs, and return its status: it may just have ended otherwise.

        None when this spawner runs no worker under that number. An asynchronous worker stops where it awaits, a
        synchronous one at its next LLM call or tool call.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return None
        job.worker.cancel()
        if job.task is None:
            job.turn.cancel()
        else:
            with suppress(RuntimeError):  # its loop is closed
                job.task.get_loop().call_soon_threadsafe(job.task.cancel)
        return job.worker.status

    def _job(self, task: str) -> _Job:
        outer = _current.get()
        depth = 0 if outer is None else outer.depth + 1
        if depth >= self._max_depth:
            msg = f"workers may be nested {self._max_depth} deep at most; do this task yourself"
            raise SpawnRefusedError(msg)
        return _Job(self._runner.worker(task), self._slots, depth)

    def _enter(self, job: _Job, *, wait: bool) -> bool:
        """Queue a job; returns whether to wait for it: one without a number can't be asked for later."""
        job_id = job.worker.job_id
        if job_id is None:
            wait = True
        else:
            self._jobs[job_id] = job
        outer = _current.get()
        if wait and outer is not None:
            job.waiting = outer
            outer.lend_slot()
        job.turn = self._slots.acquire()
        return wait

    def _leave(self, job: _Job, done: Future[None] | asyncio.Task[None] | None = None) -> None:
        if job.worker.job_id is not None:
            self._jobs.pop(job.worker.job_id, None)
        if job.waiting is not None:
            job.waiting.take_slot_back()
        if not job.turn.cancel():
            self._slots.release()
        reason = _why_it_never_began(done)
        if job.worker.status == "created":  # nobody will ever run it
            self._threads.submit(job.worker.cancel, reason)

    def _run(self, job: _Job) -> None:
        with suppress(CancelledError, concurrent.futures.CancelledError):
            job.turn.result()
            self._runner.run(self._agent, job.worker)

    async def _arun(self, job: _Job) -> None:
        try:
            await asyncio.wrap_future(job.turn)
            await self._runner.arun(self._agent, job.worker)
        except CancelledError:
            await asyncio.to_thread(job.worker.cancel, "its task was cancelled")  # it may not have started
            raise


def _why_it_never_began(done: Future[None] | asyncio.Task[None] | None) -> str:
    if done is None or done.cancelled():
        return "it was dropped before it could start"
    error = done.exception()
    return "it did not start" if error is None else f"it could not be run: {type(error).__name__}: {error_text(error)}"


class _Job:
    """Hold a worker in the background: how deep it is nested, its turn, and its task when it runs on a loop.

    Args:
        worker: the worker.
        slots: where its turn comes from.
        depth: how many spawned workers it is nested in.
    """

    def __init__(self, worker: Worker, slots: _Slots, depth: int) -> None:
        self.worker = worker
        self.depth = depth
        self.waiting: _Job | None = None
        """The job that waits for this one, if any."""
        self.turn: Future[None] = Future()
        self.task: asyncio.Task[None] | None = None
        self.context: Context = facts.without_current_run()
        self.context.run(_current.set, self)
        self._slots = slots
        self._waits = 0
        self._lock = threading.Lock()

    def lend_slot(self) -> None:
        """Let another worker run while this one waits for one that it spawned."""
        with self._lock:
            self._waits += 1
            if self._waits == 1:
                self._slots.release()

    def take_slot_back(self) -> None:
        """Go on once nothing is waited for any more, before the one waited for gives its own slot to somebody else."""
        with self._lock:
            self._waits -= 1
            if self._waits == 0:
                self._slots.take()


_current: ContextVar[_Job | None] = ContextVar("swarmlet_job", default=None)


class _Slots:
    """Count who may run; whoever must wait gets a future, so that threads and loops wait in one queue."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def acquire(self) -> Future[None]:
        """Return a future that is done when the caller may run."""
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.append(turn)
        self._admit()
        return turn

    def take(self) -> None:
        """Run at once, ahead of the queue."""
        with self._lock:
            self._free -= 1

    def release(self) -> None:
        """Let the next one run."""
        with self._lock:
            self._free += 1
        self._admit()

    def _admit(self) -> None:
        with self._lock:
            admitted = []
            while self._waiting and self._free > 0:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._free -= 1
                    admitted.append(turn)
        for turn in admitted:
            turn.set_result(None)
