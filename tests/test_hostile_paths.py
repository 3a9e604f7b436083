"""Paths that a model makes up: whatever it asks for, nothing outside of the worker's folder is opened."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics.runner import WorkerRunner
from tests.auditing import opened_outside, watching

pytest.importorskip("fcntl")

CANARY = "canary: nobody may read this"
ALLOWED = {"result.txt": "The result is 42.", "sub/note.txt": "a note", "sub/sub/deep.txt": "deep", ". .txt": "spaced"}
TRAPS = [
    *(
        "link",
        "linked folder",
        "hard",
        "pipe",
        "socket",
        "device",
        "loop",
        "dangling",
        "chain",
        "sub/link",
        "sub/linked",
    ),
    *("sub/up", "root", "self", "proc"),
]


class Place(NamedTuple):
    """A worker's folder full of traps, and the tool that reads its files."""

    folder: Path
    outside: Path
    tool: object


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a worker whose folder leads to canaries in every way that there is."""
    root = tmp_path_factory.mktemp("hostile")
    outside = root / "outside"
    (outside / "sub").mkdir(parents=True)
    for path in (outside / "secret.txt", outside / "sub" / "secret.txt", root / "secret.txt", root / "workers.txt"):
        path.write_text(CANARY)
    runner = WorkerRunner(root / "workers", owner_id="ann")
    folder = runner.run(lambda _task: ALLOWED["result.txt"], "calculate 7*6").dir
    neighbour = WorkerRunner(root / "workers", owner_id="bob").run(lambda _task: CANARY, "spy").dir
    (folder / "sub" / "sub").mkdir(parents=True)
    for name, text in ALLOWED.items():
        (folder / name).write_text(text)
    links = {
        "link": outside / "secret.txt",
        "linked folder": outside,
        "device": "/dev/zero",
        "loop": "loop",
        "dangling": outside / "missing",
        "chain": "link",
        "sub/link": "../../../outside/secret.txt",
        "sub/linked": outside,
        "sub/up": "..",
        "root": "/",
        "self": folder,
        "proc": "/proc/self",
        "metadata.json.link": neighbour / "metadata.json",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "hard").hardlink_to(outside / "secret.txt")
    os.mkfifo(folder / "pipe")
    where = os.open(folder, os.O_RDONLY)  # the path of a socket may have few characters
    before = Path.cwd()
    try:
        os.chdir(where)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
    finally:
        os.chdir(before)
        os.close(where)
    Path(os.fsdecode(bytes(folder) + b"/\xff\xfe.txt")).write_text("odd")
    (tool,) = runner.supervisor_tools(include=["read_worker_file"])
    tool.invoke({"job_id": 1, "file_path": "missing"})  # what is imported late has been now
    yield Place(folder, outside, tool)
    shutil.rmtree(root)


def check(place, file_path, **part):
    """Ask for a file, and see that nothing outside was opened, and none of it came back."""
    with watching() as seen:
        answer = place.tool.invoke({"job_id": 1, "file_path": file_path, **part})
    assert opened_outside(seen, place.folder.parent, [place.folder]) == []
    assert isinstance(answer, str)
    assert CANARY not in answer
    assert "root:x:0:" not in answer
    if answer.startswith("Error: "):
        assert len(answer.splitlines()) == 1
        assert len(answer) < 1000
    return answer


@pytest.mark.parametrize("name", ALLOWED)
def test_files_of_the_worker_are_read(place, name):
    """What is in the folder is read, under every name that leads to it without leaving."""
    for path in (name, f"./{name}", name.replace("/", "//"), f"././/{name}", f"{name}/"):
        assert check(place, path) == ALLOWED[name]


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_refused(place, name):
    """A link, a second hard link and what is no file are refused by themselves and as a part of a path."""
    for path in (
        name,
        f"{name}/secret.txt",
        f"{name}/sub/secret.txt",
        f"{name}/etc/passwd",
        f"{name}/fd/0",
        f"./{name}/.",
    ):
        assert check(place, path).startswith("Error: "), path
        assert check(place, path, offset=0, limit=1).startswith("Error: "), path


LOOK_ALIKES = {
    "/": [
        "\u2044",
        "\u2215",
        "\u29f8",
        "\uff0f",
        "\\",
        "\u2216",
        "\uff3c",
        "%2f",
        "%5c",
        "&#47;",
        "\xc0\xaf",
        ":",
        "\x00/",
        "/\x00",
    ],
    ".": [
        "\uff0e",
        "\u2024",
        "\u3002",
        "\u2025",
        "\ufe52",
        "%2e",
        "\xc0\xae",
        "\u00b7",
        ".\u200b",
        "\u200b.",
        ".\u202e",
    ],
}


@pytest.mark.parametrize("slash", ["/", *LOOK_ALIKES["/"]])
@pytest.mark.parametrize("dot", [".", *LOOK_ALIKES["."]])
def test_ways_up(place, slash, dot):
    """No spelling of ``../`` leads out of the folder."""
    up = dot * 2 + slash
    for path in (
        f"{up}{up}outside{slash}secret.txt",
        f"sub{slash}{up}{up}workers.txt",
        f"{slash}etc{slash}passwd",
        up * 20,
    ):
        assert check(place, path).startswith("Error: "), path


@pytest.mark.parametrize(
    "path",
    [
        *(
            "C:\\Windows\\win.ini",
            "C:secret.txt",
            "\\\\?\\C:\\secret",
            "\\\\host\\share",
            "CON",
            "NUL",
            "aux.txt",
            "link::$DATA",
        ),
        *(
            "file:///etc/passwd",
            "~/.ssh/id_rsa",
            "~root/x",
            "$HOME/x",
            "`id`",
            "$(id)",
            "|id",
            "-",
            "--help",
            "*",
            "result.tx?",
        ),
        *("/dev/stdin", "/proc/self/environ", "//etc/passwd", "/./etc/passwd", "\n/etc/passwd", " /etc/passwd", "/"),
        *(
            "result.txt\x00.png",
            "\x00",
            "\ud800",
            "\udcff",
            "x" * 256,
            "x/" * 2049,
            "é" * 128,
            "\U0001f600" * 64,
            "sub/" * 1000,
        ),
        *("metadata.json.link", ".", "./", "./.", "..", "../", "sub", "sub/", "sub/.."),
    ],
    ids=lambda path: ascii(path[:30]),
)
def test_well_known_tricks(place, path):
    """Tricks that have worked somewhere do not work here."""
    assert check(place, path).startswith("Error: ")


NAMES = [
    *(
        "..",
        ".",
        "",
        "~",
        "secret.txt",
        "outside",
        "workers",
        "index.sqlite3",
        "result.txt",
        "metadata.json",
        "etc",
        "passwd",
    ),
    *(
        "\udcff\udcfe.txt",
        "fd",
        "0",
        "cwd",
        *TRAPS,
        *ALLOWED,
        *LOOK_ALIKES["."],
        *(char * 2 for char in LOOK_ALIKES["."]),
    ),
]
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
PARTS = st.lists(st.sampled_from(NAMES) | TEXTS, max_size=8)
SLASHES = st.sampled_from(["/", "/", "/", "//", "/./", "\\", *LOOK_ALIKES["/"]])
PATHS = st.builds(
    lambda prefix, slash, parts, suffix: prefix + slash.join(parts) + suffix,
    st.sampled_from(["", "", "", "/", "//", "./", "../", "file://", "\\\\?\\", "C:/", "{outside}/", "{folder}/", "~/"]),
    SLASHES,
    PARTS,
    st.sampled_from(["", "", "/", "/.", "\x00", " ", "\n", ".jsonl"]),
)


@given(path=PATHS, offset=st.none() | st.integers(-2, 2))
@example(path="{outside}/secret.txt", offset=None)
@example(path="metadata.json", offset=1)
@settings(max_examples=1500, deadline=None)
def test_nothing_outside_is_read(place, path, offset):
    """Whatever path a model makes up, nothing outside is opened, and what is read is a file of the worker."""
    path = path.replace("{outside}", str(place.outside)).replace("{folder}", str(place.folder))
    answer = check(place, path, offset=offset)
    if not answer.startswith(("Error: ", "[")):
        known = [*ALLOWED.values(), "odd", (place.folder / "metadata.json").read_text()]
        if offset is None or offset <= 0:
            assert any(answer.startswith(text.strip()[:20]) for text in known)
        else:  # from a later line on
            assert any(answer[:20] in text for text in known)
