"""The open calls of each asyncio task: LangChain says nothing when a task is cancelled, so tasks are watched."""

from __future__ import annotations

from asyncio import _get_running_loop, current_task  # without a loop, current_task() raises
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from langchain_swarmlet_metrics.inflight import OpenCall

_NO_CONTEXT = Context()  # a done callback would otherwise keep the whole context of the agent alive


class TaskCalls:
    """Hold the open calls of one task, and close them when it is done.

    One callback for all of a task's calls: to add and remove one for each takes longer than all else that a call needs.

    Args:
        task: it is not done yet.
    """

    __slots__ = ("loop", "open", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task: asyncio.Task[Any] | None = task
        """None once it is done: the contexts of tasks that it has started keep this object alive."""
        self.loop = task.get_loop()
        self.open: dict[int, OpenCall] = {}
        task.add_done_callback(self._close, context=_NO_CONTEXT)

    def is_current(self) -> bool:
        """Tell whether this code runs in the task."""
        return _get_running_loop() is self.loop and current_task() is self.task

    def is_cancelled(self) -> bool:
        """Tell whether what the task awaited has been cancelled, given that this code runs because something was."""
        task = self.task
        return task is None or task.done() or task.cancelling() > 0 or self.is_current()

    def is_over(self) -> bool:
        """Tell whether the task will never go on: it is done, or its loop is gone."""
        task = self.task
        return task is None or task.done() or self.loop.is_closed()

    def _close(self, _task: asyncio.Task[Any]) -> None:
        self.task = None
        for call in list(self.open.values()):
            if not call.outlives_task:
                call.abandon("cancelled")


def calls_of_task() -> TaskCalls | None:
    """Return the calls of the task that this code runs in; None in no task. To be called while a loop runs."""
    task = current_task()
    known = _known.get()
    if known is None or known.task is not task:
        if task is None:
            return None
        known = TaskCalls(task)
        _known.set(known)
    return known


_known: ContextVar[TaskCalls | None] = ContextVar("swarmlet_task_calls", default=None)
