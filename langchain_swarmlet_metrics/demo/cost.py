"""Stopwatch: what recording costs while something runs, by timing every place where it happens."""

from __future__ import annotations

import functools
import threading
from time import process_time_ns, thread_time_ns
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.store import ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_CALLBACKS: list[tuple[type, str]] = [
    (MetricsCallbackHandler, name) for name in vars(MetricsCallbackHandler) if name.startswith("on_")
]
_FOLDERS: list[tuple[type, str]] = [(ArtifactStore, name) for name in ("create", "writer", "start", "complete")]


class Stopwatch:
    """Time the callbacks and the folder work of everything that runs inside the block, in all threads.

    It is CPU time: what a clock shows would include what other threads do meanwhile.
    """

    def __init__(self) -> None:
        self.spent_ns = {"callbacks": 0, "worker folders": 0}
        self.total_ns = 0
        self._originals: list[tuple[type, str, Callable[..., Any]]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        for part, timed in zip(self.spent_ns, (_CALLBACKS, _FOLDERS), strict=True):
            for owner, name in timed:
                original = getattr(owner, name)
                self._originals.append((owner, name, original))
                setattr(owner, name, self._timed(part, original))
        self.total_ns = -process_time_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.total_ns += process_time_ns()
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def __str__(self) -> str:
        spent = sum(self.spent_ns.values())
        parts = ", ".join(f"{part} {ns / 1e6:.1f} ms" for part, ns in self.spent_ns.items())
        return f"{spent / max(self.total_ns, 1):.1%} of the run: {parts}, of {self.total_ns / 1e6:.0f} ms of CPU"

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = thread_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                took = thread_time_ns() - began
                with self._lock:
                    self.spent_ns[part] += took

        return timed
