"""Tests of `scrub`: secrets out of texts, and any object into one safe line."""

from __future__ import annotations

import enum
import json
import re
import time
from collections import OrderedDict
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from langchain_swarmlet_metrics.scrub import (
    REDACTED,
    error_text,
    identifier,
    one_line,
    scrub,
    scrub_value,
    scrubber,
)

# No key below is whole in this file: scanners of source code would take it for a real one.
ALNUM = "Zx9Qv7Lm2Tc4Rb8Wk1Hd5Ny3Jf6Gp0Sa" * 3
HEX = "9fceb02d0ae598e95dc970b74767f193" * 2
JWT_HEADER = "eyJ" + "hbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
JWT = f"{JWT_HEADER}.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = f"-----BEGIN RSA {'PRIVATE'} KEY-----\n{ALNUM}\n{ALNUM}\n-----END RSA {'PRIVATE'} KEY-----"

SECRETS = {
    # vendors
    "openai": ("Incorrect API key provided: {}. See the docs.", "sk-" + ALNUM[:48]),
    "openai project": ("401 for {} at api.openai.com", "sk-proj-" + ALNUM[:40] + "-_" + ALNUM[:20]),
    "anthropic": ("x={}, y=2", "sk-ant-" + "api03-" + ALNUM[:60] + "-AA"),
    "openrouter": ("used {} twice", "sk-or-v1-" + HEX),
    "deepseek": ("used {} twice", "sk-" + HEX[:32]),
    "google": ("https://example.com/v1?q=1 with {}", "AIza" + "Sy" + ALNUM[:33]),
    "google oauth": ("client {} failed", "GOCSPX-" + ALNUM[:28]),
    "aws key id": ("credentials of {} are gone", "AKIA" + "IOSFODNN7EXAMPLE"),
    "aws secret": (
        "aws_secret_access_key = {}\nregion = eu",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
    ),
    "aws session": ("AWS_SESSION_TOKEN={} aws s3 ls", "IQoJb3JpZ2luX2VjE" + ALNUM + "=="),
    "github": ("remote: {} was revoked", "ghp_" + ALNUM[:36]),
    "github app": ("(ghs: {})", "ghs_" + ALNUM[:36]),
    "github fine-grained": ("clone with {}", "github_pat_" + ALNUM[:22] + "_" + ALNUM[:59]),
    "gitlab": ("PRIVATE-TOKEN {}", "glpat-" + ALNUM[:20]),
    "slack bot": ("slack said no to {}", "xoxb-" + "123456789012-1234567890123-" + ALNUM[:24]),
    "slack app": ("slack said no to {}", "xapp-" + "1-A012345-987-" + HEX),
    "slack webhook": ("POST https://hooks.slack.com/services/{} 404", "T00000000/B00000000/" + ALNUM[:24]),
    "stripe": ("charge failed ({})", "sk_live_" + ALNUM[:24]),
    "hugging face": ("repo is gated for {}", "hf_" + ALNUM[:34]),
    "npm": ("//registry.example.com/: {}", "npm_" + ALNUM[:36]),
    "groq": ("key {} is over its limit", "gsk_" + ALNUM[:52]),
    "langsmith": ("403 with {}", "lsv2_pt_" + HEX[:32] + "_" + HEX[:10]),
    "sendgrid": ("mail: {}", "SG." + ALNUM[:22] + "." + ALNUM[:43]),
    "jwt": ("signature of {} does not verify", JWT),
    "private key": ("could not read {} from disk", PEM),
    "private key in json": ('{{"private_key": "{}"}}', PEM.replace("\n", "\\n")),
    "private key cut off": ("found {}", PEM[:90]),
    # headers
    "bearer header": ("curl -H 'Authorization: Bearer {}' https://example.com", ALNUM[:30]),
    "basic header": ("Authorization: Basic {}\r\nAccept: */*", "dXNlcjpwYXNzd29yZA=="),
    "header without a scheme": ("authorization={} was refused", ALNUM[:16]),
    "header in a dict": ("{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}", ALNUM[:30]),
    "header in raw bytes": ("[(b'authorization', b'Bearer {}'), (b'a', b'b')]", ALNUM[:30]),
    "bearer alone": ("sent bearer {} and got 401", ALNUM[:20]),
    "api key header": ("x-api-key: {}\nx-request-id: 7", "plainvalue42"),
    "cookie": ("Cookie: {}\nAccept: */*", "session=abc; theme=dark"),
    # addresses
    "url password": ("could not connect to postgresql://app:{}@db.internal:5432/main", "s3cr/et"),
    "url password with an at": ("redis://:{}@cache:6379/0 timed out", "p@ss@word"),
    "mongo password": ("mongodb+srv://root:{}@a.example.net,b.example.net/x?w=1", "hunter2"),
    "url token": ("fatal: https://{}@git.example.com/x.git not found", ALNUM[:40]),
    "query token": ("GET /v1/files?limit=5&token={}&page=2 403", "abcdef"),
    "query api key": ("GET https://example.com/v1?api_key={} 403", "abcdef12"),
    "query key": ("GET https://example.com/v1?key={}#top", ALNUM[:39]),
    "signed url": ("https://b.s3.example.com/o?X-Amz-Expires=60&X-Amz-Signature={}", HEX),
    "sas url": ("https://a.blob.example.net/c?sv=2022&sig={}&se=2026", "Zx9%2BQv7Lm2%3D"),
    "connection string": ("AccountName=a;AccountKey={};EndpointSuffix=b", ALNUM[:40] + "=="),
    "ado password": ("Server=db;User Id=sa;Pwd={};Encrypt=yes", "Sw0rdfish!"),
    "dsn": ("host=db user=app password={} dbname=main", "correct-horse"),
    # assignments
    "env": ("export OPENAI_API_KEY={} && run", "plainvalue"),
    "env password": ("DB_PASS={}\nDB_HOST=x", "swordfish"),
    "python": ("Client(api_key='{}', retries=2)", "plain value"),
    "python bare": ("connect(host=x, password={})", "abc"),
    "json": ('{{"client_secret": "{}", "client_id": "me"}}', 'a "quoted\\" one'.replace('"q', "q")),
    "json in json": ('{{"body": "{{\\"apiKey\\": \\"{}\\", \\"model\\": \\"m\\"}}"}}', "plainvalue"),
    "json token": ('{{"access_token": "{}", "expires_in": 3600}}', "abc123def456"),
    "yaml": ("db:\n  password: {}\n  host: x", "swordfish"),
    "prose": ("tried password: {} and failed", "hunter2"),
    "flag": ("run --db-password {} --verbose", "hunter2"),
    "token": ("login with token={} failed", "abcdefgh"),
}

LOOK_ALIKES = [
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 is bad",
    "sha256:446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "run_id=123e4567-e89b-12d3-a456-426614174000",
    "worker_id=2025-12-15T04-08-08_calculate-7-6 model=gpt-5-mini",
    "prompt_tokens=1234 completion_tokens=89 total_tokens=1323",
    "max_tokens: 5, max_completion_tokens: 100000",
    '{"usage": {"prompt_tokens": 12, "token_count": 55}, "token": 1234}',
    '{"token": "Hello", "logprob": -0.1}',
    "bad token: 12345678, at token=20000000",
    "Unexpected token: identifier in JSON at position 5",
    "the password is required",
    "password: required",
    "Invalid password: must be at least 8 characters",
    '{"password": null, "api_key": None, "token": true}',
    'password=""',
    "password=${DB_PASSWORD} token=$GITHUB_TOKEN api_key=<your-api-key>",
    'api_key=os.environ["OPENAI_API_KEY"]',
    "def login(user: str, password: str, token: str) -> None",
    "The secret of success is: practice",
    "secretary: Jane42, passwordless=1, author: Bob42",
    "passed=12 failed=3 pass=12 bypass=1 compass=north",
    "PWD=/home/me OLDPWD=/tmp",
    "primary_key=user_id sort_key=created_at hotkey: ctrl+alt+t cache_key=abc42 monkey=banana42",
    "skeleton-key, task-force-one, disk-usage-monitor-2024-service",
    "pip install sk-learn-contrib-some-package-name",
    "from huggingface_hub import hf_hub_download, hf_transfer",
    "npm_config_registry and npm_package_version are set",
    "xoxo-hugs-and-kisses-from-everybody",
    "Basic understanding of authentication, and bearer authentication required",
    'WWW-Authenticate: Bearer realm="api", error="invalid_token"',
    "Authorization: required",
    "http://localhost:8000/path and http://user@host:8080/a@b",
    "https://example.com:8443/v1?page=2&limit=100&code=404&key=name",
    "git@github.com:owner/repo.git and docker://alpine:3.18@sha256:" + HEX,
    "mail bob@example.com or see ftp://anonymous@example.com/x",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "read /etc/secrets/token.txt and ~/.ssh/id_rsa_2024",
    "tokenizer=o200k_base eos_token='<|endoftext|>' pad_token=[PAD] tokens=12345678",
    "AKIA and eyJ and sk- and ghp_ and AIza alone",
    "cookie: yum; keyboard: qwerty42",
    "Signature: f(x, y) -> z1",
    "run --password is missing, use --token",
    "",
]


@pytest.mark.parametrize(("template", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_is_replaced_and_the_text_around_it_is_kept(template, secret):
    """Exactly the secret becomes the marker."""
    assert scrub(template.format(secret)) == template.format(REDACTED)


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_a_secret_is_left_alone(text):
    """Hashes, ids, prose and placeholders stay as they are."""
    assert scrub(text) == text


@given(st.lists(st.sampled_from([*LOOK_ALIKES, *(t.format(s) for t, s in SECRETS.values())]), max_size=4))
def test_scrubbing_twice_changes_nothing(texts):
    """What is scrubbed once is clean."""
    clean = scrub(" \n".join(texts))
    assert scrub(clean) == clean


def test_any_part_of_a_prefixed_word_that_is_no_key_stays():
    """A vendor's prefix inside of a longer word is no key."""
    text = f"task-{ALNUM} risk_sk{ALNUM}"
    assert scrub(text) == text


ADVERSARIAL = [
    *("sk-", "sk-a", "xai-", "SG.aaaaaaaaaaaaaaaa.", "eyJ", "eyJ-", "eyJaaaaaaaa.", "a", " ", "\n"),
    *("://", "://a:", "://u:p@", "://u:p/", "?a", "&key=", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----"),
    *("password", "password=", "password: ", "password=)", "password='", 'password=\\"', "\npassword", "-password "),
    *("api key provided: ", "Bearer a", "basic a", "authorization: ", "authorization: digest a=", "cookie: a"),
    *("token=", "token: a"),
]


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_megabyte_made_to_backtrack_takes_linear_time(piece):
    """Each takes well under a second; time that grows with the square would take hours."""
    text = piece * (1_000_000 // len(piece)) + "\0"
    start = time.thread_time()
    scrub(text)
    assert time.thread_time() - start < 20


def test_a_users_patterns_are_replaced_as_well():
    """Texts and compiled patterns are taken, and the built-in secrets still go."""
    mine = scrubber(r"ACME-\d+", re.compile("employee [a-z]+", re.IGNORECASE))
    assert mine("ACME-42 of Employee Bob, password=x1") == f"{REDACTED} of {REDACTED}, password={REDACTED}"


def test_without_patterns_of_ones_own_a_scrubber_does_what_scrub_does():
    """The built-in patterns are always there."""
    assert scrubber()("password=x") == scrub("password=x") == f"password={REDACTED}"


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", r"'\(' is no regular expression"), ("x*", r"'x\*' matches the empty text")]
)
def test_a_pattern_that_cannot_work_is_refused_when_it_is_given(pattern, message):
    """The message names the pattern."""
    with pytest.raises(ValueError, match=message):
        scrubber(pattern)


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


def test_of_a_huge_text_only_the_beginning_is_scrubbed():
    """A scrubber never gets more than a few kB."""
    seen = []
    one_line("x" * 1_000_000, scrub=lambda text: seen.append(len(text)) or text)
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


def test_a_scrubber_that_fails_lets_nothing_out():
    """The agent goes on and the text stays secret."""
    assert error_text(ValueError("ACME-42"), scrub=lambda text: text[1_000]) == REDACTED


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


def test_a_users_scrubber_is_used_for_values_and_names():
    """Secrets of the user's own may stand in either."""
    assert scrub_value({"ACME-1": ["ACME-2"]}, scrubber(r"ACME-\d")) == {REDACTED: [REDACTED]}


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
