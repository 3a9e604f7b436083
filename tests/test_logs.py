"""Tier 3: records, and logging set up by one call."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import stat
import subprocess
import sys

import msgspec
import pytest
from msgspec.structs import replace

from langchain_swarmlet_metrics import logs
from langchain_swarmlet_metrics.collector import MetricsCollector
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.loglines import KeyValueFormatter, parse_line
from langchain_swarmlet_metrics.logs import LOGGER_NAME, LogSink, configure_logging
from tests.test_loglines import LLM, NASTY, TOOL, WORKER_ID, record_of

LOGGER = logging.getLogger(LOGGER_NAME)

pytestmark = pytest.mark.usefixtures("restored_logger")


@pytest.fixture
def own():
    """Attach a handler of the user's own, which keeps records in its buffer."""
    handler = logging.handlers.BufferingHandler(100)
    handler.name = "own"
    LOGGER.addHandler(handler)
    return handler


def test_every_known_field_is_an_attribute_of_the_record():
    """The record carries the fields flat and with their types; what is not known is absent, None reads as a value."""
    record = record_of(LLM)
    fields = msgspec.to_builtins(LLM) | {"event": "llm_call_complete", "worker_id": WORKER_ID}
    assert {key: getattr(record, key) for key in fields} == fields
    assert (record.name, record.levelname, record.funcName) == (LOGGER_NAME, "INFO", "LogSink")
    assert not hasattr(record, "cached_tokens")


@pytest.mark.parametrize("kind", [LLMCall, ToolCall])
def test_no_field_clashes_with_logging(kind):
    """No field has the name of an attribute that logging keeps for itself, which would be a KeyError."""
    reserved = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
    assert reserved.isdisjoint({*kind.__struct_fields__, "event", "worker_id"})


def test_nothing_is_logged_below_the_level(own):
    """A logger that is not enabled for INFO gets no record."""
    LOGGER.setLevel(logging.WARNING)
    collector = MetricsCollector(WORKER_ID)
    collector.add(LLM)
    assert own.buffer == []
    LOGGER.setLevel(logging.INFO)
    collector.add(LLM)
    assert len(own.buffer) == 1


def test_a_line_survives_a_queue():
    """A QueueHandler, which merges message and arguments, leads to the same line."""
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    call = replace(TOOL, tool=NASTY, success=False, error=NASTY)
    record = record_of(call)
    logging.handlers.QueueHandler(waiting).handle(record)
    assert KeyValueFormatter().format(waiting.get()) == KeyValueFormatter().format(record)


def test_configure_logging_appends_to_a_file(tmp_path):
    """Lines are appended to the file and are there at once."""
    path = tmp_path / "swarm.log"
    path.write_text("before\n")
    handler = configure_logging(str(path))
    LogSink(WORKER_ID)(TOOL)
    before, line = path.read_text().splitlines()
    assert before == "before"
    assert parse_line(line)["tool"] == "ssh_exec"
    assert handler in LOGGER.handlers


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_record_factory_is_asked_whatever_handlers_there_are(tmp_path, is_alone, own):
    """What the user's own factory puts on records is in the lines of a file, be there other handlers or not."""
    path = tmp_path / "log.jsonl"
    configure_logging(path, format="json")
    if is_alone:
        LOGGER.removeHandler(own)
    plain = logging.getLogRecordFactory()

    def make_record(*args, **kwargs):
        record = plain(*args, **kwargs)
        record.request_id = "r-7"
        return record

    logging.setLogRecordFactory(make_record)
    try:
        LogSink(WORKER_ID)(TOOL)
    finally:
        logging.setLogRecordFactory(plain)
    assert json.loads(path.read_text())["request_id"] == "r-7"


def test_a_new_log_is_private(tmp_path):
    """A log that is made can be read by its user alone; one that exists keeps its mode."""
    path = tmp_path / "log"
    configure_logging(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    configure_logging(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_configure_logging_writes_to_standard_error_by_default(capsys):
    """Without a path the lines go to standard error."""
    configure_logging(format="json")
    LogSink(None)(TOOL)
    assert json.loads(capsys.readouterr().err)["event"] == "tool_call_complete"


def test_configuring_again_replaces_the_handler(tmp_path, own):
    """The second call takes the place of the first and closes its file; handlers of the user's stay."""
    first = configure_logging(tmp_path / "first")
    second = configure_logging(tmp_path / "second", level="WARNING")
    logs.warn("once")
    assert first.stream is None
    assert LOGGER.level == logging.WARNING
    assert first not in LOGGER.handlers
    assert {own, second} <= set(LOGGER.handlers)
    assert (tmp_path / "first").read_text() == ""
    assert (tmp_path / "second").read_text().count("once") == len(own.buffer) == 1


def test_configure_logging_leaves_the_root_logger_alone(tmp_path, own, monkeypatch):
    """The root logger keeps its handlers and level, and doesn't print our lines a second time."""
    root = logging.getLogger()
    LOGGER.removeHandler(own)
    monkeypatch.setattr(root, "handlers", [*root.handlers, own])
    before = root.handlers[:], root.level
    configure_logging(tmp_path / "log")
    LogSink(None)(TOOL)
    assert (root.handlers, root.level) == before
    assert own.buffer == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"format": "xml"}, r"no such log format: 'xml'; use one of 'kv', 'json'"),
        ({"level": "LOUD"}, r"no such log level: 'LOUD'; use a number or one of 'CRITICAL', "),
        ({"level": None}, r"no such log level: None"),
    ],
)
def test_bad_options_name_the_value_and_the_legal_ones(tmp_path, options, complaint):
    """A wrong option is refused before anything is opened or replaced."""
    handlers = LOGGER.handlers[:]
    with pytest.raises(ValueError, match=complaint):
        configure_logging(tmp_path / "log", **options)
    assert LOGGER.handlers == handlers
    assert not (tmp_path / "log").exists()


def test_a_path_that_cannot_be_opened_is_named_and_the_earlier_handler_stays(tmp_path):
    """A file that can't be opened raises the OSError with its path, and logging goes on as before."""
    earlier = configure_logging(tmp_path / "log")
    with pytest.raises(OSError, match="missing"):
        configure_logging(tmp_path / "missing" / "log")
    assert earlier in LOGGER.handlers


def test_warn_logs_with_its_caller(own):
    """A warning is a plain record that names the place that warned."""
    logs.warn("cannot write %s", "x.jsonl")
    (record,) = own.buffer
    assert (record.getMessage(), record.levelname) == ("cannot write x.jsonl", "WARNING")
    assert record.funcName == "test_warn_logs_with_its_caller"


def test_warn_never_raises():
    """A filter of the user's that raises doesn't reach whoever warns."""
    LOGGER.addFilter(lambda record: 1 / 0)
    logs.warn("anything")


def test_importing_is_silent_and_adds_a_null_handler_only():
    """A program with no logging set up sees nothing of this library, not even its warnings."""
    code = (
        "import logging; from langchain_swarmlet_metrics import logs; logs.warn('unseen');"
        "print([type(h).__name__ for h in logging.getLogger(logs.LOGGER_NAME).handlers], logging.root.handlers)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout.strip(), ran.stderr) == ("['NullHandler'] []", "")
