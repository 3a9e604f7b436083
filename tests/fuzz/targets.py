"""What is fuzzed: each target takes any bytes, and raises when something is wrong with how they are read."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from zlib import crc32

import msgspec

from langchain_swarmlet_metrics import cli, events, liveness, logs, metadata, parts, report, snapshot
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.imitation import quote_imitations
from langchain_swarmlet_metrics.loglines import KeyValueFormatter, parse_line
from langchain_swarmlet_metrics.logs import LogSink
from langchain_swarmlet_metrics.metadata import Metadata
from langchain_swarmlet_metrics.reader import WorkerNotFoundError
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.scrub import error_text, identifier, one_line
from langchain_swarmlet_metrics.search import OutOfTimeError, Query
from langchain_swarmlet_metrics.snapshot import Snapshot
from langchain_swarmlet_metrics.trace import trace_of
from tests.auditing import opened_outside, watching

CANARY = "canary: this is somebody else's"
TIME = re.compile(r"^Execution time: (\d+)ms", re.MULTILINE)
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LONGEST_ANSWER = 1_100_000
WITHIN_S = 0.3
SELDOM = 16  # of so many inputs one goes through the tools and the command line as well, which take longer
READING = ["read_worker_result", "get_worker_metadata", "read_worker_metrics", "read_worker_file", "list_workers"]

Target = Callable[[bytes], None]


class Bench(NamedTuple):
    """Hold the targets by name, and for each some inputs to begin with."""

    targets: dict[str, Target]
    seeds: dict[str, list[bytes]]


@contextmanager
def bench():
    """Make worker folders with this package, and fuzz them until the block is left."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for module in (report, liveness, parts):
            stack.enter_context(mock.patch.object(module, "_WITHIN_S", WITHIN_S))
        place = _Place(root)
        files = {
            name: _File(place, name).read for name in ("metadata.json", "metrics.jsonl", "inflight.json", "result.txt")
        }
        yield Bench(
            {**files, "tools": place.ask, "task": place.spawn, "pattern": look_for, "texts": show, "log line": log},
            _seeds(place),
        )


class _Place:
    """A root with workers of two owners, and a canary wherever nobody may look."""

    def __init__(self, root: Path) -> None:
        (root / "secret.txt").write_text(CANARY)
        self.root = root / "workers"
        WorkerRunner(self.root, owner_id="bob").run(lambda _task: CANARY, CANARY)
        self.runner = WorkerRunner(self.root, owner_id="ann")
        self.damaged = self._worker("calculate 7*6", "The result is 42.", None)
        self.failed = self._worker("fail", "half of it", ValueError("no luck"))
        self.damaged_files = {path.name: path.read_bytes() for path in self.damaged.iterdir()}
        for name, target in {"link": root / "secret.txt", "folder": root, "up": ".."}.items():
            (self.failed / name).symlink_to(target)
        (self.failed / "sub").mkdir()
        (self.failed / "sub" / "note.txt").write_text("a note\n" * 3)
        self.tools = {tool.name: tool for tool in self.runner.supervisor_tools()}
        self.spawner = WorkerRunner(root / "spawned")
        (self.spawning,) = self.spawner.supervisor_tools(worker=lambda text: text, include=["spawn_worker"])
        search = self.runner.store.search
        self.runner.store.search = lambda *args, **options: search(*args, **options | {"within_s": WITHIN_S})
        for name in (*READING, "grep_workers"):  # what is imported late has been now
            self.tools[name].invoke({"job_id": 3, "file_path": "result.txt", "pattern": "a"})

    def _worker(self, task, result, error):
        with suppress(ValueError), self.runner.worker(task, config={"team": "blue", "tries": 2}) as worker:
            worker.collector.record_llm_call(
                phase="initial",
                model="gpt-5-mini",
                start_ts=0,
                end_ts=0.25,
                prompt_tokens=10,
                completion_tokens=5,
                agent="a",
            )
            worker.collector.record_tool_call(tool_name="ssh exec", start_ts=1, end_ts=2, error="no route", parent_id=1)
            worker.result = result
            if error is not None:
                raise error
        return worker.dir

    def call(self, name, **arguments):
        """Call a tool, and see that its answer is a bounded text of the owner's own, and what it opened."""
        with watching() as seen:
            answer = self.tools[name].invoke(arguments)
        assert isinstance(answer, str)
        assert 0 < len(answer) <= LONGEST_ANSWER
        assert CANARY not in answer
        assert opened_outside(seen, self.root, [self.damaged, self.failed]) == []
        return answer

    def ask(self, data: bytes) -> None:
        """Call the tool that the first bytes choose with the text that the others are."""
        choice, flags, text = *(data + b"\0\0")[:2], data[2:].decode(errors="surrogateescape")
        name = sorted(self.tools)[choice % len(self.tools)]
        number = len(text) - 8 if flags & 8 else None
        arguments = {
            "job_id": text if flags & 1 else 3 if flags & 2 else 2,
            "file_path": text,
            "offset": number,
            "limit": number if flags & 16 else 20,
            "status": text if flags & 4 else None,
            "pattern": text,
            "regex": bool(flags & 32),
            "since_hours": float(flags) if flags & 64 else None,
        }
        answer = self.call(name, **arguments)
        if answer.startswith("Error: "):
            assert len(answer) < 1000
            assert len(answer.splitlines()) == 1

    def spawn(self, data: bytes) -> None:
        """Have a worker do a task that a model wrote; its answer is the task."""
        task = data.decode(errors="surrogateescape")
        answer = self.spawning.invoke({"task": task})
        assert len(TIME.findall(answer)) == 1
        (listed,) = self.spawner.store.list(limit=1)
        folder = self.spawner.store.root / listed.worker_id
        assert listed.status == "success"
        assert re.fullmatch(r"[0-9T-]{19}_[a-z0-9-]{1,40}", folder.name)
        assert (folder / "result.txt").read_bytes() == task.encode(errors="backslashreplace")
        shutil.rmtree(folder)


class _File:
    """A file in a worker's folder that somebody else has written."""

    def __init__(self, place: _Place, name: str) -> None:
        self._place = place
        self._name = name

    def read(self, data: bytes) -> None:
        """Put bytes into the file, and have everybody read it."""
        folder, place = self._place.damaged, self._place
        for name, content in place.damaged_files.items():
            (folder / name).write_bytes(content)
        (folder / "inflight.json").unlink(missing_ok=True)
        if self._name == "inflight.json":
            known = json.loads(place.damaged_files["metadata.json"])
            (folder / "metadata.json").write_text(json.dumps(known | {"status": "running", "process": None}))
            data = data.replace(b"WORKER", folder.name.encode())
        (folder / self._name).write_bytes(data)
        self._report()
        if crc32(data) % SELDOM == 0:
            for name in READING:
                place.call(name, job_id=2, file_path=self._name)
            place.call("grep_workers", pattern="e+", regex=True)
            self._show()
        if self._name == "metrics.jsonl":
            self._add_up(data)
        else:
            _check_decoder(self._name, data)

    def _report(self) -> None:
        store = self._place.runner.store
        with watching() as seen, suppress(WorkerNotFoundError):
            found = store.read_worker(self._place.damaged.name)
            answer = report.result_text(store, found)
            assert len(TIME.findall(answer)) == 1
            assert len(report.line_text(store, found).splitlines()) == 1
            for text in (answer, report.digest_text(store, found), report.metadata_text(store, found)):
                assert 0 < len(text) <= LONGEST_ANSWER
        assert opened_outside(seen, self._place.root, [self._place.damaged]) == []

    def _show(self) -> None:
        for command in (["list"], ["show", "2"]):
            with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as output, mock.patch("sys.stdout", output):
                with mock.patch("sys.stderr", output):
                    cli.main(["--root", str(self._place.root), *command])
                output.seek(0)
                assert not STEERING.search(output.read())

    def _add_up(self, data: bytes) -> None:
        store = self._place.runner.store
        reader = store.events(self._place.damaged.name)
        found = list(reader)
        assert len(found) + reader.skipped <= data.count(b"\n") + 1
        for event in found:
            assert events.decode(events.encode(event)) == event


def _check_decoder(name: str, data: bytes) -> None:
    """See that what is decoded can be encoded, and is the same when it is decoded again."""
    module = {"metadata.json": metadata, "inflight.json": snapshot}.get(name)
    decoded = None if module is None else module.decode(data)
    if decoded is not None:
        assert module.decode(module.encode(decoded)) == decoded


def look_for(data: bytes) -> None:
    """Look for a regular expression, and for the same as plain text."""
    flags, text = (data + b"\0")[0], data[1:].decode(errors="surrogateescape")
    pattern, _, line = text.partition("\n")
    for regex in (True, False):
        try:
            query = Query(pattern, regex=regex, within_s=WITHIN_S)
        except ValueError as error:
            assert len(str(error)) < 400  # noqa: PT017 - it need not be raised
            continue
        with suppress(OutOfTimeError):
            start = query.start_in(line * (1 + flags))
            assert start is None or 0 <= start <= len(line) * (1 + flags)


def show(data: bytes) -> None:
    """Put a text through whatever makes one safe to show."""
    text = data.decode(errors="surrogateescape")
    quoted = quote_imitations(text)
    for before, after in zip(text.splitlines(keepends=True), quoted.splitlines(keepends=True), strict=True):
        assert after in (before, f"> {before}")
    assert not TIME.search(quoted)
    for shown in (one_line(text), error_text(text), identifier(text), parts.quoted(text)):
        assert len(shown.splitlines()) <= 1
        assert len(shown) <= 500
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", shown)
        shown.encode()
    trace = trace_of(text)
    assert trace is None or re.fullmatch("[0-9a-f]{32}", trace.trace_id)
    with suppress(ValueError):
        events.require_timestamp(text)
        assert events.parse_timestamp(text).tzinfo is not None


def log(data: bytes) -> None:
    """Log calls of any names, and read any line."""
    texts = data.decode(errors="surrogateescape").split("\t")
    name, model, error, agent = (texts * 4)[:4]
    times = {"start_ts": "", "end_ts": "", "duration_ms": 1}
    for event in (
        ToolCall(tool=name, success=False, error=error, agent=agent, **times),
        LLMCall(phase=name, model=model, error=error, agent=agent, **times),
    ):
        line = KeyValueFormatter().format(_record(event, worker_id=name))
        assert line.isprintable()
        fields = msgspec.to_builtins(event) | {"worker_id": name}
        fields["event"] += "_complete"
        known = {key: str(value) for key, value in fields.items() if key not in ("start_ts", "end_ts")}
        assert parse_line(line) == known
    parse_line(data.decode(errors="surrogateescape"))


def _record(event, worker_id):
    """Return the record of an event, before any handler has seen it."""
    kept = []
    logger = mock.Mock(wraps=logs._logger, isEnabledFor=lambda level: True, handle=kept.append)
    with mock.patch.object(logs, "_logger", logger):
        LogSink(worker_id)(event)
    (record,) = kept
    return record


def _seeds(place: _Place) -> dict[str, list[bytes]]:
    files = place.damaged_files
    call = {"event": "tool_call", "tool": "dig", "start_ts": "2025-12-15T04:08:08.123456Z", "id": 3, "agent": "a"}
    taken = {
        "worker_id": "WORKER",
        "written_at": call["start_ts"],
        "metrics_bytes": 0,
        "calls": [call, call | {"id": 4}],
    }
    metrics = files["metrics.jsonl"]
    texts = [
        *(
            b"Execution time: 1ms\nThis worker failed",
            b"**Result from worker job** 1",
            b"00-" + b"4" * 32 + b"-" + b"5" * 16 + b"-01",
        ),
        *(
            b"2025-12-15T04:08:08.123456Z",
            b"password=hunter2 sk-abcdefghijklmnop1234",
            b"x duration_ms=1\tgpt\terror\tagent",
            b"\xff\xfe",
        ),
    ]
    arguments = [
        b"result.txt",
        b"sub/note.txt",
        b"../secret.txt",
        b"link",
        b"up/secret.txt",
        b"running",
        b"3",
        b"(a|b)+$",
    ]
    return {
        "metadata.json": [
            json.dumps(json.loads(files["metadata.json"]) | changes).encode()
            for changes in (
                {},
                {"status": "failed", "error": "ValueError: no luck", "summary": "It failed."},
                {
                    "status": "running",
                    "duration_ms": None,
                    "finished_at": None,
                    "process": {"host": "elsewhere", "pid": 7},
                },
                {"status": "created", "duration_ms": None, "started_at": None, "finished_at": None, "process": None},
                {"completeness": {"dropped_events": 2, "drop_reason": "metrics.jsonl: no space left"}, "job_id": 2},
            )
        ],
        "metrics.jsonl": [metrics, metrics * 3, metrics[:-20]],
        "inflight.json": [json.dumps(taken).encode()],
        "result.txt": [files["result.txt"], *texts],
        "tools": [bytes([tool, flags]) + text for tool in range(6) for flags in (0, 1, 36, 127) for text in arguments],
        "task": [b"calculate 7*6", *texts],
        "pattern": [
            b"\1(a|aa)+$\naaaaaaaaab",
            b"\0[a-z]{2,3}\\d\nab1",
            b"\x20^x*(?=y)(?P<n>.)\nxxyz",
            b"\0(?i:a)\\b\na",
        ],
        "texts": texts,
        "log line": [*texts, b'tool_call_complete tool=a\\x20b error="x\\"y"'],
    }


def words() -> list[bytes]:
    """Return words that the files have, for a fuzzer to put together."""
    keys = {key for kind in (LLMCall, ToolCall, Metadata, Snapshot) for key in kind.__struct_fields__}
    known = [
        "llm_call",
        "tool_call",
        "success",
        "running",
        "created",
        "failed",
        "null",
        "true",
        "../",
        "\\u0000",
        "\\ud800",
    ]
    odd = [
        "\\nExecution time: 1ms",
        "1e999",
        "-1",
        "9223372036854775808",
        "0001-01-01T00:00:00+23:59",
        "2025-12-15\n04:08",
        "[[[[",
        '{"a":',
        "\u2028",
    ]
    return [word.encode() for word in sorted({*keys, *known, *odd})]
