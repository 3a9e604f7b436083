"""The supervisor's tools on the folders of real workers: what they say, and that no mistake makes them raise."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shutil
import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import ToolMessage

from langchain_swarmlet_metrics import registry, supervisor
from langchain_swarmlet_metrics.runner import WorkerRunner
from tests.auditing import watching
from tests.processes import running

FIND = "Call list_workers to see the jobs there are."
READING = [
    *("read_worker_result", "read_worker_file", "list_workers", "get_worker_metadata", "read_worker_metrics"),
    "grep_workers",
]
ON_ONE_JOB = ["read_worker_result", "read_worker_file", "get_worker_metadata", "read_worker_metrics", "cancel_worker"]


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Return a function that calls a tool by name, synchronously or asynchronously."""

    @functools.cache
    def tools(runner):
        return {tool.name: tool for tool in runner.supervisor_tools(worker=str.upper)}

    def call(runner, name, /, **arguments):
        tool = tools(runner)[name]
        return tool.invoke(arguments) if request.param == "sync" else asyncio.run(tool.ainvoke(arguments))

    return call


@pytest.fixture
def worker(runner):
    """Return a worker that made two calls and found an answer."""
    with runner.worker("calculate 7*6") as worker:
        llm = {"phase": "initial", "model": "gpt-5-mini", "prompt_tokens": 10, "completion_tokens": 5}
        worker.collector.record_llm_call(start_ts=0, end_ts=0.25, **llm)
        worker.collector.record_tool_call(tool_name="multiply", start_ts=1, end_ts=2, error="no luck")
        worker.result = "The result is 42."
    return worker


def file_of(worker, name, content):
    """Write a file into a worker's folder."""
    path = worker.dir / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return name


def lasting(worker, duration_ms):
    """Make a worker's execution time known."""
    worker.metadata.duration_ms = duration_ms
    worker._runner.store.save(worker.metadata)
    return worker


# Which tools there are


def test_tools(runner):
    """Without a worker agent there are the tools that read; with one, those that spawn and cancel as well."""
    assert [tool.name for tool in runner.supervisor_tools()] == READING
    with_worker = [tool.name for tool in runner.supervisor_tools(worker=str.upper)]
    assert with_worker == [*READING, "spawn_worker", "cancel_worker"]


def test_include(runner):
    """Tools can be chosen, in any order; one that does not exist is refused with the names of those that do."""
    names = ["list_workers", "read_worker_result"]
    assert [tool.name for tool in runner.supervisor_tools(include=names)] == names
    assert runner.supervisor_tools(include=[]) == []
    with pytest.raises(ValueError, match=r"no supervisor tool is called 'spawn'; there are .*, cancel_worker$"):
        runner.supervisor_tools(include=["spawn"], worker=str.upper)
    with pytest.raises(ValueError, match=r"there are read_worker_result, .*; with worker=, what they run, also spawn"):
        runner.supervisor_tools(include=["spawn_worker"])


@pytest.mark.parametrize("limits", [{"max_workers": 0}, {"max_depth": 0}])
def test_limits_are_checked(runner, limits):
    """A limit that would let nothing run is refused."""
    with pytest.raises(ValueError, match="must be at least 1"):
        runner.supervisor_tools(worker=str.upper, **limits)


def test_what_the_model_is_told(runner):
    """Every tool has a short description without the indentation of its source, and takes a job number or its text."""
    for tool in runner.supervisor_tools(worker=str.upper):
        assert 20 < len(tool.description) < 300
        assert "\n " not in tool.description
        if tool.name in ON_ONE_JOB:
            kinds = tool.args["job_id"]["anyOf"]
            assert [kind["type"] for kind in kinds] == ["integer", "string"]


def test_hint():
    """The sentence for the supervisor's prompt names the file."""
    assert supervisor.SUPERVISOR_PROMPT_HINT == (
        "For detailed performance metrics, read 'metrics.jsonl' from the worker directory."
    )


# What they say


def test_result_text_exactly(runner, worker, ask):
    """Tier 1 is who, how long, and the result."""
    lasting(worker, 98)
    assert ask(runner, "read_worker_result", job_id=worker.job_id) == (
        f"Result from worker job 1 (worker {worker.worker_id}):\n\nExecution time: 98ms\n\nThe result is 42."
    )


def test_result_with_reading_aid(runner, worker, ask):
    """From one second on the reading aid follows on the same line."""
    lasting(worker, 83_250)
    lines = ask(runner, "read_worker_result", job_id=worker.job_id).splitlines()
    assert lines[2] == "Execution time: 83250ms (1m 23s)"


def test_result_is_whole(runner, ask):
    """A long result with blank lines, white space at its ends and any characters is given as it is."""
    result = "  first\n\n\nπ \x1b[31m" + "x" * 200_000 + "\nlast\n\n"
    worker = runner.run(lambda _task: result, "talk")
    assert ask(runner, "read_worker_result", job_id=worker.job_id).endswith(f"ms\n\n{result}")


@pytest.mark.parametrize("job_id", [1, "1", " 1 ", "1\n", "001", 1.0])
def test_job_id_as_number_or_text(runner, worker, ask, job_id):
    """A job number is taken as a number or as its text."""
    assert "The result is 42." in ask(runner, "read_worker_result", job_id=job_id)


def test_metadata(runner, worker, ask):
    """The metadata is JSON with the status, the totals and the execution time."""
    shown = json.loads(ask(runner, "get_worker_metadata", job_id=worker.job_id))
    assert shown["task"] == "calculate 7*6"
    assert (shown["status"], shown["execution_time"]) == ("success", worker.execution_time)
    assert (shown["totals"]["llm_calls"], shown["totals"]["total_tokens"], shown["totals"]["errors"]) == (1, None, 1)
    assert shown["completeness"]["dropped_events"] == 0


def test_metrics(runner, worker, ask):
    """The digest has the totals, the slowest calls and the failures."""
    digest = ask(runner, "read_worker_metrics", job_id=worker.job_id)
    assert digest.startswith(f"Worker {worker.worker_id} (job 1): success\nExecution time: {worker.execution_time}\n")
    assert "1 LLM call (250ms summed), 1 tool call (1000ms summed), 1 error" in digest
    assert "- multiply (id 2): no luck" in digest


def test_metrics_without_calls_are_not_zero_tokens(runner, ask):
    """A worker of which no call was recorded says so."""
    runner.run(str.upper, "shout")
    assert "No LLM calls were recorded" in ask(runner, "read_worker_metrics", job_id=1)


def test_metrics_file_is_given_as_it_is(runner, worker, ask):
    """The events can be read whole and unadorned, one JSON line each."""
    text = ask(runner, "read_worker_file", job_id=worker.job_id, file_path="metrics.jsonl")
    assert text == (worker.dir / "metrics.jsonl").read_text()
    assert [json.loads(line)["event"] for line in text.splitlines()] == ["llm_call", "tool_call"]


def test_list(runner, worker, ask):
    """Workers are listed newest first, one on a line, with status, time and what they are about."""
    runner.run(int, "fail, please\nnow")
    second, first = ask(runner, "list_workers").splitlines()
    assert re.fullmatch(rf"job 1  success  \d+ms  {worker.worker_id}  calculate 7\*6", first)
    assert re.fullmatch(r"job 2  failed  \d+ms  \S+_fail-please-now  fail, please now error: ValueError: .*", second)


def test_list_limit_status_and_hours(runner, worker, ask):
    """The list can be cut short and narrowed to a status or to the last hours."""
    for task in ("1", "x", "2"):
        runner.run(int, task)
    *lines, more = ask(runner, "list_workers", limit=2).splitlines()
    assert [line[:5] for line in lines] == ["job 4", "job 3"]
    assert more == "[these are the newest 2, there are more; give a larger limit]"
    assert ask(runner, "list_workers", limit=-3).startswith("job 4 ")
    assert ask(runner, "list_workers", status="failed").startswith("job 3  failed")
    assert ask(runner, "list_workers", status="lost") == "No worker jobs found."
    assert ask(runner, "list_workers", since_hours=1, limit=10**9).count("job") == 4
    assert ask(runner, "list_workers", since_hours=-1) == "No worker jobs found."
    assert ask(runner, "list_workers", since_hours=float("inf")).count("job") == 4


def test_list_is_200_long_at_most(runner, ask):
    """A list that is cut says so, and how to see the others."""
    for task in range(201):
        runner.store.create(str(task))
    *lines, more = ask(runner, "list_workers", limit=1000).splitlines()
    assert len(lines) == 200
    assert more == "[these are the newest 200, there are more; narrow them down with status or since_hours]"


def test_list_of_nothing(runner, ask):
    """Where there are no workers, the tools say so."""
    assert ask(runner, "list_workers") == "No worker jobs found."
    assert ask(runner, "grep_workers", pattern="x") == "No worker job mentions 'x'."


def test_grep(runner, worker, ask):
    """A text is found in tasks, results and metrics, with its place."""
    found = ask(runner, "grep_workers", pattern="RESULT is")
    assert found == "job 1  result.txt:1: The result is 42."
    assert "metrics.jsonl:2: " in ask(runner, "grep_workers", pattern="no luck")
    assert "task: calculate 7*6" in ask(runner, "grep_workers", pattern="7*6", since_hours=1)
    assert ask(runner, "grep_workers", pattern="7*6", since_hours=-1) == "No worker job mentions '7*6'."


def test_grep_says_that_there_is_more(runner, ask):
    """More matches than are shown are not kept secret."""
    runner.run(lambda _task: "needle\n" * 51, "hide")
    *matches, more = ask(runner, "grep_workers", pattern="needle").splitlines()
    assert len(matches) == 50
    assert more == "[these are the newest 50, there are more; look for a longer text]"
    runner.run(lambda _task: "pin\n" * 50, "hide")
    assert len(ask(runner, "grep_workers", pattern="pin").splitlines()) == 50


def test_grep_with_a_regular_expression(runner, worker, ask):
    """With regex, the pattern is a regular expression; one that is none is answered with a sentence."""
    assert ask(runner, "grep_workers", pattern=r"is \d+\.$", regex=True) == "job 1  result.txt:1: The result is 42."
    assert ask(runner, "grep_workers", pattern="(a+", regex=True) == (
        "Error: '(a+' is no regular expression: missing ) at position 3; correct it, or look for it as plain text."
    )
    assert ask(runner, "grep_workers", pattern="(?R)", regex=True).startswith("Error: '(?R)' is refused: ")


def test_grep_that_takes_too_long(runner, ask, monkeypatch):
    """A search that is stopped gives what it has found, and says how to narrow it down."""
    runner.run(lambda _task: "a" * 60_000 + "b", "hide")
    runner.run(str.upper, "aa")
    quick = functools.partial(runner.store.search, within_s=0.3)
    monkeypatch.setattr(runner.store, "search", quick)
    match, more, stopped = ask(runner, "grep_workers", pattern="(a|aa)+$", regex=True).splitlines()
    assert (match, more) == ("job 2  metadata.json:6: task: aa", "job 2  result.txt:1: AA")
    assert stopped.startswith("[the search took too long and stopped here")
    assert "since_hours" in stopped


# A worker that has not ended well


def test_running_worker(runner, ask):
    """A worker that still runs says since when, with its time so far, and when it was last heard of."""
    with runner.worker("wait") as worker:
        worker.collector.record_tool_call(tool_name="look", start_ts=0, end_ts=1)
        text = ask(runner, "read_worker_result", job_id=worker.job_id)
        shown = json.loads(ask(runner, "get_worker_metadata", job_id=worker.job_id))
        digest = ask(runner, "read_worker_metrics", job_id=worker.job_id)  # has the calls of these tools, too
        line = ask(runner, "list_workers")
    assert re.fullmatch(
        rf"Result from worker job 1 \(worker {worker.worker_id}\):\n\nExecution time: \d+ms[^\n]*\n\n"
        rf"This worker is still running, since {worker.metadata.started_at}\. "
        r"Its last sign of life was \d+ms[^\n]* ago\.\n\nThere is no result yet; read it again later\.",
        text,
    )
    assert shown["status"] == "running"
    assert re.match(r"\d+ms", shown["execution_time"])
    assert "running\nExecution time so far: " in digest
    assert "- 1000ms look (id 1)" in digest
    assert line.startswith("job 1  running  ")


def test_failed_worker(runner, ask):
    """A worker that failed says when and why, and that there is no result."""
    worker = runner.run(int, "x")
    time, standing, result = ask(runner, "read_worker_result", job_id=1).split("\n\n")[1:]
    assert time == f"Execution time: {worker.execution_time}"
    assert standing == (
        f"This worker failed at {worker.metadata.finished_at}: ValueError: invalid literal for int() with base 10: 'x'"
    )
    assert result == "This worker set no result."
    assert ask(runner, "list_workers").startswith("job 1  failed  ")


def test_failed_worker_with_a_result(runner, ask):
    """What a worker found before it failed is given as well."""
    worker = runner.worker("try").open()
    worker.result = "half of it"
    worker.close(KeyError())
    assert ask(runner, "read_worker_result", job_id=1).endswith(": KeyError\n\nhalf of it")


def test_cancelled_worker(runner, ask):
    """A worker that was cancelled says when and why."""
    with pytest.raises(KeyboardInterrupt), runner.worker("try"):
        raise KeyboardInterrupt
    text = ask(runner, "read_worker_result", job_id=1)
    assert re.search(r"\n\nExecution time: \d+ms\n\nThis worker was cancelled at \S+Z: KeyboardInterrupt\n\n", text)


def test_worker_without_a_result(runner, ask):
    """A worker that ended well without an answer says that, and one whose answer is empty says that."""
    runner.run(lambda _task: None, "be silent")
    runner.run(lambda _task: "", "say nothing")
    assert ask(runner, "read_worker_result", job_id=1).endswith("ms\n\nThis worker set no result.")
    assert ask(runner, "read_worker_result", job_id=2).endswith("ms\n\nThe result of this worker is an empty text.")


def test_queued_worker(runner, ask):
    """A worker that waits for its turn says since when, and that there is no result yet."""
    worker = runner.worker("later")
    worker.create()
    text = ask(runner, "read_worker_result", job_id=1)
    assert text.split("\n\n")[1:] == [
        "Execution time: 0ms",
        f"This worker has waited for its turn since {worker.metadata.created_at}.",
        "There is no result yet; read it again later.",
    ]
    assert ask(runner, "list_workers", status="created").startswith("job 1  created  0ms  ")
    worker.cancel()


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """Return a runner whose one worker was killed with SIGKILL in the middle of its work."""
    root = tmp_path_factory.mktemp("lost")
    script = """
    import sys
    from langchain_swarmlet_metrics.runner import WorkerRunner

    worker = WorkerRunner(sys.argv[1]).worker("never ends").open()
    worker.collector.record_tool_call(tool_name="dig", start_ts=0, end_ts=1)
    wait_for_the_others()
    """
    with running(script, root) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait(timeout=10)
    return WorkerRunner(root)


def test_lost_worker(lost, ask):
    """A worker whose process was killed is lost, with its time up to the last sign of life and the events it left."""
    text = ask(lost, "read_worker_result", job_id=1)
    assert re.search(
        r"\n\nExecution time: \d+ms[^\n]*\n\nThis worker is lost: its process ended without a word\. "
        r"Its last sign of life was \d+ms[^\n]* ago\.\n\nThis worker set no result\.$",
        text,
    )
    first = json.loads(ask(lost, "get_worker_metadata", job_id=1))
    again = json.loads(ask(lost, "get_worker_metadata", job_id=1))
    assert first["status"] == "lost"
    assert first["duration_ms"] == again["duration_ms"]
    assert "1 tool call" in ask(lost, "read_worker_metrics", job_id=1)
    assert ask(lost, "list_workers", status="lost").startswith("job 1  lost  ")
    assert ask(lost, "list_workers", status="running") == "No worker jobs found."
    assert ask(lost, "cancel_worker", job_id=1) == "Worker job 1 has already ended: lost."


# Bad input

BAD_JOB_IDS = [
    *("abc", "-1", -1, 0, "0", "", "   ", "1.5", "+1", "1e3", "٣", "1; DROP TABLE jobs", "../1", "\0", "\ud800", "#1"),
    *(10**30, "9" * 5000),
]


@pytest.mark.parametrize("name", ON_ONE_JOB)
def test_bad_job_id(runner, worker, ask, name):
    """What is no job number is answered with a sentence that says so and how to find the right one."""
    arguments = {"file_path": "metrics.jsonl"} if name == "read_worker_file" else {}
    sentence = re.compile(rf"Error: .{{2,70}} is no job id; job ids are whole numbers from 1 on\. {re.escape(FIND)}")
    answers = {job_id: ask(runner, name, job_id=job_id, **arguments) for job_id in BAD_JOB_IDS}
    assert {job_id: answer for job_id, answer in answers.items() if not sentence.fullmatch(answer)} == {}


@pytest.mark.parametrize("name", ON_ONE_JOB)
def test_unknown_job_id(runner, worker, ask, name):
    """An unknown number is answered with a sentence that says how to find the right one."""
    arguments = {"file_path": "metrics.jsonl"} if name == "read_worker_file" else {}
    for job_id in (99, "99", 10**17):
        assert ask(runner, name, job_id=job_id, **arguments) == f"Error: worker job {job_id} not found. {FIND}"


@pytest.mark.parametrize("job_id", [[3], None, {"id": 3}, 3.5, [], [[1]]], ids=repr)
def test_job_id_of_another_kind(runner, worker, ask, job_id):
    """A job id that is neither number nor text is answered with a sentence."""
    answer = ask(runner, "read_worker_result", job_id=job_id)
    assert re.fullmatch(
        r"Error: the arguments do not fit \(job_id.*\)\. Call the tool again with them corrected\.", answer
    )


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("read_worker_result", {}, "job_id: Field required"),
        ("read_worker_file", {"job_id": 1}, "file_path: Field required"),
        ("read_worker_file", {"job_id": 1, "file_path": None}, "file_path: "),
        ("read_worker_file", {"job_id": 1, "file_path": "metrics.jsonl", "offset": "first"}, "offset: "),
        ("list_workers", {"limit": "many"}, "limit: "),
        ("list_workers", {"since_hours": [1]}, "since_hours: "),
        ("grep_workers", {"pattern": 7}, "pattern: "),
        ("spawn_worker", {"task": None}, "task: "),
        ("spawn_worker", {"task": "x", "wait": "perhaps"}, "wait: "),
    ],
)
def test_arguments_that_do_not_fit(runner, worker, ask, name, arguments, named):
    """Arguments that fail validation are answered with a sentence that names them."""
    answer = ask(runner, name, **arguments)
    assert answer.startswith(f"Error: the arguments do not fit ({named}")
    assert len(list(runner.store.root.glob("*_*"))) == 1


def test_validation_answer_reaches_the_agent(runner):
    """Called as an agent calls it, a mistake is an ordinary tool message."""
    (tool,) = runner.supervisor_tools(include=["read_worker_result"])
    message = tool.invoke({"type": "tool_call", "id": "c1", "name": tool.name, "args": {"job_id": None}})
    assert isinstance(message, ToolMessage)
    assert message.content.startswith("Error: the arguments do not fit")


def test_unknown_status(runner, worker, ask):
    """A status that does not exist is answered with those that do."""
    for status in ("done", "", "SUCCESS", "x" * 1000):
        answer = ask(runner, "list_workers", status=status)
        assert answer.endswith(" is no status; use one of created, running, success, failed, cancelled, lost.")


def test_no_number_of_hours(runner, worker, ask):
    """Hours that are no number are answered with a sentence."""
    assert ask(runner, "list_workers", since_hours=float("nan")).startswith("Error: ")
    assert ask(runner, "grep_workers", pattern="x", since_hours=float("nan")).startswith("Error: ")


@pytest.mark.parametrize("pattern", ["", " ", "\n\t"])
def test_empty_pattern(runner, worker, ask, pattern):
    """An empty pattern would match everything and is refused."""
    assert ask(runner, "grep_workers", pattern=pattern) == "Error: the pattern is empty; give a text to look for."


def test_pattern_is_plain_text(runner, worker, ask):
    """What a regular expression would be looks only for itself."""
    assert ask(runner, "grep_workers", pattern="(a+)+$") == "No worker job mentions '(a+)+$'."


# Files that are not for the supervisor

SECRET = "the secret of another folder"


@pytest.fixture
def trapped(worker, tmp_path):
    """Put things into a worker's folder that lead elsewhere or are no plain text."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.txt").write_text(SECRET)
    (worker.dir / "link.txt").symlink_to(elsewhere / "secret.txt")
    (worker.dir / "link").symlink_to(elsewhere)
    (worker.dir / "hard.txt").hardlink_to(elsewhere / "secret.txt")
    (worker.dir / "folder").mkdir()
    os.mkfifo(worker.dir / "pipe")
    (worker.dir / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (worker.dir / "latin.txt").write_bytes("schön".encode("latin-1"))
    return worker


@pytest.mark.parametrize(
    ("file_path", "reason"),
    [
        ("../elsewhere/secret.txt", "it leaves the worker's folder"),
        ("folder/../../elsewhere/secret.txt", "it leaves the worker's folder"),
        ("..", "it leaves the worker's folder"),
        ("/etc/passwd", "it is not relative to the worker's folder"),
        ("{elsewhere}/secret.txt", "it is not relative to the worker's folder"),
        ("metrics.jsonl\0.txt", "it contains a character that no file name has"),
        ("\0", "it contains a character that no file name has"),
        ("\ud800", "it contains a character that no file name has"),
        ("", "it is empty"),
        ("  ", "it is empty"),
        (".", "it is the folder itself"),
        ("x" * 300, "it is too long"),
        ("x/" * 3000, "it is too long"),
        ("link.txt", "it is a symbolic link"),
        ("link/secret.txt", "it is a symbolic link"),
        ("hard.txt", "it has another hard link"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a plain file"),
        ("metrics.jsonl/x", "it is not a folder"),
        ("picture.png", "is not a text file and can't be shown"),
        ("latin.txt", "is not a text file and can't be shown"),
    ],
    ids=lambda value: value[:20],
)
def test_files_that_are_refused(runner, trapped, tmp_path, ask, file_path, reason):
    """A name that leaves the folder, or names no plain text file in it, is answered with a sentence that says why."""
    file_path = file_path.format(elsewhere=tmp_path / "elsewhere")
    for part in ({}, {"offset": 0}, {"limit": 1}):
        answer = ask(runner, "read_worker_file", job_id=1, file_path=file_path, **part)
        assert answer.startswith("Error: ")
        assert reason in answer
        assert SECRET not in answer
        assert "\n" not in answer


def test_pipe_with_a_writer_is_not_read(runner, trapped, ask):
    """A FIFO is not opened even when somebody holds its other end: reading would take what is not ours."""
    end = os.open(trapped.dir / "pipe", os.O_RDWR)
    try:
        os.write(end, b"for somebody else")
        answer = ask(runner, "read_worker_file", job_id=1, file_path="pipe")
        assert answer == "Error: 'pipe' is refused: it is not a plain file."
        assert os.read(end, 100) == b"for somebody else"
    finally:
        os.close(end)


def test_missing_file_lists_what_is_there(runner, worker, ask):
    """A file that is missing is answered with those that exist."""
    assert ask(runner, "read_worker_file", job_id=1, file_path="thread.jsonl") == (
        f"Error: there is no file 'thread.jsonl' in the folder of worker {worker.worker_id}; "
        "it has 'metadata.json', 'metrics.jsonl', 'result.txt'."
    )


def test_result_that_is_a_link_is_refused(runner, worker, tmp_path, ask):
    """A result.txt that was replaced by a link is not followed."""
    (tmp_path / "secret.txt").write_text(SECRET)
    (worker.dir / "result.txt").unlink()
    (worker.dir / "result.txt").symlink_to(tmp_path / "secret.txt")
    answer = ask(runner, "read_worker_result", job_id=1)
    assert answer == "Error: 'result.txt' is refused: it is a symbolic link."
    assert ask(runner, "grep_workers", pattern=SECRET) == f"No worker job mentions {SECRET!r}."


# Long files


def test_up_to_64_kb_a_file_comes_whole(runner, worker, ask):
    """A file of 64 kB is given whole and unadorned; one more byte and it comes by lines, saying how to go on."""
    content = b"x" * 99 + b"\n"
    name = file_of(worker, "log.txt", content * 640)
    assert ask(runner, "read_worker_file", job_id=1, file_path=name) == content.decode() * 640
    file_of(worker, "log.txt", content * 640 + b"y")
    text = ask(runner, "read_worker_file", job_id=1, file_path=name)
    assert text == content.decode() * 200 + "[lines 0 to 199 of 'log.txt'; read on with offset=200]"


def test_empty_file(runner, worker, ask):
    """An empty file is said to be empty, as some models refuse an empty answer, and has no line 0."""
    name = file_of(worker, "empty.txt", b"")
    assert ask(runner, "read_worker_file", job_id=1, file_path=name) == "['empty.txt' is empty]"
    assert ask(runner, "read_worker_file", job_id=1, file_path=name, offset=0) == (
        "['empty.txt' has no line 0; lines are counted from 0]"
    )


def test_reading_by_lines(runner, worker, ask):
    """Offset and limit choose lines as they are, blank ones included, and the answer says how to go on."""
    name = file_of(worker, "sub/log.txt", b"0\n\n2\r\n  3\n4")

    def read(**part):
        return ask(runner, "read_worker_file", job_id=1, file_path=name, **part)

    assert read(offset=0, limit=2) == "0\n\n[lines 0 to 1 of 'sub/log.txt'; read on with offset=2]"
    assert read(offset=2, limit=2) == "2\r\n  3\n[lines 2 to 3 of 'sub/log.txt'; read on with offset=4]"
    assert read(offset=4, limit=2) == "4\n[lines 4 to 4 of 'sub/log.txt'; end of file]"
    assert read(offset=3) == "  3\n4\n[lines 3 to 4 of 'sub/log.txt'; end of file]"
    assert read(limit=5).endswith("end of file]")
    assert read(offset=5) == "['sub/log.txt' has no line 5; lines are counted from 0]"
    assert read(offset=10**30).startswith("['sub/log.txt' has no line 1000000")
    assert read(offset=-7, limit=-1) == read(offset=0, limit=0) == read(offset=0)


def test_a_part_is_at_most_64_kb(runner, worker, ask):
    """However many lines are asked for, an answer stays as small as a whole file may be."""
    name = file_of(worker, "log.txt", (b"x" * 999 + b"\n") * 1000)
    text = ask(runner, "read_worker_file", job_id=1, file_path=name, limit=10**9)
    assert text.endswith("\n[lines 0 to 63 of 'log.txt'; read on with offset=64]")
    assert len(text) < 65_000


def read_on(ask, runner, name):
    """Read a file part by part, as its answers say, and return the parts."""
    parts, offset = [], 0
    while offset is not None:
        answer = ask(runner, "read_worker_file", job_id=1, file_path=name, offset=offset)
        part, _, note = answer.rpartition("\n[")
        parts.append(part)
        more = re.search(r"offset=(\d+)\]$", note)
        offset = int(more[1]) if more else None
    return parts


@pytest.mark.parametrize("character", ["x", "é", "€", "𝄞"])
def test_a_long_line_comes_in_parts(runner, worker, ask, character):
    """A line longer than 64 kB is cut between characters; its parts together are the line."""
    line = "ab" + character * (300_000 // len(character.encode()))
    name = file_of(worker, "line.json", line.encode())
    parts = read_on(ask, runner, name)
    assert "".join(parts) == line
    assert all(63_900 < len(part.encode()) <= 64_000 for part in parts[:-1])


def test_a_single_line_of_10_mb(runner, worker, ask):
    """A single line of 10 MB neither fails nor floods the model."""
    name = file_of(worker, "line.json", b"x" * 10_000_000)
    text = ask(runner, "read_worker_file", job_id=1, file_path=name)
    assert text == "x" * 64_000 + "\n[lines 0 to 0 of 'line.json'; read on with offset=1]"
    last = ask(runner, "read_worker_file", job_id=1, file_path=name, offset=156)
    assert last == "x" * 16_000 + "\n[lines 156 to 156 of 'line.json'; end of file]"


def test_damaged_metrics_are_counted(runner, worker, ask):
    """Lines of metrics.jsonl that are no events are said to be left out."""
    with (worker.dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "llm_c')
    assert "1 line of metrics.jsonl could not be read: not counted" in ask(runner, "read_worker_metrics", job_id=1)


# Whose jobs they are


@pytest.mark.parametrize("name", ON_ONE_JOB)
def test_a_foreign_job_answers_as_a_missing_one(tmp_path, ask, name):
    """A tool's answer does not tell another owner's job from one that does not exist."""
    ann, bob = (WorkerRunner(tmp_path / "workers", owner_id=owner) for owner in ("ann", "bob"))
    ann.run(str.upper, "of ann")
    arguments = {"file_path": "result.txt"} if name == "read_worker_file" else {}
    foreign, missing = (ask(bob, name, job_id=job_id, **arguments) for job_id in (1, 2))
    assert foreign == missing.replace("2", "1") == f"Error: worker job 1 not found. {FIND}"
    assert "not found" not in ask(ann, name, job_id=1, **arguments)


@pytest.mark.parametrize("name", ON_ONE_JOB)
def test_a_foreign_job_is_missing_by_the_same_steps(tmp_path, ask, name):
    """Nothing that a tool opens tells another owner's job from one that does not exist, as time could."""
    ann, bob = (WorkerRunner(tmp_path / "workers", owner_id=owner) for owner in ("ann", "bob"))
    worker = ann.run(str.upper, "of ann")
    arguments = {"file_path": "result.txt"} if name == "read_worker_file" else {}

    def opened(runner, job_id):
        with watching() as seen:
            ask(runner, name, job_id=job_id, **arguments)
        return [entry for entry in seen if str(tmp_path) in entry[1] or "/" not in entry[1]]

    opened(bob, 99)  # what is imported late has been now
    foreign, missing, own = opened(bob, 1), opened(bob, 99), opened(ann, 1)
    assert foreign == missing != []
    assert not any(worker.worker_id in path for _, path, _ in foreign)
    assert any(worker.worker_id in path for _, path, _ in own)


@pytest.mark.parametrize(("name", "arguments"), [("list_workers", {}), ("grep_workers", {"pattern": "shout"})])
def test_nothing_of_foreign_workers_is_opened(tmp_path, ask, name, arguments):
    """Lists and searches open files of the owner's workers only."""
    ann, bob = (WorkerRunner(tmp_path / "workers", owner_id=owner) for owner in ("ann", "bob"))
    theirs, ours = ann.run(str.upper, "shout too"), bob.run(str.upper, "shout")
    with watching() as seen:
        answer = ask(bob, name, **arguments)
    assert "job 2 " in answer
    assert any(ours.worker_id in path for _, path, _ in seen)
    assert not any(theirs.worker_id in path for _, path, _ in seen)


def test_an_index_that_lies_shows_nothing_foreign(tmp_path, ask):
    """A row of the index that names the wrong owner does not show another owner's job."""
    ann, bob = (WorkerRunner(tmp_path / "workers", owner_id=owner) for owner in ("ann", "bob"))
    ann.run(str.upper, "of ann")
    with closing(sqlite3.connect(ann.store.root / "index.sqlite3")) as index, index:
        index.execute("UPDATE jobs SET owner_id = 'bob'")
    assert ask(bob, "read_worker_result", job_id=1) == f"Error: worker job 1 not found. {FIND}"
    assert ask(bob, "list_workers") == "No worker jobs found."


def test_lists_and_searches_show_own_jobs(tmp_path, ask):
    """Lists and searches show the owner's jobs only; without an owner all of them."""
    runners = [WorkerRunner(tmp_path / "workers", owner_id=owner) for owner in ("ann", "bob", None)]
    for owned in runners:
        owned.run(str.upper, f"shout as {owned.owner_id}")
    for owned, jobs in zip(runners, [["job 1"], ["job 2"], ["job 3", "job 2", "job 1"]], strict=True):
        assert [line[:5] for line in ask(owned, "list_workers").splitlines()] == jobs
        assert sorted({line[:5] for line in ask(owned, "grep_workers", pattern="shout").splitlines()}) == sorted(jobs)


def test_owner_is_asked_at_each_call(tmp_path, ask):
    """A callable decides at each call whose jobs are made and seen; its answer is taken as text."""
    owners = {"now": 7}
    runner = WorkerRunner(tmp_path / "workers", owner_id=lambda: owners["now"])
    assert runner.run(str.upper, "of 7").metadata.owner_id == "7"
    assert "OF 7" in ask(runner, "read_worker_result", job_id=1)
    owners["now"] = "8"
    assert ask(runner, "read_worker_result", job_id=1) == f"Error: worker job 1 not found. {FIND}"
    assert "OF 8" in ask(runner, "spawn_worker", task="of 8")
    owners["now"] = None
    assert ask(runner, "list_workers").startswith("Error: whose worker jobs these are is not known")


@pytest.mark.parametrize("name", [*READING, "spawn_worker", "cancel_worker"])
def test_owner_that_cannot_be_told(tmp_path, ask, name):
    """When the callable that tells the owner fails, nothing is shown or made, and the sentence says why."""

    def nobody():
        msg = "no request is being served"
        raise RuntimeError(msg)

    WorkerRunner(tmp_path / "workers").run(str.upper, "x")
    runner = WorkerRunner(tmp_path / "workers", owner_id=nobody)
    arguments = {"job_id": 1, "file_path": "result.txt", "pattern": "x", "task": "x"}
    answer = ask(runner, name, **arguments)
    assert answer == ("Error: whose worker jobs these are could not be told: RuntimeError: no request is being served.")
    assert len(list(runner.store.root.glob("*_*"))) == 1


# When the files are not there or not free


def test_locked_registry(runner, worker, ask, monkeypatch):
    """An index that another process keeps locked is answered with a sentence, and workers run without a number."""
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(registry, "_LOCK_S", 0.05)
    descriptor = os.open(runner.store.root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        answers = [
            ask(runner, "read_worker_result", job_id=1),
            ask(runner, "list_workers"),
            ask(runner, "grep_workers", pattern="x"),
        ]
        unnumbered = ask(runner, "spawn_worker", task="x", wait=False)
    finally:
        os.close(descriptor)
    assert all(
        re.fullmatch(r"Error: \S+ has been locked by another process for 0.05 s; try again\.", a) for a in answers
    )
    assert unnumbered.startswith("Result from a worker without a job number (worker ")
    assert unnumbered.endswith("\n\nX")


def test_vanished_folder(runner, worker, ask):
    """A worker whose folder is gone is a job that is not found."""
    shutil.rmtree(worker.dir)
    for name in ON_ONE_JOB:
        arguments = {"file_path": "result.txt"} if name == "read_worker_file" else {}
        assert ask(runner, name, job_id=1, **arguments) == f"Error: worker job 1 not found. {FIND}"
    assert ask(runner, "list_workers") == "No worker jobs found."


def test_vanished_root(runner, worker, ask):
    """A root that is gone is answered with a sentence; workers run all the same."""
    shutil.rmtree(runner.store.root)
    unrecorded = ask(runner, "spawn_worker", task="x")
    assert "Metrics are unavailable: this worker's files cannot be written (" in unrecorded
    assert unrecorded.endswith("\n\nX")
    for name in [*READING, "cancel_worker"]:
        answer = ask(runner, name, job_id=1, file_path="result.txt", pattern="x", task="x")
        assert answer.startswith("Error: ")
        assert str(runner.store.root) in answer


def test_damaged_metadata(runner, worker, ask):
    """A worker whose metadata.json is damaged is a job that is not found, and the others are still listed."""
    runner.run(str.upper, "x")
    (worker.dir / "metadata.json").write_bytes(b"{")
    assert ask(runner, "read_worker_result", job_id=1) == f"Error: worker job 1 not found. {FIND}"
    assert ask(runner, "list_workers").startswith("job 2 ")


def test_damaged_registry_is_built_anew(runner, worker, ask):
    """An index that is no database is built anew from the folders."""
    (runner.store.root / "index.sqlite3").write_bytes(b"not a database" * 100)
    assert "The result is 42." in ask(runner, "read_worker_result", job_id=1)


# Whatever the arguments


@pytest.fixture(scope="module")
def any_tools(tmp_path_factory):
    """Return the tools of a runner with a worker, to be called with anything."""
    runner = WorkerRunner(tmp_path_factory.mktemp("any"))
    runner.run(str.upper, "shout")
    return {tool.name: tool for tool in runner.supervisor_tools(worker=str.upper)}


ODD_TEXT = st.text(st.characters(exclude_categories=()))
ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), ODD_TEXT, st.binary(), st.just(1), st.just("1")),
    *(st.lists(st.integers()), st.dictionaries(ODD_TEXT, st.integers()), st.sampled_from([10**100, "../x", object()])),
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ["job_id", "file_path", "offset", "limit", "status", "since_hours", "pattern", "task", "wait", "other"],
        ANYTHING,
    ),
)


@pytest.mark.parametrize("name", [*READING, "spawn_worker", "cancel_worker"])
@given(arguments=ARGUMENTS)
@settings(max_examples=40, deadline=None)
def test_a_tool_never_raises(any_tools, name, arguments):
    """Whatever the arguments, a tool answers with a text."""
    tool = any_tools[name]
    assert isinstance(tool.invoke(arguments), str)
    assert isinstance(asyncio.run(tool.ainvoke(arguments)), str)


def test_many_threads_at_once(runner, worker):
    """Tools can be called from many threads at the same time."""
    (tool,) = runner.supervisor_tools(include=["read_worker_result"])
    together, answers = threading.Barrier(8, timeout=10), []

    def call():
        together.wait()
        answers.append(tool.invoke({"job_id": 1}))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 8
    assert len(set(answers)) == 1
