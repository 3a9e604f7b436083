"""Which files a worker's folder has, whoever made them."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

TEMPORARY = ".tmp"
"""How the names of files end that are being written; they begin with a dot, and are no files of a worker yet."""

_MOST_FILES = 300
_MOST_ENTRIES = 10_000


class FileEntry(NamedTuple):
    """Name a file of a worker, relative to its folder and with ``/``, and its size in bytes."""

    name: str
    size: int


def list_files(folder: Path) -> list[FileEntry]:
    """Return a folder's plain files by name, the first few hundred of them; symbolic links are not followed.

    However many files and folders there are, only the first thousands are looked at.
    """
    found: list[FileEntry] = []
    folders, left = [folder], _MOST_ENTRIES
    while folders and left > 0 and len(found) < _MOST_FILES:
        inside: list[Path] = []
        for entry in _entries(folders.pop(), left):
            left -= 1
            path = Path(entry.path)
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    inside.append(path)
                elif entry.is_file(follow_symlinks=False) and not is_temporary(entry.name):
                    size = entry.stat(follow_symlinks=False).st_size
                    found.append(FileEntry(path.relative_to(folder).as_posix(), size))
        folders += reversed(inside)
    return found[:_MOST_FILES]


def _entries(folder: Path, limit: int) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name, of a huge one only a part; nothing when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(islice(entries, limit), key=lambda entry: entry.name)
    except OSError:
        return []


def is_temporary(name: str) -> bool:
    """Tell whether a name is that of a file that `replace_file` is writing, or was when its process died."""
    return name.startswith(".") and name.endswith(TEMPORARY)
