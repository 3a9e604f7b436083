"""Secrets out of texts, and any object into one safe line."""

from __future__ import annotations

import math
import os
import re
import threading
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from langchain_swarmlet_metrics.patterns import REDACTED, SECRET_KEY, rules_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

UNKNOWN = "unknown"

_Patterns: TypeAlias = tuple[re.Pattern[str], ...]

_STEP = 1024
_PIECE = 2 * _STEP

added_patterns: tuple[_Patterns, ...] = ()
"""What `add_secret_patterns` has added; replaced as a whole, so that whoever reads it needs no lock."""

_adding = threading.Lock()


def add_secret_patterns(*patterns: str | re.Pattern[str]) -> Callable[[], None]:
    r"""Have what these patterns match replaced, too, wherever this process writes a text from now on.

    That is in tasks, configs, summaries, errors, names and warnings, in files and in log lines. The patterns run in the
    agent's time, on what the built-in ones have left, and see at most 2048 characters at once: of a longer text pieces
    that overlap by 1024, so a secret longer than that may go in part. A pattern that can match in exponentially many
    ways, such as ``(a+)+b``, can still hang.

    Args:
        patterns: Regular expressions such as ``r"ACME-\d{6}"``; each match is replaced whole.

    Returns:
        A function that takes the patterns out again.

    Raises:
        TypeError: A pattern is not for text.
        ValueError: A pattern is no regular expression, or it matches the empty text.
    """
    added = tuple(map(_checked, patterns))
    _change_users(lambda users: (*users, added))
    return lambda: _change_users(lambda users: tuple(other for other in users if other is not added))


def scrub(text: str) -> str:
    """Replace the secrets in a text by ``[redacted]`` and keep what is around them, names of keys included.

    Known are the keys of well-known vendors, JSON Web Tokens, private keys, passwords and tokens in URLs, headers
    and query parameters, what is assigned to names such as ``password`` in prose, code, YAML and JSON, and what
    `add_secret_patterns` has added.
    """
    for _, pattern, replacement in rules_for(text):
        text = pattern.sub(replacement, text)
    # Last: they could take a name away that shows where a secret is.
    for pattern in chain.from_iterable(added_patterns):
        text = REDACTED.join(_without(pattern, part) for part in text.split(REDACTED))
    return text


def _change_users(change: Callable[[tuple[_Patterns, ...]], tuple[_Patterns, ...]]) -> None:
    global added_patterns  # noqa: PLW0603 - one process has one set of secrets
    with _adding:
        added_patterns = change(added_patterns)


def _checked(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
        matches_nothing = compiled.search("")
    except re.error as error:
        msg = f"Pattern {pattern!r} is no regular expression: {error}. Give one that Python's re module compiles."
        raise ValueError(msg) from error
    except TypeError:
        msg = f"Pattern {pattern!r} is not for text. Give a text, or what re.compile makes of one."
        raise TypeError(msg) from None
    if matches_nothing:
        msg = f"Pattern {compiled.pattern!r} matches the empty text. Give one that matches nothing but the secret."
        raise ValueError(msg)
    return compiled


def _without(pattern: re.Pattern[str], text: str) -> str:
    """Replace what a user's pattern matches, piece by piece of a text, so that its time grows with their number."""
    spans = sorted(
        match.span()
        for start in range(0, len(text), _STEP)
        for match in pattern.finditer(text, start, start + _PIECE)
        if match[0]
    )
    kept, end = [], 0
    for first, last in spans:
        if first >= end:  # otherwise it is the rest of a match that the end of a piece has cut
            kept += [text[end:first], REDACTED]
        end = max(end, last)
    return "".join(kept) + text[end:]


_EDGE = 1024
_IDENTIFIER_LIMIT = 200
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def one_line(text: object, limit: int = 500) -> str:
    r"""Turn any object into one scrubbed line of text that encodes as UTF-8; never raises.

    White space becomes single spaces; control characters, bidirectional overrides and lone surrogates become
    visible escapes such as ``\x1b``. Of a huge text only the beginning is looked at.

    Args:
        text: What `str` makes a text of, or UTF-8 bytes. The name of its class where `str` raises.
        limit: Most characters to return. A longer text ends in ``… (N more characters)``, within them.
    """
    limit = max(limit, 0)
    head, hidden = _scrubbed_head(as_text(text), limit)
    line = " ".join(head.split())
    if not line.isprintable():
        line = _UNSAFE.sub(_escape, line)
    return _capped(line, limit, hidden)


def error_text(error: BaseException | object) -> str:
    """Return the message of an exception as `one_line` does, its class name when it has none; never raises.

    Args:
        error: An exception, or the text of a failure.
    """
    line = one_line(error)
    return line if line or not isinstance(error, BaseException) else type(error).__name__


def clean(text: str, limit: int) -> str:
    """Return a text of several lines without its secrets, cut as by `one_line`; it encodes as UTF-8."""
    head, hidden = _scrubbed_head(text, limit)
    return _capped(_SURROGATE.sub(_escape, head), limit, hidden)


def identifier(name: object) -> str:
    """Return a name of a tool, model or phase as `one_line` does, ``unknown`` for None and blanks; never raises."""
    if type(name) is str and len(name) <= _IDENTIFIER_LIMIT:
        return _short_identifier(name, added_patterns)
    return UNKNOWN if name is None else one_line(name, _IDENTIFIER_LIMIT) or UNKNOWN


@lru_cache(maxsize=1024)
def _short_identifier(name: str, _scrubbed_of: tuple[_Patterns, ...]) -> str:
    return one_line(name, _IDENTIFIER_LIMIT) or UNKNOWN


def as_text(value: object) -> str:
    """Return what `str` makes of an object, the name of its class where that raises; never raises."""
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode("utf-8", "surrogateescape")
        return str.__str__(str(value))  # a subclass of str may have methods of its own
    except Exception:  # noqa: BLE001 - the object's own code may raise anything
        return type(value).__name__


def _scrubbed_head(text: str, limit: int) -> tuple[str, int]:
    """Scrub the beginning of a text, and count the characters after it that were not looked at.

    A secret that a cut goes through may not be recognised by its first half. A cut further on does not go through
    the same one, so what both leave has no half of a secret in it that is recognised within _EDGE characters.
    """
    cut = limit + _EDGE
    near = scrub(text[:cut])
    if len(text) <= cut:
        return near, 0
    far = scrub(text[: cut + _EDGE])
    return os.path.commonprefix([near, far]), len(text) - cut  # noqa: RUF071 - of texts, not of paths


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - where surrogateescape puts bytes that are no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004


def _capped(line: str, limit: int, hidden: int) -> str:
    if not hidden and len(line) <= limit:
        return line
    kept = limit - len(_ending(hidden + len(line)))
    return line[:kept] + _ending(hidden + len(line[kept:])) if kept >= 0 else line[:limit]


def _ending(count: int) -> str:
    return f"… ({count} more characters)"


_MAX_DEPTH = 16
_MAX_SIZE = 100_000
_MAX_TEXT = 10_000
_MORE = "…"
_Item = TypeVar("_Item")


def scrub_value(value: object) -> object:
    """Copy JSON-like data without its secrets; the copy encodes as JSON and has a bounded size.

    Texts are scrubbed, and values under names such as ``api_key`` or ``token`` replaced whole. Of an object that JSON
    does not have, a container inside itself or one 16 deep only the type is told (``<SecretStr>``); of more than
    about 100,000 characters in all, or 10,000 in one text, only how much was left out.

    Args:
        value: Any object; dicts, lists, tuples, texts, numbers, booleans and None are copied.
    """
    return _Copy().of(value)


def scrub_long(value: object, longest: int) -> tuple[object, bool]:
    """Copy data as `scrub_value` does, of texts up to so many characters, and tell whether anything was left out."""
    copy = _Copy(longest)
    return copy.of(value), copy.is_cut


class _Copy:
    """One walk over a value: the room that is left, and the containers it is inside of."""

    def __init__(self, longest: int = _MAX_TEXT) -> None:
        self.is_cut = False
        self._longest = longest
        self._room = _MAX_SIZE
        self._inside: set[int] = set()

    def of(self, value: object) -> object:
        # type() and not isinstance(), which asks the object itself: a proxy without its target raises there.
        kind = type(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, int):
            number = int.__int__(value)  # type: ignore[arg-type]
            return number if -(2**63) <= number < 2**64 else one_line(hex(number))  # JSON's readers have 64 bits
        if issubclass(kind, float):
            real = float.__float__(value)  # type: ignore[arg-type]
            return real if math.isfinite(real) else str(real)
        if issubclass(kind, dict | list | tuple) and id(value) not in self._inside and len(self._inside) < _MAX_DEPTH:
            self._inside.add(id(value))
            result = self._dict(value) if issubclass(kind, dict) else self._list(value)  # type: ignore[arg-type]
            self._inside.discard(id(value))
            return result
        return _type_of(value)

    def _text(self, text: str) -> str:
        limit = min(self._longest, max(self._room, _IDENTIFIER_LIMIT))
        head, hidden = _scrubbed_head(text, limit)
        head = _SURROGATE.sub(_escape, head)
        self.is_cut |= hidden > 0 or len(head) > limit
        result = _capped(head, limit, hidden)
        self._room -= len(result)
        return result

    def _dict(self, value: dict[object, object]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, item in self._affordable(dict.items(value)):
            name = self._name(key)
            if name in result:
                name += f" ({len(result)})"  # names may be the same once they are scrubbed
            says_nothing = item is None or type(item) is bool or (type(item) is str and not item)
            result[name] = REDACTED if SECRET_KEY.search(name) and not says_nothing else self.of(item)
        if left := len(value) - len(result):
            result[_MORE] = f"({left} more)"
        return result

    def _list(self, value: list[object] | tuple[object, ...]) -> list[object]:
        result = [self.of(item) for item in self._affordable(value)]
        if left := len(value) - len(result):
            result.append(f"{_MORE} ({left} more)")
        return result

    def _affordable(self, items: Iterable[_Item]) -> Iterator[_Item]:
        for item in list(islice(items, _MAX_SIZE + 1)):  # a copy: another thread may change the container meanwhile
            self._room -= 1
            if self._room < 0:
                self.is_cut = True
                return
            yield item

    def _name(self, key: object) -> str:
        plain = key is None or issubclass(type(key), str | int | float)
        name = one_line(key if plain else _type_of(key), _IDENTIFIER_LIMIT)
        self._room -= len(name)
        return name


def _type_of(value: object) -> str:
    return f"<{type(value).__qualname__}>"
