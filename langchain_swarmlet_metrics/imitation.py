"""Tell what a worker says from what we say of it: lines of a result that read like ours are quoted."""

from __future__ import annotations

import re
import unicodedata

OPENINGS = (
    "Result from worker job",
    "Result from a worker without",
    "Execution time:",
    "This worker is lost",
    "This worker is still running",
    "This worker failed",
    "This worker was cancelled",
    "This worker has waited",
    "This worker set no result",
    "This worker's result could not",
    "The result of this worker is",
    "The result goes on",
    "There is no result yet",
    "Metrics are unavailable",
    "Metrics are incomplete",
)
"""How the lines begin that we put around a result."""

QUOTE = "> "

_LETTERS = re.compile(r"[^\W\d_]+|:")
_MARKUP = re.compile(
    r"</?[a-z!][^<>]{0,200}>|&#?\w{1,10};"  # HTML
    r"|(?:\x1b\[|\x9b)[0-?]{0,50}[ -/]{0,5}[@-~]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)",  # terminals
    re.IGNORECASE,
)
_FILLERS = dict.fromkeys(map(ord, "\u115f\u1160\u3164\uffa0"))  # letters to Unicode, and nothing to the eye


def quote_imitations(result: str) -> str:
    """Put ``> `` in front of each line of a result that reads like one of ours; any other result stays as it is.

    A line is what `str.splitlines` takes for one. It reads like ours whatever its case and its spaces, and whatever
    markup, digits, marks and invisible characters are between its letters or before them.
    """
    return "".join(QUOTE + line if _reads_like_ours(line) else line for line in result.splitlines(keepends=True))


def _reads_like_ours(line: str) -> bool:
    if line.isspace():
        return False
    plain = _MARKUP.sub("", line)
    return _letters(line).startswith(_BEGINNINGS) or (plain != line and _letters(plain).startswith(_BEGINNINGS))


def _letters(text: str) -> str:
    """Return the letters and colons of a text, without accents and in one case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(_FILLERS)
    return "".join(_LETTERS.findall(text.casefold())).lstrip(":")


_BEGINNINGS = tuple(map(_letters, OPENINGS))
