"""Make a root of many workers that look like real ones, fast, to try out what reads them.

    python -m benchmarks.generator ROOT [--workers 10000] [--events 50] [--largest 100000]

The files are written by the package's own store; only the agents have never run. The same
numbers give the same workers, but for their dates: the newest is from now, the oldest from a month ago.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import Root
from langchain_swarmlet_metrics.events import Event, LLMCall, ToolCall, span, time_ns, timestamp
from langchain_swarmlet_metrics.folder import RESULT_FILE, folder_name, make_folder, replace_file
from langchain_swarmlet_metrics.metadata import Completeness, Metadata, Process, Totals
from langchain_swarmlet_metrics.store import ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Iterator

_MONTH_NS = 30 * 24 * 3600 * 10**9
_MS = 10**6
_LARGE = 2
_FIRST_PROMPT, _WINDOW = 900, 120_000
_DO = ("back up", "restart", "check", "upgrade", "summarize the logs of", "find the slow queries of", "move")
_WHAT = ("the shop", "the billing database", "the mail queue", "the search index", "host web-7", "the staging cluster")
_TOOLS = ("ssh_exec", "read_file", "write_file", "sql_query", "http_get", "web_search", "search_docs")
_MODELS = (("openai", "gpt-5-mini"), ("openai", "gpt-5"), ("anthropic", "claude-sonnet-4-5"))
_ERRORS = (
    ("TimeoutError", "TimeoutError: ssh: connect to host web-7 port 22: Connection timed out"),
    ("FileNotFoundError", "FileNotFoundError: [Errno 2] No such file or directory: '/var/log/shop/error.log.7'"),
    ("OperationalError", 'OperationalError: relation "orders_2024" does not exist at character 15'),
)
_SENTENCE = "The backup took long because the index of table orders is missing, so each query reads all rows. "
_LLM_FAILS, _TOOL_FAILS, _TOOL_ASKS_LLM = 0.01, 0.04, 0.03
_ENDINGS = {"lost": 1, "cancelled": 2, "failed": 6, "success": 91}


def make_root(root: Path, workers: int, events: int, largest: int = 0) -> Root:
    """Make a root and tell what is in it.

    Args:
        root: its folder, missing or empty.
        workers: how many.
        events: how many each has.
        largest: how many the two oldest have instead; 0 for as many as the others.

    Raises:
        FileExistsError: there is something in the folder already.
    """
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        msg = f"{root} is not empty; name a new folder"
        raise FileExistsError(msg)
    began, now_ns, store = time.monotonic(), time.time_ns(), ArtifactStore(root)
    for job_id in range(1, workers + 1):
        count = largest if largest and job_id <= _LARGE else events
        _make_worker(store, job_id, count, now_ns - _MONTH_NS * (workers - job_id) // workers)
    store.list(limit=1)  # builds the index from the folders, as it is missing
    return Root(workers=workers, events=events, largest=largest or events, made_in_s=time.monotonic() - began)


def make_events(count: int, seed: int, start_ns: int) -> list[Event]:
    """Return the events of an agent that calls a model, some tools, the model again, and so on, until it answers.

    Args:
        count: how many.
        seed: the same seed gives the same events.
        start_ns: when the first call starts, nanoseconds since the epoch.
    """
    agent = _Agent(random.Random(seed), start_ns)
    return [*islice(agent.work(), max(count - 1, 0)), *islice(agent.answer(), min(count, 1))]


@dataclass
class _Agent:
    """Invent what an agent does, call by call."""

    random: random.Random
    clock_ns: int
    ids: int = 0
    prompt_tokens: int = _FIRST_PROMPT
    model: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.random.choice(_MODELS)

    def work(self) -> Iterator[Event]:
        """Yield calls in the order in which they end."""
        phase = "initial"
        while True:
            asked = self._llm_call(phase)
            yield asked
            phase = "tool_decision"
            for _ in range(self.random.choice((1, 1, 1, 2, 3))):
                yield from self._tool_call(asked.id)

    def answer(self) -> Iterator[Event]:
        """Yield the call that ends the work."""
        yield self._llm_call("synthesis")

    def _llm_call(self, phase: str, parent_id: int | None = None) -> LLMCall:
        provider, model = self.model
        completion = self.random.randint(20, 400)
        if self.prompt_tokens > _WINDOW:  # what was said before is summarized
            self.prompt_tokens = _FIRST_PROMPT
        self.prompt_tokens += completion + self.random.randint(50, 600)
        is_failed = self.random.random() < _LLM_FAILS
        elapsed_ns = self.random.randint(400, 9000) * _MS
        start_ts, end_ts, duration_ms = self._pass(elapsed_ns)
        return LLMCall(
            phase=phase,
            model=model,
            start_ts=start_ts,
            end_ts=end_ts,
            duration_ms=duration_ms,
            prompt_tokens=None if is_failed else self.prompt_tokens,
            completion_tokens=None if is_failed else completion,
            total_tokens=None if is_failed else self.prompt_tokens + completion,
            id=self._next_id(),
            parent_id=parent_id,
            success=False if is_failed else None,
            error="RateLimitError: Error code: 429 - Rate limit reached for requests" if is_failed else None,
            error_type="RateLimitError" if is_failed else None,
            ttft_ms=None if is_failed else duration_ms // 5,
            cached_tokens=None if is_failed else self.prompt_tokens // 2,
            provider=provider,
        )

    def _tool_call(self, requested_by: int | None) -> Iterator[Event]:
        start_ns, tool_id = self.clock_ns, self._next_id()
        if self.random.random() < _TOOL_ASKS_LLM:
            yield self._llm_call("initial", parent_id=tool_id)
        elapsed_ns = self.clock_ns - start_ns + self.random.randint(5, 3000) * _MS
        self.clock_ns = start_ns
        start_ts, end_ts, duration_ms = self._pass(elapsed_ns)
        error_type, error = self.random.choice(_ERRORS) if self.random.random() < _TOOL_FAILS else (None, None)
        yield ToolCall(
            tool=self.random.choice(_TOOLS),
            start_ts=start_ts,
            end_ts=end_ts,
            duration_ms=duration_ms,
            success=error is None,
            error=error,
            id=tool_id,
            requested_by=requested_by,
            error_type=error_type,
        )

    def _pass(self, elapsed_ns: int) -> tuple[str, str, int]:
        """Return the times of a call that starts now, and let it pass."""
        times = span(self.clock_ns, elapsed_ns)
        self.clock_ns += elapsed_ns + self.random.randint(100, 3000) * 1000
        return times

    def _next_id(self) -> int:
        self.ids += 1
        return self.ids


def _make_worker(store: ArtifactStore, job_id: int, count: int, created_ns: int) -> None:
    choose = random.Random(job_id)
    task = f"{choose.choice(_DO)} {choose.choice(_WHAT)}, ticket {job_id}"
    worker_id = make_folder(store.root, folder_name(created_ns, task))
    events = make_events(count, job_id, created_ns + _MS)
    store.append(worker_id, events)
    metadata = Metadata(
        worker_id=worker_id,
        job_id=job_id,
        task=task,
        created_at=timestamp(created_ns),
        started_at=timestamp(created_ns + _MS),
        process=Process.current(),
    )
    (ending,) = choose.choices([*_ENDINGS], [*_ENDINGS.values()])
    if ending == "lost":
        metadata.status = "running"  # and nobody holds its lock
    else:
        metadata.status = ending
        _end(metadata, events)
        replace_file(store.root / worker_id / RESULT_FILE, (_SENTENCE * choose.randint(2, 20)).encode())
    store.save(metadata)


def _end(metadata: Metadata, events: list[Event]) -> None:
    """Have a worker end with its last event."""
    if metadata.status == "failed":
        metadata.error = _ERRORS[0][1]
    metadata.totals, metadata.completeness = Totals(), Completeness()
    for event in events:
        metadata.totals.add(event)
        metadata.completeness.add(event)
    began_ns = time_ns(metadata.started_at or metadata.created_at)
    ended_ns = max((time_ns(event.end_ts) for event in events), default=began_ns)
    _, metadata.finished_at, metadata.duration_ms = span(began_ns, ended_ns - began_ns)


def main() -> None:
    """Make a root as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--largest", type=int, default=100_000, help="events of the two oldest workers")
    options = parser.parse_args()
    made = make_root(options.root, options.workers, options.events, options.largest)
    print(f"{made.workers} workers in {options.root}, made in {made.made_in_s:.0f} s")


if __name__ == "__main__":
    main()
