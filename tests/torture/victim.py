"""A process that runs workers, several at once in threads and tasks, until it is killed or has done its rounds."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import traceback
from asyncio import CancelledError
from typing import TYPE_CHECKING

import msgspec

from tests.torture.notes import Notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.torture.lanes import Ground


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Say what a process shall do.

    Args:
        owner: its name, and the owner of its workers.
        root: the folder of the worker folders.
        url: of the model server.
        lanes: names of what it runs at once.
        rounds: how many workers each lane runs; None for as many as it can.
    """

    owner: str
    root: str
    url: str
    lanes: tuple[str, ...]
    rounds: int | None = None


def live(order: Order, notes: Notes) -> None:
    """Run the lanes, each to its end."""
    notes.say("up", pid=os.getpid())
    notes.keep_pulse()
    from tests.torture import lanes  # what takes a second to import, so that some are killed while they do

    ground = lanes.Ground(order.root, order.url, order.owner, notes)
    numbered = list(enumerate(order.lanes))
    threads = [
        threading.Thread(target=_drive, args=(ground, order, number, name))
        for number, name in numbered
        if name not in lanes.ON_THE_LOOP
    ]
    for thread in threads:
        thread.start()
    asyncio.run(_drive_all(ground, order, [pair for pair in numbered if pair[1] in lanes.ON_THE_LOOP]))
    for thread in threads:
        thread.join()
    notes.say("bye")


def _tasks(order: Order, number: int, name: str) -> Iterator[str]:
    rounds = itertools.count() if order.rounds is None else range(order.rounds)
    return (f"{name} {order.owner} lane {number} round {count}" for count in rounds)


def _drive(ground: Ground, order: Order, number: int, name: str) -> None:
    from tests.torture import lanes
    from tests.torture.acknowledging import acknowledge_here

    acknowledge_here(ground.acknowledging)
    for task in _tasks(order, number, name):
        try:
            (lanes.IN_THREADS | lanes.LETHAL)[name](ground, task)
        except BaseException as error:  # noqa: BLE001 - what is not expected is told
            tell_unexpected(ground.notes, error)


async def _drive_all(ground: Ground, order: Order, numbered: list[tuple[int, str]]) -> None:
    from tests.torture.acknowledging import acknowledge_here

    acknowledge_here(ground.acknowledging)
    await asyncio.gather(*(_adrive(ground, order, *pair) for pair in numbered))


async def _adrive(ground: Ground, order: Order, number: int, name: str) -> None:
    from tests.torture import lanes

    for task in _tasks(order, number, name):
        try:
            await lanes.ON_THE_LOOP[name](ground, task)
        except BaseException as error:  # noqa: BLE001 - what is not expected is told
            tell_unexpected(ground.notes, error)


def tell_unexpected(notes: Notes, error: BaseException) -> None:
    """Say what went wrong unless it is what the model server and the tools are there to cause."""
    import openai

    expected = isinstance(error, openai.InternalServerError | TimeoutError | CancelledError) or (
        isinstance(error, ValueError) and "out of cheese" in str(error)
    )
    if not expected or (isinstance(error, TimeoutError) and str(error)):  # the index's says what it is about
        notes.say("fault", text="".join(traceback.format_exception(error))[-1500:])


def main() -> None:
    """Live as the first argument says, with the pipe that the second one names."""
    live(msgspec.json.decode(sys.argv[1], type=Order), Notes(int(sys.argv[2])))


if __name__ == "__main__":
    main()
