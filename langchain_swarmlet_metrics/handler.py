"""MetricsCallbackHandler: turns LangChain's callbacks into events for the collector of the current worker."""

from __future__ import annotations

from asyncio import CancelledError
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import inflight
from langchain_swarmlet_metrics._langchain import run_key
from langchain_swarmlet_metrics.calls import OpenCompletion, OpenLLMCall, OpenToolCall, record_unknown_tools
from langchain_swarmlet_metrics.collector import MetricsCollector, checked, current_collector, current_phase
from langchain_swarmlet_metrics.inflight import RETURNED, UNATTACHED, Ending, calls, silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult


class MetricsCallbackHandler(BaseCallbackHandler):
    """Record every LLM call and tool call of what it is attached to.

    Not needed inside a worker block, where every run is recorded already. Attach it with ``callbacks=[...]`` for log
    lines without a worker, or bound to a collector where the context of the block is lost (threads, executors).
    Any number of handlers records each run once.

    Args:
        collector: where events go; by default the current collector when a call starts. A current collector
            nested inside the bound one wins over it.

    Raises:
        TypeError: it is no collector, but a worker for instance.
    """

    # Inline: otherwise LangChain hops through an executor for every event and token, and times are wrong under load.
    run_inline = True
    ignore_retry = True
    ignore_custom_event = True
    # The base class has these as properties, which LangChain calls for every event and token.
    ignore_llm = False
    ignore_chat_model = False
    ignore_agent = False

    def __init__(self, collector: MetricsCollector | None = None) -> None:
        self._collector = checked(collector)

    @property
    def ignore_chain(self) -> bool:
        """Tell LangChain to skip chain events: they matter only while a call is open."""
        return not calls

    ignore_retriever = ignore_chain

    def on_chat_model_start(
        self,
        serialized: Mapping[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Open an LLM call of a chat model."""
        run = run_id.int if type(run_id) is UUID else run_key(run_id)  # here and below: without a call for nothing
        collector = self._claim(run, parent_run_id)
        if collector is None:
            return
        prompt = messages[0] if messages else []
        if collector.unbound_tools:
            record_unknown_tools(collector, prompt, metadata)
        silent.add(run)
        call = OpenLLMCall(
            run, collector, metadata, tags, prompt, None, serialized, kwargs, get_ident(), current_phase()
        )
        call.start(parent_run_id)

    def on_llm_start(
        self,
        serialized: Mapping[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Open an LLM call of a completion model."""
        run = run_key(run_id)
        collector = self._claim(run, parent_run_id)
        if collector is not None:
            prompt = prompts[0] if prompts else ""
            silent.add(run)
            call = OpenCompletion(
                run, collector, metadata, tags, None, prompt, serialized, kwargs, get_ident(), current_phase()
            )
            call.start(parent_run_id)

    def on_llm_new_token(
        self,
        token: object,
        *,
        chunk: object = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note when a streamed call said something first; this is called for hundreds of chunks of it."""
        if silent:
            self._first_chunk(run_key(run_id), token, chunk)

    def on_stream_event(self, event: Mapping[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Note when a call streamed as typed events said something first."""
        if silent:
            self._first_chunk(run_key(run_id), facts.text_of_stream_event(event), None)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Close an LLM call that returned."""
        call = calls.pop(run_id.int if type(run_id) is UUID else run_key(run_id), None)
        if call is not None:
            call.end(RETURNED, response)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **kwargs: Any
    ) -> None:
        """Close an LLM call that raised, was cancelled, or whose stream was closed early."""
        call = calls.pop(run_key(run_id), None)
        if call is not None:
            call.end(Ending.of(error), response)
        if isinstance(call, OpenLLMCall):
            call.abandon_batch()

    def on_tool_start(
        self,
        serialized: Mapping[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_call_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Open a tool call."""
        run = run_id.int if type(run_id) is UUID else run_key(run_id)
        collector = self._claim(run, parent_run_id)
        if collector is not None:
            tool = (serialized or {}).get("name") or kwargs.get("name")
            requested_by = None if tool_call_id is None else collector.requester_of(tool_call_id)
            OpenToolCall(run, collector, metadata, tags, tool, requested_by).start(parent_run_id, (input_str, kwargs))

    def on_tool_end(self, output: object, *, run_id: UUID, **kwargs: Any) -> None:
        """Close a tool call that returned."""
        call = calls.pop(run_id.int if type(run_id) is UUID else run_key(run_id), None)
        if call is not None:
            call.end(RETURNED, output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Close a tool call that raised, was cancelled or was interrupted."""
        call = calls.pop(run_key(run_id), None)
        if call is not None:
            call.end(Ending.of(error), error)

    def on_chain_start(
        self,
        serialized: object,
        inputs: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note which open call a chain runs inside of."""
        if parent_run_id is not None:
            inflight.enter_chain(run_key(run_id), run_key(parent_run_id))

    def on_chain_end(self, outputs: object, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the chain."""
        inflight.leave_chain(run_key(run_id))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the chain; when it was cancelled, so were the calls it was waiting for."""
        run = run_key(run_id)
        inflight.leave_chain(run)
        if isinstance(error, CancelledError):
            inflight.cancel_children(run)

    def on_retriever_start(
        self,
        serialized: object,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note which open call a retriever runs inside of: it may ask models."""
        self.on_chain_start(serialized, query, run_id=run_id, parent_run_id=parent_run_id)

    def on_retriever_end(self, documents: object, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the retriever."""
        self.on_chain_end(documents, run_id=run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the retriever; when it was cancelled, so were the calls it was waiting for."""
        self.on_chain_error(error, run_id=run_id)

    def _first_chunk(self, run: int, token: object, chunk: object) -> None:
        call = calls.get(run) if run in silent else None
        if isinstance(call, OpenLLMCall):
            call.first_chunk(token, chunk)

    def _claim(self, run: int, parent_run_id: UUID | None) -> MetricsCollector | None:
        """Return where a run that starts belongs; None when another handler has it, or its worker has ended."""
        collector = current_collector()
        bound = self._collector
        if collector is None:  # the context was lost, or there is no worker
            collector = bound or inflight.collector_around(parent_run_id) or UNATTACHED
        elif bound is not None and not bound.closed and not collector.is_within(bound):
            collector = bound
        if run in calls and not self._takes_over(run, collector):
            return None
        if not collector.closed:
            return collector
        if collector.cancelled:
            # The only way to stop a synchronous agent: LangChain lets a BaseException through to it.
            msg = f"worker {collector.worker_id} has been cancelled"
            raise CancelledError(msg)
        collector.count_late(run)
        return None

    def _takes_over(self, run: int, collector: MetricsCollector) -> bool:
        """Take a call out of the map whose worker this handler knows better than the one that saw the run first."""
        known = calls.get(run)
        if self._collector is None or known is None or known.collector is collector or not known.take():
            return False
        known.withdraw()
        return True


_hook: ContextVar[MetricsCallbackHandler | None] = ContextVar("swarmlet_handler", default=None)
register_configure_hook(_hook, inheritable=True)  # once: a hook per use would never go away again

_SHARED = MetricsCallbackHandler()


def attach() -> MetricsCallbackHandler | None:
    """Have LangChain attach the handler to every run of this context; returns what `detach` takes."""
    before = _hook.get()
    _hook.set(_SHARED)
    return before


def detach(before: MetricsCallbackHandler | None) -> None:
    """Undo `attach`, in whatever context."""
    _hook.set(before)
