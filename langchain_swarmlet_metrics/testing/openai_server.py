"""A loopback HTTP server that speaks the OpenAI API, for tests and demos without network or key."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from langchain_swarmlet_metrics.testing.openai_wire import (
    ENDPOINTS,
    JSON,
    Reply,
    error_body,
    messages_of,
    settle,
)

_HOLD_LIMIT_S = 30.0
_HOLD_POLL_S = 0.02
_CLOSE_GRACE_S = 0.5

_Answer = tuple["Request", Reply, list[bytes]]
_Receive = Callable[[str, Mapping[str, str], JSON], _Answer]


@dataclass(kw_only=True, eq=False)
class Request:
    """Keep one request as the server saw it, and what became of it.

    Args:
        number: 1, 2, 3 ... in order of arrival.
        path: Such as ``/v1/chat/completions``.
        headers: Names in lower case. They hold the caller's key, so ``repr`` leaves them out.
        body: The parsed JSON.
        reply: The reply that was given, None until it is chosen. The server filled in tool call ids, model,
            finish reason and the usage it really reports, None in a stream that was not asked for it.
        completed: True once the whole answer was sent; False when it was cut or the client left.
    """

    number: int
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: JSON
    reply: Reply | None = None
    completed: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Messages, Responses input items, or prompts as user messages."""
        return messages_of(self.body)

    @property
    def tools(self) -> list[str]:
        """Names of the tools the model may use; built-in tools by their type."""
        tools = self.body.get("tools") or []
        return [tool.get("function", tool).get("name", tool["type"]) for tool in tools]

    @property
    def model(self) -> str | None:
        """Name of the model that was asked."""
        return self.body.get("model")

    @property
    def stream(self) -> bool:
        """Whether a streamed answer was asked for."""
        return bool(self.body.get("stream"))


class OpenAIServer:
    """Serve chat completions, responses and completions on a free port of 127.0.0.1, streamed and not.

    The server runs from construction until ``close()`` or the end of its ``with`` block::

        with OpenAIServer([Reply(text="The result is 42.")]) as server:
            model = ChatOpenAI(model="gpt-5-mini", base_url=server.url, api_key="unused")

    Args:
        reply: Replies to give, in order of the requests, or a function that gets each ``Request`` and returns
            its ``Reply``; several threads call it at once. When the script has run out or the function fails,
            the answer is HTTP 500 and says so.
    """

    url: str

    def __init__(self, reply: Callable[[Request], Reply] | Sequence[Reply]) -> None:
        self._choose = reply if callable(reply) else _script(tuple(reply))
        self._requests: list[Request] = []
        self._arrived = threading.Condition()
        self._call_ids = map("call_{}".format, itertools.count(1))
        self._closing = threading.Event()
        self._listener = _Listener(self._receive, self._closing)
        self._address: tuple[str, int] = self._listener.socket.getsockname()
        self.url = "http://{}:{}/v1".format(*self._address)
        self._thread = threading.Thread(target=self._accept, name="openai-server", daemon=True)
        self._thread.start()

    @property
    def requests(self) -> list[Request]:
        """Requests so far, in order of arrival."""
        with self._arrived:
            return list(self._requests)

    def wait_for_requests(self, count: int, timeout_s: float = 10.0) -> list[Request]:
        """Wait until that many requests have arrived; they may still be unanswered.

        Args:
            count: How many there must be at least.
            timeout_s: Seconds to wait.

        Raises:
            TimeoutError: Fewer arrived in that time.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._requests) >= count, timeout_s):
                msg = f"{len(self._requests)} of {count} requests arrived in {timeout_s} s"
                raise TimeoutError(msg)
            return list(self._requests)

    def close(self) -> None:
        """Let held and delayed answers go at once, then stop; what ``requests`` says is final afterwards."""
        if self._closing.is_set():
            return
        self._closing.set()
        socket.create_connection(self._address).close()  # wakes the thread that accepts
        self._thread.join()
        self._listener.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            self._listener.handle_request()

    def _receive(self, path: str, headers: Mapping[str, str], body: JSON) -> _Answer:
        with self._arrived:
            request = Request(number=len(self._requests) + 1, path=path, headers=headers, body=body)
            self._requests.append(request)
            self._arrived.notify_all()
        request.reply, pieces = self._prepare(request)
        return request, request.reply, pieces

    def _prepare(self, request: Request) -> tuple[Reply, list[bytes]]:
        try:
            chosen: object = self._choose(request)
            if not isinstance(chosen, Reply):
                msg = f"the function returned {chosen!r} instead of a Reply"
                raise TypeError(msg)
            reply = settle(chosen, request.body, self._call_ids)
            return reply, _pieces(request, reply)
        except Exception as error:  # noqa: BLE001  in this thread nobody would see it; in the answer somebody does
            cause = f"{type(error).__name__}: {error}"
            reply = _failure(f"The reply to request {request.number} could not be made: {cause}")
            return reply, _pieces(request, reply)


def _script(replies: tuple[Reply, ...]) -> Callable[[Request], Reply]:
    def choose(request: Request) -> Reply:
        if request.number > len(replies):
            return _failure(
                f"The reply script has run out: it holds {len(replies)}, this is request {request.number}. "
                "Give OpenAIServer more replies, or a function."
            )
        return replies[request.number - 1]

    return choose


def _failure(message: str) -> Reply:
    # Asking again would not help, and OpenAI's client understands when it is told so.
    return Reply(status=HTTPStatus.INTERNAL_SERVER_ERROR, text=message, headers={"x-should-retry": "false"})


# Not the server class of http.server: it looks up the name of its address, which can ask the network.
class _Listener(socketserver.ThreadingTCPServer):
    """Run each connection in a daemon thread, and see them off when it is closed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, receive: _Receive, closing: threading.Event) -> None:
        self.receive = receive
        self.closing = closing
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open = {thread: connection for thread, connection in self._open.items() if thread.is_alive()}
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        thread.start()
        self._open[thread] = request

    def server_close(self) -> None:
        super().server_close()
        deadline = time.monotonic() + _CLOSE_GRACE_S
        for thread, connection in self._open.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                thread.join(_CLOSE_GRACE_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients may leave in the middle of an answer; anything else would be a mistake in this module.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Read one request, send one answer, close the connection.

    Clients pool connections across event loops; one left open would be used in a loop it does not belong to.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path not in ENDPOINTS:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is no {path} here, only {', '.join(ENDPOINTS)}.")
            return
        body = _parsed(raw)
        if body is None:
            self._refuse(HTTPStatus.BAD_REQUEST, "The body of the request is not a JSON object.")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request, reply, pieces = self.server.receive(path, headers, body)
        self.server.closing.wait(reply.delay_s)
        if len(pieces) > 1:
            self._send_stream(request, reply, pieces)
        else:
            self._send_whole(request, reply, pieces[0])

    def log_message(self, *args: object) -> None:
        """Keep quiet: ``OpenAIServer.requests`` is the log."""

    def _refuse(self, status: int, message: str) -> None:
        data = _encode(error_body(status, message))
        self._begin(status, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _send_whole(self, request: Request, reply: Reply, data: bytes) -> None:
        self._wait_for(reply.hold)
        events = request.stream and reply.status == HTTPStatus.OK
        kind = "text/event-stream" if events else "application/json"
        self._begin(reply.status, {"Content-Type": kind, "Content-Length": str(len(data)), **reply.headers})
        if reply.cut_after is None:
            self._write_last(request, data)
        else:
            self._write(data[: len(data) // 2])

    def _send_stream(self, request: Request, reply: Reply, pieces: list[bytes]) -> None:
        head, *chunks, tail = pieces
        # Chunked: with a body of unknown length a dropped connection would look like its end.
        headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        self._begin(reply.status, {**headers, **reply.headers})
        self._write(_framed(head))
        end = len(chunks)
        for sent, chunk in enumerate([*chunks, b""]):
            self.server.closing.wait(reply.chunk_delay_s if sent else reply.first_token_delay_s)
            if sent == min(reply.hold_after, end):
                self._wait_for(reply.hold)
            if reply.cut_after is not None and sent == min(reply.cut_after, end):
                return
            self._write(_framed(chunk))
        self._write_last(request, _framed(tail) + b"0\r\n\r\n")

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _write_last(self, request: Request, data: bytes) -> None:
        # Set first: whoever has read the whole answer finds it logged as sent.
        request.completed = True
        try:
            self._write(data)
        except OSError:
            request.completed = False
            raise

    def _write(self, data: bytes) -> None:
        if self._client_left():
            raise ConnectionAbortedError
        self.wfile.write(data)

    def _wait_for(self, hold: threading.Event | None) -> None:
        deadline = time.monotonic() + _HOLD_LIMIT_S
        while hold and not hold.wait(_HOLD_POLL_S):
            if self.server.closing.is_set() or self._client_left() or time.monotonic() > deadline:
                return

    def _client_left(self) -> bool:
        """Look for the end of the client's side: a write to a connection it closed can still succeed."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.connection.setblocking(True)


def _pieces(request: Request, reply: Reply) -> list[bytes]:
    """Build an answer: one piece, or the head, the chunks and the tail of a stream."""
    if reply.body is not None:
        return [reply.body]
    if reply.status != HTTPStatus.OK:
        return [_encode(error_body(reply.status, reply.text))]
    endpoint, answer_id = ENDPOINTS[request.path], uuid.uuid4().hex
    if request.stream:
        return endpoint.stream(reply, request.body, answer_id)
    return [_encode(endpoint.body(reply, request.body, answer_id))]


def _parsed(raw: bytes) -> JSON | None:
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _encode(body: JSON) -> bytes:
    return json.dumps(body).encode()


def _framed(data: bytes) -> bytes:
    """Frame data as one chunk of a chunked body; no data is no chunk, for an empty one would end the body."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
