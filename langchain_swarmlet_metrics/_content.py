"""Pure readers of the content in what LangChain hands over: messages, answers, inputs and outputs of tools.

What they return is plain data: texts, numbers, and copies of lists and dicts, which nobody else changes.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from langchain_core.messages import ToolMessage

from langchain_swarmlet_metrics.messages import Data, Request, Said
from langchain_swarmlet_metrics.scrub import as_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

    from langchain_swarmlet_metrics.content import Role

_ROLES: dict[object, Role] = {
    **dict.fromkeys(("human", "HumanMessageChunk", "user"), "human"),
    **dict.fromkeys(("ai", "AIMessageChunk", "assistant"), "ai"),
    **dict.fromkeys(("system", "SystemMessageChunk", "developer"), "system"),
    **dict.fromkeys(("tool", "ToolMessageChunk", "function", "FunctionMessageChunk"), "tool"),
}
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
_MOST_PARTS = 10_000
_DEEPEST = 16


def said_of(message: BaseMessage) -> Said:
    """Return what a message says."""
    get = message.__dict__.get  # as attributes, fields that a kind of message lacks would take most of the time
    content = get("content")
    role = _ROLES.get(get("type")) or _ROLES.get(get("role"), "other")
    asked = [*(get("tool_calls") or ()), *(get("invalid_tool_calls") or ())] if role == "ai" else ()
    if not asked and not content and role == "ai":
        content = _refusal(get("additional_kwargs"))
    if not asked and type(content) is str:
        return Said(role, content, get("id"), get("name"), (), get("tool_call_id"))
    copy = _Copy()
    requests = [Request(request.get("name"), copy.of(request.get("args")), request.get("id")) for request in asked]
    return Said(role, copy.of(content), get("id"), get("name"), requests, get("tool_call_id"), copy.is_cut)


def answers_of(result: LLMResult | None, *, is_partial: bool) -> list[Said]:
    """Return the answers in an LLM result; of a call that failed, those that say something."""
    choices = result.generations[0] if result is not None and result.generations else []
    messages = (getattr(choice, "message", None) for choice in choices)
    answers = [
        Said("ai", choice.text) if message is None else said_of(message)
        for choice, message in zip(choices, messages, strict=True)
    ]
    return [answer for answer in answers if answer.content or answer.requests or not is_partial]


def output_of(output: object) -> Said | Data:
    """Return what a tool returned, or the class and the text of what it raised."""
    if isinstance(output, ToolMessage):
        return said_of(output)
    if isinstance(output, BaseException):
        return Data(": ".join(filter(None, [type(output).__name__, as_text(output)])))
    return data_of(output)


def data_of(value: object) -> Data:
    """Return a copy of data; of what is no data only its type."""
    copy = _Copy()
    return Data(copy.of(value), copy.is_cut)


def _refusal(additional: Mapping[str, Any] | None) -> str | list[dict[str, str]]:
    """Return the content of an answer that has none: the provider may have put a refusal elsewhere."""
    refusal = additional.get("refusal") if additional else None
    return [{"type": "refusal", "refusal": refusal}] if isinstance(refusal, str) else ""


class _Copy:
    """Copy data, up to a number of parts."""

    __slots__ = ("_room", "is_cut")

    def __init__(self) -> None:
        self.is_cut = False
        self._room = _MOST_PARTS

    def of(self, value: Any, depth: int = 0) -> Any:
        """Copy one value."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if depth < _DEEPEST:
            return self._parts(kind, value, depth + 1)
        self.is_cut = True
        return _type_of(kind)

    def _parts(self, kind: type, value: Any, depth: int) -> Any:
        # issubclass() and not isinstance(), which asks the object itself, and runs its code
        if issubclass(kind, dict):
            return {
                key if type(key) is str else _name(key): part if type(part) in _ATOMS else self.of(part, depth)
                for key, part in self._affordable(dict.items(value))
            }
        if issubclass(kind, (list, tuple, set, frozenset)):
            return [self.of(part, depth) for part in self._affordable(value)]
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, (int, float)):
            return value
        fields = _fields(kind, value)
        return _type_of(kind) if fields is None else self.of(fields, depth)

    def _affordable(self, items: Collection[Any]) -> list[Any]:
        """Return the items there is room for: a copy, as another thread may change the container meanwhile."""
        size = len(items)
        if size > self._room:
            self.is_cut = True
            size = self._room
        self._room -= size
        return list(islice(items, size))


def _name(key: object) -> str:
    return str(key) if type(key) in _ATOMS else _type_of(type(key))


def _type_of(kind: type) -> str:
    return f"<{kind.__qualname__}>"


def _fields(kind: Any, value: Any) -> dict[str, Any] | None:
    """Return the fields of a dataclass or a pydantic model, None of anything else."""
    if hasattr(kind, "__dataclass_fields__"):
        return {name: getattr(value, name, None) for name in kind.__dataclass_fields__}
    return value.__dict__ if hasattr(kind, "__pydantic_fields__") else None
