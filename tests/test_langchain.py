"""The readers of LangChain's arguments: model, usage, phase, outcome. None of them raises."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.types import Command

from langchain_swarmlet_metrics import _langchain as facts
from langchain_swarmlet_metrics import add_secret_patterns

ASKS = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}])
TOLD = ToolMessage("3", tool_call_id="1")
ASKED = HumanMessage("what is 1+2?")


def chat(message, **output):
    """Return a chat model's result."""
    return LLMResult(generations=[[ChatGeneration(message=message)]], llm_output=output or None)


def reported(total=12, **details):
    """Return usage as a chat model reports it."""
    return {"input_tokens": 10, "output_tokens": 2, "total_tokens": total} | details


@pytest.mark.parametrize(
    ("messages", "after"),
    [
        (None, False),
        ([], False),
        ([ASKED], False),
        ([ASKED, ASKS], False),
        ([ASKED, ASKS, TOLD], True),
        ([ASKED, ASKS, TOLD, SystemMessage("go on")], True),
        ([ASKED, ASKS, TOLD, ASKED], False),
        ([ASKS, TOLD], True),
        ([ASKS], False),
    ],
)
def test_phase_follows_tools(messages, after):
    """What counts is a ToolMessage after the last HumanMessage."""
    assert facts.phase_of(messages, [], True) == ("synthesis" if after else "initial")


@pytest.mark.parametrize(
    ("messages", "asks", "answered", "phase"),
    [
        ([ASKED], False, True, "initial"),
        ([ASKED], True, True, "initial"),
        ([ASKED], False, False, "initial"),
        ([ASKED, ASKS, TOLD], True, True, "tool_decision"),
        ([ASKED, ASKS, TOLD], False, False, "tool_decision"),
        ([ASKED, ASKS, TOLD], False, True, "synthesis"),
    ],
)
def test_phase_of(messages, asks, answered, phase):
    """The phase follows from what came before and what the answer asks for."""
    assert facts.phase_of(messages, asks, answered) == phase


@pytest.mark.parametrize(
    ("metadata", "phase"),
    [
        (None, None),
        ({}, None),
        ({"swarmlet_phase": "plan"}, "plan"),
        ({"lc_source": "summarization"}, "summary"),
        ({"swarmlet_phase": "plan", "lc_source": "summarization"}, "plan"),
        ({"lc_source": "else"}, None),
    ],
)
def test_named_phase(metadata, phase):
    """The user's word comes before LangChain's own summarization."""
    assert facts.read_labels("m", metadata).phase == phase


def test_usage_of_a_chat_answer():
    """Counts include the parts that their details name."""
    details = {
        "input_token_details": {"cache_read": 4, "cache_creation": 1},
        "output_token_details": {"reasoning": 1},
    }
    answer = facts.read_answer(chat(AIMessage("x", usage_metadata=reported(**details))))
    assert answer.usage == facts.Usage(10, 2, 12, facts.InputDetails(4, 1), facts.OutputDetails(1))


def test_total_is_kept_as_reported():
    """A total that is not the sum is the provider's business."""
    assert facts.read_answer(chat(AIMessage("x", usage_metadata=reported(total=99)))).usage.total_tokens == 99


def test_usage_is_read_once():
    """Of several choices, each of which carries the usage of all, the first counts."""
    message = AIMessage("x", usage_metadata=reported())
    result = LLMResult(generations=[[ChatGeneration(message=message), ChatGeneration(message=message)]])
    assert facts.read_answer(result).usage == facts.Usage(10, 2, 12)


def test_usage_from_elsewhere():
    """Without usage_metadata, the output's token_usage counts, then the message's own."""
    old = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 3}}
    assert facts.read_answer(chat(AIMessage("x"), token_usage=old)).usage == facts.Usage(7, 1, 8, facts.InputDetails(3))
    message = AIMessage("x", response_metadata={"token_usage": old})
    assert facts.read_answer(chat(message)).usage.input_tokens == 7
    completion = LLMResult(generations=[[Generation(text="x")]], llm_output={"token_usage": old, "model_name": "m"})
    answer = facts.read_answer(completion)
    assert (answer.model, answer.usage) == ("m", facts.Usage(7, 1, 8, facts.InputDetails(3)))


@pytest.mark.parametrize(
    "response",
    [
        None,
        object(),
        LLMResult(generations=[]),
        LLMResult(generations=[[]]),
        LLMResult(generations=[[Generation(text="x")]], llm_output={"token_usage": "many"}),
        LLMResult(generations=[[Generation(text="x")]], llm_output={"token_usage": {}}),
        LLMResult(generations=[[Generation(text="x")]], llm_output={"token_usage": {"prompt_tokens": "seven"}}),
        chat(AIMessage("x", response_metadata={"token_usage": 5})),
    ],
)
def test_no_usage(response):
    """What is not reported, or not as a number, is not known."""
    assert not facts.read_answer(response).usage.known


@pytest.mark.parametrize("odd", ["12", 1.5, -1, 2**60, None, {"a": 1}, [1], object(), True])
@pytest.mark.parametrize(
    "key", ["input_tokens", "output_tokens", "input_token_details", "output_token_details", "total_cost", 7]
)
def test_a_count_that_is_none(key, odd):
    """What is no count is not known, and the other counts are kept."""
    message = AIMessage("x")
    message.usage_metadata = {**reported(), key: odd}  # LangChain checks it only where a message is made
    usage = facts.read_answer(chat(message)).usage
    assert usage.total_tokens == 12
    assert usage.input_tokens == (None if key == "input_tokens" else 10)
    assert usage.output_tokens == (None if key == "output_tokens" else 2)


@pytest.mark.parametrize("odd", ["12", 7, [], [("input_tokens", 1)], object()])
def test_usage_that_is_none(odd):
    """A report that is none tells nothing."""
    message = AIMessage("x")
    message.usage_metadata = odd
    assert not facts.read_answer(chat(message)).usage.known


def test_cache_hit():
    """LangChain marks what its cache serves with a cost of 0, even when there was no usage."""
    assert facts.read_answer(chat(AIMessage("x", usage_metadata=reported(total_cost=0)))).cache_hit
    assert not facts.read_answer(chat(AIMessage("x", usage_metadata=reported(total_cost=0.5)))).cache_hit
    assert not facts.read_answer(chat(AIMessage("x", usage_metadata=reported()))).cache_hit


@pytest.mark.parametrize(
    ("serialized", "metadata", "params", "model"),
    [
        (None, None, None, "unknown"),
        ({"kwargs": {"model": "a"}}, None, None, "a"),
        ({"kwargs": {"model": "a"}}, None, {"model_name": "b"}, "b"),
        (None, None, {"model": "c", "model_name": "b"}, "c"),
        (None, {"ls_model_name": "d"}, {"model": "c"}, "d"),
        ({}, {}, {}, "unknown"),
    ],
)
def test_requested_model(serialized, metadata, params, model):
    """The model is what follows a per-call override first, and unknown at last."""
    assert facts.requested_model(serialized, metadata, params) == model


@pytest.mark.parametrize(
    ("metadata", "agent"),
    [
        (None, None),
        ({"langgraph_node": "model"}, None),
        ({"langgraph_node": "tools"}, None),
        ({"langgraph_node": "research"}, "research"),
        ({"langgraph_node": "research", "lc_agent_name": "alice"}, "alice"),
    ],
)
def test_agent(metadata, agent):
    """The agent's own name comes before the node, plumbing names nobody."""
    assert facts.read_labels("m", metadata).agent == agent


@pytest.mark.parametrize("value", [[], ["a"], {"a": 1}, {"a"}, 0, 7, object()])
@pytest.mark.parametrize("key", ["swarmlet_phase", "lc_source", "ls_provider", "lc_agent_name", "langgraph_node"])
def test_names_that_are_no_texts(key, value):
    """Names may be anything; what is there is made a text."""
    labels = facts.read_labels(value, {key: value})
    assert all(name is None or isinstance(name, str) for name in msgspec.structs.astuple(labels))


def test_names_that_are_equal():
    """What is equal is not always the same name."""
    assert [facts.read_labels(name, None).name for name in (1, True, 1.0, "1")] == ["1", "True", "1.0", "1"]


def test_names_follow_new_patterns():
    """Names are cleaned anew once there is another pattern of what a secret is, and again when it is taken out."""
    metadata = {"ls_provider": "acme-123456"}
    assert facts.read_labels("m", metadata).provider == "acme-123456"
    take_out = add_secret_patterns(r"acme-\d{6}")
    assert facts.read_labels("m", metadata).provider == "[redacted]"
    take_out()
    assert facts.read_labels("m", metadata).provider == "acme-123456"


@pytest.mark.parametrize(
    ("tags", "attempt"),
    [(None, None), ([], None), (["a", "retry:attempt:2"], 2), (["retry:attempt:x"], None), (["retry:attempt:"], None)],
)
def test_attempt_of(tags, attempt):
    """Only with_retry's own tag numbers an attempt."""
    assert facts.attempt_of(tags) == attempt


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (None, None),
        ({}, None),
        ({"tools": "odd"}, None),
        ({"tools": []}, set()),
        ({"tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "name": "b"}]}, {"a", "b"}),
        ({"tools": [{"name": "c", "input_schema": {}}, {"type": "web_search"}]}, {"c", "web_search"}),
        ({"tools": [{"function_declarations": []}]}, None),
        ({"tools": [object()]}, None),
    ],
)
def test_bound_tools(params, names):
    """The names of tools are read in the dialects of providers, or not at all."""
    assert facts.bound_tools(params) == names


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("fine", None),
        (None, None),
        (TOLD, None),
        (ToolMessage("no\nroom", tool_call_id="1", status="error"), "no room"),
        ([TOLD, ToolMessage("no", tool_call_id="2", status="error")], "no"),
        (Command(update={"messages": [ToolMessage("no", tool_call_id="1", status="error")]}), "no"),
        (Command(update={"messages": [TOLD]}), None),
        (Command(update=[("a", 1)]), None),
        (Command(goto="x"), None),
    ],
)
def test_handled_error(output, error):
    """A tool's output says that it failed only by a message's status, wherever that is."""
    assert facts.handled_error(output) == error


class Proxy:
    """An object that looks whatever it is asked for up, and fails."""

    def __getattr__(self, name: str) -> object:
        """Fail as a mapping does."""
        return {}[name]


def test_output_that_cannot_be_asked():
    """An output that raises when it is asked says nothing of a failure, and neither does one inside itself."""
    endless: list[object] = []
    endless.append(endless)
    assert facts.handled_error(Proxy()) is facts.handled_error([Proxy()]) is facts.handled_error(endless) is None


def test_kinds_of_exceptions():
    """Cancellation and control flow are not failures."""
    assert all(map(facts.is_cancellation, [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()]))
    assert not facts.is_cancellation(TimeoutError())
    assert facts.is_control_flow(GraphInterrupt(()))
    assert facts.is_control_flow(ParentCommand(Command()))
    assert not facts.is_control_flow(ValueError())


@pytest.mark.parametrize(
    ("token", "chunk", "said"),
    [
        ("", None, False),
        ("a", None, True),
        ([], None, False),
        ([{"type": "text", "text": "", "index": 0}], None, False),
        ([{"type": "text", "text": "a", "index": 0}], None, True),
        ([{"type": "reasoning", "reasoning": "hm"}], None, True),
        (["a"], None, True),
        (None, object(), False),
    ],
)
def test_says_something(token, chunk, said):
    """The first chunk is the first that carries content."""
    assert facts.says_something(token, chunk) is said


def test_tool_call_chunks_say_something():
    """A stream that only asks for tools speaks with its first part of a tool call."""
    chunk = ChatGeneration(message=AIMessageChunk("", tool_call_chunks=[{"name": "a", "args": "", "id": "1"}]))
    assert facts.says_something("", chunk)


def test_run_key():
    """A run has one key, as UUID or as text; what is neither has one, too."""
    run_id = uuid.uuid4()
    assert facts.run_key(run_id) == facts.run_key(str(run_id)) == run_id.int
    assert isinstance(facts.run_key("odd"), int)


def test_no_current_run():
    """Outside of any run there is none."""
    assert facts.current_run() is None


def test_a_batch_shares_its_usage():
    """Only an empty count means that another answer of the batch has it; none at all means there is none."""
    shared = LLMResult(generations=[[Generation(text="x")]], llm_output={"token_usage": {}})
    missing = LLMResult(generations=[[Generation(text="x")]], llm_output=None)
    assert (facts.read_answer(shared).shares_usage, facts.read_answer(missing).shares_usage) == (True, False)
