"""The model that the agents talk to, a server in a process of its own, and the tools that it asks for."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from langchain_core.tools import StructuredTool, ToolException, tool

from langchain_swarmlet_metrics.testing import OpenAIServer, Reply, Request, ToolRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel
    from langchain_core.tools import BaseTool

WARM_UP = "warm up"
"""What is answered at once."""

_LONG_TEXT = "out of cheese at /srv/data/part-0001 - " * 200


def answer(request: Request) -> Reply:
    """Choose a reply that depends on the conversation alone: a few rounds of tools, now and then slow or an error."""
    asked = str(next(message for message in request.messages if message["role"] == "user"))
    rounds = sum(message["role"] == "assistant" for message in request.messages)
    if WARM_UP in asked:
        return Reply(text="ready")
    rng = random.Random(f"{asked}/{rounds}")
    timing = {"delay_s": _delay(rng), "chunk_delay_s": rng.choice([0, 0, 0.02]), "chunks": rng.randint(1, 12)}
    if rng.random() < 0.02:
        return Reply(status=HTTPStatus.INTERNAL_SERVER_ERROR, text="overloaded", headers={"x-should-retry": "false"})
    if request.tools and rounds < random.Random(asked).randint(1, 5):
        wishes = [_wish(rng, request.tools) for _ in range(rng.choice([1, 1, 2, 3]))]
        return Reply(tool_calls=wishes, **timing)
    return Reply(text=f"This is the answer to {asked[:40]}", **timing)


def _delay(rng: random.Random) -> float:
    return rng.uniform(0.5, 2) if rng.random() < 0.15 else rng.uniform(0, 0.1)


def _wish(rng: random.Random, tools: list[str]) -> ToolRequest:
    if "spawn_worker" in tools:
        return ToolRequest("spawn_worker", {"task": f"part {rng.random()}", "wait": rng.random() < 0.7})
    wishes = [
        ToolRequest("add", {"a": rng.randint(1, 9), "b": 2}),
        ToolRequest("wait", {"seconds": round(_delay(rng), 3)}),
        ToolRequest("ask", {"question": f"how about {rng.random()}?"}),
        ToolRequest("fail"),
        ToolRequest("crash"),
        ToolRequest("is_missing"),
    ]
    return rng.choices(wishes, weights=[4, 4, 3, 2, 1, 1])[0]


def tools(model: BaseChatModel) -> list[BaseTool]:
    """Return the workers' tools: a quick one, one that waits, one that asks the model, one that fails at length."""

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tool
    def ask(question: str) -> str:
        """Ask the model."""
        return model.invoke(question).text

    @tool
    def fail() -> str:
        """Fail with a long text that the model is told."""
        raise ToolException(_LONG_TEXT)

    @tool
    def crash() -> str:
        """Fail with a long text that ends the agent."""
        raise ValueError(_LONG_TEXT)

    def wait(seconds: float) -> str:
        """Wait."""
        time.sleep(seconds)
        return "done"

    async def await_(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    fail.handle_tool_error = True
    return [add, ask, fail, crash, StructuredTool.from_function(wait, coroutine=await_, name="wait")]


@contextmanager
def serving(errors: Path) -> Iterator[str]:
    """Run a model server in a process of its own and yield its address.

    Args:
        errors: the file that its standard error is appended to.
    """
    command = [sys.executable, "-m", "tests.torture.model"]
    with (
        errors.open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def main() -> None:
    """Serve until standard input ends; say the address first."""
    with OpenAIServer(answer) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
