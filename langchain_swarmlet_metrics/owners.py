"""Whose folders are read: those that nobody but this process's user and root can change."""

from __future__ import annotations

import os
import shlex
import stat
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics.settings import DATA_PATH_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

_ROOT = 0


def require_trusted(root: Path) -> None:
    """See that nobody else can put worker folders into a root, or change what is in them.

    Args:
        root: the folder of the worker folders; no symbolic link.

    Raises:
        PermissionError: somebody else can; the message names who, and what to do.
        OSError: it is missing.
    """
    problem = _problem(root.stat())
    if problem is not None:
        reason, remedy = problem
        msg = (
            f"worker folders in {root} are refused: {reason}; "
            f"run `{remedy} {shlex.quote(str(root))}`, set {DATA_PATH_VARIABLE} or pass root="
        )
        raise PermissionError(msg)


def distrust(folder: Path) -> tuple[str, str] | None:
    """Say who else can change a folder, and which command ends that; None when nobody can.

    Raises:
        OSError: that cannot be seen.
    """
    problem = _problem(folder.lstat())
    return None if problem is None else (problem[0], f"{problem[1]} {shlex.quote(str(folder))}")


def is_trusted(folder: Path) -> bool:
    """Tell whether a path is a folder, and no symbolic link to one, that nobody else can change.

    Raises:
        OSError: that cannot be seen.
    """
    try:
        info = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and _problem(info) is None


def _problem(info: os.stat_result) -> tuple[str, str] | None:
    """Say who else can change a folder and what to do about it; None when nobody can, and where owners don't exist."""
    if not hasattr(os, "geteuid"):
        return None
    mode, user = stat.S_IMODE(info.st_mode), os.geteuid()
    if info.st_uid not in (user, _ROOT):
        return f"it belongs to user {info.st_uid}, and this process runs as user {user}", f"chown {user}"
    if mode & stat.S_IWOTH:
        return f"everybody may write to it (mode {mode:04o})", "chmod o-w"
    if mode & stat.S_IWGRP and not _is_own_group(info.st_gid):
        return f"group {info.st_gid} may write to it (mode {mode:04o})", "chmod g-w"
    return None


def _is_own_group(gid: int) -> bool:
    """Tell whether a group is this user's own, with nobody else in it; where that cannot be known, it is not."""
    if gid != os.getegid():
        return False
    try:
        import grp  # noqa: PLC0415 - Windows has neither
        import pwd  # noqa: PLC0415

        user = pwd.getpwuid(os.geteuid())
        members = set(grp.getgrgid(gid).gr_mem)
        others = {other.pw_name for other in pwd.getpwall() if other.pw_gid == gid and other.pw_uid != user.pw_uid}
    except (ImportError, KeyError, OSError):
        return False
    return not others and members <= {user.pw_name}
