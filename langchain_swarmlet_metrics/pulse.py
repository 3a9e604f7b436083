"""The pulse of running workers: one daemon thread per process keeps their ``inflight.json`` while calls are open.

No callback writes that file. A call that is open for half a second is in it, and its time of modification is the
latest sign of life; without open calls there is none.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import inflight, logs
from langchain_swarmlet_metrics.events import timestamp
from langchain_swarmlet_metrics.snapshot import Snapshot, StartedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_swarmlet_metrics.collector import MetricsCollector
    from langchain_swarmlet_metrics.eventlog import EventWriter
    from langchain_swarmlet_metrics.inflight import OpenCall
    from langchain_swarmlet_metrics.store import ArtifactStore

INTERVAL_S = 0.25

_BEATS_TO_ATTEMPT = 4
_AGE_NS = 100_000_000  # of a call worth a file: most end sooner, and half a second leaves time for one more beat
_TURN_NS = int((INTERVAL_S + 0.001) * 1e9)


class Watch:
    """Keep the ``inflight.json`` of one worker, from now on until it is closed.

    Args:
        collector: of the worker; it and the writer are not kept alive.
        writer: of its ``metrics.jsonl``.
        store: where its folder is.
    """

    def __init__(self, collector: MetricsCollector, writer: EventWriter, store: ArtifactStore) -> None:
        self._collector = weakref.ref(collector)
        self._writer = weakref.ref(writer)
        self._store = store
        self._worker_id = str(collector.worker_id)
        self._size = 0
        self._written: tuple[int, list[int | None]] | None = None
        self._may_exist = False
        self._closed = False
        self._lock = threading.RLock()  # a signal handler or a finalizer may close while this thread writes
        _pulse.add(self)

    def close(self) -> None:
        """Remove the file; nothing is open any more."""
        _pulse.discard(self)
        with self._lock:
            self._closed = True
            self._remove()

    def beat(self, begun_by_ns: int) -> bool:
        """Note the calls that have been open for long enough; False when nobody makes any more.

        Args:
            begun_by_ns: when they started at the latest, on the clock of `perf_counter_ns`.
        """
        writer, collector = self._writer(), self._collector()
        size = None if writer is None else writer.size()
        if size is None or collector is None:
            return False
        self.note(size, [call for call in inflight.open_calls(collector) if call.clock_ns < begun_by_ns])
        return True

    def note(self, size: int, calls: Sequence[OpenCall]) -> None:
        """Have the file say which calls are open.

        Args:
            size: of ``metrics.jsonl``, seen before the calls.
            calls: of the worker.
        """
        with self._lock, suppress(OSError):  # a full disk is noticed, and said, where events are written
            if self._closed:
                return
            size_before, self._size = self._size, size  # the line of a call that is just ending may be in between
            if not calls:
                self._remove()
                return
            state = (size_before, [call.id for call in calls])
            if state == self._written:
                self._store.touch_snapshot(self._worker_id)
            else:
                self._written, self._may_exist = None, True
                self._store.save_snapshot(self._snapshot(size_before, calls))
                self._written = state

    def _snapshot(self, size: int, calls: Sequence[OpenCall]) -> Snapshot:
        return Snapshot(
            worker_id=self._worker_id,
            written_at=timestamp(time.time_ns()),
            metrics_bytes=size,
            calls=[described for call in calls if (described := _describe(call)) is not None],
        )

    def _remove(self) -> None:
        if self._may_exist:
            self._written = None
            with suppress(OSError):
                self._store.remove_snapshot(self._worker_id)
                self._may_exist = False


def _describe(call: OpenCall) -> StartedCall | None:
    """Describe an open call; one that cannot be is counted when it ends."""
    try:
        return call.describe()
    except Exception:  # noqa: BLE001 - the thread of all workers outlives whatever one of them has been given
        return None


class _Pulse:
    """The thread, and whom it watches; without anybody to watch it sleeps."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._attempts: list[Callable[[], bool]] = []
        self._lock = threading.RLock()
        self._is_wanted = threading.Event()
        self._is_resting = True
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._watches.add(watch)
            self._start()

    def discard(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)
            self._rest()

    def add_attempt(self, attempt: Callable[[], bool]) -> None:
        with self._lock:
            self._attempts.append(attempt)
            self._start()

    def try_again(self) -> int:
        """Make every attempt, and return how many are to be made again."""
        with self._lock:
            attempts, self._attempts = self._attempts, []
        failed = [attempt for attempt in attempts if not attempt()]
        with self._lock:
            self._attempts += failed
            self._rest()
        return len(failed)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, daemon=True, name="swarmlet-pulse")
            try:
                thread.start()
            except RuntimeError as error:
                logs.warn("Nobody can note open calls in inflight.json now: %s. The agent is not affected.", error)
                return
            self._thread = thread
        if self._is_resting:
            inflight.turn_ns = time.perf_counter_ns()
        self._is_wanted.set()

    def _rest(self) -> None:
        if not self._watches and not self._attempts:
            self._is_wanted.clear()

    def _run(self) -> None:
        beats = 0
        while self._is_wanted.wait():
            self._is_resting = False
            inflight.turn_ns = time.perf_counter_ns() + _TURN_NS
            time.sleep(INTERVAL_S)
            self._beat()
            inflight.turn_ns = inflight.NEVER
            beats += 1
            if beats % _BEATS_TO_ATTEMPT == 0:
                self.try_again()
            self._is_resting = not self._is_wanted.is_set()

    def _beat(self) -> None:
        with self._lock:
            watches = list(self._watches)
        begun_by_ns = time.perf_counter_ns() - _AGE_NS
        for watch in watches:
            if not watch.beat(begun_by_ns):
                self.discard(watch)


_pulse = _Pulse()


def try_again(attempt: Callable[[], bool]) -> None:
    """Have something attempted about once a second, in the pulse's thread, until it returns True."""
    _pulse.add_attempt(attempt)


def try_a_last_time() -> None:
    """Attempt once more what is still to be attempted; called as the interpreter exits."""
    if failed := _pulse.try_again():
        logs.warn("The interpreter exits, and the files of %s workers could not be written to the end", failed)


def _restart() -> None:
    """Begin anew in a forked child: the thread and the workers are the parent's."""
    global _pulse  # noqa: PLW0603 - the one thread of the process
    _pulse = _Pulse()
    inflight.turn_ns = inflight.NEVER


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart)
