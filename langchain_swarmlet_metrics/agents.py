"""How agents are called: what a graph, any other Runnable and a callable take, and what text their answer is."""

from __future__ import annotations

import asyncio
import inspect
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from langchain_swarmlet_metrics.threads import DaemonExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig

Agent: TypeAlias = "Runnable[Any, Any] | Callable[[Any], Any]"
Summarizer: TypeAlias = "BaseChatModel | Callable[[str], Any]"

_SUMMARY_LIMIT = 20_000
_SUMMARY_PROMPT = """Summarise in one or two sentences what this worker did and what came of it.

Task:
{task}

Result:
{result}"""


class AgentTimeoutError(TimeoutError):
    """Say that an agent gave no answer in the time it had."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"no answer within {timeout_s:g} s")


def require(agent: object, timeout_s: object = None) -> None:
    """See that an agent can be called, and that a timeout is one.

    Raises:
        TypeError: the agent is neither a Runnable nor a callable.
        ValueError: the timeout is no number of seconds above 0.
    """
    if not isinstance(agent, Runnable) and not callable(agent):
        msg = f"an agent is a graph, another Runnable or a callable, not {agent!r}"
        raise TypeError(msg)
    if timeout_s is not None and not (isinstance(timeout_s, int | float) and timeout_s > 0):
        msg = f"timeout_s={timeout_s!r} is no number of seconds above 0; leave it out to wait without an end"
        raise ValueError(msg)


def input_of(agent: Agent, task: str, make_input: Callable[[str], Any] | None) -> Any:
    """Return what the agent is given: a HumanMessage for a graph with ``messages``, else the task itself."""
    if make_input is not None:
        return make_input(task)
    innermost = _layers(agent)[-1]
    if "messages" in getattr(innermost, "channels", ()):
        return {"messages": [HumanMessage(task)]}
    return task


def config_of(agent: Agent, thread_id: str, config: RunnableConfig | None) -> RunnableConfig | None:
    """Return the run's config, naming the thread of a checkpointed agent unless the user did."""
    layers = _layers(agent)
    if not isinstance(agent, Runnable) or getattr(layers[-1], "checkpointer", None) in (None, False):
        return config
    if any("thread_id" in _configurable(getattr(layer, "config", None)) for layer in layers):
        return config
    configurable = {"thread_id": thread_id, **_configurable(config)}
    return {**(config or {}), "configurable": configurable}


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    return (config or {}).get("configurable") or {}


def _layers(agent: Agent) -> list[object]:
    """Return an agent and what is inside of it where bindings such as ``bind`` and ``with_retry`` wrap another."""
    layers: list[object] = [agent]
    while isinstance(bound := getattr(layers[-1], "bound", None), Runnable):
        layers.append(bound)
    return layers


def call(agent: Agent, given: Any, config: RunnableConfig | None, timeout_s: float | None) -> Any:
    """Call an agent and return its answer.

    Raises:
        AgentTimeoutError: no answer in time; the agent's thread is left behind.
    """

    def invoke() -> Any:
        return agent.invoke(given, config) if isinstance(agent, Runnable) else _call_plain(agent, given)

    if timeout_s is None:
        return invoke()
    future = DaemonExecutor().submit(copy_context().run, invoke)
    try:
        return future.result(timeout_s)
    except TimeoutError:
        if future.done():  # just now, or the error is the agent's own
            return future.result()
        raise AgentTimeoutError(timeout_s) from None


def _call_plain(function: Callable[[Any], Any], given: Any) -> Any:
    answer = function(given)
    if inspect.iscoroutine(answer):
        answer.close()
        msg = f"{function!r} is asynchronous; run it with arun, or from an asynchronous supervisor"
        raise TypeError(msg)
    return answer


async def acall(agent: Agent, given: Any, config: RunnableConfig | None, timeout_s: float | None) -> Any:
    """Call an agent on the running loop and return its answer; what is only synchronous runs in a thread.

    Raises:
        AgentTimeoutError: no answer in time; the agent has been cancelled.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            if isinstance(agent, Runnable):
                return await agent.ainvoke(given, config)
            return await _acall_plain(agent, given)
    except TimeoutError:
        if timeout_s is not None and limit.expired():
            raise AgentTimeoutError(timeout_s) from None
        raise


async def _acall_plain(function: Callable[[Any], Any], given: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(given)
    answer = await asyncio.to_thread(function, given)
    return await answer if inspect.isawaitable(answer) else answer


def text_of(answer: Any) -> str | None:
    """Return an agent's answer as text, or None when it gave none.

    The text of a graph's state is that of its last message; a graph that was interrupted has not answered.
    """
    if answer is None or isinstance(answer, str):
        return answer
    if isinstance(answer, bytes):
        return answer.decode(errors="backslashreplace")
    if isinstance(answer, BaseMessage):
        return str(answer.text)
    if isinstance(answer, dict):
        if answer.get("__interrupt__"):
            return None
        messages = answer.get("messages")
        if isinstance(messages, list) and messages:
            return text_of(messages[-1])
    return _json_or_str(answer)


def _json_or_str(answer: object) -> str:
    try:
        text = msgspec.json.encode(answer, enc_hook=_plain)
        return str(msgspec.json.decode(text)) if text.startswith(b'"') else text.decode()
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return str(_plain(answer))


def _plain(value: object) -> object:
    """Return something that JSON has, of a value that it does not have; never raises."""
    try:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
    except Exception:  # noqa: BLE001 - the object's own code may raise anything
        return f"<{type(value).__name__}>"


def summarize(summarizer: Summarizer, task: str, result: str) -> str | None:
    """Return what a chat model or a callable makes of a worker's task and result."""
    prompt = _SUMMARY_PROMPT.format(task=task, result=result[:_SUMMARY_LIMIT])
    return text_of(call(summarizer, prompt, None, None))


async def asummarize(summarizer: Summarizer, task: str, result: str) -> str | None:
    """Return what `summarize` does, on the running loop."""
    prompt = _SUMMARY_PROMPT.format(task=task, result=result[:_SUMMARY_LIMIT])
    return text_of(await acall(summarizer, prompt, None, None))
