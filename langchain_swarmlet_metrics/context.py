"""The context of a worker, carried to where Python does not carry it: threads and plain executors."""

from __future__ import annotations

import functools
from contextvars import copy_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


def carry(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function with this context bound to it, so that its calls belong to the current worker anywhere.

    For a thread, a plain executor or ``loop.run_in_executor``: ``pool.submit(carry(model.invoke), "hello")``. Each
    call runs in a copy of its own, so one carried function may run in several threads at once, and what a call sets
    in its context is not seen by others.

    Args:
        function: a plain function; an ``async`` one is run by its event loop, whose task copies the context itself.
    """
    context = copy_context()

    @functools.wraps(function)
    def carried(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return context.copy().run(function, *args, **kwargs)

    return carried
