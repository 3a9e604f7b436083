"""What a message says, as data: texts whole, binary parts by type and size, secrets out, cuts said."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langgraph.types import Command

from langchain_swarmlet_metrics import content
from langchain_swarmlet_metrics._content import answers_of, data_of, output_of, said_of
from langchain_swarmlet_metrics.messages import LONGEST_TEXT, Data, Said, line_of, mark_of, text_of

TS = "2025-12-15T04:08:08.123456Z"
KEPT = "<base64, 360 bytes>"
BASE64 = "iVBORw0KGgoAAAANSUhEUgAB" * 20


def line(message) -> content.Message:
    """Return the line of a LangChain message."""
    return line_of(said_of(message), 1, 1, TS)


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (HumanMessage("x"), "human"),
        (SystemMessage("x"), "system"),
        (AIMessage("x"), "ai"),
        (AIMessageChunk("x"), "ai"),
        (ToolMessage("x", tool_call_id="1"), "tool"),
        (FunctionMessage("x", name="f"), "tool"),
        (ChatMessage("x", role="user"), "human"),
        (ChatMessage("x", role="assistant"), "ai"),
        (ChatMessage("x", role="developer"), "system"),
        (ChatMessage("x", role="critic"), "other"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_roles(message, role):
    """Every kind of message has a role."""
    assert line(message).role == role


def test_a_plain_line():
    """A line has its required keys first, and says nothing of what there is not."""
    assert content.encode(line(HumanMessage("hi", name="ann"))) == (
        b'{"entry":"message","role":"human","event_id":1,"conversation":1,"ts":"2025-12-15T04:08:08.123456Z",'
        b'"content":"hi","name":"ann"}\n'
    )


def test_tools_asked_for():
    """What an answer asks for is there with its arguments, also where they are no JSON."""
    message = AIMessage(
        "",
        tool_calls=[{"name": "f", "args": {"a": [1, {"password": "hunter2x"}]}, "id": "1"}],
        invalid_tool_calls=[{"name": "g", "args": '{"a": ', "id": None, "error": "no JSON"}],
    )
    assert line(message).tool_calls == [
        content.ToolRequest(name="f", args={"a": [1, {"password": "[redacted]"}]}, id="1"),
        content.ToolRequest(name="g", args='{"a": '),
    ]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([{"type": "text", "text": "a"}, "b"], "ab"),
        ([], ""),
        ([{"type": "text", "text": "a", "annotations": []}, {"type": "tool_use", "name": "f", "input": {}}], "a"),
        ([{"type": "thinking", "thinking": "hm", "signature": BASE64}, {"type": "text", "text": BASE64}],
         [{"type": "thinking", "thinking": "hm", "signature": KEPT}, {"type": "text", "text": BASE64}]),
        (["see", {"type": "audio", "base64": BASE64, "mime_type": "audio/wav"}],
         [{"type": "text", "text": "see"}, {"type": "audio", "base64": KEPT, "mime_type": "audio/wav"}]),
        ([{"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}],
         [{"type": "input_audio", "input_audio": {"data": KEPT, "format": "wav"}}]),
        ([{"type": "file", "file": {"file_data": f"data:application/pdf;base64,{BASE64}"}}],
         [{"type": "file", "file": {"file_data": "<application/pdf, 360 bytes>"}}]),
        ([{"type": "media", "mime_type": "video/mp4", "data": b"\x00" * 1000}],
         [{"type": "media", "mime_type": "video/mp4", "data": "<binary, 1000 bytes>"}]),
        ([{"type": "document", "source": {"type": "url", "url": "https://a.example/" + "x" * 300}}],
         [{"type": "document", "source": {"type": "url", "url": "https://a.example/" + "x" * 300}}]),
        ([{"type": "image", "token": "Tr0ub4dor&3", "cache_control": {"type": "ephemeral"}}],
         [{"type": "image", "token": "[redacted]"}]),
    ],
)  # fmt: skip
def test_content_blocks(blocks, expected):
    """Texts are kept, what is binary is said by type and size, requests for tools are not said twice."""
    found = line(AIMessage(blocks))
    assert found.content == expected
    assert found.truncated is None
    jsonschema.validate(json.loads(content.encode(found)), content.json_schema())


def test_refusal():
    """A refusal that the provider puts beside an empty content is the content."""
    found = line(AIMessage("", additional_kwargs={"refusal": "I will not."}))
    assert found.content == [{"type": "refusal", "refusal": "I will not."}]


def test_long_text():
    """A text is cut at its limit and says so; a secret that the cut goes through is not shown."""
    whole, long = "a " * (LONGEST_TEXT // 2), "a " * LONGEST_TEXT
    assert line(HumanMessage(whole)).content == whole
    assert line(HumanMessage(whole)).truncated is None
    found = line(HumanMessage(long))
    assert len(found.content) == LONGEST_TEXT
    assert found.content.endswith(" more characters)")
    assert found.truncated is True
    secret = "sk-" + "a1B2" * 8
    for distance in range(0, 60, 7):
        text = "b " * ((LONGEST_TEXT - distance) // 2) + secret + " c" * LONGEST_TEXT
        assert secret[:12] not in line(HumanMessage(text)).content


def test_long_arguments_and_blocks():
    """A line says that something was cut, wherever in the message it was."""
    request = {"name": "write", "args": {"text": "x " * LONGEST_TEXT}, "id": "1"}
    assert line(AIMessage("", tool_calls=[request])).truncated is True
    many = AIMessage("", tool_calls=[{"name": "f", "args": {"a": list(range(200_000))}, "id": "1"}])
    assert line(many).truncated is True
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    assert line(AIMessage("", tool_calls=[{"name": "f", "args": {"a": deep}, "id": "1"}])).truncated is True
    assert line(AIMessage([{"type": "odd", "text": "x " * LONGEST_TEXT}])).truncated is True


def test_a_text_of_many_kilobytes_in_arguments():
    """A file's content among the arguments is kept whole up to the limit of a text."""
    text = "line\n" * 10_000
    request = {"name": "write", "args": {"text": text}, "id": "1"}
    found = line(AIMessage("", tool_calls=[request]))
    assert found.tool_calls[0].args == {"text": text}
    assert found.truncated is None


SAME = [
    (AIMessage("a"), AIMessage("a", name="agent", id="7", usage_metadata=None)),
    (AIMessage("a"), AIMessageChunk("a")),
    (AIMessage("ab"), AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "index": 1}])),
    (HumanMessage([{"type": "image", "url": "u"}]),
     HumanMessage([{"type": "image", "url": "u", "cache_control": {"type": "ephemeral"}}])),
]  # fmt: skip
DIFFERENT = [
    (AIMessage("a"), HumanMessage("a")),
    (ToolMessage("a", tool_call_id="1"), ToolMessage("a", tool_call_id="2")),
    (AIMessage("", tool_calls=[{"name": "f", "args": {"a": -1}, "id": "1"}]),
     AIMessage("", tool_calls=[{"name": "f", "args": {"a": -2}, "id": "1"}])),
    (AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]),
     AIMessage("", tool_calls=[{"name": "f", "args": {"a": True}, "id": "1"}])),
    (HumanMessage([{"type": "image", "base64": BASE64}]), HumanMessage([{"type": "image", "base64": BASE64[::-1]}])),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_same_message(one, other):
    """A message that LangChain or an agent labels in between is the same."""
    assert mark_of(said_of(one)).key == mark_of(said_of(other)).key


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_message(one, other):
    """Messages that say something else are others."""
    assert mark_of(said_of(one)).key != mark_of(said_of(other)).key


def test_answers():
    """Every choice is an answer; of a call that failed only what says something is."""
    result = LLMResult(generations=[[ChatGeneration(message=AIMessage("a")), ChatGeneration(message=AIMessage(""))]])
    assert [said.content for said in answers_of(result, is_partial=False)] == ["a", ""]
    assert [said.content for said in answers_of(result, is_partial=True)] == ["a"]
    assert answers_of(LLMResult(generations=[[Generation(text="b")]]), is_partial=False) == [Said("ai", "b")]
    assert answers_of(None, is_partial=True) == answers_of(LLMResult(generations=[]), is_partial=True) == []


def test_outputs():
    """What tools return is a text where it is one, else JSON."""
    assert text_of(output_of("42")).kept == "42"
    assert text_of(output_of(ToolMessage("42", tool_call_id="1"))).kept == "42"
    assert text_of(output_of(ToolMessage(["a", {"type": "text", "text": "b"}], tool_call_id="1"))).kept == "ab"
    assert json.loads(text_of(output_of(["a", "b"])).kept) == ["a", "b"]
    assert json.loads(text_of(output_of(Document("page", metadata={"n": 1}))).kept)["page_content"] == "page"
    update = json.loads(text_of(output_of(Command(update={"messages": [ToolMessage("x", tool_call_id="1")]}))).kept)
    assert update["update"]["messages"][0]["content"] == "x"
    assert text_of(output_of(ValueError("a\nb"))).kept == "ValueError: a\nb"
    assert text_of(output_of(KeyError())).kept == "KeyError"
    assert text_of(output_of(object())).kept == "<object>"


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(allow_nan=False)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)))
def test_data_is_copied(value):
    """Data is copied as it is, and nothing of the copy is the original's."""
    copy = data_of(value)
    assert copy == Data(value, is_cut=False)
    if isinstance(value, list | dict) and value:
        value.clear()
        assert copy.value


@given(st.recursive(
    PLAIN | st.binary() | st.complex_numbers() | st.integers() | st.floats(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
))  # fmt: skip
def test_any_data_becomes_text(value):
    """Whatever there is in data, it has a text that encodes as UTF-8, and a line that fits the schema."""
    text_of(data_of(value)).kept.encode()
    found = content.encode(line_of(Said("tool", [{"type": "x", "x": data_of(value).value}]), 1, 1, TS))
    jsonschema.validate(json.loads(found), content.json_schema())
