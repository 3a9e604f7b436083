"""The collector: by hand, in the context, guarded against its sinks."""

from __future__ import annotations

import contextvars
import copy
import threading
import time
from datetime import UTC, datetime

import pytest

from langchain_swarmlet_metrics import collector as collectors
from langchain_swarmlet_metrics.collector import MetricsCollector, phase, set_metrics_collector
from langchain_swarmlet_metrics.events import decode, encode
from langchain_swarmlet_metrics.handler import MetricsCallbackHandler
from langchain_swarmlet_metrics.store import ArtifactStore


def recorder():
    """Return a collector that keeps its events in a list, and the list."""
    recorded = []
    return MetricsCollector("w", writer=recorded.append), recorded


def test_record_by_hand():
    """Calls recorded by hand get ids in order, times that agree, and what is known."""
    collector, recorded = recorder()
    began = datetime(2025, 12, 15, 4, 8, 8, tzinfo=UTC)
    collector.record_llm_call(
        phase="initial", model="m", start_ts=began, end_ts=began.timestamp() + 0.098, prompt_tokens=5
    )
    collector.record_tool_call(tool_name="t", start_ts="2025-12-15T04:08:09.000000Z", end_ts=began, agent="a")
    llm, tool = recorded
    assert (llm.id, llm.duration_ms, llm.prompt_tokens, llm.completion_tokens) == (1, 98, 5, None)
    assert (llm.start_ts, llm.end_ts) == ("2025-12-15T04:08:08.000000Z", "2025-12-15T04:08:08.098000Z")
    assert (tool.id, tool.success, tool.agent, tool.duration_ms) == (2, True, "a", 0)


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, "unknown"), ("", "unknown"), ("a\nb\x1b[31m", None), ("x" * 10_000, None), (b"raw", None), (12, "12")],
)
def test_odd_names(value, kept):
    """Names of any kind become short text on one line."""
    collector, recorded = recorder()
    collector.record_tool_call(tool_name=value, start_ts=0, end_ts=1)
    (event,) = recorded
    assert len(event.tool) <= 200
    assert event.tool.isprintable()
    assert kept is None or event.tool == kept
    assert decode(encode(event)) == event


@pytest.mark.parametrize("error", ["x" * 10**6, "a\r\nb\u2028c\x00", b"\xff", ValueError(), object(), "\ud800"])
def test_odd_errors(error):
    """Errors of any kind become one capped line."""
    collector, recorded = recorder()
    collector.record_llm_call(phase="p", model="m", start_ts=0, end_ts=1, error=error)
    (event,) = recorded
    assert event.success is False
    assert len(event.error) <= 500
    assert event.error.isprintable()
    assert decode(encode(event)) == event


@pytest.mark.parametrize("tokens", [None, -1, 10**30, "many", float("nan"), [], True])
def test_odd_token_counts(tokens):
    """What is no count is not known."""
    collector, recorded = recorder()
    collector.record_llm_call(phase="p", model="m", start_ts=0, end_ts=1, prompt_tokens=tokens, completion_tokens=3)
    assert (recorded[0].prompt_tokens, recorded[0].completion_tokens) == (None, 3)
    assert collector.totals.prompt_tokens is None


def test_unreadable_times():
    """A time that cannot be read is an error that names it."""
    collector, _ = recorder()
    with pytest.raises(ValueError, match="no time zone"):
        collector.record_tool_call(tool_name="t", start_ts=datetime(2025, 1, 1), end_ts=0)  # noqa: DTZ001
    with pytest.raises(ValueError, match=r"'yesterday' is no time; give seconds since the epoch, or datetime.now"):
        collector.record_tool_call(tool_name="t", start_ts="yesterday", end_ts=0)
    with pytest.raises(ValueError, match="no time"):
        collector.record_tool_call(tool_name="t", start_ts=float("inf"), end_ts=0)
    with pytest.raises(TypeError, match="colour"):
        collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1, colour="red")


def test_a_worker_is_no_collector(runner):
    """Who gives a worker in the place of its collector is told at once, not when its calls are lost."""
    worker = runner.worker("try")
    for take in (MetricsCallbackHandler, set_metrics_collector):
        with pytest.raises(TypeError, match=r"a Worker is no MetricsCollector; of a worker, give worker.collector"):
            take(worker)


def test_flush_needs_a_folder(tmp_path):
    """Flushing into a worker that has no folder says so and keeps the events."""
    store = ArtifactStore(tmp_path / "workers")
    collector = MetricsCollector("2025-12-15T04-08-08_missing")
    collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    with pytest.raises(FileNotFoundError, match="missing"):
        collector.flush(store)
    assert len(collector._buffer) == 1


def test_one_broken_sink_stops_nothing(caplog):
    """A sink that raises is named in one warning and counted; the others get every event."""

    def broken(event):
        msg = "no room"
        raise OSError(msg)

    before, after = [], []
    collector = MetricsCollector("w", writer=before.append, sinks=[broken, after.append])
    for _ in range(3):
        collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    assert len(before) == len(after) == 3
    assert collector.completeness.dropped_events == 3
    (warning,) = caplog.records
    assert "broken" in warning.getMessage()
    assert "no room" in warning.getMessage()


def test_calls_that_cannot_be_read(caplog):
    """Calls that cannot be read are counted, with one warning of their own; the reason is that of the first failure."""

    def broken(event):
        msg = "no room"
        raise OSError(msg)

    collector = MetricsCollector("w", sinks=[broken])
    collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    for _ in range(2):
        collector.count_unread(KeyError("update"))
    assert collector.completeness.dropped_events == 3
    assert "no room" in collector.completeness.drop_reason
    assert caplog.text.count("cannot be read, and is only counted") == 1


def test_interrupt_passes():
    """Ctrl-C inside a sink is the user's, not swallowed."""

    def interrupted(event):
        raise KeyboardInterrupt

    collector = MetricsCollector("w", sinks=[interrupted])
    with pytest.raises(KeyboardInterrupt):
        collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)


def test_context():
    """The current collector is that of the context, and comes back after the inner one."""
    outer, inner = MetricsCollector("outer"), MetricsCollector("inner")
    first = collectors.set_metrics_collector(outer)
    second = collectors.set_metrics_collector(inner)
    assert collectors.get_metrics_collector() is inner
    assert contextvars.Context().run(collectors.get_metrics_collector) is None
    collectors.reset_metrics_collector(second)
    assert collectors.get_metrics_collector() is outer
    collectors.reset_metrics_collector(first)
    assert collectors.get_metrics_collector() is None


def test_reset_in_another_context():
    """A token of another context clears the current collector instead of raising."""
    token = contextvars.copy_context().run(collectors.set_metrics_collector, MetricsCollector("w"))
    collectors.reset_metrics_collector(token)
    assert collectors.get_metrics_collector() is None


def test_phase():
    """A named phase holds inside its block only, even when it raises."""

    def fail():
        assert collectors.current_phase() == "my phase"
        raise LookupError

    with pytest.raises(LookupError), phase("my\nphase"):
        fail()
    assert collectors.current_phase() is None


def test_nesting():
    """A collector knows what it is nested in, and what of that has not ended."""
    outer = MetricsCollector("outer")
    inner = MetricsCollector("inner", parent=MetricsCollector("middle", parent=outer))
    assert inner.open_ancestor() is inner.parent
    inner.parent.left = True
    assert inner.open_ancestor() is outer
    outer.left = True
    assert inner.open_ancestor() is None
    assert inner.is_within(outer)
    assert not outer.is_within(inner)


def test_copies_are_the_same():
    """A deep copy of a collector is the collector."""
    collector = MetricsCollector("w")
    assert copy.deepcopy({"x": collector})["x"] is collector


def test_threads():
    """Counts are exact when many threads record at once."""
    collector, recorded = recorder()

    def work():
        for _ in range(500):
            collector.record_llm_call(phase="p", model="m", start_ts=0, end_ts=1, prompt_tokens=1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.totals.llm_calls == collector.totals.prompt_tokens == len(recorded) == 4000
    assert len({event.id for event in recorded}) == 4000


@pytest.mark.parametrize(
    "fields",
    [
        {"cost_usd": "0.01"},
        {"cost_usd": float("nan")},
        {"cost_usd": -3.0},
        {"outcome": "bogus"},
        {"ttft_ms": -5},
        {"id": "x"},
        {"usage_source": "guessed"},
    ],
)
def test_impossible_fields(fields):
    """A hand-made event that no reader would take is refused when it is made, with what is wrong."""
    collector, recorded = recorder()
    with pytest.raises(ValueError, match="no LLMCall"):
        collector.record_llm_call(phase="p", model="m", start_ts=0, end_ts=1, **fields)
    assert recorded == []
    collector.record_llm_call(phase="p", model="m", start_ts=0, end_ts=1, agent=object, cost_usd=0.5)
    assert (recorded[0].id, collector.totals.llm_calls, collector.totals.cost_usd) == (1, 1, 0.5)


def test_totals_inside_a_signal_handler():
    """Asking for the totals while this very thread counts them neither hangs nor counts twice."""
    collector, _ = recorder()

    class Asking(type(collector._totals)):
        def add(self, event):
            assert collector.totals is not None
            super().add(event)

    collector._totals = Asking()
    for _ in range(3):
        collector.record_tool_call(tool_name="t", start_ts=0, end_ts=1)
    assert collector.totals.tool_calls == 3


def test_late_calls_are_counted_once_each():
    """Late calls that several handlers see, one after the other or mixed, count once each."""
    collector, _ = recorder()
    for run in (1, 2, 1, 2, 3):
        collector.count_late(run)
    assert collector.completeness.late_calls == 3


def test_a_sink_that_ends_the_worker_does_not_wait_for_itself(monkeypatch):
    """An event that this very thread records by hand is none to wait for."""
    monkeypatch.setattr(collectors, "_CLOSE_S", 60.0)
    collector = MetricsCollector("w", sinks=[lambda _event: collector.close()])
    begun = time.monotonic()
    collector.record_tool_call(tool_name="add", start_ts=0, end_ts=1)
    assert time.monotonic() - begun < 30
    assert (collector.closed, collector.totals.tool_calls) == (True, 1)
