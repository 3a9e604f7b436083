"""The two kinds of open calls, and how each becomes an event."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import logs, tokens
from langchain_swarmlet_metrics._langchain import Answer, Usage, phase_of, read_answer, read_labels
from langchain_swarmlet_metrics.events import LLMCall, ToolCall, UsageSource, milliseconds, span, timestamp
from langchain_swarmlet_metrics.inflight import RETURNED, Ending, OpenCall, calls, silent
from langchain_swarmlet_metrics.scrub import error_text, identifier
from langchain_swarmlet_metrics.snapshot import StartedCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

    from langchain_swarmlet_metrics.capture import Capture
    from langchain_swarmlet_metrics.collector import MetricsCollector

_warned_of_streams = False


class OpenLLMCall(OpenCall, eq=False, gc=False):
    """Hold an LLM call in flight.

    Args:
        messages: the prompt, or None for a completion model.
        prompt: the prompt of a completion model, or None.
        serialized: LangChain's description of the model.
        options: what else LangChain says: the parameters of the invocation, and how many prompts share one answer.
        thread: the one that it starts in.
        phase: as the user names it, or None.
        base: the arguments of `OpenCall`.
    """

    messages: Sequence[BaseMessage] | None
    prompt: str | None
    serialized: Mapping[str, Any] | None
    options: Mapping[str, Any]
    thread: int
    phase: str | None

    @property
    def params(self) -> Mapping[str, Any] | None:
        """Return the parameters of the invocation."""
        return self.options.get("invocation_params")

    @property
    def batch_size(self) -> int:
        """Return how many prompts share one answer of the provider."""
        return self.options.get("batch_size") or 1

    def first_chunk(self, token: object, chunk: object) -> None:
        """Note that the call streams, and the time of the first chunk that says something.

        LangChain reads the stream of an ``ainvoke`` in a task of its own, and that of an ``astream`` in the one that
        started the call, at first.
        """
        self.streamed = True
        self.outlives_task = self.task_calls is not None and self.task_calls.is_current()
        if facts.says_something(token, chunk):
            self.ttft_ns = perf_counter_ns() - self.clock_ns
            silent.discard(self.run)

    def event(self, ending: Ending, said: LLMResult | None) -> LLMCall:
        """Return the event of the call, which ends now; LangChain's cache may change later what it said."""
        answer = read_answer(said)
        start_ts, end_ts, duration_ms = span(self.start_ns, perf_counter_ns() - self.clock_ns)
        model = answer.model or facts.requested_model(self.serialized, self.metadata, self.params)
        labels = read_labels(model, self.metadata)
        usage, source = answer.usage, None
        if usage.total_tokens is None and not usage.known:
            usage, source = self._usage(answer, labels.name, ending)
        inputs, outputs = usage.input_token_details, usage.output_token_details
        if answer.tool_calls and self.id is not None:
            self._remember_requests(answer, self.id)
        return LLMCall(  # by position: to match two dozen names takes ten times as long as all the rest of it
            self.phase or labels.phase or phase_of(self.messages, answer.tool_calls, ending.success),
            labels.name,
            start_ts,
            end_ts,
            duration_ms,
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            self.id,
            self.parent_id,
            None if ending.success else False,
            ending.error,
            ending.error_type,
            ending.outcome,
            None if self.ttft_ns is None else milliseconds(self.ttft_ns),
            None if inputs is None else inputs.cache_read,
            None if inputs is None else inputs.written,
            None if outputs is None else outputs.reasoning,
            source,
            answer.cache_hit or None,
            facts.attempt_of(self.tags) if self.tags else None,
            labels.agent,
            labels.provider,
        )

    def describe(self) -> StartedCall:
        """Return what is known of the call while it is open."""
        model = facts.requested_model(self.serialized, self.metadata, self.params)
        labels = read_labels(model, self.metadata)
        return StartedCall(
            event="llm_call",
            model=labels.name,
            start_ts=timestamp(self.start_ns),
            id=self.id or 0,
            parent_id=self.parent_id,
            agent=labels.agent,
        )

    def show(self, capture: Capture, given: object) -> None:  # noqa: ARG002 - it has the prompt itself
        """Have the prompt captured."""
        capture.llm_started(self)

    def abandon_batch(self) -> None:
        """Close the other calls of a synchronous batch that this one's failure ended; nobody tells their end."""
        if self.batch_size == 1 or self.task_calls is not None or self.messages is None:
            return  # completion models tell the end of each
        for call in list(calls.values()):
            if (
                isinstance(call, OpenLLMCall)
                and (call.thread, call.parent_run, call.batch_size) == (self.thread, self.parent_run, self.batch_size)
                and not call.streamed
            ):
                call.abandon("unfinished")

    def _usage(self, answer: Answer, model: str, ending: Ending) -> tuple[Usage, UsageSource | None]:
        """Return the usage of a call whose provider did not report any, and where it is from."""
        if answer.shares_usage and self.batch_size > 1:
            return answer.usage, None  # the provider reported one count for the batch; its first call has it
        if answer.text or ending.success:
            estimate = self._estimate(answer, model)
            if estimate is not None:
                return estimate, "estimated"
        if self.streamed and ending.success:
            _warn_of_stream_without_usage(model)
        return answer.usage, "missing"

    def _estimate(self, answer: Answer, model: str) -> Usage | None:
        if self.messages is None:
            prompt = tokens.count(self.prompt or "", model)
        else:
            prompt = tokens.count_messages([message.text for message in self.messages], model)
        completion = tokens.count(answer.text, model)
        if prompt is None or completion is None:
            return None
        return Usage(prompt, completion, prompt + completion)

    def _remember_requests(self, answer: Answer, call_id: int) -> None:
        """Note which tools the answer asks for: their calls name this one, and some may not exist."""
        bound = facts.bound_tools(self.params)
        for request in answer.tool_calls:
            tool_call_id = request.get("id")
            if not tool_call_id:
                continue
            self.collector.requested_by[tool_call_id] = call_id
            if bound is not None and request.get("name") not in bound:
                self.collector.unbound_tools[tool_call_id] = identifier(request.get("name"))


class OpenCompletion(OpenLLMCall, eq=False, gc=False):
    """Hold a call of a completion model in flight.

    LangChain starts each in a short task of its own, and tells when it is cancelled.
    """

    is_watched: ClassVar[bool] = False


class OpenToolCall(OpenCall, eq=False, gc=False):
    """Hold a tool call in flight.

    Args:
        tool: name of the tool.
        requested_by: the number of the LLM call that asked for it, or None.
        base: the arguments of `OpenCall`.
    """

    tool: object
    requested_by: int | None

    def show(self, capture: Capture, given: tuple[str, Mapping[str, Any]]) -> None:
        """Have the input captured: as text, and what else LangChain says."""
        text, told = given
        inputs = told.get("inputs")
        capture.tool_started(self, text if inputs is None else inputs)

    def describe(self) -> StartedCall:
        """Return what is known of the call while it is open."""
        labels = read_labels(self.tool, self.metadata)
        return StartedCall(
            event="tool_call",
            tool=labels.name,
            start_ts=timestamp(self.start_ns),
            id=self.id or 0,
            parent_id=self.parent_id,
            agent=labels.agent,
        )

    def event(self, ending: Ending, said: object) -> ToolCall:
        """Return the event of the call, which ends now; what it returned may say that it failed."""
        start_ts, end_ts, duration_ms = span(self.start_ns, perf_counter_ns() - self.clock_ns)
        if ending is RETURNED and type(said) is not str and (error := facts.handled_error(said)) is not None:
            ending = Ending(success=False, error=error)
        labels = read_labels(self.tool, self.metadata)
        return ToolCall(  # by position, as above
            labels.name,
            start_ts,
            end_ts,
            duration_ms,
            ending.success,
            ending.error,
            self.id,
            self.parent_id,
            self.requested_by,
            ending.error_type,
            ending.outcome,
            facts.attempt_of(self.tags) if self.tags else None,
            labels.agent,
        )


def record_unknown_tools(
    collector: MetricsCollector, messages: Sequence[BaseMessage], metadata: Mapping[str, Any] | None
) -> None:
    """Record the tools that were asked for and do not exist; LangChain only answers them, with an error message."""
    for answer in facts.trailing_tool_messages(messages):
        if answer.status != "error":
            continue
        tool = collector.unbound_tools.pop(answer.tool_call_id, None)
        if tool is None:
            continue
        start_ts, end_ts, duration_ms = span(time_ns(), 0)
        event = ToolCall(
            tool=tool,
            start_ts=start_ts,
            end_ts=end_ts,
            duration_ms=duration_ms,
            success=False,
            error=error_text(answer.text),
            id=collector.next_id(),
            requested_by=collector.requested_by.get(answer.tool_call_id),
            outcome="unknown_tool",
            agent=read_labels(tool, metadata).agent,
        )
        if collector.capture is not None:
            collector.capture.answered(event, facts.requested_args(messages, answer.tool_call_id), answer)
        collector.add(event)


def _warn_of_stream_without_usage(model: str) -> None:
    global _warned_of_streams  # noqa: PLW0603 - once per process
    if not _warned_of_streams:
        _warned_of_streams = True
        logs.warn(
            "A streamed call of %s reported no usage, so its tokens are not known. With langchain-openai and a "
            "base_url of your own, pass stream_usage=True to the model.",
            model,
        )
