"""Relay: hands items to a function in a thread of its own, so that one that blocks holds up nobody else."""

from __future__ import annotations

import _thread
import atexit
import os
import time
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty, Full, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMIT = 10_000
_EXIT_S = 2.0
_STOP = object()

_Item = TypeVar("_Item")


class Relay(Generic[_Item]):
    """Hand items to a function, one after the other in their order, in a daemon thread that starts with the first.

    In a forked child it starts anew: what waits is the parent's to do.

    Args:
        handle: takes an item; what it raises is ignored.
        limit: how many items may wait.
    """

    def __init__(self, handle: Callable[[_Item], object], *, limit: int = _LIMIT) -> None:
        self._handle = handle
        self._limit = limit
        self._renew()
        _relays.add(self)

    def put(self, item: _Item) -> bool:
        """Have an item handled soon, without waiting; False when too many wait already, and it is not taken."""
        if self._queue.qsize() >= self._limit:
            return False
        self._queue.put(item)
        if self._unstarted:
            self._start()
        return True

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put so far has been handled, and tell whether it has been.

        A function that hangs is waited for once, and again when it has gone on. In the relay's own thread there is no
        waiting.

        Args:
            timeout_s: how long to wait at most, in seconds.
        """
        state = self._state
        if self._unstarted:
            return True
        if self.runs_here() or state.stuck_at == state.handled:
            return False
        handled = state.handled
        reached: SimpleQueue[None] = SimpleQueue()  # unlike a lock, it may be waited for on an event loop's thread
        self._queue.put(_Marker(reached))
        try:
            reached.get(timeout=timeout_s)
        except Empty:
            if state.handled == handled:
                state.stuck_at = handled
            return False
        return True

    def runs_here(self) -> bool:
        """Tell whether this is the relay's own thread."""
        return self._state.thread == _thread.get_ident()

    def _start(self) -> None:
        with suppress(IndexError):  # another thread does it at this moment
            self._unstarted.pop()
            _thread.start_new_thread(_run, (self._queue, self._state, self._handle))  # Thread.start would wait for it

    def _renew(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._state = _State()
        self._unstarted = [True]
        weakref.finalize(self, self._queue.put, _STOP).atexit = False


class Sender(Generic[_Item]):
    """Send items through a relay that others may use as well, and know how many of them still wait.

    Args:
        relay: whose thread takes the items; its function is `deliver`.
        take: takes an item.
        on_failure: told what it raises.
    """

    def __init__(
        self,
        relay: Relay[tuple[Sender[Any], Any]],
        take: Callable[[_Item], object],
        on_failure: Callable[[Exception], object] | None = None,
    ) -> None:
        self._relay = relay
        self._take = take
        self._on_failure = on_failure
        self._waiting: deque[None] = deque()  # its length counts, as adding and taking is one step for any thread

    def send(self, item: _Item) -> None:
        """Have an item taken soon, without waiting.

        Raises:
            Full: too many wait already; this one is not sent.
        """
        self._waiting.append(None)
        if not self._relay.put((self, item)):
            self._waiting.pop()
            msg = f"{len(self._waiting)} events wait for it already; it takes too long, or hangs"
            raise Full(msg)

    def drain(self, timeout_s: float) -> int:
        """Wait as `Relay.drain` does, and return how many items have not been taken.

        In the relay's own thread nobody can wait for them; they are on their way, so it returns 0.
        """
        if not self._waiting or self._relay.runs_here() or self._relay.drain(timeout_s):
            return 0
        return len(self._waiting)

    def deliver(self, item: _Item) -> None:
        """Have the item taken, in the relay's thread."""
        try:
            self._take(item)
        except Exception as error:  # noqa: BLE001 - it is the user's own code
            if self._on_failure is not None:
                self._on_failure(error)
        finally:
            self._waiting.pop()


def deliver(item: tuple[Sender[_Item], _Item]) -> None:
    """Take what a `Sender` sent."""
    item[0].deliver(item[1])


class _State:
    """What a relay's thread tells: who it is, and how far it has come."""

    __slots__ = ("handled", "stuck_at", "thread")

    def __init__(self) -> None:
        self.thread: int | None = None
        self.handled = 0
        self.stuck_at: int | None = None


class _Marker:
    """A place in the queue that somebody waits for."""

    __slots__ = ("reached",)

    def __init__(self, reached: SimpleQueue[None]) -> None:
        self.reached = reached


def _run(queue: SimpleQueue[Any], state: _State, handle: Callable[[Any], object]) -> None:
    state.thread = _thread.get_ident()
    while (item := queue.get()) is not _STOP:
        if isinstance(item, _Marker):
            item.reached.put(None)
        else:
            with suppress(Exception):
                handle(item)
        state.handled += 1
        item = None  # it would stay alive until the next one


_relays: weakref.WeakSet[Relay[Any]] = weakref.WeakSet()


@atexit.register
def _drain_all() -> None:
    deadline = time.monotonic() + _EXIT_S
    for relay in list(_relays):
        relay.drain(max(deadline - time.monotonic(), 0))


def _renew_all() -> None:
    for relay in list(_relays):
        relay._renew()  # noqa: SLF001 - the other half of this class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
