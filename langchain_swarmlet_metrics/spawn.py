"""Spawner: runs the workers that a supervisor spawns, so many at once and so deep, and cancels them."""

from __future__ import annotations

import asyncio
import threading
from asyncio import CancelledError
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, NamedTuple

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics.collector import get_metrics_collector
from langchain_swarmlet_metrics.threads import DaemonExecutor

if TYPE_CHECKING:
    from concurrent.futures import Executor

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
        self._runner = runner
        self._agent = agent
        self._max_depth = max_depth
        self._executor = executor or DaemonExecutor()
        self._slots = _Slots(max_workers)
        self._jobs: dict[int, _Job] = {}

    def spawn(self, task: str, *, wait: bool) -> Worker:
        """Start a worker on the executor.

        Args:
            task: what it is asked to do.
            wait: whether to return only when it has ended.

        Raises:
            SpawnRefusedError: workers are nested too deep.
        """
        worker = self._make(task)
        worker.create()
        future = self._executor.submit(facts.without_current_run().run, self._run, worker)
        self._jobs[worker.job_id] = _Job(worker, None)
        future.add_done_callback(lambda _: self._jobs.pop(worker.job_id, None))
        if wait:
            lent = self._lend_slot()
            wait_for([future])
            if lent:
                self._slots.acquire().result()
        return worker

    async def aspawn(self, task: str, *, wait: bool) -> Worker:
        """Start a worker on the running loop; otherwise as `spawn`. Cancelling the wait cancels the worker.

        Args:
            task: what it is asked to do.
            wait: whether to return only when it has ended.

        Raises:
            SpawnRefusedError: workers are nested too deep.
        """
        worker = self._make(task)
        await asyncio.to_thread(worker.create)
        running = asyncio.create_task(self._arun(worker), context=facts.without_current_run())
        self._jobs[worker.job_id] = _Job(worker, running)
        running.add_done_callback(lambda _: self._jobs.pop(worker.job_id, None))
        if wait:
            lent = self._lend_slot()
            try:
                await asyncio.wait({running})
                if lent:
                    await asyncio.wrap_future(self._slots.acquire())
            except CancelledError:
                running.cancel()
                if lent:
                    self._slots.take()
                raise
        return worker

    def cancel(self, job_id: int) -> bool:
        """Cancel a worker that this spawner runs; False when it runs none under that number.

        An asynchronous worker stops where it awaits, a synchronous one at its next LLM call or tool call.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return False
        job.worker.cancel()
        if job.task is not None:
            job.task.get_loop().call_soon_threadsafe(job.task.cancel)
        return True

    def _make(self, task: str) -> Worker:
        enclosing = get_metrics_collector()
        depth = 0 if enclosing is None else enclosing.depth + 1
        if depth >= self._max_depth:
            msg = f"workers may be nested {self._max_depth} deep at most; do this task yourself"
            raise SpawnRefusedError(msg)
        return self._runner.worker(task)

    def _run(self, worker: Worker) -> None:
        self._slots.acquire().result()
        try:
            self._runner.run(self._agent, worker)
        finally:
            self._slots.release()

    async def _arun(self, worker: Worker) -> None:
        slot = self._slots.acquire()
        try:
            await asyncio.wrap_future(slot)
            await self._runner.arun(self._agent, worker)
        except CancelledError:
            await asyncio.to_thread(worker.cancel)  # it may not even have started
            raise
        finally:
            if not slot.cancelled():
                self._slots.release()

    def _lend_slot(self) -> bool:
        """Free the slot of the spawned worker that runs here and is about to wait for one it spawned."""
        here = get_metrics_collector()
        spawned = {job.worker.worker_id for job in self._jobs.values()}
        if here is None or here.worker_id not in spawned:
            return False
        self._slots.release()
        return True


class _Job(NamedTuple):
    """Hold a worker in the background, and its task when it runs on a loop."""

    worker: Worker
    task: asyncio.Task[None] | None


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
            if self._free > 0:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        return turn

    def take(self) -> None:
        """Run at once, whatever the limit; for whoever is only about to end."""
        with self._lock:
            self._free -= 1

    def release(self) -> None:
        """Let the next one run."""
        with self._lock:
            self._free += 1
            while self._waiting and self._free > 0:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._free -= 1
                    turn.set_result(None)
