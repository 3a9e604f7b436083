"""Secrets out of texts, and any object into one safe line.

A text is looked at closely only where a hint (``sk-``, ``password``, ``://`` ...) occurs in it, and every pattern
takes time linear in the text: its repetitions are bounded, possessive, or start where no attempt began before.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar

REDACTED = "[redacted]"
UNKNOWN = "unknown"

Scrubber: TypeAlias = Callable[[str], str]
"""Return a text without its secrets."""


class _Rule(NamedTuple):
    hints: tuple[str, ...]
    """The pattern can match only where one of these occurs in the lower-cased text."""
    pattern: re.Pattern[str]
    replacement: str


def _rule(hints: str, pattern: str, flags: re.RegexFlag = re.IGNORECASE) -> _Rule:
    """Make a rule of hints, one or more words, and a pattern whose match is replaced but for its named groups."""
    compiled = re.compile(pattern, flags | re.ASCII)
    kept = "".join(rf"\g<{group}>" for group in compiled.groupindex)
    return _Rule(tuple(hints.lower().split()), compiled, kept + REDACTED)


# Prefixes that vendors give their keys so that they are found, and what follows them. A body that words could make
# up as well (sk-learn-some-package) must hold a digit or a capital.
_VENDOR_KEYS = {
    "sk-": r"(?=[a-z_-]{0,24}[0-9A-Z])[\w-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse
    "sk_live_ sk_test_ rk_live_ rk_test_ whsec_": r"[\w+/=]{16,}",  # Stripe
    "AKIA ASIA": r"[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    "AIza": r"[\w-]{35}",  # Google
    "ya29. GOCSPX-": r"[\w.-]{20,}",  # Google OAuth
    "ghp_ gho_ ghu_ ghs_ ghr_": r"[A-Za-z0-9]{30,}",  # GitHub
    "github_pat_": r"\w{22,}",
    "glpat- gldt- glrt- glcbt- glptt- glsoat-": r"[\w.-]{20,}",  # GitLab
    "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- xoxe.xoxp- xoxe.xoxb- xapp-": r"\d[\w-]{9,}",  # Slack
    "hf_ gsk_ npm_ r8_ fw_": r"[A-Za-z0-9]{20,}",  # Hugging Face, Groq, npm, Replicate, Fireworks
    "xai- pplx- nvapi- tvly- pypi-": r"(?=[A-Za-z_-]{0,64}[0-9])[\w-]{20,}",  # xAI, Perplexity, NVIDIA, Tavily, PyPI
    "lsv2_pt_ lsv2_sk_ dop_v1_ dckr_pat_ pcsk_ ntn_ glsa_ sntrys_": r"[\w+/=-]{20,}",  # LangSmith ... Sentry
    "SG.": r"[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    "dapi": r"[0-9a-f]{32}",  # Databricks
    "hvs.": r"[\w-]{20,}",  # HashiCorp Vault
    "shpat_ shpss_": r"[0-9a-f]{32}",  # Shopify
}

# Names whose value is a secret, as the end of a longer name (OPENAI_API_KEY, dbPassword). `PWD=/home/me` is a
# directory, and `pass` alone counts tests.
_SURE_NAME = (
    r"(?:passw(?:or)?d|passphrase|passcode|(?<=[_?&;-])pass|pwd(?!=[/~])|secret|credentials?"
    r"|(?:api|access|secret|private|account|auth|master|signing|encryption|subscription)[ _-]?key)"
)
# Names that also come before plain words (`Unexpected token: foo`, `"token": "Hello"`): the value has to look random.
_VAGUE_NAME = r"(?:token|jwt|signature)"

_CLOSE = r"""\\{0,3}["']?\]?[ \t]{0,20}"""  # what closes a quoted name, escaped where JSON is inside JSON
_EQUALS = r"""(?:=>|:?=|==(?=[ \t]{0,20}["']))(?!=)[ \t]{0,20}"""
_COLON = r":[ \t]{0,20}"
_BARE = r"""[^\s"'&;,]*[^\s"'&;,)\]}.]"""  # up to a separator, but for the brackets and the full stop before it
_QUOTED = (
    r"""(?:b?(?P<open>\\{1,3}["'])(?:(?!(?P=open))[^\r\n])+"""
    r"""|b?(?P<quote>["'])(?:\\.|(?!(?P=quote))[^\\\r\n])+)"""
)
# After "password: " a bare word is prose more often than not; one with a digit or a sign is not.
_ODD = r"[0-9!@#$%^*+=~]"
_PLAIN = r"""[^\s"'&;,0-9!@#$%^*+=~]"""
# What stands in a secret's place without being one: placeholders, words of validation messages, our own marker.
_HARMLESS = (
    r"""b?\\{0,3}["']?(?:\[redacted\]|\$\{|\$[A-Z_]{3,}(?!\w)|\{\w*\}|\{\{|%\(\w|<[\w .-]{1,40}>"""
    r"""|os\.(?:environ|getenv)|(?:none|null|nil|true|false|undefined|unset|empty|unknown|required|optional|missing|invalid"""
    r"""|expired|incorrect|wrong|denied|not|is|must|str|string|bytes|secretstr|any)(?![\w$!@#%^*+=~-]))"""
)


def _vendor_rule() -> _Rule:
    keys = (f"(?:{'|'.join(map(re.escape, group.split()))}){body}" for group, body in _VENDOR_KEYS.items())
    return _rule(" ".join(_VENDOR_KEYS), f"(?<![A-Za-z0-9])(?:{'|'.join(keys)})", re.NOFLAG)


_RULES = (
    _rule(  # PEM, cut off or not
        "-----begin",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        re.DOTALL,
    ),
    _rule(  # scheme://user:password@host; a port is no password, nor is the tag before an image's digest
        "://",
        r"""(?P<keep>://[^\s/:@"'<>]{0,128}:)(?!\d{1,5}(?:[/?#\s"']|$)|\[redacted\]@)"""
        r"""[^\s"'<>@]{1,256}+(?:@[^\s"'<>@/?#]{1,256}+){0,4}(?=@(?!sha256:))""",
    ),
    _rule("://", r"(?<=://)(?=[a-z_-]{0,64}[0-9])[\w-]{20,128}+(?=(?::[^\s/@]{0,64})?@)"),  # https://token@host
    _rule(
        "hooks.slack.com/services/ /api/webhooks/",
        r"(?P<keep>hooks\.slack\.com/services/|/api/webhooks/)[\w/-]{20,}",
    ),
    _rule(  # schemes with parameters take the rest of the header
        "authorization",
        r"""(?P<keep>authorization["']?[ \t]{0,4}[:=,][ \t]{0,4}(?:b(?=["']))?["']?"""
        r"""(?:digest|hawk|oauth|aws4-hmac-sha256)[ \t]{1,4})[a-z_]{1,40}=[^\r\n']+""",
    ),
    _rule(
        "authorization",
        rf"""(?P<keep>authorization{_CLOSE}[:=,][ \t]{{0,4}}(?:b(?=["']))?\\{{0,3}}["']?"""
        r"""(?:(?:bearer|basic|token|negotiate|apikey|api-key|bot|key)[ \t]{1,4})?+)"""
        rf"""(?!{_HARMLESS}|(?:tokens?|header|authentication|digest|hawk|oauth|aws4)\b)[^\s"',;\\]{{4,}}""",
    ),
    _rule(
        "bearer basic",
        r"""(?P<keep>(?<![a-z])(?:bearer[ \t]{1,4}["']?(?=[a-z._~+/=-]{0,64}[0-9]|[\w.~+/=-]{24})"""
        r"""|basic[ \t]{1,4}(?=[a-z+/]{0,64}[0-9=])(?=[a-z0-9+/=]{12})))[\w.~+/=-]{12,}""",
    ),
    _rule("cookie", r"""(?P<keep>cookie["']?[ \t]{0,4}:[ \t]{0,4}["']?)[^\s=;"']{1,100}+=[^\r\n"']+"""),
    _rule(  # password=..., "password": "...", password: hunter2
        "pass pwd secret credential key",
        rf"""(?P<keep>api[ _-]?key[ ]provided:[ ]|{_SURE_NAME}{_CLOSE}(?:{_EQUALS}|{_COLON}"""
        rf"""(?=b?\\{{0,3}}["']|(?![\[{{(])(?=[^\s"'&;,]{{6}}){_PLAIN}{{0,64}}+{_ODD})))"""
        rf"""(?!{_HARMLESS})(?:{_QUOTED}|{_BARE})""",
    ),
    _rule(  # password: swordfish, alone on its line
        "pass pwd secret key",
        rf"""^(?P<keep>[ \t]{{0,40}}(?:-[ \t])?["']?[\w.-]{{0,60}}?{_SURE_NAME}["']?[ \t]{{0,20}}{_COLON})"""
        rf"""(?!{_HARMLESS})[^\s"'{{}}\[\]()<>|&*!,:][^\s:]*+(?=[ \t]{{0,20}}\r?$)""",
        re.IGNORECASE | re.MULTILINE,
    ),
    _rule(  # --password hunter2
        "-",
        rf"""(?P<keep>-(?:{_SURE_NAME}|{_VAGUE_NAME})[ \t]{{1,4}}["']?)"""
        rf"""(?!-|{_HARMLESS})(?=[^\s"']{{6}})(?={_PLAIN}{{0,64}}+{_ODD})[^\s"']+""",
    ),
    _rule(  # token=..., "token": "..."
        "token jwt signature",
        rf"""(?P<keep>{_VAGUE_NAME}{_CLOSE}(?:{_EQUALS}\\{{0,3}}["']?"""
        rf"""|{_COLON}\\{{0,3}}["']?(?=[a-z._~+/=%:-]{{0,64}}+[0-9]|[\w.~+/=%:-]{{24}})))"""
        rf"""(?!{_HARMLESS}|\d{{1,12}}(?![\w.~+/=%:-]))[\w.~+/=%:-]{{8,}}""",
    ),
    _rule(  # query parameters
        "? &",
        r"""(?P<keep>[?&](?:[\w.-]{0,40}?(?:token|signature|credential|secret|passw(?:or)?d|api_?key)|sig|auth|pass"""
        rf"""|(?:key|code)(?==[^\s&#"'<>]{{16}}))=)(?!{_HARMLESS})[^\s&#"'<>]{{4,}}""",
    ),
    _rule("eyJ", r"(?<![\w-])eyJ[\w-]{8,}+(?:(?:\.[\w-]*+){1,4}|\Z)", re.NOFLAG),  # JSON Web Tokens, cut off or not
    _vendor_rule(),
)


def scrub(text: str) -> str:
    """Replace the secrets in a text by ``[redacted]`` and keep what is around them, names of keys included.

    Known are the keys of well-known vendors, JSON Web Tokens, private keys, passwords and tokens in URLs, headers
    and query parameters, and what is assigned to names such as ``password`` in prose, code, YAML and JSON.
    """
    folded = text.lower()
    for hints, pattern, replacement in _RULES:
        if any(map(folded.__contains__, hints)):
            text = pattern.sub(replacement, text)
    return text


def scrubber(*extra_patterns: str | re.Pattern[str]) -> Scrubber:
    """Make a scrubber that replaces what `extra_patterns` match, and then what `scrub` does.

    Args:
        extra_patterns: Regular expressions; each match is replaced whole.

    Raises:
        ValueError: A pattern is no regular expression, or it matches the empty text.
    """
    patterns = [_checked(pattern) for pattern in extra_patterns]

    def scrub_more(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub(REDACTED, text)
        return scrub(text)

    return scrub_more


def _checked(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        msg = f"Pattern {pattern!r} is no regular expression: {error}. Give one that Python's re module compiles."
        raise ValueError(msg) from error
    if compiled.search(""):
        msg = f"Pattern {compiled.pattern!r} matches the empty text. Give one that matches nothing but the secret."
        raise ValueError(msg)
    return compiled


_EDGE = 1024
_IDENTIFIER_LIMIT = 200
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def one_line(text: object, limit: int = 500, scrub: Scrubber = scrub) -> str:
    r"""Turn any object into one scrubbed line of text that encodes as UTF-8; never raises.

    White space becomes single spaces; control characters, bidirectional overrides and lone surrogates become
    visible escapes such as ``\x1b``. Of a huge text only the beginning is looked at.

    Args:
        text: What `str` makes a text of, or UTF-8 bytes. The name of its class where `str` raises.
        limit: Most characters to return. A longer text ends in ``… (N more characters)``, within them.
        scrub: Takes the secrets out, before anything is cut off. One that raises leaves only ``[redacted]``.
    """
    limit = max(limit, 0)
    head, hidden = _scrubbed_head(_as_text(text), limit, scrub)
    line = " ".join(head.split())
    if not line.isprintable():
        line = _UNSAFE.sub(_escape, line)
    return _capped(line, limit, hidden)


def error_text(error: BaseException | object, scrub: Scrubber = scrub) -> str:
    """Return the message of an exception as `one_line` does, its class name when it has none; never raises.

    Args:
        error: An exception, or the text of a failure.
        scrub: As for `one_line`.
    """
    line = one_line(error, scrub=scrub)
    return line if line or not isinstance(error, BaseException) else type(error).__name__


def identifier(name: object) -> str:
    """Return a name of a tool, model or phase as `one_line` does, ``unknown`` for None and blanks; never raises."""
    if type(name) is str and len(name) <= _IDENTIFIER_LIMIT:
        return _short_identifier(name)
    return UNKNOWN if name is None else one_line(name, _IDENTIFIER_LIMIT) or UNKNOWN


@lru_cache(maxsize=1024)
def _short_identifier(name: str) -> str:
    return one_line(name, _IDENTIFIER_LIMIT) or UNKNOWN


def _as_text(value: object) -> str:
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode("utf-8", "surrogateescape")
        return str.__str__(str(value))  # a subclass of str may have methods of its own
    except Exception:  # noqa: BLE001 - the object's own code may raise anything
        return type(value).__name__


def _scrubbed_head(text: str, limit: int, scrub: Scrubber) -> tuple[str, int]:
    """Scrub the beginning of a text, and count the characters after it that were not looked at.

    A secret that a cut goes through may not be recognised by its first half. A cut further on does not go through
    the same one, so what both leave has no half of a secret in it that is recognised within _EDGE characters.
    """
    cut = limit + _EDGE
    near = _guarded(scrub, text[:cut])
    if len(text) <= cut:
        return near, 0
    far = _guarded(scrub, text[: cut + _EDGE])
    return os.path.commonprefix([near, far]), len(text) - cut  # noqa: RUF071 - of texts, not of paths


def _guarded(scrub: Scrubber, text: str) -> str:
    try:
        return scrub(text)
    except Exception:  # noqa: BLE001 - a user's scrubber that fails must not let a secret out
        return REDACTED


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
_SECRET_KEY = re.compile(
    rf"(?:{_SURE_NAME}s?|token|jwt|authorization|cookies?|(?<![a-z])(?:auth|bearer|pass))$", re.IGNORECASE | re.ASCII
)
_Item = TypeVar("_Item")


def scrub_value(value: object, scrub: Scrubber = scrub) -> object:
    """Copy JSON-like data without its secrets; the copy encodes as JSON and has a bounded size.

    Texts are scrubbed, and values under names such as ``api_key`` or ``token`` replaced whole. Of an object that JSON
    does not have, a container inside itself or one 16 deep only the type is told (``<SecretStr>``); of more than
    about 100,000 characters in all, or 10,000 in one text, only how much was left out.

    Args:
        value: Any object; dicts, lists, tuples, texts, numbers, booleans and None are copied.
        scrub: As for `one_line`.
    """
    return _Copy(scrub).of(value)


class _Copy:
    """One walk over a value: the room that is left, and the containers it is inside of."""

    def __init__(self, scrub: Scrubber) -> None:
        self._scrub = scrub
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
        limit = min(_MAX_TEXT, max(self._room, _IDENTIFIER_LIMIT))
        head, hidden = _scrubbed_head(text, limit, self._scrub)
        result = _capped(_SURROGATE.sub(_escape, head), limit, hidden)
        self._room -= len(result)
        return result

    def _dict(self, value: dict[object, object]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, item in self._affordable(dict.items(value)):
            name = self._name(key)
            if name in result:
                name += f" ({len(result)})"  # names may be the same once they are scrubbed
            says_nothing = item is None or type(item) is bool or (type(item) is str and not item)
            result[name] = REDACTED if _SECRET_KEY.search(name) and not says_nothing else self.of(item)
        if left := len(value) - len(result):
            result[_MORE] = f"({left} more)"
        return result

    def _list(self, value: list[object] | tuple[object, ...]) -> list[object]:
        result = [self.of(item) for item in self._affordable(value)]
        if left := len(value) - len(result):
            result.append(f"{_MORE} ({left} more)")
        return result

    def _affordable(self, items: Iterable[_Item]) -> Iterator[_Item]:
        for item in list(islice(items, _MAX_SIZE)):  # a copy: another thread may change the container meanwhile
            self._room -= 1
            if self._room < 0:
                return
            yield item

    def _name(self, key: object) -> str:
        plain = key is None or issubclass(type(key), str | int | float)
        name = one_line(key if plain else _type_of(key), _IDENTIFIER_LIMIT, self._scrub)
        self._room -= len(name)
        return name


def _type_of(value: object) -> str:
    return f"<{type(value).__qualname__}>"
