"""The schema of metadata.json: totals, completeness, round trip."""

from __future__ import annotations

import json

import jsonschema
import pytest

from langchain_swarmlet_metrics import metadata
from langchain_swarmlet_metrics.events import LLMCall, ToolCall
from langchain_swarmlet_metrics.metadata import Completeness, Metadata, Parent, Process, Totals

TIME = "2025-12-15T04:08:08.000000Z"


def llm(**known):
    """Return an LLM call."""
    return LLMCall(phase="p", model="m", start_ts="", end_ts="", duration_ms=1, **known)


def tool(success=True, **known):
    """Return a tool call."""
    return ToolCall(tool="t", start_ts="", end_ts="", duration_ms=1, success=success, **known)


def test_round_trip():
    """Metadata reads back as it was, is valid against its schema, and has every key."""
    written = Metadata(
        worker_id="w",
        created_at=TIME,
        config={"a": [1, None]},
        parent=Parent(worker_id="p", event_id=3),
        process=Process.current(),
    )
    text = metadata.encode(written)
    assert metadata.decode(text) == written
    jsonschema.validate(json.loads(text), metadata.json_schema())
    assert len(json.loads(text)) == len(metadata.json_schema()["$defs"]["Metadata"]["properties"]) == 19


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": "now"},
        {"started_at": "2025-12-15\n04:08:08"},
        {"finished_at": "0001-01-01T00:00:00+23:59"},
        {"duration_ms": -1},
        {"duration_ms": 2**53 + 1},
        {"status": "splendid"},
        {"totals": []},
    ],
)
def test_what_no_worker_writes(changes):
    """A file whose times and numbers cannot be what a worker wrote is damaged."""
    known = json.loads(metadata.encode(Metadata(worker_id="w", created_at="2025-12-15T04:08:08.123456Z")))
    assert metadata.decode(json.dumps(known).encode()) is not None
    assert metadata.decode(json.dumps(known | changes).encode()) is None


def test_an_error_is_one_line():
    """An error that somebody else wrote is on one line, as ours are."""
    written = Metadata(worker_id="w", created_at="2025-12-15T04:08:08.123456Z", error="one\ntwo\u2028three\x1b[2J")
    assert metadata.decode(metadata.encode(written)).error == "one two three\\x1b[2J"


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"worker_id":1}', b"\xff", b"[" * 100_000])
def test_damaged(text):
    """Text that is no worker's metadata is None."""
    assert metadata.decode(text) is None


@pytest.mark.parametrize("time", ["", "now", "2025", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", 5])
@pytest.mark.parametrize("key", ["created_at", "started_at", "finished_at"])
def test_times_that_cannot_be(key, time):
    """A time that nobody can read makes the file damaged; of such a file the rest is legible."""
    whole = json.loads(metadata.encode(Metadata(worker_id="w", created_at=TIME, job_id=3)))
    text = json.dumps(whole | {key: time}).encode()
    assert metadata.decode(text) is None
    legible = metadata.legible(text)
    assert key not in legible
    assert (legible["worker_id"], legible["job_id"], legible["finished_at" if key != "finished_at" else "error"]) == (
        ("w", 3, None)
    )


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"3", b"[" * 100_000])
def test_nothing_is_legible(text):
    """Of what is no JSON object nothing can be made out."""
    assert metadata.legible(text) == {}


def test_what_is_legible_is_sound():
    """Keys of wrong types, impossible values and unknown keys are left out."""
    text = b'{"worker_id":"w","job_id":"3","status":"splendid","totals":{"llm_calls":2},"config":[],"mood":"good"}'
    assert metadata.legible(text) == {"worker_id": "w", "totals": Totals(llm_calls=2)}


def test_encode_over():
    """Keys of a later version stay, at the top and below; those of this version are as they are now."""
    before = metadata.encode(Metadata(worker_id="w", created_at=TIME, config={"a": 1}))
    later = json.loads(before)
    later |= {"mood": "good", "totals": later["totals"] | {"sighs": 3}, "parent": {"worker_id": "p", "hat": "red"}}
    text = json.dumps(later).encode()
    changed = metadata.decode(text)
    changed.status, changed.totals.llm_calls = "lost", 7
    whole = json.loads(metadata.encode_over(text, changed))
    assert (whole["mood"], whole["totals"]["sighs"], whole["parent"]["hat"]) == ("good", 3, "red")
    assert (whole["status"], whole["totals"]["llm_calls"], whole["config"]) == ("lost", 7, {"a": 1})
    assert [*whole][: len(later) - 1] == [*json.loads(before)]
    assert metadata.encode_over(before, metadata.decode(before)) == before


def test_load(tmp_path):
    """A folder's metadata is read; None when it is missing, a link, or another worker's."""
    written = Metadata(worker_id=tmp_path.name, created_at=TIME)
    path = tmp_path / "metadata.json"
    assert metadata.load(tmp_path) is None
    path.write_bytes(metadata.encode(written))
    assert metadata.load(tmp_path) == written
    path.write_bytes(metadata.encode(Metadata(worker_id="another", created_at=TIME)))
    assert metadata.load(tmp_path) is None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert metadata.load(tmp_path) is None


def test_totals_keep_unknown_and_zero_apart():
    """Sums are None while nothing is known, and 0 once zero is known."""
    totals = Totals()
    totals.add(llm())
    assert (totals.llm_calls, totals.prompt_tokens) == (1, None)
    totals.add(llm(prompt_tokens=0, completion_tokens=2, total_tokens=2))
    totals.add(llm(prompt_tokens=5))
    assert (totals.prompt_tokens, totals.completion_tokens, totals.cached_tokens) == (5, 2, None)


def test_totals_leave_out_what_the_cache_served():
    """A call served from LangChain's cache counts as a call, its tokens were not billed."""
    totals = Totals()
    totals.add(llm(prompt_tokens=5, cache_hit=True))
    assert (totals.llm_calls, totals.prompt_tokens) == (1, None)


def test_totals_count_errors():
    """Failed calls are errors; cancelled and unfinished ones are not."""
    totals = Totals()
    for event in (tool(False, error="x"), tool(False, outcome="cancelled"), llm(success=False, error="x"), tool()):
        totals.add(event)
    assert (totals.llm_calls, totals.tool_calls, totals.errors) == (1, 3, 2)


def test_totals_include_others():
    """What two have counted is what one would have counted; what neither knows stays unknown."""
    some = [llm(prompt_tokens=5, cost_usd=0.5), tool(False, error="x")]
    others = [llm(prompt_tokens=7, total_tokens=0), llm(cache_hit=True, cached_tokens=9), tool()]
    totals, more, all_of_them = Totals(), Totals(), Totals()
    for counting, counted in ((totals, some), (more, others), (all_of_them, some + others)):
        for event in counted:
            counting.add(event)
    totals.include(more)
    totals.include(Totals())
    assert totals == all_of_them
    assert totals.cached_tokens is None


def test_completeness():
    """What is missing is counted: usage, prices, ends."""
    completeness = Completeness()
    for event in (
        llm(usage_source="missing", outcome="unfinished", success=False),
        llm(prompt_tokens=1, cost_usd=0.5),
        llm(cache_hit=True),
        tool(False, outcome="unfinished"),
    ):
        completeness.add(event)
    assert (completeness.calls_without_usage, completeness.unpriced_calls, completeness.unfinished_calls) == (1, 1, 2)
