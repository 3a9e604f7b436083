"""Executors: one of daemon threads, whose unfinished work keeps no interpreter from exiting, and one of no threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DaemonExecutor(Executor):
    """Run each call in a daemon thread of its own."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Start a thread for the call and return its future."""
        future: Future[_T] = Future()
        threading.Thread(target=_settle, args=(future, fn, args, kwargs), daemon=True, name="swarmlet-worker").start()
        return future


class InlineExecutor(Executor):
    """Run each call at once, in the caller's thread."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run the call to its end and return its future."""
        future: Future[_T] = Future()
        _settle(future, fn, args, kwargs)
        return future


def _settle(future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        answer = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
        future.set_exception(error)
    else:
        future.set_result(answer)


async def in_thread(function: Callable[..., None], **options: Any) -> None:
    """Run a function in a thread, to its end even when whoever waits is cancelled."""
    await asyncio.shield(asyncio.to_thread(function, **options))
