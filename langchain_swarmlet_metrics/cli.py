"""The command line ``swarmlet-metrics``: list workers, show one, mend what is damaged, run the demonstration."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_swarmlet_metrics import __version__, doctor, remedies, report, settings
from langchain_swarmlet_metrics.findings import Kind
from langchain_swarmlet_metrics.folder import METRICS_FILE, THREAD_FILE, TOOL_FOLDER, require_writable
from langchain_swarmlet_metrics.reader import WorkerNotFoundError
from langchain_swarmlet_metrics.scrub import error_text
from langchain_swarmlet_metrics.store import ArtifactStore
from langchain_swarmlet_metrics.summary import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_swarmlet_metrics.findings import Finding
    from langchain_swarmlet_metrics.metadata import Metadata

_NAME = "swarmlet-metrics"
_SHOWN = 5
_STATUSES = ("created", "running", "success", "failed", "cancelled", "lost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what stands behind the command's name; by default this process's own.

    Returns:
        The exit status: 0, or 1 after a message on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, LookupError, ValueError) as error:
        print(f"{_NAME}: {report.for_terminal(error_text(error), sys.stderr)}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_NAME, description="Look at the performance of worker agents.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--root", type=_folder, help=f"the worker folders; by default ${settings.DATA_PATH_VARIABLE}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list workers, newest first")
    listing.add_argument("--limit", type=int, default=20, help="how many at most (default: 20)")
    listing.add_argument("--status", choices=_STATUSES, help="only those")
    listing.add_argument("--since-hours", type=float, help="only those of the last so many hours")
    listing.set_defaults(run=_list)

    showing = commands.add_parser("show", help="show a worker's result and the digest of its metrics")
    showing.add_argument("job", metavar="JOB", type=int, help="the job's number, as list shows it")
    showing.set_defaults(run=_show)

    mending = commands.add_parser("doctor", help="say what is damaged, lost or left over, and mend it")
    mending.add_argument("--fix", action="store_true", help="mend it, after a question")
    mending.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    mending.add_argument("--all", action="store_true", help=f"show all findings, not the first {_SHOWN} of each kind")
    mending.set_defaults(run=_doctor, refuse=mending.error)

    demo = commands.add_parser("demo", help="run a supervisor with three workers and show the three tiers")
    demo.add_argument("--live", action="store_true", help="use the real OpenAI API; needs OPENAI_API_KEY")
    demo.set_defaults(run=_demo)
    return parser


def _folder(text: str) -> Path:
    if text:
        return Path(text)
    msg = "it is empty; name a folder, or leave it out"
    raise argparse.ArgumentTypeError(msg)


def _store(options: argparse.Namespace) -> ArtifactStore:
    """Return the store to look at; looking makes no folder."""
    root = (options.root or settings.default_root()).expanduser()
    if not root.is_dir():
        msg = f"there are no workers in {root}; name their folder with --root or {settings.DATA_PATH_VARIABLE}"
        raise LookupError(msg)
    return ArtifactStore(root)


def _list(options: argparse.Namespace) -> int:
    store = _store(options)
    found = store.list(status=options.status, since_hours=options.since_hours, limit=max(options.limit, 1))
    for metadata in found:
        _print(report.line_text(store, metadata))
    if not found:
        filters = [("--status", options.status), ("--since-hours", options.since_hours)]
        given = " ".join(f"{name} {value}" for name, value in filters if value is not None)
        print(f"No workers in {store.root}{' that fit ' + given if given else ''}.")
    return 0


def _show(options: argparse.Namespace) -> int:
    store = _store(options)
    try:
        metadata = store.read(options.job)
    except WorkerNotFoundError:
        if job := store.registry.find(options.job):
            msg = f"{store.root / job.worker_id} cannot be read; `{_NAME} doctor` says why"
        else:
            msg = f"there is no worker job {options.job} in {store.root}; `{_NAME} list` shows which there are"
        raise LookupError(msg) from None
    try:
        _print_worker(store, metadata)
    except PermissionError as error:
        msg = f"{store.root / metadata.worker_id}: {error_text(error)}; `{_NAME} doctor` looks at what else is wrong"
        raise OSError(msg) from error
    return 0


def _print_worker(store: ArtifactStore, metadata: Metadata) -> None:
    _print(report.result_text(store, metadata))
    _print(f"\n{report.digest_text(store, metadata)}")
    _print("")
    written = {entry.name.partition("/")[0] for entry in store.files(metadata.worker_id)}
    for name in (METRICS_FILE, THREAD_FILE, TOOL_FOLDER):
        if name == METRICS_FILE or name in written:
            _print(str(store.root / metadata.worker_id / name))


def _doctor(options: argparse.Namespace) -> int:
    if options.yes and not options.fix:
        options.refuse("--yes goes with --fix")
    store, most = _store(options), None if options.all else _SHOWN
    if options.fix:
        require_writable(store.root)
    workers, findings = doctor.check(store)
    if not findings:
        print(f"All is well with {count(workers, 'worker')} in {store.root}.")
        return 0
    _print_first(((finding.kind, str(finding)) for finding in findings), most)
    by_hand = sum(finding.kind is Kind.BY_HAND for finding in findings)
    parts = [f"{count(len(findings), 'finding')} in {store.root}"]
    parts += [f"{by_hand} of them to be seen to by hand"] if by_hand else []
    parts += ["--fix does what stands behind the arrows"] if by_hand < len(findings) else []
    _print("; ".join(parts))
    if not options.fix or by_hand == len(findings) or not (options.yes or _is_wanted()):
        return 1
    return int(not _mend(store, findings, most) or by_hand > 0)


def _is_wanted() -> bool:
    """Ask whether to go ahead; where nobody can be asked, the answer is no."""
    if not sys.stdin.isatty():
        print("Nothing was changed: --fix asks at a terminal only; add --yes to go ahead without being asked.")
        return False
    try:
        answer = input("Do what stands behind the arrows? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
        print()
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("Nothing was changed.")
    return False


def _mend(store: ArtifactStore, findings: Sequence[Finding], most: int | None) -> bool:
    """Mend, say what was done, and tell whether all of it could be."""
    failed = 0

    def lines() -> Iterator[tuple[str, str]]:
        nonlocal failed
        for outcome in remedies.mend(store, findings):
            failed += not outcome.is_done
            yield f"{'done' if outcome.is_done else 'not done'}: {outcome.finding.kind}", str(outcome)

    _print_first(lines(), most)
    return not failed


def _print_first(lines: Iterable[tuple[str, str]], most: int | None) -> None:
    """Print lines, of each kind the first ones only, and count the others."""
    counts: Counter[str] = Counter()
    for kind, line in lines:
        counts[kind] += 1
        if most is None or counts[kind] <= most:
            _print(line)
    for kind, number in counts.items():
        if most is not None and number > most:
            print(f"{kind}: {number - most} more; --all shows them")


def _demo(options: argparse.Namespace) -> int:
    if options.live and not settings.has_openai_key():
        msg = "--live needs OPENAI_API_KEY in the environment"
        raise ValueError(msg)
    try:
        from langchain_swarmlet_metrics.demo import run  # noqa: PLC0415 - needs LangChain, the other commands do not
    except ModuleNotFoundError as error:
        msg = f"the demo needs {error.name}; run: pip install 'langchain-swarmlet-metrics[demo]'"
        raise LookupError(msg) from None
    return run.main(options.root or settings.default_root(), live=options.live, command=_called_as())


def _called_as() -> str:
    """Return how this command was called, for command lines to copy: it need not be on the PATH."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.stem == _NAME else _NAME


def _print(text: str) -> None:
    """Print text that a model may have written."""
    print(report.for_terminal(text, sys.stdout))


if __name__ == "__main__":
    sys.exit(main())
