"""Which log handlers just append to plain files, as this package itself does, so that none of them can hang."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_NOTED = "_swarmlet_plain_file"


def file_handlers(logger: logging.Logger, formatters: Collection[type]) -> list[logging.Handler] | None:
    """Return the handlers of everybody who listens to a logger, or None if any of them does more than to append.

    Args:
        logger: the logger; those above it are asked as well, as far as it propagates.
        formatters: classes whose formatting runs no code of the user's own.
    """
    if logger.filters:
        return None
    handlers: list[logging.Handler] = []
    asked: logging.Logger | None = logger
    while asked is not None:
        for handler in asked.handlers:
            if type(handler) is logging.NullHandler:
                continue
            if not _appends(handler) or type(handler.formatter) not in formatters:
                return None
            handlers.append(handler)
        asked = asked.parent if asked.propagate else None
    return handlers


def _appends(handler: logging.Handler) -> bool:
    if type(handler) is not logging.FileHandler or handler.filters or handler.stream is None:
        return False
    stream = handler.stream
    if stream is getattr(handler, _NOTED, None):
        return True
    try:
        is_plain = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False
    if is_plain:  # noted where it is found fastest, and lives no longer than the handler
        setattr(handler, _NOTED, stream)
    return is_plain
