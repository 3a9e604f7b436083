"""Read recorded conversations: VCR cassettes inside of a source distribution."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_GZIP = b"\x1f\x8b"
_FINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_OK = 200


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold one call of a chat model as it was recorded.

    Args:
        model: The model that was asked.
        is_response: Whether it went through the Responses API, not chat completions.
        stream: Whether the answer was streamed.
        status: The HTTP status of the answer.
        answer: The body of the answer.
        tokens: The usage in that body, in the words of ``metrics.jsonl``; what it does not mention is absent.
    """

    model: str
    is_response: bool
    stream: bool
    status: int
    answer: bytes
    tokens: Mapping[str, int]

    @property
    def kind(self) -> str:
        """Name the kind of call."""
        name = "Responses API" if self.is_response else "chat completions"
        how = ", streamed" if self.stream else ""
        return f"{name}{how}" if self.status == _OK else f"{name}{how}, refused with {self.status}"


@dataclass(frozen=True)
class Conversation:
    """Hold the exchanges of one cassette that can be replayed, and count the others by the reason why not."""

    name: str
    exchanges: list[Exchange] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def conversations(source: Path) -> Iterator[Conversation]:
    """Yield the conversations of a source distribution, in the order of their names."""
    with tarfile.open(source) as archive:
        names = sorted(name for name in archive.getnames() if "/cassettes/" in name)
        for name in names:
            file = archive.extractfile(name)
            if file is not None and name.endswith((".yaml", ".yaml.gz")):
                yield read_cassette(name.rpartition("/")[2].partition(".yaml")[0], _unpacked(file.read()))


def read_cassette(name: str, text: bytes) -> Conversation:
    """Read one cassette, in VCR's own form or as two lists of requests and responses."""
    document = _load_yaml(text)
    if "interactions" in document:
        pairs = [(one["request"], one["response"]) for one in document["interactions"]]
    else:
        pairs = list(zip(document["requests"], document["responses"], strict=True))
    conversation = Conversation(name)
    for request, response in pairs:
        exchange = _exchange(request, response)
        if isinstance(exchange, str):
            conversation.skipped[exchange] += 1
        else:
            conversation.exchanges.append(exchange)
    return conversation


def _exchange(request: Mapping[str, Any], response: Mapping[str, Any]) -> Exchange | str:
    """Return an exchange, or why it can't be replayed."""
    if request["method"] != "POST":
        return f"{request['method']}: a file or a setting that was fetched"
    body = _parsed(_unpacked(_bytes(request["body"])))
    if not isinstance(body, dict):
        return "POST of something that is no JSON"
    if "messages" not in body and ("input" not in body or "encoding_format" in body):
        return "embeddings, which LangChain has no callbacks for" if "input" in body else "no call of a chat model"
    answer = _unpacked(_bytes(response["body"]))
    is_response, stream = "input" in body, bool(body.get("stream"))
    usage = _usage_streamed(answer, is_response=is_response) if stream else (_parsed(answer) or {}).get("usage")
    return Exchange(
        model=body["model"],
        is_response=is_response,
        stream=stream,
        status=response["status"]["code"],
        answer=answer,
        tokens=_tokens(usage or {}),
    )


def _usage_streamed(answer: bytes, *, is_response: bool) -> Mapping[str, Any] | None:
    """Find the usage among server-sent events: on the last chunk, or in the response that ends the stream."""
    usage = None
    for line in answer.splitlines():
        event = _parsed(line.removeprefix(b"data:")) if line.startswith(b"data:") else None
        if not isinstance(event, dict):
            continue
        if not is_response:
            usage = event.get("usage") or usage
        elif event.get("type") in _FINAL:
            usage = event["response"].get("usage")
    return usage


def _tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    """Put a usage object into our words; the two APIs name its sides differently."""
    prompt_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    completion_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    counts = {
        "prompt_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "completion_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        "total_tokens": usage.get("total_tokens"),
        "cached_tokens": prompt_details.get("cached_tokens"),
        "reasoning_tokens": completion_details.get("reasoning_tokens"),
    }
    return {name: count for name, count in counts.items() if count is not None}


def _bytes(body: object) -> bytes:
    """Return a body as VCR keeps it: bytes or text, bare or under ``string``."""
    if isinstance(body, dict):
        body = body.get("string")
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else b""


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(_GZIP) else data


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _load_yaml(text: bytes) -> Any:
    try:
        yaml = import_module("yaml")
    except ModuleNotFoundError as error:
        msg = "Recorded conversations are YAML: pip install 'langchain-swarmlet-metrics[conformance]'"
        raise ModuleNotFoundError(msg) from error
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
