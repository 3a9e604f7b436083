"""The conformance suite: what it says of our handler, of a bad one, and how it says it."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.testing import (
    SITUATIONS,
    Adapter,
    Finding,
    LLMRecord,
    Observed,
    Tokens,
    ToolRecord,
    check_conformance,
)
from langchain_swarmlet_metrics.testing.conformance import report
from langchain_swarmlet_metrics.testing.conformance.adapters import (
    SwarmletAdapter,
    UsageMetadataAdapter,
    observed_events,
)
from langchain_swarmlet_metrics.testing.conformance.contenders import CONTENDERS, Contender
from langchain_swarmlet_metrics.testing.conformance.runner import Column, run_contender
from langchain_swarmlet_metrics.testing.conformance.situations import Situation


def named(*names):
    """Return the situations of these names."""
    chosen = [situation for situation in SITUATIONS if situation.name in names]
    assert len(chosen) == len(names)
    return chosen


def described(findings, verdict):
    """Return the findings of one verdict in short, for comparisons and for messages of failed tests."""
    return [
        (found.situation, found.mode, found.check, found.recorded) for found in findings if found.verdict == verdict
    ]


def test_ours_is_right_everywhere():
    """Our handler is right in every situation, and nothing of it needs an excuse."""
    findings = check_conformance(SwarmletAdapter())
    assert described(findings, "wrong") == []
    assert described(findings, "unclear") == []
    played = {situation.name for situation in SITUATIONS if situation.modes}
    assert {found.situation for found in findings} == played


class HandlerAlone(Adapter):
    """Attach our handler without a worker block, to a collector that nobody closes."""

    name = "handler alone"

    @contextmanager
    def attach(self):
        """Begin with nothing recorded."""
        from langchain_swarmlet_metrics import inflight
        from langchain_swarmlet_metrics.collector import MetricsCollector

        self.events = []
        self.collector = MetricsCollector("alone", writer=self.events.append)
        yield
        self.left_open = len(inflight.calls)

    def handlers(self):
        """Return the handler."""
        return [MetricsCallbackHandler(self.collector)]

    def observed(self):
        """Return what was recorded."""
        return observed_events(self.events, self.left_open)


def test_handler_alone_is_right_everywhere():
    """Without a worker block, whose end would close what is open, the handler is right all the same."""
    findings = check_conformance(HandlerAlone())
    assert described(findings, "wrong") == []
    assert described(findings, "unclear") == []


class Naive(BaseCallbackHandler):
    """Record as many handlers do: every error is a failure, every choice has its usage, a cached answer costs again."""

    def __init__(self):
        self.open, self.llm_calls, self.tool_calls = {}, [], []

    def on_chat_model_start(self, serialized, messages, *, run_id, metadata=None, **kwargs):
        """Remember the call."""
        self.open[run_id] = (metadata or {}).get("ls_model_name")

    def on_llm_end(self, response, *, run_id, **kwargs):
        """Add up the usage of every choice."""
        usages = [generation.message.usage_metadata for generation in response.generations[0]]
        prompt = sum(usage["input_tokens"] for usage in usages if usage)
        completion = sum(usage["output_tokens"] for usage in usages if usage)
        tokens = Tokens(prompt=prompt, completion=completion)
        self.llm_calls.append(LLMRecord(model=self.open.pop(run_id), tokens=tokens))

    def on_llm_error(self, error, *, run_id, **kwargs):
        """Call it an error, whatever it is."""
        self.llm_calls.append(LLMRecord(model=self.open.pop(run_id), status="error", error=str(error)))

    def on_tool_start(self, serialized, input_str, *, run_id, **kwargs):
        """Remember the tool."""
        self.open[run_id] = serialized["name"]

    def on_tool_end(self, output, *, run_id, **kwargs):
        """Call it a success, whatever it returned."""
        self.tool_calls.append(ToolRecord(tool=self.open.pop(run_id)))

    def on_tool_error(self, error, *, run_id, **kwargs):
        """Call it an error, whatever it is."""
        self.tool_calls.append(ToolRecord(tool=self.open.pop(run_id), status="error", error=repr(error)))


class NaiveAdapter(Adapter):
    """Attach the naive handler."""

    name = "naive"

    @contextmanager
    def attach(self):
        """Begin with nothing recorded."""
        self.handler = Naive()
        yield

    def handlers(self):
        """Return the handler."""
        return [self.handler]

    def observed(self):
        """Return what was recorded."""
        handler = self.handler
        return Observed(
            llm_calls=tuple(handler.llm_calls), tool_calls=tuple(handler.tool_calls), left_open=len(handler.open)
        )


def test_naive_handler_is_found_out():
    """A handler with the usual mistakes is wrong in exactly the cells where it makes them."""
    situations = named(
        "plain call", "n=2", "cache hit", "ten cancelled calls", "stream closed early", "stream without usage",
        "interrupt and resume", "tool raises",
    )  # fmt: skip
    wrong = {(situation, check, recorded) for situation, _, check, recorded in described(
        check_conformance(NaiveAdapter(), situations), "wrong"
    )}  # fmt: skip
    assert wrong == {
        ("n=2", "tokens", "20 + 10 tokens"),
        ("cache hit", "tokens", "20 + 10 tokens"),
        ("ten cancelled calls", "LLM calls", "0 LLM calls"),
        ("ten cancelled calls", "left open", "10 left open"),
        ("stream closed early", "LLM calls", "1 LLM call (1 error)"),
        ("stream without usage", "tokens", "0 + 0 tokens"),
        ("interrupt and resume", "tool calls", "2 tool calls (1 error)"),
    }


def test_only_sums_are_compared_of_a_handler_that_keeps_sums():
    """A handler whose only job are token sums is judged by them, and by nothing where there are none."""
    situations = named("plain call", "cache hit", "ten cancelled calls", "unknown tool", "completion model")
    findings = check_conformance(UsageMetadataAdapter(), situations)
    assert {(found.situation, found.check) for found in findings if found.verdict == "wrong"} == {
        ("cache hit", "tokens")
    }
    assert {found.check for found in findings if found.verdict == "right"} == {"tokens"}
    assert {found.verdict for found in findings if found.situation == "ten cancelled calls"} == {"not its job"}
    assert {found.verdict for found in findings if found.situation == "completion model"} == {"not its job"}


def test_an_error_that_names_the_cancellation_is_no_clear_mistake():
    """Who has no word for a cancelled call and says error, but says why, is not called wrong."""

    class SaysWhy(Naive):
        def on_llm_error(self, error, *, run_id, **kwargs):
            """Call it an error, whatever it is."""
            self.llm_calls.append(LLMRecord(model=self.open.pop(run_id), status="error", error=repr(error)))

    class SaysWhyAdapter(NaiveAdapter):
        @contextmanager
        def attach(self):
            """Begin with nothing recorded."""
            self.handler = SaysWhy()
            yield

    findings = check_conformance(SaysWhyAdapter(), named("stream closed early"))
    assert described(findings, "wrong") == []
    assert {found.check for found in findings if found.verdict == "unclear"} == {"LLM calls"}
    assert all(found.note for found in findings if found.verdict == "unclear")


def test_disputed_situation_is_unclear():
    """Where there is a reason to differ, what differs is unclear and says the reason."""
    findings = check_conformance(NaiveAdapter(), named("unknown tool"))
    (situation,) = named("unknown tool")
    assert [(found.verdict, found.note) for found in findings if found.check == "tool calls"] == [
        ("unclear", situation.disputed)
    ] * 2


def test_run_that_hangs_ends_the_checks():
    """A handler that hangs is a finding, and no later situation is played beside its thread."""
    let_go = threading.Event()

    async def hang(stage):
        let_go.wait(10)

    hanging = Situation(name="hanging", sentence="It hangs.", script=hang, modes=("sync",))
    findings = check_conformance(NaiveAdapter(), [hanging, *named("plain call")], limit_s=0.1)
    let_go.set()
    assert [(found.situation, found.check, found.verdict) for found in findings] == [("hanging", "the run", "wrong")]


def test_run_that_breaks_is_a_finding():
    """A handler that breaks the run is told so."""

    class BreakingAdapter(NaiveAdapter):
        def handlers(self):
            """Return the handler."""
            msg = "no handler today"
            raise ValueError(msg)

    findings = check_conformance(BreakingAdapter(), named("ten cancelled calls"))
    assert described(findings, "wrong") == [
        ("ten cancelled calls", "async", "the run", "the run itself broke: ValueError: no handler today")
    ]


def test_situations_are_named_once_and_say_what_happens():
    """Every situation has a name of its own and a sentence, and there are as many as promised."""
    assert len(SITUATIONS) >= 24
    assert len({situation.name for situation in SITUATIONS}) == len(SITUATIONS)
    assert all(situation.sentence.endswith(".") for situation in SITUATIONS)


def finding(situation, mode, verdict, recorded="", note=None):
    """Make a finding about LLM calls."""
    return Finding(
        situation=situation, mode=mode, check="LLM calls", verdict=verdict, recorded=recorded,
        expected="1 LLM call", note=note,
    )  # fmt: skip


def test_report():
    """The table says what each handler recorded, in one cell where both modes agree, with notes by number."""
    plain, hits, tool = named("plain call", "cache hit", "unknown tool")
    right = [finding(one.name, mode, "right") for one in (plain, hits, tool) for mode in ("sync", "async")]
    other = [
        finding("plain call", "sync", "right"),
        finding("plain call", "async", "wrong", "0 LLM calls"),
        finding("cache hit", "sync", "not its job"),
        finding("cache hit", "async", "not its job"),
        finding("unknown tool", "sync", "unclear", "0 tool calls", "There is none."),
        finding("unknown tool", "async", "unclear", "0 tool calls", "There is none."),
    ]
    text = report.render(
        [Column(CONTENDERS[0], right, []), Column(CONTENDERS[1], other, ["example.org"])],
        [plain, hits, tool],
        [CONTENDERS[2]],
    )
    assert "| plain call | 1 LLM call | right | sync: right<br>async: **0 LLM calls** |" in text
    assert "| cache hit | 1 LLM call | right | not its job |" in text
    assert "| unknown tool | 1 LLM call | right | unclear: 0 tool calls (1) |" in text
    assert "1. There is none." in text
    assert "| **3 situations** | | 3 right | 1 wrong, 1 unclear, 1 not its job |" in text
    assert f"{CONTENDERS[1].distribution} {CONTENDERS[1].version}" in text
    assert "Not installed when this was written: Langfuse." in text
    assert "Attempts to reach the network: UsageMetadataCallbackHandler (example.org)." in text
    assert all(f"- **{one.name}**: {one.sentence}" in text for one in (plain, hits, tool))


def test_sections_of_the_page_do_not_disturb_each_other(tmp_path):
    """Writing a section anew leaves the other one and what people wrote around them as they are."""
    page = tmp_path / "page.md"
    report.write_section(page, "one", "first")
    report.write_section(page, "two", "second")
    page.write_text(page.read_text() + "\nBy hand.\n")
    report.write_section(page, "one", "first again")
    text = page.read_text()
    assert "first again" in text
    assert "first\n" not in text
    assert text.index("first again") < text.index("second") < text.index("By hand.")


def test_documented_example():
    """The handler and adapter of the page work as they stand there."""
    example = report.render([], [], []).split("```python\n")[1].partition("```")[0]
    namespace = {}
    exec(example, namespace)
    findings = check_conformance(namespace["MyAdapter"](), named("plain call", "cache hit", "completion model"))
    assert {(found.situation, found.check) for found in findings if found.verdict == "wrong"} == {
        ("cache hit", "tokens")
    }


def test_page_knows_every_situation():
    """The page in the docs was written with the situations that there are."""
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert [one.name for one in SITUATIONS if f"- **{one.name}**: {one.sentence}" not in page] == []
    assert "## Recorded conversations" in page


class ReachingOut(UsageMetadataAdapter):
    """Try to reach somebody, as telemetry would."""

    def __init__(self):
        import socket

        super().__init__()
        with pytest.raises(PermissionError):
            socket.create_connection(("telemetry.example", 443), timeout=1)


def test_process_of_its_own_stays_offline():
    """Each handler runs in a process of its own, and whoever tries to leave the machine is stopped and named."""
    contender = Contender(
        name="reaching out", adapter=f"{__name__}:ReachingOut", distribution="none", attached="", job=""
    )
    column = run_contender(contender, ["plain call"])
    assert column.refused == ["telemetry.example"]
    assert {found.verdict for found in column.findings} == {"right", "not its job"}


def test_process_that_finds_nothing_out_says_why():
    """A handler that can't be made is an error with what its process said."""
    contender = Contender(name="none", adapter="no.such.module:Adapter", distribution="none", attached="", job="")
    with pytest.raises(RuntimeError, match=r"(?s)no\.such\.module:Adapter.*ModuleNotFoundError"):
        run_contender(contender, ["plain call"])


def test_doubles_load_no_langchain():
    """Importing the loopback server does not import LangChain."""
    program = (
        "import sys, langchain_swarmlet_metrics.testing as testing; testing.OpenAIServer; "
        "print([name for name in sys.modules if name.startswith(('langchain_core', 'langgraph'))])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


# Recorded conversations


def cassette(stream_usage):
    """Return a small cassette: a plain call, a streamed one, a refused one, a download and an embedding."""
    usage = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
    details = {"input_tokens_details": {"cached_tokens": 8}, "output_tokens_details": {"reasoning_tokens": 3}}
    plain = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }  # fmt: skip
    response = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "status": "completed",
        "output": [], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "error": None,
        "incomplete_details": None, "usage": {**usage, **details} if stream_usage else None,
    }  # fmt: skip
    events = [{"type": "response.completed", "sequence_number": 0, "response": response}]
    streamed = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    exchanges = [
        ("POST", {"model": "gpt-5-mini", "messages": []}, 200, json.dumps(plain)),
        ("POST", {"model": "gpt-5-mini", "input": [], "stream": True}, 200, streamed),
        ("POST", {"model": "gpt-5-mini", "messages": []}, 401, json.dumps({"error": {"message": "no"}})),
        ("GET", None, 200, "a picture"),
        ("POST", {"model": "text-embedding-3-small", "input": "x", "encoding_format": "base64"}, 200, "{}"),
    ]
    return {
        "requests": [{"method": method, "body": asked and json.dumps(asked)} for method, asked, _, _ in exchanges],
        "responses": [{"status": {"code": code}, "body": {"string": text}} for _, _, code, text in exchanges],
    }


def distribution(path, cassettes):
    """Write a source distribution with these cassettes; JSON is YAML."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in cassettes.items():
            data = gzip.compress(json.dumps(content).encode())
            info = tarfile.TarInfo(f"pkg-1/tests/cassettes/{name}.yaml.gz")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_recorded_conversations(tmp_path, capsys):
    """Recorded answers are replayed in both modes, the rest is counted with the reason, and the page says it."""
    pytest.importorskip("yaml", reason="needs the extra conformance")
    from langchain_swarmlet_metrics.testing.conformance import recorded

    sdist = distribution(tmp_path / "pkg-1.tar.gz", {"test_a": cassette(True), "test_b": cassette(False)})
    page = tmp_path / "page.md"
    assert recorded.main(["--sdist", str(sdist), "--out", str(page)]) == 0
    text = page.read_text()
    assert capsys.readouterr().out.strip() in text
    assert "| chat completions | 2 |" in text
    assert "| Responses API, streamed | 2 |" in text
    assert "| chat completions, refused with 401 | 2 |" in text
    assert "2 conversations, 6 calls, 3 of them with a usage, of 47 tokens in all" in text
    assert "**0 recorded otherwise than in the body.**" in text
    assert "| GET: a file or a setting that was fetched | 2 |" in text
    assert "| embeddings, which LangChain has no callbacks for | 2 |" in text


def test_recorded_difference_is_found(tmp_path, monkeypatch, capsys):
    """A token count that differs from the body is named, and the exit code says so."""
    pytest.importorskip("yaml", reason="needs the extra conformance")
    from langchain_swarmlet_metrics.testing.conformance import cassettes, recorded

    truth = cassettes._tokens
    monkeypatch.setattr(cassettes, "_tokens", lambda usage: {name: count + 1 for name, count in truth(usage).items()})
    sdist = distribution(tmp_path / "pkg-1.tar.gz", {"test_a": cassette(True)})
    assert recorded.main(["--sdist", str(sdist)]) == 1
    said = capsys.readouterr().out
    assert "test_a, sync, call 1: {'prompt_tokens': 9" in said
    assert "instead of {'prompt_tokens': 10" in said
    assert "**4 recorded otherwise than in the body.**" in said
