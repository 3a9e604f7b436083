"""What has to be in the files of a killed process's worker, and that they can be written again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import ToolCall
from langchain_swarmlet_metrics.events import encode
from tests.torture import raw

if TYPE_CHECKING:
    from tests.torture.case import Look

_APPENDED = ToolCall(tool="appended", start_ts="2026", end_ts="2026", duration_ms=0, success=True)


def check_events(look: Look) -> None:
    """Require that every acknowledged event is there, once, and that nothing is there that never was."""
    ids = Counter(event["id"] for event in look.lines.events)
    missing = look.acknowledged - ids.keys()
    twice = [id_ for id_, count in ids.items() if count > 1]
    look.count(workers=1, acknowledged=len(look.acknowledged), missing=len(missing), twice=len(twice))
    look.require(not missing, f"has not the acknowledged events {sorted(missing)[:5]}")
    look.require(not twice, f"has the events {twice[:5]} twice")
    if look.started:
        known = {event["id"] for event in look.lines.events if event.get("outcome") == "unknown_tool"}
        invented = ids.keys() - known - look.acknowledged - look.started.keys()
        look.require(not invented, f"has events of calls that never started: {sorted(invented)[:5]}")


def check_lines(look: Look) -> None:
    """Require that at most the last line is torn, and that the package's reader skips and counts it."""
    lines, reader = look.lines, look.store.events(look.worker_id)
    look.count(lines=len(lines.events), torn=int(lines.is_torn), unreadable=len(lines.unreadable))
    look.require(not lines.unreadable, f"has unreadable lines {lines.unreadable[:2]}")
    read = [event.id for event in reader]
    look.require(read == [event["id"] for event in lines.events], "has other events for its reader than on disk")
    look.require(reader.skipped == lines.is_torn, f"has {reader.skipped} skipped lines for its reader")


def check_totals(look: Look) -> None:
    """Require that the totals of a worker that has ended are those of its events."""
    metadata = raw.metadata(look.folder) or {}
    if metadata.get("finished_at") is not None:
        look.require(metadata["totals"] == raw.sums(look.lines.events), "has totals unlike its events")


def check_append(look: Look) -> None:
    """Require that the next event is on a line of its own, also after a torn one."""
    path = look.folder / "metrics.jsonl"
    before = path.read_bytes() if path.exists() else b""
    look.store.append(look.worker_id, [_APPENDED])
    between = b"" if before.endswith(b"\n") or not before else b"\n"
    look.require(path.read_bytes() == before + between + encode(_APPENDED), "has the next event glued to the last one")
