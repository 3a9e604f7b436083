"""Runners that capture content, what they are given to do, and readers of what they write, for the tests of that."""

from __future__ import annotations

import asyncio
import json
import threading

import jsonschema
import msgspec
import pytest
from langchain_core.tools import ToolException, tool

from langchain_swarmlet_metrics import WorkerRunner, content, transcript
from langchain_swarmlet_metrics.testing import Reply, ToolRequest

SCHEMA = content.json_schema()


@pytest.fixture
def capturing(tmp_path) -> WorkerRunner:
    """Return a runner that captures content."""
    return WorkerRunner(tmp_path / "workers", capture_content=True)


@pytest.fixture
def gate(monkeypatch):
    """Hold up every write to thread.jsonl until the event is set."""
    may_write = threading.Event()
    append_lines = transcript.append_lines

    def append_when_told(*arguments):
        may_write.wait(60)
        append_lines(*arguments)

    monkeypatch.setattr(transcript, "append_lines", append_when_told)
    yield may_write
    may_write.set()


def thread(worker) -> list[content.Message | content.Stopped]:
    """Return the lines of a worker's thread.jsonl, each of which must fit the schema."""
    lines = (worker.dir / "thread.jsonl").read_bytes().splitlines()
    for line in lines:
        jsonschema.validate(json.loads(line), SCHEMA)
    return [msgspec.json.decode(line, type=content.Message | content.Stopped) for line in lines]


def said(worker) -> list[tuple[int, str, object]]:
    """Return the event, the role and the content of each message."""
    return [(message.event_id, message.role, message.content) for message in thread(worker)]


def tool_texts(worker) -> dict[str, str]:
    """Return the files in a worker's tool_calls."""
    return {path.name: path.read_text() for path in sorted((worker.dir / "tool_calls").glob("*"))}


def header_of(text: str) -> dict[str, str]:
    """Return the header of a tool call's file."""
    return dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines())


def section_of(text: str, name: str) -> str:
    """Return the input or the output in a tool call's file."""
    return text.partition(f"--- {name} ---\n")[2].partition("\n\n--- output ---\n")[0].removesuffix("\n")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def add_text(text: str) -> str:
    """Add a text to itself."""
    return text + text


@tool
async def wait_for_ever() -> str:
    """Wait."""
    await asyncio.sleep(3600)
    return "never"


@tool
def fail(reason: str) -> str:
    """Fail."""
    msg = f"it failed\nbecause of {reason}"
    raise ValueError(msg)


@tool
def fail_politely() -> str:
    """Fail in a way that the model is told."""
    msg = "no such table"
    raise ToolException(msg)


fail_politely.handle_tool_error = True


def adding(request):
    """Ask for a tool twice, then answer."""
    results = [
        item for item in request.messages if item.get("role", item.get("type")) in ("tool", "function_call_output")
    ]
    if len(results) < 2:
        return Reply(tool_calls=[ToolRequest("add", {"a": len(results), "b": 2})])
    return Reply(text="The result is 3.")


CONVERSATION = [
    ("system", "Be brief."),
    ("human", "What is 1 + 2?"),
    ("ai", ""),
    ("tool", "2"),
    ("ai", ""),
    ("tool", "3"),
    ("ai", "The result is 3."),
]
