"""Run the demonstration and print what each of the three tiers shows."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TextIO

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import OpenAIError

from langchain_swarmlet_metrics import report
from langchain_swarmlet_metrics.demo import model as stand_in
from langchain_swarmlet_metrics.demo.cost import Stopwatch
from langchain_swarmlet_metrics.demo.tools import TOOLS
from langchain_swarmlet_metrics.events import timestamp
from langchain_swarmlet_metrics.logs import configure_logging
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.supervisor import SUPERVISOR_PROMPT_HINT
from langchain_swarmlet_metrics.testing import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from langchain_core.messages import BaseMessage

    from langchain_swarmlet_metrics.metadata import Metadata

LOG_NAME = "demo.log"
MODEL_NAME = "gpt-5-mini"
_PAGE_DELAY_S = 0.12

_SUPERVISOR = f"""You delegate each task to a worker of its own with spawn_worker, all of them at once. Then you read
every worker's result and metrics, and the metrics.jsonl of the slowest. Say which worker was slowest, its milliseconds,
and which failed and why. {SUPERVISOR_PROMPT_HINT}"""

_WORKER = "You do one task with the tool that fits and answer in one sentence."

_REQUEST = """Have these done and tell me which worker was slowest:
- How full is the disk of this machine?
- Fetch {url} and say what it reports
- Calculate (7*6)/(3-3)"""


def main(root: Path, *, live: bool, command: str = "swarmlet-metrics", out: TextIO | None = None) -> int:
    """Run the demonstration.

    Args:
        root: where the worker folders and the log go; they are left there.
        live: whether to use the real OpenAI API instead of the loopback stand-in.
        command: how to call the command line, for the lines that say how to look at the folders.
        out: where to print; by default standard output.

    Returns:
        The exit status: 0 when the supervisor answered.

    Raises:
        ConnectionError: the model did not answer.
    """
    out = out or sys.stdout
    runner = WorkerRunner(root)
    log = runner.store.root / LOG_NAME
    handler = configure_logging(log)
    log_starts_at = log.stat().st_size
    began = timestamp(time.time_ns())
    with closing(handler), Stopwatch() as stopwatch:
        messages = _run_supervisor(runner, live=live, out=out)
    workers = [found for found in runner.store.list(limit=200) if found.created_at >= began]
    workers.sort(key=lambda found: found.job_id or 0)
    _show(runner, messages, workers, out)
    lines = log.read_bytes()[log_starts_at:].decode()
    _section(out, "Tier 3, for developers: the log", lines.rstrip(), _following(log))
    print(f"\nMetrics cost {stopwatch}.\n\nThe folders stay. Look at them:", file=out)
    looking = f"  {command} --root {shlex.quote(str(root))}"
    print(f"{looking} list\n{looking} show {workers[0].job_id if workers else 1}", file=out)
    return 0


def _run_supervisor(runner: WorkerRunner, *, live: bool, out: TextIO) -> Sequence[BaseMessage]:
    """Let the supervisor delegate, and return the messages of its run."""
    with _page_server() as page, _model(live=live, out=out) as model:
        worker = create_agent(model, TOOLS, system_prompt=_WORKER)
        tools = runner.supervisor_tools(worker=worker)
        supervisor = create_agent(model, tools, system_prompt=_SUPERVISOR)
        try:
            state = supervisor.invoke({"messages": [HumanMessage(_REQUEST.format(url=page))]})
        except OpenAIError as error:
            msg = f"the model did not answer: {type(error).__name__}: {error_text(error)}"
            raise ConnectionError(msg) from error
        return state["messages"]  # type: ignore[no-any-return]


@contextmanager
def _model(*, live: bool, out: TextIO) -> Iterator[ChatOpenAI]:
    """Give the model: the real OpenAI API, or the stand-in behind a real HTTP server on this machine."""
    if live:
        print(f"Model: {MODEL_NAME} of the real OpenAI API.", file=out)
        yield ChatOpenAI(model=MODEL_NAME)
        return
    with OpenAIServer(stand_in.reply) as server:
        print(
            f"Model: no language model. A small rule-based stand-in at {server.url} speaks the OpenAI API over real\n"
            f"HTTP and calls itself {MODEL_NAME}; agents, tools, calls and times are real. With OPENAI_API_KEY set,\n"
            "`swarmlet-metrics demo --live` uses the real API and the same code.",
            file=out,
        )
        yield ChatOpenAI(model=MODEL_NAME, base_url=server.url, api_key="none-needed", stream_usage=True)  # type: ignore[arg-type]


def _show(runner: WorkerRunner, messages: Sequence[BaseMessage], workers: Sequence[Metadata], out: TextIO) -> None:
    """Print tier 1 and tier 2 as the supervisor's messages and the folders have them."""
    answers = [message for message in messages if isinstance(message, ToolMessage)]
    results = [message.text for message in answers if message.name == "read_worker_result"]
    digests = [message.text for message in answers if message.name == "read_worker_metrics"]
    _section(out, "Tier 1, always visible: what the supervisor saw", "\n\n---\n\n".join(results))
    paths = "\n".join(str(runner.store.root / found.worker_id / "metrics.jsonl") for found in workers)
    _section(out, "Tier 2, on demand: the digests it asked for", "\n\n---\n\n".join(digests), paths)
    asked = sum(len(message.tool_calls) for message in messages if isinstance(message, AIMessage))
    _section(out, f"The supervisor's answer, after {asked} tool calls", messages[-1].text)
    _section(out, "The workers", "\n".join(report.line_text(runner.store, found) for found in workers))


def _following(log: Path) -> str:
    return f"tail -f {shlex.quote(str(log))} | grep llm_call_complete"


def _section(out: TextIO, title: str, *texts: str) -> None:
    print(f"\n=== {title} ===\n", file=out)
    print(report.for_terminal("\n\n".join(texts), out), file=out)


@contextmanager
def _page_server() -> Iterator[str]:
    """Serve a status page on this machine that takes its time."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StatusPage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/status"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _StatusPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer any request with the status."""
        time.sleep(_PAGE_DELAY_S)
        body = f"all services answer; this one took {_PAGE_DELAY_S * 1000:.0f} ms".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        """Keep quiet: requests are the demo's own."""
