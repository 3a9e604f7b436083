"""The only reader of the environment: where workers are kept, and what optional parts may use."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

DATA_PATH_VARIABLE = "SWARMLET_DATA_PATH"
SHARED_ROOT = Path("/data/swarmlet/workers")


def default_root() -> Path:
    """Return the root for worker folders when the user names none.

    In this order: ``SWARMLET_DATA_PATH``, ``/data/swarmlet/workers`` when it exists and is writable, the user data
    folder.
    """
    if configured := os.environ.get(DATA_PATH_VARIABLE):
        return Path(configured).expanduser()
    if SHARED_ROOT.is_dir() and os.access(SHARED_ROOT, os.W_OK):
        return SHARED_ROOT
    return user_data_path("swarmlet", appauthor=False) / "workers"


def tiktoken_cache_dir() -> Path | None:
    """Return ``TIKTOKEN_CACHE_DIR``, the only place token encodings are loaded from, or None when it is not set."""
    configured = os.environ.get("TIKTOKEN_CACHE_DIR")
    return Path(configured) if configured else None


def has_openai_key() -> bool:
    """Tell whether ``OPENAI_API_KEY`` is set, without reading it out."""
    return bool(os.environ.get("OPENAI_API_KEY"))
