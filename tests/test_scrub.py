"""Tests of `scrub`: secrets out of texts, and any object into one safe line."""

from __future__ import annotations

import enum
import json
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from langchain_swarmlet_metrics import scrub as scrubbing
from langchain_swarmlet_metrics.patterns import REDACTED
from langchain_swarmlet_metrics.scrub import (
    add_secret_patterns,
    error_text,
    identifier,
    one_line,
    scrub,
    scrub_value,
)
from tests.corpus import ALNUM, SECRETS


@pytest.fixture
def add():
    """Add patterns for one test."""
    with ExitStack() as stack:
        yield lambda *patterns: stack.callback(add_secret_patterns(*patterns))


def test_a_users_patterns_are_replaced_as_well(add):
    """Texts and compiled patterns are taken, and the built-in secrets still go."""
    add(r"ACME-\d+", re.compile("employee [a-z]+", re.IGNORECASE))
    add("swordfish")
    text = scrub("ACME-42 of Employee Bob and swordfish, password=x1")
    assert text == f"{REDACTED} of {REDACTED} and {REDACTED}, password={REDACTED}"


def test_a_users_patterns_apply_wherever_texts_are_scrubbed(add):
    """Lines, errors, names and values, those that were scrubbed before included."""
    assert identifier("tool-ACME-1") == "tool-ACME-1"
    add(r"ACME-\d")
    assert one_line("x ACME-1") == f"x {REDACTED}"
    assert error_text(ValueError("x ACME-1")) == f"x {REDACTED}"
    assert identifier("tool-ACME-1") == f"tool-{REDACTED}"
    assert scrub_value({"ACME-1": ["ACME-2"]}) == {REDACTED: [REDACTED]}


def test_a_users_patterns_can_be_taken_out_again():
    """Each call takes out what it has put in, once, whatever others have put in."""
    removers = [add_secret_patterns("swordfish"), add_secret_patterns("swordfish", "hunter"), add_secret_patterns()]
    for remove in removers[1:]:
        remove()
        remove()
    assert scrub("swordfish hunter") == f"{REDACTED} hunter"
    removers[0]()
    assert scrub("swordfish hunter") == "swordfish hunter"
    assert identifier("swordfish") == "swordfish"


def test_threads_add_and_take_out_patterns_at_once():
    """None is lost, and none is left."""
    start = threading.Barrier(8)

    def use(number):
        start.wait()
        for _ in range(200):
            remove = add_secret_patterns(f"secret-{number}")
            assert scrub(f"secret-{number}") == REDACTED
            remove()
            assert scrub(f"secret-{number}") == f"secret-{number}"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))


@given(st.data())
def test_a_users_secret_is_found_wherever_it_is(data):
    """In a long text, too, each occurrence goes and everything else stays."""
    gaps = data.draw(st.lists(st.integers(0, 9000), min_size=1, max_size=4))
    secret = "<" + "s" * data.draw(st.integers(1, 1022)) + ">"
    remove = add_secret_patterns("<s+>")
    try:
        text = secret.join("." * gap for gap in gaps)
        assert scrub(text) == REDACTED.join("." * gap for gap in gaps)
    finally:
        remove()


def test_a_users_pattern_sees_no_marker(add):
    """So a pattern that fits the marker's letters does not change what is scrubbed already."""
    add(r"\b[a-z]{8}\b", r"\[", "x(?=y)|(?=z)")
    once = scrub("token=abcdefgh employee [1] xyz")
    assert once == f"token={REDACTED} {REDACTED} {REDACTED}1] {REDACTED}yz"
    assert scrub(once) == once


def test_a_users_pattern_hides_no_built_in_secret(add):
    """It comes after them, as it could match the name before a secret, or a piece of one."""
    add("password", r"\d")
    assert scrub(f"password=hunter sk-{ALNUM}") == f"{REDACTED}={REDACTED} {REDACTED}"


@pytest.mark.parametrize("pattern", [".*,", "[ab]+?,"])
def test_a_users_pattern_that_backtracks_does_not_hang(add, pattern):
    """It sees pieces of a text, so that its time does not grow with the square, which would be many minutes."""
    add(pattern)
    start = time.thread_time()
    scrub("ab" * 100_000)
    assert time.thread_time() - start < 60


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("(", ValueError, r"'\(' is no regular expression"),
        ("x*", ValueError, r"'x\*' matches the empty text"),
        (b"secret", TypeError, r"b'secret' is not for text"),
        (re.compile(b"secret"), TypeError, "is not for text"),
        (["secret"], TypeError, r"\['secret'\] is not for text"),
        (None, TypeError, "None is not for text"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused_when_it_is_given(pattern, error, message):
    """The message names the pattern, and none of those given with it is added."""
    with pytest.raises(error, match=message):
        add_secret_patterns("swordfish", pattern)
    assert scrub("swordfish") == "swordfish"


class Unprintable:
    """An object whose text cannot be had."""

    def __str__(self):
        """Raise."""
        raise RuntimeError("no text")


class UnprintableError(Exception):
    """An exception whose message cannot be had."""

    def __str__(self):
        """Raise."""
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, "None"),
        (42, "42"),
        (b"caf\xc3\xa9 \xff", r"café \xff"),
        (bytearray(b"x"), "x"),
        ("a\nb\r\nc\td\x85e\u2028f\u2029g", "a b c d e f g"),
        ("\x1b[31mred\x00\x7f\x9b", r"\x1b[31mred\x00\x7f\x9b"),
        ("a\ud800b\udfff", r"a\ud800b\udfff"),
        ("user\u202eresu \ufeff", r"user\u202eresu \ufeff"),
        ("naïve 漢字 👩‍🔬", "naïve 漢字 👩‍🔬"),
        (Unprintable(), "Unprintable"),
        (ValueError("password=x"), f"password={REDACTED}"),
    ],
)
def test_any_object_becomes_one_line(text, line):
    """White space is a space, what does not print is escaped, and an object that raises is named by its class."""
    assert one_line(text) == line


@given(
    st.one_of(st.text(st.characters(exclude_categories=()), max_size=300), st.binary(), st.floats(), st.none()),
    st.integers(-1, 120),
)
def test_a_line_is_one_line_of_utf_8_within_its_limit(text, limit):
    """Whatever comes in, what comes out is safe to write anywhere."""
    line = one_line(text, limit)
    assert len(line) <= max(limit, 0)
    assert len(line.splitlines()) <= 1
    assert line.encode().decode() == line


def test_a_long_line_ends_in_the_number_of_characters_left_out():
    """The ending is inside of the limit."""
    line = one_line("x" * 600)
    shown = line.partition("…")[0]
    assert line == f"{shown}… ({600 - len(shown)} more characters)"
    assert len(line) == 500


def test_the_limit_itself_is_not_too_long():
    """A text of exactly the limit stays whole."""
    assert one_line("x" * 500) == "x" * 500


def test_a_limit_too_small_for_the_ending_cuts_without_it():
    """The limit always holds."""
    assert one_line("x" * 600, 10) == "x" * 10


def test_the_count_of_a_huge_text_is_exact():
    """What was not looked at is counted too."""
    line = one_line("x" * 1_000_000)
    shown = line.partition("…")[0]
    assert line == f"{shown}… ({1_000_000 - len(shown)} more characters)"
    assert 490 < len(line) <= 500


def test_of_a_huge_text_only_the_beginning_is_scrubbed(monkeypatch):
    """It costs as much as a few kB."""
    seen = []
    monkeypatch.setattr(scrubbing, "scrub", lambda text: seen.append(len(text)) or text)
    one_line("x" * 1_000_000)
    assert seen
    assert max(seen) < 4_000


LONG_SECRETS = {name: pair for name, pair in SECRETS.items() if len(pair[1]) >= 20}


@pytest.mark.parametrize(("template", "secret"), LONG_SECRETS.values(), ids=LONG_SECRETS.keys())
@pytest.mark.parametrize("edge", [500, 500 + 1024, 500 + 2 * 1024])
def test_no_half_of_a_secret_survives_where_a_text_is_cut(template, secret, edge):
    """Wherever a cut goes through the secret, no twelve characters of it are left."""
    fragments = {secret[i : i + 12] for i in range(len(secret) - 11)}
    for into in range(0, len(secret), len(secret) // 5):
        text = ("word " * 1000)[: edge - into - template.index("{}")] + template.format(secret) + " more" * 1000
        line = one_line(text)
        assert not any(fragment in line for fragment in fragments)


@pytest.mark.parametrize(("template", "secret"), LONG_SECRETS.values(), ids=LONG_SECRETS.keys())
def test_no_half_of_a_secret_survives_among_many(template, secret):
    """Replacing them brings the end of what is looked at into the line."""
    fragments = {secret[i : i + 12] for i in range(len(secret) - 11)}
    for shift in range(0, len(secret), len(secret) // 5):
        line = one_line("x" * shift + f"{template.format(secret)} \n" * 200, 2000)
        assert not any(fragment in line for fragment in fragments)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("boom"), "boom"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (UnprintableError(), "UnprintableError"),
        (RuntimeError("api_key=abc\nsecond line"), f"api_key={REDACTED} second line"),
        ("a tool's own words", "a tool's own words"),
        ("", ""),
    ],
)
def test_the_text_of_an_error_is_its_message_or_its_class(error, text):
    """An empty message, or one that cannot be had, gives the class name."""
    assert error_text(error) == text


def test_the_text_of_an_error_is_capped():
    """An error may hold a whole response body."""
    assert 490 < len(error_text(RuntimeError("x" * 1_000_000))) <= 500


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("gpt-5-mini", "gpt-5-mini"),
        ("", "unknown"),
        (" \n", "unknown"),
        (None, "unknown"),
        (7, "7"),
        ("a\nb", "a b"),
        (Unprintable(), "Unprintable"),
    ],
)
def test_an_identifier_is_a_line_and_never_empty(name, safe):
    """Names of tools and models come from outside."""
    assert identifier(name) == safe
    assert identifier(safe) == safe


def test_an_identifier_has_at_most_200_characters():
    """A name is no place for a text."""
    assert 190 < len(identifier("x" * 1_000_000)) <= 200


def test_values_under_names_of_secrets_are_replaced_whole():
    """Whatever their type; null, booleans and empty texts say that there is none."""
    config = {
        "api_key": "plain",
        "OPENAI_API_KEY": b"plain",
        "clientSecret": ["plain", "plain"],
        "headers": {"Authorization": "plain", "Accept": "*/*"},
        "auth": ("me", "plain"),
        "passwords": {"db": "plain"},
        "token": 1234567,
        "password": None,
        "secret": "",
        "access_token": False,
        "max_tokens": 5,
        "tokenizer": "o200k_base",
        "author": "Jane",
    }
    assert scrub_value(config) == {
        "api_key": REDACTED,
        "OPENAI_API_KEY": REDACTED,
        "clientSecret": REDACTED,
        "headers": {"Authorization": REDACTED, "Accept": "*/*"},
        "auth": REDACTED,
        "passwords": REDACTED,
        "token": REDACTED,
        "password": None,
        "secret": "",
        "access_token": False,
        "max_tokens": 5,
        "tokenizer": "o200k_base",
        "author": "Jane",
    }


class Color(enum.StrEnum):
    """An enum whose members are texts."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum whose members are numbers."""

    HIGH = 3


class Proxy:
    """A proxy without its target: even asking for its class raises."""

    @property
    def __class__(self):
        """Raise."""
        raise RuntimeError("no target")


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("two\nlines", "two\nlines"),
        ("Bearer " + ALNUM[:20], f"Bearer {REDACTED}"),
        ("a\ud800", r"a\ud800"),
        ((1, [2.5, True, None]), [1, [2.5, True, None]]),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64 - 1, 2**64 - 1),
        (2**64, "0x10000000000000000"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (OrderedDict(a=1), {"a": 1}),
        ({1: "a", None: "b", (2, 3): "c"}, {"1": "a", "None": "b", "<tuple>": "c"}),
        ({"password=a": 1, "password=b": 2}, {f"password={REDACTED}": 1, f"password={REDACTED} (1)": 2}),
        (SecretStr("hidden"), "<SecretStr>"),
        (datetime(2025, 12, 15, tzinfo=UTC), "<datetime>"),
        ({"a", "b"}, "<set>"),
        (b"bytes", "<bytes>"),
    ],
)
def test_a_value_becomes_plain_json(value, clean):
    """What JSON does not have is named by its type, never by its repr."""
    assert scrub_value(value) == clean


def test_a_proxy_that_raises_is_named_by_its_type():
    """A web framework's proxy outside of a request, say."""
    assert scrub_value([Proxy()]) == ["<Proxy>"]
    assert one_line(Proxy()) == "Proxy"


def test_a_container_inside_itself_is_named_by_its_type():
    """The same container twice side by side is copied twice."""
    inner = {"x": 1}
    value = {"one": inner, "two": inner}
    value["self"] = [value]
    assert scrub_value(value) == {"one": {"x": 1}, "two": {"x": 1}, "self": ["<dict>"]}


def test_a_value_of_any_depth_can_be_copied():
    """Deeper than 16 containers only the type is told."""
    value = []
    for _ in range(100_000):
        value = [value]
    assert json.dumps(scrub_value(value)) == "[" * 16 + '"<list>"' + "]" * 16


@pytest.mark.parametrize("value", ["x" * 1_000_000, ["x" * 20_000] * 1000, {str(i): i for i in range(200_000)}])
def test_a_huge_value_is_cut_and_says_how_much_is_missing(value):
    """The copy stays small enough for metadata.json."""
    text = json.dumps(scrub_value(value), ensure_ascii=False)
    assert len(text) < 1_000_000
    assert " more" in text[-30:]


def test_what_is_missing_of_a_list_and_a_dict_is_counted():
    """Nothing is left out silently."""
    numbers = scrub_value(list(range(150_000)))
    assert numbers[-1] == f"… ({150_000 - (len(numbers) - 1)} more)"
    table = scrub_value({str(i): i for i in range(150_000)})
    assert table["…"] == f"({150_000 - (len(table) - 1)} more)"


def test_a_shared_container_cannot_blow_the_copy_up():
    """Thirty levels of twice the same would be a billion values."""
    value = ["leaf"]
    for _ in range(30):
        value = [value, value]
    assert len(json.dumps(scrub_value(value))) < 1_000_000


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner),
    max_leaves=20,
)


@given(JSON_LIKE)
def test_every_copy_encodes_as_json(value):
    """Both strict encoders take it."""
    clean = scrub_value(value)
    json.dumps(clean, allow_nan=False, ensure_ascii=False).encode()
    assert msgspec.json.decode(msgspec.json.encode(clean)) == clean
