"""The notebooks run from top to bottom, and what they say about cells is true."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets import Instance

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


class ThisInterpreter(KernelSpecManager):
    """Know one kernel, the running interpreter's, without any file that says so."""

    def get_kernel_spec(self, kernel_name):
        """Return the running interpreter's kernel, whatever the name."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


class Manager(AsyncKernelManager):
    """Start the running interpreter as kernel."""

    kernel_spec_manager = Instance(ThisInterpreter, ())


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Return a function that executes a notebook in a kernel which writes to the test's folder alone."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))

    def run(notebook):
        where = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, kernel_manager_class=Manager, timeout=120, resources=where).execute()
        return [printed_by(cell) for cell in notebook.cells if cell.cell_type == "code"]

    return run


def printed_by(cell) -> str:
    """Return what a cell printed, and its value."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(texts).strip()


def notebook_of(*cells: str):
    """Make a notebook of code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stored_without_outputs(path):
    """A stored notebook is valid and has nothing of the machine it ran on."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_quickstart_runs(execute, tmp_path):
    """The quickstart shows log lines, a worker, its events, a worker across cells, and a supervisor's reading."""
    (path,) = NOTEBOOKS
    printed = "\n".join(execute(nbformat.read(path, as_version=4)))
    for text in (
        "INFO llm_call_complete phase=initial ",
        "say-good-morning-in-french success, Execution time: ",
        "['metadata.json', 'metrics.jsonl', 'result.txt']",
        "'event': 'llm_call'",
        "explore success, Execution time: ",
        "2 LLM calls",
        "Result from worker job 3 (worker ",
        "- multiply: 1 call, 0 errors, ",
    ):
        assert text in printed
    assert not list((tmp_path / "tmpdir").iterdir())


def test_context_of_cells(execute):
    """A plain cell's context carries on in later cells; what a cell with `await` sets ends with it."""
    printed = execute(
        notebook_of(
            "import asyncio\n"
            "from langchain_swarmlet_metrics import MetricsCollector, get_metrics_collector, set_metrics_collector\n"
            "def current():\n"
            "    return getattr(get_metrics_collector(), 'worker_id', None)\n"
            "async def current_in_a_coroutine():\n"
            "    return current()",
            "token = set_metrics_collector(MetricsCollector('first'))",
            "print(current())",
            "print(await current_in_a_coroutine())",
            "token = set_metrics_collector(MetricsCollector('second')); print(await current_in_a_coroutine())",
            "print(current())",
        )
    )
    assert printed[2:] == ["first", "first", "second", "first"]


def test_worker_opened_in_a_cell_with_await(execute):
    """A worker that is opened in a cell with `await` is not current in later ones; closing it there still works."""
    printed = execute(
        notebook_of(
            "import asyncio, pathlib\n"
            "from langchain_core.language_models import FakeListChatModel\n"
            "from langchain_swarmlet_metrics import WorkerRunner\n"
            "model = FakeListChatModel(responses=['yes'])\n"
            "runner = WorkerRunner(pathlib.Path('workers').absolute())",
            "worker = runner.worker('opened with await').open(); await asyncio.sleep(0)",
            "model.invoke('?').text",
            "worker.close(); print(worker.status, worker.totals.llm_calls)",
            "worker = runner.worker('opened without').open()",
            "(await model.ainvoke('?')).text",
            "worker.close(); print(worker.status, worker.totals.llm_calls)",
        )
    )
    assert (printed[3], printed[6]) == ("success 0", "success 1")
