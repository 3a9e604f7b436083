"""The stand-in for a language model when there is no API key: rules that read the messages they are sent.

It answers over HTTP as the OpenAI API does. Whatever it says about the workers, it has read in the tool messages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics.testing import Reply, ToolRequest

if TYPE_CHECKING:
    from langchain_swarmlet_metrics.testing import Request

_RESULT = re.compile(r"Result from worker job (\d+) \(worker (\S+)\):\s+Execution time: (\d+)ms")
_FAILED = re.compile(r"This worker failed at \S+ (.*)")
_TASK = re.compile(r"^- (.+)$", re.MULTILINE)
_URL = re.compile(r"http://\S+?(?=[\s,;]|\.?$)")
_EXPRESSION = re.compile(r"Calculate (\S+)")


def reply(request: Request) -> Reply:
    """Answer a request as a supervisor or as a worker, by the tools that it was given."""
    asked = next(str(message["content"]) for message in reversed(request.messages) if message["role"] == "user")
    answers = _answers(request.messages)
    return _supervise(asked, answers) if "spawn_worker" in request.tools else _work(asked, answers)


def _answers(messages: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what each tool has answered, by its name."""
    names = {call["id"]: call["function"]["name"] for message in messages for call in message.get("tool_calls") or ()}
    answers: dict[str, list[str]] = {}
    for message in messages:
        if message["role"] == "tool":
            answers.setdefault(names[message["tool_call_id"]], []).append(str(message["content"]))
    return answers


def _supervise(asked: str, answers: dict[str, list[str]]) -> Reply:
    """Spawn a worker per task, read each result and digest, then the slowest one's events, then answer."""
    if "spawn_worker" not in answers:
        return Reply(tool_calls=[ToolRequest("spawn_worker", {"task": task}) for task in _TASK.findall(asked)])
    jobs = [job for text in answers["spawn_worker"] for job, _, _ in _RESULT.findall(text)]
    if "read_worker_result" not in answers:
        reads = ("read_worker_result", "read_worker_metrics")
        return Reply(tool_calls=[ToolRequest(name, {"job_id": job}) for job in jobs for name in reads])
    results = {job: text for text in answers["read_worker_result"] for job, _, _ in _RESULT.findall(text)}
    slowest = max(results, key=lambda job: _milliseconds(results[job]))
    if "read_worker_file" not in answers:
        arguments = {"job_id": slowest, "file_path": "metrics.jsonl"}
        return Reply(tool_calls=[ToolRequest("read_worker_file", arguments)])
    return Reply(text=_conclude(results, slowest, answers["read_worker_file"][0]))


def _milliseconds(result: str) -> int:
    return int(_RESULT.findall(result)[0][2])


def _conclude(results: dict[str, str], slowest: str, events: str) -> str:
    _, worker, milliseconds = _RESULT.findall(results[slowest])[0]
    tools = ", ".join(re.findall(r'"tool":"([^"]+)"', events))
    failures = [f"Job {job} failed: {why[1]}" for job, text in results.items() if (why := _FAILED.search(text))]
    return " ".join(
        [
            f"{len(results)} workers have ended.",
            f"The slowest was job {slowest} (worker {worker}) with {milliseconds} ms; it called {tools}.",
            *failures,
        ]
    )


def _work(asked: str, answers: dict[str, list[str]]) -> Reply:
    """Call the tool that the task is about, then answer with what it said."""
    if answers:
        return Reply(text=f"The answer is: {next(iter(answers.values()))[-1]}")
    if url := _URL.search(asked):
        return Reply(tool_calls=[ToolRequest("fetch_page", {"url": url[0]})])
    if expression := _EXPRESSION.search(asked):
        return Reply(tool_calls=[ToolRequest("calculate", {"expression": expression[1]})])
    return Reply(tool_calls=[ToolRequest("disk_usage", {"path": "/"})])
