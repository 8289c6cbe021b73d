"""A transfer shows how far it is where somebody looks, and is quiet where nobody asked."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.console import Console
from fedserver.admin.transfer_bar import transfer_bar


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 1000), max_size=50).map(sorted))
def test_without_a_terminal_there_is_a_line_for_each_tenth_at_most(
    capsys: pytest.CaptureFixture[str], steps: list[int]
) -> None:
    for verbosity in (-1, 0, 1):
        with transfer_bar(Console("task submit", verbosity=verbosity), "first model") as moved:
            for done in steps:
                moved(done, 1000)
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert out == "" and (verbosity > 0 or not lines)
        if verbosity > 0:
            assert len(lines) == len({done // 100 for done in steps if done >= 100})
            assert all(line.endswith(" of 1.0 kB") for line in lines)


def test_on_a_terminal_a_bar_is_drawn_beside_the_data_and_only_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with transfer_bar(Console("task submit"), "first model") as moved:
        moved(400, 1000)
    out, err = capsys.readouterr()
    assert "first model" in err and "0.4/1.0 kB" in err and out == ""
    with transfer_bar(Console("task submit", verbosity=-1), "first model") as moved:
        moved(400, 1000)
    assert capsys.readouterr() == ("", "")
