"""``thread.jsonl`` and ``tool_calls``: what one worker's calls said, written once and up to a limit."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from langchain_swarmlet_metrics import content, modes
from langchain_swarmlet_metrics.content import Message, Stopped, Text
from langchain_swarmlet_metrics.conversations import Conversations
from langchain_swarmlet_metrics.events import LLMCall, ToolCall, timestamp
from langchain_swarmlet_metrics.folder import THREAD_FILE, TOOL_FOLDER, append_lines, make_inner, replace_file
from langchain_swarmlet_metrics.messages import Data, Said, line_of, mark_of, text_of
from langchain_swarmlet_metrics.scrub import error_text, identifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MOST_BYTES = 50_000_000
"""Bytes of one worker's ``thread.jsonl`` and ``tool_calls`` together."""


class Sent(NamedTuple):
    """Say that an LLM call has started, with this prompt."""

    event_id: int
    start_ns: int
    messages: Sequence[Said]


class Received(NamedTuple):
    """Say that an LLM call has ended, with these answers: one, several choices, or none."""

    event: LLMCall
    messages: Sequence[Said]


@dataclass(slots=True)
class Begun:
    """Say that a tool call has started, with this input."""

    event_id: int
    start_ns: int
    tool: object
    requested_by: int | None
    given: Data
    is_over: bool = False
    """Whether it has ended by now, and that is to be taken, too: its file is written once, at that."""


class Returned(NamedTuple):
    """Say that a tool call has ended, with this output; None when it has none."""

    event: ToolCall
    output: Said | Data | None


Item: TypeAlias = Sent | Received | Begun | Returned


class Transcript:
    """Write down what one worker's calls said; used by one thread.

    Args:
        folder: the worker's folder.
        file_mode: of the files that are made.
        most_bytes: how much to write in all.
    """

    def __init__(self, folder: Path, file_mode: int = modes.PRIVATE, *, most_bytes: int = MOST_BYTES) -> None:
        self.handled = 0
        """How many items have been taken."""
        self.failed = 0
        """How many of them could not be written."""
        self.held = 0
        """How many were to be written with the end of their call, and are not yet."""
        self.problem: str | None = None
        """Why the first of them could not be."""
        self.is_full = False
        """Whether as much as may be has been written: only the ends of tool calls are written still."""
        self.is_closed = False
        """Whether nothing more is to be written."""
        self.worker_id = folder.name
        self._folder = folder
        self._file_mode = file_mode
        self._most_bytes = self._room = most_bytes
        self._says_full = False
        self._conversations = Conversations()
        self._begun: dict[int, _OpenFile] = {}
        self._pid = os.getpid()  # in a forked child, the files stay the parent's

    def __repr__(self) -> str:
        return f"Transcript({str(self._folder)!r})"

    def take(self, item: Item) -> None:
        """Write down an item; one that cannot be is counted."""
        if self.is_closed or os.getpid() != self._pid:
            return
        try:
            self._write(item)
            if self.is_full and not self._says_full:
                reason = f"{self._most_bytes} bytes are written, more are not kept of one worker"
                self._append([Stopped(ts=timestamp(time.time_ns()), reason=reason)])
                self._says_full = True
        except Exception as error:  # noqa: BLE001 - what tools and models hand over may be anything
            self.failed += 1
            self.problem = self.problem or error_text(error)
        self.handled += 1

    def _write(self, item: Item) -> None:
        if isinstance(item, Returned):
            self._end_tool(item)
        elif self.is_full:
            return
        elif isinstance(item, Begun):
            self._begin_tool(item)
        elif isinstance(item, Sent):
            self._send(item)
        else:
            self._receive(item)

    def _send(self, item: Sent) -> None:
        number, new = self._conversations.sent(item.event_id, [mark_of(said) for said in item.messages])
        ts = timestamp(item.start_ns)
        self._append(line_of(item.messages[position], item.event_id, number, ts) for position in new)

    def _receive(self, item: Received) -> None:
        event_id, failed = item.event.id or 0, item.event.success is False or not item.messages
        number = self._conversations.received(event_id, [mark_of(said) for said in item.messages], failed=failed)
        self._append(line_of(said, event_id, number, item.event.end_ts, partial=failed) for said in item.messages)

    def _append(self, entries: Iterable[Message | Stopped]) -> None:
        lines: list[bytes] = []
        for entry in entries:
            line = content.encode(entry)
            if not (isinstance(entry, Stopped) or self._has_room(len(line))):
                break
            lines.append(line)
        if lines:
            append_lines(self._folder / THREAD_FILE, b"".join(lines), self._file_mode)

    def _begin_tool(self, item: Begun) -> None:
        tool, given = identifier(item.tool), text_of(item.given)
        header = {
            "tool": tool,
            "id": item.event_id,
            "requested_by": item.requested_by,
            "start_ts": timestamp(item.start_ns),
            "outcome": "open",
        }
        data = content.tool_text(header, given, None).encode()
        if self._has_room(len(data)):
            is_held = item.is_over  # asked once: the agent's thread may set it at any moment
            self._begun[item.event_id] = _OpenFile(given, len(data), is_held)
            if is_held:
                self.held += 1
            else:
                self._replace(item.event_id, tool, data)

    def _end_tool(self, item: Returned) -> None:
        event, event_id = item.event, item.event.id or 0
        begun = self._begun.pop(event_id, None)
        if begun is None and self.is_full:
            return
        given, size, is_held = begun or (None, 0, False)
        returned = None if item.output is None else text_of(item.output)
        data = content.tool_text(_header(event), given, returned).encode()
        if not self._has_room(len(data) - size):
            data = content.tool_text(_header(event), given, returned and Text("", is_cut=True)).encode()
        self._replace(event_id, event.tool, data)
        self.held -= is_held

    def _has_room(self, size: int) -> bool:
        self.is_full = self.is_full or size > self._room
        if not self.is_full:
            self._room -= size
        return not self.is_full

    def _replace(self, event_id: int, tool: str, data: bytes) -> None:
        folder = make_inner(self._folder, TOOL_FOLDER, self._file_mode)
        replace_file(folder / content.tool_file(event_id, tool), data, self._file_mode)


class _OpenFile(NamedTuple):
    """A tool call's file that has no end yet: the input, its size in bytes, and whether it is not written yet."""

    given: Text
    size: int
    is_held: bool


def _header(event: ToolCall) -> dict[str, object]:
    """Return the header of a tool call that has ended, in the words of its event."""
    return {
        "tool": event.tool,
        "id": event.id,
        "requested_by": event.requested_by,
        "start_ts": event.start_ts,
        "end_ts": event.end_ts,
        "duration_ms": event.duration_ms,
        "outcome": event.outcome or ("success" if event.success else "error"),
    }
