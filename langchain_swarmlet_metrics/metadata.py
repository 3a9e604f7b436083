"""The schema of ``metadata.json``: what is known of a worker as a whole. Every key is present; null is unknown."""

from __future__ import annotations

import errno
import os
import platform
from contextlib import suppress
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from langchain_swarmlet_metrics.events import SCHEMA_VERSION, Count, Event, LLMCall, require_timestamp, time_ns
from langchain_swarmlet_metrics.folder import METADATA_FILE, FileRefusedError, open_plain
from langchain_swarmlet_metrics.scrub import one_line

if TYPE_CHECKING:
    from pathlib import Path

Status: TypeAlias = Literal["created", "running", "success", "failed", "cancelled", "lost"]
"""A worker's status. Its own process writes all but ``lost``: not ended, but nobody holds its lock.

Readers tell that by themselves, and the doctor writes it down.
"""

LONGEST = 16 << 20
"""Bytes of a ``metadata.json`` that are read; one that is longer is damaged."""

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What is raised for a text that is not JSON, or not of the right kind."""


class Totals(msgspec.Struct, kw_only=True):
    """Sum up the events of a worker.

    Token sums and cost are None while no call told them. What LangChain's cache served was not billed, so it is not
    in them.
    """

    llm_calls: int = 0
    tool_calls: int = 0
    errors: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None

    @property
    def calls(self) -> int:
        """Return how many calls there were, of both kinds."""
        return self.llm_calls + self.tool_calls

    def add(self, event: Event) -> None:
        """Count one event."""
        if event.success is False and event.failed:
            self.errors += 1
        if not isinstance(event, LLMCall):
            self.tool_calls += 1
            return
        self.llm_calls += 1
        if event.cache_hit:
            return
        # Amounts that are not known change nothing; written out, as this runs for every call that anybody makes.
        if event.prompt_tokens is not None:
            self.prompt_tokens = event.prompt_tokens + (self.prompt_tokens or 0)
        if event.completion_tokens is not None:
            self.completion_tokens = event.completion_tokens + (self.completion_tokens or 0)
        if event.total_tokens is not None:
            self.total_tokens = event.total_tokens + (self.total_tokens or 0)
        if event.cached_tokens is not None:
            self.cached_tokens = event.cached_tokens + (self.cached_tokens or 0)
        if event.cost_usd is not None:
            self.cost_usd = event.cost_usd + (self.cost_usd or 0)

    def include(self, other: Totals) -> None:
        """Count what another one has counted."""
        for name in Totals.__struct_fields__:
            if (amount := getattr(other, name)) is not None:
                setattr(self, name, amount + (getattr(self, name) or 0))


class Completeness(msgspec.Struct, kw_only=True):
    """Say what the numbers of a worker leave out.

    ``dropped_events`` counts what a sink did not take, ``metrics.jsonl`` or another; ``drop_reason`` says which sink
    was the first, and why. ``unreadable_lines`` are those of ``metrics.jsonl`` that the doctor found and noted.
    """

    calls_without_usage: int = 0
    unpriced_calls: int = 0
    dropped_events: int = 0
    drop_reason: str | None = None
    dropped_content: int = 0
    unfinished_calls: int = 0
    late_calls: int = 0
    unreadable_lines: int = 0
    price_source: str | None = None

    def add(self, event: Event) -> None:
        """Count what one event does not tell."""
        if event.outcome == "unfinished":
            self.unfinished_calls += 1
        if isinstance(event, LLMCall) and not event.cache_hit:
            if event.usage_source == "missing":
                self.calls_without_usage += 1
            if event.cost_usd is None:
                self.unpriced_calls += 1

    def recount(self, told: Completeness) -> None:
        """Take over what events tell; what only their collector knew stays."""
        self.calls_without_usage, self.unpriced_calls = told.calls_without_usage, told.unpriced_calls
        self.unfinished_calls = told.unfinished_calls


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """Name whoever spawned a worker: the enclosing worker, and the event in it (None when it was no recorded call)."""

    worker_id: str
    event_id: int | None = None


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """Name the process a worker runs in."""

    host: str
    pid: int

    @classmethod
    def current(cls) -> Process:
        """Describe this process."""
        return cls(host=platform.node(), pid=os.getpid())


class Metadata(msgspec.Struct, kw_only=True):
    """Describe one worker: the contents of its ``metadata.json``."""

    schema: int = SCHEMA_VERSION
    worker_id: str
    job_id: int | None = None
    owner_id: str | None = None
    task: str | None = None
    status: Status = "created"
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    duration_ms: Count | None = None
    error: str | None = None
    summary: str | None = None
    config: dict[str, Any] | None = None
    trace_id: str | None = None
    traceparent: str | None = None
    parent: Parent | None = None
    process: Process | None = None
    totals: Totals = msgspec.field(default_factory=Totals)
    completeness: Completeness = msgspec.field(default_factory=Completeness)

    def missing_events(self, present: int) -> int:
        """Return how many of the events that were counted when the worker ended are gone from ``metrics.jsonl``.

        Args:
            present: how many lines the file has.
        """
        written = self.totals.calls - self.completeness.dropped_events
        return 0 if self.finished_at is None else max(written - present, 0)


_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_decoder = msgspec.json.Decoder(Metadata)


def encode(metadata: Metadata) -> bytes:
    """Encode a worker's metadata as the indented JSON text of ``metadata.json``."""
    return msgspec.json.format(msgspec.json.encode(metadata), indent=2) + b"\n"


def encode_over(text: bytes, metadata: Metadata) -> bytes:
    """Encode metadata to replace the text that it was decoded from; keys of later versions in it are kept.

    Raises:
        UNDECODABLE: what is in those keys cannot be read.
    """
    before, after = msgspec.json.decode(text), msgspec.to_builtins(metadata)
    for key, value in before.items():
        if isinstance(value, dict) and isinstance(after.get(key), dict):
            after[key] = value | after[key]
        else:
            after.setdefault(key, value)
    return msgspec.json.format(msgspec.json.encode(after), indent=2) + b"\n"


def decode(text: bytes) -> Metadata | None:
    """Decode ``metadata.json``; keys of later versions are ignored.

    Returns:
        The metadata, its times readable and its reasons on one line, or None for text that is not a worker's metadata.
    """
    try:
        metadata = _decoder.decode(text)
    except UNDECODABLE:
        return None
    times = (metadata.created_at, metadata.started_at, metadata.finished_at)
    if not all(time is None or is_time(time) for time in times):
        return None
    metadata.error = _on_one_line(metadata.error)
    metadata.completeness.drop_reason = _on_one_line(metadata.completeness.drop_reason)
    return metadata


def _on_one_line(text: str | None) -> str | None:
    return None if text is None else one_line(text)


def legible(text: bytes) -> dict[str, Any]:
    """Return what can be made out of a damaged ``metadata.json``: its sound keys, if it is JSON at all."""
    try:
        found = msgspec.json.decode(text)
    except UNDECODABLE:
        return {}
    sound: dict[str, Any] = {}
    for field in msgspec.structs.fields(Metadata) if isinstance(found, dict) else ():
        with suppress(KeyError, msgspec.ValidationError):
            value = msgspec.convert(found[field.name], field.type)
            if not field.name.endswith("_at") or value is None or is_time(value):
                sound[field.name] = value
    return sound


def load(folder: Path) -> Metadata | None:
    """Read a worker's metadata; None when it is missing, damaged, or another worker's.

    Raises:
        OSError: this process cannot open any file, which says nothing about this one.
    """
    try:
        with open_plain(folder, [METADATA_FILE]) as file:
            metadata = decode(file.read(LONGEST))
    except FileRefusedError:
        return None
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return None
    return metadata if metadata is not None and metadata.worker_id == folder.name else None


def is_time(text: str) -> bool:
    """Tell whether a text is a time that can stand in a file: of 1970 or later."""
    try:
        require_timestamp(text)
    except ValueError:
        return False
    return time_ns(text) >= 0


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``metadata.json``: every key is required, as every key is written."""
    schema = msgspec.json.schema(Metadata)
    for definition in schema["$defs"].values():
        definition["description"] = cleandoc(definition["description"])
        definition["required"] = list(definition["properties"])
    return schema
