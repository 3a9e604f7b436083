"""Pure readers of what LangChain hands a callback: model, usage, phase, outcome. Total functions: none raises."""

from __future__ import annotations

from asyncio import CancelledError
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables.config import var_child_runnable_config
from msgspec import Struct

from langchain_swarmlet_metrics.events import Count, token_count
from langchain_swarmlet_metrics.scrub import UNKNOWN, error_text, identifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.outputs import LLMResult

PHASE_KEY = "swarmlet_phase"
RETRY_TAG = "retry:attempt:"
_TOOL_MESSAGES = frozenset({"tool", "ToolMessageChunk"})
_HUMAN_MESSAGES = frozenset({"human", "HumanMessageChunk"})
_PLUMBING_NODES = frozenset({"model", "tools", "agent"})
_BLOCK_LABELS = frozenset({"type", "index", "id"})


class Usage(Struct, frozen=True, gc=False):
    """Count the tokens of one LLM call as its provider reported them; None is not known."""

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None

    @property
    def known(self) -> bool:
        """Tell whether the provider reported any count."""
        return self.total is not None or self.prompt is not None or self.completion is not None


NO_USAGE = Usage()


class _InputDetails(Struct, gc=False):
    cache_read: Count | None = None
    cache_creation: Count | None = None
    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class _OutputDetails(Struct, gc=False):
    reasoning: Count | None = None


class _Reported(Struct, gc=False):
    """What a chat model's ``usage_metadata`` says, of that which is kept."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    input_token_details: _InputDetails | None = None
    output_token_details: _OutputDetails | None = None
    total_cost: Any = None


class Answer(Struct, frozen=True, gc=False):
    """Hold what an LLM result says that an event needs."""

    model: str | None = None
    usage: Usage = NO_USAGE
    tool_calls: Sequence[Mapping[str, Any]] = ()
    cache_hit: bool = False
    text: str = ""
    shares_usage: bool = False


NO_ANSWER = Answer()


def read_answer(response: LLMResult | None) -> Answer:
    """Read an LLM result, of the first generation only: each of several choices carries the usage of all."""
    try:
        generation: Any = response.generations[0][0]  # type: ignore[union-attr]
    except (AttributeError, IndexError, TypeError):
        generation = None
    message = getattr(generation, "message", None)
    text = getattr(generation, "text", "") or ""
    if not isinstance(message, AIMessage):
        output = _output(response)
        reported = output.get("token_usage")
        # LangChain leaves the count of a batch with its first answer, and an empty one with the others
        return Answer(output.get("model_name"), _usage_of_output(reported), (), False, text, reported == {})
    about = message.response_metadata
    model = about.get("model_name") or _output(response).get("model_name")
    usage, cache_hit = NO_USAGE, False
    if reported := message.usage_metadata:
        usage, cache_hit = _usage_of_message(reported)
    if not usage.known:
        body = about.get("body")  # of an answer that the integration could not parse
        usage = _usage_of_output(
            _output(response).get("token_usage") or about.get("token_usage") or _get(body, "usage")
        )
        model = model or _get(body, "model")
    return Answer(model, usage, message.tool_calls or message.invalid_tool_calls, cache_hit, text)


def _output(response: object) -> Mapping[str, Any]:
    return getattr(response, "llm_output", None) or {}


def _usage_of_message(reported: Mapping[str, Any]) -> tuple[Usage, bool]:
    """Read ``usage_metadata``, whose counts include their details, and whether a cache served the answer.

    LangChain's cache puts a cost of 0 on what it serves, and nothing else does.
    """
    try:
        told = msgspec.convert(reported, _Reported)
    except msgspec.ValidationError:
        told = msgspec.convert(_readable(reported), _Reported)
    cached = cache_write = reasoning = None
    if (details := told.input_token_details) is not None:
        cached = details.cache_read
        cache_write = details.cache_creation or _writes_by_age(details)
    if told.output_token_details is not None:
        reasoning = told.output_token_details.reasoning
    usage = Usage(told.input_tokens, told.output_tokens, told.total_tokens, cached, cache_write, reasoning)
    return usage, told.total_cost == 0


def _writes_by_age(details: _InputDetails) -> int | None:
    """Read cache writes that langchain-anthropic names by their time to live; older versions name the sum, too."""
    counts = (details.cache_creation, details.ephemeral_5m_input_tokens, details.ephemeral_1h_input_tokens)
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _readable(reported: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be read of a report in which something is no count."""
    return {
        key: _readable(value) if isinstance(value, dict) else token_count(value)
        for key, value in reported.items()
        if type(key) is str
    }


def _usage_of_output(reported: object) -> Usage:
    """Read usage in OpenAI's words: of completion models and older integrations, and of raw answers of both APIs."""
    prompt, completion = ("prompt", "completion") if _get(reported, "input_tokens") is None else ("input", "output")
    return Usage(
        prompt=token_count(_get(reported, f"{prompt}_tokens")),
        completion=token_count(_get(reported, f"{completion}_tokens")),
        total=token_count(_get(reported, "total_tokens")),
        cached=token_count(_get(_get(reported, f"{prompt}_tokens_details"), "cached_tokens")),
        reasoning=token_count(_get(_get(reported, f"{completion}_tokens_details"), "reasoning_tokens")),
    )


def _get(mapping: object, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, dict) else None


def requested_model(
    serialized: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None, params: Mapping[str, Any] | None
) -> str:
    """Return the model that a call asked for; only the first two follow a ``model=`` given per call."""
    configured = (serialized or {}).get("kwargs") or {}
    params = params or {}
    name = (
        (metadata or {}).get("ls_model_name")
        or params.get("model")
        or params.get("model_name")
        or configured.get("model")
        or configured.get("model_name")
    )
    return identifier(name) if name else UNKNOWN


def is_after_tools(messages: Sequence[BaseMessage]) -> bool:
    """Tell whether a ToolMessage follows the last HumanMessage; without any of those, the whole list counts."""
    for message in reversed(messages):
        kind = getattr(message, "type", None)  # to ask for the class takes ten times as long: pydantic asks back
        if kind in _TOOL_MESSAGES:
            return True
        if kind in _HUMAN_MESSAGES:
            return False
    return False


def phase_of(after_tools: object, asks_for_tools: object, answered: object) -> str:
    """Return the phase of a call that nobody named, of three things that are true or not."""
    if not after_tools:
        return "initial"
    return "tool_decision" if asks_for_tools or not answered else "synthesis"


class Labels(Struct, frozen=True, gc=False):
    """Hold what LangChain's metadata of a run says of the call."""

    phase: str | None = None
    agent: str | None = None
    provider: str | None = None


NO_LABELS = Labels()


def read_labels(metadata: Mapping[str, Any] | None) -> Labels:
    """Read the phase that the user or LangChain's summarization names, the agent, and the model's provider."""
    if not metadata:
        return NO_LABELS
    get = metadata.get
    phase = get(PHASE_KEY) or ("summary" if get("lc_source") == "summarization" else None)
    provider = get("ls_provider")
    return Labels(identifier(phase) if phase else None, agent_of(metadata), identifier(provider) if provider else None)


def agent_of(metadata: Mapping[str, Any] | None) -> str | None:
    """Read an agent's own name, else that of its LangGraph node, which counts unless it is plumbing."""
    if not metadata:
        return None
    if name := metadata.get("lc_agent_name"):
        return identifier(name)
    node = metadata.get("langgraph_node")
    return identifier(node) if node and node not in _PLUMBING_NODES else None


def attempt_of(tags: Sequence[str] | None) -> int | None:
    """Return the number of a retry, from 2 on, that ``with_retry`` puts on the call itself."""
    for tag in tags or ():
        if tag.startswith(RETRY_TAG) and tag[len(RETRY_TAG) :].isdecimal():
            return int(tag[len(RETRY_TAG) :])
    return None


def says_something(token: object, chunk: object) -> bool:
    """Tell whether a streamed chunk carries content or part of a tool call; the first one often carries nothing."""
    if isinstance(token, str) and token:
        return True
    if isinstance(token, list) and any(_block_says_something(block) for block in token):
        return True
    return bool(getattr(getattr(chunk, "message", None), "tool_call_chunks", None))


def _block_says_something(block: object) -> bool:
    if isinstance(block, dict):
        return any(value for key, value in block.items() if key not in _BLOCK_LABELS)
    return bool(block)


def text_of_stream_event(event: Mapping[str, Any]) -> list[object]:
    """Return what a typed stream event adds, as content blocks; only deltas add something."""
    return [event.get("delta")] if event.get("event") == "content-block-delta" else []


def bound_tools(params: Mapping[str, Any] | None) -> set[str] | None:
    """Return the names of the tools that a model was given, or None when they cannot be read."""
    tools = (params or {}).get("tools")
    if not isinstance(tools, list):
        return None
    names = [_tool_name(tool) for tool in tools]
    return None if None in names else {name for name in names if name is not None}


def _tool_name(tool: object) -> str | None:
    if not isinstance(tool, dict):
        return None
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name", tool.get("type"))
    return name if isinstance(name, str) else None


def trailing_tool_messages(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    """Return the tool messages at the end of a prompt: the answers to what was asked last."""
    trailing: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        trailing.append(message)
    return trailing[::-1]


def requested_args(messages: Sequence[BaseMessage], tool_call_id: str) -> object:
    """Return the arguments with which a prompt's messages ask for a tool, or None."""
    for message in reversed(messages):
        for request in message.tool_calls if isinstance(message, AIMessage) else ():
            if request.get("id") == tool_call_id:
                return request.get("args")
    return None


def handled_error(output: object) -> str | None:
    """Return the error text of a tool output that says it failed, or None.

    The error is in a ToolMessage with status ``error``, bare, in a list, or among the messages of a Command.
    """
    if type(output) is str:
        return None
    if isinstance(output, ToolMessage):
        return error_text(output.text) if output.status == "error" else None
    if isinstance(output, list):
        return next((text for item in output if (text := handled_error(item)) is not None), None)
    update = getattr(output, "update", None)
    messages = update.get("messages") if isinstance(update, dict) else None
    return handled_error(messages) if isinstance(messages, list) else None


def is_cancellation(error: BaseException) -> bool:
    """Tell whether an error means that the caller stopped waiting, not that the call went wrong."""
    return isinstance(error, CancelledError | GeneratorExit | KeyboardInterrupt)


def is_control_flow(error: BaseException) -> bool:
    """Tell whether an error is LangGraph's way to interrupt or hand off; by name, without importing LangGraph."""
    return any(cls.__name__ == "GraphBubbleUp" for cls in type(error).__mro__)


def run_key(run_id: UUID | str) -> int:
    """Return a run id as the integer that maps are keyed by: hashing a UUID object costs three times as much."""
    if type(run_id) is UUID:
        return run_id.int
    try:
        return UUID(str(run_id)).int
    except ValueError:
        return hash(str(run_id))


def parent_key(run_id: UUID | str | None) -> int | None:
    """Return a parent's run id as `run_key` does, None for a run that has no parent."""
    return None if run_id is None else run_key(run_id)


def current_run() -> int | None:
    """Return the key of the LangChain run that this code is called from, such as the tool around it, or None."""
    config = var_child_runnable_config.get()
    return parent_key(getattr((config or {}).get("callbacks"), "parent_run_id", None))


def without_current_run() -> Context:
    """Return a copy of this context in which LangChain and LangGraph see no enclosing run to be part of."""
    context = copy_context()
    context.run(var_child_runnable_config.set, None)
    return context
