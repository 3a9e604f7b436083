"""A conformance suite for LangChain handlers: the same situations for everybody, judged by what really happened."""

from __future__ import annotations

from langchain_swarmlet_metrics.testing.conformance.adapters import Adapter
from langchain_swarmlet_metrics.testing.conformance.checking import check_conformance
from langchain_swarmlet_metrics.testing.conformance.observed import LLMRecord, Observed, Tokens, ToolRecord
from langchain_swarmlet_metrics.testing.conformance.situations import SITUATIONS, Situation
from langchain_swarmlet_metrics.testing.conformance.verdicts import Finding

__all__ = [
    "SITUATIONS",
    "Adapter",
    "Finding",
    "LLMRecord",
    "Observed",
    "Situation",
    "Tokens",
    "ToolRecord",
    "check_conformance",
]
