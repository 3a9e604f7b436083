"""The command line, in this process and in processes of its own."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_swarmlet_metrics import __version__, cli, doctor, report
from langchain_swarmlet_metrics.runner import WorkerRunner
from tests.broken import age, change, contents_of, in_index, lose
from tests.processes import READ_ONLY, needs_read_only_mounts

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def workers(runner):
    """Return three workers: one that went well, one that failed, one that talks to the terminal."""
    return [
        runner.run(lambda _task: "The result is 42.", "calculate 7*6"),
        runner.run(int, "fail"),
        runner.run(lambda _task: "\x1b[2Jgone\r\x07\u202e", "clear\x1b[2J"),
    ]


def run(capsys, *arguments):
    """Run a command and return its exit status, what it printed, and its errors."""
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def process(*arguments, **options):
    """Start the command in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "langchain_swarmlet_metrics.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONUNBUFFERED": ""} | options.pop("env", {})
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, env=environment, **options)


def test_list(workers, runner, capsys):
    """The list shows a worker on a line, newest first, of the root that the environment names."""
    status, out, errors = run(capsys, "list")
    assert (status, errors) == (0, "")
    third, second, first = out.splitlines()
    assert re.fullmatch(rf"job 1  success  \d+ms  {workers[0].worker_id}  calculate 7\*6", first)
    assert re.fullmatch(rf"job 2  failed  \d+ms  {workers[1].worker_id}  fail error: ValueError: .*", second)
    assert third.startswith("job 3  success  ")
    assert run(capsys, "--root", runner.store.root, "list") == (0, out, "")


def test_list_options(workers, capsys):
    """The list can be cut short and narrowed."""
    assert run(capsys, "list", "--limit", 1)[1].startswith("job 3 ")
    assert run(capsys, "list", "--limit", -1)[1].startswith("job 3 ")
    assert run(capsys, "list", "--status", "failed")[1].startswith("job 2 ")
    assert run(capsys, "list", "--status", "success", "--since-hours", 1)[1].count("job") == 2
    assert run(capsys, "list", "--limit", 10**30)[1].count("job") == 3


def test_list_of_nothing_that_fits(workers, runner, capsys):
    """Where no worker fits, the list says what was asked for; it does not say that there are none."""
    _, out, _ = run(capsys, "list", "--status", "lost", "--since-hours", 0.5)
    assert out == f"No workers in {runner.store.root} that fit --status lost --since-hours 0.5.\n"


def test_list_of_nothing(runner, capsys):
    """An empty root says so, with its path."""
    assert run(capsys, "list") == (0, f"No workers in {runner.store.root}.\n", "")


def test_show(workers, capsys):
    """A worker is shown with its tier 1 text, its digest and the path of its events."""
    status, out, errors = run(capsys, "show", 1)
    assert (status, errors) == (0, "")
    assert out.startswith(f"Result from worker job 1 (worker {workers[0].worker_id}):\n\nExecution time: ")
    assert "\n\nThe result is 42.\n\nWorker " in out
    assert f"Worker {workers[0].worker_id} (job 1): success\n" in out
    assert out.endswith(f"\n\n{workers[0].dir / 'metrics.jsonl'}\n")
    assert "This worker failed at " in run(capsys, "show", 2)[1]


def test_a_root_on_a_read_only_file_system(workers, runner, capsys):
    """The list and a worker look the same where nothing can be written."""
    root = runner.store.root
    needs_read_only_mounts(root)
    for command in (["list"], ["show", "2"]):
        arguments = [sys.executable, "-m", "langchain_swarmlet_metrics.cli", "--root", root, *command]
        done = subprocess.run([*READ_ONLY, root, *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
        assert (0, done.stdout, done.stderr) == run(capsys, "--root", root, *command)


def test_a_root_that_others_may_change(workers, runner, capsys):
    """It is not looked at; the message says why and what to do."""
    runner.store.root.chmod(0o777)
    status, out, errors = run(capsys, "list")
    assert (status, out) == (1, "")
    assert errors.startswith(
        f"swarmlet-metrics: worker folders in {runner.store.root} are refused: everybody may write"
    )
    assert f"run `chmod o-w {runner.store.root}`" in errors


def test_terminal_is_not_steered(workers, capsys):
    """What a model wrote cannot steer the terminal."""
    shown, listed = run(capsys, "show", 3)[1], run(capsys, "list")[1]
    assert "\n\\x1b[2Jgone\\r\\x07\\u202e\n" in shown
    assert "  clear\\x1b[2J\n" in listed
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown + listed)


@pytest.mark.parametrize("job", [99, 0, -1, 10**30])
def test_show_unknown(workers, runner, capsys, job):
    """An unknown job is an error that says where it was looked for and how to find the right one."""
    status, out, errors = run(capsys, "show", job)
    assert (status, out) == (1, "")
    assert errors == (
        f"swarmlet-metrics: there is no worker job {job} in {runner.store.root}; "
        "`swarmlet-metrics list` shows which there are\n"
    )


def test_show_a_worker_that_cannot_be_read(workers, capsys):
    """A worker that is there and damaged is not told to be missing."""
    (workers[0].dir / "metadata.json").write_text("{")
    status, out, errors = run(capsys, "show", 1)
    assert (status, out) == (1, "")
    assert errors == f"swarmlet-metrics: {workers[0].dir} cannot be read; `swarmlet-metrics doctor` says why\n"


def test_show_a_file_that_may_not_be_read(workers, capsys, monkeypatch):
    """Which folder a refused file is in is said."""

    def refuse(*_arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "metrics.jsonl")

    monkeypatch.setattr(report, "digest_text", refuse)  # root may read everything
    status, _, errors = run(capsys, "show", 1)
    assert status == 1
    assert errors.startswith(f"swarmlet-metrics: {workers[0].dir}: [Errno 13] Permission denied: 'metrics.jsonl'; ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["show"], "the following arguments are required: JOB"),
        (["show", "abc"], "argument JOB: invalid int value: 'abc'"),
        (["list", "--status", "done"], "argument --status: invalid choice: 'done'"),
        (["list", "--limit", "many"], "argument --limit: invalid int value: 'many'"),
        (["--root", "", "list"], "argument --root: it is empty; name a folder, or leave it out"),
        (["doctor", "--yes"], "--yes goes with --fix"),
    ],
)
def test_arguments_that_do_not_fit(capsys, arguments, problem):
    """Arguments that make no sense are refused with the usage."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert problem in capsys.readouterr().err


def test_doctor_all_is_well(workers, runner, capsys):
    """Where all is well the doctor says so, and the exit status is 0, also of what would mend."""
    expected = (0, f"All is well with 3 workers in {runner.store.root}.\n", "")
    assert (
        run(capsys, "doctor") == run(capsys, "doctor", "--fix") == run(capsys, "doctor", "--fix", "--yes") == expected
    )


def test_doctor_finds(workers, runner, capsys):
    """What is not right is told on a line each, with what is to be done, and nothing is changed; the status is 1."""
    lost = lose(runner.store)
    shutil.copytree(workers[0].dir, runner.store.root / "copy")
    age(runner.store.root)
    before = contents_of(runner.store.root)
    status, out, errors = run(capsys, "doctor")
    assert (status, errors) == (1, "")
    first, second, last = out.splitlines()
    assert re.fullmatch(
        rf"lost worker: {lost.worker_id}: its process ended without a word, after 20\S+Z -> mark it as lost", first
    )
    assert second == f"by hand: copy: it is a copy of worker {workers[0].worker_id} -> move it out of this root"
    assert last == (
        f"2 findings in {runner.store.root}; 1 of them to be seen to by hand; --fix does what stands behind the arrows"
    )
    assert contents_of(runner.store.root) == before


def test_doctor_fix_asks_nobody(runner, capsys):
    """Where nobody can be asked, the plan is printed and nothing done, unless that was said to be wanted."""
    lost = lose(runner.store)
    status, out, errors = run(capsys, "doctor", "--fix")
    assert (status, errors) == (1, "")
    assert out.startswith("lost worker: ")
    assert out.endswith(
        "Nothing was changed: --fix asks at a terminal only; add --yes to go ahead without being asked.\n"
    )
    assert runner.store.read(1).status == "running"
    status, out, errors = run(capsys, "doctor", "--fix", "--yes")
    assert (status, errors) == (0, "")
    assert out.splitlines()[0].startswith("lost worker: ")
    assert out.splitlines()[-1].startswith(f"done: {lost.worker_id}: marked as lost, after ")
    assert runner.store.read(1).status == "lost"
    assert run(capsys, "doctor")[0] == 0
    assert run(capsys, "list", "--status", "lost")[1].startswith("job 1  lost  ")


@pytest.mark.parametrize(("answer", "status"), [("y", 0), (" YES", 0), ("n", 1), ("", 1), ("\x04", 1)])
def test_doctor_fix_asks_at_a_terminal(runner, answer, status):
    """At a terminal the doctor asks after the plan, and goes ahead only when the answer is yes."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    lose(runner.store)
    screen, side = pty.openpty()
    with process("doctor", "--fix", stdin=side, stdout=subprocess.PIPE, start_new_session=True) as asking:
        os.close(side)
        out = ""
        while "[y/N] " not in out:
            more = asking.stdout.read(1)
            assert more, asking.stderr.read()
            out += more
        os.write(screen, answer.encode() + (b"" if answer == "\x04" else b"\n"))
        out += asking.stdout.read()
        assert (asking.wait(20), asking.stderr.read()) == (status, "")
    os.close(screen)
    assert out.startswith("lost worker: ")
    assert ("done: " in out, "Nothing was changed." in out) == (status == 0, status == 1)
    assert runner.store.read(1).status == ("running" if status else "lost")


def test_doctor_fix_is_interrupted(runner, capsys, monkeypatch):
    """Who answers with Ctrl-C wants nothing done."""
    lose(runner.store)

    def interrupt(_prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", interrupt)
    status, out, errors = run(capsys, "doctor", "--fix")
    assert (status, errors) == (1, "")
    assert out.endswith("\n\nNothing was changed.\n")
    assert runner.store.read(1).status == "running"


def test_doctor_says_what_could_not_be_done(runner, capsys, monkeypatch):
    """What could not be done is told with the reason, and the exit status is 1."""
    lost = lose(runner.store)
    check = doctor.check

    def open_meanwhile(store):
        """Open the worker after it was found."""
        found = check(store)
        opened.append(store.writer(lost.worker_id))
        return found

    opened = []
    monkeypatch.setattr(doctor, "check", open_meanwhile)
    status, out, _ = run(capsys, "doctor", "--fix", "--yes")
    opened[0].close()
    assert status == 1
    assert out.endswith(f"not done: {lost.worker_id}: it runs; try again when it has ended\n")


def test_doctor_of_a_root_that_cannot_be_written(workers, runner, capsys):
    """It says what it finds, without the job table, which nobody reads there, and refuses to mend."""
    root = runner.store.root
    needs_read_only_mounts(root)
    lost = lose(runner.store)
    in_index(runner.store, "DELETE FROM jobs")
    command = [*READ_ONLY, root, sys.executable, "-m", "langchain_swarmlet_metrics.cli", "--root", root, "doctor"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"lost worker: {lost.worker_id}: ")
    assert done.stdout.splitlines()[1].startswith(f"1 finding in {root}; ")
    done = subprocess.run([*command, "--fix", "--yes"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"workers cannot be kept in {root}: Read-only file system" in done.stderr


def test_doctor_is_brief(runner, capsys):
    """Of many findings of a kind the first few are shown and the others counted, unless all are wanted."""
    for _ in range(8):
        lose(runner.store)
    status, out, _ = run(capsys, "doctor")
    assert status == 1
    assert out.count("mark it as lost") == 5
    assert "\nlost worker: 3 more; --all shows them\n8 findings in " in out
    assert run(capsys, "doctor", "--all")[1].count("mark it as lost") == 8
    _, out, _ = run(capsys, "doctor", "--fix", "--yes")
    assert (out.count("marked as lost"), out.endswith("\ndone: lost worker: 3 more; --all shows them\n")) == (5, True)
    assert len(runner.store.list(status="lost")) == 8


def test_doctor_does_not_steer_the_terminal(runner, capsys):
    """What somebody wrote into the files cannot steer the terminal."""
    lost = lose(runner.store)
    change(runner.store, lost, process={"host": "\x1b[2J\n\u202e", "pid": 1})
    age(runner.store.root, 48 * 3600)
    _, out, _ = run(capsys, "doctor", "--fix", "--yes")
    assert "no sign of life from its process on \\x1b[2J \\u202e since " in out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out)


def test_version_and_help(capsys):
    """Version and help are printed; the help names the commands and the environment's variable."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("list", "show", "doctor", "demo", "$SWARMLET_DATA_PATH"))


def test_root_that_cannot_be_written(tmp_path, capsys):
    """A root that can't be used is an error with path, reason and the variable, on one line."""
    (tmp_path / "file").touch()
    status, out, errors = run(capsys, "--root", tmp_path / "file", "list")
    assert (status, out) == (1, "")
    assert errors.startswith("swarmlet-metrics: ")
    assert all(part in errors for part in (str(tmp_path / "file"), "SWARMLET_DATA_PATH"))
    assert errors.count("\n") == 1
    assert run(capsys, "--root", tmp_path / "file" / "below", "demo")[0] == 1


def test_no_number_of_hours(workers, capsys):
    """Hours that are no number are an error, not a traceback."""
    status, out, errors = run(capsys, "list", "--since-hours", "nan")
    assert (status, out) == (1, "")
    assert errors.startswith("swarmlet-metrics: ")


def test_live_needs_a_key(capsys):
    """The live demonstration needs a key and says so before it does anything."""
    assert run(capsys, "demo", "--live") == (
        1,
        "",
        "swarmlet-metrics: --live needs OPENAI_API_KEY in the environment\n",
    )


def test_reader_that_has_seen_enough(workers):
    """When nobody reads on, as with `| head`, the command ends quietly."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with process("list", stdout=write_end) as listing:
        os.close(write_end)
        _, errors = listing.communicate(timeout=20)
    assert (listing.returncode, errors) == (0, "")


def test_head(tmp_path):
    """A long list piped into `head` ends well."""
    runner = WorkerRunner(tmp_path / "workers")
    runner.run(lambda _task: "line\n" * 100_000, "talk")
    with process("show", 1, stdout=subprocess.PIPE) as showing:
        first = showing.stdout.readline()
        showing.stdout.close()
        errors = showing.stderr.read()
        assert showing.wait(20) == 0
    assert first.startswith("Result from worker job 1 ")
    assert errors == ""


def test_output_of_few_characters(workers, runner):
    """A terminal that has only ASCII gets escapes, not an error."""
    runner.run(lambda _task: "größer … \U0001f41d", "grüßen")
    with process("show", 4, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}) as showing:
        out, errors = showing.communicate(timeout=20)
    assert (showing.returncode, errors) == (0, "")
    assert "gr\\xf6\\xdfer \\u2026 \\U0001f41d" in out


NO_LANGCHAIN = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("langchain", "langchain_core", "langchain_openai", "langgraph", "openai"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from langchain_swarmlet_metrics.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without_langchain(*arguments):
    """Run a command in a process that has no LangChain."""
    command = [sys.executable, "-W", "error", "-c", NO_LANGCHAIN, *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False)


def test_demo_without_langchain():
    """Without LangChain the demonstration says what to install."""
    answer = without_langchain("demo")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == (
        "swarmlet-metrics: the demo needs langchain; run: pip install 'langchain-swarmlet-metrics[demo]'\n"
    )


def test_files_can_be_read_without_langchain(workers):
    """List, show and doctor need no LangChain."""
    listed, shown, checked = (without_langchain(*words) for words in (("list",), ("show", "1"), ("doctor",)))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (listed.returncode, listed.stderr, listed.stdout.count("job ")) == (0, "", 3)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "The result is 42." in shown.stdout


def test_installed_command(workers):
    """The installed command does what the module does."""
    command = shutil.which("swarmlet-metrics", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the package is not installed")
    answer = subprocess.run([command, "list"], capture_output=True, text=True, timeout=20, check=True)
    assert answer.stdout.count("job ") == 3


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("/opt/some where/bin/swarmlet-metrics", "'/opt/some where/bin/swarmlet-metrics'"),
        (".venv/bin/swarmlet-metrics", ".venv/bin/swarmlet-metrics"),
        ("C:/Scripts/swarmlet-metrics.exe", "C:/Scripts/swarmlet-metrics.exe"),
        ("/usr/lib/python3/site-packages/langchain_swarmlet_metrics/cli.py", "swarmlet-metrics"),
        ("-c", "swarmlet-metrics"),
    ],
)
def test_command_lines_to_copy(monkeypatch, called, shown):
    """Command lines that are printed to be copied begin as this one was called, which need not be on the PATH."""
    monkeypatch.setattr(sys, "argv", [called, "demo"])
    assert cli._called_as() == shown
