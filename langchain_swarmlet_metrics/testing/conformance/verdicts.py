"""Compare what a handler recorded with what happened, and say it in a few words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from langchain_swarmlet_metrics.testing.conformance.observed import Tokens, status_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_swarmlet_metrics.testing.conformance.observed import LLMRecord, Observed, ToolRecord
    from langchain_swarmlet_metrics.testing.conformance.truth import Truth

Verdict = Literal["right", "wrong", "unclear", "not its job"]
Check = Literal["LLM calls", "tool calls", "tokens", "names", "other errors", "left open", "the run"]

SAYS_ERROR = (
    "The record says error and names the cancellation. Its format may have no status for a cancelled call; whoever "
    "reads the text can tell it from a failure, whoever counts errors counts it."
)
SAYS_NOTHING = "The cancelled call is ended without an error or a mark, as a call that returned would be."

_TOKEN_PARTS = ("cached", "reasoning")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Say how one thing that a handler recorded compares with what happened.

    Args:
        situation: Name of the situation.
        mode: ``sync`` or ``async``.
        check: What was compared.
        verdict: ``right``, ``wrong``, ``unclear`` or ``not its job``.
        recorded: What the handler recorded, in words.
        expected: What happened, in words.
        note: Why the verdict is unclear, or None.
    """

    situation: str
    mode: str
    check: Check
    verdict: Verdict
    recorded: str
    expected: str
    note: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Hold the outcome of one check; a `Finding` adds where it was made."""

    check: Check
    verdict: Verdict
    recorded: str
    expected: str
    note: str | None = None


def compare(observed: Observed, truth: Truth) -> Iterator[Comparison]:
    """Compare all that a handler recorded with the truth, one check after the other."""
    yield _compare_calls("LLM calls", observed.llm_calls, truth.llm_calls, truth)
    yield _compare_calls("tool calls", observed.tool_calls, truth.tool_calls, truth)
    yield _compare_tokens(observed.billed_tokens, truth, keeps_sums_only=observed.llm_calls is None)
    yield _compare_names(observed, truth)
    yield _compare_other_errors(observed.other_errors, truth)
    yield _compare_left_open(observed)


def _compare_calls(
    check: Literal["LLM calls", "tool calls"],
    records: Sequence[LLMRecord] | Sequence[ToolRecord] | None,
    expected: Counter[str],
    truth: Truth,
) -> Comparison:
    if records is None:
        return Comparison(check, "not its job", "", _counted(check, expected))
    recorded = Counter(status_word(record) for record in records)
    verdict, note = _judge(check, recorded, expected, truth)
    happened = _counted(check, expected)
    if check == "LLM calls" and truth.cache_hits:
        happened += f" and {truth.cache_hits} answer from the cache"
    return Comparison(check, verdict, _counted(check, recorded), happened, note)


def _judge(check: str, recorded: Counter[str], expected: Counter[str], truth: Truth) -> tuple[Verdict, str | None]:
    if truth.untold:
        return ("right" if recorded["error"] == expected["error"] else "wrong"), None
    allowed = [expected]
    if check == "LLM calls":
        allowed.append(expected + Counter({"ok": truth.cache_hits}))
    allowed += [
        expected - Counter({status: 1}) + Counter({other: 1}) for of, status, other in truth.either if of == check
    ]
    if recorded in allowed:
        return "right", None
    if recorded == _renamed(expected, "cancelled", "error naming a cancellation"):
        return "unclear", SAYS_ERROR
    if recorded == _renamed(expected, "cancelled", "ok"):
        return "unclear", SAYS_NOTHING
    if recorded == expected - Counter({"interrupted": expected["interrupted"]}):
        return "right", None  # a call that was only put off need not be recorded twice
    return "wrong", None


def _renamed(counts: Counter[str], old: str, new: str) -> Counter[str]:
    return Counter({status: count for status, count in counts.items() if status != old}) + Counter({new: counts[old]})


def _compare_tokens(recorded: Tokens | None, truth: Truth, *, keeps_sums_only: bool) -> Comparison:
    expected = truth.tokens
    wanted = _described(expected)
    if recorded is None or truth.untold or (keeps_sums_only and recorded == expected and not truth.llm_calls["ok"]):
        return Comparison("tokens", "not its job", "", wanted)  # of calls without an answer there is nothing to sum
    sums = (recorded.prompt, recorded.completion) == (expected.prompt, expected.completion)
    total = recorded.total in (expected.total, None)
    parts = all(getattr(recorded, part) in (getattr(expected, part), None) for part in _TOKEN_PARTS)
    verdict: Verdict = "right" if sums and total and parts else "wrong"
    described = _described(recorded)
    if sums and not total:
        described = f"{described.partition(', total')[0]}, total {recorded.total}"
    return Comparison("tokens", verdict, described, wanted, _unsaid(recorded, expected))


def _unsaid(recorded: Tokens, expected: Tokens) -> str | None:
    """Name the parts that were reported and are not recorded: less detail, and nothing wrong said."""
    missing = [part for part in _TOKEN_PARTS if getattr(expected, part) and not getattr(recorded, part)]
    return f"without {' and '.join(missing)} tokens" if missing else None


def _compare_names(observed: Observed, truth: Truth) -> Comparison:
    """Compare the names of models, as asked for or as answered, and of tools."""
    expected = ", ".join(sorted(truth.models | truth.tools))
    if observed.llm_calls is None:
        return Comparison("names", "not its job", "", expected)
    models = {call.model for call in observed.llm_calls} - truth.models
    tools = {call.tool for call in observed.tool_calls or ()} - truth.tools
    strange = [f"model {name}" for name in sorted(map(str, models))] + [f"tool {name}" for name in sorted(tools)]
    return Comparison("names", "wrong" if strange else "right", ", ".join(strange), expected)


def _compare_other_errors(number: int | None, truth: Truth) -> Comparison:
    """Compare what chains say; where a call failed or was cancelled, the chains around it may say so too."""
    if number is None:
        return Comparison("other errors", "not its job", "", "no chain failed")
    wrong = number > 0 and truth.went_well
    recorded = f"{number} chain{'s' if number > 1 else ''} failed"
    return Comparison("other errors", "wrong" if wrong else "right", recorded, "no chain failed")


def _compare_left_open(observed: Observed) -> Comparison:
    number = observed.left_open
    if number is None:
        return Comparison("left open", "not its job", "", "0 left open")
    held = f", {observed.held} in memory" if observed.held else ""
    return Comparison("left open", "wrong" if number else "right", f"{number} left open{held}", "0 left open")


def _counted(check: str, counts: Counter[str]) -> str:
    total = counts.total()
    noun = check if total != 1 else check.removesuffix("s")
    said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count and status != "ok")
    return f"{total} {noun} ({said})" if said else f"{total} {noun}"


def _described(tokens: Tokens) -> str:
    if tokens == Tokens():
        return "no tokens"
    parts = [f"{tokens.prompt} + {tokens.completion} tokens"]
    if tokens.total not in (None, (tokens.prompt or 0) + (tokens.completion or 0)):
        parts.append(f"total {tokens.total}")
    parts += [f"{part} {count}" for part in _TOKEN_PARTS if (count := getattr(tokens, part))]
    return ", ".join(parts)
