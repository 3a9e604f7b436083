"""What a situation is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from langchain_swarmlet_metrics.testing.conformance.stage import Mode, Stage

Script = Callable[[Stage], Coroutine[Any, Any, None]]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Name a situation and bring it about.

    Args:
        name: A few words, unique.
        sentence: What happens, in one sentence.
        script: Plays it on a stage.
        modes: The ways the installed LangChain has of getting into it; none when it can't.
        disputed: Why a record that differs from ours is no error, or None when there is one right answer.
    """

    name: str
    sentence: str
    script: Script
    modes: tuple[Mode, ...] = ("sync", "async")
    disputed: str | None = None
