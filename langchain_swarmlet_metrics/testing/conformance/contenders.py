"""The handlers that the report compares: what each is, how it is attached, which version is installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.testing.conformance.adapters import Adapter

_HERE = "langchain_swarmlet_metrics.testing.conformance"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Name a handler of the report.

    Args:
        name: As the report shows it.
        adapter: Where its adapter is, ``module:class``.
        distribution: What has to be installed.
        attached: How the adapter attaches and reads it, as its own documentation says.
        job: What it records.
    """

    name: str
    adapter: str
    distribution: str
    attached: str
    job: str

    @property
    def version(self) -> str | None:
        """Return the installed version, or None."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


CONTENDERS = (
    Contender(
        name="langchain-swarmlet-metrics",
        adapter=f"{_HERE}.adapters:SwarmletAdapter",
        distribution="langchain-swarmlet-metrics",
        attached="a worker block, `callbacks=[MetricsCallbackHandler(worker.collector)]`; its `metrics.jsonl` is read",
        job="LLM calls and tool calls; no chains, no content",
    ),
    Contender(
        name="UsageMetadataCallbackHandler",
        adapter=f"{_HERE}.adapters:UsageMetadataAdapter",
        distribution="langchain-core",
        attached="`callbacks=[UsageMetadataCallbackHandler()]`",
        job="token sums of chat models by model",
    ),
    Contender(
        name="Langfuse",
        adapter=f"{_HERE}.spans:LangfuseAdapter",
        distribution="langfuse",
        attached="`callbacks=[CallbackHandler()]`, the client's `span_exporter=` in memory; `flush()` before reading",
        job="traces with content",
    ),
    Contender(
        name="OpenInference",
        adapter=f"{_HERE}.spans:OpenInferenceAdapter",
        distribution="openinference-instrumentation-langchain",
        attached="`LangChainInstrumentor().instrument(tracer_provider=...)`; `force_flush()` before reading",
        job="traces with content",
    ),
    Contender(
        name="OpenLLMetry",
        adapter=f"{_HERE}.spans:OpenLLMetryAdapter",
        distribution="opentelemetry-instrumentation-langchain",
        attached="`LangchainInstrumentor().instrument(tracer_provider=...)`; `force_flush()` before reading",
        job="traces with content",
    ),
)


def make_adapter(where: str) -> Adapter:
    """Make the adapter that ``module:class`` names."""
    module, _, name = where.partition(":")
    adapter: Adapter = getattr(import_module(module), name)()
    return adapter
