"""Handlers of other projects, attached as their documentation says; what they would send away is dropped at the end.

Their exporters count calls and throw them away, so what it costs to send them is not measured.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import LLM, TOOL, Contestant

if TYPE_CHECKING:
    from pathlib import Path

_GIVE_UP_MS = 60_000


class Peer(Contestant):
    """Watch as another project does."""

    records = frozenset({LLM, TOOL})
    distributions: tuple[str, ...]
    """What has to be installed."""


class _DroppingClient:
    """Stand in for LangSmith's client: count the calls that have ended, and drop everything."""

    def __init__(self) -> None:
        self.ended = 0

    def create_run(self, *_args: Any, **_run: Any) -> None:
        """Drop a run that starts."""

    def update_run(self, *_args: Any, run_type: str | None = None, **_run: Any) -> None:
        """Drop a run that has ended."""
        self.ended += run_type in (LLM, TOOL)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _DroppingClient:
        return self


class LangChainTracer(Peer):
    """Trace as LangSmith does, up to its client."""

    name, title = "langchain-tracer", "LangChainTracer (LangSmith)"
    distributions = ("langsmith",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._client = _DroppingClient()
        self._tracer = import_module("langchain_core.tracers.langchain").LangChainTracer(client=self._client)
        self.callbacks = [self._tracer]

    def recorded(self) -> int:
        """Count the calls that have reached the client."""
        return self._client.ended

    def left_open(self) -> int:
        """Count the runs that it still knows."""
        return max(len(self._tracer.run_map), len(self._tracer.order_map))


class _Spans(Peer):
    """Watch by OpenTelemetry spans; a subclass says which of them are calls, and attaches itself.

    Its processor is the SDK's own for production, which exports in batches from a thread.
    """

    attribute: str
    """Tells on each span what it is."""
    calls: frozenset[str]
    """The attribute's values on the spans of calls."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.exporter = _dropping_exporter(self.attribute, self.calls)
        self.provider = import_module("opentelemetry.sdk.trace").TracerProvider()

    def flush(self) -> None:
        """Export what waits."""
        self.provider.force_flush(_GIVE_UP_MS)

    def recorded(self) -> int:
        """Count the spans of calls that have been exported."""
        return self.exporter.ended

    def left_open(self) -> int:
        """Count the spans in memory that have not ended."""
        gc.collect()
        span = import_module("opentelemetry.sdk.trace").Span
        return sum(isinstance(held, span) and held.end_time is None for held in gc.get_objects())

    def close(self) -> None:
        """Stop the exporting thread."""
        self.provider.shutdown()

    def add_processor(self) -> None:
        """Have the spans exported in batches."""
        self.provider.add_span_processor(
            import_module("opentelemetry.sdk.trace.export").BatchSpanProcessor(self.exporter)
        )


class Langfuse(_Spans):
    """Watch as Langfuse's callback handler does."""

    name, title = "langfuse", "Langfuse"
    distributions = ("langfuse", "opentelemetry-sdk")
    attribute, calls = "langfuse.observation.type", frozenset({"generation", "tool"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._client = import_module("langfuse").Langfuse(
            public_key="pk-benchmark",
            secret_key="sk-unused",
            base_url="http://127.0.0.1:9",
            tracer_provider=self.provider,
            span_exporter=self.exporter,
        )
        self.callbacks = [import_module("langfuse.langchain").CallbackHandler(public_key="pk-benchmark")]

    def flush(self) -> None:
        """Export what waits, as its documentation says."""
        self._client.flush()


class OpenInference(_Spans):
    """Watch as the instrumentation of OpenInference does, which Phoenix and others use."""

    name, title = "openinference", "OpenInference"
    distributions = ("openinference-instrumentation-langchain", "opentelemetry-sdk")
    patches = True
    attribute, calls = "openinference.span.kind", frozenset({"LLM", "TOOL"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.add_processor()
        instrumentor = import_module("openinference.instrumentation.langchain").LangChainInstrumentor()
        instrumentor.instrument(tracer_provider=self.provider)


class OpenLLMetry(_Spans):
    """Watch as the instrumentation of OpenLLMetry does, which Traceloop and others use."""

    name, title = "openllmetry", "OpenLLMetry"
    distributions = ("opentelemetry-instrumentation-langchain", "opentelemetry-sdk")
    patches = True
    attribute, calls = "gen_ai.operation.name", frozenset({"chat", "execute_tool"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.add_processor()
        instrumentor = import_module("opentelemetry.instrumentation.langchain").LangchainInstrumentor()
        instrumentor.instrument(tracer_provider=self.provider)


def _dropping_exporter(attribute: str, calls: frozenset[str]) -> Any:
    export = import_module("opentelemetry.sdk.trace.export")

    class Dropping(export.SpanExporter):
        ended = 0

        def export(self, spans: Any) -> Any:
            self.ended += sum((span.attributes or {}).get(attribute) in calls for span in spans)
            return export.SpanExportResult.SUCCESS

    return Dropping()
