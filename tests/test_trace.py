"""Tests of `trace`: which headers name a trace, and which worker belongs to which."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.runner import WorkerRunner
from langchain_swarmlet_metrics.trace import trace_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER_ID = "0af7651916cd43dd8448eb211c80319c"
HEADER = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
OTHER = f"00-{OTHER_ID}-b7ad6b7169203331-00"


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        OTHER,
        f"00-{TRACE_ID}-00f067aa0ba902b7-ff",
        f"cc-{TRACE_ID}-00f067aa0ba902b7-01",
        f"01-{TRACE_ID}-00f067aa0ba902b7-01-what-the-future-will-be-like",
        f"fe-{TRACE_ID}-00f067aa0ba902b7-01-",
        f"01-{TRACE_ID}-00f067aa0ba902b7-01-{'x' * 200}",
    ],
)
def test_a_valid_header(header):
    """A header of this version, or of a later one with more fields, names its trace."""
    trace = trace_of(header)
    assert trace == (header.split("-")[1], header)


INVALID = [
    *(
        "",
        " ",
        "00",
        "00-",
        TRACE_ID,
        HEADER[:-1],
        HEADER + "0",
        HEADER + "-",
        HEADER + "-x",
        " " + HEADER,
        HEADER + "\n",
    ),
    HEADER.upper(),
    HEADER.replace("-", "_"),
    f"ff-{TRACE_ID}-00f067aa0ba902b7-01",
    f"FF-{TRACE_ID}-00f067aa0ba902b7-01",
    f"0-{TRACE_ID}-00f067aa0ba902b7-01",
    f".0-{TRACE_ID}-00f067aa0ba902b7-01",
    f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID}-00f067aa0ba902b7-1",
    f"00-{TRACE_ID}-00f067aa0ba902b7-.0",
    f"00-{TRACE_ID[:-1]}-00f067aa0ba902b7-01",
    f"00-{TRACE_ID}g-00f067aa0ba902b7-01",
    f"01-{TRACE_ID}-00f067aa0ba902b7-01x",
    f"01-{TRACE_ID}-00f067aa0ba902b7-01-two\nlines",
    f"01-{TRACE_ID}-00f067aa0ba902b7-01-\u2028",
    f"01-{TRACE_ID}-00f067aa0ba902b7-01-{'x' * 201}",
    f"00-{TRACE_ID.replace('4', chr(0x664))}-00f067aa0ba902b7-01",
    *(None, 7, HEADER.encode(), [HEADER]),
]


@pytest.mark.parametrize("header", INVALID, ids=repr)
def test_a_header_that_is_not_valid(header):
    """What is not a header of W3C Trace Context names no trace."""
    assert trace_of(header) is None


@given(st.text(max_size=70) | st.text("0123456789abcdef-f", min_size=55, max_size=60))
def test_any_text(header):
    """Whatever the text, there is an answer, and a trace id has 32 hexadecimal digits that are not all zero."""
    trace = trace_of(header)
    assert trace is None or (len(trace.trace_id) == 32 and int(trace.trace_id, 16) > 0)


# Workers


def test_a_worker_of_a_trace(runner):
    """The header and its trace id are in the worker's metadata."""
    worker = runner.run(str.upper, runner.worker("shout", traceparent=HEADER))
    metadata = runner.store.read(worker.job_id)
    assert (metadata.traceparent, metadata.trace_id, metadata.status) == (HEADER, TRACE_ID, "success")


@pytest.mark.parametrize("header", [header for header in INVALID if header is not None], ids=repr)
def test_a_header_that_is_not_valid_is_a_warning(runner, caplog, header):
    """A header that is not valid is not kept; one warning of one short line names it, and the worker runs."""
    worker = runner.run(str.upper, runner.worker("shout", traceparent=header))
    metadata = runner.store.read(worker.job_id)
    assert (metadata.traceparent, metadata.trace_id, metadata.status) == (None, None, "success")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    message = record.getMessage()
    assert message.startswith("The traceparent ")
    assert len(message) < 150
    assert message.isprintable()


def test_no_header(runner, caplog):
    """Without a header there is no trace and no warning."""
    worker = runner.run(str.upper, "shout")
    assert (worker.metadata.traceparent, worker.metadata.trace_id) == (None, None)
    assert not caplog.records


def test_nested_workers_belong_to_the_trace(tmp_path):
    """Workers nested in one belong to its trace, also in another root, unless they have a header of their own."""
    runner, elsewhere = WorkerRunner(tmp_path / "here"), WorkerRunner(tmp_path / "there")
    with runner.worker("outer", traceparent=HEADER):
        inner = elsewhere.run(str.upper, "inner")
        with runner.worker("own", traceparent=OTHER) as own:
            innermost = runner.run(str.upper, "innermost")
        invalid = runner.run(str.upper, runner.worker("invalid", traceparent="00-nonsense"))
    after = runner.run(str.upper, "after")
    ids = [worker.metadata.trace_id for worker in (inner, own, innermost, invalid, after)]
    assert ids == [TRACE_ID, OTHER_ID, OTHER_ID, TRACE_ID, None]
    assert [worker.metadata.traceparent for worker in (inner, own, innermost, invalid)] == [None, OTHER, None, None]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_spawned_workers_belong_to_the_trace(runner, way):
    """A worker that was spawned belongs to the trace of whoever spawned it."""
    (spawn,) = runner.supervisor_tools(worker=str.upper, include=["spawn_worker"])

    async def spawning():
        async with runner.worker("supervise", traceparent=HEADER):
            await spawn.ainvoke({"task": "shout"})

    if way == "async":
        asyncio.run(spawning())
    else:
        with runner.worker("supervise", traceparent=HEADER):
            spawn.invoke({"task": "shout"})
    spawned, supervisor = runner.store.list()
    assert (spawned.trace_id, spawned.parent.worker_id) == (TRACE_ID, supervisor.worker_id)
