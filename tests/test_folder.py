"""Tests of `folder`: unique names, nothing read from outside a folder, files replaced whole."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_swarmlet_metrics import folder as folders
from langchain_swarmlet_metrics import listing
from langchain_swarmlet_metrics.folder import (
    FileRefusedError,
    created_at,
    folder_name,
    is_worker_folder,
    make_folder,
    make_root,
    open_file,
    open_plain,
    replace_file,
    require_writable,
    set_aside,
)
from langchain_swarmlet_metrics.listing import FileEntry, list_files
from tests.deep import deep_folders

SECRET = b"nobody may read this"
TRAPS = ["link", "loop", "relative link", "linked folder", "hard link", "fifo", "dangling"]
NAMES = ["secret", "outside", "worker", "tool_calls", "001_ssh_exec.txt", "result.txt", *TRAPS]
ODD_PARTS = ["..", ".", "", "~", "\\", "..\\", "C:", "\0", "%2e%2e", *NAMES]
NOW_NS = 1_765_771_688_123_456_789  # 2025-12-15T04:08:08


@pytest.fixture(params=["by descriptor", "by path"])
def how(request, monkeypatch):
    """Open files in both ways: by descriptor, and as on systems that cannot."""
    if request.param == "by path":
        monkeypatch.setattr(folders, "_BY_DESCRIPTOR", False)
    elif not folders._BY_DESCRIPTOR:
        pytest.skip("this system cannot")


@pytest.fixture
def folder(tmp_path):
    """Make a worker's folder full of traps, and secrets around it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (tmp_path / "secret").write_bytes(SECRET)
    folder = tmp_path / "worker"
    (folder / "tool_calls").mkdir(parents=True)
    (folder / "result.txt").write_bytes(b"42")
    (folder / "tool_calls" / "001_ssh_exec.txt").write_bytes(b"uptime")
    (folder / "link").symlink_to(outside / "secret")
    (folder / "relative link").symlink_to("../secret")
    (folder / "link inside").symlink_to("result.txt")
    (folder / "linked folder").symlink_to(outside)
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "hard link").hardlink_to(outside / "secret")
    os.mkfifo(folder / "fifo")
    return folder


def read(folder, name):
    """Read a file of a worker."""
    with open_file(folder, name) as file:
        return file.read()


# Names of new folders


@pytest.mark.parametrize(
    ("task", "slug"),
    [
        ("calculate 7*6", "calculate-7-6"),
        ("  Back up  db-1!  ", "back-up-db-1"),
        ("Où est l'été?", "ou-est-l-ete"),
        ("日本", "worker"),
        ("", "worker"),
        ("../../etc/passwd", "etc-passwd"),
        ("x" * 29 + " tail", "x" * 29),
        ("x" * 99, "x" * 30),
        ("a\ud800b\0c", "ab-c"),
    ],
)
def test_the_name_of_a_folder(tmp_path, task, slug):
    """The name is the UTC second and words of the task."""
    name = make_folder(tmp_path, folder_name(NOW_NS, task))
    assert name == f"2025-12-15T04-08-08_{slug}"
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters()))
def test_any_task_gives_a_plain_name(tmp_path, task):
    """Whatever the task, the name has at most 30 plain characters of it, and no dash at its ends."""
    slug = make_folder(tmp_path, folder_name(time.time_ns(), task)).partition("_")[2]
    assert folders._slug(task) in slug
    assert 0 < len(folders._slug(task)) <= 30
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert slug.strip("-") == slug


def test_the_same_task_in_the_same_second(tmp_path):
    """Threads that make folders at once get different ones, numbered from 2 on."""
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: make_folder(tmp_path, folder_name(NOW_NS, "same")), range(40)))
    base = "2025-12-15T04-08-08_same"
    assert sorted(names) == sorted([base, *(f"{base}-{number}" for number in range(2, 41))])


@pytest.mark.parametrize(
    ("root", "kind", "reason"),
    [
        ("file", NotADirectoryError, "Not a directory"),
        ("file/below", NotADirectoryError, "Not a directory"),
        ("/proc/workers", OSError, ""),
        ("nul\0", ValueError, "null"),
    ],
)
def test_a_root_that_cannot_be(tmp_path, root, kind, reason):
    """A root that cannot be made is an error that names it, the reason, and what to do."""
    if root.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    (tmp_path / "file").touch()
    with pytest.raises(kind) as caught:
        make_root(tmp_path / root)
    assert reason in str(caught.value)
    if kind is not ValueError:
        assert f"workers cannot be kept in {tmp_path / root}: " in str(caught.value)
        assert str(caught.value).endswith("set SWARMLET_DATA_PATH or pass root=")


def test_a_root_is_made(tmp_path):
    """A root is made with the folders above it, and left empty; one that exists is taken as it is."""
    root = tmp_path / "a" / "b"
    for _ in range(2):
        assert make_root(root) == root
        for made in (root, root.parent):
            assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert list(root.iterdir()) == []


def test_a_root_that_is_a_link(tmp_path, monkeypatch):
    """The folder that a link leads to is the root, made if need be; a relative root becomes absolute."""
    (tmp_path / "link").symlink_to("target")
    monkeypatch.chdir(tmp_path)
    for root in ("link", "target"):
        assert make_root(Path(root)) == tmp_path / "target"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="workers cannot be kept in"):
        make_root(tmp_path / "loop")


def test_a_root_made_by_threads_at_once(tmp_path):
    """Whoever comes second takes what the first has made."""
    with ThreadPoolExecutor(8) as pool:
        roots = list(pool.map(lambda _: make_root(tmp_path / "a" / "b" / "c"), range(40)))
    assert set(roots) == {tmp_path / "a" / "b" / "c"}


def test_a_root_that_cannot_be_written():
    """A root in which no worker can be kept is an error that says why; one that can be written is left empty."""
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    with pytest.raises(OSError, match=r"workers cannot be kept in /proc: .*; set SWARMLET_DATA_PATH or pass root="):
        require_writable(Path("/proc"))


# Reading


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.txt", b"42"),
        ("tool_calls/001_ssh_exec.txt", b"uptime"),
        ("./tool_calls//001_ssh_exec.txt", b"uptime"),
    ],
)
def test_a_file_is_read(folder, name, content):
    """A plain file of the folder is opened by its relative path."""
    assert read(folder, name) == content


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "it is empty"),
        (" ", "it is empty"),
        (".", "it is the folder itself"),
        ("/etc/passwd", "it is not relative"),
        ("//etc/passwd", "it is not relative"),
        ("..", "it leaves the worker's folder"),
        ("../secret", "it leaves the worker's folder"),
        ("tool_calls/../result.txt", "it leaves the worker's folder"),
        ("result.txt\0", "it contains a character that no file name has"),
        ("\ud800", "it contains a character that no file name has"),
        ("x" * 256, "it is too long"),
        ("é" * 128, "it is too long"),
        ("x/" * 2500, "it is too long"),
        ("link", "it is a symbolic link"),
        ("relative link", "it is a symbolic link"),
        ("link inside", "it is a symbolic link"),
        ("dangling", "it is a symbolic link"),
        ("loop", "it is a symbolic link"),
        ("linked folder", "it is a symbolic link"),
        ("linked folder/secret", "'linked folder' is refused: it is a symbolic link"),
        ("hard link", "it has another hard link"),
        ("fifo", "it is not a plain file"),
        ("tool_calls", "it is a folder; name a file in it"),
        ("result.txt/x", "'result.txt' is refused: it is not a folder"),
    ],
)
def test_a_name_is_refused(folder, name, problem):
    """Whatever is not a plain file inside the folder is refused, with what is wrong."""
    with pytest.raises(FileRefusedError) as caught:
        open_file(folder, name)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.usefixtures("how")
def test_a_socket_is_refused(folder, monkeypatch):
    """A socket is no plain file."""
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(FileRefusedError, match="it is not a plain file"):
            open_file(folder, "socket")


@pytest.mark.usefixtures("how")
def test_a_missing_file(folder):
    """A file that is not there is an error that says what is."""
    with pytest.raises(FileNotFoundError) as caught:
        open_file(folder, "tool_calls/metrics.jsonl")
    assert str(caught.value) == (
        "there is no file 'tool_calls/metrics.jsonl' in the folder of worker worker; "
        "it has 'hard link', 'result.txt', 'tool_calls/001_ssh_exec.txt'"
    )


def test_a_missing_file_among_many(tmp_path):
    """The error names a few files of many, and says when there are none."""
    with pytest.raises(FileNotFoundError, match="it has no files yet"):
        open_file(tmp_path, "x")
    for number in range(25):
        (tmp_path / f"{number:02}").touch()
    with pytest.raises(FileNotFoundError, match=r"'00', .* '09' and 15 more"):
        open_file(tmp_path, "x")


@pytest.mark.usefixtures("how")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_no_path_leads_outside(folder, data):
    """However a path is put together, it never gives the content of a file outside, and never another error."""
    parts = st.sampled_from([*ODD_PARTS, str(folder), str(folder.parent)]) | st.text(st.characters(), max_size=300)
    name = data.draw(st.lists(parts, max_size=6).map("/".join))
    try:
        content = read(folder, name)
    except (FileRefusedError, FileNotFoundError):
        return
    assert content in (b"42", b"uptime")


def test_a_part_swapped_for_a_link_while_it_is_opened(folder):
    """A folder and a file that are swapped for links to outside all the time never give what is there."""
    if not folders._BY_DESCRIPTOR:
        pytest.skip("this system cannot")
    inner, kept, link = folder / "swapped", folder / "kept", folder / "linked folder"
    kept.mkdir()
    (kept / "secret").write_bytes(b"mine")
    done = threading.Event()

    def swap():
        while not done.is_set():
            for source in (kept, link):
                source.rename(inner)
                inner.rename(source)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(3000):
            with suppress(OSError, FileRefusedError):
                seen.add(read(folder, "swapped/secret"))
    finally:
        done.set()
        thread.join()
    assert seen <= {b"mine"}


def test_a_folder_that_is_a_link(folder):
    """A worker's folder that is itself a link is not entered."""
    (folder.parent / "other").symlink_to(folder)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        open_plain(folder.parent / "other", ["result.txt"])


def test_a_hard_link_may_be_allowed(folder):
    """A hard link is a plain file to those who know what to make of its content."""
    with open_plain(folder, ["hard link"]) as file:
        assert file.read() == SECRET


def test_list_files(folder):
    """Plain files are listed by name with their sizes; links, pipes and folders are not."""
    assert list_files(folder) == [
        FileEntry("hard link", len(SECRET)),
        FileEntry("result.txt", 2),
        FileEntry("tool_calls/001_ssh_exec.txt", 6),
    ]
    assert list_files(folder / "gone") == []


def test_list_files_is_bounded(tmp_path):
    """Of very many files the first few hundred are listed."""
    for number in range(400):
        (tmp_path / f"{number:03}").touch()
    assert [entry.name for entry in list_files(tmp_path)] == [f"{number:03}" for number in range(300)]


def test_list_files_looks_at_some_thousands_at_most(tmp_path, monkeypatch):
    """Folders without any file, in any number and depth, do not keep a reader busy."""
    for limit in (50, 10_000):
        monkeypatch.setattr(listing, "_MOST_ENTRIES", limit)
        with deep_folders(tmp_path):
            assert list_files(tmp_path) == []
    for number in range(60):
        (tmp_path / f"{number:02}").touch()
    monkeypatch.setattr(listing, "_MOST_ENTRIES", 50)
    assert 0 < len(list_files(tmp_path)) <= 50


# Writing


def test_a_file_is_replaced_whole(tmp_path):
    """A reader sees the old content or the new one at any instant, and nothing else is left."""
    path = tmp_path / "metadata.json"
    contents = [b"a" * 100_000, b"b" * 200_000]
    replace_file(path, contents[0])
    done = threading.Event()

    def write():
        for _ in range(50):
            for content in contents:
                replace_file(path, content)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    thread.join()
    assert list_files(tmp_path) == [FileEntry("metadata.json", 200_000)]
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_replaced(tmp_path):
    """When a file cannot be replaced, that is an error, and nothing is left of the attempt."""
    path = tmp_path / "result.txt"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"42")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "gone" / "result.txt", b"42")


def test_a_file_being_written_is_not_listed(tmp_path):
    """What is left of a process that died while it wrote is no file of the worker."""
    (tmp_path / ".metadata.json.abc123.tmp").write_bytes(b"{")
    (tmp_path / "notes.tmp").write_bytes(b"mine")
    assert list_files(tmp_path) == [FileEntry("notes.tmp", 4)]


def test_files_set_aside(tmp_path, monkeypatch):
    """A file that is set aside keeps its content under a new name that says why, which no other file has."""
    monkeypatch.setattr(time, "time_ns", iter([NOW_NS, NOW_NS, NOW_NS + 1000]).__next__)
    path = tmp_path / ".metadata.json.abc123.tmp"
    names = []
    for content in (b"1", b"2"):
        path.write_bytes(content)
        names.append(set_aside(path, "left-over").name)
        assert (tmp_path / names[-1]).read_bytes() == content
        assert not path.exists()
    assert names == [
        "metadata.json.abc123.tmp.left-over-2025-12-15T04-08-08.123456Z",
        "metadata.json.abc123.tmp.left-over-2025-12-15T04-08-08.123457Z",
    ]


@pytest.mark.parametrize("name", ["../root", ".", "", "link", "file", "gone", ".hidden", "a b", "x" * 129])
def test_no_folder_of_a_worker(tmp_path, name):
    """Only a folder with a proper name is one, and no link to one."""
    root = tmp_path / "root"
    (root / "worker").mkdir(parents=True)
    (root / "link").symlink_to(root / "worker")
    (root / "file").touch()
    (root / ".hidden").mkdir()
    (root / "a b").mkdir()
    assert is_worker_folder(root, "worker")
    assert not is_worker_folder(root, name)


def test_a_name_tells_when_its_folder_was_made():
    """The second is in the name; a name of another kind tells nothing."""
    assert created_at(folder_name(NOW_NS, "calculate 7*6")) == "2025-12-15T04:08:08.000000Z"
    assert created_at("renamed") is None
