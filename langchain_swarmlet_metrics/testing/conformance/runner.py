"""Put each handler through the situations in a process of its own, because instrumentors patch LangChain for good.

The process makes the adapter before anything that could be patched is imported, reaches nobody but this machine, and
writes one JSON line a finding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from langchain_swarmlet_metrics.testing.conformance.contenders import make_adapter
from langchain_swarmlet_metrics.testing.conformance.verdicts import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_swarmlet_metrics.testing.conformance.contenders import Contender

_LIMIT_S = 600.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost", None})
_FOREIGN_SETTINGS = ("LANGCHAIN_", "LANGSMITH_", "LANGFUSE_", "OPENAI_", "OTEL_", "TRACELOOP_", "PHOENIX_")


@dataclass(frozen=True)
class Column:
    """Hold what the runs of one handler gave.

    Args:
        contender: The handler.
        findings: What was compared.
        refused: Hosts that something in its process tried to reach, and was not allowed to.
    """

    contender: Contender
    findings: list[Finding]
    refused: list[str]


def run_contender(contender: Contender, situations: Sequence[str]) -> Column:
    """Put one handler through the situations of these names; one that hangs is left out of a second attempt."""
    column = Column(contender, [], [])
    remaining = list(situations)
    while remaining:
        for line in _lines_of_child(contender.adapter, remaining):
            message: dict[str, Any] = json.loads(line)
            if "refused" in message:
                column.refused.append(message["refused"])
            else:
                column.findings.append(Finding(**message))
        done = {finding.situation for finding in column.findings}
        left = [name for name in remaining if name not in done]
        if len(left) == len(remaining):
            break
        remaining = left
    return column


def _lines_of_child(adapter: str, situations: Iterable[str]) -> list[str]:
    command = [sys.executable, "-m", __name__, adapter, *situations]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_SETTINGS)}
    try:
        ran = subprocess.run(  # noqa: S603 - this interpreter, this module
            command, env=environment, capture_output=True, timeout=_LIMIT_S, check=False
        )
        output, errors = ran.stdout, ran.stderr
    except subprocess.TimeoutExpired as expired:
        output, errors = expired.stdout or b"", expired.stderr or b""
    lines = [line for line in output.decode().splitlines() if line.startswith("{")]
    if not lines:
        msg = f"The process of {adapter} found nothing out. It said: {errors.decode(errors='replace')[-2000:]}"
        raise RuntimeError(msg)
    return lines


def stay_offline() -> None:
    """Let this process reach nobody but this machine from here on, and say on stdout whom it tried to reach.

    An audit hook (https://docs.python.org/3/library/audit_events.html) can't be taken away again.
    """
    sys.addaudithook(_refuse_the_network)


def _refuse_the_network(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if host not in _LOOPBACK:
        _say({"refused": str(host)})
        msg = f"{host} is not on this machine, and a conformance run stays on it"
        raise PermissionError(msg)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _main(adapter: str, names: Sequence[str]) -> None:
    stay_offline()
    made = make_adapter(adapter)
    # Only now: what instrumentors patch must not have been imported before.
    from langchain_swarmlet_metrics.testing.conformance.checking import findings  # noqa: PLC0415
    from langchain_swarmlet_metrics.testing.conformance.situations import SITUATIONS  # noqa: PLC0415

    for finding in findings(made, [situation for situation in SITUATIONS if situation.name in names]):
        _say(asdict(finding))
    sys.stdout.flush()
    os._exit(0)  # what hangs, or wants to export at exit, is not waited for


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
