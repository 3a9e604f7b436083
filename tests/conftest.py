"""Fixtures that every test module may use, and the checks that no test leaves anything behind."""

from __future__ import annotations

import io
import logging
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import certifi
import pytest
from langchain_openai import ChatOpenAI

from langchain_swarmlet_metrics import collector, handler, inflight, logs, scrub
from langchain_swarmlet_metrics.events import Event, decode
from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.testing import OpenAIServer, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a call open, a collector current or a log handler attached."""
    logger = logging.getLogger("langchain_swarmlet_metrics")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    patterns = scrub.added_patterns
    yield
    scrub.added_patterns = patterns
    deadline = time.monotonic() + 10
    while not logs.drain() and time.monotonic() < deadline:
        time.sleep(0.01)  # a handler that hung in the test has just been let go
    left = list(inflight.calls.values())
    inflight.calls.clear()
    enclosing = dict(inflight._enclosing)
    inflight._enclosing.clear()
    current = collector.get_metrics_collector()
    collector.set_metrics_collector(None)
    attached = [added for added in logger.handlers if added not in handlers]
    for added in attached:
        logger.removeHandler(added)
        added.close()
    logger.setLevel(level)
    logger.propagate = propagate
    assert not left, "the test left calls open"
    assert not enclosing, "the test left chains in the parent map"
    assert current is None, "the test left a collector current"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests from the user's data, keys and tracing."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWARMLET_DATA_PATH", str(tmp_path / "workers"))


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority, for plain HTTP: each new client would spend 20 ms on loading all of them."""
    first, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----")
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(first + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture
def runner(tmp_path: Path) -> WorkerRunner:
    """Return a runner with a root of its own."""
    return WorkerRunner(tmp_path / "workers")


class Loopback:
    """Start loopback model servers and make models that talk to them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.server: OpenAIServer | None = None

    def serve(self, *replies: Reply | Callable[..., Reply]) -> OpenAIServer:
        """Start a server that gives these replies in order, or that asks the one callable."""
        reply: Any = replies[0] if len(replies) == 1 and callable(replies[0]) else replies
        self.server = self._stack.enter_context(OpenAIServer(reply))
        return self.server

    def model(self, *replies: Reply | Callable[..., Reply], **options: Any) -> ChatOpenAI:
        """Return a real ChatOpenAI that talks HTTP to a new server with these replies."""
        server = self.serve(*replies)
        defaults = {"model": "gpt-5-mini", "api_key": "loopback", "base_url": server.url, "max_retries": 0}
        return ChatOpenAI(**(defaults | options))


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    """Give servers that stop with the test."""
    with ExitStack() as stack:
        yield Loopback(stack)


@pytest.fixture
def restored_logger() -> Iterator[None]:
    """Leave our logger as it was found; pytest may have handlers of its own on it."""
    logger = logging.getLogger(logs.LOGGER_NAME)
    level, propagate = logger.level, logger.propagate
    yield
    for attached in [other for other in logger.handlers if other.name in (logs.LOGGER_NAME, "own")]:
        logger.removeHandler(attached)
        attached.close()
    logger.filters.clear()
    logger.setLevel(level)
    logger.propagate = propagate


def read_lines(path: Path) -> list[Event]:
    """Return the events in a metrics.jsonl, every line of which must be one."""
    events = [decode(line) for line in path.read_bytes().splitlines()]
    assert None not in events
    return events  # type: ignore[return-value]


@contextmanager
def recording(worker_id: str | None = "w") -> Iterator[list[Event]]:
    """Record what runs inside the block into a list, with a collector of its own and no files."""
    recorded: list[Event] = []
    current = collector.MetricsCollector(worker_id, writer=recorded.append)
    token, attached = collector.set_metrics_collector(current), handler.attach()
    try:
        yield recorded
        inflight.close_calls(current, cancelled=False)
    finally:
        handler.detach(attached)
        collector.reset_metrics_collector(token)


class DemoRun(NamedTuple):
    """Name what a run of the demo left: the root, the log, and what it printed."""

    root: Path
    log: Path
    output: str


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """Run the demo once and return what it left; tests only read it."""
    from langchain_swarmlet_metrics.demo import run as demo

    root = tmp_path_factory.mktemp("demo") / "workers"
    out = io.StringIO()
    logger = logging.getLogger("langchain_swarmlet_metrics")
    before = list(logger.handlers), logger.level, logger.propagate
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
            patch.delenv(name, raising=False)
        assert demo.main(root, live=False, out=out) == 0
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)
    return DemoRun(root, root / demo.LOG_NAME, out.getvalue())
