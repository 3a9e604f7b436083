"""Performance of LangChain worker agents, visible to whoever reads.

Names resolve when they are first used, so that the command line starts fast and files can be read without LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.collector import (
        MetricsCollector,
        get_metrics_collector,
        phase,
        reset_metrics_collector,
        set_metrics_collector,
    )
    from langchain_swarmlet_metrics.context import carry
    from langchain_swarmlet_metrics.events import Event, LLMCall, ToolCall
    from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
    from langchain_swarmlet_metrics.loglines import JSONLinesFormatter, KeyValueFormatter
    from langchain_swarmlet_metrics.logs import configure_logging
    from langchain_swarmlet_metrics.runner import WorkerRunner
    from langchain_swarmlet_metrics.scrub import add_secret_patterns
    from langchain_swarmlet_metrics.sinks import Sink
    from langchain_swarmlet_metrics.store import ArtifactStore
    from langchain_swarmlet_metrics.supervisor import SUPERVISOR_PROMPT_HINT
    from langchain_swarmlet_metrics.worker import Worker

__version__ = "0.1.0"

_MODULE_OF = {
    "ArtifactStore": "store",
    "Event": "events",
    "JSONLinesFormatter": "loglines",
    "KeyValueFormatter": "loglines",
    "LLMCall": "events",
    "MetricsCallbackHandler": "handler",
    "MetricsCollector": "collector",
    "SUPERVISOR_PROMPT_HINT": "supervisor",
    "Sink": "sinks",
    "ToolCall": "events",
    "Worker": "worker",
    "WorkerRunner": "runner",
    "add_secret_patterns": "scrub",
    "carry": "context",
    "configure_logging": "logs",
    "get_metrics_collector": "collector",
    "phase": "collector",
    "reset_metrics_collector": "collector",
    "set_metrics_collector": "collector",
}

__all__ = [
    "SUPERVISOR_PROMPT_HINT",
    "ArtifactStore",
    "Event",
    "JSONLinesFormatter",
    "KeyValueFormatter",
    "LLMCall",
    "MetricsCallbackHandler",
    "MetricsCollector",
    "Sink",
    "ToolCall",
    "Worker",
    "WorkerRunner",
    "add_secret_patterns",
    "carry",
    "configure_logging",
    "get_metrics_collector",
    "phase",
    "reset_metrics_collector",
    "set_metrics_collector",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
