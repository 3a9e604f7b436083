"""Sums over a worker's events, and the digest that agents read."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.events import LLMCall, ToolCall, timestamp
from langchain_swarmlet_metrics.metadata import Completeness, Metadata, Totals
from langchain_swarmlet_metrics.summary import (
    LISTED_CALLS,
    LISTED_GROUPS,
    OTHER_NAMES,
    Aggregator,
    Group,
    Summary,
    digest,
    failure_lines,
    format_duration,
    group_lines,
    one_line,
    silence_lines,
    summarize,
    total_lines,
    unknown_lines,
)

NASTY = "a\nb\x1b[31m\u2028\u202e\ud800 é" * 50


clock_ms = count(10**12, 2 * 10**6)


def times(ms):
    """Return the times of a call that overlaps with no other."""
    start_ms = next(clock_ms)
    end_ms = start_ms + min(ms, 10**6)
    return {"start_ts": timestamp(start_ms * 10**6), "end_ts": timestamp(end_ms * 10**6), "duration_ms": ms}


def llm(phase="initial", ms=10, tokens=None, model="gpt-5-mini", **fields) -> LLMCall:
    """Return an LLM call with ``(prompt, completion)`` tokens."""
    if tokens:
        fields |= {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return LLMCall(phase=phase, model=model, **(times(ms) | fields))


def tool(name="ssh_exec", ms=10, success=True, **fields) -> ToolCall:
    """Return a tool call."""
    return ToolCall(tool=name, success=success, **(times(ms) | fields))


def worker(**fields) -> Metadata:
    """Return the metadata of a worker."""
    return Metadata(**({"worker_id": "2025-12-15T03-19-12_backup", "created_at": ""} | fields))


BACKUP = [
    llm("initial", 4200, (812, 64), id=1),
    tool("ssh_exec", 1234, id=2),
    llm("tool_decision", 19500, (1234, 89), id=3),
    tool("ssh_exec", 30000, success=False, id=4, error_type="TimeoutError", error="timed out after 30 s"),
    llm("tool_decision", 9800, (1400, 71), id=5),
    tool("read_file", 12, id=6),
    llm("synthesis", 12900, (1764, 164), id=7),
    llm("summary", 5100, id=8, usage_source="missing"),
]

BACKUP_DIGEST = """\
Worker 2025-12-15T03-19-12_backup (job 123): success
Execution time: 83250ms (1m 23s)
5 LLM calls (51500ms summed), 3 tool calls (31246ms summed), 1 error
Tokens: prompt 5210, completion 388, total 5598

LLM calls by phase:
- tool_decision: 2 calls, 0 errors, 29300ms total, 14650ms mean, 2794 tokens
- synthesis: 1 call, 0 errors, 12900ms total, 12900ms mean, 1928 tokens
- summary: 1 call, 0 errors, 5100ms total, 5100ms mean
- initial: 1 call, 0 errors, 4200ms total, 4200ms mean, 876 tokens

LLM calls by model:
- gpt-5-mini: 5 calls, 0 errors, 51500ms total, 10300ms mean, 5598 tokens

Tool calls by tool:
- ssh_exec: 2 calls, 1 error, 31234ms total, 15617ms mean
- read_file: 1 call, 0 errors, 12ms total, 12ms mean

Slowest calls:
- 30000ms ssh_exec (id 4)
- 19500ms gpt-5-mini (tool_decision, id 3)
- 12900ms gpt-5-mini (synthesis, id 7)
- 9800ms gpt-5-mini (tool_decision, id 5)
- 5100ms gpt-5-mini (summary, id 8)

Failures:
- ssh_exec (id 4): TimeoutError: timed out after 30 s

Not known:
- 1 LLM call without token usage: not in the token counts"""


def test_the_digest_of_a_worker():
    """A worker's digest is short and says what it took, what failed and what is not known."""
    text = digest(worker(job_id=123, duration_ms=83250), "success", summarize(BACKUP))
    assert text == BACKUP_DIGEST
    assert len(text) < 1500


@pytest.mark.parametrize(
    ("metadata", "status", "elapsed_ms", "lines"),
    [
        (worker(), "running", 500, ["Worker 2025-12-15T03-19-12_backup: running", "Execution time so far: 500ms"]),
        (
            worker(finished_at="2025-12-15T03:19:13.000000Z"),
            "failed",
            500,
            ["Worker 2025-12-15T03-19-12_backup: failed", "Execution time: 500ms"],
        ),
        (worker(), "lost", None, ["Worker 2025-12-15T03-19-12_backup: lost", "Execution time: unknown"]),
        (
            worker(job_id=0, duration_ms=0, error="boom\nbang"),
            "failed",
            None,
            [
                "Worker 2025-12-15T03-19-12_backup (job 0): failed",
                "Error: boom\\nbang",
                "Execution time: 0ms",
            ],
        ),
    ],
)
def test_the_head_of_a_digest_says_status_error_and_time(metadata, status, elapsed_ms, lines):
    """What is not known is not said to be 0, and a worker that has not ended shows its time so far."""
    text = digest(metadata, status, summarize(BACKUP), elapsed_ms=elapsed_ms)
    assert text.splitlines()[: len(lines)] == lines


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        ([], ["No LLM calls were recorded, and no tool calls."]),
        ([tool()], ["1 tool call (10ms summed), 0 errors", "No LLM calls were recorded."]),
        ([llm()], ["1 LLM call (10ms summed), 0 errors", "Tokens: prompt unknown, completion unknown, total unknown"]),
        (
            [llm(tokens=(0, 0), success=False, outcome="cancelled")],
            ["1 LLM call (10ms summed), 0 errors, 1 cancelled", "Tokens: prompt 0, completion 0, total 0"],
        ),
    ],
)
def test_totals_say_unknown_and_zero_apart(events, lines):
    """Zeros are measurements: no call and no usage are said in words."""
    assert total_lines(summarize(events)) == lines


@pytest.mark.parametrize(
    ("fields", "events", "skipped", "is_said"),
    [
        ({}, [], 0, True),
        ({"started_at": None}, [], 0, False),
        ({"totals": Totals(tool_calls=1)}, [], 0, False),
        ({}, [], 1, False),
        ({}, [tool()], 0, False),
    ],
)
def test_callbacks_are_blamed_only_if_nothing_is_known(fields, events, skipped, is_said):
    """A worker that never started, or whose file is gone or damaged, had its callbacks for all we know."""
    metadata = worker(**{"started_at": "2025-12-15T03:19:12.000000Z"} | fields)
    assert bool(silence_lines(metadata, summarize(events), skipped)) is is_said


def test_a_group_adds_up_the_calls_of_its_name():
    """A group has the calls, errors, times and tokens of its own calls only."""
    summary = summarize([llm("a", 5, (1, 2)), llm("a", 7, success=False, error="x"), llm("b", 1, (0, 0)), tool()])
    assert summary.by_phase == {
        "a": Group(
            llm_calls=2,
            errors=1,
            total_ms=12,
            self_ms=12,
            max_ms=7,
            prompt_tokens=1,
            completion_tokens=2,
            total_tokens=3,
        ),
        "b": Group(llm_calls=1, total_ms=1, self_ms=1, max_ms=1, prompt_tokens=0, completion_tokens=0, total_tokens=0),
    }
    assert summary.by_tool == {"ssh_exec": Group(tool_calls=1, total_ms=10, self_ms=10, max_ms=10)}
    assert [group.calls for group in summary.by_model.values()] == [3]


def test_the_slowest_calls_are_kept_slowest_first_and_equal_ones_in_order():
    """The few slowest calls are kept, whenever they came."""
    events = [tool(ms=ms, id=number) for number, ms in enumerate([3, 9, 1, 9, 5, 0, 7, 9])]
    assert [(event.duration_ms, event.id) for event in summarize(events).slowest] == [
        (9, 1),
        (9, 3),
        (9, 7),
        (7, 6),
        (5, 4),
    ]


def test_failures_are_the_first_ones_and_say_how_many_there_are():
    """Only the failures that came first are listed, with all of them counted; cancelled calls are not failures."""
    events = [tool(success=False, outcome="cancelled")]
    events += [tool(success=False, id=number, error="bad") for number in range(7)]
    events += [tool("nope", success=False, outcome="unknown_tool")]
    lines = failure_lines(summarize(events))
    assert lines[:3] == ["", "Failures (first 5 of 8):", "- ssh_exec (id 0): bad"]
    assert len(lines) == 2 + LISTED_CALLS


def test_a_failure_without_a_text_says_so():
    """A failure that carries neither type nor text is still listed."""
    assert failure_lines(summarize([tool(success=False)])) == ["", "Failures:", "- ssh_exec: no error text"]


def test_groups_beyond_the_cap_are_counted_together():
    """The groups that took the most time are named, the others are one line."""
    summary = summarize([tool(f"tool{number:02}", ms=number) for number in range(LISTED_GROUPS + 3)])
    lines = group_lines("Tool calls by tool", summary.by_tool)
    assert len(summary.by_tool) == LISTED_GROUPS + 3
    assert lines[2] == "- tool10: 1 call, 0 errors, 10ms total, 10ms mean"
    assert lines[-1] == "- 3 more: 3 calls"
    assert len(lines) == 2 + LISTED_GROUPS + 1


def test_a_summary_of_endless_names_is_bounded():
    """Beyond a thousand names all other calls are summed up together, and of a long name the beginning is kept."""
    calls = [tool(f"{number} {'x' * 1000}") for number in range(1200)]
    summary = summarize(calls)
    assert len(summary.by_tool) == 1001
    assert summary.by_tool[OTHER_NAMES].calls == 200
    assert max(map(len, summary.by_tool)) == 200
    assert summary.totals.tool_calls == 1200


def test_groups_with_equal_times_are_sorted_by_name():
    """The order of a digest doesn't depend on the order of equal events."""
    assert group_lines("T", summarize([tool("b"), tool("a")]).by_tool) == group_lines(
        "T", summarize([tool("a"), tool("b")]).by_tool
    )


def test_what_is_not_known_is_listed():
    """Every gap that events or the collector know of is said, with what it means for the numbers."""
    metadata = worker(
        completeness=Completeness(late_calls=2, dropped_events=1, drop_reason="metrics.jsonl: full", unfinished_calls=9)
    )
    summary = summarize([llm(usage_source="missing"), tool(success=False, outcome="unfinished")])
    assert unknown_lines(metadata, summary, skipped=3) == [
        "",
        "Not known:",
        "- 1 LLM call without token usage: not in the token counts",
        "- 1 call still open when the worker ended: durations up to then",
        "- 2 calls started after the worker had ended: not counted",
        "- 1 event could not be written or handed on, so maybe not counted (metrics.jsonl: full)",
        "- 3 lines of metrics.jsonl could not be read: not counted",
    ]
    counted = worker(finished_at="2025-12-15T03:19:13.000000Z", totals=Totals(llm_calls=3, tool_calls=2))
    assert unknown_lines(counted, summarize([tool()]), skipped=1)[-1] == (
        "- 3 events counted in metadata.json but not in metrics.jsonl: not counted here"
    )
    assert unknown_lines(worker(), summarize([]), stopped=True) == [
        "",
        "Not known:",
        "- metrics.jsonl is too long to be read in time: only its first events are counted",
    ]


numbers = st.none() | st.integers(0, 10**6)
names = st.sampled_from(["a", "b", "c"])
outcomes = st.none() | st.sampled_from(["cancelled", "unfinished", "interrupted"])
llm_calls = st.builds(
    LLMCall,
    phase=names,
    model=names,
    start_ts=st.just(""),
    end_ts=st.just(""),
    duration_ms=st.integers(0, 10**6),
    prompt_tokens=numbers,
    completion_tokens=numbers,
    total_tokens=numbers,
    cached_tokens=numbers,
    success=st.none() | st.just(False),
    outcome=outcomes,
    usage_source=st.none() | st.just("missing"),
    cache_hit=st.none() | st.just(True),
    cost_usd=st.none() | st.integers(0, 1000).map(lambda eighths: eighths / 8),  # added up exactly in any order
)
tool_calls = st.builds(
    tool, names, st.integers(0, 10**6), success=st.booleans(), outcome=outcomes | st.just("unknown_tool")
)
events_lists = st.lists(llm_calls | tool_calls, max_size=20)


@given(events_lists.flatmap(lambda events: st.tuples(st.just(events), st.permutations(events))))
def test_sums_do_not_depend_on_the_order_of_events(orders):
    """The same events in any order give the same sums, overall and by name."""
    ordered, shuffled = (summarize(events) for events in orders)
    slowest = [[event.duration_ms for event in summary.slowest] for summary in (ordered, shuffled)]
    assert slowest[0] == slowest[1]
    for summary in (ordered, shuffled):
        summary.failures = summary.slowest = []
    assert ordered == shuffled


@given(events_lists)
def test_groups_partition_the_totals(events):
    """Every LLM call is in one phase and one model, every tool call in one tool; nothing is lost or counted twice."""
    summary = summarize(events)
    for groups in (summary.by_phase, summary.by_model):
        assert sum(group.calls for group in groups.values()) == summary.totals.llm_calls
        assert sum(group.total_ms for group in groups.values()) == summary.llm_ms
        known = [group.prompt_tokens for group in groups.values() if group.prompt_tokens is not None]
        assert (sum(known) if known else None) == summary.totals.prompt_tokens
    assert sum(group.calls for group in summary.by_tool.values()) == summary.totals.tool_calls
    assert sum(group.total_ms for group in summary.by_tool.values()) == summary.tool_ms
    every = [*summary.by_phase.values(), *summary.by_tool.values()]
    assert sum(group.errors for group in every) == summary.totals.errors
    assert max((group.max_ms for group in every), default=None) == (
        summary.slowest[0].duration_ms if summary.slowest else None
    )


@given(events_lists)
def test_a_summary_can_be_kept_up_event_by_event(events):
    """Adding events one by one is the same as summing them up at the end, as for a worker that still runs."""
    aggregator = Aggregator()
    for event in events:
        aggregator.add(event)
        _ = aggregator.summary
    assert aggregator.summary == summarize(events)


@given(st.text(st.characters(exclude_categories=()), max_size=300) | st.just(NASTY))
def test_hostile_texts_cannot_break_or_flood_a_digest(text):
    """Whatever models call things and whatever errors say: printable lines of bounded length, few of them."""
    events = [llm(f"{text}{n}", 10**18, (10**18, 10**18), text + str(n), success=False, error=text) for n in range(20)]
    events += [tool(f"{text}{n}", 1, success=False, error_type=text, error=text) for n in range(20)]
    metadata = worker(worker_id=text, error=text, duration_ms=10**18)
    written = digest(metadata, text, summarize(events), skipped=10**18)
    assert all(line.isprintable() and len(line) <= 200 for line in written.split("\n"))
    assert len(written) <= 6500
    assert written.encode()


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (98, "98ms"),
        (999, "999ms"),
        (1000, "1000ms (1s)"),
        (1500, "1500ms (1.5s)"),
        (59_949, "59949ms (59.9s)"),
        (59_950, "59950ms (1m 0s)"),
        (83_250, "83250ms (1m 23s)"),
        (119_499, "119499ms (1m 59s)"),
        (119_500, "119500ms (2m 0s)"),
        (3_599_499, "3599499ms (59m 59s)"),
        (3_599_500, "3599500ms (1h 0m)"),
        (7_530_000, "7530000ms (2h 6m)"),
        (86_369_999, "86369999ms (23h 59m)"),
        (86_370_000, "86370000ms (1d 0h)"),
        (273_600_000, "273600000ms (3d 4h)"),
    ],
)
def test_durations_have_a_reading_aid_from_one_second_on(ms, text):
    """The exact milliseconds come first, and rounding never shows 60 of a unit."""
    assert format_duration(ms) == text


@given(st.integers(0, 10**10))
def test_no_unit_of_a_duration_is_full(ms):
    """Seconds and minutes stay below 60, hours below 24 once there are days."""
    aid = format_duration(ms).partition("(")[2].rstrip(")")
    units = {word[-1]: float(word[:-1]) for word in aid.split()}
    assert units.get("s", 0) < 60
    assert units.get("m", 0) < 60
    assert units.get("h", 0) < 24


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        ("plain é", 10, "plain é"),
        ("exactly10!", 10, "exactly10!"),
        ("more than 10", 10, "more th..."),
        ("a\nb\x1b[0m\u2028\ud800", 40, r"a\nb\x1b[0m\u2028\ud800"),
        ("\n" * 10, 10, r"\n\n\n\..."),
    ],
)
def test_one_line_escapes_and_cuts(text, limit, line):
    """Text becomes printable and no longer than asked."""
    assert one_line(text, limit) == line


def test_a_summary_is_plain_data():
    """A summary encodes to JSON, for whoever shows it elsewhere."""
    assert msgspec.json.decode(msgspec.json.encode(summarize(BACKUP)), type=Summary) == summarize(BACKUP)


def test_overlapping_calls_are_busy_once():
    """Five tools of a second at once are five seconds summed and one second busy, labelled apart."""
    at_once = times(1000)
    summary = summarize([tool("meet", **at_once) for _ in range(5)])
    assert (summary.tool_ms, summary.tool_busy_ms) == (5000, 1000)
    assert total_lines(summary)[0] == "5 tool calls (5000ms summed, 1000ms busy), 0 errors"


def test_a_tool_that_calls_a_model_has_its_own_time():
    """A tool of 101 ms that holds an LLM call of 100 ms took 1 ms itself; tokens count once."""
    whole = times(101)
    inner = whole | {"end_ts": whole["end_ts"].replace(".101000Z", ".100000Z"), "duration_ms": 100}
    summary = summarize([llm(tokens=(10, 5), id=2, parent_id=1, **inner), tool("delegate", id=1, **whole)])
    assert (summary.by_tool["delegate"].total_ms, summary.by_tool["delegate"].self_ms) == (101, 1)
    assert summary.by_phase["initial"].self_ms == 100
    assert summary.totals.total_tokens == 15
    assert "1ms self" in group_lines("Tool calls by tool", summary.by_tool)[-1]


def test_a_summary_stays_as_it_is():
    """What is added later is in the next summary, not in one that was given out."""
    aggregator = Aggregator()
    for event in BACKUP:
        aggregator.add(event)
    given_out = aggregator.summary
    for event in (llm("other", 99_999, (1, 1), cost_usd=1.0, usage_source="missing"), tool(success=False, error="x")):
        aggregator.add(event)
    assert given_out == summarize(BACKUP)
    assert aggregator.summary != given_out


def test_costs_add_up_as_the_collector_adds_them():
    """The cost of all calls is the sum in their order, to the last digit, in however many groups they are."""
    events = [llm(str(number % 7), cost_usd=0.1 * number) for number in range(50)]
    totals = Totals()
    for event in events:
        totals.add(event)
    assert summarize(events).totals == totals


def test_ledgers():
    """Tokens are billed, wasted in calls that brought no answer, served by the cache, or not known: never mixed up."""
    summary = summarize(
        [
            llm(tokens=(10, 5)),
            llm(tokens=(7, 1), success=False, error="x"),
            llm(tokens=(3, 0), success=False, outcome="cancelled"),
            llm(tokens=(100, 50), cache_hit=True),
            llm(usage_source="missing"),
        ]
    )
    assert summary.totals.total_tokens == 26
    assert summary.wasted_tokens == 11
    assert (summary.cache_hits, summary.cache_served_tokens) == (1, 150)
    assert summary.completeness.calls_without_usage == 1
    assert total_lines(summary)[1] == (
        "Tokens: prompt 20, completion 6, total 26, 11 of them in calls that brought no answer; "
        "150 more served by the cache, not billed"
    )
