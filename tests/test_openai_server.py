"""The loopback OpenAI server, driven by real LangChain models."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from langchain_swarmlet_metrics.testing import OpenAIServer, Reply, ToolRequest, Usage
from langchain_swarmlet_metrics.testing.openai_wire import split

SNAPSHOT = "gpt-5-mini-2025-08-07"
KEY = "sk-not-a-real-key"
LONG_S = 60.0  # a delay no test waits for
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}

apis = pytest.mark.parametrize("api", ["chat", "responses"])
ways = pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])


def chat_model(server, api="chat", **options):
    """Build a real model that talks to the server; it does not retry unless told to."""
    options = {"max_retries": 0, "use_responses_api": api == "responses", **options}
    return ChatOpenAI(model="gpt-5-mini", base_url=server.url, api_key=KEY, **options)


async def ask(model, way, prompt="What is six times seven?"):
    """Get one whole answer from a model in one of LangChain's four ways."""
    if way == "invoke":
        return model.invoke(prompt)
    if way == "ainvoke":
        return await model.ainvoke(prompt)
    stream = model.stream(prompt) if way == "stream" else [chunk async for chunk in model.astream(prompt)]
    return functools.reduce(operator.add, stream)


def post(server, path, body):
    """Send bytes or a JSON body without any client library and return the raw answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url.removesuffix("/v1") + path, data=data, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def connect(server):
    """Open a bare connection."""
    return socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(server.url).port))


def raw_request():
    """Build the bytes of a chat completion request."""
    body = b'{"model": "m", "messages": []}'
    return b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def events(raw):
    """Parse server-sent events, ``[DONE]`` left out."""
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# What LangChain gets


@apis
@ways
async def test_text_tool_calls_usage_and_model_arrive(api, way):
    """Every API in every way gives LangChain the same text, tool calls, usage with details, and snapshot."""
    reply = Reply(
        text="I'll  multiply.\n",
        tool_calls=[ToolRequest("multiply", {"a": 6, "b": 7}), ToolRequest("now")],
        model=SNAPSHOT,
        usage=Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=64, reasoning_tokens=12),
    )
    with OpenAIServer([reply]) as server:
        message = await ask(chat_model(server, api, stream_usage=True), way)
    assert message.text == "I'll  multiply.\n"
    assert [(call["name"], call["args"], call["id"]) for call in message.tool_calls] == [
        ("multiply", {"a": 6, "b": 7}, "call_1"),
        ("now", {}, "call_2"),
    ]
    assert message.usage_metadata == {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "input_token_details": {"cache_read": 64, "cache_creation": 0},
        "output_token_details": {"reasoning": 12},
    }
    assert message.response_metadata["model_name"] == SNAPSHOT
    assert server.requests[0].completed


@apis
@ways
async def test_an_answer_can_be_plain_or_empty(api, way):
    """Without tools a message has only its text; without text too it is an empty message, not a failure."""
    with OpenAIServer([Reply(text="42"), Reply()]) as server:
        model = chat_model(server, api)
        plain, empty = await ask(model, way), await ask(model, way)
    assert [(message.text, message.tool_calls) for message in (plain, empty)] == [("42", []), ("", [])]


UNMENTIONED = dict.fromkeys(("cached_tokens", "cache_write_tokens", "reasoning_tokens"))


@apis
@ways
async def test_usage_arrives_as_it_was_given(api, way):
    """Zero arrives as zero, a total as given, unmentioned details not at all, and None is no usage."""
    usages = [
        Usage(prompt_tokens=0, completion_tokens=0),
        Usage(prompt_tokens=3, completion_tokens=4, total_tokens=11),
        Usage(prompt_tokens=3, completion_tokens=4, **UNMENTIONED),
        None,
    ]
    with OpenAIServer([Reply(text="42", usage=usage) for usage in usages]) as server:
        model = chat_model(server, api, stream_usage=True)
        zero, total, plain, none = [(await ask(model, way)).usage_metadata for _ in usages]
    assert (zero["input_tokens"], zero["output_tokens"], zero["total_tokens"]) == (0, 0, 0)
    assert (total["input_tokens"], total["output_tokens"], total["total_tokens"]) == (3, 4, 11)
    assert (plain["input_token_details"], plain["output_token_details"]) == ({}, {})
    assert none is None
    assert [request.reply.usage for request in server.requests] == usages


@pytest.mark.parametrize(("api", "field"), [("chat", "messages"), ("responses", "input")])
def test_words_are_counted_unless_the_reply_says_more(api, field):
    """By default a word is a token, in the messages and in the answer, and the log keeps the numbers."""
    with OpenAIServer([Reply(text="It is 42.", tool_calls=[ToolRequest("add", {"a": 1})])]) as server:
        post(server, PATHS[api], {"model": "m", field: [{"role": "user", "content": "six times seven"}]})
    # user six times seven; It is 42. add {"a": 1}
    assert server.requests[0].reply.usage == Usage(prompt_tokens=4, completion_tokens=6)


@pytest.mark.parametrize("asked", [True, False])
async def test_a_chat_stream_reports_usage_only_when_asked(asked):
    """LangChain sees usage in a stream with stream_usage, else none; the log says which."""
    with OpenAIServer([Reply(text="42")]) as server:
        message = await ask(chat_model(server, stream_usage=asked), "stream")
    assert (message.usage_metadata is not None) == asked
    assert (server.requests[0].reply.usage is not None) == asked


@pytest.mark.parametrize(("path", "prompt"), [(PATHS["chat"], {"messages": []}), ("/v1/completions", {"prompt": "hi"})])
def test_the_usage_chunk_has_no_choices(path, prompt):
    """The usage chunk comes last with empty choices; the others carry a null usage, or none if not asked."""
    body = {"model": "m", "stream": True, **prompt}
    with OpenAIServer(lambda _: Reply(text="one two")) as server:
        asked = events(post(server, path, {**body, "stream_options": {"include_usage": True}}))
        unasked = events(post(server, path, body))
    *chunks, last = asked
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert all("usage" not in chunk and chunk["choices"] for chunk in unasked)
    assert len(unasked) == len(chunks)


def test_the_responses_events_come_in_the_order_of_the_api():
    """A streamed response opens, fills and closes its message, then its function call, and completes."""
    reply = Reply(text="one two", tool_calls=[ToolRequest("add")])
    with OpenAIServer([reply]) as server:
        seen = events(post(server, PATHS["responses"], {"model": "m", "input": "hi", "stream": True}))
    assert [event["type"].removeprefix("response.") for event in seen] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["response"]["usage"]["output_tokens"] == 4


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_a_finish_reason_can_be_given(way):
    """An answer that ran out of tokens says so in the words of its API."""
    with OpenAIServer(lambda _: Reply(text="It is", finish_reason="length")) as server:
        chat = (await ask(chat_model(server), way)).response_metadata
        response = (await ask(chat_model(server, "responses"), way)).response_metadata
    assert chat["finish_reason"] == "length"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_two_choices_share_one_usage():
    """With n=2 the text comes twice, and LangChain puts the usage of the whole answer on both."""
    reply = Reply(text="42", usage=Usage(prompt_tokens=10, completion_tokens=5))
    with OpenAIServer([reply]) as server:
        result = chat_model(server, n=2).generate([[HumanMessage("hi")]])
    messages = [generation.message for generation in result.generations[0]]
    assert [(message.text, message.usage_metadata["total_tokens"]) for message in messages] == [("42", 15)] * 2


def test_streamed_choices_are_told_apart_by_index():
    """With n=2 a stream sends every piece once for each choice."""
    with OpenAIServer([Reply(text="a b")]) as server:
        seen = events(post(server, PATHS["chat"], {"model": "m", "messages": [], "stream": True, "n": 2}))
    pieces = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"].get("content")) for chunk in seen]
    assert pieces == [(0, ""), (1, ""), (0, "a"), (1, "a"), (0, " b"), (1, " b"), (0, None), (1, None)]


@ways
async def test_completion_models_are_served(way):
    """A legacy completion model gets its text in every way."""
    with OpenAIServer([Reply(text="It is 42.")]) as server:
        text = await ask(OpenAI(base_url=server.url, api_key=KEY, max_retries=0), way)
    assert text == "It is 42."
    assert [request.path for request in server.requests] == ["/v1/completions"]


def test_several_prompts_of_a_completion_model_share_one_usage():
    """Two prompts with n=2 are one request, four choices and one usage."""
    reply = Reply(text="yes", usage=Usage(prompt_tokens=10, completion_tokens=4))
    with OpenAIServer([reply]) as server:
        model = OpenAI(base_url=server.url, api_key=KEY, max_retries=0, n=2, best_of=2)
        result = model.generate(["a", "b"])
    assert [[generation.text for generation in pair] for pair in result.generations] == [["yes"] * 2] * 2
    assert result.llm_output["token_usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
    }
    assert [message["content"] for message in server.requests[0].messages] == ["a", "b"]


class Product(BaseModel):
    """The answer as a structure."""

    value: int


@pytest.mark.parametrize(("api", "way"), [("chat", "invoke"), ("responses", "invoke"), ("responses", "stream")])
def test_structured_output_is_parsed(api, way):
    """JSON text becomes the structure LangChain was asked for."""
    with OpenAIServer([Reply(text='{"value": 42}')]) as server:
        model = chat_model(server, api).with_structured_output(Product)
        parsed = model.invoke("6*7") if way == "invoke" else list(model.stream("6*7"))[-1]
    assert parsed == Product(value=42)


def test_an_agent_runs_on_a_script():
    """An agent calls the tool a reply asks for and hands its output back under the id the server gave."""

    def multiply(a: int, b: int) -> int:
        """Multiply two numbers."""
        return a * b

    replies = [Reply(tool_calls=[ToolRequest("multiply", {"a": 6, "b": 7})]), Reply(text="It is 42.")]
    with OpenAIServer(replies) as server:
        agent = create_agent(chat_model(server), tools=[multiply])
        messages = agent.invoke({"messages": [("user", "6*7")]})["messages"]
    assert messages[-1].text == "It is 42."
    assert [message.tool_call_id for message in messages if isinstance(message, ToolMessage)] == ["call_1"]
    first, second = server.requests
    assert first.tools == second.tools == ["multiply"]
    assert (second.messages[-1]["role"], second.messages[-1]["content"]) == ("tool", "42")


# Faults

ERRORS = {401: openai.AuthenticationError, 429: openai.RateLimitError, 500: openai.InternalServerError}


@apis
@ways
async def test_an_error_status_raises_the_error_of_the_client(api, way):
    """Error statuses arrive as the openai exception, with the message, streamed or not."""
    with OpenAIServer([Reply(status=status, text="no luck today") for status in ERRORS]) as server:
        model = chat_model(server, api)
        for status, error in ERRORS.items():
            with pytest.raises(error, match="no luck today") as caught:
                await ask(model, way)
            assert caught.value.status_code == status
    assert [request.reply.usage for request in server.requests] == [None] * len(ERRORS)


def test_a_client_retries_as_the_headers_say():
    """A rate limit with a retry header is asked again, and the log shows both requests."""
    with OpenAIServer([Reply(status=429, headers={"retry-after-ms": "1"}), Reply(text="42")]) as server:
        message = chat_model(server, max_retries=1).invoke("6*7")
    assert message.text == "42"
    assert [request.reply.status for request in server.requests] == [429, 200]


def test_headers_of_a_reply_reach_the_client():
    """The Retry-After a reply carries can be read from the error."""
    limited = Reply(status=429, headers={"Retry-After": "7"})
    with OpenAIServer([limited]) as server, pytest.raises(openai.RateLimitError) as caught:
        chat_model(server).invoke("6*7")
    assert caught.value.response.headers["retry-after"] == "7"


@apis
@ways
async def test_a_body_that_is_not_json_breaks_the_call(api, way):
    """Raw bytes are sent as they are; to a streamed request as server-sent events."""
    body = b'data: {"choices": [\n\n' if "stream" in way else b'{"choices": ['
    with OpenAIServer([Reply(body=body)]) as server, pytest.raises(json.JSONDecodeError):
        await ask(chat_model(server, api), way)
    assert server.requests[0].completed


@pytest.mark.parametrize("body", [b"{}", b'{"choices": null}'])
def test_a_body_without_choices_breaks_the_call(body):
    """A well-formed body that lacks its choices makes LangChain raise."""
    with OpenAIServer([Reply(body=body)]) as server, pytest.raises(TypeError, match="choices"):
        chat_model(server).invoke("6*7")


@apis
@pytest.mark.parametrize(("cut_after", "received"), [(0, ""), (2, "one two"), (99, "one two three")])
async def test_a_cut_stream_drops_after_that_many_chunks(api, cut_after, received):
    """The client reads the chunks before the cut, then loses the connection; usage never arrives."""
    texts = []

    async def read(stream):
        async for chunk in stream:
            texts.append(chunk.text)  # noqa: PERF401  a comprehension would lose what came before the error

    with OpenAIServer([Reply(text="one two three", cut_after=cut_after)]) as server:
        stream = chat_model(server, api, stream_usage=True).astream("go")
        with pytest.raises(openai.APIConnectionError):
            await read(stream)
    assert "".join(texts) == received
    assert not server.requests[0].completed
    assert server.requests[0].reply.usage is None


def test_a_cut_answer_that_is_not_streamed_drops_half_way():
    """A body that ends too early is a lost connection to the client."""
    with OpenAIServer([Reply(text="42", cut_after=0)]) as server, pytest.raises(openai.APIConnectionError):
        chat_model(server).invoke("6*7")
    assert not server.requests[0].completed


def test_a_script_that_has_run_out_says_so():
    """One request too many is an HTTP 500 that names the script and its length, and is not tried again."""
    with OpenAIServer([Reply(text="1"), Reply(text="2")]) as server:
        model = chat_model(server, max_retries=2)
        assert [model.invoke("go").text for _ in range(2)] == ["1", "2"]
        with pytest.raises(openai.InternalServerError, match="run out: it holds 2, this is request 3"):
            model.invoke("go")
    assert [request.completed for request in server.requests] == [True] * 3


def boom(request):
    """Fail as a test's own reply function may."""
    raise LookupError(request.messages[0]["content"])


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (boom, "LookupError: hello"),
        (lambda _: None, "TypeError: the function returned None instead of a Reply"),
        ([Reply(tool_calls=[ToolRequest("add", {"a": object()})])], "TypeError: .* not JSON serializable"),
    ],
)
def test_a_reply_that_can_not_be_made_says_why(reply, cause):
    """A mistake in the reply is an HTTP 500 with its cause, not a silent thread, and is not tried again."""
    said = f"The reply to request 1 could not be made: {cause}"
    with OpenAIServer(reply) as server, pytest.raises(openai.InternalServerError, match=said):
        chat_model(server, max_retries=2).invoke("hello")
    assert [request.reply.status for request in server.requests] == [500]


def test_a_completion_model_can_not_ask_for_tools():
    """Tool calls in a reply to a legacy completion are refused, not dropped."""
    replies = [Reply(tool_calls=[ToolRequest("add")])]
    said = "a completion model can't ask for tools"
    with OpenAIServer(replies) as server, pytest.raises(openai.InternalServerError, match=said):
        OpenAI(base_url=server.url, api_key=KEY).invoke("6*7")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/embeddings", b"{}", 404, "There is no /v1/embeddings here, only /v1/chat/completions, "),
        ("/v1/responses", b"{", 400, "not a JSON object"),
        ("/v1/responses", b"[]", 400, "not a JSON object"),
    ],
)
def test_a_request_the_server_does_not_understand_is_refused(path, body, status, said):
    """An unknown path or a body that is no JSON object is answered with an error and uses up no reply."""
    with OpenAIServer([]) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(server, path, body)
        with caught.value as answer:
            assert answer.code == status
            assert said in json.load(answer)["error"]["message"]
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "least"),
    [("chunks", 1), *((name, 0) for name in ("delay_s", "first_token_delay_s", "hold_after", "cut_after"))],
)
def test_a_number_that_can_not_be_meant_is_refused(name, least):
    """A bad number is an error where the Reply is written, with its name, its value and the bound."""
    with pytest.raises(ValueError, match=f"^{name} of a Reply is {least - 1}; it must be at least {least}$"):
        Reply(**{name: least - 1})
    assert getattr(Reply(**{name: least}), name) == least


# Time


@apis
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_held_answer_waits_for_its_event(api, way):
    """A call stays open until the test sets the event."""
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool, OpenAIServer([Reply(text="42", hold=hold)]) as server:
        call = pool.submit(asyncio.run, ask(chat_model(server, api), way))
        (request,) = server.wait_for_requests(1)
        assert (call.done(), request.completed) == (False, False)
        hold.set()
        assert call.result(timeout=10).text == "42"
        assert request.completed


@apis
def test_a_held_first_token_keeps_an_open_stream_empty(api):
    """With hold_after=0 the stream begins, without any text, until the event is set."""
    hold = threading.Event()
    with OpenAIServer([Reply(text="one two", hold=hold, hold_after=0)]) as server:
        chunks = chat_model(server, api).stream("go")
        assert next(chunks).text == ""
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(lambda: "".join(chunk.text for chunk in chunks))
            assert not rest.done()
            hold.set()
            assert rest.result(timeout=10) == "one two"


@apis
async def test_a_held_stream_has_sent_its_first_chunk(api):
    """A stream that is held has by default delivered one chunk, and is not complete."""
    hold = threading.Event()
    text = ""
    with OpenAIServer([Reply(text="one two three", hold=hold)]) as server:
        async for chunk in chat_model(server, api).astream("go"):
            text += chunk.text
            if text == "one":
                assert not server.requests[0].completed
                hold.set()
    assert hold.is_set()
    assert text == "one two three"


def test_delays_take_their_time():
    """Delays before the answer, the first chunk and the next chunk add up."""
    reply = Reply(text="one two", delay_s=0.02, first_token_delay_s=0.02, chunk_delay_s=0.02)
    with OpenAIServer([reply]) as server:
        model = chat_model(server)
        started = time.monotonic()
        assert "".join(chunk.text for chunk in model.stream("go")) == "one two"
        assert time.monotonic() - started >= 0.06


@pytest.mark.parametrize("chunks", [1, 5])
def test_the_number_of_chunks_can_be_given(chunks):
    """A stream has that many pieces of text."""
    with OpenAIServer([Reply(text="one two three", chunks=chunks)]) as server:
        pieces = [chunk.text for chunk in chat_model(server).stream("go") if chunk.text]
    assert (len(pieces), "".join(pieces)) == (chunks, "one two three")


@given(text=st.text(), chunks=st.none() | st.integers(1, 50))
def test_pieces_are_the_text(text, chunks):
    """However a text is cut, no piece is empty and joined they are the text; a number gives that many."""
    pieces = split(text, chunks)
    assert "".join(pieces) == text
    assert all(pieces)
    if chunks is not None:
        assert len(pieces) == min(chunks, len(text))


# Closing, and clients that leave


@pytest.mark.parametrize(
    ("way", "slow"),
    [
        ("invoke", {"hold": threading.Event()}),
        ("stream", {"hold": threading.Event()}),
        ("stream", {"hold": threading.Event(), "hold_after": 0}),
        ("invoke", {"delay_s": LONG_S}),
        ("stream", {"first_token_delay_s": LONG_S}),
        ("stream", {"chunk_delay_s": LONG_S}),
    ],
)
def test_closing_lets_held_answers_go_at_once(way, slow):
    """Whoever still waits when the server closes gets the whole answer now, and closing waits for that."""
    with ThreadPoolExecutor(1) as pool, OpenAIServer([Reply(text="one two", **slow)]) as server:
        call = pool.submit(asyncio.run, ask(chat_model(server), way))
        (request,) = server.wait_for_requests(1)
        server.close()
        assert request.completed
        assert call.result(timeout=10).text == "one two"


def test_a_closed_server_refuses_connections():
    """After the block nobody is served, and closing again does nothing."""
    with OpenAIServer([]) as server:
        pass
    server.close()
    with pytest.raises(urllib.error.URLError, match="refused"):
        post(server, PATHS["chat"], {})


def test_closing_does_not_wait_for_clients_that_do_nothing():
    """A connection without a request and a client that does not read its answer are cut off."""
    with OpenAIServer([Reply(text="x" * 20_000_000)]) as server, connect(server) as idle, connect(server) as deaf:
        deaf.sendall(raw_request())
        (request,) = server.wait_for_requests(1)
        server.close()
        assert idle.recv(1) == b""
    assert not request.completed


@apis
def test_a_client_that_leaves_a_stream_is_noticed(api, capfd):
    """A stream that is closed early is not complete, and nothing is printed about it."""
    with OpenAIServer([Reply(text="one two three", hold=threading.Event())]) as server:
        chunks = chat_model(server, api).stream("go")
        assert any(chunk.text for chunk in chunks)
        chunks.close()
    assert not server.requests[0].completed
    assert capfd.readouterr() == ("", "")


def test_a_client_that_resets_its_connection_is_noticed(capfd):
    """A connection that is reset while its answer is held is no mistake of the server's."""
    with OpenAIServer([Reply(text="42", hold=threading.Event())]) as server, connect(server) as client:
        client.sendall(raw_request())
        server.wait_for_requests(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert not server.requests[0].completed
    assert capfd.readouterr() == ("", "")


async def test_a_client_that_is_cancelled_is_noticed():
    """A cancelled call leaves an answer that was not sent."""
    with OpenAIServer([Reply(text="42", hold=threading.Event())]) as server:
        call = asyncio.create_task(chat_model(server).ainvoke("6*7"))
        await asyncio.to_thread(server.wait_for_requests, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert not server.requests[0].completed


PROGRAM = """
import asyncio, threading
from langchain_openai import ChatOpenAI
from langchain_swarmlet_metrics.testing import OpenAIServer, Reply

server = OpenAIServer([Reply(text="one two", hold=threading.Event()), Reply(text="three"), Reply(text="four")])
model = ChatOpenAI(model="m", base_url=server.url, api_key="k", max_retries=0)
chunks = model.stream("go")
while not next(chunks).text:
    pass
chunks.close()
print(asyncio.run(model.ainvoke("go")).text, asyncio.run(model.ainvoke("go")).text)
server.close()
"""


def test_a_program_sees_no_warning():
    """With warnings as errors, a client that left and two event loops on one model print nothing."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("three four\n", "", 0)


# The log


@apis
@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_the_log_keeps_what_was_asked_and_answered(api, way):
    """A logged request tells path, model, messages, tools, streaming and the settled reply."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    with OpenAIServer([Reply(text="3", model=SNAPSHOT)]) as server:
        await ask(chat_model(server, api).bind_tools([add]), way, "1+2")
    (request,) = server.requests
    assert (request.number, request.path, request.model) == (1, PATHS[api], "gpt-5-mini")
    assert (request.stream, request.tools) == (way == "stream", ["add"])
    assert [(message["role"], message["content"]) for message in request.messages] == [("user", "1+2")]
    assert (request.reply.text, request.reply.model, request.reply.finish_reason) == ("3", SNAPSHOT, "stop")


def test_built_in_tools_are_named_by_their_type():
    """A tool without a name is listed by its type; a bare input string is a user message."""
    with OpenAIServer([Reply()]) as server:
        post(server, PATHS["responses"], {"model": "m", "input": "hi", "tools": [{"type": "web_search"}]})
    assert server.requests[0].tools == ["web_search"]
    assert server.requests[0].messages == [{"role": "user", "content": "hi"}]


def test_the_key_is_in_the_headers_and_not_in_the_repr():
    """A test can check the key that was sent; a printed request does not show it."""
    with OpenAIServer([Reply(text="42")]) as server:
        chat_model(server).invoke("6*7")
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(request)
    assert "6*7" in repr(request)


def test_tool_call_ids_are_unique_in_a_server():
    """Ids count up over all answers of a server; one that is given stays as it is."""
    replies = [
        Reply(tool_calls=[ToolRequest("add"), ToolRequest("add", id="mine")]),
        Reply(tool_calls=[ToolRequest("add")]),
    ]
    expected = [["call_1", "mine"], ["call_2"]]
    with OpenAIServer(replies) as server:
        model = chat_model(server)
        assert [[call["id"] for call in model.invoke("go").tool_calls] for _ in replies] == expected
    assert [[call.id for call in request.reply.tool_calls] for request in server.requests] == expected


def test_many_clients_at_once_use_every_reply_once():
    """Concurrent requests get different replies, and the log pairs each with its own."""
    texts = [str(number) for number in range(1, 41)]
    with OpenAIServer([Reply(text=text) for text in texts]) as server, ThreadPoolExecutor(16) as pool:
        model = chat_model(server)
        answers = [message.text for message in pool.map(model.invoke, ["go"] * len(texts))]
    assert sorted(answers, key=int) == texts
    assert [(str(request.number), request.reply.text) for request in server.requests] == [
        (text, text) for text in texts
    ]


def test_a_function_sees_the_request_it_answers():
    """A reply function can choose by what was asked, and the log already holds the request."""

    def reply(request):
        return Reply(text=f"{request.messages[-1]['content']} {len(server.requests)}")

    with OpenAIServer(reply) as server:
        model = chat_model(server)
        assert [model.invoke(word).text for word in ("a", "b")] == ["a 1", "b 2"]


def test_waiting_for_requests_that_do_not_come_ends():
    """The wait gives up and says what it has seen."""
    with OpenAIServer([]) as server, pytest.raises(TimeoutError, match=r"0 of 1 requests arrived in 0\.01 s"):
        server.wait_for_requests(1, timeout_s=0.01)
