"""The stage on which a situation plays: real models, tools and agents, loopback servers, and the handler under test.

A script is one coroutine that plays both ways. Asynchronously it runs on an event loop; synchronously it is driven by
hand, and every await of it ends at once because the stage then calls ``invoke`` where it would call ``ainvoke``.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import ExitStack, aclosing, closing, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, MessagesState, StateGraph

from langchain_swarmlet_metrics.testing.conformance.truth import Notes, Truth, truth_of
from langchain_swarmlet_metrics.testing.openai_server import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables import Runnable, RunnableConfig

    from langchain_swarmlet_metrics.testing.conformance.observed import Status
    from langchain_swarmlet_metrics.testing.openai_server import Request
    from langchain_swarmlet_metrics.testing.openai_wire import Reply

Mode = Literal["sync", "async"]
T = TypeVar("T")

_AFTERMATH_S = 2.0


class Stage:
    """Give a script what it plays with, and keep what really happened.

    Args:
        mode: Whether the script calls LangChain synchronously or asynchronously.
        make_handlers: Makes the handlers under test; each call makes new ones.
    """

    def __init__(self, mode: Mode, make_handlers: Callable[[], Sequence[BaseCallbackHandler]]) -> None:
        self.mode = mode
        self.notes = Notes()
        self.make_handlers = make_handlers
        self.handlers = list(make_handlers())
        self.servers: list[OpenAIServer] = []
        self._open = ExitStack()

    @property
    def config(self) -> RunnableConfig:
        """Return the config that attaches the handler to a run."""
        return {"callbacks": list(self.handlers)} if self.handlers else {}  # LangChain trips over an empty list

    def play(self, script: Callable[[Stage], Coroutine[Any, Any, None]]) -> Truth:
        """Run a script to its end and return what really happened."""
        with self._open:
            if self.mode == "sync":
                _drive(script(self))
            else:
                asyncio.run(_until_quiet(script(self)))
        return truth_of((request for server in self.servers for request in server.requests), self.notes)

    # What a script builds

    def serve(self, *replies: Reply | Callable[[Request], Reply]) -> OpenAIServer:
        """Start a server that gives these replies in order, or that asks the one callable."""
        reply: Any = replies[0] if len(replies) == 1 and callable(replies[0]) else replies
        self.servers.append(self._open.enter_context(OpenAIServer(reply)))
        return self.servers[-1]

    def model(self, *replies: Reply | Callable[[Request], Reply], **options: Any) -> ChatOpenAI:
        """Return a real ChatOpenAI that talks HTTP to a new server with these replies."""
        return ChatOpenAI(**(self.model_options(*replies) | options))

    def model_options(self, *replies: Reply | Callable[[Request], Reply]) -> dict[str, Any]:
        """Return what makes a model talk to a new server with these replies: one call is one request."""
        return {"model": "gpt-5-mini", "api_key": "loopback", "base_url": self.serve(*replies).url, "max_retries": 0}

    def tool(self, act: Callable[..., Awaitable[Any]], **options: Any) -> BaseTool:
        """Return a tool, synchronous and asynchronous, that notes how each call of it ends."""
        name = getattr(act, "__name__", "tool")

        @functools.wraps(act)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.noting(name) as note:
                return note(_drive(act(*args, **kwargs)))

        @functools.wraps(act)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            with self.noting(name) as note:
                return note(await act(*args, **kwargs))

        return StructuredTool.from_function(run, arun, name=name, description=act.__doc__, **options)

    def answering(self, model: Runnable[Any, Any], config: RunnableConfig | None = None) -> Any:
        """Return a graph of one node, which calls the model, with a config of its own or none."""

        async def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await self.invoke_inside(model, state["messages"], config)]}

        graph = StateGraph(MessagesState)
        graph.add_node("answer", self.node(answer))
        graph.add_edge(START, "answer")
        return graph.compile()

    def node(self, act: Callable[[Any], Awaitable[Any]]) -> Any:
        """Return a function that can be a graph's node in this mode."""
        return act if self.mode == "async" else lambda state: _drive(act(state))

    @contextmanager
    def noting(self, tool: str) -> Iterator[Callable[[T], T]]:
        """Note how the block ends as how a call of the tool ended; the callable takes what the tool returns."""
        status: list[Status] = []

        def note(output: T) -> T:
            status.append("error" if getattr(output, "status", None) == "error" else "ok")
            return output

        try:
            yield note
        except BaseException as error:
            status.append(_status_after(error))
            raise
        finally:
            self.notes.tool_calls.append((tool, status[-1] if status else "ok"))

    # What a script does

    async def invoke(self, runnable: Runnable[Any, T], value: Any, config: RunnableConfig | None = None) -> T:
        """Invoke with the handler attached, and with what else the config says."""
        return await self.invoke_inside(runnable, value, {**self.config, **(config or {})})

    async def invoke_inside(self, runnable: Runnable[Any, T], value: Any, config: RunnableConfig | None = None) -> T:
        """Invoke from inside a run, to which the handler is attached already."""
        if self.mode == "sync":
            return runnable.invoke(value, config)
        return await runnable.ainvoke(value, config)

    async def batch(self, runnable: Runnable[Any, Any], values: list[Any]) -> None:
        """Run a batch of which some may fail."""
        if self.mode == "sync":
            runnable.batch(values, self.config, return_exceptions=True)
        else:
            await runnable.abatch(values, self.config, return_exceptions=True)

    async def stream(self, runnable: Runnable[Any, Any], value: Any, chunks: int | None = None, **options: Any) -> None:
        """Stream to the end, or close the stream after that many chunks."""
        self.notes.broken_off |= chunks is not None
        if self.mode == "sync":
            with closing(runnable.stream(value, self.config, **options)) as stream:  # type: ignore[type-var]
                for _ in islice(stream, chunks):
                    pass
            return
        async with aclosing(runnable.astream(value, self.config, **options)) as astream:  # type: ignore[type-var]
            read = 0
            async for _ in astream:
                read += 1
                if read == chunks:
                    break

    async def fails(self, awaitable: Awaitable[Any]) -> None:
        """Await what has to fail.

        Raises:
            RuntimeError: It did not.
        """
        self.notes.broken_off = True
        with suppress(Exception):
            await awaitable
            msg = "the script expected this call to fail, but it returned"
            raise _DidNotFailError(msg)

    async def cancel(self, coroutine: Coroutine[Any, Any, Any], ready: Awaitable[Any]) -> None:
        """Run a coroutine in a task and cancel that once it is where it shall be."""
        self.notes.broken_off = True
        task = asyncio.create_task(coroutine)
        await ready
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def requested(self, count: int = 1) -> None:
        """Wait, asynchronously, until the last server has that many requests."""
        await asyncio.to_thread(self.servers[-1].wait_for_requests, count)


class _DidNotFailError(BaseException):
    """Say that a call succeeded that a script wants to fail; no ``except Exception`` on the way hides it."""


def question(text: str = "What is 3 + 7?") -> Any:
    """Return the input of an agent."""
    return {"messages": [HumanMessage(text)]}


def _status_after(error: BaseException) -> Status:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "interrupted" if isinstance(error, GraphBubbleUp) else "error"


def _drive(awaitable: Any) -> Any:
    """Run a coroutine that never has to wait, without an event loop."""
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    msg = "a script waited for something in synchronous mode"
    raise RuntimeError(msg)


async def _until_quiet(script: Coroutine[Any, Any, None]) -> None:
    """Run a script, then let the tasks that it left behind finish: handlers may still be told of an end in one."""
    await script
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=_AFTERMATH_S)
