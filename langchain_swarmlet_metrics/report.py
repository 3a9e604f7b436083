"""What a reader is told of one worker: tier 1 text, digest, metadata; for the supervisor tools and the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from langchain_swarmlet_metrics.events import parse_timestamp
from langchain_swarmlet_metrics.summary import digest, format_duration, summarize

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.store import ArtifactStore

_NO_RESULT = "This worker set no result."


def elapsed_ms(store: ArtifactStore, metadata: Metadata, status: str) -> int:
    """Return how long a worker ran: in all, up to now while it runs, up to its last sign of life when it is lost."""
    if metadata.duration_ms is not None:
        return metadata.duration_ms
    if metadata.started_at is None:
        return 0
    until = store.last_sign_of_life(metadata) if status == "lost" else datetime.now(UTC)
    seconds = (until - parse_timestamp(metadata.started_at)).total_seconds()
    return max(round(seconds * 1000), 0)


def result_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return the tier 1 text: who, ``Execution time: 98ms``, how it stands unless it ended well, and the result."""
    status = store.status(metadata)
    parts = [
        f"Result from worker job {metadata.job_id} (worker {metadata.worker_id}):",
        f"Execution time: {format_duration(elapsed_ms(store, metadata, status))}",
        _standing(store, metadata, status),
        store.result(metadata.worker_id) if status != "running" else None,
    ]
    if parts[-1] is None:
        parts[-1] = _NO_RESULT if status != "running" else "There is no result yet; read it again later."
    return "\n\n".join(part for part in parts if part is not None)


def _standing(store: ArtifactStore, metadata: Metadata, status: str) -> str | None:
    """Say how a worker stands unless it ended well: which status, since when, why."""
    if status == "success":
        return None
    if status in ("failed", "cancelled"):
        verb = "failed" if status == "failed" else "was cancelled"
        return f"This worker {verb} at {metadata.finished_at}: {metadata.error or 'no reason was recorded'}"
    if status == "created":
        return f"This worker has waited for its turn since {metadata.created_at}."
    seen = format_duration(_silent_ms(store, metadata))
    if status == "lost":
        return f"This worker is lost: its process ended without a word. Its last sign of life was {seen} ago."
    return f"This worker is still running, since {metadata.started_at}. Its last sign of life was {seen} ago."


def _silent_ms(store: ArtifactStore, metadata: Metadata) -> int:
    silence = datetime.now(UTC) - store.last_sign_of_life(metadata)
    return max(round(silence.total_seconds() * 1000), 0)


def digest_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return the digest of a worker's ``metrics.jsonl``, from what is in it now."""
    status = store.status(metadata)
    events = store.events(metadata.worker_id)
    summary = summarize(events)
    return digest(metadata, status, summary, skipped=events.skipped, elapsed_ms=elapsed_ms(store, metadata, status))


def metadata_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return ``metadata.json`` as a reader should see it: with the derived status and the execution time so far."""
    status = store.status(metadata)
    elapsed = elapsed_ms(store, metadata, status)
    shown = msgspec.to_builtins(metadata) | {
        "status": status,
        "duration_ms": elapsed,
        "execution_time": format_duration(elapsed),
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def line_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return a worker on one line, for lists."""
    status = store.status(metadata)
    time = format_duration(elapsed_ms(store, metadata, status))
    about = metadata.summary or metadata.task or "(no task stored)"
    why = f" error: {metadata.error}" if metadata.error else ""
    return f"job {metadata.job_id}  {status}  {time}  {metadata.worker_id}  {' '.join(about.split())[:200]}{why}"
