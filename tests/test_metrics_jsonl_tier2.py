"""Tier 2: metrics.jsonl is there, tells what happened, and the supervisor can read it."""

from __future__ import annotations

import asyncio
import json
import threading

from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_swarmlet_metrics.collector import (
    MetricsCollector,
    get_metrics_collector,
    reset_metrics_collector,
    set_metrics_collector,
)
from langchain_swarmlet_metrics.store import ArtifactStore
from langchain_swarmlet_metrics.testing import Reply, ToolRequest, Usage

LLM_KEYS = ["event", "phase", "model", "start_ts", "end_ts", "duration_ms"]
TOOL_KEYS = ["event", "tool", "start_ts", "end_ts", "duration_ms", "success"]


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def doubling(request):
    """Ask for one doubling, then answer."""
    if request.messages[-1]["role"] == "tool":
        return Reply(text="84", usage=Usage(prompt_tokens=21, completion_tokens=2))
    return Reply(tool_calls=[ToolRequest("double", {"number": 42})], usage=Usage(prompt_tokens=11, completion_tokens=4))


def test_metrics_jsonl_creation(runner, loopback):
    """A real agent's worker has one JSON line per call, the required keys first and in their order."""
    worker = runner.run(create_agent(loopback.model(doubling), [double]), "double 42")
    text = (worker.dir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n")
    assert [line["event"] for line in lines] == ["llm_call", "tool_call", "llm_call"]
    for line in lines:
        expected = LLM_KEYS if line["event"] == "llm_call" else TOOL_KEYS
        assert list(line)[: len(expected)] == expected
        assert line["start_ts"] <= line["end_ts"]
        assert len(line["start_ts"]) == len("2025-12-15T04:08:08.123456Z")
    for line in (lines[0], lines[2]):
        assert list(line)[6:9] == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert [line["phase"] for line in (lines[0], lines[2])] == ["initial", "synthesis"]
    assert (lines[0]["total_tokens"], lines[2]["total_tokens"]) == (15, 23)
    assert (lines[1]["tool"], lines[1]["success"], lines[1]["requested_by"]) == ("double", True, lines[0]["id"])


def test_metrics_jsonl_by_hand(tmp_path):
    """A collector used by hand buffers its events until flush, and a second flush writes nothing twice."""
    store = ArtifactStore(tmp_path / "workers")
    worker_id = store.create("by hand").worker_id
    collector = MetricsCollector(worker_id)
    collector.record_llm_call(phase="initial", model="m", start_ts=0, end_ts=1.5, prompt_tokens=3)
    path = store.root / worker_id / "metrics.jsonl"
    assert not path.exists()
    collector.flush(store)
    collector.record_tool_call(tool_name="t", start_ts=2, end_ts=3, error=ValueError("no"))
    collector.flush(store)
    collector.flush(store)
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["duration_ms"], first["prompt_tokens"]) == (1500, 3)
    assert (second["success"], second["error"], second["error_type"]) == (False, "no", "ValueError")


def test_read_worker_file_can_access_metrics(runner, loopback):
    """The supervisor reads metrics.jsonl, whole and unadorned, through its own tool."""
    worker = runner.run(create_agent(loopback.model(doubling), [double]), "double 42")
    (read,) = runner.supervisor_tools(include=["read_worker_file"])
    text = read.invoke({"job_id": worker.job_id, "file_path": "metrics.jsonl"})
    assert text == (worker.dir / "metrics.jsonl").read_text()
    assert len([json.loads(line) for line in text.splitlines()]) == 3


async def test_metrics_collector_context_isolation(runner, loopback):
    """Workers that run at once, as tasks and as threads, record their own calls only."""
    usages = {f"task {number}": number for number in range(1, 9)}

    def counting(request):
        number = usages[request.messages[-1]["content"]]
        return Reply(text="x", usage=Usage(prompt_tokens=number, completion_tokens=0))

    model = loopback.model(counting)
    together = asyncio.Barrier(4)
    in_threads = threading.Barrier(4)

    async def in_task(task):
        async with runner.worker(task) as worker:
            await together.wait()
            await asyncio.gather(*(model.ainvoke(task) for _ in range(3)))
        return worker

    def in_thread(task):
        with runner.worker(task) as worker:
            in_threads.wait(10)
            for _ in range(3):
                model.invoke(task)
        return worker

    tasks = list(usages)
    workers = await asyncio.gather(
        *(in_task(task) for task in tasks[:4]), *(asyncio.to_thread(in_thread, task) for task in tasks[4:])
    )
    for worker in workers:
        lines = [json.loads(line) for line in (worker.dir / "metrics.jsonl").read_text().splitlines()]
        assert [line["prompt_tokens"] for line in lines] == [usages[worker.task]] * 3
        assert sorted(line["id"] for line in lines) == [1, 2, 3]
    token = set_metrics_collector(workers[0].collector)
    assert get_metrics_collector() is workers[0].collector
    reset_metrics_collector(token)
    assert get_metrics_collector() is None
