"""The package itself: names, import time, layers, documentation."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import langchain_swarmlet_metrics as package

ROOT = Path(package.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def run(code):
    """Run code in a bare interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_exported_names():
    """Every exported name resolves, is documented, and type checkers see the same list."""
    assert sorted(package.__all__) == sorted(package._MODULE_OF)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        value = getattr(package, name)
        assert isinstance(value, str) or name == "Event" or inspect.getdoc(value), name
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body for alias in node.names}
    assert imported == set(package.__all__)


def test_unknown_name():
    """A name that the package does not have is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_import_loads_no_langchain():
    """Importing the package, reading files and listing load no LangChain."""
    loaded = run(
        "import sys, langchain_swarmlet_metrics as m, langchain_swarmlet_metrics.cli\n"
        "m.ArtifactStore, m.LLMCall, m.MetricsCollector, m.configure_logging\n"
        "print([name for name in sys.modules if name.startswith(('langchain_core', 'langchain.', 'langgraph'))])"
    )
    assert loaded == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_size(path):
    """No module is so long that it must hold more than one job."""
    assert path.read_text().count("\n") <= 400


def test_version():
    """The version is that of the changelog's newest entry."""
    changelog = (ROOT.parent / "CHANGELOG.md").read_text()
    assert f"## [{package.__version__}]" in changelog
