"""Everybody who is measured: those that take turns in one process, and the peers, each in processes of its own."""

from __future__ import annotations

from importlib import metadata

from benchmarks.contestants import Contestant, Floor, Nobody, NobodyAgain, Reference, UsageSums
from benchmarks.ours import Ours, OursEverything, OursLogged
from benchmarks.peers import LangChainTracer, Langfuse, OpenInference, OpenLLMetry, Peer

COMPARED: tuple[type[Contestant], ...] = (Nobody, NobodyAgain, Floor, Reference)
"""Those that everybody is compared with: they are in every process."""

CONTESTANTS: dict[str, type[Contestant]] = {
    kind.name: kind for kind in (*COMPARED, Ours, OursLogged, OursEverything, UsageSums)
}
PEERS: dict[str, type[Peer]] = {kind.name: kind for kind in (LangChainTracer, Langfuse, OpenInference, OpenLLMetry)}
EVERYBODY: dict[str, type[Contestant]] = CONTESTANTS | PEERS


def missing(peer: type[Peer]) -> str | None:
    """Say what has to be installed for a peer to be measured, or None when everything is."""
    for distribution in peer.distributions:
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return f"{distribution} is not installed"
    return None
