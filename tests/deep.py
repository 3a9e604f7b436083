"""Folders in folders, deeper than Python recurses: pytest can't remove them, so they remove themselves."""

from __future__ import annotations

import os
from contextlib import contextmanager

_DEPTH = 1500


@contextmanager
def deep_folders(folder):
    """Make folders in folders, and remove them when the block is left."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(_DEPTH):
        os.mkdir("d", dir_fd=descriptor)
        outer, descriptor = descriptor, os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(outer)
    os.close(descriptor)
    try:
        yield
    finally:
        first, rest = folder / "d", folder / "rest"
        for _ in range(_DEPTH - 1):
            (first / "d").rename(rest)
            first.rmdir()
            rest.rename(first)
        first.rmdir()
