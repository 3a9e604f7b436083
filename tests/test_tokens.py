"""Tests of `tokens`: estimates from encodings that are on disk, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import tiktoken.load
import tiktoken.registry
import tiktoken_ext.openai_public

from langchain_swarmlet_metrics import tokens

URL = "http://encodings.invalid/tiny.tiktoken"
SPECIAL = "<|endoftext|>"
# A real encoding, only a small one: every byte is a token, and so is "he".
TINY = b"\n".join(
    base64.b64encode(token) + b" %d" % rank for rank, token in enumerate([bytes([i]) for i in range(256)] + [b"he"])
)
REAL_FILES = os.environ.get("TIKTOKEN_CACHE_DIR")


def cache_path(directory):
    """Return where tiktoken keeps the tiny encoding."""
    return directory / hashlib.sha1(URL.encode()).hexdigest()


@pytest.fixture
def requests_seen(monkeypatch):
    """Collect the downloads that are tried: a proxy on loopback gets them all and serves none."""
    seen = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(503)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield seen
        server.shutdown()
        thread.join()


@pytest.fixture
def fresh(monkeypatch):
    """Forget what this process has loaded, for the time of a test."""
    monkeypatch.setattr(tokens, "_encodings", {})
    monkeypatch.setattr(tokens, "_loader", None)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})


@pytest.fixture
def tiny(fresh, requests_seen, monkeypatch, tmp_path):
    """Put the tiny encoding in the place of o200k_base, its file into a cache directory; yield that directory."""
    sha256 = hashlib.sha256(TINY).hexdigest()
    monkeypatch.setattr(tokens, "ENCODING_FILES", {"o200k_base": (URL, sha256)})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def constructor():
        return {
            "name": "o200k_base",
            "pat_str": r"\w+|\W+",
            "mergeable_ranks": tiktoken.load.load_tiktoken_bpe(URL, sha256),
            "special_tokens": {SPECIAL: 300},
        }

    monkeypatch.setattr(tiktoken.registry, "ENCODING_CONSTRUCTORS", {"o200k_base": constructor})
    cache_path(tmp_path).write_bytes(TINY)
    return tmp_path


def load(directory):
    """Preload from a directory and wait for the end of it."""
    tokens.preload(directory)
    tokens._loader.join(30)
    assert not tokens._loader.is_alive()


def test_a_text_is_counted_once_its_encoding_is_loaded(tiny, requests_seen):
    """The file in the cache directory is all it takes."""
    load(tiny)
    assert tokens.count("hehe", "gpt-5-mini") == 2
    assert tokens.count("", "gpt-5-mini") == 0
    assert requests_seen == []


def test_nothing_is_counted_while_the_encoding_loads(tiny, monkeypatch):
    """A count does not wait for the loader."""
    constructor = tiktoken.registry.ENCODING_CONSTRUCTORS["o200k_base"]
    loading, go_on = threading.Event(), threading.Event()

    def slow():
        loading.set()
        assert go_on.wait(30)
        return constructor()

    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "o200k_base", slow)
    tokens.preload(tiny)
    assert loading.wait(30)
    assert tokens.count("hehe", "gpt-5") is None
    assert tokens.count_messages(["hehe"], "gpt-5") is None
    go_on.set()
    tokens._loader.join(30)
    assert tokens.count("hehe", "gpt-5") == 2


def test_the_encoding_is_loaded_by_one_daemon_thread(tiny):
    """A second worker starts nothing, and the interpreter does not wait for the thread."""
    load(tiny)
    loader = tokens._loader
    tokens.preload(tiny)
    assert tokens._loader is loader
    assert loader.daemon


def test_without_a_cache_directory_nothing_is_started(fresh):
    """TIKTOKEN_CACHE_DIR is not set."""
    tokens.preload(None)
    assert tokens._loader is None
    assert tokens.count("hehe", "gpt-5") is None


def test_a_missing_file_is_not_downloaded(tiny, requests_seen):
    """The cache directory stays as empty as it was."""
    cache_path(tiny).unlink()
    load(tiny)
    assert tokens.count("hehe", "gpt-5") is None
    assert list(tiny.iterdir()) == []
    assert requests_seen == []


def test_a_missing_directory_is_not_made(tiny, requests_seen):
    """The variable may name a place that is gone."""
    load(tiny / "gone")
    assert not (tiny / "gone").exists()
    assert requests_seen == []


@pytest.mark.parametrize("content", [b"", b"damaged", TINY[:-1]])
def test_a_damaged_file_is_left_alone_and_named(tiny, requests_seen, caplog, content):
    """Tiktoken would delete it and download another one."""
    cache_path(tiny).write_bytes(content)
    load(tiny)
    assert tokens.count("hehe", "gpt-5") is None
    assert cache_path(tiny).read_bytes() == content
    assert requests_seen == []
    assert f"No token estimates for o200k_base: {cache_path(tiny)} is damaged" in caplog.text


def test_a_download_would_have_been_seen(tiny, requests_seen):
    """What tiktoken does without the check, so that the tests above mean something."""
    cache_path(tiny).write_bytes(b"damaged")
    with pytest.raises(OSError, match="503"):
        tiktoken.get_encoding("o200k_base")
    assert requests_seen == [URL]
    assert not cache_path(tiny).exists()


def test_an_encoding_that_does_not_load_is_named_in_one_warning(tiny, monkeypatch, caplog):
    """The right content that tiktoken can't read, say of another version."""
    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "o200k_base", lambda: int("no encoding"))
    load(tiny)
    assert tokens.count("hehe", "gpt-5") is None
    (warning,) = caplog.messages
    assert warning.startswith(f"No token estimates for o200k_base: loading {cache_path(tiny)} failed: invalid literal")


def test_the_name_of_a_special_token_is_a_text(tiny):
    """Tiktoken raises ValueError for it unless it is told otherwise."""
    load(tiny)
    assert tokens.count(SPECIAL, "gpt-5") == len(SPECIAL)


def test_a_lone_surrogate_can_be_counted(tiny):
    """Broken texts come from models too."""
    load(tiny)
    assert tokens.count("\ud800", "gpt-5") == 3


@pytest.mark.parametrize(
    ("text", "counted"), [("x" * 100_000, True), ("x" * 100_001, False), ("é" * 50_000, True), ("é" * 50_001, False)]
)
def test_a_text_above_100_kb_is_not_counted(tiny, text, counted):
    """It would hold up the callback; the size is that of UTF-8."""
    load(tiny)
    assert (tokens.count(text, "gpt-5") is not None) is counted
    assert (tokens.count_messages([text], "gpt-5") is not None) is counted


def test_messages_are_limited_to_100_kb_in_all(tiny):
    """Many small ones take as long as a large one."""
    load(tiny)
    assert tokens.count_messages(["x" * 50_000] * 2, "gpt-5") is not None
    assert tokens.count_messages(["x" * 50_000] * 2 + ["x"], "gpt-5") is None


@pytest.mark.parametrize(("texts", "count"), [([], 3), (["hehe"], 9), (["hehe", ""], 13)])
def test_messages_cost_four_tokens_each_and_the_answer_three(tiny, texts, count):
    """By the formula of OpenAI's cookbook: 3 and the role for each message, 3 for the start of the answer."""
    load(tiny)
    assert tokens.count_messages(texts, "gpt-5") == count


def test_a_model_whose_encoding_is_not_loaded_is_not_counted(tiny):
    """Another encoding's number would be wrong."""
    load(tiny)
    assert tokens.count("hehe", "gpt-4") is None


@pytest.mark.parametrize("model", [None, "", "claude-opus-5", "unknown"])
def test_a_model_without_a_known_encoding_is_not_counted(tiny, model):
    """Nothing is guessed."""
    load(tiny)
    assert tokens.count("hehe", model) is None
    assert tokens.count_messages(["hehe"], model) is None


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-5-mini", "o200k_base"),
        ("gpt-4o-2024-08-06", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("o3", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("openai/gpt-5", "o200k_base"),
        ("azure/GPT-4", "cl100k_base"),
        ("gpt-oss:20b", "o200k_base"),
        ("ft:gpt-4.1-mini:org::id", "o200k_base"),
        ("ft:gpt-3.5-turbo:org::id", "cl100k_base"),
        ("gpt-6-astra", "o200k_base"),
        ("gpt-17", "o200k_base"),
        ("o7-mini", "o200k_base"),
        ("claude-sonnet-5", None),
        ("anthropic/claude-sonnet-5", None),
        ("gemini-3-pro", None),
        ("llama3:8b", None),
        ("mistral-large-latest", None),
        ("gpt-j-6b", None),
        ("gpt-neox-20b", None),
        ("o200k", None),
        ("/", None),
    ],
)
def test_a_model_is_given_the_encoding_that_fits_it(model, encoding):
    """Tiktoken's own table first, then newer models of OpenAI's; other vendors have other tokenizers."""
    assert tokens._encoding_name(model) == encoding


@pytest.mark.parametrize("name", tokens.ENCODING_FILES)
def test_addresses_and_hashes_are_those_of_tiktoken(name, monkeypatch):
    """A version of tiktoken with another file must be noticed here."""
    asked = []

    def note(url, expected_hash=None):
        asked.append((url, expected_hash))
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", note)
    tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]()
    assert asked == [tokens.ENCODING_FILES[name]]


def run(script, *arguments):
    """Run a script in a process of its own and return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tiktoken_is_not_imported_before_it_is_needed(tmp_path):
    """Neither by importing the module, nor by counting, nor by a directory without files."""
    script = """
        import sys
        from pathlib import Path
        from langchain_swarmlet_metrics import tokens
        tokens.preload(Path(sys.argv[1]))
        tokens._loader.join(30)
        assert tokens.count("x", "gpt-5") is None
        print("tiktoken" in sys.modules)
    """
    assert run(script, tmp_path) == "False"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_waits_for_the_loader(tmp_path):
    """A child forked while tiktoken holds its lock could never use tiktoken."""
    script = """
        import hashlib, os, signal, sys, threading
        from pathlib import Path
        import tiktoken, tiktoken.registry
        from langchain_swarmlet_metrics import tokens

        loading, go_on = threading.Event(), threading.Event()
        def constructor():
            loading.set()
            assert go_on.wait(30)
            ranks = {bytes([i]): i for i in range(256)}
            return {"name": "o200k_base", "pat_str": ".", "mergeable_ranks": ranks, "special_tokens": {}}
        tiktoken.registry.ENCODING_CONSTRUCTORS = {"o200k_base": constructor, "other": constructor}

        url = "http://encodings.invalid/empty"
        tokens.ENCODING_FILES = {"o200k_base": (url, hashlib.sha256().hexdigest())}
        (Path(sys.argv[1]) / hashlib.sha1(url.encode()).hexdigest()).touch()
        tokens.preload(Path(sys.argv[1]))
        assert loading.wait(30)
        threading.Timer(0.2, go_on.set).start()
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            tiktoken.get_encoding("other")
            os._exit(tokens.count("four", "gpt-5"))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(script, tmp_path) == "4"


@pytest.mark.skipif(not REAL_FILES, reason="TIKTOKEN_CACHE_DIR names no directory with tiktoken's real encodings")
def test_real_encodings_give_the_numbers_that_openai_bills(fresh, monkeypatch):
    """A request with the one user message "Hello" is billed as 8 prompt tokens."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", REAL_FILES)
    load(Path(REAL_FILES))
    for model in ("gpt-4o", "gpt-4"):
        assert tokens.count("hello world", model) == 2
        assert tokens.count_messages(["Hello"], model) == 8
