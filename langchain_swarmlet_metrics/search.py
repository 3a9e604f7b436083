"""Find a text in what one worker wrote: its task, error, summary, result and metrics, and captured content."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from langchain_swarmlet_metrics.folder import (
    METADATA_FILE,
    METRICS_FILE,
    RESULT_FILE,
    FileRefusedError,
    captured_files,
    open_alone,
)
from langchain_swarmlet_metrics.metadata import Metadata

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 1 << 20
_LINE_SHOWN = 200


class Match(NamedTuple):
    """Show where a text was found: whose file, which line of it (from 1 on), and what is around it."""

    metadata: Metadata
    file: str
    line_no: int
    line: str


def matches(folder: Path, metadata: Metadata, wanted: re.Pattern[str]) -> Iterator[Match]:
    """Yield where a worker's files match, each line once; a file that cannot be read has no matches.

    Args:
        folder: the worker's folder.
        metadata: what is in its ``metadata.json``.
        wanted: what to look for, within a line.
    """
    for field in ("task", "error", "summary"):
        text = excerpt(getattr(metadata, field) or "", wanted)
        if text is not None:
            # After the opening brace each field has a line of its own.
            line_no = 2 + Metadata.__struct_fields__.index(field)
            yield Match(metadata, METADATA_FILE, line_no, f"{field}: {text}")
    for name in (RESULT_FILE, METRICS_FILE, *captured_files(folder)):
        with suppress(OSError, FileRefusedError), open_alone(folder, name.split("/")) as file:
            for line_no, line in grep(file, wanted):
                yield Match(metadata, name, line_no, line)


def grep(file: BinaryIO, wanted: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that matches, from 1 on; at most 200 characters around its first match.

    Args:
        file: is read to its end, a piece of a line at a time.
        wanted: what to look for; a match is at most as long as the pattern's text.
    """
    line_no, matched, overlap, tail = 1, 0, 4 * len(wanted.pattern), b""
    while piece := file.readline(_PIECE):
        if matched != line_no and (text := excerpt((tail + piece).decode(errors="replace"), wanted)) is not None:
            matched = line_no
            yield line_no, text
        tail = piece[-overlap:]  # what begins in one piece of a long line and ends in the next
        if piece.endswith(b"\n"):
            line_no, tail = line_no + 1, b""


def excerpt(text: str, wanted: re.Pattern[str]) -> str | None:
    """Return at most 200 characters around the first match, on one line, or None without a match."""
    match = wanted.search(text)
    if match is None:
        return None
    start = max(min(match.start() - _LINE_SHOWN // 4, len(text) - _LINE_SHOWN), 0)
    return " ".join(text[start : start + _LINE_SHOWN].split())
