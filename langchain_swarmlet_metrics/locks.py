"""Advisory locks on open files (flock), which the system frees when their process dies, however it dies."""

from __future__ import annotations

import contextlib


def take(descriptor: int, *, shared: bool = False) -> bool | None:
    """Take the lock of an open file or folder, without waiting.

    Args:
        descriptor: of the open file or folder; the lock belongs to this opening of it.
        shared: whether others may take it, shared as well, at the same time.

    Returns:
        True when it is taken, False when somebody else holds it, None where the system or the file system has no such
        locks.
    """
    try:
        import fcntl  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def free(descriptor: int) -> None:
    """Free the lock, also for a child process that was forked meanwhile and still has the file open.

    Closing alone would leave the lock to such a child.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # noqa: PLC0415 - Windows has none

        fcntl.flock(descriptor, fcntl.LOCK_UN)
