"""Turn a ``Reply`` into what an OpenAI-compatible API sends: one JSON body, or server-sent events.

Pure functions; the formats are those of the OpenAI API reference, https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import threading

JSON = dict[str, Any]

# Every answer says it was created at this moment, so that tests can compare whole bodies.
CREATED = 1_765_771_200

_DONE = b"data: [DONE]\n\n"
_ERRORS = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
}
_INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_NOT_NEGATIVE = ("delay_s", "first_token_delay_s", "chunk_delay_s", "hold_after", "cut_after")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Say how many tokens an answer took, as the provider reports it.

    Args:
        prompt_tokens: Tokens of the prompt, cached ones included.
        completion_tokens: Tokens of the answer, reasoning included.
        total_tokens: What the provider calls the total; None: prompt and completion tokens added.
        cached_tokens: Prompt tokens read from the cache; None: the provider does not mention them.
        cache_write_tokens: Prompt tokens written to the cache; None: not mentioned.
        reasoning_tokens: Completion tokens spent on reasoning; None: not mentioned.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None
    cached_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    reasoning_tokens: int | None = 0


@dataclass(frozen=True)
class ToolRequest:
    """Ask for one tool call.

    Args:
        name: Name of the tool.
        args: Its arguments.
        id: The tool call id; None: the server numbers them, ``call_1``, ``call_2`` ...
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Describe one answer of the server, good or broken.

    A chunk is a piece of the text or of a tool call's arguments; role, finish reason and usage don't count.

    Args:
        text: The answer; with an error status, the error message.
        tool_calls: The tools the answer asks for.
        model: Model name in the answer, such as a dated snapshot; None: the name in the request.
        usage: Exact numbers; ``"words"``: one token per word, of all strings in the messages (roles too),
            and of the answer's text, tool names and arguments, times the choices; None: no usage is reported.
        finish_reason: None: ``tool_calls`` when the answer asks for tools, else ``stop``.
        chunks: Pieces the text, and each tool call's arguments, are streamed in; None: words.
        status: HTTP status; any but 200 sends an error body.
        headers: HTTP headers to add, such as ``{"Retry-After": "1"}``.
        body: Bytes to send as they are instead of a well-formed body.
        delay_s: Seconds before the answer begins.
        first_token_delay_s: Seconds between the beginning of a stream and its first chunk.
        chunk_delay_s: Seconds between two chunks of a stream.
        hold: Event to wait for, 30 s at most, before answering; in a stream, after ``hold_after`` chunks.
        hold_after: Chunks a stream sends before it waits; 0 holds the first token.
        cut_after: Chunks a stream sends before the connection drops; other answers drop half-way.
    """

    text: str = ""
    tool_calls: Sequence[ToolRequest] = ()
    model: str | None = None
    usage: Usage | Literal["words"] | None = "words"
    finish_reason: str | None = None
    chunks: int | None = None
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0
    first_token_delay_s: float = 0
    chunk_delay_s: float = 0
    hold: threading.Event | None = None
    hold_after: int = 1
    cut_after: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that can't be meant."""
        for name, least in (("chunks", 1), *((name, 0) for name in _NOT_NEGATIVE)):
            value = getattr(self, name)
            if value is not None and value < least:
                msg = f"{name} of a Reply is {value!r}; it must be at least {least}"
                raise ValueError(msg)


class Endpoint(NamedTuple):
    """Pair the two ways an endpoint answers; both take a settled reply, the request's body and an id.

    A stream is a list: what comes before the chunks, each chunk, what comes after them.
    """

    body: Callable[[Reply, JSON, str], JSON]
    stream: Callable[[Reply, JSON, str], list[bytes]]


def messages_of(body: JSON) -> list[JSON]:
    """Read the messages of a request; a bare prompt counts as a user message."""
    if "messages" in body:
        return list(body["messages"])
    prompt: str | list[Any] = body.get("input") or body.get("prompt") or []
    items = [prompt] if isinstance(prompt, str) else prompt
    return [{"role": "user", "content": item} if isinstance(item, str) else item for item in items]


def settle(reply: Reply, body: JSON, call_ids: Iterator[str]) -> Reply:
    """Fill in what a reply leaves to the server: tool call ids, model, finish reason, the usage it reports.

    Raises:
        ValueError: A completion model is to ask for tools, which its format can't say.
    """
    if reply.tool_calls and _is_completion(body):
        msg = f"a completion model can't ask for tools, but the Reply has tool_calls={reply.tool_calls!r}"
        raise ValueError(msg)
    calls = tuple(replace(call, id=call.id or next(call_ids)) for call in reply.tool_calls)
    return replace(
        reply,
        tool_calls=calls,
        model=reply.model or body.get("model"),
        usage=_reported_usage(reply, body),
        finish_reason=reply.finish_reason or ("tool_calls" if calls else "stop"),
    )


def error_body(status: int, message: str) -> JSON:
    """Build the body of a failed request; every 5xx is a server error."""
    kind, code = _ERRORS.get(min(status, 500), ("invalid_request_error", None))
    return {"error": {"message": message or f"HTTP {status}", "type": kind, "param": None, "code": code}}


def split(text: str, chunks: int | None) -> list[str]:
    """Cut a text into that many pieces, or one a word; joined they are the text again."""
    if chunks is None:
        return re.findall(r"\s*\S+|\s+\Z", text)
    count = min(chunks, len(text))
    return [text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count)]


def _is_completion(body: JSON) -> bool:
    return "prompt" in body and "input" not in body


def _asks_for_usage(body: JSON) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _reported_usage(reply: Reply, body: JSON) -> Usage | None:
    untold = body.get("stream") and "input" not in body and not _asks_for_usage(body)
    broken = reply.status != HTTPStatus.OK or reply.body is not None or reply.cut_after is not None
    if untold or broken:
        return None
    if reply.usage != "words":
        return reply.usage
    answer = [reply.text, *((call.name, json.dumps(call.args)) for call in reply.tool_calls)]
    completion_tokens = _words(answer) * _choice_count(body)
    return Usage(prompt_tokens=_words(messages_of(body)), completion_tokens=completion_tokens)


def _words(value: object) -> int:
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, Mapping):
        return sum(map(_words, value.values()))
    return sum(map(_words, value)) if isinstance(value, Sequence) else 0


def _choice_count(body: JSON) -> int:
    prompts = len(messages_of(body)) if _is_completion(body) else 1
    return prompts * int(body.get("n") or 1)


def _usage(reply: Reply, prompt: str, completion: str) -> JSON | None:
    """Build the usage of a settled reply; the APIs name the two sides differently."""
    usage = reply.usage
    if not isinstance(usage, Usage):
        return None
    total = usage.total_tokens
    if total is None:
        total = usage.prompt_tokens + usage.completion_tokens
    read = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        f"{prompt}_tokens": usage.prompt_tokens,
        f"{completion}_tokens": usage.completion_tokens,
        "total_tokens": total,
        f"{prompt}_tokens_details": _mentioned(read),
        f"{completion}_tokens_details": _mentioned({"reasoning_tokens": usage.reasoning_tokens}),
    }


def _mentioned(details: dict[str, int | None]) -> dict[str, int] | None:
    return {name: count for name, count in details.items() if count is not None} or None


def _stream(steps: Iterable[Iterable[JSON]], end: bytes = b"") -> list[bytes]:
    *before, tail = (b"".join(map(_sse, step)) for step in steps)
    return [*before, tail + end]


def _sse(event: JSON) -> bytes:
    """Encode a server-sent event; one of the Responses API repeats its type in the event line."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


# Chat completions and completions: an answer is a list of choices.


def _choice(finish_reason: str | None = None, **content: object) -> JSON:
    return {**content, "logprobs": None, "finish_reason": finish_reason}


def _indexed(choice: JSON, body: JSON) -> list[JSON]:
    return [{"index": index, **choice} for index in range(_choice_count(body))]


def _choices_body(frame: JSON, choice: JSON, reply: Reply, body: JSON) -> JSON:
    answer = {**frame, "created": CREATED, "model": reply.model, "choices": _indexed(choice, body)}
    usage = _usage(reply, "prompt", "completion")
    return {**answer, "usage": usage} if usage else answer


def _choices_stream(frame: JSON, steps: list[list[JSON]], reply: Reply, body: JSON) -> list[bytes]:
    frame = {**frame, "created": CREATED, "model": reply.model}
    if _asks_for_usage(body):
        frame["usage"] = None
    events = [[{**frame, "choices": [one]} for choice in step for one in _indexed(choice, body)] for step in steps]
    if usage := _usage(reply, "prompt", "completion"):
        events[-1].append({**frame, "choices": [], "usage": usage})
    return _stream(events, end=_DONE)


def _chat_body(reply: Reply, body: JSON, answer_id: str) -> JSON:
    message: JSON = {"role": "assistant", "content": reply.text, "refusal": None}
    if calls := [_chat_tool_call(call) for call in reply.tool_calls]:
        message |= {"content": reply.text or None, "tool_calls": calls}
    frame = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion"}
    return _choices_body(frame, _choice(reply.finish_reason, message=message), reply, body)


def _chat_tool_call(call: ToolRequest) -> JSON:
    function = {"name": call.name, "arguments": json.dumps(call.args)}
    return {"id": call.id, "type": "function", "function": function}


def _chat_stream(reply: Reply, body: JSON, answer_id: str) -> list[bytes]:
    steps = [[_choice(delta={"role": "assistant", "content": ""})]]
    steps += [[_choice(delta={"content": piece})] for piece in split(reply.text, reply.chunks)]
    for index, call in enumerate(reply.tool_calls):
        steps += _tool_call_steps({"index": index}, _chat_tool_call(call), reply.chunks)
    steps.append([_choice(reply.finish_reason, delta={})])
    frame = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion.chunk"}
    return _choices_stream(frame, steps, reply, body)


def _tool_call_steps(place: JSON, call: JSON, chunks: int | None) -> list[list[JSON]]:
    """Name the tool together with the first piece of its arguments, as one chunk."""
    pieces = split(call["function"]["arguments"], chunks)
    deltas = [[{**place, "function": {"arguments": piece}}] for piece in pieces]
    deltas[0].insert(0, {**place, **call, "function": {**call["function"], "arguments": ""}})
    return [[_choice(delta={"tool_calls": [delta]}) for delta in step] for step in deltas]


def _completion_body(reply: Reply, body: JSON, answer_id: str) -> JSON:
    frame = {"id": f"cmpl-{answer_id}", "object": "text_completion"}
    return _choices_body(frame, _choice(reply.finish_reason, text=reply.text), reply, body)


def _completion_stream(reply: Reply, body: JSON, answer_id: str) -> list[bytes]:
    pieces = [[_choice(text=piece)] for piece in split(reply.text, reply.chunks)]
    frame = {"id": f"cmpl-{answer_id}", "object": "text_completion"}
    return _choices_stream(frame, [[], *pieces, [_choice(reply.finish_reason, text="")]], reply, body)


# Responses: an answer is a list of output items, a message and function calls.


def _response_body(reply: Reply, body: JSON, answer_id: str) -> JSON:
    reason = _INCOMPLETE_REASONS.get(reply.finish_reason or "")
    return {
        "id": f"resp_{answer_id}",
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": reply.model,
        "output": list(_output_items(reply, answer_id)),
        "parallel_tool_calls": True,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "usage": _usage(reply, "input", "output"),
    }


def _output_items(reply: Reply, answer_id: str) -> Iterator[JSON]:
    if reply.text or not reply.tool_calls:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        message = {"id": f"msg_{answer_id}", "type": "message", "status": "completed", "role": "assistant"}
        yield {**message, "content": [part]}
    for number, call in enumerate(reply.tool_calls, start=1):
        item = {"id": f"fc_{answer_id}_{number}", "type": "function_call", "status": "completed"}
        yield {**item, "call_id": call.id, "name": call.name, "arguments": json.dumps(call.args)}


def _response_stream(reply: Reply, body: JSON, answer_id: str) -> list[bytes]:
    final = _response_body(reply, body, answer_id)
    begun = {**final, "status": "in_progress", "output": [], "incomplete_details": None, "usage": None}
    steps = [[{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")]]
    for index, item in enumerate(final["output"]):
        item_steps = _message_steps if item["type"] == "message" else _function_call_steps
        steps += item_steps(index, item, reply.chunks)
    steps.append([{"type": f"response.{final['status']}", "response": final}])
    numbers = itertools.count()
    return _stream([{**event, "sequence_number": next(numbers)} for event in step] for step in steps)


def _message_steps(index: int, item: JSON, chunks: int | None) -> list[list[JSON]]:
    part = item["content"][0]
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    begun = {**item, "status": "in_progress", "content": []}
    steps = [
        [{"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}]
        for piece in split(part["text"], chunks) or [""]
    ]
    steps[0][:0] = [
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
    ]
    steps[-1] += [
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]
    return steps


def _function_call_steps(index: int, item: JSON, chunks: int | None) -> list[list[JSON]]:
    place = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    steps = [
        [{"type": "response.function_call_arguments.delta", **place, "delta": piece}]
        for piece in split(item["arguments"], chunks)
    ]
    steps[0].insert(0, {"type": "response.output_item.added", "output_index": index, "item": begun})
    steps[-1] += [
        {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]},
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]
    return steps


ENDPOINTS = {
    "/v1/chat/completions": Endpoint(_chat_body, _chat_stream),
    "/v1/completions": Endpoint(_completion_body, _completion_stream),
    "/v1/responses": Endpoint(_response_body, _response_stream),
}
