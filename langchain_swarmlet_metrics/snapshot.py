"""The schema of ``inflight.json``: which calls of a worker were open when it was written."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, Literal

import msgspec

from langchain_swarmlet_metrics.events import SCHEMA_VERSION, Count, require_timestamp


class StartedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Describe a call that has started and not ended: an LLM call has ``model``, a tool call ``tool``.

    The keys mean what they mean in ``metrics.jsonl``, where the call's line has the same ``id`` once it has ended.
    """

    event: Literal["llm_call", "tool_call"]
    model: str | None = None
    tool: str | None = None
    start_ts: str
    id: Count
    parent_id: Count | None = None
    agent: str | None = None

    @property
    def name(self) -> str:
        """Return what was called: the model or the tool."""
        return self.model or self.tool or "unknown"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Say which calls are open: the contents of ``inflight.json``.

    ``metrics_bytes`` is how long ``metrics.jsonl`` was before anybody looked which calls are open: the line of a call
    that has ended since is behind it. The file's time of modification is the worker's latest sign of life.
    """

    schema: int = SCHEMA_VERSION
    worker_id: str
    written_at: str
    metrics_bytes: Count
    calls: list[StartedCall]


_decoder = msgspec.json.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """Encode a snapshot as the text of ``inflight.json``, one call a line."""
    return msgspec.json.format(msgspec.json.encode(snapshot), indent=2) + b"\n"


def decode(text: bytes) -> Snapshot | None:
    """Decode ``inflight.json``, or return None for text that is no snapshot."""
    try:
        snapshot = _decoder.decode(text)
        for call in snapshot.calls:
            require_timestamp(call.start_ts)
    except (ValueError, RecursionError):
        return None
    return snapshot


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``inflight.json``."""
    schema = msgspec.json.schema(Snapshot)
    for definition in schema["$defs"].values():
        definition["description"] = cleandoc(definition["description"])
    return schema
