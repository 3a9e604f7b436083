"""Find a text in what workers wrote: tasks, errors, summaries, results, metrics, captured content; in bounded time."""

from __future__ import annotations

import re
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from langchain_swarmlet_metrics.folder import (
    METADATA_FILE,
    METRICS_FILE,
    RESULT_FILE,
    FileRefusedError,
    captured_files,
    open_alone,
)
from langchain_swarmlet_metrics.metadata import Metadata
from langchain_swarmlet_metrics.scrub import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LONGEST_PATTERN = 1000
"""How many characters a pattern may have; each may have four bytes."""

_PIECE = 1 << 16
_OVERLAP = 4 * LONGEST_PATTERN
_LINE_SHOWN = 200
_BRIEF_S = 0.002
_MOST_REPEATS = 1000
_LONGEST_S = 1e6  # the engine takes no infinite time

# What lets a pattern of a few characters fill the memory: it calls itself or a group, matches approximately, or repeats
# a repetition. Free spacing, (?x), is refused because it hides them.
_UNBOUNDED = re.compile(r"\(\?(?:R|[+-]?\d|&|P>|[\w-]*x)|\{[\d<=\s]*[deis][\d<=,:+}\s]")
_REPEATS = re.compile(r"\{(\d+)")
_REFUSED = "group calls, approximate matches, (?x) and many repeats could fill the memory"


class Match(NamedTuple):
    """Show where a text was found: whose file, which line of it (from 1 on), and what is around it."""

    metadata: Metadata
    file: str
    line_no: int
    line: str


class Found(list[Match]):
    """List matches; ``stopped`` says that the time was up before everything was looked at."""

    stopped = False


class OutOfTimeError(Exception):
    """Say that the time for a search is up. No OSError, which would mean that a file cannot be read."""


class Query:
    """Look for a plain text or a regular expression, whatever its case, until the time is up.

    Args:
        pattern: the text, or the regular expression as the package ``regex`` has them.
        regex: whether it is a regular expression.
        within_s: how long all of its searches may take together, in seconds.

    Raises:
        ValueError: the pattern is empty, too long, no regular expression, or one that may take any amount of memory.
    """

    def __init__(self, pattern: str, *, regex: bool = False, within_s: float = float("inf")) -> None:
        if not pattern:
            msg = "the pattern is empty; give a text to look for"
            raise ValueError(msg)
        if len(pattern) > LONGEST_PATTERN:
            msg = f"the pattern has {len(pattern)} characters; give one of at most {LONGEST_PATTERN}"
            raise ValueError(msg)
        self._compiled = _compiled(pattern, is_regex=regex)
        self._deadline = monotonic() + within_s

    def start_in(self, text: str) -> int | None:
        """Return where the first match in a text starts, or None without one.

        Raises:
            OutOfTimeError: the time is up.
        """
        left_s = self.left_s()
        try:
            try:
                match = self._compiled.search(text, timeout=min(_BRIEF_S, left_s))
            except TimeoutError:
                # What takes longer must not keep the program's other threads waiting.
                match = self._compiled.search(text, timeout=self.left_s(), concurrent=True)
        except (TimeoutError, MemoryError):
            raise OutOfTimeError from None
        return None if match is None else match.start()

    def left_s(self) -> float:
        """Return how much time is left, in seconds.

        Raises:
            OutOfTimeError: none is.
        """
        left_s = self._deadline - monotonic()
        if left_s <= 0:
            raise OutOfTimeError
        return min(left_s, _LONGEST_S)


def find(root: Path, workers: Iterable[Metadata], query: Query, limit: int) -> Found:
    """Return where the files of workers match, at most so many matches, as far as the time allows.

    Args:
        root: the folder of the worker folders.
        workers: what is in their ``metadata.json``.
        query: what to look for.
        limit: how many matches at most.
    """
    found = Found()
    try:
        for metadata in workers:
            query.left_s()
            for match in matches(root / metadata.worker_id, metadata, query):
                if len(found) >= limit:
                    return found
                found.append(match)
    except OutOfTimeError:
        found.stopped = True
    return found


def matches(folder: Path, metadata: Metadata, query: Query) -> Iterator[Match]:
    """Yield where a worker's files match, each line once; a file that cannot be read has no matches.

    Args:
        folder: the worker's folder.
        metadata: what is in its ``metadata.json``.
        query: what to look for, within a line.

    Raises:
        OutOfTimeError: the time is up.
    """
    for field in ("task", "error", "summary"):
        text = excerpt(getattr(metadata, field) or "", query)
        if text is not None:
            # After the opening brace each field has a line of its own.
            line_no = 2 + Metadata.__struct_fields__.index(field)
            yield Match(metadata, METADATA_FILE, line_no, f"{field}: {text}")
    for name in (RESULT_FILE, METRICS_FILE, *captured_files(folder)):
        with suppress(OSError, FileRefusedError), open_alone(folder, name.split("/")) as file:
            for line_no, line in grep(file, query):
                yield Match(metadata, name, line_no, line)


def grep(file: BinaryIO, query: Query) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that matches, from 1 on; at most 200 characters around its first match.

    Args:
        file: is read to its end, a piece of a line at a time.
        query: what to look for; in a line over 64 kB, in pieces that overlap by more than a plain text is long.

    Raises:
        OutOfTimeError: the time is up.
    """
    line_no, matched, tail = 1, 0, b""
    while piece := file.readline(_PIECE):
        line = tail + piece.removesuffix(b"\n").removesuffix(b"\r")
        if matched != line_no and (text := excerpt(line.decode(errors="replace"), query)) is not None:
            matched = line_no
            yield line_no, text
        tail = piece[-_OVERLAP:]  # what begins in one piece of a long line and ends in the next
        if piece.endswith(b"\n"):
            line_no, tail = line_no + 1, b""


def excerpt(text: str, query: Query) -> str | None:
    """Return at most 200 characters around the first match, on one line, or None without a match."""
    match_start = query.start_in(text)
    if match_start is None:
        return None
    start = max(min(match_start - _LINE_SHOWN // 4, len(text) - _LINE_SHOWN), 0)
    return " ".join(text[start : start + _LINE_SHOWN].split())


def _compiled(pattern: str, *, is_regex: bool) -> Any:
    """Compile a pattern for an engine that can stop in the middle of a search.

    Raises:
        ValueError: it is no regular expression, or one that may take any amount of memory.
    """
    import regex as engine  # noqa: PLC0415 - takes 20 ms, and only a search needs it

    if is_regex and (_UNBOUNDED.search(pattern) or _repeats(pattern) > _MOST_REPEATS):
        msg = f"{_shown(pattern)} is refused: {_REFUSED}; give a simpler pattern"
        raise ValueError(msg)
    try:
        return engine.compile(pattern if is_regex else engine.escape(pattern), engine.IGNORECASE | engine.V0)
    except (engine.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        msg = f"{_shown(pattern)} is no regular expression: {error}; correct it, or look for it as plain text"
        raise ValueError(msg) from None


def _repeats(pattern: str) -> int:
    product = 1
    for count in _REPEATS.findall(pattern):
        product *= max(int(count), 1)
    return product


def _shown(pattern: str) -> str:
    return repr(one_line(pattern, 60))
