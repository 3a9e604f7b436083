"""The situations that LangChain can be in, each with the script that brings it about."""

from __future__ import annotations

from langchain_swarmlet_metrics.testing.conformance.situations import calls, cancelled, composed, graphs, tokens, tools
from langchain_swarmlet_metrics.testing.conformance.situations.situation import Situation

SITUATIONS: tuple[Situation, ...] = (
    *calls.SITUATIONS,
    *tokens.SITUATIONS,
    *cancelled.SITUATIONS,
    *composed.SITUATIONS,
    *tools.SITUATIONS,
    *graphs.SITUATIONS,
)
"""Every situation, in the order of the report."""

__all__ = ["SITUATIONS", "Situation"]
