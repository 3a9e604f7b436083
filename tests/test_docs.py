"""The documentation is true: its examples run and print what it says, and it names everything there is."""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import logging
import re
import runpy
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import jsonschema
import pytest

import langchain_swarmlet_metrics
from langchain_swarmlet_metrics import cli, content, events, metadata, snapshot
from langchain_swarmlet_metrics.testing import OpenAIServer, Reply, ToolRequest
from tests import shell
from tests.test_recipes import FOLLOWED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "langchain_swarmlet_metrics"
README = ROOT / "README.md"
FORMATS = ROOT / "docs" / "formats.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OPTIONAL_LIBRARIES = ["deepagents"]

_BLOCK = re.compile(
    r"(?P<output><!-- output -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


class Block(NamedTuple):
    """Hold a fenced block of a page."""

    language: str
    code: str
    line: int
    is_output: bool


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(match["language"], match["code"], text.count("\n", 0, match.start("code")), bool(match["output"]))
        for match in _BLOCK.finditer(text)
    ]


def library_of(block: Block) -> str | None:
    """Return the optional library that a block imports, if any."""
    return next((name for name in OPTIONAL_LIBRARIES if f"from {name} import" in block.code), None)


EXAMPLES = [(page, None) for page in PAGES]
EXAMPLES += [(page, library) for page in PAGES for library in sorted({*map(library_of, blocks_of(page))} - {None})]


def answer(request) -> Reply:
    """Stand in for a model: call the tool that fits once, then answer."""
    wishes = {
        "spawn_worker": {"task": "calculate 7*6"},
        "task": {"description": "calculate 7*6", "subagent_type": "calculator"},
        "transfer_to_calculator": {},
        "list_workers": {},
        "multiply": {"a": 7, "b": 6},
    }
    if request.messages[-1]["role"] != "tool":
        for name, arguments in wishes.items():
            if name in request.tools:
                return Reply(tool_calls=[ToolRequest(name, arguments)])
    return Reply(text="Bonjour" if "French" in str(request.messages) else "The result is 42.")


@contextlib.contextmanager
def logging_as_before():
    """Undo what an example does to logging."""
    loggers = [logging.getLogger(), logging.getLogger("langchain_swarmlet_metrics")]
    before = [(logger, logger.handlers[:], logger.filters[:], logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, filters, level, propagate in before:
            for added in set(logger.handlers) - set(handlers):
                added.close()
            logger.handlers[:], logger.filters[:], logger.propagate = handlers, filters, propagate
            logger.setLevel(level)


@pytest.fixture
def scene(tmp_path, monkeypatch, demo_run):
    """Be in an empty folder, with a model behind the usual variables and the demo's files behind the recipes' ones."""
    failed = next(path.parent for path in sorted(demo_run.root.glob("*/metrics.jsonl")) if "error" in path.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKER", str(failed))
    monkeypatch.setenv("WORKER_ID", failed.name)
    monkeypatch.setenv("LOG", str(demo_run.log))
    monkeypatch.setenv("OPENAI_API_KEY", "loopback")
    with OpenAIServer(answer) as server, logging_as_before():
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield tmp_path


def masked(text: str) -> list[str]:
    """Return lines with every number made 0, and in an order of their own: both differ from run to run."""
    without_aid = re.sub(r"(\d+ms) \([\dhms. ]+\)", r"\1", text)
    return sorted(re.sub(r"\d+", "0", line).rstrip() for line in without_aid.splitlines() if line.strip())


def run_python(block: Block, page: Path, namespace: dict) -> str:
    """Run a block's code and return what it printed."""
    printed = io.StringIO()
    code = compile("\n" * block.line + block.code, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(block: Block, folder: Path) -> str:
    """Run a block's commands and return what they printed; what installs or builds is only checked."""
    if "tail -f" in block.code:
        assert block.code.strip().replace('"$LOG"', "LOG") in FOLLOWED
        return ""
    commands = [line for line in block.code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if all(line.startswith(("make ", "pip ")) for line in commands):
        for line in commands:
            check_not_run(shlex.split(line, comments=True))
        return ""
    if "jq " in block.code:
        shell.require("jq")
    return shell.run(block.code, cwd=folder)


def check_not_run(words: list[str]) -> None:
    """Check a command that is not run: make's targets exist, and pip installs this project with extras it has."""
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case ["pip", "install", requirement]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            name, _, extra = requirement.rstrip("]").partition("[")
            assert name == project["name"]
            assert not extra or extra in project["optional-dependencies"]
        case _:
            pytest.fail(f"{words} is neither run nor known")


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")  # langgraph-supervisor still calls it
@pytest.mark.parametrize(("page", "library"), EXAMPLES, ids=lambda value: getattr(value, "name", value))
def test_examples_run_and_print_what_the_page_says(scene, page, library):
    """Every example of a page runs, in order and in one namespace; what stands as its output is what it prints."""
    if library is not None:
        pytest.importorskip(library, reason=f"{library} is not installed")
    namespace = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(page):
        if library_of(block) not in (None, library):
            continue
        if block.is_output:
            assert masked(block.code) == masked(printed), f"{page.name}, line {block.line}"
        elif block.language == "python":
            printed = run_python(block, page, namespace)
        elif block.language == "bash":
            printed = run_shell(block, scene)


def test_every_block_says_what_it_is():
    """Every fenced block has a language that is checked here, or is text."""
    for page in PAGES:
        assert page.read_text().count("```") == 2 * len(blocks_of(page)), page.name
        assert {block.language for block in blocks_of(page)} <= {"python", "bash", "text", "json"}, page.name


@pytest.mark.parametrize("name", langchain_swarmlet_metrics.__all__)
def test_public_name_is_documented(name):
    """Every public name stands in the documentation and, where Python keeps one, has a docstring."""
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in PAGES)
    value = getattr(langchain_swarmlet_metrics, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)


@pytest.mark.parametrize("name", langchain_swarmlet_metrics.__all__)
def test_public_name_stands_in_the_table_of_names(name):
    """The README's table of names has every public name."""
    assert f"`{name}`" in README.read_text().partition("## The names")[2]


def test_public_methods_have_docstrings():
    """Every public method and property of the public classes says what it does, in a sentence."""
    for name in langchain_swarmlet_metrics.__all__:
        value = getattr(langchain_swarmlet_metrics, name)
        if not inspect.isclass(value):
            continue
        for member, what in vars(value).items():
            if not member.startswith("_") and (inspect.isfunction(what) or isinstance(what, property)):
                first = (what.__doc__ or "").partition("\n")[0]
                assert re.fullmatch(r"[A-Z].*\.", first), f"{name}.{member}"


def test_command_line_is_documented():
    """Every command and option of the command line stands in the documentation."""
    documentation = "".join(page.read_text() for page in PAGES)
    parser = cli._parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert "swarmlet-metrics" in documentation
    for command, its_parser in commands.choices.items():
        assert re.search(
            rf"`(?:swarmlet-metrics )?{command}\b|^swarmlet-metrics {command}\b", documentation, re.MULTILINE
        )
        for action in [*parser._actions, *its_parser._actions]:
            for option in action.option_strings:
                assert option == "-h" or f"`{option}`" in documentation, option


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_resolve(page):
    """Every link inside the project leads to a file, and to a heading of it."""
    for match in _LINK.finditer(page.read_text()):
        target = match["target"]
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors_of(linked), target


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = (match["title"].lower() for match in _HEADING.finditer(prose))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def table_keys(page: Path, heading: str) -> list[str]:
    """Return the names in the first column of the first table under a heading."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page.read_text(), maxsplit=1, flags=re.MULTILINE)[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_tables_of_formats_are_the_schema():
    """The tables of keys have every key of the formats, in their order in a file."""
    assert table_keys(FORMATS, "`llm_call`") == ["event", *events.LLMCall.__struct_fields__]
    assert table_keys(FORMATS, "`tool_call`") == ["event", *events.ToolCall.__struct_fields__]
    assert table_keys(FORMATS, "metadata.json") == [*metadata.Metadata.__struct_fields__]
    assert table_keys(FORMATS, "inflight.json") == [*snapshot.Snapshot.__struct_fields__]
    assert table_keys(FORMATS, "thread.jsonl") == ["entry", *content.Message.__struct_fields__]
    section = FORMATS.read_text().partition("| key of `completeness` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == [*metadata.Completeness.__struct_fields__]


@pytest.mark.parametrize("kind", [events.LLMCall, events.ToolCall, metadata.Metadata], ids=lambda kind: kind.__name__)
def test_readme_has_every_key(kind):
    """The README's tables name every key of the files."""
    section = README.read_text().partition("## Files")[2].partition("## Recipes")[0]
    assert set(kind.__struct_fields__) <= set(re.findall(r"`(\w+)`", section))


def test_schemas_are_fresh():
    """The JSON Schemas on the page are those of the code; `python docs/generate_formats.py` renews them."""
    generate = runpy.run_path(str(ROOT / "docs" / "generate_formats.py"))["generate"]
    assert FORMATS.read_text() == generate(FORMATS.read_text()), "run: python docs/generate_formats.py"


def test_files_fit_the_schemas_of_the_page(demo_run):
    """What the demo wrote is valid by the schemas as the page prints them."""
    schemas = [json.loads(block.code) for block in blocks_of(FORMATS) if block.language == "json"]
    of_events, of_metadata = schemas[:2]
    workers = sorted(path.parent for path in demo_run.root.glob("*/metadata.json"))
    assert len(workers) == 3
    for worker in workers:
        whole = json.loads((worker / "metadata.json").read_text())
        jsonschema.validate(whole, of_metadata)
        assert list(whole) == table_keys(FORMATS, "metadata.json")
        for line in (worker / "metrics.jsonl").read_text().splitlines():
            jsonschema.validate(json.loads(line), of_events)
    with pytest.raises(jsonschema.ValidationError, match="llm_call"):
        jsonschema.validate({"event": "llm_call"}, of_events)


def layers() -> dict[str, int]:
    """Return the line of each module in the diagram of layers, from the bottom."""
    diagram = ARCHITECTURE.read_text().partition("## Layers")[2].split("```")[1].splitlines()[1:]
    return {
        name.strip(): height
        for height, line in enumerate(reversed(diagram))
        for name in re.split(r"\s{2,}", line)[0].split("·")
    }


def imports_of(file: Path) -> set[str]:
    """Return the modules of this package that a file imports when it runs."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only and node.module:
            package, _, module = node.module.partition(".")
            if package == PACKAGE.name:
                found |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
    return found - {"__version__"}


def test_layers_are_those_of_the_code():
    """The diagram has every module, and each imports only from lines below its own."""
    heights = layers()
    modules = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    modules |= {path.name: sorted(path.glob("*.py")) for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    helpers = modules.pop("testing")
    assert heights.keys() == modules.keys()
    for module, files in modules.items():
        for imported in set().union(*map(imports_of, files)) - {module, "testing"}:
            assert heights[imported] < heights[module], f"{module} imports {imported}"
    assert set().union(*map(imports_of, helpers)) == {"testing"}


def test_changelog_names_the_version():
    """The newest entry of the changelog is this version."""
    newest = re.search(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == langchain_swarmlet_metrics.__version__
