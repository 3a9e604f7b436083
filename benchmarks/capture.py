"""Measure what content capture costs an LLM call, in the agent's thread and in all threads.

    python benchmarks/capture.py [--rounds 9] [--calls 300] [--history 20]

The agent sends a history of that many messages, every second one of which asks for a tool or answers, with each call.
Runners with and without capture alternate in every round, on identical work; medians of the difference are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import count
from time import process_time_ns, thread_time_ns
from typing import TYPE_CHECKING

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_swarmlet_metrics import WorkerRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT = "The disk of the third server is nearly full; its logs of last month could go. " * 6


def history(length: int) -> list[BaseMessage]:
    """Return what an agent sends after a number of calls of a tool."""
    messages: list[BaseMessage] = [SystemMessage(_TEXT), HumanMessage(_TEXT, id="question")]
    for number in range((length - 2) // 2):
        request = {"name": "ssh_exec", "args": {"host": f"server {number}", "command": "df -h"}, "id": f"call {number}"}
        messages += [
            AIMessage("", tool_calls=[request], id=f"asked {number}"),
            ToolMessage(_TEXT, tool_call_id=f"call {number}", id=f"answered {number}"),
        ]
    return messages


def answers() -> Iterator[AIMessage]:
    """Give answers for ever."""
    for number in count():
        yield AIMessage(f"answer {number}", id=f"answer {number}")


def measure(runner: WorkerRunner, prompt: list[BaseMessage], calls: int) -> tuple[float, float]:
    """Return the CPU time of one call in microseconds: of this thread, and of all threads."""
    model = GenericFakeChatModel(messages=answers())
    with runner.worker("benchmark"):
        model.invoke(prompt)
        here, everywhere = thread_time_ns(), process_time_ns()
        for _ in range(calls):
            model.invoke(prompt)
            time.sleep(0.002)  # as the network would, this lets the other thread write
        here = thread_time_ns() - here
    return here / calls / 1000, (process_time_ns() - everywhere) / calls / 1000


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--history", type=int, default=20)
    options = parser.parse_args()
    prompt = history(options.history)
    with tempfile.TemporaryDirectory() as root:
        plain, capturing = WorkerRunner(root), WorkerRunner(root, capture_content=True)
        rounds = [
            (measure(plain, prompt, options.calls), measure(capturing, prompt, options.calls))
            for _ in range(options.rounds)
        ]
    print(f"CPU per LLM call, history of {len(prompt)} messages (us)")
    for place, name in enumerate(("the agent's thread", "all threads")):
        extra = [after[place] - before[place] for before, after in rounds]
        base = statistics.median(before[place] for before, _ in rounds)
        print(
            f"{name:20} {base:8.0f}  with capture {statistics.median(extra):+8.0f}  {min(extra):.0f}..{max(extra):.0f}"
        )


if __name__ == "__main__":
    main()
