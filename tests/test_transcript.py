"""Writing content down: limits, torn lines, ends of tool calls, what cannot be written."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest

from langchain_swarmlet_metrics import content
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.messages import Data, Said
from langchain_swarmlet_metrics.transcript import Begun, Received, Returned, Sent, Transcript
from tests.processes import output_of

START_NS = 1_765_771_688_123_456_000
TS = "2025-12-15T04:08:08.123456Z"


def tool_call(number: int, **known: object) -> ToolCall:
    """Return the event of a tool call."""
    return ToolCall(
        **{"tool": "note", "start_ts": TS, "end_ts": TS, "duration_ms": 0, "success": True, "id": number} | known
    )


def llm_call(number: int, **known: object) -> LLMCall:
    """Return the event of an LLM call."""
    return LLMCall(
        **{"phase": "initial", "model": "m", "start_ts": TS, "end_ts": TS, "duration_ms": 0, "id": number} | known
    )


def entries(folder) -> list[dict[str, object]]:
    """Return the lines of thread.jsonl."""
    return [json.loads(line) for line in (folder / "thread.jsonl").read_bytes().splitlines()]


def test_written_at_once(tmp_path):
    """A prompt is on disk before its answer is there, and a tool's input before its output."""
    transcript = Transcript(tmp_path)
    transcript.take(Sent(1, START_NS, [Said("human", "hi")]))
    assert [(entry["role"], entry["ts"]) for entry in entries(tmp_path)] == [("human", TS)]
    transcript.take(Begun(2, START_NS, "note", None, Data({"a": 1})))
    assert "outcome: open\n" in (tmp_path / "tool_calls" / "002_note.txt").read_text()
    transcript.take(Returned(tool_call(2), Data("noted")))
    assert (tmp_path / "tool_calls" / "002_note.txt").read_text() == (
        f"tool: note\nid: 2\nstart_ts: {TS}\nend_ts: {TS}\nduration_ms: 0\noutcome: success\n"
        'input_characters: 12\noutput_characters: 5\n\n--- input ---\n{\n  "a": 1\n}\n\n--- output ---\nnoted\n'
    )
    assert (transcript.handled, transcript.failed) == (3, 0)
    assert str(tmp_path) in repr(transcript)


def test_over_at_once(tmp_path):
    """A tool call that is over before its start is taken gets its file with its end, the input in it."""
    transcript = Transcript(tmp_path)
    transcript.take(Begun(1, START_NS, "note", None, Data("in"), is_over=True))
    assert not (tmp_path / "tool_calls").exists()
    transcript.take(Returned(tool_call(1), Data("out")))
    text = (tmp_path / "tool_calls" / "001_note.txt").read_text()
    assert text.endswith("\n--- input ---\nin\n\n--- output ---\nout\n")


def test_over_in_between(tmp_path):
    """A tool call that ends while its start is being written gets its file with both, and nothing counts as held."""

    class JustOver(Begun):
        """Say once that the call is not over yet."""

        is_over = property(lambda self: self.asked.append(True) or len(self.asked) > 1, lambda *_: None)
        asked: ClassVar[list[bool]] = []

    transcript = Transcript(tmp_path)
    transcript.take(JustOver(1, START_NS, "note", None, Data("in")))
    transcript.take(Returned(tool_call(1), Data("out")))
    assert "--- input ---\nin\n" in (tmp_path / "tool_calls" / "001_note.txt").read_text()
    assert (transcript.held, transcript.failed) == (0, 0)


def test_limit(tmp_path):
    """At its limit a worker's content ends with one line that says so; tool calls that are open still get an end."""
    transcript = Transcript(tmp_path, most_bytes=3000)
    transcript.take(Begun(1, START_NS, "note", None, Data("x")))
    number = 2
    while not transcript.is_full:
        transcript.take(Sent(number, START_NS, [Said("human", f"message {number}")]))
        number += 1
    transcript.take(Sent(number, START_NS, [Said("human", "too late")]))
    transcript.take(Received(llm_call(number), [Said("ai", "too late")]))
    transcript.take(Begun(number, START_NS, "note", None, Data("too late")))
    transcript.take(Returned(tool_call(number), Data("too late")))
    transcript.take(Returned(tool_call(1, success=False, outcome="cancelled"), Data("much " * 1000)))
    *messages, last = entries(tmp_path)
    assert [message["content"] for message in messages] == [f"message {n}" for n in range(2, 2 + len(messages))]
    assert last == {
        "entry": "stopped",
        "ts": last["ts"],
        "reason": "3000 bytes are written, more are not kept of one worker",
    }
    (text,) = [path.read_text() for path in (tmp_path / "tool_calls").iterdir()]
    assert "outcome: cancelled\n" in text
    assert "truncated: output\n" in text
    assert "much" not in text
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) < 3300
    assert transcript.failed == 0


def test_end_without_a_start(tmp_path):
    """A tool call whose start was lost has a file all the same."""
    Transcript(tmp_path).take(Returned(tool_call(7), Data("noted")))
    text = (tmp_path / "tool_calls" / "007_note.txt").read_text()
    assert "input" not in text
    assert text.endswith("--- output ---\nnoted\n")


def test_what_cannot_be_taken(tmp_path):
    """An item that fails is counted, with the first reason, and the next one is written."""
    transcript = Transcript(tmp_path)
    (tmp_path / "tool_calls").write_text("in the way")
    transcript.take(Begun(2, START_NS, "note", None, Data("x")))
    transcript.take(Returned(tool_call(2), Data("x")))
    transcript.take(Sent(3, START_NS, [Said("human", "hi")]))
    assert transcript.failed == 2
    assert "not a folder" in transcript.problem
    assert entries(tmp_path)[-1]["content"] == "hi"


def test_closed(tmp_path):
    """Nothing is written once the worker has ended."""
    transcript = Transcript(tmp_path)
    transcript.is_closed = True
    transcript.take(Sent(1, START_NS, [Said("human", "hi")]))
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path):
    """A line that a full disk cuts is counted and torn; the next one is whole, on a line of its own."""
    pytest.importorskip("resource", reason="needs limits on the size of files")
    script = """
        import resource, sys
        from pathlib import Path
        from tests.test_transcript import START_NS, Said, Sent, Transcript
        folder = Path(sys.argv[1])
        transcript = Transcript(folder)
        transcript.take(Sent(1, START_NS, [Said("human", "one")]))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = (folder / "thread.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        transcript.take(Sent(2, START_NS, [Said("human", "two")]))
        transcript.take(Sent(3, START_NS, [Said("human", "three")]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        transcript.take(Sent(4, START_NS, [Said("human", "four")]))
        print(transcript.failed, transcript.problem)
    """
    assert output_of(script, tmp_path).startswith("2 only 20 of ")
    one, torn, four = (tmp_path / "thread.jsonl").read_bytes().splitlines()
    assert (json.loads(one)["content"], json.loads(four)["content"]) == ("one", "four")
    assert len(torn) == 20


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        ({}, "success"),
        ({"success": False}, "error"),
        *[({"success": False, "outcome": outcome}, outcome) for outcome in ("cancelled", "unfinished", "unknown_tool")],
        ({"outcome": "interrupted"}, "interrupted"),
    ],
)
def test_outcomes(tmp_path, known, outcome):
    """How a call ended is said in one word."""
    transcript = Transcript(tmp_path)
    transcript.take(Begun(1, START_NS, "note", 5, Data("x")))
    transcript.take(Returned(tool_call(1, requested_by=5, **known), None))
    assert f"\noutcome: {outcome}\n" in (tmp_path / "tool_calls" / "001_note.txt").read_text()
    assert "\nrequested_by: 5\n" in (tmp_path / "tool_calls" / "001_note.txt").read_text()


def test_names_of_files():
    """Names sort by the event's number, and are safe on every system."""
    assert content.tool_file(1, "ssh_exec") == "001_ssh_exec.txt"
    assert content.tool_file(1234, "a.b-c") == "1234_a_b-c.txt"
    assert content.tool_file(5, None) == "005_unknown.txt"
