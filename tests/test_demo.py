"""The demonstration: what it shows is what happened, whatever happens."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from langchain_swarmlet_metrics import cli, report
from langchain_swarmlet_metrics.demo import cost, run, tools
from langchain_swarmlet_metrics.demo import model as stand_in
from langchain_swarmlet_metrics.events import ToolCall
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.loglines import parse_line
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.store import ArtifactStore
from langchain_swarmlet_metrics.testing import OpenAIServer, Reply, Request
from tests.conftest import read_lines

PROJECT = Path(__file__).parent.parent


def workers_of(root):
    """Return what each metadata.json says, by job number."""
    found = [json.loads(path.read_bytes()) for path in root.glob("*/metadata.json")]
    return {metadata["job_id"]: metadata for metadata in found}


def slowest_of(root):
    """Return the metadata of the worker that took longest."""
    return max(workers_of(root).values(), key=lambda metadata: metadata["duration_ms"])


def section(output, title):
    """Return the part of the output under a title."""
    (found,) = re.findall(
        rf"^=== {title}[^\n]* ===\n\n(.*?)(?=\n\n===|\n\nMetrics cost|\Z)", output, re.MULTILINE | re.DOTALL
    )
    return found


# What it shows


def test_three_workers_one_failed(demo_run):
    """A supervisor has three workers; the one that divides by zero is visible as failed."""
    workers = workers_of(demo_run.root)
    assert set(workers) == {1, 2, 3}
    assert sorted(metadata["status"] for metadata in workers.values()) == ["failed", "success", "success"]
    (failed,) = [metadata for metadata in workers.values() if metadata["status"] == "failed"]
    assert failed["error"] == "ZeroDivisionError: division by zero"
    assert re.search(rf"^job {failed['job_id']}  failed  .* error: ZeroDivisionError", demo_run.output, re.MULTILINE)


def test_its_tools_really_did_something(demo_run):
    """The workers read the disk, fetched the page and tried to calculate, once each."""
    events = [event for path in demo_run.root.glob("*/metrics.jsonl") for event in read_lines(path)]
    calls = sorted((event.tool, event.success) for event in events if isinstance(event, ToolCall))
    assert calls == [("calculate", False), ("disk_usage", True), ("fetch_page", True)]
    results = "".join(path.read_text() for path in demo_run.root.glob("*/result.txt"))
    assert "all services answer; this one took 120 ms" in results
    assert re.search(r"/: \d+% used, [\d.]+ GB free of [\d.]+ GB", results)


def test_tier_1(demo_run):
    """What the supervisor saw is the tier 1 text of every worker."""
    shown = section(demo_run.output, "Tier 1")
    store = ArtifactStore(demo_run.root)
    for job_id in (1, 2, 3):
        assert report.result_text(store, store.read(job_id)) in shown
    assert shown.count("Execution time: ") == 3


def test_tier_2(demo_run):
    """The digest of every worker is shown, with the paths of the events."""
    shown = section(demo_run.output, "Tier 2")
    store = ArtifactStore(demo_run.root)
    for job_id in (1, 2, 3):
        metadata = store.read(job_id)
        assert report.digest_text(store, metadata) in shown
        assert str(store.root / metadata.worker_id / "metrics.jsonl") in shown


def test_tier_3(demo_run):
    """The log has a line for every event of every worker, and it is shown."""
    shown = section(demo_run.output, "Tier 3").splitlines()
    lines = demo_run.log.read_text().splitlines()
    assert shown[: len(lines)] == lines
    for worker in workers_of(demo_run.root).values():
        events = read_lines(demo_run.root / worker["worker_id"] / "metrics.jsonl")
        logged = [parse_line(line) for line in lines if f"worker_id={worker['worker_id']} " in line]
        assert [(fields["id"], int(fields["duration_ms"])) for fields in logged] == [
            (str(event.id), event.duration_ms) for event in events
        ]
    assert shown[-1] == f"tail -f {demo_run.log} | grep llm_call_complete"


def test_it_says_what_the_model_is(demo_run):
    """The output says plainly that no language model was asked, and how to ask one."""
    assert demo_run.output.startswith("Model: no language model. A small rule-based stand-in at http://127.0.0.1:")
    assert "`swarmlet-metrics demo --live` uses the real API and the same code." in demo_run.output


def test_answer_names_the_slowest(demo_run):
    """The supervisor's answer names the slowest worker and its milliseconds as they are in metadata.json."""
    slowest = slowest_of(demo_run.root)
    answer = section(demo_run.output, "The supervisor's answer")
    assert f"job {slowest['job_id']} (worker {slowest['worker_id']}) with {slowest['duration_ms']} ms" in answer
    assert re.search(r"Job \d failed: ZeroDivisionError: division by zero", answer)


def test_cost(demo_run):
    """The share of the run that metrics cost is told, with its parts."""
    found = re.search(
        r"^Metrics cost ([\d.]+)% of the run: callbacks ([\d.]+) ms, worker folders ([\d.]+) ms, of (\d+) ms of CPU\.$",
        demo_run.output,
        re.MULTILINE,
    )
    share, callbacks, folders, whole = map(float, found.groups())
    assert callbacks > 0
    assert folders > 0
    assert share == pytest.approx(100 * (callbacks + folders) / whole, abs=0.5)


def test_folders_stay(demo_run, capsys):
    """What it left can be listed and shown, as its last lines say."""
    *_, listing, showing = demo_run.output.splitlines()
    assert cli.main(shlex.split(listing)[1:]) == 0
    assert capsys.readouterr().out.count("job ") == 3
    assert cli.main(shlex.split(showing)[1:]) == 0
    assert capsys.readouterr().out.startswith("Result from worker job 1 ")
    assert {path.name for path in demo_run.root.iterdir() if path.is_file()} == {"index.sqlite3", "demo.log"}


# That nothing is canned


class Observed(NamedTuple):
    """Keep a run of the demonstration: its root, its output, and the requests that its model got."""

    root: Path
    output: str
    requests: list[Request]

    @property
    def tool_messages(self):
        """The tool messages that the supervisor had when it answered."""
        supervisors = [request for request in self.requests if "spawn_worker" in request.tools]
        return [str(message["content"]) for message in supervisors[-1].messages if message["role"] == "tool"]

    @property
    def answer(self):
        """What the supervisor answered."""
        return section(self.output, "The supervisor's answer")


@pytest.fixture
def observe(tmp_path, monkeypatch):
    """Return a function that runs the demonstration and keeps what was said."""

    def observed(**changes):
        requests, answer = [], stand_in.reply

        def reply(request):
            requests.append(request)
            return answer(request)

        with monkeypatch.context() as patch:
            patch.setattr(stand_in, "reply", reply)
            for name, value in changes.items():
                patch.setattr(run, name, value)
            out = io.StringIO()
            assert run.main(tmp_path / "demo", live=False, out=out) == 0
        return Observed(tmp_path / "demo", out.getvalue(), requests)

    return observed


def test_supervisor_read_its_workers_numbers(observe):
    """The supervisor's tool messages hold every worker's execution time and digest; the answer comes from them."""
    seen = observe()
    texts = "\n".join(seen.tool_messages)
    for job_id, metadata in workers_of(seen.root).items():
        assert f"job {job_id} (worker {metadata['worker_id']}):\n\nExecution time: {metadata['duration_ms']}ms" in texts
        assert f"Worker {metadata['worker_id']} (job {job_id}): {metadata['status']}\nError: " in texts or (
            f"Worker {metadata['worker_id']} (job {job_id}): {metadata['status']}\nExecution time: " in texts
        )
    assert texts.count("LLM calls by phase:") == 3
    assert '{"event":"llm_call","phase":"initial","model":"gpt-5-mini",' in texts
    assert str(slowest_of(seen.root)["duration_ms"]) in seen.answer


def test_answer_follows_the_page(observe):
    """With a page that takes its time, fetching it is the slowest, by as much as the page said."""
    seen = observe(_PAGE_DELAY_S=0.5)
    slowest = slowest_of(seen.root)
    assert slowest["task"].startswith("Fetch ")
    assert slowest["duration_ms"] >= 500
    assert f"with {slowest['duration_ms']} ms; it called fetch_page." in seen.answer
    assert "this one took 500 ms" in section(seen.output, "Tier 1")


def test_answer_follows_the_disk(observe, monkeypatch):
    """With a disk that takes its time, looking at it is the slowest."""
    usage = tools.shutil.disk_usage

    def slow_usage(path):
        time.sleep(0.5)
        return usage(path)

    monkeypatch.setattr(tools.shutil, "disk_usage", slow_usage)
    seen = observe(_PAGE_DELAY_S=0)
    slowest = slowest_of(seen.root)
    assert slowest["task"].startswith("How full ")
    assert f"with {slowest['duration_ms']} ms; it called disk_usage." in seen.answer


def test_answer_follows_the_tasks(observe):
    """With other tasks in another order, other workers run, and nothing has failed."""
    seen = observe(_REQUEST="Please:\n- Calculate 6*7\n- Fetch {url} now")
    workers = workers_of(seen.root)
    assert {metadata["task"].split()[0] for metadata in workers.values()} == {"Calculate", "Fetch"}
    assert {metadata["status"] for metadata in workers.values()} == {"success"}
    assert seen.answer.startswith("2 workers have ended.")
    assert "failed" not in seen.answer
    assert "The answer is: 42" in section(seen.output, "Tier 1")


def test_second_run_in_the_same_root(observe):
    """A second run shows its own workers and log lines, not those of the first."""
    first, second = observe(), observe()
    assert set(workers_of(second.root)) == {1, 2, 3, 4, 5, 6}
    assert re.findall(r"^job (\d)  ", section(second.output, "The workers"), re.MULTILINE) == ["4", "5", "6"]
    assert second.output.endswith(" show 4\n")
    log = (second.root / "demo.log").read_text()
    shown = [section(seen.output, "Tier 3").split("\n\ntail")[0] for seen in (first, second)]
    assert "\n".join(shown) + "\n" == log


@pytest.mark.parametrize(("first", "second", "slowest"), [(5, 90_000, "9"), (90_000, 5, "7")])
def test_stand_in_reads_the_messages(first, second, slowest):
    """What the stand-in says of the workers is what the tool messages say, with a reading aid or without."""

    def result(job_id, milliseconds, aid, said):
        return f"Result from worker job {job_id} (worker w{job_id}):\n\nExecution time: {milliseconds}ms{aid}\n\n{said}"

    texts = [
        result("7", first, "", "x"),
        result("9", second, " (1m 30s)", "This worker failed at T: KeyError: k\n\nThis worker set no result."),
    ]
    calls = [
        {"id": f"c{n}", "function": {"name": name}} for n, name in enumerate(["spawn_worker", "read_worker_result"])
    ]
    messages = [{"role": "user", "content": "- one\n- two"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    for text in texts:
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": text} for call in calls]
    body = {"messages": messages, "tools": [{"type": "function", "function": {"name": "spawn_worker"}}]}
    asked = stand_in.reply(Request(number=1, path="/v1/chat/completions", headers={}, body=body))
    assert [(call.name, call.args["job_id"]) for call in asked.tool_calls] == [("read_worker_file", slowest)]
    file_call = {"id": "c9", "function": {"name": "read_worker_file"}}
    messages.append({"role": "assistant", "content": "", "tool_calls": [file_call]})
    messages.append({"role": "tool", "tool_call_id": "c9", "content": '{"event":"tool_call","tool":"dig"}'})
    answer = stand_in.reply(Request(number=2, path="/v1/chat/completions", headers={}, body=body)).text
    assert f"The slowest was job {slowest} (worker w{slowest}) with 90000 ms; it called dig." in answer
    assert "Job 9 failed: KeyError: k" in answer


# Around it


def test_nothing_is_written_outside_the_root(tmp_path):
    """The command leaves nothing but its root; the lines that it prints to be copied work."""
    places = {name: tmp_path / name for name in ("home", "temporary", "here")}
    for place in places.values():
        place.mkdir()
    root = tmp_path / "a root"
    environment = {
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "langchain_swarmlet_metrics.cli", "--root", str(root)]
    options = {"cwd": places["here"], "env": environment, "capture_output": True, "text": True, "timeout": 60}
    ran = subprocess.run([*command, "demo"], check=False, **options)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [list(place.rglob("*")) for place in places.values()] == [[], [], []]
    assert set(tmp_path.iterdir()) == {*places.values(), root}
    *_, listing, showing = ran.stdout.splitlines()
    assert listing == f"  swarmlet-metrics --root '{root}' list"
    for line in (listing, showing):
        looked = subprocess.run([*command[:3], *shlex.split(line)[1:]], check=False, **options)
        assert (looked.returncode, looked.stderr) == (0, "")


def test_output_goes_where_standard_output_is_now(tmp_path, capsys):
    """Without a stream of its own the output goes to what is standard output when it runs."""
    assert run.main(tmp_path / "demo", live=False) == 0
    assert "=== Tier 1" in capsys.readouterr().out


def test_live_uses_the_same_code(tmp_path, monkeypatch, capsys):
    """With a key, the model is what OpenAI's own variables say, here a server on this machine."""
    with OpenAIServer(stand_in.reply) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert cli.main(["--root", str(tmp_path / "demo"), "demo", "--live"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Model: gpt-5-mini of the real OpenAI API.")
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-none"}
    assert f"with {slowest_of(tmp_path / 'demo')['duration_ms']} ms" in section(out, "The supervisor's answer")
    files = [path for path in (tmp_path / "demo").rglob("*") if path.is_file()]
    assert not any(b"sk-none" in path.read_bytes() for path in files)


def test_live_with_a_wrong_key(tmp_path, monkeypatch, capsys):
    """A key that is refused is one line on standard error, not a traceback."""
    with OpenAIServer(lambda _: Reply(status=401, text="Incorrect API key provided")) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert cli.main(["--root", str(tmp_path / "demo"), "demo", "--live"]) == 1
    errors = capsys.readouterr().err
    assert re.fullmatch(r"swarmlet-metrics: the model did not answer: \w*AuthenticationError: .*provided\n", errors)


# What the cost is made of


def test_stopwatch(tmp_path):
    """It times callbacks and folder work in all threads, and leaves the methods as they were."""
    before = vars(MetricsCallbackHandler)["on_llm_end"], vars(ArtifactStore)["create"]
    with cost.Stopwatch() as stopwatch:
        assert vars(ArtifactStore)["create"] is not before[1]
        runner = WorkerRunner(tmp_path / "workers")
        thread = threading.Thread(target=runner.run, args=(str.upper, "shout"))
        thread.start()
        thread.join(20)
    assert (vars(MetricsCallbackHandler)["on_llm_end"], vars(ArtifactStore)["create"]) == before
    assert stopwatch.spent_ns["worker folders"] > 0
    assert stopwatch.spent_ns["callbacks"] == 0
    assert stopwatch.total_ns > 0


def test_stopwatch_around_a_failure(tmp_path):
    """What is timed still raises, and the methods are put back when the block raises."""
    before = vars(ArtifactStore)["create"]
    with pytest.raises(FileNotFoundError), cost.Stopwatch():
        ArtifactStore(tmp_path / "workers").writer("missing")
    assert vars(ArtifactStore)["create"] is before


# What its workers can do


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7*6", "42"),
        ("1 + 2 * 3 - 4 / 5", "6.2"),
        ("-(2-5)*1.5", "4.5"),
        ("0.1+0.2", "0.3"),
        ("123456789*1000", "123456789000"),
        ("((((1))))", "1"),
        ("1e6/3", "333333.333333"),
    ],
)
def test_calculate(expression, value):
    """Sums are calculated, whole numbers exactly."""
    assert tools.calculate.invoke({"expression": expression}) == value


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "__import__('os').system('true')",
            "open('/etc/passwd').read()",
            "().__class__",
            "(lambda: 1)()",
            "x",
            "x := 1",
        ),
        *("9**9**9", "1 << 99", "1 // 2", "7 % 2", "1 if 1 else 2", "[1]*99999", "'a'*3", "True", "None", "1j", "~1"),
        *("f'{1}'", "1 < 2", "1 and 2", "", " ", "1 +", "((", "1;2", "import os", "\0", "1" * 199, "1e400", "10**13"),
        *("9999999999999", "1" + "+1" * 200, "(" * 90 + ")" * 90),
    ],
    ids=lambda expression: repr(expression)[:20],
)
def test_hostile_expressions(expression):
    """Whatever is no short sum of numbers is refused, at once."""
    with pytest.raises((ValueError, SyntaxError)):
        tools.calculate.invoke({"expression": expression})


def test_division_by_zero():
    """A division by zero raises: that is what fails in the demonstration."""
    with pytest.raises(ZeroDivisionError):
        tools.calculate.invoke({"expression": "(7*6)/(3-3)"})


def test_products_are_bounded():
    """The largest product of what fits stays small, and deep expressions stay shallow."""
    product = tools.calculate.invoke({"expression": "*".join(["999999999999"] * 15)})
    assert len(product) == 180
    assert tools.calculate.invoke({"expression": "-" * 199 + "1"}) == "-1"


def test_disk_usage(tmp_path):
    """The disk's share, free and whole space are told; a path that does not exist is an error."""
    assert re.fullmatch(
        rf"{tmp_path}: \d+% used, [\d.]+ GB free of [\d.]+ GB", tools.disk_usage.invoke({"path": str(tmp_path)})
    )
    with pytest.raises(FileNotFoundError):
        tools.disk_usage.invoke({"path": str(tmp_path / "missing")})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system without a size")
def test_disk_without_a_size():
    """A file system that has no size is 0% used."""
    assert tools.disk_usage.invoke({"path": "/proc"}).startswith("/proc: 0% used")


def test_fetch_page():
    """A page of this machine is fetched, its query too."""
    with run._page_server() as url:
        answer = tools.fetch_page.invoke({"url": f"{url}?a=1"})
        assert answer == "HTTP 200: all services answer; this one took 120 ms"
        assert tools.fetch_page.invoke({"url": url.replace("127.0.0.1", "localhost")}) == answer


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "https://127.0.0.1/", "ftp://127.0.0.1/", "file:///etc/passwd", "/etc/passwd", ""),
        *("http://127.0.0.1@example.com/", "http://127.0.0.1.example.com/", "http://localhost.example.com/"),
        *("http://0.0.0.0/", "http://169.254.169.254/", "http://2130706433/", "http://[::1]/", "//127.0.0.1/"),
        *("http://127.0.0.1:99999/", "http://127.0.0.1:port/"),
    ],
)
def test_pages_elsewhere_are_refused(url):
    """Only http://127.0.0.1 and http://localhost are fetched; nothing else is even connected to."""
    with pytest.raises(ValueError, match=r"is not a page of this machine|[Pp]ort"):
        tools.fetch_page.invoke({"url": url})


def test_page_that_is_not_there():
    """A port on which nobody listens is the system's error."""
    with run._page_server() as url:
        pass
    with pytest.raises(ConnectionRefusedError):
        tools.fetch_page.invoke({"url": url})
