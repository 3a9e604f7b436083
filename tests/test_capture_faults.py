"""What captured content must not hold, and what may go wrong: folders that are gone, odd objects, dying processes."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import StructuredTool, tool

from langchain_swarmlet_metrics import WorkerRunner, add_secret_patterns, capture
from langchain_swarmlet_metrics.testing import Reply, ToolRequest
from tests import captured
from tests.captured import CONVERSATION, add, add_text, adding, fail, header_of, said, section_of, tool_texts
from tests.processes import output_of, running
from tests.test_blocking import guarded

capturing = captured.capturing
gate = captured.gate


# What must not be in the files


SECRETS = ["sk-" + "a1B2" * 8, "hunter2x", "Tr0ub4dor&3"]


def test_secrets(capturing, loopback):
    """No secret gets into the files: of texts, arguments, inputs, outputs, names and errors."""
    key, password, other = SECRETS

    @tool
    def log_in(user: str, password: str) -> dict:
        """Log in."""
        return {"token": other, "note": f"the key is {key}"}

    asked = ToolRequest("log_in", {"user": "me", "password": password})
    model = loopback.model(Reply(tool_calls=[asked]), Reply(text=f"Use {key}."))
    agent = create_agent(model, [log_in], system_prompt=f"password={password}")
    worker = capturing.run(agent, f"Log in with {key}")
    with capturing.worker("more") as more:
        log_in.invoke({"user": key, "password": password})
        with pytest.raises(ValueError, match="failed"):
            fail.invoke({"reason": f"password={password}"})
    written = "".join(
        path.read_text() + path.name
        for folder in (worker.dir, more.dir)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "result.txt"
    )
    assert not [secret for secret in SECRETS if secret in written]
    assert written.count("[redacted]") > 8
    assert worker.completeness.dropped_content == more.completeness.dropped_content == 0


def test_secret_patterns_of_the_user(capturing, loopback):
    """What the user calls a secret is one in captured content, too."""
    forget = add_secret_patterns(r"ACME-\d{6}")
    with capturing.worker("look") as worker:
        loopback.model(Reply(text="Not ACME-123456.")).invoke("ACME-654321?")
        add_text.invoke({"text": "ACME-111111"})
        assert worker.collector.capture._relay.drain(10)
    forget()
    assert [text for _, _, text in said(worker)] == ["[redacted]?", "Not [redacted]."]
    (text,) = tool_texts(worker).values()
    assert "ACME-" not in text


NAMES = {
    "../../x": "001_x.txt",
    "a\0b": "001_a_x00b.txt",
    "": "001_unknown.txt",
    "n" * 300: "001_" + "n" * 64 + ".txt",
    "Überprüfung": "001_Uberprufung.txt",
    "検索": "001_tool.txt",
    "CON": "001_CON.txt",
    ".hidden": "001_hidden.txt",
    "a/b\\c:d": "001_a_b_c_d.txt",
    "line\nbreak": "001_line_break.txt",
}


@pytest.mark.parametrize(("name", "file"), NAMES.items(), ids=range(len(NAMES)))
def test_hostile_tool_names(capturing, name, file):
    """Whatever a tool is called, its file is a plain one in its place."""
    odd = StructuredTool.from_function(lambda x: x, name="odd", description="odd", args_schema={"type": "object"})
    odd.name = name
    with capturing.worker("call") as worker:
        odd.invoke({"x": "1"})
    assert list(tool_texts(worker)) == [file]
    assert len(header_of(tool_texts(worker)[file])) == 8
    assert worker.completeness.dropped_content == 0
    assert {path.name for path in capturing.store.root.iterdir() if path.is_dir()} == {worker.worker_id}


# What may go wrong


def test_deleted_folder(capturing, loopback, caplog):
    """Where the folder is gone nothing can be written: it is counted, one warning says so, the agent goes on."""
    agent = create_agent(loopback.model(adding), [add])
    with capturing.worker("add") as worker:
        shutil.rmtree(worker.dir)
        answer = agent.invoke({"messages": [("user", "What is 1 + 2?")]})
    assert answer["messages"][-1].text == "The result is 3."
    assert worker.completeness.dropped_content == 10
    assert not worker.dir.exists()
    (warning,) = [record.getMessage() for record in caplog.records if "captured" in record.getMessage()]
    assert "10 prompts, answers or texts of tools" in warning
    assert "No such file" in warning


def test_worker_without_a_folder(capturing, loopback, tmp_path):
    """A worker that can be given no folder runs all the same; nothing is captured, in nobody else's folder either."""
    shutil.rmtree(capturing.store.root)
    worker = capturing.run(create_agent(loopback.model(adding), [add]), "add")
    assert worker.status == "success"
    assert worker.collector.capture is None
    assert not list(tmp_path.rglob("thread.jsonl"))


def test_folder_that_is_something_else(capturing, tmp_path, caplog):
    """What stands where the folder of tool calls should be is not followed and not written to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with capturing.worker("add") as worker:
        (worker.dir / "tool_calls").symlink_to(elsewhere)
        (worker.dir / "thread.jsonl").symlink_to(elsewhere / "thread")
        add.invoke({"a": 1, "b": 2})
    assert not list(elsewhere.iterdir())
    assert worker.completeness.dropped_content == 2
    assert "symbolic link" in caplog.text


def test_writing_that_hangs(capturing, loopback, gate, monkeypatch, caplog):
    """A disk that hangs holds up neither the agent nor, for long, the end of the worker; what is missing is counted."""
    monkeypatch.setattr(capture, "_CLOSE_S", 0.1)
    agent = create_agent(loopback.model(adding), [add])
    with capturing.worker("add") as worker:
        answer = agent.invoke({"messages": [("user", "What is 1 + 2?")]})
    assert answer["messages"][-1].text == "The result is 3."
    assert worker.completeness.dropped_content == 10
    assert json.loads((worker.dir / "metadata.json").read_text())["completeness"]["dropped_content"] == 10
    assert "10 prompts, answers or texts of tools" in caplog.text
    assert "takes too long" in caplog.text


def test_more_than_can_wait(capturing, loopback, gate, monkeypatch, caplog):
    """What comes while too much waits already is counted; lost messages come with the next prompt."""
    monkeypatch.setattr(capture, "_WAITING", 3)
    history = [HumanMessage("one")]
    model = loopback.model(*[Reply(text="ok")] * 5)
    with capturing.worker("chat") as worker:
        for _ in range(4):
            history += [model.invoke(history), HumanMessage("more")]
        gate.set()
        assert worker.collector.capture._relay.drain(10)
        model.invoke(history)
    assert worker.completeness.dropped_content == 4
    assert "too many were waiting" in caplog.text
    assert [(role, text) for _, role, text in said(worker)] == [
        ("human", "one"),
        *[("ai", "ok"), ("human", "more")] * 4,
        ("ai", "ok"),
    ]


class Odd:
    """An object whose every question raises."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __hash__ = __len__ = __iter__ = __str__


def returning(output):
    """Make a tool that returns this very object."""
    return StructuredTool.from_function(lambda: output, name="odd", description="odd")


def test_odd_outputs(capturing):
    """Whatever a tool returns, it is not asked anything, and the agent gets it."""
    loop: list[object] = []
    loop.append(loop)
    outputs = [Odd(), loop, {1: {2, 3}, "x": b"\xff" * 1000}, float("nan"), "\ud800", None, "a\0b", 2**80, [Odd()]]
    with capturing.worker("call") as worker:
        for output in outputs:
            assert returning(output).invoke({}) is output
    found = [section_of(text, "output") for text in tool_texts(worker).values()]
    assert found[0] == "<Odd>"
    assert json.loads(found[2]) == {"1": [2, 3], "x": "<binary, 1000 bytes>"}
    assert found[3:5] == ['"nan"', "\\ud800"] or found[3:5] == ["nan", "\\ud800"]
    assert found[5] == ""
    assert found[6] == "a\\x00b"
    assert worker.completeness.dropped_content == 0


async def test_callbacks_do_not_block(capturing, loopback):
    """Nothing that content capture does on the loop's thread blocks it."""
    agent = create_agent(loopback.model(adding), [add])
    await agent.ainvoke({"messages": [("user", "warm up")]})  # first use of HTTP reads certificates
    with guarded():
        async with capturing.worker("add") as worker:
            await agent.ainvoke({"messages": [("user", "What is 1 + 2?")]})
    assert [role for _, role, _ in said(worker)] == [role for role, _ in CONVERSATION[1:]]
    assert len(tool_texts(worker)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_writes_nothing(capturing, loopback):
    """A process that is forked inside a block leaves the content of the worker to its parent."""
    with capturing.worker("fork") as worker:
        add.invoke({"a": 1, "b": 2})
        assert worker.collector.capture._relay.drain(10)
        child = os.fork()
        if not child:
            add.invoke({"a": 3, "b": 4})
            os._exit(0 if worker.collector.capture._relay.drain(10) else 1)
        assert os.waitpid(child, 0)[1] == 0
        add.invoke({"a": 5, "b": 6})
    assert [section_of(text, "output") for text in tool_texts(worker).values()] == ["3", "11"]


def test_killed_process(tmp_path):
    """A process that is killed as it writes leaves whole files and lines, but for the last one; readers take them."""
    script = """
        import sys
        from itertools import count
        from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
        from langchain_core.messages import AIMessage, HumanMessage
        from langchain_core.tools import tool
        from langchain_swarmlet_metrics import WorkerRunner

        @tool
        def note(number: int) -> str:
            "Note."
            return "noted " * 50

        model = GenericFakeChatModel(messages=(AIMessage("answer " * 50, id=str(n)) for n in count()))
        worker = WorkerRunner(sys.argv[1], capture_content=True).worker("note").open()
        history = []
        for number in count():
            history = [*history[-20:], HumanMessage(f"question {number}", id=f"q{number}")]
            history.append(model.invoke(history))
            note.invoke({"number": number})
            assert worker.collector.capture._relay.drain(60)
            if number == 100:
                print("ready", flush=True)
    """
    with running(script, tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
    runner = WorkerRunner(tmp_path)
    (metadata,) = runner.store.list()
    assert runner.store.status(metadata) == "lost"
    worker_dir = tmp_path / metadata.worker_id
    *lines, _last = (worker_dir / "thread.jsonl").read_bytes().split(b"\n")
    entries = [json.loads(line) for line in lines]
    assert len(entries) == len({(entry["role"], entry["event_id"]) for entry in entries}) > 200
    texts = list((worker_dir / "tool_calls").glob("[!.]*"))
    assert len(texts) > 100
    assert {header_of(path.read_text())["outcome"] for path in texts} <= {"success", "open"}
    tools = {tool.name: tool for tool in runner.supervisor_tools()}
    assert "thread.jsonl:1: " in tools["grep_workers"].invoke({"pattern": "question 0"})
    assert tools["read_worker_file"].invoke({"job_id": 1, "file_path": "tool_calls/002_note.txt"}).startswith("tool: ")
    first = tools["read_worker_file"].invoke({"job_id": 1, "file_path": "thread.jsonl", "offset": 0, "limit": 1})
    assert '"question 0"' in first


def test_what_waits_at_exit_is_written(tmp_path):
    """A process that exits in the middle of a block writes what its calls said."""
    output_of(
        """
        import sys
        from langchain_core.tools import tool
        from langchain_swarmlet_metrics import WorkerRunner

        @tool
        def note(number: int) -> str:
            "Note."
            return f"noted {number}"

        worker = WorkerRunner(sys.argv[1], capture_content=True).worker("note").open()
        for number in range(50):
            note.invoke({"number": number})
        """,
        tmp_path,
    )
    (metadata,) = WorkerRunner(tmp_path).store.list()
    assert (metadata.status, metadata.completeness.dropped_content) == ("cancelled", 0)
    texts = sorted((tmp_path / metadata.worker_id / "tool_calls").glob("*.txt"))
    assert [section_of(path.read_text(), "output") for path in texts] == [f"noted {number}" for number in range(50)]
