"""Tests of `owners`: folders that others may change are not trusted, with real owners, groups and modes."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager

import pytest

from langchain_swarmlet_metrics import owners
from langchain_swarmlet_metrics.owners import is_trusted, require_trusted

grp = pytest.importorskip("grp", reason="this system has no owners")
pwd = pytest.importorskip("pwd", reason="this system has no owners")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")

STRANGER = 54321


@contextmanager
def acting_as(user, group):
    """Run as another user and group inside the block."""
    os.setegid(group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def users_by_group():
    """Return the users of each group, by its number: its members, and those whose primary group it is."""
    users = {entry.gr_gid: set(entry.gr_mem) for entry in grp.getgrall()}
    for entry in pwd.getpwall():
        users.setdefault(entry.pw_gid, set()).add(entry.pw_name)
    return users


def somebody(*, alone):
    """Return a user who is not root, and whose primary group is their own, or is not."""
    users = users_by_group()
    for entry in pwd.getpwall():
        named = any(group.gr_gid == entry.pw_gid for group in grp.getgrall())
        if entry.pw_uid and named and (users[entry.pw_gid] == {entry.pw_name}) is alone:
            return entry
    return pytest.skip(f"this system has no user whose group is {'' if alone else 'not '}their own")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500, 0o2750])
def test_a_folder_that_its_user_alone_may_change(tmp_path, mode):
    """Others may read and enter it."""
    tmp_path.chmod(mode)
    try:
        require_trusted(tmp_path)
        assert is_trusted(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_a_folder_that_everybody_may_write_to(tmp_path, mode):
    """It is refused, sticky or not; the message says why and what to do."""
    folder = tmp_path / "two words"
    folder.mkdir()
    folder.chmod(mode)
    expected = (
        f"worker folders in {folder} are refused: everybody may write to it (mode {mode:04o}); "
        f"run `chmod o-w '{folder}'`, set SWARMLET_DATA_PATH or pass root="
    )
    with pytest.raises(PermissionError, match=re.escape(expected)):
        require_trusted(folder)
    assert not is_trusted(folder)


@needs_root
def test_a_folder_of_another_user(tmp_path):
    """It is refused; the message names both users and what to do."""
    os.chown(tmp_path, STRANGER, 0)
    expected = f"it belongs to user {STRANGER}, and this process runs as user 0; run `chown 0 {tmp_path}`, set "
    with pytest.raises(PermissionError, match=re.escape(expected)):
        require_trusted(tmp_path)
    assert not is_trusted(tmp_path)


@needs_root
def test_roots_folders_are_everybodys(tmp_path):
    """What root alone may change anybody trusts, and one's own folder, but nobody else's."""
    found = {}
    for owner in (0, STRANGER, STRANGER + 1):
        os.chown(tmp_path, owner, 0)
        info = tmp_path.stat()
        with acting_as(STRANGER, STRANGER):
            found[owner] = owners._problem(info) is None
    assert found == {0: True, STRANGER: True, STRANGER + 1: False}


@needs_root
def test_a_folder_that_another_group_may_write_to(tmp_path):
    """It is refused, with the group and what to do."""
    os.chown(tmp_path, 0, STRANGER)
    tmp_path.chmod(0o770)
    expected = f"group {STRANGER} may write to it (mode 0770); run `chmod g-w {tmp_path}`"
    with pytest.raises(PermissionError, match=re.escape(expected)):
        require_trusted(tmp_path)
    assert not is_trusted(tmp_path)


@needs_root
@pytest.mark.parametrize("alone", [True, False])
def test_a_folder_that_the_users_own_group_may_write_to(tmp_path, alone):
    """It is trusted when nobody else is in the group, as a member or with it as primary group."""
    user = somebody(alone=alone)
    os.chown(tmp_path, user.pw_uid, user.pw_gid)
    tmp_path.chmod(0o770)
    info = tmp_path.stat()
    with acting_as(user.pw_uid, user.pw_gid):
        assert (owners._problem(info) is None) is alone
    with acting_as(user.pw_uid, STRANGER):
        assert owners._problem(info) is not None


@needs_root
def test_a_group_that_is_not_known(tmp_path):
    """A user or group that the system has no entry for, as in a container, may not share."""
    os.chown(tmp_path, STRANGER, STRANGER)
    tmp_path.chmod(0o770)
    info = tmp_path.stat()
    with acting_as(STRANGER, STRANGER):
        assert owners._problem(info) is not None


def test_what_is_no_folder(tmp_path):
    """A file, a link to a folder and nothing at all are not trusted folders."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert [is_trusted(tmp_path / name) for name in ("file", "link", "nothing")] == [False, False, False]


def test_where_there_are_no_owners(tmp_path, monkeypatch):
    """On a system without users' numbers nothing is checked."""
    tmp_path.chmod(0o777)
    monkeypatch.delattr(os, "geteuid")
    require_trusted(tmp_path)
    assert is_trusted(tmp_path)


def test_who_can_change_a_folder_is_named(tmp_path):
    """So is the command that ends it; of a folder that can be trusted there is nothing to say."""
    folder = tmp_path / "a b"
    folder.mkdir(mode=0o700)
    assert owners.distrust(folder) is None
    folder.chmod(0o777)
    assert owners.distrust(folder) == ("everybody may write to it (mode 0777)", f"chmod o-w '{folder}'")
    with pytest.raises(FileNotFoundError):
        owners.distrust(tmp_path / "gone")
