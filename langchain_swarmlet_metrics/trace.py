"""Which trace a worker belongs to, as the ``traceparent`` header of whoever asked for it says.

The header is that of W3C Trace Context, https://www.w3.org/TR/trace-context/, section 3.2.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LONGEST = 256
_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


class Trace(NamedTuple):
    """Name a trace, and the header that told it (None: whoever spawned the worker belongs to it)."""

    trace_id: str | None = None
    traceparent: str | None = None


NO_TRACE = Trace()


def trace_of(header: object) -> Trace | None:
    """Read a ``traceparent`` header; None when it is not valid.

    Args:
        header: version, trace id, parent id and flags: ``00-<32 hex digits>-<16 hex digits>-<2 hex digits>``. Later
            versions may have more fields; all of it may have 256 characters.
    """
    if not isinstance(header, str) or len(header) > _LONGEST:
        return None
    match = _HEADER.fullmatch(header)
    if match is None or (match[1] == "00" and match[3] is not None):
        return None
    return Trace(match[2], header)
