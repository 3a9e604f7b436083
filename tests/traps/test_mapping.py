"""Every trap has an answer."""

from __future__ import annotations

from tests.traps.mapping import NUMBERS, main, mapping


def test_every_trap_has_an_answer(capsys):
    """Each number has a test or a documented limit, and the script lists them."""
    assert sorted(mapping()) == list(NUMBERS)
    assert main() == 0
    assert "no answer" not in capsys.readouterr().out
