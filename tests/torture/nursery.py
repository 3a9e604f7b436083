"""A process that runs a worker of its own in several threads, and forks those that will be killed meanwhile."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import warnings

import msgspec

from langchain_swarmlet_metrics import carry
from tests.torture import forkserver, victim
from tests.torture.acknowledging import acknowledge_here
from tests.torture.lanes import Ground, asked
from tests.torture.model import WARM_UP
from tests.torture.notes import Notes

_THREADS = 3
_PAUSE_S = 0.1


def main() -> None:
    """Serve as the first argument says, with the notes and the control socket that the others name."""
    warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)
    order = msgspec.json.decode(sys.argv[1], type=victim.Order)
    notes, control = Notes(int(sys.argv[2])), socket.socket(fileno=int(sys.argv[3]))
    ground = Ground(order.root, order.url, order.owner, notes)
    acknowledge_here(ground.acknowledging)
    worker = ground.runner.worker("keep the nursery").open()
    notes.say_of(worker.worker_id, "opened", worker.job_id)
    ground.supervisor.invoke(asked(WARM_UP))  # imports the rest: in a child, a half-made import stays half-made
    done = threading.Event()

    def work(number: int) -> None:
        for count in itertools.count():
            if done.wait(_PAUSE_S):
                return
            try:
                ground.agent.invoke(asked(f"{order.owner} thread {number} round {count}"))
            except Exception as error:  # noqa: BLE001 - what is not expected is told
                victim.tell_unexpected(notes, error)

    threads = [threading.Thread(target=carry(work), args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    notes.say("up")
    notes.keep_pulse()
    is_child = threading.Event()

    def child(message: object, pipe: int) -> None:
        is_child.set()
        notes.close()
        victim.live(msgspec.convert(message, victim.Order), Notes(pipe))

    forkserver.serve(control, child)
    if is_child.is_set():
        return
    done.set()
    for thread in threads:
        thread.join()
    worker.close()
    notes.say_of(worker.worker_id, "ended", worker.status)


if __name__ == "__main__":
    main()
