"""Content capture, end to end: real agents, models over HTTP, threads and tasks."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import threading
import weakref
from collections import Counter
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import HumanMessage, SystemMessage, trim_messages
from langchain_core.tools import tool
from langchain_openai import OpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_swarmlet_metrics import MetricsCallbackHandler, WorkerRunner, cli, transcript
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from tests import captured
from tests.captured import (
    CONVERSATION,
    add,
    adding,
    fail,
    fail_politely,
    header_of,
    said,
    section_of,
    thread,
    tool_texts,
    wait_for_ever,
)
from tests.conftest import read_lines

capturing = captured.capturing
gate = captured.gate


async def run_sync(agent, question):
    """Invoke in this thread."""
    return agent.invoke(question)


async def run_async(agent, question):
    """Invoke on the loop."""
    return await agent.ainvoke(question)


async def run_streamed(agent, question):
    """Stream tokens in this thread."""
    return list(agent.stream(question, stream_mode="messages"))


async def run_streamed_async(agent, question):
    """Stream tokens on the loop."""
    return [chunk async for chunk in agent.astream(question, stream_mode="messages")]


@pytest.mark.parametrize("use_responses_api", [False, True], ids=["chat", "responses"])
@pytest.mark.parametrize("run", [run_sync, run_async, run_streamed, run_streamed_async])
async def test_agent(capturing, loopback, run, use_responses_api):
    """Every message of an agent is there once, in order, with the event that sent or received it; so is each tool."""
    model = loopback.model(adding, use_responses_api=use_responses_api)
    agent = create_agent(model, [add], system_prompt="Be brief.", name="adder")
    async with capturing.worker("add") as worker:
        await run(agent, {"messages": [("user", "What is 1 + 2?")]})
    events = read_lines(worker.dir / "metrics.jsonl")
    lines = thread(worker)
    assert [(line.role, line.content) for line in lines] == CONVERSATION
    assert [line.event_id for line in lines] == [1, 1, 1, 3, 3, 5, 5]
    assert {line.conversation for line in lines} == {1}
    assert [[(call.name, call.args) for call in line.tool_calls or ()] for line in lines if line.role == "ai"] == [
        [("add", {"a": 0, "b": 2})],
        [("add", {"a": 1, "b": 2})],
        [],
    ]
    for asked, answered in ((2, 3), (4, 5)):
        assert lines[asked].tool_calls[0].id == lines[answered].tool_call_id
    by_id = {event.id: event for event in events}
    assert [line.ts for line in lines] == [
        by_id[line.event_id].end_ts if line.role == "ai" else by_id[line.event_id].start_ts for line in lines
    ]
    texts = tool_texts(worker)
    assert list(texts) == ["002_add.txt", "004_add.txt"]
    assert section_of(texts["002_add.txt"], "input") == '{\n  "a": 0,\n  "b": 2\n}'
    assert section_of(texts["004_add.txt"], "output") == "3"
    assert header_of(texts["004_add.txt"]) == {
        "tool": "add",
        "id": "4",
        "requested_by": "3",
        "start_ts": by_id[4].start_ts,
        "end_ts": by_id[4].end_ts,
        "duration_ms": str(by_id[4].duration_ms),
        "outcome": "success",
        "input_characters": "22",
        "output_characters": "1",
    }
    assert worker.completeness.dropped_content == 0


def test_nothing_by_default(runner, loopback):
    """Without being asked for, no content is written and no thread started for it."""
    agent = create_agent(loopback.model(adding), [add])
    worker = runner.run(agent, "add")
    assert worker.status == "success"
    assert worker.collector.capture is None
    assert {path.name for path in worker.dir.iterdir()} == {"metadata.json", "metrics.jsonl", "result.txt"}


def test_files_are_private(capturing, loopback):
    """Nobody but the user can read what is captured."""
    worker = capturing.run(create_agent(loopback.model(adding), [add]), "add")
    modes = {path.name: path.stat().st_mode & 0o777 for path in worker.dir.rglob("*")}
    assert modes["tool_calls"] == 0o700
    assert {modes["thread.jsonl"], modes["002_add.txt"], modes["004_add.txt"]} == {0o600}


def test_mode_of_files(tmp_path):
    """Whom the mode of files lets read may read what is captured."""
    with WorkerRunner(tmp_path / "workers", capture_content=True, file_mode=0o640).worker("add") as worker:
        add.invoke({"a": 1, "b": 2})
    modes = {path.name: path.stat().st_mode & 0o777 for path in worker.dir.rglob("*")}
    assert (modes["tool_calls"], modes["001_add.txt"]) == (0o750, 0o640)


def test_the_thread_ends_with_the_worker(capturing):
    """A worker that has ended keeps no thread for its content, even while somebody holds it."""
    with capturing.worker("add") as worker:
        add.invoke({"a": 1, "b": 2})
        relay = weakref.ref(worker.collector.capture._relay)
        assert relay() is not None
    assert relay() is None


# Kinds of models, prompts and answers


def test_completion_model(capturing, loopback):
    """The prompt text of a completion model and its answer are a conversation of two messages."""
    server = loopback.serve(Reply(text=" four"), Reply(text=" six"))
    model = OpenAI(model="gpt-3.5-turbo-instruct", api_key="loopback", base_url=server.url, max_retries=0)
    with capturing.worker("complete") as worker:
        model.invoke("two and two is")
        model.invoke("three and three is")
    assert said(worker) == [
        (1, "human", "two and two is"),
        (1, "ai", " four"),
        (2, "human", "three and three is"),
        (2, "ai", " six"),
    ]
    assert [line.conversation for line in thread(worker)] == [1, 1, 2, 2]


def test_completion_batch(capturing, loopback):
    """Each prompt of a batch that shares one request is a conversation of its own."""
    server = loopback.serve(Reply(text="x"))
    model = OpenAI(model="gpt-3.5-turbo-instruct", api_key="loopback", base_url=server.url, max_retries=0)
    with capturing.worker("complete") as worker:
        model.generate(["one", "two"])
    assert sorted((line.conversation, line.role) for line in thread(worker)) == [
        (1, "ai"), (1, "human"), (2, "ai"), (2, "human"),
    ]  # fmt: skip


def test_images_and_files(capturing, loopback):
    """Of what is binary in a message its type and its size are kept, of texts beside it everything."""
    picture = base64.b64encode(os.urandom(3000)).decode()
    blocks = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "image", "base64": picture, "mime_type": "image/jpeg"},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
    ]
    with capturing.worker("look") as worker:
        loopback.model(Reply(text="A cat.")).invoke([HumanMessage(blocks)])
    assert thread(worker)[0].content == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "<image/png, 3000 bytes>"}},
        {"type": "image_url", "image_url": {"url": "<image/jpeg, 3000 bytes>"}},  # LangChain hands it over like this
        {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
    ]
    assert picture[:100] not in (worker.dir / "thread.jsonl").read_text()


def test_several_choices(capturing, loopback):
    """All answers to one prompt are kept."""
    with capturing.worker("choose") as worker:
        loopback.model(Reply(text="yes"), n=2).generate([[HumanMessage("Well?")]])
    assert said(worker) == [(1, "human", "Well?"), (1, "ai", "yes"), (1, "ai", "yes")]


def test_messages_that_change_later(capturing, loopback, gate):
    """What is written is what was sent, whatever becomes of the messages."""
    picture = {"type": "image_url", "image_url": {"url": "https://a.example"}}
    message = HumanMessage([{"type": "text", "text": "before"}, picture])
    answers = [Reply(text="ok"), Reply(tool_calls=[ToolRequest("add", {"a": [1]})])]
    model = loopback.model(*answers)
    with capturing.worker("change") as worker:
        model.invoke("hold the writing up")
        answer = model.invoke([message])
        message.content[0]["text"] = "after"
        message.content.append({"type": "text", "text": "more"})
        picture["image_url"] = None
        answer.tool_calls[0]["args"]["a"].append(2)
        gate.set()
    lines = thread(worker)
    assert lines[2].content == [
        {"type": "text", "text": "before"},
        {"type": "image_url", "image_url": {"url": "https://a.example"}},
    ]
    assert lines[3].tool_calls[0].args == {"a": [1]}


# How calls end


def test_provider_error(capturing, loopback):
    """The prompt of a call that fails is kept, and is not repeated when the call is."""
    model = loopback.model(Reply(status=500, text="down"), Reply(status=500, text="down"), Reply(text="hello"))
    with capturing.worker("retry") as worker:
        model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False).invoke("hi")
    assert said(worker) == [(1, "human", "hi"), (3, "ai", "hello")]


def test_stream_closed_early(capturing, loopback):
    """Of a stream that is closed early what came is kept, and said to be a part."""
    with capturing.worker("stream") as worker:
        stream = loopback.model(Reply(text="a b c d e f"), stream_usage=True).stream("hello")
        while not next(stream).text:
            pass
        stream.close()
    prompt, answer = thread(worker)
    assert (prompt.role, prompt.content, prompt.partial) == ("human", "hello", None)
    assert (answer.role, answer.partial) == ("ai", True)
    assert "a b c d e f".startswith(answer.content)


async def test_cancelled_model(capturing, loopback):
    """The prompt of a call that is cancelled is kept."""
    hold = threading.Event()
    model = loopback.model(Reply(text="x", hold=hold))
    async with capturing.worker("cancel") as worker:
        task = asyncio.create_task(model.ainvoke("hello"))
        await asyncio.to_thread(loopback.server.wait_for_requests, 1)
        task.cancel()
        await asyncio.wait([task])
    hold.set()
    assert said(worker) == [(1, "human", "hello")]


def test_failing_tool(capturing):
    """What a tool raises is its output, whole, whether or not it is handled."""
    with capturing.worker("fail") as worker:
        with pytest.raises(ValueError, match="it failed"):
            fail.invoke({"reason": "the weather"})
        fail_politely.invoke(ToolCallOf("fail_politely", {}))
    first, second = tool_texts(worker).values()
    assert header_of(first)["outcome"] == header_of(second)["outcome"] == "error"
    assert section_of(first, "output") == "ValueError: it failed\nbecause of the weather"
    assert section_of(second, "output") == "no such table"


def ToolCallOf(name, args):  # noqa: N802 - stands for a type
    """Return what a model's answer holds of a tool call."""
    return {"type": "tool_call", "name": name, "args": args, "id": f"call_{name}"}


async def test_cancelled_tool(capturing):
    """A tool that is cancelled has its input, no output, and says so."""
    async with capturing.worker("cancel") as worker:
        task = asyncio.create_task(wait_for_ever.ainvoke({}))
        while not worker.collector.next_id() > 1:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    (text,) = tool_texts(worker).values()
    assert header_of(text)["outcome"] == "cancelled"
    assert "output_characters" not in header_of(text)
    assert "--- output ---" not in text


def test_quick_tool(capturing, loopback, gate, monkeypatch):
    """The file of a tool call that is over before anything of it is written is written once; any other one twice."""
    written = []
    replace_file = transcript.replace_file

    def noted(path, data, mode):
        written.append((path.name, b"outcome: open" in data))
        replace_file(path, data, mode)

    monkeypatch.setattr(transcript, "replace_file", noted)

    @tool
    def slow() -> str:
        """Return when all is written so far."""
        return str(worker.collector.capture._relay.drain(60))

    with capturing.worker("add") as worker:
        loopback.model(Reply(text="ok")).invoke("hi")  # what is written first, and waits
        add.invoke({"a": 1, "b": 2})
        gate.set()
        slow.invoke({})
    assert written == [("002_add.txt", False), ("003_slow.txt", True), ("003_slow.txt", False)]
    assert [header_of(text)["outcome"] for text in tool_texts(worker).values()] == ["success", "success"]


class Unreadable(dict):
    """What LangChain says of a run, of a kind that nobody can read."""

    def get(self, *_: object) -> object:
        """Fail."""
        raise RuntimeError


def test_call_that_cannot_be_read(capturing, caplog):
    """Of a call whose end cannot be read, the output counts as not captured."""
    with capturing.worker("odd") as worker:
        handler, run = MetricsCallbackHandler(worker.collector), uuid4()
        handler.on_tool_start({"name": "odd"}, "x", run_id=run, metadata=Unreadable({"a": 1}))
        handler.on_tool_end("y", run_id=run)
    assert (worker.completeness.dropped_events, worker.completeness.dropped_content) == (1, 1)
    assert "a call could not be read" in caplog.text


def test_unfinished_tool(capturing):
    """A tool that runs on when its worker ends is unfinished, and what it returns later is not written."""
    started, go_on = threading.Event(), threading.Event()

    @tool
    def linger() -> str:
        """Linger."""
        started.set()
        go_on.wait(60)
        return "too late"

    with capturing.worker("linger") as worker:
        config = {"callbacks": [MetricsCallbackHandler(worker.collector)]}
        running_tool = threading.Thread(target=linger.invoke, args=({}, config))
        running_tool.start()
        started.wait(60)
    (text,) = tool_texts(worker).values()
    go_on.set()
    running_tool.join()
    assert header_of(text)["outcome"] == "unfinished"
    assert tool_texts(worker) == {"001_linger.txt": text}


def test_tool_that_does_not_exist(capturing, loopback):
    """A tool that does not exist has a file: what it was asked, and how LangChain answered."""
    model = loopback.model(Reply(tool_calls=[ToolRequest("subtract", {"a": 1})]), Reply(text="Sorry."))
    worker = capturing.run(create_agent(model, [add]), "subtract")
    ((name, text),) = tool_texts(worker).items()
    assert re.fullmatch(r"\d{3}_subtract\.txt", name)
    assert header_of(text)["outcome"] == "unknown_tool"
    assert json.loads(section_of(text, "input")) == {"a": 1}
    assert "subtract is not a valid tool" in section_of(text, "output")


def test_interrupted_tool(capturing, loopback):
    """A tool that is interrupted and resumed has a file for each run of it; its messages are there once."""

    @tool
    def ask() -> str:
        """Ask somebody."""
        return interrupt("How many?")

    model = loopback.model(Reply(tool_calls=[ToolRequest("ask")]), Reply(text="7 then."))
    agent = create_agent(model, [ask], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with capturing.worker("ask") as worker:
        agent.invoke({"messages": [("user", "go")]}, config)
        agent.invoke(Command(resume="7"), config)
    first, second = tool_texts(worker).values()
    assert (header_of(first)["outcome"], header_of(second)["outcome"]) == ("interrupted", "success")
    assert section_of(second, "output") == "7"
    assert [role for _, role, _ in said(worker)] == ["human", "ai", "tool", "ai"]


# Several conversations, and histories that are cut


def test_parallel_sub_agents(capturing, loopback):
    """Agents that are asked the same at once, as tools, are told apart, and each says everything once."""

    def reply(request):
        if "outer" in str(request.messages[0]["content"]):
            is_answered = request.messages[-1]["role"] == "tool"
            return Reply(text="done") if is_answered else Reply(tool_calls=[ToolRequest("ask_inner")] * 3)
        return adding(request)

    inner = create_agent(loopback.model(reply), [add], system_prompt="inner")

    @tool
    def ask_inner() -> str:
        """Ask another agent."""
        return inner.invoke({"messages": [("user", "What is 1 + 2?")]})["messages"][-1].text

    outer = create_agent(loopback.model(reply), [ask_inner], system_prompt="outer")
    worker = capturing.run(outer, "ask three times")
    by_conversation: dict[int, list[tuple[str, object]]] = {}
    for line in thread(worker):
        by_conversation.setdefault(line.conversation, []).append((line.role, line.content))
    expected = [("system", "inner"), *CONVERSATION[1:]]
    assert sorted(map(len, by_conversation.values())) == [7, 7, 7, 7]
    outer_conversation, *inner_ones = sorted(by_conversation.values(), key=lambda messages: messages[0][1] == "inner")
    assert inner_ones == [expected] * 3
    assert Counter(role for role, _ in outer_conversation) == {"system": 1, "human": 1, "ai": 2, "tool": 3}
    assert len(tool_texts(worker)) == 9
    assert worker.completeness.dropped_content == 0


def test_batch_of_the_same_question(capturing, loopback):
    """A question that is asked several times at once is asked several times."""
    with capturing.worker("batch") as worker:
        loopback.model(*[Reply(text="hello")] * 4).batch(["hi"] * 4)
    assert Counter((line.conversation, line.role) for line in thread(worker)) == {
        (number, role): 1 for number in range(1, 5) for role in ("human", "ai")
    }


def test_chat_with_a_trimmed_history(capturing, loopback):
    """A loop that sends the latest messages only, and says the same thing again and again, says each once."""
    model = loopback.model(*[Reply(text="ok")] * 12)
    history = [SystemMessage("Be brief.")]
    with capturing.worker("chat") as worker:
        for _ in range(12):
            history.append(HumanMessage("go on"))
            latest = trim_messages(
                history, max_tokens=5, token_counter=len, strategy="last", start_on="human", include_system=True
            )
            history.append(model.invoke(latest))
    assert said(worker) == [
        (1, "system", "Be brief."),
        *((number, role, text) for number in range(1, 13) for role, text in (("human", "go on"), ("ai", "ok"))),
    ]


def test_summarized_history(capturing, loopback):
    """With LangChain's summarization every message of the agent and each summary is there once."""
    rounds = 8

    def reply(request):
        if "summar" in str(request.messages[-1]["content"]).lower() and "add" not in request.tools:
            return Reply(text="They added.")
        count = max((int(m["content"]) for m in request.messages if m["role"] == "tool"), default=0)
        return Reply(tool_calls=[ToolRequest("add", {"a": count, "b": 1})]) if count < rounds else Reply(text="Done.")

    model = loopback.model(reply)
    middleware = SummarizationMiddleware(model, trigger=("messages", 6), keep=("messages", 2))
    worker = capturing.run(create_agent(model, [add], middleware=[middleware]), "count to eight")
    assert worker.status == "success"
    events = {event.id: event for event in read_lines(worker.dir / "metrics.jsonl")}
    summaries = [event for event in events.values() if event.name != "add" and event.phase == "summary"]
    assert len(summaries) >= 2
    own = [line for line in thread(worker) if events[line.event_id].phase != "summary"]
    assert len({line.conversation for line in own}) == 1
    assert [line.content for line in own if line.role == "tool"] == [str(n) for n in range(1, rounds + 1)]
    assert len([line for line in own if line.role == "ai"]) == rounds + 1
    humans = [line.content for line in own if line.role == "human"]
    assert humans[0] == "count to eight"
    assert len(humans) == 1 + len(summaries)


def test_checkpointed_agent_is_asked_again(capturing, loopback):
    """An agent with a memory that is asked twice in a worker goes on with its conversation."""
    agent = create_agent(loopback.model(*[Reply(text="ok")] * 3), [], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with capturing.worker("ask") as worker:
        for _ in range(3):
            agent.invoke({"messages": [("user", "again")]}, config)
    assert said(worker) == [(n, role, text) for n in (1, 2, 3) for role, text in (("human", "again"), ("ai", "ok"))]


def test_nested_worker(capturing, loopback):
    """The calls inside an inner block are the inner worker's."""
    model = loopback.model(*[Reply(text="x")] * 3)
    with capturing.worker("outer") as outer:
        model.invoke("one")
        with capturing.worker("inner") as inner:
            model.invoke("two")
        model.invoke("three")
    assert [text for _, role, text in said(outer) if role == "human"] == ["one", "three"]
    assert [text for _, role, text in said(inner) if role == "human"] == ["two"]


def test_summarizer(tmp_path, loopback):
    """The call that sums a worker up is captured, too."""
    runner = WorkerRunner(
        tmp_path, capture_content=True, summarizer=loopback.model(Reply(text="ok"), Reply(text="It said ok."))
    )
    with runner.worker("say ok") as worker:
        worker.result = runner.summarizer.invoke("say ok").text
    assert [(event_id, role) for event_id, role, _ in said(worker)] == [
        (1, "human"),
        (1, "ai"),
        (2, "human"),
        (2, "ai"),
    ]


# How it is read


def test_reading(capturing, loopback, capsys):
    """The supervisor's tools, the store and the command line find and show what is captured."""
    worker = capturing.run(create_agent(loopback.model(adding), [add], system_prompt="Be brief."), "add")
    tools = {tool.name: tool for tool in capturing.supervisor_tools()}
    names = [entry.name for entry in capturing.store.files(worker.worker_id)]
    assert {"thread.jsonl", "tool_calls/002_add.txt", "tool_calls/004_add.txt"} <= set(names)
    read = tools["read_worker_file"].invoke({"job_id": 1, "file_path": "tool_calls/002_add.txt"})
    assert read == (worker.dir / "tool_calls" / "002_add.txt").read_text()
    found = tools["grep_workers"].invoke({"pattern": "be brief"})
    assert found.startswith("job 1  thread.jsonl:1: ")
    assert "tool_calls/004_add.txt:7: outcome: success" in tools["grep_workers"].invoke({"pattern": "outcome: s"})
    assert cli.main(["--root", str(capturing.store.root), "show", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        str(worker.dir / name) for name in ("metrics.jsonl", "thread.jsonl", "tool_calls")
    ]


def test_command_line_without_captured_content(runner, capsys):
    """Files that are not there are not named."""
    runner.run(lambda _task: "x", "say x")
    assert cli.main(["--root", str(runner.store.root), "show", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("metrics.jsonl")
