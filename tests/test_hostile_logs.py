"""Names and texts that a model makes up: one record is one line, and every line reads back to what was recorded."""

from __future__ import annotations

import json
import logging
import shlex
from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.tools import StructuredTool
from pydantic import BaseModel

from langchain_swarmlet_metrics import logs
from langchain_swarmlet_metrics.collector import MetricsCollector
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.loglines import JSONLinesFormatter, KeyValueFormatter, parse_line
from langchain_swarmlet_metrics.logs import LOGGER_NAME, LogSink
from langchain_swarmlet_metrics.runner import WorkerRunner
from tests.conftest import recording

LOGGER = logging.getLogger(LOGGER_NAME)
INJECTIONS = [
    "x\n2025-12-15 03:19:33 INFO tool_call_complete tool=forged duration_ms=1 success=True event=tool_call_complete",
    "x\r\nllm_call_complete phase=initial duration_ms=1",
    *(
        f"a{char}b"
        for char in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\x00\x1b\x7f\x9b\u200b\u202e\u2066\ufeff\U000e0041\ud800\udcff"
    ),
    "x duration_ms=1 success=False",
    "x\tduration_ms=1\u00a0success=False\u3000event=x",
    'x" event=tool_call_complete error="y',
    "x' \\' \\",
    "\\x3d \\\\x3d \\n \\u2028 \\",
    '\\"',
    "=",
    '"',
    "",
    " ",
    "%s %(levelname)s {levelname} $levelname",
    "${jndi:ldap://x/y}",
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "tool_call_complete llm_call_complete event=",
    '{"event":"tool_call_complete"}\n{"x":1}',
    "x" * 5000,
]
TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)
HOSTILE = st.sampled_from(INJECTIONS) | TEXTS | st.tuples(TEXTS, st.sampled_from(INJECTIONS), TEXTS).map("".join)
TIMES = {"start_ts": "2025-12-15T03:19:33.000000Z", "end_ts": "2025-12-15T03:19:34.234000Z", "duration_ms": 1234}


class Lines(logging.Handler):
    """Keep each record, and its line in every format."""

    def __init__(self):
        super().__init__()
        self.formatters = {
            "kv": KeyValueFormatter(),
            "json": JSONLinesFormatter(),
            "plain": logging.Formatter("%(levelname)s %(message)s"),
        }
        self.records = []

    def emit(self, record):
        """Format the record in every way."""
        self.records.append((record, {name: each.format(record) for name, each in self.formatters.items()}))


@contextmanager
def listening():
    """Listen to our logger, and to nobody else."""
    handler, level = Lines(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield handler.records
        logs.drain()
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


def recordable(text):
    """Return a text as JSON can hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


def check(records, *recorded):
    """See that each event is one record, of one line in every format, and reads back from two of them."""
    assert len(records) == len(recorded)
    for (record, lines), (event, worker_id) in zip(records, recorded, strict=True):
        for line in lines.values():
            assert len(line.splitlines()) == 1
            assert line.isprintable()
            assert line.encode()
        fields = msgspec.to_builtins(event) | {"event": f"{msgspec.to_builtins(event)['event']}_complete"}
        if worker_id is not None:
            fields["worker_id"] = worker_id
        known = {key: str(value) for key, value in fields.items() if key not in ("start_ts", "end_ts")}
        assert parse_line(lines["kv"]) == parse_line(lines["plain"]) == known
        assert lines["kv"].count(" event=") == 1
        shown = json.loads(lines["json"])
        assert {key: shown[key] for key in fields} == {
            key: recordable(value) if isinstance(value, str) else value for key, value in fields.items()
        }
        assert set(shown) == {"ts", "level", "logger", *fields}
        assert record.levelno == logging.INFO


@given(
    names=st.tuples(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),
    error=st.none() | HOSTILE,
    worker_id=st.none() | HOSTILE,
)
@settings(max_examples=400, deadline=None)
def test_events_as_they_are_recorded(names, error, worker_id):
    """Whatever names and errors are recorded, a record is one line and reads back as what was recorded."""
    model, phase, agent, provider, tool = names
    known = {"agent": agent, "provider": provider, "error": error}
    with listening() as records:
        collector = MetricsCollector(worker_id, writer=lambda event: None)
        times = {"start_ts": 1765768773.0, "end_ts": 1765768774.234}
        llm = collector.record_llm_call(phase=phase, model=model, prompt_tokens=1, **times, **known)
        call = collector.record_tool_call(tool_name=tool, **times, agent=agent, error=error and ValueError(error))
    check(records, (llm, worker_id), (call, worker_id))


@given(texts=st.lists(HOSTILE, min_size=7, max_size=7), worker_id=st.none() | HOSTILE)
@settings(max_examples=600, deadline=None)
def test_events_that_nobody_cleaned(texts, worker_id):
    """Events with raw texts, as another package may make them, are one line each and read back as well."""
    model, phase, agent, provider, tool, error, kind = texts
    llm = LLMCall(phase=phase, model=model, agent=agent, provider=provider, error=error, error_type=kind, **TIMES)
    call = ToolCall(tool=tool, agent=agent, error=error, error_type=kind, success=False, **TIMES)
    with listening() as records:
        sink = LogSink(worker_id)
        sink(llm)
        sink(call)
    check(records, (llm, worker_id), (call, worker_id))


@given(args=st.lists(HOSTILE | st.integers() | st.binary(), min_size=2, max_size=2))
@settings(max_examples=300, deadline=None)
def test_warnings(args):
    """A warning is one line in every format, whatever it quotes, and no search for a field finds it."""
    with listening() as records:
        logs.warn("Sink %s failed: %s", *args)
    ((_, lines),) = records
    for name, line in lines.items():
        assert len(line.splitlines()) == 1, name
        assert line.isprintable()
        assert line.encode()
    assert "=" not in lines["plain"]
    assert parse_line(lines["kv"]) == parse_line(lines["plain"]) == {}


def test_a_warning_of_what_has_no_text():
    """An object whose text cannot be had does not make a warning raise."""

    class Mute:
        def __str__(self):
            raise RuntimeError

    with listening() as records:
        logs.warn("Sink %s failed", Mute())
    assert records[0][1]["plain"] == "WARNING Sink Mute failed"


class Arguments(BaseModel):
    """What a tool takes."""

    text: str


@given(name=HOSTILE.filter(bool), error=HOSTILE)
@settings(max_examples=100, deadline=None)
def test_tools_that_langchain_runs(name, error):
    """A tool of any name, which fails with any text, is recorded as one line."""

    def fail(text: str) -> str:
        raise ValueError(text)

    tool = StructuredTool(func=fail, name=name, description="fails", args_schema=Arguments)
    with listening() as records, recording("w") as recorded, pytest.raises(ValueError):  # noqa: PT011 - its own text
        tool.invoke({"text": error})
    check(records, (recorded[0], "w"))


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_workers_of_hostile_tasks(tmp_path, text):
    """Task, result, error, sink and trace of a worker make no line of their own in the log."""

    def sink(event):
        raise ValueError(text)

    sink.__qualname__ = text or "sink"
    runner = WorkerRunner(tmp_path / "workers", sinks=[lambda worker: sink])
    with listening() as records:
        worker = runner.worker(text, traceparent=text).open()
        worker.collector.record_tool_call(tool_name=text, start_ts=0, end_ts=1)
        worker.close(KeyError(text))
        runner.run(lambda _task: text, text)
    assert {record.levelname for record, _ in records} == {"INFO", "WARNING"}
    assert all(len(line.splitlines()) == 1 for _, lines in records for line in lines.values())
    assert shlex.quote(worker.worker_id) == worker.worker_id
