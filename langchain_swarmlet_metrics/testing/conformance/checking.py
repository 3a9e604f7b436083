"""Put a handler through the situations, in this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics.testing.conformance.situations import SITUATIONS
from langchain_swarmlet_metrics.testing.conformance.stage import Stage
from langchain_swarmlet_metrics.testing.conformance.verdicts import Comparison, Finding, compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_swarmlet_metrics.testing.conformance.adapters import Adapter
    from langchain_swarmlet_metrics.testing.conformance.situations import Situation
    from langchain_swarmlet_metrics.testing.conformance.stage import Mode

_LIMIT_S = 30.0


def check_conformance(
    adapter: Adapter, situations: Iterable[Situation] = SITUATIONS, *, limit_s: float = _LIMIT_S
) -> list[Finding]:
    """Put a handler through situations and return what was compared; conforming is no finding with verdict ``wrong``.

    Args:
        adapter: Attaches the handler and reads what it recorded.
        situations: Which ones; by default all.
        limit_s: Seconds that one run may take; one that takes longer is a finding, and ends the checks.
    """
    return list(findings(adapter, situations, limit_s=limit_s))


def findings(
    adapter: Adapter, situations: Iterable[Situation] = SITUATIONS, *, limit_s: float = _LIMIT_S
) -> Iterator[Finding]:
    """Yield what `check_conformance` returns, as the runs go on."""
    for situation in situations:
        for mode in situation.modes:
            run = _Run(adapter, situation, mode)
            run.start()
            run.join(limit_s)
            if run.is_alive():
                ended = Comparison("the run", "wrong", f"did not end within {limit_s:g} s", "an end")
                yield _finding(adapter, situation, mode, ended)
                return  # its thread still holds the adapter
            yield from (_finding(adapter, situation, mode, comparison) for comparison in run.comparisons)


class _Run(threading.Thread):
    """Play a situation once: in a thread of its own, so that no context is carried from run to run."""

    def __init__(self, adapter: Adapter, situation: Situation, mode: Mode) -> None:
        super().__init__(name=f"{situation.name}, {mode}", daemon=True)
        self.comparisons: list[Comparison] = []
        self._adapter = adapter
        self._situation = situation
        self._mode = mode

    def run(self) -> None:
        try:
            with self._adapter.attach():
                truth = Stage(self._mode, self._adapter.handlers).play(self._situation.script)
        except BaseException as error:  # noqa: BLE001 - whatever the handler did to the run is the finding
            broke = f"the run itself broke: {type(error).__name__}: {error}"
            self.comparisons = [Comparison("the run", "wrong", broke, "an end")]
            return
        self.comparisons = list(compare(self._adapter.observed(), truth))


def _finding(adapter: Adapter, situation: Situation, mode: Mode, comparison: Comparison) -> Finding:
    verdict, note = comparison.verdict, comparison.note
    if comparison.check != "the run" and situation.name in adapter.leaves_out:
        verdict, note = "not its job", None
    elif comparison.check != "the run" and verdict == "wrong" and situation.disputed:
        verdict, note = "unclear", situation.disputed
    return Finding(
        situation=situation.name,
        mode=mode,
        check=comparison.check,
        verdict=verdict,
        recorded=comparison.recorded,
        expected=comparison.expected,
        note=note,
    )
