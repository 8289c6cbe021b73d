"""Runs take turns, and a rival that cannot run is left out aloud."""

import pytest

from benchmarks.measure import compare
from fedcore.errors import InstallError


def test_ours_and_the_rivals_take_turns() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return 1.0

    compare(
        lambda: run("ours"), {"a": lambda: run("a"), "b": lambda: run("b")}, repeats=3, best=max
    )
    assert order == ["ours", "a", "b"] * 3


def test_the_best_run_of_the_best_rival_is_what_ours_is_compared_with() -> None:
    ours, slow, fast = iter([3.0, 8.0, 5.0]), iter([1.0, 2.0, 1.0]), iter([2.0, 1.0, 4.0])
    found = compare(
        lambda: next(ours),
        {"slow": lambda: next(slow), "fast": lambda: next(fast)},
        repeats=3,
        best=max,
    )
    assert (found.value, found.against, found.rival_value, found.ratio) == (8.0, "fast", 4.0, 2.0)


def test_for_times_the_smallest_is_the_best() -> None:
    found = compare(lambda: 3.0, {"a": lambda: 2.0, "b": lambda: 6.0}, repeats=2, best=min)
    assert (found.against, found.ratio) == ("a", 1.5)


def test_an_absent_rival_is_asked_once_and_its_reason_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def absent() -> float:
        asked.append("absent")
        raise InstallError("peer absent is not installed", why="there is no interpreter")

    found = compare(lambda: 3.0, {"absent": absent, "b": lambda: 2.0}, repeats=3, best=max)
    assert asked == ["absent"]
    assert (found.against, found.ratio) == ("b", 1.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no comparison with absent" in captured.err
    assert "there is no interpreter" in captured.err


def test_without_any_rival_there_is_a_value_and_no_ratio() -> None:
    found = compare(lambda: 3.0, {}, repeats=1, best=max)
    assert (found.value, found.against, found.rival_value, found.ratio) == (3.0, None, None, None)


def test_a_failure_other_than_absence_is_not_swallowed() -> None:
    def broken() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compare(lambda: 3.0, {"broken": broken}, repeats=1, best=max)
