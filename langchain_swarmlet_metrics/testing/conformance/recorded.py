"""Replay the conversations with OpenAI that langchain-openai recorded for its own tests, and compare every token.

Its source distribution carries them as VCR cassettes (https://vcrpy.readthedocs.io): requests and responses in YAML.
Each recorded answer is served over loopback HTTP to a real ``ChatOpenAI`` inside a worker block, and the tokens in
``metrics.jsonl`` are compared with those in the recorded body, which is parsed here once more, by other means.

``python -m langchain_swarmlet_metrics.testing.conformance.recorded --out docs/conformance.md``
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_openai import ChatOpenAI

from langchain_swarmlet_metrics.eventlog import read_events
from langchain_swarmlet_metrics.events import LLMCall
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.testing.conformance.cassettes import Conversation, Exchange, conversations
from langchain_swarmlet_metrics.testing.conformance.report import write_section
from langchain_swarmlet_metrics.testing.openai_server import OpenAIServer
from langchain_swarmlet_metrics.testing.openai_wire import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_swarmlet_metrics.testing.conformance.stage import Mode

_DISTRIBUTION = "langchain-openai"
_INTRODUCTION = """\
What OpenAI once answered: the recordings in the tests of `{source}`, which `make conformance-recorded` fetches
from the package index and does not keep. Every recorded answer of a chat model is served over loopback HTTP to a real
`ChatOpenAI`, with `invoke` or `stream` as it was recorded, and once more asynchronously. The prompt, completion, total,
cached and reasoning tokens in `metrics.jsonl` are compared with those in the recorded body, which is parsed a second
time by other means. A call whose body has no usage must have no tokens, and a refused call must be recorded as failed.
"""
_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


@dataclass
class Replayed:
    """Count what was replayed and what was not.

    Args:
        source: The file that held the conversations.
        calls: Calls replayed, by kind.
        skipped: Exchanges not replayed, by reason.
        differing: What was recorded otherwise than it is in the body.
        conversations: Conversations of which calls were replayed.
        with_usage: Calls whose body reports a usage.
        tokens: The sum of the totals in the bodies.
    """

    source: str
    calls: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)
    conversations: int = 0
    with_usage: int = 0
    tokens: int = 0

    def add(self, conversation: Conversation) -> None:
        """Count a conversation that is replayed."""
        self.conversations += 1
        self.calls.update(exchange.kind for exchange in conversation.exchanges)
        self.with_usage += sum(bool(exchange.tokens) for exchange in conversation.exchanges)
        self.tokens += sum(exchange.tokens.get("total_tokens", 0) for exchange in conversation.exchanges)


def fetch(folder: Path) -> Path:
    """Download the source distribution of the installed langchain-openai into a folder; nothing is installed.

    Raises:
        CalledProcessError: pip could not.
    """
    wanted = f"{_DISTRIBUTION}=={metadata.version(_DISTRIBUTION)}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", _DISTRIBUTION, wanted]
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - pip, as the user would call it
    return next(folder.glob("*.tar.gz"))


def replay(source: Path) -> Replayed:
    """Replay every exchange that is a call of a chat model, in both modes, and compare the tokens."""
    result = Replayed(source.name)
    with tempfile.TemporaryDirectory() as root:
        runner = WorkerRunner(root)
        for conversation in conversations(source):
            result.skipped.update(conversation.skipped)
            if not conversation.exchanges:
                continue
            result.add(conversation)
            for mode in ("sync", "async"):
                events = _replay_conversation(runner, conversation, mode)
                result.differing += _differences(conversation, mode, events)
    return result


def _replay_conversation(runner: WorkerRunner, conversation: Conversation, mode: Mode) -> list[LLMCall]:
    replies = [Reply(status=exchange.status, body=exchange.answer) for exchange in conversation.exchanges]
    with OpenAIServer(replies) as server, runner.worker(conversation.name) as worker:
        for exchange in conversation.exchanges:
            _call(exchange, server.url, mode)
    return [event for event in read_events(worker.dir / "metrics.jsonl") if isinstance(event, LLMCall)]


def _call(exchange: Exchange, url: str, mode: Mode) -> None:
    """Make a call of the recorded kind; the answer that it gets does not depend on what is asked."""
    model = ChatOpenAI(
        model=exchange.model,
        base_url=url,
        api_key="loopback",  # type: ignore[arg-type]
        max_retries=0,
        stream_usage=True,
        use_responses_api=exchange.is_response,
    )
    try:
        if mode == "async":
            asyncio.run(_acall(exchange, model))
        elif exchange.stream:
            for _ in model.stream("hello"):
                pass
        else:
            model.invoke("hello")
    except Exception:
        if exchange.status < 400:  # noqa: PLR2004 - the first status of a failure
            raise


async def _acall(exchange: Exchange, model: ChatOpenAI) -> None:
    if exchange.stream:
        async for _ in model.astream("hello"):
            pass
    else:
        await model.ainvoke("hello")


def _differences(conversation: Conversation, mode: Mode, events: Sequence[LLMCall]) -> Iterable[str]:
    if len(events) != len(conversation.exchanges):
        yield f"{conversation.name}, {mode}: {len(events)} of {len(conversation.exchanges)} calls recorded"
        return
    for number, (exchange, event) in enumerate(zip(conversation.exchanges, events, strict=True), start=1):
        recorded = {name: getattr(event, name) for name in _FIELDS if name in exchange.tokens}
        unasked = not exchange.tokens and event.total_tokens is not None
        if recorded != exchange.tokens or unasked or event.failed != (exchange.status >= 400):  # noqa: PLR2004
            yield f"{conversation.name}, {mode}, call {number}: {recorded} instead of {exchange.tokens}"


def render(result: Replayed) -> str:
    """Render the counts as a section of the report."""
    replayed, differing = result.calls.total(), len(result.differing)
    outcome = (
        f"{result.conversations} conversations, {replayed} calls, {result.with_usage} of them with a usage, of "
        f"{result.tokens} tokens in all; each call in both modes: **{differing} recorded otherwise than in the body.**"
    )
    parts = [
        "## Recorded conversations",
        _INTRODUCTION.format(source=result.source),
        _table(("calls", "replayed"), [*sorted(result.calls.items()), ("**all**", replayed)]),
        outcome,
        *(f"- {difference}" for difference in result.differing),
        _table(("skipped", "exchanges"), sorted(result.skipped.items())),
    ]
    return "\n\n".join(part.strip() for part in parts)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {count} |" for name, count in rows)])


def main(arguments: list[str] | None = None) -> int:
    """Fetch, replay and report; 1 when a count differs."""
    parser = argparse.ArgumentParser(prog="conformance-recorded", description="Replay recorded conversations.")
    parser.add_argument("--sdist", type=Path, help="the source distribution; by default it is downloaded")
    parser.add_argument("--out", type=Path, help="the page to write into; by default the section is printed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = replay(options.sdist or fetch(Path(folder)))
    text = render(result)
    sys.stdout.write(text + "\n")
    if options.out is not None:
        write_section(options.out, "recorded", text)
    return 1 if result.differing else 0


if __name__ == "__main__":
    sys.exit(main())
