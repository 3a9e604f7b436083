"""The schema of ``thread.jsonl``, a worker's conversations, and the text of a file in ``tool_calls``.

Both are written only when content capture is asked for; see ``docs/formats.md``.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from langchain_swarmlet_metrics.events import Count, without_null
from langchain_swarmlet_metrics.scrub import identifier

Role: TypeAlias = Literal["system", "human", "ai", "tool", "other"]
"""Who speaks in a message."""

_LONGEST_NAME = 64


class ToolRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Name a tool call that a message asks for; ``args`` is an object, or a text where the model wrote no JSON."""

    name: str
    args: Any
    id: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="entry", tag="message"):
    """Hold one message that an LLM call sent or received: a line with ``"entry": "message"``."""

    role: Role
    event_id: Count
    conversation: Count
    ts: str
    content: str | list[dict[str, Any]]
    name: str | None = None
    tool_calls: list[ToolRequest] | None = None
    tool_call_id: str | None = None
    partial: bool | None = None
    truncated: bool | None = None


class Stopped(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry", tag="stopped"):
    """Say that nothing more is captured, and why: the last line, with ``"entry": "stopped"``."""

    ts: str
    reason: str


_encoder = msgspec.json.Encoder()


def encode(entry: Message | Stopped) -> bytes:
    r"""Encode an entry as its line of ``thread.jsonl``, ending in ``\n``."""
    return _encoder.encode(entry) + b"\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a line of ``thread.jsonl``: what is unknown is absent, never null."""
    return without_null(msgspec.json.schema(Message | Stopped))


class Text(NamedTuple):
    """Hold what is kept of a text, and whether something was cut."""

    kept: str
    is_cut: bool = False


def tool_text(header: dict[str, object], given: Text | None, returned: Text | None) -> str:
    """Return the text of a file in ``tool_calls``: header lines, the input and the output.

    Args:
        header: name -> value; what is None is left out.
        given: the tool's input, None when it is not known.
        returned: its output or its error, None when it has none.
    """
    texts = {name: text for name, text in (("input", given), ("output", returned)) if text is not None}
    sizes = {f"{name}_characters": len(text.kept) for name, text in texts.items()}
    cut = " ".join(name for name, text in texts.items() if text.is_cut) or None
    lines = [f"{name}: {value}" for name, value in (header | sizes | {"truncated": cut}).items() if value is not None]
    for name, text in texts.items():
        lines += ["", f"--- {name} ---", text.kept]
    return "\n".join([*lines, ""]).replace("\0", "\\x00")  # a file with the character itself would not pass as text


def tool_file(event_id: int, tool: object) -> str:
    """Return the name of a tool call's file in ``tool_calls``, such as ``001_ssh_exec.txt``.

    Args:
        event_id: the event's ``id``.
        tool: the tool's name, whatever it has in it.
    """
    plain = unicodedata.normalize("NFKD", identifier(tool)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", plain)[:_LONGEST_NAME].strip("_")
    return f"{event_id:03d}_{name or 'tool'}.txt"
