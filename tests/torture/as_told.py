"""What readers have to be told of a killed process's worker: by the store, the supervisor's tools, the command line."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import cli
from langchain_swarmlet_metrics.events import parse_timestamp
from langchain_swarmlet_metrics.report import elapsed_ms
from langchain_swarmlet_metrics.summary import LISTED_CALLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.tools import BaseTool

    from tests.torture.case import Look

_KNOWN_AFTER_S = 0.5
_NOTED_WITHIN_S = 1.0  # a start is noted a moment after it
_CLOCK_S = 0.02  # the file system's clock ticks this slowly at worst


def check_status(look: Look) -> None:
    """Require that a worker that had not ended is lost, and that every other one keeps its status."""
    if look.metadata.process is None or look.worker_id in look.case.made:  # killed before it could say that it made it
        look.require(look.status == "created", f"was made by hand and is {look.status}")
    elif look.worker_id in look.case.ended:
        look.count(ended=1)
        ended = look.case.ended[look.worker_id]
        look.require(look.status == ended, f"had ended as {ended} and is {look.status}")
    elif look.metadata.finished_at is not None:
        look.count(ended=1)  # killed before it could say so
        look.require(look.status == look.metadata.status, f"had ended and is {look.status}")
    else:
        look.count(not_ended=1, lost=int(look.status == "lost"))
        look.require(look.status == "lost", f"was killed and is {look.status}")


def check_time(look: Look) -> None:
    """Require that a lost worker's execution time lasts to between its last event and its process's death."""
    if look.status != "lost" or look.metadata.started_at is None:
        return
    began = parse_timestamp(look.metadata.started_at).timestamp()
    told = elapsed_ms(look.store, look.metadata, "lost") / 1000
    last = max((parse_timestamp(event["end_ts"]).timestamp() for event in look.lines.events), default=began) - began
    dead = look.case.dead_at - began
    text = f"ran for {told:.3f} s, as told; its last event was after {last:.3f}, its process dead after {dead:.3f}"
    look.require(last - _CLOCK_S <= told <= dead + _CLOCK_S, text)


def check_answers(look: Look, tools: Mapping[str, BaseTool]) -> None:
    """Require that the tools and the command line call a lost worker lost, and list what it was doing."""
    if look.status != "lost":
        return
    job = {"job_id": look.metadata.job_id}
    result = tools["read_worker_result"].invoke(job)
    look.require("This worker is lost: its process ended without a word." in result, f"has the result {result[:200]}")
    metadata = json.loads(tools["get_worker_metadata"].invoke(job))
    look.require(metadata["status"] == "lost", f"is {metadata['status']} for get_worker_metadata")
    calls = {call["id"]: call["age_ms"] / 1000 for call in metadata["open_calls"]}
    look.require(
        calls.keys() == {call.id for call in look.store.open_calls(look.metadata)}, "has different lists of open calls"
    )
    for text in (tools["read_worker_metrics"].invoke(job), command(look.case.root, "show", str(look.metadata.job_id))):
        look.require("lost" in text, f"is not called lost: {text[:200]}")
        unsaid = [id_ for id_ in calls if f"_call, id {id_})" not in text]
        look.require(not unsaid or len(calls) > LISTED_CALLS, f"has open calls {unsaid} that are not in {text}")
    _check_open_calls(look, calls)


def _check_open_calls(look: Look, listed: dict[int, float]) -> None:
    """Require that what had been open for half a second is listed with its age, and that nothing is that had ended."""
    ended = look.acknowledged | {event["id"] for event in look.lines.events}
    ages = {id_: look.case.signalled - at for id_, at in look.started.items() if id_ not in ended}
    starved_s = look.case.starved_s
    old = {id_ for id_, age in ages.items() if age >= _KNOWN_AFTER_S}
    missing = {id_: ages[id_] for id_ in old - listed.keys()}
    starved = {id_ for id_, age in missing.items() if age < _KNOWN_AFTER_S + starved_s}
    look.count(open_calls=len(old), open_calls_listed=len(old - missing.keys()), starved=len(starved))
    look.require(
        missing.keys() == starved, f"has open calls that are not listed, {missing}, having starved for {starved_s} s"
    )
    look.require(not listed.keys() & ended, f"lists as open what has ended: {sorted(listed.keys() & ended)}")
    wrong = {
        id_: (listed[id_], ages[id_])
        for id_ in old & listed.keys()
        if not -_KNOWN_AFTER_S - starved_s <= listed[id_] - ages[id_] <= _NOTED_WITHIN_S + look.case.dying_s
    }
    look.require(not wrong, f"has open calls with a listed and a real age of {wrong}")


def command(root: str, *arguments: str) -> str:
    """Run a command as ``swarmlet-metrics --root ROOT`` does, and return what it prints.

    Raises:
        RuntimeError: it fails.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = cli.main(["--root", root, *arguments])
    if status:
        msg = f"the command {arguments} ended with {status}"
        raise RuntimeError(msg)
    return output.getvalue()
