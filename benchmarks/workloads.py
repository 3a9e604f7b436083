"""The work that contestants watch: models and tools that answer at once, and what is done with them.

No model reaches a network: what remains is LangChain's own time, which is what a handler's is compared with.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from langchain import agents
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.tools import StructuredTool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from langchain_core.callbacks import BaseCallbackHandler

CHUNKS = 500
THREADS = 8
AT_ONCE = 100
TOKENS_PER_CALL = 110

_TOOL_CALLS = 3
_MODEL = "gpt-5-mini"
_USAGE = {"input_tokens": 100, "output_tokens": 10, "total_tokens": TOKENS_PER_CALL}
_HISTORY: list[BaseMessage] = [
    (AIMessage if number % 2 else HumanMessage)("word " * 400, id=f"message-{number}") for number in range(200)
]


@dataclass(frozen=True)
class Workload:
    """Describe one kind of work.

    Args:
        name: of the method of `Stage` that does it.
        title: what one unit of it is.
        times: how many units a block has.
        llm_calls: how many a unit makes.
        tool_calls: how many a unit makes.
    """

    name: str
    title: str
    times: int
    llm_calls: int = 1
    tool_calls: int = 0


WORKLOADS = {
    work.name: work
    for work in (
        Workload("sync", "one LLM call and one tool call", 50, 1, 1),
        Workload("async", "the same, awaited", 50, 1, 1),
        Workload("gather", f"the same, {AT_ONCE} awaited at once", 100, 1, 1),
        Workload("stream", f"one LLM call of {CHUNKS} chunks", 6),
        Workload("astream", f"the same, asynchronous, {CHUNKS} chunks", 4),
        Workload("threads", f"one LLM call and one tool call, in {THREADS} threads", 80, 1, 1),
        Workload("agent", "`create_agent`: 4 LLM calls, 3 tool calls", 10, _TOOL_CALLS + 1, _TOOL_CALLS),
        Workload("aagent", "the same, asynchronous: 4 LLM calls, 3 tool calls", 10, _TOOL_CALLS + 1, _TOOL_CALLS),
        Workload("message", "one LLM call with one message", 75),
        Workload("history", "one LLM call with 200 messages of 2 kB", 75),
    )
}


class InstantModel(BaseChatModel):
    """Answer at once, with usage, and ask for a tool as long as fewer than three have answered if tools are bound."""

    model_name: str = _MODEL
    tools: bool = False

    @property
    def _llm_type(self) -> str:
        return "instant"

    def bind_tools(self, tools: Sequence[Any], **_options: Any) -> InstantModel:  # noqa: ARG002 - it knows which
        """Return the model that asks for the tool."""
        return InstantModel(tools=True)

    def _generate(self, messages: list[BaseMessage], *_args: Any, **_options: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    async def _agenerate(self, messages: list[BaseMessage], *_args: Any, **_options: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        asked = sum(isinstance(message, ToolMessage) for message in messages) if self.tools else _TOOL_CALLS
        requests = [{"name": "echo", "args": {"text": "hello"}, "id": f"call-{asked}"}] if asked < _TOOL_CALLS else []
        return AIMessage(
            "" if requests else "42",
            tool_calls=requests,
            usage_metadata=dict(_USAGE),
            response_metadata={"model_name": _MODEL},
        )


class StreamingModel(InstantModel):
    """Answer in chunks, the last with usage."""

    def _stream(
        self, _messages: list[BaseMessage], _stop: Any = None, run_manager: Any = None, **_options: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks():
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self, _messages: list[BaseMessage], _stop: Any = None, run_manager: Any = None, **_options: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks():
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


class HangingModel(InstantModel):
    """Say that it has been called, and never answer: the call is there to be cancelled."""

    waiting: Any

    async def _agenerate(self, *_args: Any, **_options: Any) -> ChatResult:
        self.waiting.set()
        return await asyncio.get_running_loop().create_future()


def _chunks() -> Iterator[ChatGenerationChunk]:
    for _ in range(CHUNKS - 1):
        yield ChatGenerationChunk(message=AIMessageChunk("word "))
    last = AIMessageChunk("end", usage_metadata=dict(_USAGE), response_metadata={"model_name": _MODEL})
    yield ChatGenerationChunk(message=last)


def _echo(text: str) -> str:
    """Return the text."""
    return text


async def _aecho(text: str) -> str:
    return text


class Stage:
    """Do the work, with some callbacks; each method does so many units of one workload.

    Args:
        callbacks: what LangChain is to call; none for who attaches itself otherwise.
    """

    def __init__(self, callbacks: Sequence[BaseCallbackHandler] = ()) -> None:
        self._config = {"callbacks": list(callbacks)} if callbacks else {}
        self._model = InstantModel()
        self._streaming = StreamingModel()
        self._tool = StructuredTool.from_function(func=_echo, coroutine=_aecho, name="echo")

    @cached_property
    def _agent(self) -> Any:
        return agents.create_agent(InstantModel(), [self._tool])

    def do(self, workload: str, times: int) -> None:
        """Do so many units of a workload."""
        getattr(self, f"do_{workload}")(times)

    def do_sync(self, times: int) -> None:
        """Make pairs of an LLM call and a tool call."""
        for _ in range(times):
            self._model.invoke("What is 40 + 2?", self._config)
            self._tool.invoke({"text": "hello"}, self._config)

    def do_async(self, times: int) -> None:
        """Await one pair after the other."""

        async def one_after_the_other() -> None:
            for _ in range(times):
                await self.pair()

        asyncio.run(one_after_the_other())

    def do_gather(self, times: int) -> None:
        """Await many pairs at once."""

        async def at_once() -> None:
            for begin in range(0, times, AT_ONCE):
                await asyncio.gather(*(self.pair() for _ in range(min(AT_ONCE, times - begin))))

        asyncio.run(at_once())

    def do_stream(self, times: int) -> None:
        """Read streams to their ends."""
        for _ in range(times):
            for _chunk in self._streaming.stream("What is 40 + 2?", self._config):
                pass

    def do_astream(self, times: int) -> None:
        """Read asynchronous streams to their ends."""

        async def read() -> None:
            for _ in range(times):
                async for _chunk in self._streaming.astream("What is 40 + 2?", self._config):
                    pass

        asyncio.run(read())

    def do_threads(self, times: int) -> None:
        """Make pairs in several threads that have the context."""
        shares = [len(range(first, times, THREADS)) for first in range(THREADS)]
        with ContextThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(self.do_sync, shares):
                pass

    def do_agent(self, times: int) -> None:
        """Run an agent."""
        for _ in range(times):
            self._agent.invoke({"messages": [("user", "What is 40 + 2?")]}, self._config)

    def do_aagent(self, times: int) -> None:
        """Run an agent asynchronously."""

        async def run() -> None:
            for _ in range(times):
                await self._agent.ainvoke({"messages": [("user", "What is 40 + 2?")]}, self._config)

        asyncio.run(run())

    def do_message(self, times: int) -> None:
        """Make LLM calls with a short prompt."""
        for _ in range(times):
            self._model.invoke("What is 40 + 2?", self._config)

    def do_history(self, times: int) -> None:
        """Make LLM calls with a long history."""
        for _ in range(times):
            self._model.invoke(_HISTORY, self._config)

    async def pair(self) -> None:
        """Await one LLM call and one tool call."""
        await self._model.ainvoke("What is 40 + 2?", self._config)
        await self._tool.ainvoke({"text": "hello"}, self._config)

    async def call(self) -> None:
        """Await one LLM call."""
        await self._model.ainvoke("What is 40 + 2?", self._config)

    async def cancelled_call(self) -> None:
        """Cancel an LLM call that waits for its model."""
        waiting = asyncio.Event()
        call = asyncio.create_task(HangingModel(waiting=waiting).ainvoke("What is 40 + 2?", self._config))
        await waiting.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
