"""WorkerRunner: where people start. It makes workers, runs agents as workers, and builds the supervisor's tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_swarmlet_metrics import agents, supervisor
from langchain_swarmlet_metrics.folder import require_writable
from langchain_swarmlet_metrics.modes import PRIVATE
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.sinks import sink_relay
from langchain_swarmlet_metrics.spawn import Spawner
from langchain_swarmlet_metrics.store import ArtifactStore
from langchain_swarmlet_metrics.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool

    from langchain_swarmlet_metrics.agents import Agent, Summarizer
    from langchain_swarmlet_metrics.sinks import Sink

Owner: TypeAlias = "str | Callable[[], str | None] | None"


class WorkerRunner:
    """Run workers and keep what they did in folders.

    Args:
        root: where the worker folders are; by default ``SWARMLET_DATA_PATH``, ``/data/swarmlet/workers`` when it is
            writable, or the user data folder.
        owner_id: whose jobs these are, a text or a callable asked each time; the supervisor tools show this owner's
            jobs only. None sees every job.
        sinks: what else takes each event: called with the `Worker` as its block starts, each returns a sink. They run
            in a thread of their own; the end of the block waits up to a second for those that have not caught up.
        summarizer: a chat model or a callable that turns a prompt into the worker's ``summary``.
        store_task: whether the task is written to disk; without it, the worker's name is neutral too.
        capture_content: whether the messages, and inputs and outputs of tools, are written into each worker's folder,
            without secrets.
        file_mode: of the files that are made, as for `ArtifactStore`.

    Raises:
        PermissionError: somebody else can change what is in the root.
        OSError: the root cannot be written; the message names the path, the reason and the variable to set.
        ValueError: there is no such ``file_mode``.
        TypeError: one of the ``sinks`` is no callable.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        owner_id: Owner = None,
        sinks: Iterable[Callable[[Worker], Sink]] = (),
        summarizer: Summarizer | None = None,
        store_task: bool = True,
        capture_content: bool = False,
        file_mode: int = PRIVATE,
    ) -> None:
        self.store = ArtifactStore(root, file_mode=file_mode)
        require_writable(self.store.root)
        self.sinks = tuple((sink_relay(), _sink_factory(make_sink)) for make_sink in sinks)
        self.summarizer = summarizer
        self.store_task = store_task
        self.capture_content = capture_content
        self._owner_id = owner_id

    @property
    def owner_id(self) -> str | None:
        """Return whose jobs these are, now.

        Raises:
            LookupError: the user's callable failed, or returned None.
        """
        if not callable(self._owner_id):
            return None if self._owner_id is None else str(self._owner_id)
        try:
            owner = self._owner_id()
        except Exception as error:
            msg = f"whose worker jobs these are could not be told: {type(error).__name__}: {error_text(error)}"
            raise LookupError(msg) from error
        if owner is None:  # not everybody's: a callable that does not know must not open every job
            msg = "whose worker jobs these are is not known: the callable given as owner_id returned None"
            raise LookupError(msg)
        return str(owner)

    def worker(self, task: str, *, config: Mapping[str, Any] | None = None, traceparent: str | None = None) -> Worker:
        """Return a worker for a task, to be used as ``with`` or ``async with`` block.

        Args:
            task: what the worker is asked to do.
            config: the user's own notes on the worker, kept in ``metadata.json``.
            traceparent: the W3C Trace Context header of the request that it works for; a worker without one belongs to
                the trace of the worker it is nested in. One that is not valid is not kept, and a warning says so.

        Raises:
            TypeError: the task is no text, or the notes are no mapping.
        """
        return Worker(self, _text(task), _notes(config), traceparent)

    def run(
        self,
        agent: Agent,
        task: str | Worker,
        *,
        config: RunnableConfig | None = None,
        input: Callable[[str], Any] | None = None,  # noqa: A002 - LangChain's own word for it
        timeout_s: float | None = None,
    ) -> Worker:
        """Run an agent on a task and return the worker, whose status and error say how it went.

        Args:
            agent: a graph, any other Runnable, or a callable that takes the task.
            task: what the agent is asked to do, or a worker for it that has not been opened. A graph with
                ``messages`` gets the task as a HumanMessage, others as text.
            config: LangChain's config of the run.
            input: makes the agent's input from the task, where the above does not fit.
            timeout_s: seconds after which the worker has failed; the agent's thread stops at its next call.

        Raises:
            TypeError: the agent can't be called.
            ValueError: the timeout is no time.
            BaseException: CancelledError and KeyboardInterrupt are raised again, an agent's `Exception` is not.
        """
        agents.require(agent, timeout_s)
        worker = (task if isinstance(task, Worker) else self.worker(task)).open()
        try:
            given = agents.input_of(agent, worker.task, input)
            run_config = agents.config_of(agent, worker.worker_id, config)
            worker.result = agents.call(agent, given, run_config, timeout_s)
        except Exception as error:  # noqa: BLE001 - what an agent raises is the worker's outcome
            if isinstance(error, agents.AgentTimeoutError):
                worker.collector.stop()
            worker.close(error)
        except BaseException as error:
            worker.collector.stop()
            worker.close(error)
            raise
        else:
            worker.close()
        return worker

    async def arun(
        self,
        agent: Agent,
        task: str | Worker,
        *,
        config: RunnableConfig | None = None,
        input: Callable[[str], Any] | None = None,  # noqa: A002 - LangChain's own word for it
        timeout_s: float | None = None,
    ) -> Worker:
        """Run an agent on a task as `run` does, on the caller's loop.

        Args:
            agent: a graph, any other Runnable, or a callable; what is only synchronous runs in a thread.
            task: what the agent is asked to do, or a worker for it that has not been opened.
            config: LangChain's config of the run.
            input: makes the agent's input from the task.
            timeout_s: seconds after which the agent is cancelled and the worker has failed.

        Raises:
            TypeError: the agent can't be called.
            ValueError: the timeout is no time.
            BaseException: CancelledError and KeyboardInterrupt are raised again, an agent's `Exception` is not.
        """
        agents.require(agent, timeout_s)
        worker = await (task if isinstance(task, Worker) else self.worker(task)).__aenter__()
        try:
            given = agents.input_of(agent, worker.task, input)
            run_config = agents.config_of(agent, worker.worker_id, config)
            worker.result = await agents.acall(agent, given, run_config, timeout_s)
        except Exception as error:  # noqa: BLE001 - what an agent raises is the worker's outcome
            if isinstance(error, agents.AgentTimeoutError):
                worker.collector.stop()
            await worker.aclose(error)
        except BaseException as error:
            worker.collector.stop()  # what is left of it in threads stops at its next call
            await worker.aclose(error)
            raise
        else:
            await worker.aclose()
        return worker

    def supervisor_tools(
        self,
        *,
        worker: Agent | None = None,
        include: Sequence[str] | None = None,
        max_workers: int = 8,
        max_depth: int = 3,
        executor: Executor | None = None,
    ) -> list[BaseTool]:
        """Return the tools with which a supervisor agent starts workers and reads how they did.

        Args:
            worker: the agent that spawned workers run; without one there are no tools to spawn and cancel.
            include: names of the tools to return; by default all.
            max_workers: how many spawned workers run at once; further ones wait their turn.
            max_depth: how deep workers may spawn workers; 1 lets only the supervisor spawn.
            executor: where synchronous supervisors run their workers; by default daemon threads.

        Raises:
            ValueError: a name in ``include`` is no tool, or a limit is below 1.
        """
        spawner = None
        if worker is not None:
            spawner = Spawner(self, worker, max_workers=max_workers, max_depth=max_depth, executor=executor)
        return supervisor.tools(self.store, lambda: self.owner_id, spawner, include)


def _sink_factory(make_sink: Any) -> Callable[[Worker], Sink]:
    if callable(make_sink):
        return make_sink  # type: ignore[no-any-return]
    msg = f"sinks are callables that take a worker and return a sink, not {make_sink!r}"
    raise TypeError(msg)


def _notes(config: Any) -> Mapping[str, Any] | None:
    if config is None or isinstance(config, Mapping):
        return config
    msg = f"a worker's config is a mapping, your own notes on it, not {config!r}"
    raise TypeError(msg)


def _text(task: object) -> str:
    if isinstance(task, str):
        return task
    msg = f"a worker's task is a text, not {task!r}"
    raise TypeError(msg)
