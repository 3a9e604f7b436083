"""The environment: where the root is, and what optional parts may use."""

from __future__ import annotations

from pathlib import Path

from langchain_swarmlet_metrics import settings


def test_root_order(monkeypatch, tmp_path):
    """The variable comes first, then the shared folder when it can be written, then the user's data folder."""
    monkeypatch.setattr(settings, "SHARED_ROOT", tmp_path / "shared")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SWARMLET_DATA_PATH", "~/workers")
    assert settings.default_root() == Path.home() / "workers"
    monkeypatch.setenv("SWARMLET_DATA_PATH", "")
    assert settings.default_root().parts[-2:] == ("swarmlet", "workers")
    (tmp_path / "shared").mkdir()
    assert settings.default_root() == tmp_path / "shared"


def test_tiktoken_cache_dir(monkeypatch, tmp_path):
    """Encodings come from the folder that the variable names, or from nowhere."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert settings.tiktoken_cache_dir() == tmp_path
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert settings.tiktoken_cache_dir() is None


def test_openai_key(monkeypatch):
    """Whether there is a key can be asked without reading it."""
    assert not settings.has_openai_key()
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert settings.has_openai_key()
