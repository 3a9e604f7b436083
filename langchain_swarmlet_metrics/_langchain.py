"""Pure readers of what LangChain hands a callback: model, usage, phase, outcome. Total functions: none raises."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import suppress
from contextvars import Context, copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables.config import var_child_runnable_config
from msgspec import Struct

from langchain_swarmlet_metrics import scrub
from langchain_swarmlet_metrics.events import Count, token_count
from langchain_swarmlet_metrics.scrub import UNKNOWN, error_text, identifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.outputs import LLMResult

PHASE_KEY = "swarmlet_phase"
RETRY_TAG = "retry:attempt:"
_TOOL_MESSAGES = frozenset({"tool", "ToolMessageChunk"})
_HUMAN_MESSAGES = frozenset({"human", "HumanMessageChunk"})
_LABELS = (PHASE_KEY, "lc_source", "ls_provider", "lc_agent_name", "langgraph_node")
_PLUMBING_NODES = ("model", "tools", "agent")
_BLOCK_LABELS = frozenset({"type", "index", "id"})


class InputDetails(Struct, frozen=True, gc=False):
    """Say which part of a prompt a cache served or keeps, in LangChain's words."""

    cache_read: Count | None = None
    cache_creation: Count | None = None
    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None

    @property
    def written(self) -> int | None:
        """Return how much was written to a cache: the sum, or what langchain-anthropic tells by time to live."""
        if self.cache_creation:
            return self.cache_creation
        counts = (self.cache_creation, self.ephemeral_5m_input_tokens, self.ephemeral_1h_input_tokens)
        known = [count for count in counts if count is not None]
        return sum(known) if known else None


class OutputDetails(Struct, frozen=True, gc=False):
    """Say which part of an answer is not text, in LangChain's words."""

    reasoning: Count | None = None


class Usage(Struct, frozen=True, gc=False):
    """Count the tokens of one LLM call as its provider reported them, in LangChain's words; None is not known."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    input_token_details: InputDetails | None = None
    output_token_details: OutputDetails | None = None
    total_cost: float | None = None

    @property
    def known(self) -> bool:
        """Tell whether the provider reported any count."""
        return self.total_tokens is not None or self.input_tokens is not None or self.output_tokens is not None


NO_USAGE = Usage()


class Answer(Struct, frozen=True, gc=False):
    """Hold what an LLM result says that an event needs."""

    model: str | None = None
    usage: Usage = NO_USAGE
    tool_calls: Sequence[Mapping[str, Any]] = ()
    cache_hit: bool = False
    text: str = ""
    shares_usage: bool = False


def read_answer(response: LLMResult | None) -> Answer:
    """Read an LLM result, of the first generation only: each of several choices carries the usage of all."""
    try:
        generation: Any = response.generations[0][0]  # type: ignore[union-attr]
        message, text = generation.message, generation.text or ""
    except (AttributeError, IndexError, TypeError):
        return _read_completion(response)
    if not isinstance(message, AIMessage):
        return _read_completion(response)
    about = message.response_metadata or {}
    model = about.get("model_name") or _output(response).get("model_name")
    reported: Any = message.usage_metadata
    try:
        usage = msgspec.convert(reported, Usage) if reported else NO_USAGE
    except msgspec.ValidationError:
        usage = _readable_usage(reported)
    is_cached = usage.total_cost == 0  # which LangChain's cache puts on what it serves, and nothing else does
    if usage.total_tokens is None and not usage.known:
        body = about.get("body")  # of an answer that the integration could not parse
        usage = _usage_of_output(
            _output(response).get("token_usage") or about.get("token_usage") or _get(body, "usage")
        )
        model = model or _get(body, "model")
    return Answer(model, usage, message.tool_calls or message.invalid_tool_calls, is_cached, text)


def _read_completion(response: LLMResult | None) -> Answer:
    """Read the result of a completion model, or one that says next to nothing."""
    text = ""
    with suppress(AttributeError, IndexError, TypeError):
        text = response.generations[0][0].text or ""  # type: ignore[union-attr]
    output = _output(response)
    reported = output.get("token_usage")
    # LangChain leaves the count of a batch with its first answer, and an empty one with the others
    return Answer(output.get("model_name"), _usage_of_output(reported), (), False, text, reported == {})


def _output(response: object) -> Mapping[str, Any]:
    return getattr(response, "llm_output", None) or {}


def _readable_usage(reported: object) -> Usage:
    """Return what can be read of a report in which something is no count."""
    told = {name: token_count(_get(reported, name)) for name in ("input_tokens", "output_tokens", "total_tokens")}
    inputs, outputs = _get(reported, "input_token_details"), _get(reported, "output_token_details")
    return Usage(
        **told,
        input_token_details=InputDetails(*(token_count(_get(inputs, name)) for name in InputDetails.__struct_fields__)),
        output_token_details=OutputDetails(token_count(_get(outputs, "reasoning"))),
        total_cost=token_count(_get(reported, "total_cost")),
    )


def _usage_of_output(reported: object) -> Usage:
    """Read usage in OpenAI's words: of completion models and older integrations, and of raw answers of both APIs."""
    prompt, completion = ("prompt", "completion") if _get(reported, "input_tokens") is None else ("input", "output")
    cached = token_count(_get(_get(reported, f"{prompt}_tokens_details"), "cached_tokens"))
    reasoning = token_count(_get(_get(reported, f"{completion}_tokens_details"), "reasoning_tokens"))
    return Usage(
        token_count(_get(reported, f"{prompt}_tokens")),
        token_count(_get(reported, f"{completion}_tokens")),
        token_count(_get(reported, "total_tokens")),
        None if cached is None else InputDetails(cached),
        None if reasoning is None else OutputDetails(reasoning),
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


def phase_of(messages: Sequence[BaseMessage] | None, asks_for_tools: object, answered: object) -> str:
    """Return the phase of a call that nobody named.

    It is an initial one unless its prompt has a ToolMessage after the last HumanMessage; without any of those, the
    whole prompt counts.

    Args:
        messages: the prompt, or None for a completion model.
        asks_for_tools: whether the answer does.
        answered: whether there is an answer.
    """
    for message in reversed(messages or ()):
        kind = getattr(message, "type", None)  # to ask for the class takes ten times as long: pydantic asks back
        if kind in _HUMAN_MESSAGES:
            break
        if kind in _TOOL_MESSAGES:
            return "tool_decision" if asks_for_tools or not answered else "synthesis"
    return "initial"


class Labels(Struct, frozen=True, gc=False):
    """Hold the names that a call goes by: its own is the model's or the tool's, and only models have a provider."""

    name: str = UNKNOWN
    phase: str | None = None
    agent: str | None = None
    provider: str | None = None


def read_labels(name: object, metadata: Mapping[str, Any] | None) -> Labels:
    """Read the names that a call goes by.

    An agent's own name comes before that of its LangGraph node, which counts unless it is plumbing.

    Args:
        name: of the model or tool, if known.
        metadata: what LangChain says of the run.
    """
    told = (name, *map((metadata or {}).get, _LABELS))
    try:
        return _labels(scrub.added_patterns, *told)
    except TypeError:  # something that cannot be hashed
        return _labels.__wrapped__((), *told)


# An agent's calls have the same few names; to clean them anew takes as long as all the rest. What is equal, such as
# True and 1, is not always the same name.
@lru_cache(maxsize=64, typed=True)
def _labels(
    _cleaned_of: object, name: object, phase: object, source: object, provider: object, agent: object, node: object
) -> Labels:
    if not phase and source == "summarization":
        phase = "summary"
    agent = agent or (node if node not in _PLUMBING_NODES else None)
    return Labels(
        identifier(name),
        identifier(phase) if phase else None,
        identifier(agent) if agent else None,
        identifier(provider) if provider else None,
    )


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
    try:
        messages = _messages_of(output)
    except Exception:  # noqa: BLE001 - an object of the tool's own may raise anything when it is asked
        return None
    return next((error_text(message.text) for message in messages if message.status == "error"), None)


def _messages_of(output: object) -> Sequence[ToolMessage]:
    if isinstance(output, ToolMessage):
        return [output]
    if isinstance(output, list):
        return [message for item in output for message in _messages_of(item)]
    update = getattr(output, "update", None)
    messages = update.get("messages") if isinstance(update, dict) else None
    return _messages_of(messages) if isinstance(messages, list) else ()


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


def current_run() -> int | None:
    """Return the key of the LangChain run that this code is called from, such as the tool around it, or None."""
    config = var_child_runnable_config.get()
    run_id = getattr((config or {}).get("callbacks"), "parent_run_id", None)
    return None if run_id is None else run_key(run_id)


def without_current_run() -> Context:
    """Return a copy of this context in which LangChain and LangGraph see no enclosing run to be part of."""
    context = copy_context()
    context.run(var_child_runnable_config.set, None)
    return context
