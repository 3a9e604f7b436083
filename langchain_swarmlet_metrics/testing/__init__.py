"""Doubles for users' own tests, and a conformance suite for LangChain handlers.

The doubles, a loopback server that speaks the OpenAI API, need no LangChain; the suite is imported when it is asked
for, and needs what the extra ``demo`` installs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics.testing.openai_server import OpenAIServer, Request
from langchain_swarmlet_metrics.testing.openai_wire import Reply, ToolRequest, Usage

if TYPE_CHECKING:
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
    "OpenAIServer",
    "Reply",
    "Request",
    "Situation",
    "Tokens",
    "ToolRecord",
    "ToolRequest",
    "Usage",
    "check_conformance",
]

_MODULE_OF = {
    "SITUATIONS": "situations",
    "Adapter": "adapters",
    "Finding": "verdicts",
    "LLMRecord": "observed",
    "Observed": "observed",
    "Situation": "situations",
    "Tokens": "observed",
    "ToolRecord": "observed",
    "check_conformance": "checking",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.conformance.{_MODULE_OF[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
