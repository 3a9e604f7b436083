"""The context of a worker, carried to where Python does not carry it: threads and plain executors."""

from __future__ import annotations

import inspect
from contextvars import copy_context
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


def carry(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Bind a function to this context, so that what it calls in another thread belongs to the current worker.

    Each call runs in a copy of its own: one carried function may run in several threads at once, and what a call
    sets in its context stays there.

    Args:
        function: what the thread or executor runs, such as ``model.invoke``.

    Raises:
        TypeError: the function is asynchronous or a generator, whose body would run later and outside the context.
    """
    if _runs_later(function):
        name = getattr(function, "__qualname__", repr(function))
        msg = f"{name} would run outside the carried context; carry a plain function that awaits or reads it to its end"
        raise TypeError(msg)
    context = copy_context()

    @wraps(function)
    def carried(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return context.copy().run(function, *args, **kwargs)

    return carried


def _runs_later(function: object) -> bool:
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )
