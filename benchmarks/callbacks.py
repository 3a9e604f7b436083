"""Compare what recording costs with an empty handler and with none, on identical work in one run.

    python benchmarks/callbacks.py [--rounds 7] [--calls 400]

One piece of work is one LLM call and one tool call. The contestants alternate in every round; what counts is CPU time
above no callbacks and its ratio to the empty handler, which is what LangChain itself charges for calling anybody.
"""

from __future__ import annotations

import argparse
import contextvars
import statistics
import tempfile
from time import process_time_ns
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_swarmlet_metrics import MetricsCallbackHandler, WorkerRunner

if TYPE_CHECKING:
    from collections.abc import Iterator


class Empty(BaseCallbackHandler):
    """Do nothing, inline: the floor."""

    run_inline = True
    ignore_chain = ignore_retriever = ignore_retry = ignore_custom_event = True

    def on_chat_model_start(self, *_args: Any, **_kwargs: Any) -> None:
        """Take the event, so that LangChain does not render the prompt for the fallback."""


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def answers() -> Iterator[AIMessage]:
    """Give the same answer for ever, with usage."""
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    while True:
        yield AIMessage("42", usage_metadata=usage, response_metadata={"model_name": "gpt-5-mini"})


def measure(callbacks: list[BaseCallbackHandler], calls: int) -> float:
    """Return the CPU time of one piece of work in microseconds."""
    model = GenericFakeChatModel(messages=answers())
    config = {"callbacks": callbacks}
    began = process_time_ns()
    for _ in range(calls):
        model.invoke("What is 40 + 2?", config)
        add.invoke({"a": 40, "b": 2}, config)
    return (process_time_ns() - began) / calls / 1000


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        worker = WorkerRunner(root).worker("benchmark")
        contextvars.copy_context().run(worker.open)  # its context would attach it to the others, too
        contestants = {
            "no callbacks": [],
            "empty handler": [Empty()],
            "langchain-swarmlet-metrics": [MetricsCallbackHandler(worker.collector)],
        }
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, callbacks in contestants.items():
                spent = measure(callbacks, options.calls)
                if number:  # the first round warms up
                    taken[name].append(spent)
        worker.close()
    report(taken)


def report(taken: dict[str, list[float]]) -> None:
    """Print CPU per LLM call and tool call, above no callbacks, and as ratio to the floor."""
    bare = taken["no callbacks"]
    floor = statistics.median(spent - base for spent, base in zip(taken["empty handler"], bare, strict=True))
    print(f"{'CPU per LLM call + tool call':30} {'us':>8} {'extra us':>9} {'spread':>13} {'x floor':>8}")
    for name, spent in taken.items():
        extra = [one - base for one, base in zip(spent, bare, strict=True)]
        spread = f"{min(extra):.0f}..{max(extra):.0f}"
        middle = statistics.median(extra)
        print(f"{name:30} {statistics.median(spent):8.0f} {middle:9.1f} {spread:>13} {middle / floor:8.1f}")


if __name__ == "__main__":
    main()
