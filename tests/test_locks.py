"""Tests of `locks`: one holder or several sharers, and a system without such locks."""

from __future__ import annotations

import os
import sys

import pytest

from langchain_swarmlet_metrics import locks

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def descriptors(tmp_path):
    """Open one file three times."""
    path = tmp_path / "file"
    opened = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_one_holder(descriptors):
    """A lock that is taken is refused to others until it is freed."""
    first, second, _ = descriptors
    assert locks.take(first) is True
    assert locks.take(second) is False
    assert locks.take(second, shared=True) is False
    locks.free(first)
    assert locks.take(second) is True


def test_sharers(descriptors):
    """Sharers hold a lock together, and keep it from who wants it alone."""
    first, second, third = descriptors
    assert locks.take(first, shared=True) is True
    assert locks.take(second, shared=True) is True
    assert locks.take(third) is False


def test_folder(tmp_path):
    """A folder can be locked as a file can."""
    first, second = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        assert locks.take(first) is True
        assert locks.take(second) is False
    finally:
        os.close(first)
        os.close(second)


def test_free_reaches_copies(descriptors):
    """Freeing frees the lock although a copy of the descriptor, such as a forked child's, is still open."""
    first, second, _ = descriptors
    copy = os.dup(first)
    try:
        assert locks.take(first) is True
        locks.free(first)
        assert locks.take(second) is True
    finally:
        os.close(copy)


def test_no_locks_on_this_system(descriptors, monkeypatch):
    """Where there is no flock, nothing is known and nothing is raised."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert locks.take(descriptors[0]) is None
    locks.free(descriptors[0])


def test_no_locks_on_this_file():
    """Where a file cannot be locked, nothing is known and nothing is raised."""
    descriptor = os.open("/", os.O_RDONLY)
    os.close(descriptor)
    assert locks.take(descriptor) is None
    locks.free(descriptor)
