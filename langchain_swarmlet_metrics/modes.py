"""Modes of the files and folders that are made, whatever the umask is."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
"""The mode of a file that its owner alone may read and write."""

_READ = 0o444
_READ_BY_OTHERS = 0o044
_PERMISSIONS = 0o777


def checked_file_mode(mode: int) -> int:
    """Return a mode that files may be given: their owner reads and writes them, others read them at most.

    Raises:
        ValueError: it lets others write, lets anybody execute, or keeps the owner from reading or writing.
    """
    if not isinstance(mode, int) or mode & ~_READ_BY_OTHERS != PRIVATE:
        given = f"{mode:#o}" if isinstance(mode, int) else repr(mode)
        msg = (
            f"file_mode={given} is refused: the owner reads and writes, others may read at most, nobody executes. "
            "Use 0o600 (the user alone), 0o640 (the group reads, too) or 0o644 (everybody does)"
        )
        raise ValueError(msg)
    return mode


def folder_mode(file_mode: int) -> int:
    """Return the mode of a folder for files of a mode: who may read the files may enter and list the folder."""
    return file_mode | (file_mode & _READ) >> 2


def file_mode_in(folder: Path) -> int:
    """Return the mode that files in a folder have, going by the folder's own; see `folder_mode`.

    Raises:
        OSError: it cannot be seen.
    """
    return PRIVATE | folder.stat().st_mode & _READ_BY_OTHERS


def make_folder(path: Path, mode: int) -> None:
    """Make one folder with exactly this mode.

    Raises:
        OSError: it cannot be made; FileExistsError when it is there.
    """
    path.mkdir(mode)
    settle(path, mode)


def make_folders(path: Path, mode: int) -> None:
    """Make a folder, and those above it that are missing, with exactly this mode; raises as `make_folder` does."""
    try:
        make_folder(path, mode)
    except FileNotFoundError:
        if path.parent == path:
            raise
        with suppress(FileExistsError):
            make_folders(path.parent, mode)
        make_folder(path, mode)


def open_or_make(path: str | Path, flags: int, mode: int) -> int:
    """Open a file, made with exactly this mode when it is missing; one that exists keeps its own.

    Args:
        path: the file.
        flags: of `os.open`; to create is among them.
        mode: of a new file.

    Returns:
        The file's descriptor.

    Raises:
        OSError: it can neither be opened nor made.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags, mode)
    settle(Path(path), mode)
    return descriptor


def settle(path: Path, mode: int) -> None:
    """Give a new file or folder the permissions that the umask has taken from it, or a fixed mode has not given."""
    current = stat.S_IMODE(path.stat().st_mode)
    if current & _PERMISSIONS != mode:
        with suppress(OSError):  # a file system without modes refuses, and its mount options say who may read
            path.chmod(current & ~_PERMISSIONS | mode)
