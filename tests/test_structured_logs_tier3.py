"""Tier 3: the log lines of real calls, as a developer's own logging set-up sees them."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from langchain_core.tools import tool

from langchain_swarmlet_metrics.loglines import KeyValueFormatter, parse_line
from langchain_swarmlet_metrics.logs import configure_logging
from langchain_swarmlet_metrics.testing import Reply, Usage
from tests.conftest import read_lines


@tool("x duration_ms=1")
def awkward(fail: bool) -> str:
    """Do something under an awkward name."""
    if fail:
        msg = "broken\nin two lines, success=False"
        raise ValueError(msg)
    return "fine"


def test_llm_call_structured_logging(runner, loopback, caplog):
    """A real LLM call gives one record whose flat attributes are those of its event."""
    caplog.set_level(logging.INFO, logger="langchain_swarmlet_metrics")
    model = loopback.model(Reply(text="x", usage=Usage(prompt_tokens=1234, completion_tokens=89)))
    with runner.worker("backup") as worker:
        model.invoke("hello")
    (record,) = [record for record in caplog.records if record.name == "langchain_swarmlet_metrics"]
    (event,) = read_lines(worker.dir / "metrics.jsonl")
    assert (record.event, record.levelname) == ("llm_call_complete", "INFO")
    assert (record.phase, record.model, record.worker_id) == ("initial", "gpt-5-mini", worker.worker_id)
    assert (record.prompt_tokens, record.completion_tokens, record.total_tokens) == (1234, 89, 1323)
    assert record.duration_ms == event.duration_ms
    line = KeyValueFormatter().format(record)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO llm_call_complete phase=initial duration_ms=\d+ "
        rf"worker_id={worker.worker_id} model=gpt-5-mini prompt_tokens=1234 completion_tokens=89 total_tokens=1323"
        r" .*event=llm_call_complete",
        line,
    )


def test_tool_call_structured_logging(runner, caplog):
    """A real tool call gives one record, with its failure when it failed."""
    caplog.set_level(logging.INFO, logger="langchain_swarmlet_metrics")
    with runner.worker("backup") as worker:
        awkward.invoke({"fail": False})
        with pytest.raises(ValueError, match="broken"):
            awkward.invoke({"fail": True})
    fine, failed = caplog.records
    assert (fine.event, fine.tool, fine.success) == ("tool_call_complete", "x duration_ms=1", True)
    assert (failed.success, failed.error_type, failed.worker_id) == (False, "ValueError", worker.worker_id)
    assert (
        KeyValueFormatter()
        .format(fine)
        .split(" INFO ")[1]
        .startswith("tool_call_complete tool=x\\x20duration_ms\\x3d1 duration_ms=")
    )


def test_structured_logs_grep_pattern(runner, loopback, tmp_path):
    """Real grep and awk find exactly the values that were recorded, whatever the names are."""
    log = tmp_path / "workers.log"
    configure_logging(log)
    model = loopback.model(Reply(text="x"), model="my model")
    with runner.worker("backup") as worker:
        model.invoke("hello")
        with pytest.raises(ValueError, match="broken"):
            awkward.invoke({"fail": True})
        awkward.invoke({"fail": False})
    events = read_lines(worker.dir / "metrics.jsonl")

    def shell(command):
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.splitlines()

    durations = shell(f"""grep "duration_ms=" {log} | awk -F'duration_ms=' '{{print $2}}' | awk '{{print $1}}'""")
    assert [int(value) for value in durations] == [event.duration_ms for event in events]
    assert shell(f'grep -c "tool_call_complete" {log}') == ["2"]
    assert len(shell(f'grep "tool_call_complete" {log} | grep "success=False"')) == 1
    assert shell(f'grep "llm_call_complete" {log} | grep -o "model=[^ ]*"') == ["model=my\\x20model"]
    assert len(shell(f'grep "worker_id={worker.worker_id}" {log}')) == 3
    assert len(shell(f'grep "event=" {log} | head -5')) == 3
    assert [parse_line(line).get("tool") for line in log.read_text().splitlines()] == [
        None,
        "x duration_ms=1",
        "x duration_ms=1",
    ]


def test_structured_logs_fail_safe(runner, loopback, capsys):
    """A log handler that raises affects neither the agent nor the file; it is counted."""

    class Broken(logging.Handler):
        def emit(self, record):
            msg = "the log server is away"
            raise ConnectionError(msg)

    logger = logging.getLogger("langchain_swarmlet_metrics")
    logger.setLevel(logging.INFO)
    logger.addHandler(Broken())
    model = loopback.model(Reply(text="x"), Reply(text="y"))
    with runner.worker("backup") as worker:
        assert model.invoke("hello").text == "x"
        assert model.invoke("hello").text == "y"
    assert len(read_lines(worker.dir / "metrics.jsonl")) == 2
    assert worker.completeness.dropped_events == 2
    assert worker.status == "success"
    assert capsys.readouterr().err == ""


def test_nothing_is_printed_without_set_up(tmp_path):
    """A program that has no logging set up sees no output of ours."""
    code = (
        "import sys; from langchain_swarmlet_metrics import WorkerRunner\n"
        "with WorkerRunner(sys.argv[1]).worker('quiet') as worker:\n"
        "    worker.collector.record_tool_call(tool_name='t', start_ts=0, end_ts=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("", "")
