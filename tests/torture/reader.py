"""A process that has imported everything and forks a fresh reader for each look at the folders."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import msgspec

from tests.torture import forkserver
from tests.torture.case import Case
from tests.torture.examine import examine


def _read(path: str, pipe: int) -> None:
    case = msgspec.json.decode(Path(path).read_bytes(), type=Case)
    with os.fdopen(pipe, "wb") as file:
        file.write(msgspec.json.encode(examine(case)))


if __name__ == "__main__":
    forkserver.serve(socket.socket(fileno=int(sys.argv[1])), _read)
