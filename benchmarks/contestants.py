"""Who watches the work: nobody, the least that can watch, and LangChain's own sums of tokens."""

from __future__ import annotations

import time
from contextlib import nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler

from benchmarks.workloads import TOKENS_PER_CALL

try:
    from orjson import dumps as to_json
except ModuleNotFoundError:
    to_json = msgspec.json.encode

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path
    from uuid import UUID

    from langchain_core.outputs import LLMResult


LLM, TOOL = "llm", "tool"


class Contestant:
    """Watch the work; used in one process, for one workload after the other.

    Args:
        folder: where it may write.
    """

    name: str
    title: str
    records: frozenset[str] = frozenset()
    """Which calls it is made to record: ``llm``, ``tool``."""
    patches = False
    """Whether it attaches itself to everything in the process for good."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = copy_context()
        """Where the work is done, as this is where some attach themselves."""
        self.callbacks: list[BaseCallbackHandler] = []

    def switched_on(self) -> AbstractContextManager[object]:
        """Return what is around each block and is not measured."""
        return nullcontext()

    def flush(self) -> None:
        """Finish what waits in threads or queues; measured, as it is work that was put off."""

    def settle_in(self) -> None:
        """Finish what the unit after the switching on has put off; not measured."""
        self.flush()

    def catch_up(self) -> None:
        """Wait for what is being done in threads, without an end to it."""
        self.flush()

    def recorded(self) -> int | None:
        """Return how many calls have arrived where it keeps them; None for who keeps none."""
        return None

    def without_content(self) -> int:
        """Return of how many of them the content is missing that was to be captured."""
        return 0

    def left_open(self) -> int | None:
        """Return how many calls it still holds as open; None for who holds none."""
        return None

    def close(self) -> None:
        """Let go of everything."""


class Nobody(Contestant):
    """Have no callbacks: what the others are compared with."""

    name, title = "none", "no callbacks"


class NobodyAgain(Contestant):
    """Have no callbacks either: how far two measurements of the same work differ."""

    name, title = "again", "no callbacks, again"


class _Empty(BaseCallbackHandler):
    run_inline = True
    ignore_chain = ignore_retriever = ignore_retry = ignore_custom_event = True

    def on_chat_model_start(self, *_args: Any, **_kwargs: Any) -> None:
        """Be there: without it LangChain renders the prompt as text for ``on_llm_start``."""


class Floor(Contestant):
    """Do nothing, inline: what LangChain itself charges for calling anybody."""

    name, title = "floor", "an empty handler (the floor)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.callbacks = [_Empty()]


class _LineHandler(_Empty):
    """Write one line of JSON per call into an open file, with what nobody does without, and nothing beyond."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.open: dict[UUID, tuple[float, str | None]] = {}

    def on_chat_model_start(
        self, _serialized: object, _messages: object, *, run_id: UUID, metadata: Any = None, **_kwargs: Any
    ) -> None:
        self.open[run_id] = time.time(), (metadata or {}).get("ls_model_name")

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_kwargs: Any) -> None:
        usage = response.generations[0][0].message.usage_metadata or {}
        tokens = {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "total_tokens": usage.get("total_tokens"),
        }
        self._write(run_id, "llm_call", "model", tokens)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        self._write(run_id, "llm_call", "model", {"error": repr(error)})

    def on_tool_start(self, serialized: dict[str, Any], _input: str, *, run_id: UUID, **_kwargs: Any) -> None:
        self.open[run_id] = time.time(), serialized.get("name")

    def on_tool_end(self, _output: object, *, run_id: UUID, **_kwargs: Any) -> None:
        self._write(run_id, "tool_call", "tool", {})

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        self._write(run_id, "tool_call", "tool", {"error": repr(error)})

    def _write(self, run_id: UUID, event: str, kind: str, known: dict[str, Any]) -> None:
        end_ts = time.time()
        start_ts, name = self.open.pop(run_id)
        line = {
            "event": event,
            "run_id": str(run_id),
            kind: name,
            "start_ts": start_ts,
            "end_ts": end_ts,
            "duration_ms": (end_ts - start_ts) * 1000,
            **known,
        }
        self.file.write(to_json(line) + b"\n")


class Reference(Contestant):
    """Write a line per call with as little as that takes: what the goals are stated against."""

    name, title = "reference", "a minimal handler: one JSON line per call (the reference)"
    records = frozenset({LLM, TOOL})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "reference.jsonl"
        self._handler = _LineHandler(self._path.open("ab", buffering=0))
        self.callbacks = [self._handler]

    def recorded(self) -> int:
        """Count the lines of the file."""
        return count_lines(self._path)

    def left_open(self) -> int:
        """Count the calls that it has not seen the end of."""
        return len(self._handler.open)

    def close(self) -> None:
        """Close the file."""
        self._handler.file.close()


class UsageSums(Contestant):
    """Sum up tokens by model, as LangChain's own handler does."""

    name, title = "usage", "UsageMetadataCallbackHandler"
    records = frozenset({LLM})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._handler = UsageMetadataCallbackHandler()
        self.callbacks = [self._handler]

    def recorded(self) -> int:
        """Tell the calls from the tokens, of which each has the same number."""
        return sum(usage["total_tokens"] for usage in self._handler.usage_metadata.values()) // TOKENS_PER_CALL


def count_lines(path: Path) -> int:
    """Count the lines of a file; a missing one has none."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0
