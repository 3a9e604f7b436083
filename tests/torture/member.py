"""A process of the crowd: many threads write events, each into workers of its own and into one that some share."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_swarmlet_metrics import MetricsCallbackHandler, WorkerRunner

if TYPE_CHECKING:
    from langchain_swarmlet_metrics import Worker

_SHARING = 4  # threads write to one worker
_OWN = 2  # workers of each thread
_EVERY = 8  # of so many events two come from LangChain


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def _write(worker: Worker, number: int, config: dict[str, Any]) -> None:
    """Write so many events: some by a model and a tool that run, most by hand."""
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    answer = AIMessage("42", usage_metadata=usage, response_metadata={"model_name": "gpt-5-mini"})
    model = GenericFakeChatModel(messages=itertools.repeat(answer))
    for count in range(number):
        at = time.time()
        if count % _EVERY == 0:
            model.invoke("What is 40 + 2?", config)
        elif count % _EVERY == 1:
            add.invoke({"a": 40, "b": 2}, config)
        elif count % 2:
            worker.collector.record_tool_call(tool_name="ssh", start_ts=at, end_ts=at, error="no route to host")
        else:
            worker.collector.record_llm_call(
                phase="initial", model="gpt-5-mini", start_ts=at, end_ts=at, prompt_tokens=3, completion_tokens=4
            )


def _work(runner: WorkerRunner, shared: Worker, events: int) -> Counter[str]:
    """Write so many events into workers, and return how many into which."""
    counts: Counter[str] = Counter()
    bound = {"callbacks": [MetricsCallbackHandler(shared.collector)]}
    parts = [events // (_OWN + 1)] * _OWN
    for part in parts:
        with runner.worker("one of a crowd") as worker:
            _write(worker, part, {})
            counts[worker.worker_id] += part
    rest = events - sum(parts)
    _write(shared, rest, bound)
    counts[shared.worker_id] += rest
    return counts


def main(root: str, threads: int, events: int) -> None:
    """Say that it is ready, write when it is told to, and say how many events it wrote into which worker.

    Args:
        root: the folder of the worker folders.
        threads: how many write.
        events: how many they write together.
    """
    runner = WorkerRunner(root)
    with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
        shared = [stack.enter_context(runner.worker("shared by some")) for _ in range(-(-threads // _SHARING))]
        print("ready", flush=True)
        sys.stdin.readline()
        parts = [events // threads + (number < events % threads) for number in range(threads)]
        pending = [pool.submit(_work, runner, shared[number // _SHARING], part) for number, part in enumerate(parts)]
        counts = sum((future.result() for future in pending), Counter[str]())
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
