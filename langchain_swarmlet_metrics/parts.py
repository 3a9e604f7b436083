"""Show a file to a model: whole when it is small, else some of its lines, saying how to go on."""

from __future__ import annotations

import codecs
import os
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from langchain_swarmlet_metrics.scrub import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE_FILE_LIMIT = 64_000
"""Bytes up to which a file is shown whole and unadorned, and the most that is shown at once otherwise."""

_LINES = 200
_SHOWN = 60
_WITHIN_S = 5.0


class Head(NamedTuple):
    """Hold the beginning of a file: whole lines, the size of the file, and which line comes next (None: no more)."""

    content: bytes
    size: int
    next_line: int | None


def shown(file: BinaryIO, name: str, offset: int | None, limit: int | None) -> str:
    """Return a text file as it is when it is small, else some of its lines and how to read on.

    Args:
        file: the file, at its beginning.
        name: what the file is called.
        offset: the first line to show, from 0 on; None is the first.
        limit: how many lines to show at most; None and less than 1 are 200.

    Raises:
        ValueError: it is no text.
        TimeoutError: the line is too far into the file to get there in time.
    """
    if offset is None and limit is None:
        content = file.read(WHOLE_FILE_LIMIT + 1)
        if not content:
            return f"[{quoted(name)} is empty]"
        if len(content) <= WHOLE_FILE_LIMIT:
            return _text(content, name)
        file.seek(0)
    return _part(file, name, max(offset or 0, 0), limit if limit and limit > 0 else _LINES)


def head(file: BinaryIO, limit: int) -> Head:
    """Return the beginning of a file, in such lines as `shown` counts.

    Args:
        file: the file, at its beginning.
        limit: how many bytes at most.
    """
    lines: list[bytes] = []
    size = 0
    for line in _lines(file):
        if size + len(line) > limit:
            return Head(b"".join(lines), file.seek(0, os.SEEK_END), len(lines))
        lines.append(line)
        size += len(line)
    return Head(b"".join(lines), size, None)


def quoted(text: object) -> str:
    """Quote what a model wrote, short enough that the sentence around it stays whole."""
    return repr(one_line(text, _SHOWN))


def _text(content: bytes, name: str) -> str:
    """Decode a file's content.

    Raises:
        ValueError: it is not text.
    """
    if b"\0" not in content:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    msg = f"{quoted(name)} is not a text file and can't be shown"
    raise ValueError(msg)


def _part(file: BinaryIO, name: str, offset: int, limit: int) -> str:
    """Return some lines of a file, at most as many bytes as a whole file may have, and how to go on."""
    lines: list[bytes] = []
    size = 0
    at_end = True
    for line in _lines_from(file, name, offset):
        if len(lines) == limit or size + len(line) > WHOLE_FILE_LIMIT:
            at_end = False
            break
        lines.append(line)
        size += len(line)
    if not lines:
        return f"[{quoted(name)} has no line {offset}; lines are counted from 0]"
    text = _text(b"".join(lines), name).removesuffix("\n")
    last = offset + len(lines)
    rest = "end of file" if at_end else f"read on with offset={last}"
    return f"{text}\n[lines {offset} to {last - 1} of {quoted(name)}; {rest}]"


def _lines_from(file: BinaryIO, name: str, offset: int) -> Iterator[bytes]:
    """Yield a file's lines from a number on.

    Raises:
        TimeoutError: it is too far into the file to get there in time.
    """
    deadline = monotonic() + _WITHIN_S
    for number, line in enumerate(_lines(file)):
        if number >= offset:
            yield line
        elif monotonic() > deadline:
            msg = f"line {offset} is too far into {quoted(name)}: after {_WITHIN_S:g} s line {number} was reached"
            raise TimeoutError(msg)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines; one that is longer than a whole file may be comes in several, cut between characters."""
    rest = b""
    while piece := rest + file.readline(WHOLE_FILE_LIMIT - len(rest)):
        is_cut = len(piece) == WHOLE_FILE_LIMIT and not piece.endswith(b"\n")
        end = codecs.utf_8_decode(piece, "replace", False)[1] if is_cut else len(piece)
        yield piece[:end]
        rest = piece[end:]
