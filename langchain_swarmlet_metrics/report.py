"""What a reader is told of one worker: tier 1 text, digest, metadata; for the supervisor tools and the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from langchain_swarmlet_metrics.events import parse_timestamp
from langchain_swarmlet_metrics.folder import METRICS_FILE, RESULT_FILE
from langchain_swarmlet_metrics.imitation import quote_imitations
from langchain_swarmlet_metrics.liveness import OPEN_STATUSES
from langchain_swarmlet_metrics.scrub import one_line, scrub_value
from langchain_swarmlet_metrics.summary import count, digest, format_duration

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.metadata import Metadata
    from langchain_swarmlet_metrics.parts import Head
    from langchain_swarmlet_metrics.snapshot import StartedCall
    from langchain_swarmlet_metrics.store import ArtifactStore

_ABOUT = 200
_OPEN_SHOWN = 20
_WITHIN_S = 5.0
RESULT_LIMIT = 1_000_000
"""Bytes of a result that the tier 1 text shows; ``result.txt`` has all of them."""

# Control characters but for tab and line feed, and what reorders or breaks lines.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def elapsed_ms(store: ArtifactStore, metadata: Metadata, status: str) -> int:
    """Return how long a worker ran: in all, up to now while it runs, up to its last sign of life when it is lost."""
    if metadata.duration_ms is not None:
        return metadata.duration_ms
    if metadata.started_at is None:
        return 0
    if status in OPEN_STATUSES:
        until = datetime.now(UTC)
    elif metadata.finished_at is not None:
        until = parse_timestamp(metadata.finished_at)
    else:
        until = store.last_sign_of_life(metadata)
    return _ms_between(metadata.started_at, until)


def result_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return the tier 1 text: who, ``Execution time: 98ms``, how it stands unless it ended well, and the result."""
    metadata, status = _as_it_is_now(store, metadata)
    job = "a worker without a job number" if metadata.job_id is None else f"worker job {metadata.job_id}"
    parts = [
        f"Result from {job} (worker {metadata.worker_id}):",
        f"Execution time: {format_duration(elapsed_ms(store, metadata, status))}",
        _standing(store, metadata, status),
        _unrecorded(store, metadata),
        _result(store, metadata, status),
    ]
    return "\n\n".join(part for part in parts if part is not None)


def _as_it_is_now(store: ArtifactStore, metadata: Metadata) -> tuple[Metadata, str]:
    """Return a worker's metadata and status; it may have ended since its metadata was read."""
    status = store.status(metadata)
    if status not in (metadata.status, "lost"):
        metadata = store.read_worker(metadata.worker_id)
    return metadata, status


def _result(store: ArtifactStore, metadata: Metadata, status: str) -> str:
    if status in OPEN_STATUSES:
        return "There is no result yet; read it again later."
    beginning = store.result_head(metadata.worker_id, RESULT_LIMIT)
    if beginning is None:
        is_gone = status == "success" and metadata.error
        return f"This worker's result could not be kept: {metadata.error}" if is_gone else "This worker set no result."
    if not beginning.size:
        return "The result of this worker is an empty text."
    result = quote_imitations(beginning.content.decode(errors="replace"))
    if beginning.next_line is None:
        return result
    return f"{result}\n\n{_goes_on(metadata, beginning)}"


def _goes_on(metadata: Metadata, beginning: Head) -> str:
    return (
        f"The result goes on: above are the first {len(beginning.content)} of {beginning.size} bytes. Read on with "
        f"read_worker_file(job_id={metadata.job_id}, file_path='{RESULT_FILE}', offset={beginning.next_line})."
    )


def _unrecorded(store: ArtifactStore, metadata: Metadata) -> str | None:
    """Say why metrics are not there, or that they are not all there."""
    if held := store.overlay.get(metadata.worker_id):
        return f"Metrics are unavailable: this worker's files cannot be written ({held.reason})."
    number, reason = metadata.completeness.dropped_events, metadata.completeness.drop_reason or ""
    if number and reason.startswith(METRICS_FILE):
        return f"Metrics are incomplete: {count(number, 'event')} could not be written ({reason})."
    return None


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
        why = metadata.error or "its process ended without a word"
        return f"This worker is lost: {why}. Its last sign of life was {seen} ago."
    return f"This worker is still running, since {metadata.started_at}. Its last sign of life was {seen} ago."


def _silent_ms(store: ArtifactStore, metadata: Metadata) -> int:
    silence = datetime.now(UTC) - store.last_sign_of_life(metadata)
    return max(round(silence.total_seconds() * 1000), 0)


def digest_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return the digest of a worker's ``metrics.jsonl``, from what is in it now."""
    metadata, status = _as_it_is_now(store, metadata)
    sums = store.summary(metadata.worker_id, within_s=_WITHIN_S)
    return digest(
        metadata,
        status,
        sums.summary,
        skipped=sums.skipped,
        stopped=sums.stopped,
        elapsed_ms=elapsed_ms(store, metadata, status),
        open_calls=_open_calls(store, metadata, status),
    )


def metadata_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return ``metadata.json`` as a reader should see it.

    With the derived status and the execution time so far; of a worker that has not ended, or is lost, also with the
    totals so far, which its file need not have yet, and its open calls, the longest first. Of long texts and a large
    ``config``, as others than this package may have written, only the beginning is shown.
    """
    metadata, status = _as_it_is_now(store, metadata)
    elapsed = elapsed_ms(store, metadata, status)
    shown = msgspec.to_builtins(metadata) | {
        "status": status,
        "duration_ms": elapsed,
        "execution_time": format_duration(elapsed),
    }
    if metadata.duration_ms is None or status == "lost":
        shown |= _so_far(store, metadata, status)
    return msgspec.json.format(msgspec.json.encode(scrub_value(shown)), indent=2).decode()


def _so_far(store: ArtifactStore, metadata: Metadata, status: str) -> dict[str, Any]:
    sums = store.summary(metadata.worker_id, within_s=_WITHIN_S)
    calls = sorted(_open_calls(store, metadata, status), key=lambda item: -item[1])
    completeness = msgspec.structs.replace(metadata.completeness)
    completeness.recount(sums.summary.completeness)
    if status == "lost":
        completeness.unfinished_calls += len(calls)
    return {
        "totals": msgspec.to_builtins(sums.summary.totals),
        "completeness": msgspec.to_builtins(completeness),
        **({"totals_of": "the first events, as metrics.jsonl is too long to be read in time"} if sums.stopped else {}),
        "open_calls": [msgspec.to_builtins(call) | {"age_ms": age_ms} for call, age_ms in calls[:_OPEN_SHOWN]],
        "open_calls_in_all": len(calls),
    }


def _open_calls(store: ArtifactStore, metadata: Metadata, status: str) -> list[tuple[StartedCall, int]]:
    """Return a worker's open calls, each with its age: up to now, or up to the last sign of life of a lost worker."""
    until = store.last_sign_of_life(metadata) if status == "lost" else datetime.now(UTC)
    return [(call, _ms_between(call.start_ts, until)) for call in store.open_calls(metadata)]


def _ms_between(start_ts: str, until: datetime) -> int:
    return max(round((until - parse_timestamp(start_ts)).total_seconds() * 1000), 0)


def for_terminal(text: str, stream: TextIO) -> str:
    """Return a text that a model may have written with what could steer a terminal escaped.

    So is what the stream's encoding does not have.
    """
    escaped = _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    encoding = stream.encoding or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def line_text(store: ArtifactStore, metadata: Metadata) -> str:
    """Return a worker on one line, for lists."""
    metadata, status = _as_it_is_now(store, metadata)
    time = format_duration(elapsed_ms(store, metadata, status))
    about = one_line(metadata.summary or metadata.task or "(no task stored)", _ABOUT)
    why = f" error: {metadata.error}" if metadata.error else ""
    return f"job {metadata.job_id}  {status}  {time}  {metadata.worker_id}  {about}{why}"
