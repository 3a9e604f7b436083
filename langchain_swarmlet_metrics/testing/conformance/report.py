"""Write what was found into a Markdown page, section by section."""

from __future__ import annotations

import platform
from collections import Counter
from importlib import metadata
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from langchain_swarmlet_metrics.testing.conformance.contenders import Contender
    from langchain_swarmlet_metrics.testing.conformance.runner import Column
    from langchain_swarmlet_metrics.testing.conformance.situations import Situation
    from langchain_swarmlet_metrics.testing.conformance.verdicts import Finding

_TITLE = "# Conformance\n"
_INTRODUCTION = """\
What handlers record when LangChain's work is cancelled, interrupted, cached, retried, handed off or nested. Each is put
through the same situations: real models, agents, tools and graphs against a loopback server that speaks the OpenAI API.
What happened is read from the server's own request log and from the script that drove the run, never from a handler.
Each handler has a process of its own that reaches no network, is attached as its documentation says, keeps its
defaults, and is flushed before it is read. `make conformance` writes this page anew.
"""
_HOW_TO_READ = """\
Compared are: how many LLM calls and tool calls there were and how each ended, the sums of the tokens that the provider
reported and billed, the names of models and tools, and what stays open when the run is over.

- **right**: all that is the handler's job is right. What an answer reported in detail and the handler leaves out, such
  as reasoning tokens, is said and is not an error.
- **bold**: what it recorded instead. *n left open*: spans that were started and never ended, so nothing of them is
  exported; *in memory*: still held although the run is over. *n chains failed*: in a run in which nothing failed.
- **unclear**: it differs, and there is a reason not to call it wrong; the number leads to it.
- **not its job**: by design it does not record this.

A cell that differs between synchronous and asynchronous calls gives both. A failed call is an error once, where it
happened; that the chains around it are marked too is right. A cancelled call is neither a success nor an error.
"""
_OWN_HANDLER = """\
Any LangChain handler can be put through the same situations; an adapter says how to attach it and how to read what it
recorded. `pip install 'langchain-swarmlet-metrics[demo]'` installs what they need.

```python
from contextlib import contextmanager

from langchain_core.callbacks import BaseCallbackHandler
from langchain_swarmlet_metrics.testing import Adapter, LLMRecord, Observed, Tokens, check_conformance


class MyHandler(BaseCallbackHandler):
    def __init__(self):
        self.open, self.calls = {}, []

    def on_chat_model_start(self, serialized, messages, *, run_id, metadata=None, **kwargs):
        self.open[run_id] = (metadata or {}).get("ls_model_name")

    def on_llm_end(self, response, *, run_id, **kwargs):
        usage = response.generations[0][0].message.usage_metadata or {}
        tokens = Tokens(prompt=usage.get("input_tokens"), completion=usage.get("output_tokens"))
        self.calls.append(LLMRecord(model=self.open.pop(run_id), tokens=tokens))

    def on_llm_error(self, error, *, run_id, **kwargs):
        self.calls.append(LLMRecord(model=self.open.pop(run_id), status="error", error=repr(error)))


class MyAdapter(Adapter):
    name = "mine"
    leaves_out = frozenset({"completion model"})

    @contextmanager
    def attach(self):
        self.handler = MyHandler()
        yield

    def handlers(self):
        return [self.handler]

    def observed(self):
        return Observed(llm_calls=tuple(self.handler.calls), left_open=len(self.handler.open))
```

```python
for finding in check_conformance(MyAdapter()):
    if finding.verdict == "wrong":
        print(f"{finding.situation}, {finding.mode}: {finding.recorded} instead of {finding.expected}")
```
"""
_LIMITS = """\
The situations were chosen by this project: they are where counting goes wrong, and no ranking of what the others are
made for. Traces, prompts and answers, evaluation, prices and dashboards are not looked at, and this project records no
content and no chains at all. A *cache hit* can be recognised by the `total_cost: 0` that LangChain puts beside the
tokens: Langfuse keeps that mark among the usage details and OpenInference in the output's text, but both count the
tokens. Of a cancelled `ainvoke` LangChain tells handlers nothing: a call left open is what a handler gets that relies
on being told.
"""


def write_section(path: Path, name: str, text: str) -> None:
    """Put a section into the page in place of its former text, or at its end; other sections stay as they are."""
    begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->\n"
    page = path.read_text(encoding="utf-8") if path.exists() else _TITLE
    section = f"{begin}\n{text.strip()}\n\n{end}"
    before, found, rest = page.partition(begin)
    after = rest.partition(end)[2]
    page = f"{before}{section}{after}" if found else f"{page.rstrip()}\n\n{section}"
    path.write_text(page, encoding="utf-8")


def render(columns: Sequence[Column], situations: Sequence[Situation], absent: Sequence[Contender]) -> str:
    """Render the table, what each situation is, and how to read it."""
    notes: dict[str, int] = {}
    table = "\n".join(_table(columns, situations, notes))
    meanings = "\n".join(f"- **{situation.name}**: {situation.sentence}" for situation in situations)
    numbered = "\n".join(f"{number}. {note}" for note, number in notes.items())
    parts = [
        _INTRODUCTION,
        f"## Who\n\n{_who(columns, absent)}",
        f"## How to read it\n\n{_HOW_TO_READ}",
        f"## What was recorded\n\n{table}",
        f"### Notes\n\n{numbered}" if numbered else "",
        f"## The situations\n\n{meanings}",
        f"## Your own handler\n\n{_OWN_HANDLER}",
        f"## What this does not say\n\n{_LIMITS}",
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def _who(columns: Sequence[Column], absent: Sequence[Contender]) -> str:
    rows = ["| handler | version | attached with | its job |", "|---|---|---|---|"]
    rows += [
        f"| {one.name} | {one.distribution} {one.version} | {one.attached} | {one.job} |"
        for one in (column.contender for column in columns)
    ]
    versions = [
        f"{name} {metadata.version(name)}" for name in ("langchain-core", "langchain", "langgraph", "langchain-openai")
    ]
    lines = ["\n".join(rows), f"Python {platform.python_version()}, {', '.join(versions)}."]
    if absent:
        lines.append(f"Not installed when this was written: {', '.join(one.name for one in absent)}.")
    tried = sorted({f"{column.contender.name} ({host})" for column in columns for host in column.refused})
    lines.append(f"Attempts to reach the network: {', '.join(tried) or 'none'}.")
    return "\n\n".join(lines)


def _table(columns: Sequence[Column], situations: Sequence[Situation], notes: dict[str, int]) -> Iterable[str]:
    names = [column.contender.name for column in columns]
    yield f"| situation | what happened | {' | '.join(names)} |"
    yield "|" + "---|" * (len(names) + 2)
    tallies: list[Counter[str]] = [Counter() for _ in columns]
    for situation in situations:
        row = [situation.name]
        for column, tally in zip(columns, tallies, strict=True):
            found = [finding for finding in column.findings if finding.situation == situation.name]
            if column is columns[0]:
                row.append(_both_modes({mode: _happened(group) for mode, group in _by_mode(found).items()}))
            tally[_worst(found)] += 1
            row.append(_both_modes({mode: _cell(group, notes) for mode, group in _by_mode(found).items()}))
        yield f"| {' | '.join(row)} |"
    yield f"| **{len(situations)} situations** | | {' | '.join(map(_tallied, tallies))} |"


def _by_mode(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    return {mode: list(group) for mode, group in groupby(findings, key=lambda finding: finding.mode)}


def _both_modes(texts: Mapping[str, str]) -> str:
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), "not run")
    return "<br>".join(f"{mode}: {text}" for mode, text in texts.items())


def _happened(findings: Sequence[Finding]) -> str:
    expected = {finding.check: finding.expected for finding in findings}
    shown = [expected.get(check, "") for check in ("LLM calls", "tool calls", "tokens")]
    return "; ".join(text for text in shown if text not in {"", "0 LLM calls", "0 tool calls", "no tokens"})


def _worst(findings: Sequence[Finding]) -> str:
    verdicts = {finding.verdict for finding in findings}
    for verdict in ("wrong", "unclear", "right"):
        if verdict in verdicts:
            return verdict
    return "not its job" if verdicts else "not run"


def _cell(findings: Sequence[Finding], notes: dict[str, int]) -> str:
    """Say in one cell what a handler recorded in one mode."""
    verdict = _worst(findings)
    if verdict == "right":
        return "; ".join(["right", *(finding.note for finding in findings if finding.note)])
    if verdict not in ("wrong", "unclear"):
        return verdict
    wrong = "; ".join(finding.recorded for finding in findings if finding.verdict == "wrong")
    unclear = "; ".join(_noted(finding, notes) for finding in findings if finding.verdict == "unclear")
    return "; ".join(part for part in (wrong and f"**{wrong}**", unclear and f"unclear: {unclear}") if part)


def _noted(finding: Finding, notes: dict[str, int]) -> str:
    if finding.note is None:
        return finding.recorded
    return f"{finding.recorded} ({notes.setdefault(finding.note, len(notes) + 1)})"


def _tallied(tally: Counter[str]) -> str:
    order = ("right", "wrong", "unclear", "not its job", "not run")
    return ", ".join(f"{tally[verdict]} {verdict}" for verdict in order if tally[verdict])
