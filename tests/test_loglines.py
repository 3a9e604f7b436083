"""The lines of tier 3: what they look like, that they read back to what was logged, and JSON lines."""

from __future__ import annotations

import logging
import logging.handlers
import math
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from langchain_swarmlet_metrics import loglines
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.loglines import KeyValueFormatter, parse_line
from langchain_swarmlet_metrics.logs import LOGGER_NAME, LogSink, configure_logging

LOGGER = logging.getLogger(LOGGER_NAME)
WORKER_ID = "2025-12-15T03-19-12_backup"
TIMES = {"start_ts": "2025-12-15T03:19:13.500000Z", "end_ts": "2025-12-15T03:19:33.000000Z"}
TOKENS = {"prompt_tokens": 1234, "completion_tokens": 89, "total_tokens": 1323}
LLM = LLMCall(phase="tool_decision", model="gpt-5-mini", **TIMES, duration_ms=19500, **TOKENS)
TOOL = ToolCall(tool="ssh_exec", **TIMES, duration_ms=1234, success=True)
LLM_LINE = (
    "2025-12-15 03:19:33 INFO llm_call_complete phase=tool_decision duration_ms=19500 "
    "worker_id=2025-12-15T03-19-12_backup model=gpt-5-mini prompt_tokens=1234 completion_tokens=89 "
    "total_tokens=1323 event=llm_call_complete"
)
TOOL_LINE = (
    "2025-12-15 03:19:33 INFO tool_call_complete tool=ssh_exec duration_ms=1234 success=True "
    "worker_id=2025-12-15T03-19-12_backup event=tool_call_complete"
)
NASTY = 'x duration_ms=1\nsuccess=False\r\x1b[31m\u2028\u0085\x7f\u00a0\t"q" \\x3d \\ é漢\U0001f600\ud800'

pytestmark = pytest.mark.usefixtures("restored_logger")


def record_of(event, worker_id=WORKER_ID) -> logging.LogRecord:
    """Log an event and return the one record that came of it, before any handler has seen it."""
    kept: list[logging.LogRecord] = []
    LOGGER.addFilter(kept.append)  # returns None, so that the record goes no further
    LOGGER.setLevel(logging.INFO)
    LogSink(worker_id)(event)
    LOGGER.removeFilter(kept.append)
    (record,) = kept
    return record


def line_of(event, worker_id=WORKER_ID) -> str:
    """Return the line of an event as it is printed at 03:19:33."""
    record = record_of(event, worker_id)
    record.created = datetime(2025, 12, 15, 3, 19, 33, 999_999, tzinfo=UTC).timestamp()
    return KeyValueFormatter().format(record)


def foreign(message, *args, **extra) -> logging.LogRecord:
    """Return a record of somebody else's logger."""
    logger = logging.getLogger("other.lib")
    return logger.makeRecord(logger.name, logging.WARNING, __file__, 1, message, args, None, extra=extra)


@pytest.mark.parametrize(("event", "line"), [(LLM, LLM_LINE), (TOOL, TOOL_LINE)])
def test_a_call_prints_the_documented_line(event, line):
    """The line of a call is the documented one."""
    assert line_of(event) == line


def test_optional_fields_follow_in_the_order_of_the_schema_and_the_error_is_last():
    """Optional fields come after the documented ones, then the event, then the quoted error."""
    call = replace(
        LLM, id=3, success=False, error="no route to host", error_type="ConnectError", cost_usd=0.5, ttft_ms=0
    )
    assert line_of(call).partition("total_tokens=1323 ")[2] == (
        "id=3 success=False error_type=ConnectError ttft_ms=0 cost_usd=0.5 event=llm_call_complete "
        'error="no route to host"'
    )


def test_a_line_without_a_worker_has_no_worker_id():
    """Outside of workers there is neither a worker_id in the line nor on the record."""
    assert "worker_id" not in line_of(TOOL, worker_id=None)
    assert not hasattr(record_of(TOOL, worker_id=None), "worker_id")


@pytest.mark.parametrize("key", ["phase", "tool", "model", "duration_ms", "worker_id", "success", "event"])
def test_no_other_key_ends_like_one_that_people_grep_for(key):
    """Searching for a documented key never finds another field."""
    keys = {*LLMCall.__struct_fields__, *ToolCall.__struct_fields__, "event", "worker_id"}
    assert [other for other in keys if other.endswith(key)] == [key]


def test_the_message_alone_is_the_line_without_time_and_level():
    """People with a formatter of their own get the grep-able text as the message."""
    record = record_of(TOOL)
    assert logging.Formatter("%(message)s").format(record) == line_of(TOOL).partition(" INFO ")[2]
    assert record.msg == "tool_call_complete %s"


def test_the_text_is_put_together_when_a_handler_asks_and_once(mocker):
    """Handlers that take the fields don't pay for the line, and two that print it pay once."""
    spy = mocker.spy(loglines, "_pairs")
    record = record_of(LLM)
    loglines.JSONLinesFormatter().format(record)
    assert spy.call_count == 0
    assert KeyValueFormatter().format(record) == KeyValueFormatter().format(record)
    assert spy.call_count == 1


texts = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from([NASTY, "", '"', "\\"])
required = {"start_ts": texts, "end_ts": texts, "duration_ms": st.integers()}
optional = {"error": st.none() | texts, "error_type": st.none() | texts, "agent": st.none() | texts}
llm_calls = st.builds(
    LLMCall,
    phase=texts,
    model=texts,
    **required,
    prompt_tokens=st.none() | st.integers(),
    success=st.none() | st.booleans(),
    **optional,
    provider=st.none() | texts,
    cost_usd=st.none() | st.floats(),
)
tool_calls = st.builds(ToolCall, tool=texts, **required, success=st.booleans(), **optional)


@given(llm_calls | tool_calls, texts)
def test_parse_line_gives_back_what_was_logged(event, worker_id):
    """Whatever text a call carries, its line is one line, names don't blur its fields, and it reads back exactly."""
    line = line_of(event, worker_id)
    assert line.isprintable()
    assert line.encode()
    words = line.partition(' error="')[0].split()[4:]
    assert [word.count("=") for word in words] == [1] * len(words)
    assert words[-1].startswith("event=")
    fields = msgspec.to_builtins(event) | {"worker_id": worker_id}
    fields["event"] += "_complete"
    expected = {key: str(value) for key, value in fields.items() if key not in {"start_ts", "end_ts"}}
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("", {}),
        ("2025-12-15 03:19:33 WARNING tool=x duration_ms=1", {}),
        ("[app] pid=7 tool_call_complete tool=a\\x20b duration_ms=1\n", {"tool": "a b", "duration_ms": "1"}),
        ('llm_call_complete model="a" error="b \\"c\\" event\\x3d"', {"model": '"a"', "error": 'b "c" event='}),
        ("llm_call_complete model=a\\U00110000", {"model": "aU00110000"}),
    ],
)
def test_parse_line_reads_any_text(line, fields):
    """Lines with other prefixes are read, lines that are not ours have no fields, damaged escapes do no harm."""
    assert parse_line(line) == fields


@pytest.mark.skipif(not (shutil.which("grep") and shutil.which("awk")), reason="needs grep and awk")
@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("grep 'duration_ms=' LOG | awk -F'duration_ms=' '{print $2}' | awk '{print $1}'", "19500\n7\n8\n1234\n"),
        ("grep -o 'model=[^ ]*' LOG", "model=my\\x20model\n"),
        ("grep -c 'success=False' LOG", "1\n"),
        ("grep 'tool_call_complete' LOG | awk '{print $6}'", "duration_ms=7\nduration_ms=8\nduration_ms=1234\n"),
        ("grep -c 'event=' LOG", "4\n"),
        ("grep -c '^' LOG", "4\n"),
    ],
)
def test_grep_and_awk_are_exact(tmp_path, command, output):
    """The documented recipes are right whatever tools and models are called and whatever errors say."""
    handler = configure_logging(tmp_path / "LOG")
    sink = LogSink(WORKER_ID)
    sink(replace(LLM, model="my model"))
    sink(replace(TOOL, tool="x duration_ms=1", duration_ms=7))
    sink(replace(TOOL, tool=NASTY, duration_ms=8, success=True, error=NASTY))
    sink(replace(TOOL, success=False, error="success=False event=x duration_ms=9"))
    handler.close()
    ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == output


def test_key_values_of_other_records_are_one_line():
    """Records of other loggers, warnings and tracebacks stay on one line, with time and level."""
    record = foreign("two\nlines %s", "a=b \x1b[31m c:\\x")
    record.created = 0.0
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        record.exc_info = sys.exc_info()
    record.stack_info = "Stack:\n  frame"
    line = KeyValueFormatter().format(record)
    assert line.startswith(r"1970-01-01 00:00:00 WARNING two\nlines a=b \x1b[31m c:\x\nTraceback (most recent")
    assert line.endswith(r"ValueError: bad\nvalue\nStack:\n  frame")
    assert line.isprintable()


def json_of(record: logging.LogRecord) -> dict:
    """Return what a strict reader sees in the record's JSON line."""
    line = loglines.JSONLinesFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    return msgspec.json.decode(line)


def test_json_lines_carry_the_fields_with_their_types():
    """An event becomes one JSON object: time, level, logger, event, then the fields as metrics.jsonl has them."""
    record = record_of(replace(TOOL, success=False, error="é\u2028\n", id=1))
    record.created = 1765768773.123456
    assert loglines.JSONLinesFormatter().format(record) == (
        '{"ts":"2025-12-15T03:19:33.123456Z","level":"INFO","logger":"langchain_swarmlet_metrics",'
        '"event":"tool_call_complete","tool":"ssh_exec","start_ts":"2025-12-15T03:19:13.500000Z",'
        '"end_ts":"2025-12-15T03:19:33.000000Z","duration_ms":1234,"success":false,'
        '"error":"\\u00e9\\u2028\\n","id":1,"worker_id":"2025-12-15T03-19-12_backup"}'
    )


@given(llm_calls | tool_calls)
def test_json_lines_are_strict_json(event):
    """Whatever a call carries, a strict reader reads its line; no NaN, no half characters."""
    read = json_of(record_of(event))
    expected = {key: _valid(value) for key, value in msgspec.to_builtins(event).items() if key != "event"}
    assert {key: read[key] for key in expected} == expected


def _valid(value):
    """Return a field as strict JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def test_json_lines_of_other_records_have_a_message_and_their_extras():
    """A record without an event keeps its message, its extra values and its traceback."""
    cycle: list = []
    cycle.append(cycle)
    extra = {"event": "mine", "level": "fake", "path": Path("a"), "nested": {"a": [1, None, math.inf]}}
    record = foreign("hello %s", "\ud800", **extra, cycle=cycle)
    try:
        raise ValueError("bad")
    except ValueError:
        record.exc_info = sys.exc_info()
    read = json_of(record)
    assert list(read)[:4] == ["ts", "level", "logger", "message"]
    assert (read["level"], read["logger"], read["message"]) == ("WARNING", "other.lib", "hello \\ud800")
    assert (read["event"], read["path"], read["nested"]) == ("mine", "a", {"a": [1, None, None]})
    assert read["exc_info"].endswith("ValueError: bad")
    assert read["cycle"] == "[[...]]"
