"""A round is one line everywhere, with a bar below it on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from fedsim.records import OwnRows
from fedsim.run.progress import progress, round_line
from tests.sim.records.samples import private_record, record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_round_is_one_line_in_the_form_of_the_house() -> None:
    assert round_line(private_record(12), rounds=50) == (
        "round 13/50  sel 130 ok 118 drop 12 (train 7 upload 4 unmask 1)  loss 0.500  acc 87.9%"
        "  eps 5.20/4.00  up 61.2 MB  12.4 s"
    )


def test_what_was_not_measured_is_not_in_the_line() -> None:
    nothing = {"test": None, "train_loss": None, "clients": None, "lost": {}}
    line = round_line(record(0, attempts=2, **nothing), rounds=3)
    assert line == "round 1/3  attempt 2  sel 130 ok 118 drop 0  up 61.2 MB  12.4 s"
    assert "  train loss 0.412  " in round_line(record(0, test=None), rounds=3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (OwnRows.HELD_OUT, "  clients 80.0% on held-out rows  "),
        (OwnRows.TRAINING, "  clients 80.0% on training rows  "),
        (None, "  clients 80.0%  "),
    ],
)
def test_what_clients_reach_is_told_with_the_rows_that_it_was_measured_on(
    rows: OwnRows | None, said: str
) -> None:
    assert said in round_line(record(0, own_rows=rows), rounds=3)


def test_under_privacy_a_round_without_an_evaluation_shows_no_loss() -> None:
    assert "loss" not in round_line(private_record(test=None), rounds=3)


def test_a_hostile_phase_does_not_reach_the_terminal() -> None:
    line = round_line(record(lost={"train\x1b[2J\n": {"x": 1}}), rounds=3)
    assert line.isprintable()


def test_a_file_gets_a_line_a_round_and_nothing_else() -> None:
    stream = io.StringIO()
    with progress(3, done=1, stream=stream) as tell:
        for round in (1, 2):
            tell(record(round))
    assert stream.getvalue().splitlines() == [
        round_line(record(round), rounds=3) for round in (1, 2)
    ]


def test_a_terminal_gets_the_lines_whole_and_a_bar_that_goes_away() -> None:
    stream = Terminal()
    with progress(3, stream=stream) as tell:
        tell(record(0))
    assert round_line(record(0), rounds=3) in stream.getvalue()
    assert "1/3" in stream.getvalue()
    assert stream.getvalue().endswith(("\x1b[2K", "\x1b[1A\x1b[2K"))


def test_a_terminal_without_rich_gets_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = Terminal()
    with progress(3, stream=stream) as tell:
        tell(record(0))
    assert stream.getvalue() == round_line(record(0), rounds=3) + "\n"


def test_standard_error_is_where_the_lines_go(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3) as tell:
        tell(record(0))
    assert capsys.readouterr().err == round_line(record(0), rounds=3) + "\n"
