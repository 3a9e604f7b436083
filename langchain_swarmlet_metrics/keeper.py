"""Keeper: writes a worker's files, or holds the worker in memory and tries again until they are written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics import logs, pulse
from langchain_swarmlet_metrics.scrub import error_text

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.store import ArtifactStore


class Keeper:
    """Keep one worker, on disk if the system lets us and in memory if not: neither a full disk loses its result.

    Args:
        store: where its folder is.
        lock: the worker's; held by whoever calls.
        known: returns what is known of it now: its metadata, and its result once it has ended.
    """

    def __init__(
        self, store: ArtifactStore, lock: threading.RLock, known: Callable[[], tuple[Metadata, str | None]]
    ) -> None:
        self.error: str | None = None
        """Why the files cannot be written, or None."""
        self._store = store
        self._lock = lock
        self._known = known
        self._is_trying = False
        self._afterwards: Callable[[], object] | None = None
        self._pid = os.getpid()

    def keep(self, write: Callable[..., object], *args: Any, **options: Any) -> bool:
        """Write something down, or else hold the worker in memory; tell whether it is written."""
        try:
            write(*args, **options)
        except OSError as error:
            self.hold(error)
            return False
        return True

    def hold(self, error: OSError, *, try_again: bool = True) -> None:
        """Have readers in this process told from memory, and the files written as soon as the system lets us.

        Args:
            error: the system's.
            try_again: False when there is no folder to write to.
        """
        metadata, result = self._known()
        if self.error is None:
            self.error = error_text(error)
            text = "The files of worker %s cannot be written: %s. It goes on; its result is held in memory"
            logs.warn(text, metadata.worker_id, self.error)
        self._store.overlay.hold(metadata, result, self.error)
        if try_again and not self._is_trying:
            self._is_trying = True
            pulse.try_again(self._try_again)

    def afterwards(self, function: Callable[[], object]) -> None:
        """Call a function now, or once the files are written."""
        if self._is_trying:
            self._afterwards = function
        else:
            function()

    def release(self) -> None:
        """Have readers look at the files, which say everything now."""
        if not self._is_trying:
            return
        self.error = None
        self._store.overlay.let_go(self._known()[0].worker_id)
        self._stop_trying()

    def _try_again(self) -> bool:
        """Write what is held; True when nothing is left to do. In the pulse's thread, which must not wait."""
        if os.getpid() != self._pid:
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._is_trying:
                self._store.write(*self._known())
                self.release()
        except FileNotFoundError:  # somebody has deleted the folder
            self._stop_trying()
        except OSError:
            return False
        finally:
            self._lock.release()
        return True

    def _stop_trying(self) -> None:
        self._is_trying = False
        if self._afterwards is not None:
            self._afterwards()
