"""Read the folders without the package: what is on disk, as any program would see it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Lines(NamedTuple):
    """Hold the lines of a ``metrics.jsonl``: its events, what cannot be read, and whether its last line was torn."""

    events: list[dict[str, Any]]
    unreadable: list[bytes]
    is_torn: bool
    ends_whole: bool
    """Whether the file is empty or ends with a line feed; what is last may be an event all the same."""


def read_lines(folder: Path) -> Lines:
    """Read a worker's ``metrics.jsonl``; a missing file has no lines."""
    with suppress(FileNotFoundError):
        *whole, last = (folder / "metrics.jsonl").read_bytes().split(b"\n")
        parsed = [(line, _event(line)) for line in whole]
        tail = _event(last)
        return Lines(
            [event for _, event in parsed if event is not None] + ([] if tail is None else [tail]),
            [line for line, event in parsed if event is None],
            is_torn=bool(last) and tail is None,
            ends_whole=not last,
        )
    return Lines([], [], is_torn=False, ends_whole=True)


def folders(root: Path) -> Iterator[Path]:
    """Return the worker folders, whatever is in them."""
    return (path for path in root.iterdir() if path.is_dir())


def metadata(folder: Path) -> dict[str, Any] | None:
    """Read a worker's ``metadata.json``, or None when there is none."""
    with suppress(FileNotFoundError):
        return json.loads((folder / "metadata.json").read_bytes())
    return None


def sums(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up what ``totals`` in ``metadata.json`` has to say of these events."""
    calls = [event for event in events if event["event"] == "llm_call"]
    billed = [call for call in calls if not call.get("cache_hit")]
    totals: dict[str, Any] = {"llm_calls": len(calls), "tool_calls": len(events) - len(calls)}
    failed = [event for event in events if event.get("success") is False]
    totals["errors"] = sum(event.get("outcome") in (None, "unknown_tool") for event in failed)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost_usd"):
        known = [call[name] for call in billed if name in call]
        totals[name] = sum(known) if known else None
    return totals


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # UnicodeDecodeError is one
        return None
    return event if isinstance(event, dict) and "event" in event else None
