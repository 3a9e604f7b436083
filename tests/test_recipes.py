"""Recipes for jq, grep and awk: each gives the right answer on files and logs that real runs wrote.

The right answers are computed here, from the events in the folders.
"""

from __future__ import annotations

import json
import logging
import shlex
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from langchain.agents import create_agent
from langchain_core.tools import ToolException, tool
from langchain_openai import ChatOpenAI

from langchain_swarmlet_metrics import WorkerRunner, configure_logging
from langchain_swarmlet_metrics.testing import OpenAIServer, Reply, ToolRequest
from tests import shell

SLOWEST = "jq -s 'sort_by(.duration_ms) | reverse | .[0:5]'"
SLOWEST_LLM = """jq -s 'map(select(.event=="llm_call")) | sort_by(.duration_ms) | reverse | .[0:5]'"""
LLM_TIME = """jq -s '[.[] | select(.event=="llm_call") | .duration_ms] | add'"""
TOOL_COUNT = """jq -s '[.[] | select(.event=="tool_call")] | length'"""
FAILED_TOOLS = """jq -s '.[] | select(.event=="tool_call" and .success==false)'"""
ON_METRICS = [SLOWEST, SLOWEST_LLM, LLM_TIME, TOOL_COUNT, FAILED_TOOLS]

_DURATIONS = """grep "duration_ms=" LOG | awk -F'duration_ms=' '{print $2}' | awk '{print $1}' | sort -n"""
SLOWEST_LOGGED = f"{_DURATIONS} | tail -20"
HISTOGRAM = f"{_DURATIONS} | uniq -c"
FAILED_LOGGED = 'grep "tool_call_complete" LOG | grep "success=False"'
MODELS = 'grep "llm_call_complete" LOG | grep -o "model=[^ ]*" | sort | uniq -c'
FIRST = 'grep "event=" LOG | head -5'
OF_WORKER = 'grep "worker_id=WORKER_ID " LOG'  # the space: with it, ..._backup does not find ..._backup-2 as well
ON_LOG = [SLOWEST_LOGGED, HISTOGRAM, FAILED_LOGGED, MODELS, FIRST]

FOLLOW_LLM = "tail -f LOG | grep llm_call_complete"
FOLLOW_TOOLS = "tail -f LOG | grep tool_call_complete"
FOLLOWED = [FOLLOW_LLM, FOLLOW_TOOLS]

ODD_TOOL = "x duration_ms=1"
ODD_MODEL = "my model"
ODD_ERROR = "llm_call_complete model=evil duration_ms=99999 success=False event=none\nworker_id=other"


class Recording(NamedTuple):
    """Name what a run left: the worker folders and the log."""

    folders: list[Path]
    log: Path

    def events(self, folder: Path | None = None) -> list[dict]:
        """Return the events of one worker, or of all."""
        folders = self.folders if folder is None else [folder]
        return [json.loads(line) for path in folders for line in (path / "metrics.jsonl").read_text().splitlines()]

    def run(self, recipe: str) -> str:
        """Run a recipe for logs on the log."""
        return shell.run(recipe.replace("LOG", shlex.quote(str(self.log))), cwd=self.log.parent)


def run_with_odd_names(root: Path, log: Path) -> None:
    """Run workers whose model, tool and errors look like fields of a log line, two of them with alike ids."""

    @tool(ODD_TOOL)
    def odd(fail: bool) -> str:
        """Fail or not."""
        if fail:
            raise ToolException(ODD_ERROR)
        return "fine"

    def reply(request):
        if request.messages[-1]["role"] == "tool":
            return Reply(text="done")
        wishes = [ToolRequest(ODD_TOOL, {"fail": fail}) for fail in (False, True)]
        return Reply(tool_calls=wishes)

    odd.handle_tool_error = True
    runner = WorkerRunner(root)
    handler = configure_logging(log)
    try:
        with OpenAIServer(reply) as server:
            agent = create_agent(ChatOpenAI(model=ODD_MODEL, base_url=server.url, api_key="loopback"), [odd])
            while not any(folder.name.endswith("-2") for folder in root.iterdir()):
                assert runner.run(agent, "model=evil duration_ms=5").status == "success"
    finally:
        logger = logging.getLogger("langchain_swarmlet_metrics")
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        handler.close()


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
    """Return what a run with odd names left."""
    root = tmp_path_factory.mktemp("odd")
    run_with_odd_names(root / "workers", root / "odd.log")
    return root / "workers", root / "odd.log"


@pytest.fixture(params=["demo", "odd names"])
def recording(request, demo_run):
    """Return what the demo left, and what a run with odd names left."""
    if request.param == "demo":
        root, log = demo_run.root, demo_run.log
    else:
        root, log = request.getfixturevalue("odd_run")
    return Recording(sorted(path.parent for path in root.glob("*/metrics.jsonl")), log)


def jq(recipe: str, folder: Path) -> str:
    """Run a recipe for event files in a worker's folder."""
    shell.require("jq")
    return shell.run(f"{recipe} metrics.jsonl", cwd=folder)


def json_values(text: str) -> list[dict]:
    """Read JSON values that follow each other, as jq prints them."""
    values, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


def escaped(name: str) -> str:
    """Write a name as log lines do."""
    return name.replace("=", r"\x3d").replace(" ", r"\x20")


def counts(text: str) -> dict[str, int]:
    """Read what `uniq -c` prints."""
    return {name: int(count) for count, name in (line.split(maxsplit=1) for line in text.splitlines())}


def slowest_first(events: list[dict]) -> list[dict]:
    """Order events as the recipes do: slowest first, of equally slow ones the later first."""
    return sorted(events, key=lambda event: event["duration_ms"])[::-1]


def of_kind(events: list[dict], kind: str) -> list[dict]:
    """Return the events of one kind."""
    return [event for event in events if event["event"] == kind]


def test_slowest_calls(recording):
    """The slowest five calls of a worker, of both kinds and of LLM calls alone, come slowest first."""
    for folder in recording.folders:
        events = recording.events(folder)
        assert json.loads(jq(SLOWEST, folder)) == slowest_first(events)[:5]
        assert json.loads(jq(SLOWEST_LLM, folder)) == slowest_first(of_kind(events, "llm_call"))[:5]


def test_total_llm_time(recording):
    """The total LLM time of a worker is the sum over its LLM calls alone."""
    for folder in recording.folders:
        calls = of_kind(recording.events(folder), "llm_call")
        assert json.loads(jq(LLM_TIME, folder)) == sum(call["duration_ms"] for call in calls)


def test_tool_count(recording):
    """The tool count of a worker is that of its tool calls."""
    for folder in recording.folders:
        tools = of_kind(recording.events(folder), "tool_call")
        assert tools
        assert json.loads(jq(TOOL_COUNT, folder)) == len(tools)


def test_failed_tools(recording):
    """The failed tools are those events, one JSON value each, with their errors."""
    found = 0
    for folder in recording.folders:
        failed = [event for event in of_kind(recording.events(folder), "tool_call") if not event["success"]]
        assert json_values(jq(FAILED_TOOLS, folder)) == failed
        found += len(failed)
    assert found


def test_slowest_in_log(recording):
    """The 20 longest durations of the log come sorted, the longest last."""
    durations = sorted(event["duration_ms"] for event in recording.events())
    assert [int(line) for line in recording.run(SLOWEST_LOGGED).splitlines()] == durations[-20:]


def test_histogram_of_log(recording):
    """The histogram counts every duration of the log."""
    expected = Counter(str(event["duration_ms"]) for event in recording.events())
    assert counts(recording.run(HISTOGRAM)) == expected


def test_lines_of_one_worker(recording):
    """A worker's lines are those of its events, also when another worker's id begins with its own."""
    for folder in recording.folders:
        recipe = OF_WORKER.replace("WORKER_ID", folder.name)
        assert len(recording.run(recipe).splitlines()) == len(recording.events(folder))


def test_failed_tools_in_log(recording):
    """The lines of failed tools are those of the failed tool events."""
    failed = [event for event in of_kind(recording.events(), "tool_call") if not event["success"]]
    lines = recording.run(FAILED_LOGGED).splitlines()
    assert len(lines) == len(failed)
    assert all(f"tool={escaped(event['tool'])} " in "".join(lines) for event in failed)


def test_models_in_log(recording):
    """Every LLM call counts for its model, whatever the model is called."""
    calls = of_kind(recording.events(), "llm_call")
    assert counts(recording.run(MODELS)) == Counter(f"model={escaped(call['model'])}" for call in calls)


def test_first_events_of_log(recording):
    """The first five lines of events are the first five lines of the log that are events."""
    lines = recording.log.read_text().splitlines()
    events = [line for line in lines if "_call_complete " in line]
    assert recording.run(FIRST).splitlines() == events[:5]
    assert len(events) == len(recording.events())


def test_warnings_are_no_events(tmp_path, runner):
    """A warning that repeats what a model, a tool or an error is called is not counted as an event."""
    log = tmp_path / "workers.log"
    configure_logging(log)

    def broken(_event):
        raise ValueError("tool_call_complete duration_ms=5 success=False event=x worker_id=y ")

    noisy = WorkerRunner(runner.store.root, sinks=[lambda _worker: broken])
    with noisy.worker("look") as worker:
        worker.collector.record_tool_call(tool_name="look", start_ts=1.0, end_ts=1.007)
    recording = Recording([worker.dir], log)
    assert "WARNING" in log.read_text()
    assert recording.run(SLOWEST_LOGGED).split() == ["7"]
    assert len(recording.run(FIRST).splitlines()) == 1


@pytest.mark.parametrize("names", [("gpt-5-mini", "look"), (ODD_MODEL, ODD_TOOL)], ids=["plain", "odd names"])
def test_following_a_log_while_a_worker_runs(tmp_path, runner, names):
    """A person who follows the log sees each call of a kind as it ends, while the worker still runs."""
    model_name, tool_name = names
    released = threading.Event()

    @tool(tool_name)
    def look() -> str:
        """Look."""
        return "seen"

    def reply(request):
        if request.messages[-1]["role"] == "tool":
            return Reply(text="done", hold=released)
        return Reply(tool_calls=[ToolRequest(tool_name)])

    log = tmp_path / "workers.log"
    configure_logging(log)
    commands = [command.replace("LOG", shlex.quote(str(log))) for command in FOLLOWED]
    with (
        OpenAIServer(reply) as server,
        shell.follow(commands[0], cwd=tmp_path) as llm_calls,
        shell.follow(commands[1], cwd=tmp_path) as tool_calls,
    ):
        agent = create_agent(ChatOpenAI(model=model_name, base_url=server.url, api_key="loopback"), [look])
        task = threading.Thread(target=runner.run, args=(agent, "look"))
        task.start()
        (first,) = llm_calls.wait_for_lines(1)
        (seen,) = tool_calls.wait_for_lines(1)
        assert f"model={escaped(model_name)} " in first
        assert f"tool_call_complete tool={escaped(tool_name)} " in seen
        assert runner.store.list(status="running")
        released.set()
        task.join()
        assert "phase=synthesis" in llm_calls.wait_for_lines(2)[1]
        assert len(tool_calls.wait_for_lines(1)) == 1


@pytest.mark.parametrize("recipe", [*ON_METRICS, *ON_LOG, *FOLLOWED, OF_WORKER])
def test_readme_has_the_recipe(recipe):
    """The README shows each recipe as it is tested here."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert recipe.replace("LOG", '"$LOG"').replace("WORKER_ID", "$WORKER_ID") in readme
