"""Traps 62 to 70: what is on disk, and what is in the log."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_swarmlet_metrics.events import encode
from langchain_swarmlet_metrics.loglines import parse_line
from langchain_swarmlet_metrics.logs import configure_logging
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from tests.conftest import read_lines, recording

KILLED = """
import os, signal, sys
from langchain_core.tools import tool
from langchain_swarmlet_metrics import WorkerRunner

@tool
def work(number: int) -> int:
    "Work."
    return number

worker = WorkerRunner(sys.argv[1]).worker("killed").open()
for number in range(25):
    work.invoke({"number": number})
print(worker.job_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_trap_62_kill_9(runner):
    """After SIGKILL every finished call is on disk and the worker reads as lost."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(runner.store.root)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    metadata = runner.store.read(int(done.stdout))
    assert runner.store.status(metadata) == "lost"
    events = list(runner.store.events(metadata.worker_id))
    assert [event.id for event in events] == list(range(1, 26))


def test_trap_63_torn_line(runner):
    """A torn last line is skipped and counted, and the rest is read."""
    with runner.worker("torn") as worker:
        for _ in range(3):
            worker.collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    path = worker.dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    reader = runner.store.events(worker.worker_id)
    assert len(list(reader)) == 2
    assert reader.skipped == 1
    (digest,) = runner.supervisor_tools(include=["read_worker_metrics"])
    assert "1 " in digest.invoke({"job_id": worker.job_id}).rsplit("Not known", 1)[-1]


@pytest.mark.parametrize(
    "text", ['a\nb "quoted" c=d worker_id=evil', "x\u2028y\r\x1b[31m", 'error="fake" success=True']
)
def test_trap_64_log_injection(runner, tmp_path, text):
    """Whatever an error says, its record is one line that parses back to what happened."""
    log = tmp_path / "log"
    configure_logging(log)

    @tool
    def fail() -> str:
        """Fail."""
        raise ValueError(text)

    with runner.worker("inject") as worker, pytest.raises(ValueError, match=re.escape(text)):
        fail.invoke({})
    (line,) = log.read_text().splitlines()
    (event,) = read_lines(worker.dir / "metrics.jsonl")
    fields = parse_line(line)
    assert (fields["worker_id"], fields["success"], fields["error"]) == (worker.worker_id, "False", event.error)


class Strange:
    """An object that cannot be shown."""

    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize("value", [float("nan"), b"\xff", "\ud800", Strange(), "x" * 10**6, None])
def test_trap_65_odd_values(runner, value):
    """Odd values give valid, bounded UTF-8 JSON."""

    class OddError(Exception):
        def __str__(self):
            return value if isinstance(value, str) else str(value)

    @tool
    def fail() -> str:
        """Fail."""
        raise OddError

    with runner.worker("odd") as worker, pytest.raises(OddError):
        fail.invoke({})
    text = (worker.dir / "metrics.jsonl").read_bytes().decode()
    assert len(text) < 2000
    assert json.loads(text, parse_constant=pytest.fail)["error_type"] == "OddError"


def test_trap_66_no_secrets_and_no_content(runner, loopback, tmp_path):
    """Neither a key nor a prompt, an argument or an output is on disk or in the log."""
    log = tmp_path / "log"
    configure_logging(log)

    @tool
    def look_up(name: str) -> str:
        """Look up."""
        return "the-tool-output"

    def reply(request):
        if request.messages[-1]["role"] == "tool":
            return Reply(text="the-model-output")
        return Reply(tool_calls=[ToolRequest("look_up", {"name": "the-argument"})])

    from langchain.agents import create_agent

    model = loopback.model(reply, api_key="sk-proj-AbCd3fGhIjKlMnOpQrStUvWxYz0123456789AbCd")
    with runner.worker("secret") as worker:
        create_agent(model, [look_up]).invoke({"messages": [("user", "the-prompt")]})
    written = "".join(path.read_text() for path in [*worker.dir.iterdir(), log])
    for secret in ("sk-proj", "the-prompt", "the-argument", "the-tool-output", "the-model-output"):
        assert secret not in written


def test_trap_67_reading_while_writing(runner):
    """A reader during a run gets the calls so far, its own tool calls among them, and that it runs."""
    (result, digest) = runner.supervisor_tools(include=["read_worker_result", "read_worker_metrics"])
    with runner.worker("live") as worker:
        for number in range(3):
            worker.collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
            assert f"\n{3 * number + 1} tool call" in digest.invoke({"job_id": worker.job_id})
            assert "still running" in result.invoke({"job_id": worker.job_id})


def test_trap_68_full_disk(runner, caplog):
    """A file that takes no more costs the worker nothing; what was dropped is counted and said."""
    with runner.worker("full") as worker:
        worker.collector.record_tool_call(tool_name="kept", start_ts=0, end_ts=1)
        worker._writer.close()
        worker.collector.record_tool_call(tool_name="dropped", start_ts=0, end_ts=1)
        worker.result = "done"
    assert worker.status == "success"
    assert worker.completeness.dropped_events == 1
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    (digest,) = runner.supervisor_tools(include=["read_worker_metrics"])
    assert "1 event could not be written" in digest.invoke({"job_id": worker.job_id})


@pytest.mark.parametrize("task", ["../../etc/passwd", "a b\tc", "x" * 500, "\x00", "", "CON", "ünïcödé", "/"])
def test_trap_69_worker_id_hygiene(runner, task):
    """Whatever the task says, the worker's id is one plain folder name below the root."""
    with runner.worker(task) as worker:
        pass
    assert worker.dir.parent == runner.store.root
    assert worker.worker_id.isascii()
    assert all(letter.isalnum() or letter in "-_" for letter in worker.worker_id)
    assert len(worker.worker_id) <= 60


def test_trap_70_files_of_other_versions(runner):
    """Lines with keys of a later version and of unknown kinds do not stop a reader."""
    with runner.worker("versions") as worker:
        worker.collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    path = worker.dir / "metrics.jsonl"
    (event,) = read_lines(path)
    later = encode(event).replace(b'{"event"', b'{"new_key":{"a":[1]},"event"')
    path.write_bytes(encode(event) + later + b'{"event":"retriever_call","duration_ms":1}\n')
    reader = runner.store.events(worker.worker_id)
    assert list(reader) == [event, event]
    assert reader.skipped == 1
    assert json.loads((worker.dir / "metadata.json").read_text())["schema"] == 1


def test_without_langchain_content(runner):
    """A model that fails records its error, not its prompt."""

    class Failing(GenericFakeChatModel):
        messages: object = iter(())

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            msg = "too many requests"
            raise ConnectionError(msg)

    with recording() as events, pytest.raises(ConnectionError):
        Failing().invoke([AIMessage("the-prompt")])
    assert "the-prompt" not in encode(events[0]).decode()
