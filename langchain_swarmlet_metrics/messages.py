"""What a message says, as data: its mark, its line in ``thread.jsonl``, and texts without secrets and within bounds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from langchain_swarmlet_metrics.content import Message, Role, Text, ToolRequest
from langchain_swarmlet_metrics.conversations import Mark
from langchain_swarmlet_metrics.scrub import identifier, scrub_long

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_TEXT = 100_000
"""Characters of one text that are kept."""

_MOVING = "cache_control"  # integrations put it on the last message of each call
_REQUESTS = {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call", "input_json_delta"}
_BASE64 = re.compile(r"(?:data:(?P<kind>[\w.+-]+/[\w.+-]+)[^,]{0,100},)?(?P<data>[A-Za-z0-9+/_=-]*+)", re.ASCII)
_SHORTEST_BINARY = 256
_TEXT_KEYS = {"text", "reasoning", "thinking", "summary", "refusal"}


class Request(NamedTuple):
    """Hold what asks for a tool call: its name, arguments and id."""

    name: str | None
    args: Any
    id: str | None


class Said(NamedTuple):
    """Hold what a message says, taken out of it: plain data that nobody else changes."""

    role: Role
    content: Any
    id: str | None = None
    name: str | None = None
    requests: Sequence[Request] = ()
    tool_call_id: str | None = None
    is_cut: bool = False


class Data(NamedTuple):
    """Hold plain data that is no message, such as a tool's input."""

    value: object
    is_cut: bool = False


def mark_of(said: Said) -> Mark:
    """Return what tells a message from others: its content and requests, but neither its name nor its caching."""
    key = hash((said.role, _frozen(_plain(said.content)), _frozen(said.requests), said.tool_call_id))
    return Mark(key, said.id, said.role == "system")


def line_of(said: Said, event_id: int, conversation: int, ts: str, *, partial: bool = False) -> Message:
    """Return the line of a message in ``thread.jsonl``.

    Args:
        said: the message.
        event_id: of the LLM call that sent or received it.
        conversation: its number.
        ts: when it was sent or received.
        partial: whether it is the beginning of an answer that never ended.
    """
    content, is_cut = scrub_long(_content(said), LONGEST_TEXT)
    args = [scrub_long(_without_binary(request.args), LONGEST_TEXT) for request in said.requests]
    return Message(
        role=said.role,
        event_id=event_id,
        conversation=conversation,
        ts=ts,
        content=cast("str | list[dict[str, Any]]", content),
        name=None if said.name is None else identifier(said.name),
        tool_calls=[
            ToolRequest(name=identifier(request.name), args=kept, id=_optional(request.id))
            for request, (kept, _) in zip(said.requests, args, strict=True)
        ]
        or None,
        tool_call_id=_optional(said.tool_call_id),
        partial=partial or None,
        truncated=said.is_cut or is_cut or any(cut for _, cut in args) or None,
    )


def text_of(given: Said | Data) -> Text:
    """Return a message's content or data as a text: a text as it is, anything else as JSON."""
    plain = _content(given) if isinstance(given, Said) else _without_binary(given.value)
    kept, is_cut = scrub_long(plain, LONGEST_TEXT)
    text = kept if isinstance(kept, str) else msgspec.json.format(msgspec.json.encode(kept), indent=2).decode()
    return Text(text, is_cut or given.is_cut)


def _optional(name: object) -> str | None:
    return None if name is None else identifier(name)


def _content(said: Said) -> object:
    """Return a message's content without what is binary in it."""
    plain = _plain(said.content)
    return plain if isinstance(plain, str) else _without_binary(plain, also_base64=True)


def _plain(content: object) -> object:
    """Join content blocks that are nothing but texts, and leave out those that say again which tools are asked for."""
    if not isinstance(content, list):
        return content
    blocks = [block for block in content if not (isinstance(block, dict) and block.get("type") in _REQUESTS)]
    texts = [_text_of_block(block) for block in blocks]
    if None not in texts:
        return "".join(text for text in texts if text is not None)
    return [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]


def _text_of_block(block: object) -> str | None:
    if isinstance(block, dict) and block.get("type") == "text":
        block = block.get("text")
    return block if isinstance(block, str) else None


def _without_binary(value: object, *, also_base64: bool = False) -> object:
    """Replace what is binary inside of data by its type and size.

    Args:
        value: the data.
        also_base64: whether texts that are nothing but base64 are binary, too, unless they are a block's own text.
    """
    if isinstance(value, dict):
        return {
            key: _without_binary(item, also_base64=also_base64 and key not in _TEXT_KEYS)
            for key, item in value.items()
            if key != _MOVING
        }
    if isinstance(value, list):
        return [_without_binary(item, also_base64=also_base64) for item in value]
    if isinstance(value, bytes):
        return f"<binary, {len(value)} bytes>"
    if isinstance(value, str) and len(value) >= _SHORTEST_BINARY and (match := _BASE64.fullmatch(value)):
        kind = match["kind"] or ("base64" if also_base64 else None)
        return value if kind is None else f"<{kind}, {len(match['data'].rstrip('=')) * 3 // 4} bytes>"
    return value


def _frozen(value: object) -> object:
    """Return data as something that can be hashed, with another hash for other data."""
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in value.items() if key != _MOVING)
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return value if isinstance(value, str | bytes) else repr(value)
