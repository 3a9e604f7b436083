"""Token estimates with tiktoken, for calls whose provider reported no usage.

An encoding is loaded by one daemon thread, only from a file that is already on disk with the right content;
until then every estimate is None. Nothing here downloads, deletes a file or waits.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tiktoken import Encoding

_log = logging.getLogger("langchain_swarmlet_metrics")

MAX_BYTES = 100_000
"""UTF-8 bytes above which nothing is estimated: it would take too long inside a callback."""

ENCODING_FILES: dict[str, tuple[str, str]] = {
    "o200k_base": (
        "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}
"""Encoding name to the address tiktoken names its cache file after, and the SHA-256 of that file."""

# Each message costs 3 tokens and one for its role (system, user, assistant and tool are one token each),
# and 3 more open the answer: https://github.com/openai/openai-cookbook, "How to count tokens with tiktoken".
_PER_MESSAGE = 4
_PER_ANSWER = 3

# OpenAI's chat models that are newer than the installed tiktoken; not gpt-j, gpt-neox and other people's models.
_NEW_OPENAI_MODEL = re.compile(r"gpt-(?:\d|oss)|o\d+(?:-|$)")

# o200k_harmony differs from o200k_base by its special tokens alone, and those are counted as text here.
_SAME_TEXT = {"o200k_harmony": "o200k_base"}

_FORK_WAIT_S = 5.0

_encodings: dict[str, Encoding] = {}
_loader: threading.Thread | None = None
_lock = threading.Lock()


def preload(cache_dir: Path | None) -> None:
    """Start loading the encodings whose files are in `cache_dir`, once per process, and return at once.

    Args:
        cache_dir: The directory TIKTOKEN_CACHE_DIR names (tiktoken itself reads that variable, so it must be the
            same one); None does nothing.
    """
    global _loader  # noqa: PLW0603 - the one loader of this process
    if cache_dir is None:
        return
    with _lock:
        if _loader is None:
            _loader = threading.Thread(target=_load, args=(cache_dir,), name="swarmlet-tiktoken", daemon=True)
            _loader.start()


def count(text: str, model: str | None) -> int | None:
    """Estimate the tokens of a text; special tokens such as `<|endoftext|>` count as the text they are.

    Args:
        text: Any text, lone surrogates included.
        model: Model name as the provider or the user spells it.

    Returns:
        The number of tokens, or None when no encoding that fits the model is loaded or the text is larger than
        MAX_BYTES.
    """
    encoding = _encoding(model)
    if encoding is None or not _fits([text]):
        return None
    return len(encoding.encode_ordinary(text))


def count_messages(texts: Sequence[str], model: str | None) -> int | None:
    """Estimate the prompt tokens of a chat request, by the formula of OpenAI's cookbook.

    Args:
        texts: The text of each message, in any order.
        model: Model name as the provider or the user spells it.

    Returns:
        The number of tokens, or None where `count` gives None for the texts taken together.
    """
    encoding = _encoding(model)
    if encoding is None or not _fits(texts):
        return None
    return sum(_PER_MESSAGE + len(encoding.encode_ordinary(text)) for text in texts) + _PER_ANSWER


def _fits(texts: Sequence[str]) -> bool:
    # Every character is at least one byte, so the cheap sum spares encoding a huge text only to measure it.
    if sum(map(len, texts)) > MAX_BYTES:
        return False
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) <= MAX_BYTES


def _encoding(model: str | None) -> Encoding | None:
    # An empty table also means that tiktoken may not be imported yet, which `_encoding_name` would do here.
    if not model or not _encodings:
        return None
    return _encodings.get(_encoding_name(model) or "")


@functools.lru_cache(maxsize=256)
def _encoding_name(model: str) -> str | None:
    """Name the encoding of a model: tiktoken's own table, o200k_base for newer OpenAI models, else None.

    A gateway's prefix (`openai/gpt-5`), a fine-tune (`ft:gpt-4o:org::id`) and a tag (`gpt-oss:20b`) are looked
    through. Models of other vendors have other tokenizers, and a wrong number would look like a right one.
    """
    from tiktoken.model import encoding_name_for_model  # noqa: PLC0415 - slow, and already done by the loader

    name = model.rpartition("/")[2].removeprefix("ft:").partition(":")[0].lower()
    try:
        encoding = encoding_name_for_model(name)
    except KeyError:
        return "o200k_base" if _NEW_OPENAI_MODEL.match(name) else None
    return _SAME_TEXT.get(encoding, encoding)


def _load(cache_dir: Path) -> None:
    for name, (url, sha256) in ENCODING_FILES.items():
        path = cache_dir / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
        try:
            if not path.is_file():
                continue
            # tiktoken deletes a file with another content and downloads it again, so it must not get to see one.
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                _log.warning("No token estimates for %s: %s is damaged, delete it and fetch it again", name, path)
                continue
            import tiktoken  # noqa: PLC0415 - 50 ms, paid only by this thread and only when there is a file

            _encodings[name] = tiktoken.get_encoding(name)
        except (ImportError, OSError, ValueError) as error:
            _log.warning("No token estimates for %s: loading %s failed: %s", name, path, error)


def _finish_loading() -> None:
    # tiktoken holds a global lock while it loads; a child forked in that moment would wait for it for ever.
    if _loader is not None:
        _loader.join(_FORK_WAIT_S)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_finish_loading)
