"""Adapters of handlers that write OpenTelemetry spans: Langfuse, OpenInference, OpenLLMetry.

Each is attached as its documentation says, with its defaults; only the exporter is one that keeps the spans in
memory. Instrumentors patch LangChain for the whole process and are made once in it.
"""

from __future__ import annotations

import gc
import itertools
import json
import threading
import weakref
from abc import abstractmethod
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics.testing.conformance.adapters import Adapter
from langchain_swarmlet_metrics.testing.conformance.observed import LLMRecord, Observed, Status, Tokens, ToolRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_core.callbacks import BaseCallbackHandler

_CONTROL_FLOW = ("GraphInterrupt", "ParentCommand")
_GIVE_UP_MS = 10_000


class SpanLog:
    """Keep every span of a run: a span processor of the OpenTelemetry SDK.

    A span belongs to the run in which it started, however late it ends.
    """

    def __init__(self) -> None:
        self.ended: list[Any] = []
        self._open: dict[int, weakref.ref[Any]] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Begin a run."""
        with self._lock:
            self.ended, self._open = [], {}

    @property
    def left_open(self) -> int:
        """Return how many spans have not ended."""
        return len(self._open)

    @property
    def held(self) -> int:
        """Return how many of those are still in memory."""
        return sum(span() is not None for span in self._open.values())

    def on_start(self, span: Any, parent_context: object = None) -> None:  # noqa: ARG002 - the SDK's signature
        """Note that a span has started."""
        with self._lock:
            self._open[span.get_span_context().span_id] = weakref.ref(span)

    def on_end(self, span: Any) -> None:
        """Keep a span that has ended."""
        with self._lock:
            if self._open.pop(span.get_span_context().span_id, None) is not None:
                self.ended.append(span)

    def _on_ending(self, span: Any) -> None:
        """Do nothing; newer SDKs tell it just before a span ends."""

    def shutdown(self) -> None:
        """Do nothing; nothing is open."""

    def force_flush(self, timeout_millis: int = _GIVE_UP_MS) -> bool:  # noqa: ARG002 - the SDK's signature
        """Do nothing; nothing waits."""
        return True


class SpanAdapter(Adapter):
    """Read the spans of a run; a subclass attaches its handler and says what a span's attributes mean."""

    def __init__(self) -> None:
        sdk = import_module("opentelemetry.sdk.trace")
        self.log = SpanLog()
        self.provider: Any = sdk.TracerProvider()
        self.provider.add_span_processor(self.log)

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Begin with no spans."""
        self.log.clear()
        yield

    def handlers(self) -> list[BaseCallbackHandler]:
        """Return nothing: an instrumentor attaches itself."""
        return []

    def flush(self) -> None:
        """Wait until everything pending has been exported."""
        self.provider.force_flush(_GIVE_UP_MS)

    def observed(self) -> Observed:
        """Return what the spans say."""
        self.flush()
        gc.collect()  # what is in a cycle that nobody holds is not held
        spans = list(self.log.ended)
        kinds = [self.kind(span) for span in spans]
        return Observed(
            llm_calls=tuple(self.llm_record(span) for span, kind in zip(spans, kinds, strict=True) if kind == "llm"),
            tool_calls=tuple(
                ToolRecord(tool=self.tool(span), status=self.status(span), error=self.error(span))
                for span, kind in zip(spans, kinds, strict=True)
                if kind == "tool"
            ),
            left_open=self.log.left_open,
            held=self.log.held,
            other_errors=sum(
                self.status(span) == "error" for span, kind in zip(spans, kinds, strict=True) if kind == "other"
            ),
        )

    def llm_record(self, span: Any) -> LLMRecord:
        """Read the span of an LLM call."""
        return LLMRecord(
            model=self.model(span), tokens=self.tokens(span), status=self.status(span), error=self.error(span)
        )

    def status(self, span: Any) -> Status:
        """Read how a span says its call ended; LangGraph's control flow without an error is an interruption."""
        if span.status.status_code.name == "ERROR":
            return "error"
        return "interrupted" if any(name in self.error(span) for name in _CONTROL_FLOW) else "ok"

    def error(self, span: Any) -> str:
        """Read what a span says of an error: the types of its exceptions, then the text of its status."""
        types = [str(event.attributes.get("exception.type")) for event in span.events if event.name == "exception"]
        return " ".join([*types, span.status.description or ""]).strip()

    @abstractmethod
    def kind(self, span: Any) -> str:
        """Return ``llm``, ``tool`` or ``other``."""

    @abstractmethod
    def tool(self, span: Any) -> str:
        """Return the tool's name."""

    @abstractmethod
    def model(self, span: Any) -> str | None:
        """Return the model's name."""

    @abstractmethod
    def tokens(self, span: Any) -> Tokens:
        """Return the counts."""


class OpenInferenceAdapter(SpanAdapter):
    """Attach ``openinference-instrumentation-langchain``: attributes of the OpenInference conventions."""

    name = "OpenInference"

    def __init__(self) -> None:
        super().__init__()
        instrumentor = import_module("openinference.instrumentation.langchain").LangChainInstrumentor()
        instrumentor.instrument(tracer_provider=self.provider)

    def kind(self, span: Any) -> str:
        """Read the span kind."""
        return {"LLM": "llm", "TOOL": "tool"}.get(span.attributes.get("openinference.span.kind"), "other")

    def tool(self, span: Any) -> str:
        """Read the tool's name, or the span's."""
        return str(span.attributes.get("tool.name") or span.name)

    def model(self, span: Any) -> str | None:
        """Read the model's name."""
        return _text(span.attributes.get("llm.model_name"))

    def tokens(self, span: Any) -> Tokens:
        """Read the token counts."""
        count = span.attributes.get
        return Tokens(
            prompt=count("llm.token_count.prompt"),
            completion=count("llm.token_count.completion"),
            total=count("llm.token_count.total"),
            cached=count("llm.token_count.prompt_details.cache_read"),
            reasoning=count("llm.token_count.completion_details.reasoning"),
        )


class OpenLLMetryAdapter(SpanAdapter):
    """Attach ``opentelemetry-instrumentation-langchain``: attributes of OpenTelemetry's GenAI conventions."""

    name = "OpenLLMetry"

    def __init__(self) -> None:
        super().__init__()
        instrumentor = import_module("opentelemetry.instrumentation.langchain").LangchainInstrumentor()
        instrumentor.instrument(tracer_provider=self.provider)

    def kind(self, span: Any) -> str:
        """Read the operation's name."""
        operation = span.attributes.get("gen_ai.operation.name")
        return {"chat": "llm", "text_completion": "llm", "execute_tool": "tool"}.get(operation, "other")

    def tool(self, span: Any) -> str:
        """Read the tool's name."""
        return str(span.attributes.get("gen_ai.tool.name"))

    def model(self, span: Any) -> str | None:
        """Read the model that answered, else the one that was asked."""
        names = span.attributes
        return _text(names.get("gen_ai.response.model") or names.get("gen_ai.request.model"))

    def tokens(self, span: Any) -> Tokens:
        """Read the token counts; the conventions have none for reasoning in this version."""
        count = span.attributes.get
        return Tokens(
            prompt=count("gen_ai.usage.input_tokens"),
            completion=count("gen_ai.usage.output_tokens"),
            total=count("gen_ai.usage.total_tokens"),
            cached=count("gen_ai.usage.cache_read.input_tokens"),
            reasoning=count("gen_ai.usage.reasoning.output_tokens"),
        )


class LangfuseAdapter(SpanAdapter):
    """Attach Langfuse's ``CallbackHandler``; each run has a client of its own, told apart by its public key."""

    name = "Langfuse"

    def __init__(self) -> None:
        super().__init__()
        self._langfuse = import_module("langfuse")
        self._handler = import_module("langfuse.langchain").CallbackHandler
        self._exporters = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        self._runs = itertools.count(1)
        self._key = ""
        self._made: list[Any] = []
        self._client: Any = None

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Begin with a client of its own, which exports into memory."""
        self.log.clear()
        self._made = []
        self._key = f"pk-{next(self._runs)}"
        self._client = self._langfuse.Langfuse(
            public_key=self._key,
            secret_key="sk-unused",  # noqa: S106 - nothing is sent
            base_url="http://127.0.0.1:9",
            tracer_provider=self.provider,
            span_exporter=self._exporters.InMemorySpanExporter(),
        )
        yield

    def handlers(self) -> list[BaseCallbackHandler]:
        """Return a new handler; as in an application, it lives on."""
        self._made.append(self._handler(public_key=self._key))
        return [self._made[-1]]

    def flush(self) -> None:
        """Flush the client."""
        self._client.flush()

    def status(self, span: Any) -> Status:
        """Read the level; a message without an error level is how Langfuse marks LangGraph's control flow."""
        level = span.attributes.get("langfuse.observation.level")
        if level == "ERROR":
            return "error"
        said = span.attributes.get("langfuse.observation.status_message")
        return "interrupted" if said is not None else "ok"

    def error(self, span: Any) -> str:
        """Read the status message."""
        said = span.attributes.get("langfuse.observation.status_message") or ""
        return f"{super().error(span)} {said}".strip()

    def kind(self, span: Any) -> str:
        """Read the observation's type."""
        kind = span.attributes.get("langfuse.observation.type")
        return {"generation": "llm", "tool": "tool"}.get(kind, "other")

    def tool(self, span: Any) -> str:
        """Return the observation's name."""
        return str(span.name)

    def model(self, span: Any) -> str | None:
        """Read the model's name."""
        return _text(span.attributes.get("langfuse.observation.model.name"))

    def tokens(self, span: Any) -> Tokens:
        """Read the usage details, in which input and output do not include their parts."""
        details = json.loads(span.attributes.get("langfuse.observation.usage_details") or "{}")
        if "prompt_tokens" in details:  # in OpenAI's words, which Langfuse's server understands as they are
            return Tokens(
                prompt=details["prompt_tokens"],
                completion=details.get("completion_tokens"),
                total=details.get("total_tokens"),
            )
        return Tokens(
            prompt=_with_parts(details, "input"),
            completion=_with_parts(details, "output"),
            total=details.get("total"),
            cached=details.get("input_cache_read"),
            reasoning=details.get("output_reasoning"),
        )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _with_parts(details: Mapping[str, int], side: str) -> int | None:
    if side not in details:
        return None
    return details[side] + sum(count for name, count in details.items() if name.startswith(f"{side}_"))
