"""Worker folders: made under unique names; their files read, never anything outside, and replaced atomically."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
import time
import unicodedata
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from langchain_swarmlet_metrics import modes, owners
from langchain_swarmlet_metrics.events import parse_timestamp, timestamp
from langchain_swarmlet_metrics.listing import TEMPORARY, list_files
from langchain_swarmlet_metrics.settings import DATA_PATH_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import RawIOBase

METADATA_FILE = "metadata.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.txt"
SNAPSHOT_FILE = "inflight.json"
THREAD_FILE = "thread.jsonl"
TOOL_FOLDER = "tool_calls"

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WORKER_ID_START = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_")
_SLUG_LENGTH = 30
_LONGEST_NAME = 255  # bytes of a file name; no usual file system takes more
_LONGEST_PATH = 4096
_MOST_TOOL_FILES = 1000
_NAMES_SHOWN = 10

# Every step is made from the folder before it, so that nobody can swap a part of the path in between. Windows can't.
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_READ = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO swapped in after the look at it must not block
    | getattr(os, "O_BINARY", 0)
)
_APPEND = os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ_FOLDER = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0)


class FileRefusedError(ValueError):
    """A file name that does not name a plain file inside the worker's folder."""


def make_root(path: Path, file_mode: int = modes.PRIVATE) -> Path:
    """Make the folder of the worker folders unless it is there, and return where it really is.

    Args:
        path: may be relative, a symbolic link, or lead through some.
        file_mode: of the files to come, which decides the mode of the folders that are made.

    Raises:
        PermissionError: somebody else than this process's user and root can change what is in it.
        OSError: it cannot be made; of the class that the system's error has.
    """
    root = Path(os.path.realpath(path))
    try:
        if not root.is_dir():
            modes.make_folders(root, modes.folder_mode(file_mode))
    except FileExistsError:
        if not root.is_dir():  # otherwise another process was faster
            raise _unusable(root, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from None
    except OSError as error:
        raise _unusable(root, error) from error
    owners.require_trusted(root)
    return root


def require_writable(root: Path) -> None:
    """See by trying whether workers can be kept in a root.

    Raises:
        OSError: they cannot; of the class that the system's error has.
    """
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise _unusable(root, error) from error


def _unusable(root: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(error.errno, f"workers cannot be kept in {root}: {reason}; set {DATA_PATH_VARIABLE} or pass root=")


def folder_name(now_ns: int, task: str) -> str:
    """Return the name for a new worker's folder: the UTC second, ``_``, words of the task.

    Args:
        now_ns: nanoseconds since the epoch.
        task: what the worker is asked to do, without secrets.
    """
    return f"{timestamp(now_ns)[:19].replace(':', '-')}_{_slug(task)}"


def make_folder(root: Path, wanted: str, file_mode: int = modes.PRIVATE) -> str:
    """Make a folder for a new worker and return its name: the one wanted, with ``-2``, ``-3`` ... unless it is free.

    Which name is free is decided by making the folder, so that any number of processes may do so at once.

    Args:
        root: the folder of the worker folders.
        wanted: see `folder_name`.
        file_mode: of the files to come.

    Raises:
        OSError: the folder cannot be made.
    """
    number = 1
    while True:
        name = wanted if number == 1 else f"{wanted}-{number}"
        with suppress(FileExistsError):
            modes.make_folder(root / name, modes.folder_mode(file_mode))
            return name
        number += 1


def is_worker_id(name: str) -> bool:
    """Tell whether a name can be that of a worker's folder."""
    return _WORKER_ID.fullmatch(name) is not None


def is_worker_folder(root: Path, worker_id: str) -> bool:
    """Tell whether a name is that of a folder that can be a worker's; a symbolic link to one is not."""
    path = root / worker_id
    return is_worker_id(worker_id) and not path.is_symlink() and path.is_dir()


def created_at(worker_id: str) -> str | None:
    """Return when a worker's folder was made as its name tells, to the second, or None if the name is no such one."""
    if not _WORKER_ID_START.match(worker_id):
        return None
    day, hour, minute, second = worker_id[:10], worker_id[11:13], worker_id[14:16], worker_id[17:19]
    told = f"{day}T{hour}:{minute}:{second}.000000Z"
    try:
        parse_timestamp(told)
    except ValueError:
        return None
    return told


def set_aside(path: Path, why: str) -> Path:
    """Rename a file so that nobody reads it any more, and return its new path; nothing is overwritten.

    Args:
        path: the file.
        why: a word for its new name, as in ``metadata.json.damaged-2025-12-15T04-08-08.123456Z``.
    """
    while True:
        aside = path.with_name(f"{path.name.lstrip('.')}.{why}-{timestamp(time.time_ns()).replace(':', '-')}")
        if not os.path.lexists(aside):
            return path.rename(aside)


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open a file of a worker for reading, whoever chose its name.

    Args:
        folder: the worker's folder.
        name: the file's path inside the folder, with ``/``.

    Raises:
        FileRefusedError: the name leaves the folder, or what it names is not a plain file of the folder alone.
        FileNotFoundError: there is no such file; says which there are.
        OSError: the file cannot be opened.
    """
    try:
        return open_alone(folder, _parts(name))
    except FileNotFoundError:
        msg = f"there is no file {_shown(name)} in the folder of worker {folder.name}; it has {_listed(folder)}"
        raise FileNotFoundError(msg) from None


def open_alone(folder: Path, parts: Sequence[str]) -> BinaryIO:
    """Open a file as `open_plain` does, unless a hard link makes it a file from elsewhere as well.

    Raises:
        FileRefusedError: a part is something else than it should be.
        OSError: the file is missing or cannot be opened.
    """
    file = open_plain(folder, parts)
    if os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        msg = f"{_shown(parts[-1])} is refused: it has another hard link, so it may be a file from elsewhere"
        raise FileRefusedError(msg)
    return file


def open_plain(folder: Path, parts: Sequence[str]) -> BinaryIO:
    """Open a plain file below a folder for reading, without following a symbolic link on the way from it.

    Args:
        folder: where to start; itself no symbolic link.
        parts: names of the folders down to the file, and of the file.

    Raises:
        FileRefusedError: a part is something else than it should be.
        OSError: the file is missing or cannot be opened.
    """
    step = _step_by_descriptor if _BY_DESCRIPTOR else _step_by_path
    descriptor = step(folder, parts)
    try:
        _require(os.fstat(descriptor), stat.S_ISREG, parts[-1])
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def captured_files(folder: Path) -> list[str]:
    """Return where captured content is in a folder: the conversations, and a thousand tool calls at most."""
    names: list[str] = []
    with suppress(OSError), os.scandir(folder / TOOL_FOLDER) as entries:
        found = (entry.name for entry in entries if entry.name.endswith(".txt"))
        names = sorted(islice(found, _MOST_TOOL_FILES))
    return [THREAD_FILE, *(f"{TOOL_FOLDER}/{name}" for name in names)]


def replace_file(path: Path, content: bytes, mode: int = modes.PRIVATE) -> None:
    """Write a file whole or not at all; readers see the old one or the new one at any instant.

    Args:
        path: the file, in a folder that is there.
        content: all of it.
        mode: of the new file.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        modes.settle(Path(temporary), mode)
        os.replace(temporary, path)  # noqa: PTH105 - both are names already
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append_lines(path: Path, lines: bytes, mode: int) -> None:
    """Append whole lines to a file with one write, after a line break where the last line was torn.

    Args:
        path: the file; made when it is missing, but not its folder.
        lines: what to append.
        mode: of a file that is made.

    Raises:
        OSError: they were not written, or only a part of them.
    """
    with os.fdopen(modes.open_or_make(path, _APPEND, mode), "rb+", buffering=0) as file:
        data = b"\n" + lines if ends_torn(file) else lines
        written = file.write(data)
    if written != len(data):
        msg = f"only {written} of {len(data)} bytes could be written to {path}"
        raise OSError(msg)


def ends_torn(file: BinaryIO | RawIOBase) -> bool:
    """Tell whether a crash or a full disk cut the last line, so that the next one must not be glued to it."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def make_inner(folder: Path, name: str, file_mode: int) -> Path:
    """Return a folder inside a worker's folder, made when it is missing.

    Args:
        folder: the worker's folder.
        name: of the folder in it.
        file_mode: of the files to come.

    Raises:
        FileRefusedError: there is something else of that name, such as a symbolic link to elsewhere.
        OSError: it cannot be made.
    """
    path = folder / name
    with suppress(FileExistsError):
        modes.make_folder(path, modes.folder_mode(file_mode))
    _require(path.lstat(), stat.S_ISDIR, name)
    return path


def _slug(task: str) -> str:
    """Make a part of a folder's name of a task: at most 30 of ``a-z0-9-``."""
    text = unicodedata.normalize("NFKD", task).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    return words[:_SLUG_LENGTH].strip("-") or "worker"


def _parts(name: str) -> tuple[str, ...]:
    """Split a name from outside into its parts.

    Raises:
        FileRefusedError: it cannot name a file inside a folder.
    """
    parts = PurePosixPath(name).parts
    sizes = [_encoded_size(part) for part in parts]
    checks = (
        (not name.strip(), "it is empty"),
        (not parts, "it is the folder itself"),
        (name.startswith("/") or _names_a_drive(name), "it is not relative to the worker's folder"),
        (".." in parts, "it leaves the worker's folder"),
        ("\0" in name or None in sizes, "it contains a character that no file name has"),
        (sum(size or 0 for size in sizes) + len(sizes) > _LONGEST_PATH, "it is too long"),
        (any((size or 0) > _LONGEST_NAME for size in sizes), "it is too long"),
    )
    for is_wrong, problem in checks:
        if is_wrong:
            msg = f"{_shown(name)} is refused: {problem}; name a file such as 'metrics.jsonl'"
            raise FileRefusedError(msg)
    return parts


def _names_a_drive(name: str) -> bool:
    return os.name == "nt" and ("\\" in name or ":" in name)


def _encoded_size(part: str) -> int | None:
    try:
        return len(os.fsencode(part))
    except UnicodeEncodeError:
        return None


def _step_by_descriptor(folder: Path, parts: Sequence[str]) -> int:
    directory = os.open(folder, _READ_FOLDER)
    try:
        for part in parts[:-1]:
            _require(os.stat(part, dir_fd=directory, follow_symlinks=False), stat.S_ISDIR, part)
            inner = os.open(part, _READ_FOLDER, dir_fd=directory)
            os.close(directory)
            directory = inner
        _require(os.stat(parts[-1], dir_fd=directory, follow_symlinks=False), stat.S_ISREG, parts[-1])
        return os.open(parts[-1], _READ, dir_fd=directory)
    finally:
        os.close(directory)


def _step_by_path(folder: Path, parts: Sequence[str]) -> int:
    path = folder
    for part in parts[:-1]:
        path /= part
        _require(path.lstat(), stat.S_ISDIR, part)
    path /= parts[-1]
    _require(path.lstat(), stat.S_ISREG, parts[-1])
    return os.open(path, _READ)


def _require(info: os.stat_result, is_wanted: Callable[[int], bool], part: str) -> None:
    """Check what a part of a path is.

    Raises:
        FileRefusedError: it is something else.
    """
    is_link = stat.S_ISLNK(info.st_mode) or getattr(info, "st_file_attributes", 0) & _REPARSE_POINT
    if is_wanted(info.st_mode) and not is_link:
        return
    if is_link:
        problem = "it is a symbolic link"
    elif stat.S_ISDIR(info.st_mode):
        problem = "it is a folder; name a file in it"
    elif is_wanted is stat.S_ISDIR:
        problem = "it is not a folder"
    else:
        problem = "it is not a plain file"
    msg = f"{_shown(part)} is refused: {problem}"
    raise FileRefusedError(msg)


_REPARSE_POINT = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: what Windows has for symbolic links, and junctions


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")  # noqa: PLR2004


def _listed(folder: Path) -> str:
    names = [entry.name for entry in list_files(folder)]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(_shown, names[:_NAMES_SHOWN])) + more if names else "no files yet"
