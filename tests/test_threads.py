"""The executors: daemon threads that keep no interpreter from exiting, and calls in the caller's own thread."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest

from langchain_swarmlet_metrics.threads import DaemonExecutor, InlineExecutor
from tests.processes import output_of


@pytest.mark.parametrize("executor", [DaemonExecutor(), InlineExecutor()])
def test_result(executor):
    """A call's positional and named arguments reach it, and its answer is the future's result."""
    assert executor.submit(divmod, 7, 2).result(10) == (3, 1)
    assert executor.submit(int, "101", base=2).result(10) == 5


@pytest.mark.parametrize("executor", [DaemonExecutor(), InlineExecutor()])
@pytest.mark.parametrize("error", [KeyError("gone"), KeyboardInterrupt(), SystemExit(3)])
def test_exception(executor, error):
    """Whatever a call raises belongs to whoever asks for the result, and ends nobody else."""

    def failing():
        raise error

    future = executor.submit(failing)
    assert future.exception(10) is error


def test_each_call_has_a_daemon_thread():
    """Calls run at the same time, each in a daemon thread of its own."""
    together = threading.Barrier(3, timeout=10)

    def meet():
        together.wait()
        return threading.current_thread()

    threads = [future.result(10) for future in [DaemonExecutor().submit(meet) for _ in range(3)]]
    assert len(set(threads)) == 3
    assert all(thread.daemon for thread in threads)


def test_inline_runs_in_the_callers_thread():
    """The inline executor has run a call when it returns its future."""
    future = InlineExecutor().submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()


def test_map_and_with():
    """It is an executor as any other: it maps and can be used as a block."""
    with DaemonExecutor() as executor:
        assert list(executor.map(str.upper, ["a", "b"], timeout=10)) == ["A", "B"]


def test_running_calls_cannot_be_cancelled():
    """A call has begun by the time its future can be seen, so cancelling the future changes nothing."""
    begun, go = threading.Event(), threading.Event()

    def work():
        begun.set()
        return go.wait(10)

    future = DaemonExecutor().submit(work)
    assert begun.wait(10)
    assert future.cancel() is False
    go.set()
    assert future.result(10) is True


def test_cancelled_before_the_thread_got_to_it(monkeypatch):
    """A future that is cancelled before its thread runs never runs the call."""
    threads = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: threads.append(thread))  # noqa: PLW0108 - has to bind
    future = DaemonExecutor().submit(pytest.fail)
    assert future.cancel()
    (thread,) = threads
    thread.run()
    wait([future], timeout=10)
    with pytest.raises(CancelledError):
        future.result(0)


def test_interpreter_exits_while_a_call_runs():
    """An interpreter does not wait for a daemon thread."""
    script = """
    import threading
    from langchain_swarmlet_metrics.threads import DaemonExecutor

    begun = threading.Event()

    def work():
        begun.set()
        threading.Event().wait()

    DaemonExecutor().submit(work)
    assert begun.wait(10)
    print("leaving")
    """
    assert output_of(script) == "leaving\n"
