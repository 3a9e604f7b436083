"""Loopback servers that speak the wire formats of Anthropic and Gemini, for the integrations of LangChain."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Said:
    """Describe one answer: a text, or a wish for a tool, with the usage as the provider's format spells it."""

    text: str = ""
    tool: str | None = None
    args: JSON = field(default_factory=dict)
    usage: JSON | None = None
    status: int = 200


@dataclass(frozen=True)
class Asked:
    """Keep one request as the server saw it."""

    path: str
    body: JSON
    stream: bool


class ProviderServer(ABC):
    """Answer with a script of replies, one a request, on a free port of 127.0.0.1."""

    def __init__(self, *replies: Said) -> None:
        self.requests: list[Asked] = []
        self._replies = iter(replies)
        self._http = _Listener(("127.0.0.1", 0), _Handler)
        self._http.provider = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def receive(self, path: str, body: JSON) -> tuple[int, str, bytes]:
        """Note a request and return status, media type and body of its answer."""
        asked = Asked(path, body, self.is_stream(path, body))
        self.requests.append(asked)
        said = next(self._replies)
        if said.status != 200:
            return said.status, "application/json", json.dumps(self.error(said)).encode()
        if asked.stream:
            return 200, "text/event-stream", b"".join(self.stream(said, asked))
        return 200, "application/json", json.dumps(self.whole(said, asked)).encode()

    @abstractmethod
    def is_stream(self, path: str, body: JSON) -> bool:
        """Tell whether a streamed answer is asked for."""

    @abstractmethod
    def whole(self, said: Said, asked: Asked) -> JSON:
        """Build the body of an answer that is not streamed."""

    @abstractmethod
    def stream(self, said: Said, asked: Asked) -> list[bytes]:
        """Build the server-sent events of a streamed answer."""

    @abstractmethod
    def error(self, said: Said) -> JSON:
        """Build the body of a failure."""


class AnthropicServer(ProviderServer):
    """Speak the Messages API, https://docs.claude.com/en/api/messages and .../messages-streaming."""

    MODEL: ClassVar = "claude-loopback-20250929"

    def is_stream(self, path: str, body: JSON) -> bool:
        """Tell whether the body asks for a stream."""
        assert path == "/v1/messages", path
        return bool(body.get("stream"))

    def whole(self, said: Said, asked: Asked) -> JSON:
        """Build a message."""
        block = self._block(said, len(self.requests))
        return self._message([block], said.usage) | {"stop_reason": self._reason(said)}

    def stream(self, said: Said, asked: Asked) -> list[bytes]:
        """Build the events of a message: only its last one has the usage that counts."""
        usage = said.usage or {}
        block = self._block(said, len(self.requests))
        if said.tool:
            empty, key, kind = block | {"input": {}}, "partial_json", "input_json_delta"
            text = json.dumps(said.args)
        else:
            empty, key, kind, text = block | {"text": ""}, "text", "text_delta", said.text
        half = len(text) // 2
        deltas = [{"type": kind, key: piece} for piece in (text[:half], text[half:])]
        # the breakdown by time to live is in the first event only
        total = {name: count for name, count in usage.items() if name != "cache_creation"}
        events = [
            {"type": "message_start", "message": self._message([], usage | {"output_tokens": 1})},
            {"type": "content_block_start", "index": 0, "content_block": empty},
            {"type": "ping"},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": self._reason(said), "stop_sequence": None},
                "usage": total,
            },
            {"type": "message_stop"},
        ]
        return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]

    def error(self, said: Said) -> JSON:
        """Build a failure."""
        return {"type": "error", "error": {"type": "rate_limit_error", "message": said.text}}

    def _message(self, content: list[JSON], usage: JSON | None) -> JSON:
        about = {"id": f"msg_{len(self.requests)}", "type": "message", "role": "assistant", "model": self.MODEL}
        return about | {"content": content, "stop_reason": None, "stop_sequence": None, "usage": usage}

    @staticmethod
    def _block(said: Said, number: int) -> JSON:
        if said.tool:
            return {"type": "tool_use", "id": f"toolu_{number}", "name": said.tool, "input": said.args}
        return {"type": "text", "text": said.text}

    @staticmethod
    def _reason(said: Said) -> str:
        return "tool_use" if said.tool else "end_turn"


class GeminiServer(ProviderServer):
    """Speak the Gemini API, https://ai.google.dev/api/generate-content."""

    MODEL: ClassVar = "gemini-loopback-001"

    def is_stream(self, path: str, body: JSON) -> bool:
        """Tell whether the method in the path is the one that streams."""
        method = path.partition("?")[0].rpartition(":")[2]
        assert method in {"generateContent", "streamGenerateContent"}, path
        return method == "streamGenerateContent"

    def whole(self, said: Said, asked: Asked) -> JSON:
        """Build an answer with one candidate."""
        part = {"functionCall": {"name": said.tool, "args": said.args}} if said.tool else {"text": said.text}
        return self._answer(part, said.usage)

    def stream(self, said: Said, asked: Asked) -> list[bytes]:
        """Build the events of a stream: each has the usage so far, of which the last counts."""
        if said.tool or said.usage is None:
            answers = [self.whole(said, asked)]
        else:
            half = len(said.text) // 2
            so_far = {
                "promptTokenCount": said.usage["promptTokenCount"],
                "totalTokenCount": said.usage["promptTokenCount"],
            }
            answers = [self._answer({"text": said.text[:half]}, so_far, None)]
            answers.append(self._answer({"text": said.text[half:]}, said.usage))
        return [f"data: {json.dumps(answer)}\r\n\r\n".encode() for answer in answers]

    def error(self, said: Said) -> JSON:
        """Build a failure."""
        return {"error": {"code": said.status, "message": said.text, "status": "RESOURCE_EXHAUSTED"}}

    def _answer(self, part: JSON, usage: JSON | None, reason: str | None = "STOP") -> JSON:
        candidate: JSON = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if reason:
            candidate["finishReason"] = reason
        answer = {"candidates": [candidate], "modelVersion": self.MODEL, "responseId": f"r{len(self.requests)}"}
        return answer if usage is None else answer | {"usageMetadata": usage}


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    provider: ProviderServer

    def server_bind(self) -> None:
        """Bind without looking up the name of the address, which can ask the network."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class _Handler(BaseHTTPRequestHandler):
    """Read one request, send one answer, close the connection."""

    server: _Listener

    def do_POST(self) -> None:
        """Answer a request."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, kind, data = self.server.provider.receive(self.path, json.loads(raw))
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Keep quiet: `ProviderServer.requests` is the log."""
