"""No secret of a known shape reaches a file or a log line, wherever it comes from; only a worker's result keeps it."""

from __future__ import annotations

import json
import logging
from contextlib import suppress

import openai
import pytest
from langchain_core.tools import tool

from langchain_swarmlet_metrics import WorkerRunner, add_secret_patterns, configure_logging, logs
from langchain_swarmlet_metrics.testing import Reply
from tests.corpus import SECRETS, needles

OWN = "ACME-" + "4711-0815"


@tool
def fail(text: str) -> str:
    """Raise an error that quotes what it was given."""
    raise ValueError(text)


@tool
def repeat(text: str) -> dict[str, str]:
    """Return what it was given."""
    return {"output": text, text: ""}


def failing_sink(text):
    """Return a factory of sinks that raise an error with a text."""

    def make(worker):
        def sink(event):
            raise ValueError(text)

        return sink

    return make


def record(root, model, text):
    """Run workers that meet a text in every way there is, and return the folder of the one that kept it as result."""
    capturing = WorkerRunner(root, summarizer=lambda prompt: text, sinks=[failing_sink(text)], capture_content=True)
    runner = WorkerRunner(root)
    config = {"note": text, "nested": [{text: {"headers": text}}]}
    with capturing.worker(text, config=config) as worker:
        with suppress(ValueError):
            fail.invoke({"text": text})
        repeat.invoke({"text": text})
        with suppress(openai.AuthenticationError):
            model.invoke([("system", text), ("human", text), ("ai", text)])
        worker.collector.record_tool_call(tool_name=text, start_ts=1.0, end_ts=2.0, error=text)
        worker.collector.record_llm_call(phase=text, model=text, start_ts=1.0, end_ts=2.0, agent=text, provider=text)
        worker.result = text
    assert runner.run(model.invoke, text).status == "failed"
    assert runner.run(fail, text, input=lambda task: {"text": task}).status == "failed"
    return worker.dir


@pytest.fixture
def told(loopback):
    """Return a model whose server refuses the key with the latest text as its reason, and how to set that text."""
    texts = ["nothing"]
    return loopback.model(lambda request: Reply(status=401, text=texts[-1])), texts.append


def test_no_secret_is_written(tmp_path, told):
    """Of every shape in the corpus nothing is in any file, its name or the log, but what a worker itself answered."""
    model, tell = told
    log = tmp_path / "log"
    remove = add_secret_patterns(r"ACME-\d{4}-\d{4}")
    handler = configure_logging(log, level=logging.DEBUG)
    try:
        for name, (template, secret) in {**SECRETS, "one's own": ("order {} is late", OWN)}.items():
            tell(template.format(secret))
            folder = record(tmp_path / "workers", model, template.format(secret))
            assert (folder / "result.txt").read_bytes() == template.format(secret).encode(), name
        assert logs.drain(60)
    finally:
        remove()
        handler.close()
    found = leaks(tmp_path)
    assert not found
    events = [json.loads(line) for path in tmp_path.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    kinds = {event.get("error_type") for event in events}
    assert "ValueError" in kinds
    assert kinds & {"OpenAIAuthenticationError", "AuthenticationError"}  # older integrations call it by its plain name
    captured = [path.parent.name for path in tmp_path.rglob("*.*") if path.name.startswith(("thread", "00"))]
    assert captured.count("tool_calls") >= 2 * len(SECRETS)
    assert log.read_text().count("error=") > 4 * len(SECRETS)
    assert "WARNING" in log.read_text()


def leaks(top):
    """Return which secrets are in which files below a folder, or in their names."""
    wanted = {part.encode(): name for name, (_, secret) in SECRETS.items() for part in needles(secret)}
    wanted |= {OWN.encode(): "one's own"}
    found = set()
    for path in top.rglob("*"):
        content = str(path.relative_to(top)).encode()
        if path.is_file() and path.name != "result.txt":
            content += path.read_bytes().replace(rb"\x3d", b"=")
        found |= {(name, path.name, part) for part, name in wanted.items() if part in content}
    return found
