"""Relays: order, bounds, hanging functions, forks, what is left at exit."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

from langchain_swarmlet_metrics.relay import Relay
from tests.processes import output_of


def test_order_across_threads() -> None:
    """Everything put is handled once, in one other thread, each thread's items in their order."""
    seen: list[tuple[int, int]] = []
    handlers: set[int] = set()

    def handle(item: tuple[int, int]) -> None:
        handlers.add(threading.get_ident())
        seen.append(item)

    relay = Relay(handle)
    threads = [
        threading.Thread(target=lambda who=who: [relay.put((who, number)) for number in range(500)]) for who in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert relay.drain(10)
    assert len(handlers) == 1
    assert threading.get_ident() not in handlers
    for who in range(4):
        assert [number for by, number in seen if by == who] == list(range(500))


def test_drain_without_items() -> None:
    """A relay that was given nothing has nothing to wait for, and no thread."""
    before = threading.active_count()
    assert Relay(print).drain(0)
    assert threading.active_count() == before


def test_failing_function() -> None:
    """What the function raises stops nothing."""
    seen: list[int] = []

    def handle(item: int) -> None:
        if item == 1:
            msg = "no"
            raise ValueError(msg)
        seen.append(item)

    relay = Relay(handle)
    for item in range(3):
        relay.put(item)
    assert relay.drain(10)
    assert seen == [0, 2]


def test_hanging_function() -> None:
    """A function that hangs is waited for once; then items wait up to the limit, and further ones are refused."""
    go_on = threading.Event()
    seen: list[int] = []

    def handle(item: int) -> None:
        go_on.wait(60)
        seen.append(item)

    relay = Relay(handle, limit=3)
    assert relay.put(0)
    assert not relay.drain(0.05)
    assert not relay.drain(60)  # at once: it has not gone on since
    taken = [relay.put(number) for number in range(1, 10)]
    assert taken[0]
    assert not taken[-1]
    go_on.set()
    while not relay.drain(10):
        pass
    assert seen == list(range(taken.count(True) + 1))


def test_drain_inside_the_function() -> None:
    """A function that waits for its own relay is told at once that this cannot be."""
    answers: list[bool] = []
    relay: Relay[int] = Relay(lambda _item: answers.append(relay.drain(60)))
    relay.put(1)
    assert relay.drain(10)
    assert answers == [False]


def test_relay_that_nobody_holds() -> None:
    """A relay that is let go of ends its thread when all is handled."""
    seen: list[int] = []
    relay = Relay(seen.append)
    relay.put(1)
    assert relay.drain(10)
    gone = weakref.ref(relay)
    queue = relay._queue
    del relay
    gc.collect()
    assert gone() is None
    while queue.qsize():  # the thread takes the word to stop
        pass
    assert seen == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child() -> None:
    """A forked child handles its own items and none of its parent's."""
    code = """
import os, sys, threading
from langchain_swarmlet_metrics.relay import Relay
go_on, seen = threading.Event(), []
relay = Relay(lambda item: (go_on.wait(60), seen.append(item)))
relay.put("parent")
child = os.fork()
go_on.set()
if not child:
    relay.put("child")
    assert relay.drain(10)
    os._exit(0 if seen == ["child"] else 1)
assert relay.drain(10)
assert seen == ["parent"], seen
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    output_of(code)


def test_exit() -> None:
    """What waits at the interpreter's exit is handled, and a function that hangs does not keep it from exiting."""
    code = """
import threading
from langchain_swarmlet_metrics.relay import Relay
hanging = Relay(lambda item: threading.Event().wait())
hanging.put(1)
relay = Relay(lambda item: print(item, flush=True))
for item in range(3):
    relay.put(item)
"""
    assert output_of(code).split() == ["0", "1", "2"]
