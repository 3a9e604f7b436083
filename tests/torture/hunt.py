"""Start processes that run workers, kill each at a random moment, and have a fresh reader look at what is left."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tests.torture.audit import audit
from tests.torture.captive import Captive, Nursery, Plain
from tests.torture.case import Case, Report
from tests.torture.forkserver import ForkServer
from tests.torture.lanes import IN_THREADS, ON_THE_LOOP
from tests.torture.model import serving
from tests.torture.victim import Order

if TYPE_CHECKING:
    from pathlib import Path

from tests.torture.captive import Death

_NURSERY_CHILDREN = 60
_UP_WITHIN_S = 60.0
_READS_WITHIN_S = 60.0
_MARKED = {"end": "ending", "exit": "bye"}


class Doom(NamedTuple):
    """Say how a process comes to be, what it does and when it dies, all drawn at random.

    Args:
        plain: whether it is an interpreter of its own, not forked.
        lanes: what it runs at once.
        rounds: how many workers each lane runs; None for as many as it can.
        moment: ``start``, ``work``, ``end`` (as a block is left), ``exit`` (when it has done its rounds), or ``write``
            (in one that takes milliseconds, where it kills itself).
        delay_s: seconds from that moment, or from its start, to the signal.
    """

    plain: bool
    lanes: tuple[str, ...]
    rounds: int | None
    moment: str
    delay_s: float

    @classmethod
    def draw(cls, seed: int, number: int, longest_s: float) -> Doom:
        """Draw the doom of a hunt's process; the same arguments give the same."""
        rng = random.Random(f"{seed}/{number}")
        plain = number % 8 == 7
        moment = rng.choices(("start", "work", "end", "write", "exit"), weights=(15, 50, 10, 15, 10))[0]
        in_threads = rng.sample(sorted(IN_THREADS), rng.randint(1, 3))
        on_the_loop = rng.sample(sorted(ON_THE_LOOP), rng.randint(1, 3))
        lanes = ("at_once",) if moment == "write" else (*in_threads, *on_the_loop)
        delay_s = {
            "start": rng.uniform(0, 2.5 if plain else 0.4),
            "work": rng.uniform(0.3, longest_s) + (1.5 if plain else 0),
            "end": rng.uniform(0, 0.03),
            "write": 0,
            "exit": rng.uniform(0, 0.2),
        }[moment]
        return cls(plain, lanes, 1 if moment == "exit" else None, moment, delay_s)


class Hunt:
    """Kill processes on one root, several at once.

    Args:
        folder: for the root and for what the hunt itself keeps.
        kills: how many processes to kill.
        seed: of everything that is drawn.
        at_once: how many processes run at once.
        longest_s: how long a process gets to work before it is killed, in seconds; to an end that it has to reach
            itself, three times as long.
    """

    def __init__(self, folder: Path, *, kills: int, seed: int, at_once: int = 5, longest_s: float = 3.0) -> None:
        self.root = folder / "workers"
        self.figures: Counter[str] = Counter()
        self.violations: list[str] = []
        self._folder = folder
        self._kills = kills
        self._seed = seed
        self._at_once = at_once
        self._longest_s = longest_s
        self._dying: set[str] = set()
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._nurseries = 0
        self._nursery: Nursery | None = None

    def run(self) -> None:
        """Kill them all."""
        (self._folder / "cases").mkdir(parents=True)
        self.root.mkdir()
        with ExitStack() as stack:
            self._url = stack.enter_context(serving(self._folder / "model.err"))
            self._readers = ForkServer("tests.torture.reader", errors=self._folder / "readers.err")
            stack.callback(self._readers.close)
            try:
                with ThreadPoolExecutor(self._at_once) as pool:
                    for _ in pool.map(self._hunt_one, range(self._kills)):
                        pass
            finally:
                if self._nursery is not None:
                    self._retire(self._nursery)
        self._check_lost()
        self.violations += audit(self.root, were_killed=True)
        self._read_errors()

    def _hunt_one(self, number: int) -> None:
        doom = Doom.draw(self._seed, number, self._longest_s)
        captive = self._release(number, doom)
        try:
            _await(captive, doom, 3 * self._longest_s)
        finally:
            death = self._kill(captive)
        with self._counting:
            self.figures.update(kills=1, **{f"killed_{doom.moment}": 1, "plain": doom.plain})
        self._examine(captive, death)

    # Births and deaths

    def _release(self, number: int, doom: Doom) -> Captive:
        order = Order(
            owner=f"victim-{number}", root=str(self.root), url=self._url, lanes=doom.lanes, rounds=doom.rounds
        )
        if doom.plain:
            return Plain(order, self._folder / "plain.err")
        with self._lock:
            if self._nursery is not None and len(self._nursery.children) >= _NURSERY_CHILDREN:
                self._retire(self._nursery)
            if self._nursery is None:
                self._nursery = self._new_nursery()
            return self._nursery.fork(order)

    def _new_nursery(self) -> Nursery:
        self._nurseries += 1
        order = Order(owner=f"nursery-{self._nurseries}", root=str(self.root), url=self._url, lanes=())
        nursery = Nursery(order, self._folder / "nurseries.err")
        nursery.witness.wait_for("up", _UP_WITHIN_S)
        return nursery

    def _retire(self, nursery: Nursery) -> None:
        """Kill a nursery while its children live; each of them has let go of what it inherited."""
        self._nursery = None
        for child in nursery.children:
            child.witness.wait_for("up", _UP_WITHIN_S)
        death = self._kill(nursery)
        self.figures["nurseries"] += 1
        self._examine(nursery, death)

    def _kill(self, captive: Captive) -> Death:
        self._dying.add(captive.order.owner)
        return captive.kill()

    # What is left

    def _examine(self, captive: Captive, death: Death) -> None:
        witness, nursery = captive.witness, self._nursery
        alive = {} if nursery is None else dict.fromkeys(nursery.witness.opened, nursery.order.owner)
        case = Case(
            owner=captive.order.owner,
            root=str(self.root),
            opened=witness.opened,
            made=witness.made,
            ended=witness.ended,
            events=witness.events,
            starts=witness.starts,
            signalled=death.signalled,
            dying_s=death.dying_s,
            dead_at=death.dead_at,
            starved_s=witness.starved_s(death.signalled),
            alive=alive,
        )
        path = self._folder / "cases" / f"{captive.order.owner}.json"
        path.write_bytes(msgspec.json.encode(case))
        report = self._read(path)
        false = {worker: owner for worker, owner in report.lost.items() if owner not in self._dying}
        with self._counting:
            self.figures.update(report.figures)
            self.figures["false_lost"] += len(false)
            self.violations += report.violations + witness.faults
            self.violations += [f"{worker} of {owner} is called lost and is alive" for worker, owner in false.items()]
            self.violations += [
                f"{worker} of {owner} is alive and not listed as running"
                for worker, owner in report.not_running.items()
                if owner not in self._dying
            ]

    def _read(self, path: Path) -> Report:
        ours, theirs = os.pipe()
        self._readers.fork(str(path), theirs)
        with os.fdopen(ours, "rb") as answer:
            if select.select([answer], [], [], _READS_WITHIN_S)[0] and (text := answer.read()):
                return msgspec.json.decode(text, type=Report)
        return Report(violations=[f"the reader of {path} gave no answer; see {self._folder}/readers.err"])

    def _check_lost(self) -> None:
        """Require that the command line lists as many lost workers as were found, now that everybody is dead."""
        command = [sys.executable, "-m", "langchain_swarmlet_metrics.cli", "--root", str(self.root)]
        listed = subprocess.run(
            [*command, "list", "--status", "lost", "--limit", "1000000"], capture_output=True, check=True
        )
        if (number := listed.stdout.count(b"  lost  ")) != self.figures["lost"]:
            self.violations.append(f"the command line lists {number} lost workers of {self.figures['lost']}")

    def _read_errors(self) -> None:
        for path in self._folder.glob("*.err"):
            if "Traceback" in (text := path.read_text()):
                self.violations.append(f"{path} has {text[text.index('Traceback') :][:2000]}")


def _await(captive: Captive, doom: Doom, longest_s: float) -> None:
    """Wait for the moment at which a process is to die."""
    if doom.moment == "write":
        captive.is_dead(longest_s)
    elif doom.moment in _MARKED:
        captive.witness.wait_for(_MARKED[doom.moment], longest_s)
    time.sleep(doom.delay_s)
