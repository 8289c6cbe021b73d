"""A step of the load is held against what the same machine took right before and after it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from benchmarks.federation.curve import Curve, Trial, curve
from benchmarks.federation.storm import Begin, Tally

SECONDS = 2.0


def taken(rate: float, *, due: int = 0, seconds: float = SECONDS, end_s: float = 0.0) -> Tally:
    count = int(rate * seconds)
    return Tally(due, seconds=[0.01] * count, useful=count, elapsed_s=seconds, end_s=end_s)


@dataclass
class Clock:
    now_s: float = 7.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("benchmarks.federation.curve.time.perf_counter", lambda: clock.now_s)
    return clock


@dataclass
class Machine:
    """Takes so many calls a second, one number after the other, and half of what is too much."""

    clock: Clock
    speeds: list[float]
    recovers: list[bool] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def filled(self, _: Begin, *, at_once: int, seconds: float) -> Tally:
        assert at_once == 64
        return taken(self.speeds[0], seconds=seconds)

    def offered(self, _: Begin, *, rate: float, seconds: float) -> Tally:
        self.clock.now_s += seconds
        if seconds == 1.0:  # a probe
            soon = self.recovers.pop(0) if self.recovers else True
            return Tally(due=20, seconds=[0.01] * 20 if soon else [])
        speed, due = self.speeds.pop(0), int(rate * seconds)
        self.rates.append(rate)
        useful = rate if rate <= speed else speed / 2
        return taken(useful, due=due, seconds=seconds, end_s=self.clock.now_s)


def measured(machine: Machine, *, repeats: int = 1) -> Curve:
    return curve(
        machine,  # type: ignore[arg-type]
        lambda done: True,
        lambda done: True,
        steps=(0.5, 3.0),
        at_once=64,
        repeats=repeats,
        seconds=SECONDS,
    )


def test_a_step_is_offered_as_a_multiple_of_what_was_taken_right_before(clock: Clock) -> None:
    machine = Machine(clock, [100.0, 100.0, 300.0, 300.0, 300.0])
    measured(machine, repeats=2)
    assert machine.rates == [50.0, 300.0, 150.0, 900.0]


def test_its_share_is_of_the_mean_of_what_was_taken_before_and_after(clock: Clock) -> None:
    found = measured(Machine(clock, [100.0, 200.0, 200.0]))
    assert [trial.most for trial in found.trials] == [150.0, 200.0]
    assert found.share(0.5) == pytest.approx(50 / 150)
    assert found.share(3.0) == pytest.approx(0.5)


def test_a_machine_that_becomes_slower_changes_no_share_but_beside_the_change(clock: Clock) -> None:
    steady = measured(Machine(clock, [100.0] * 11), repeats=5)
    slower = measured(Machine(clock, [100.0] * 5 + [50.0] * 6), repeats=5)
    for step in (0.5, 3.0):
        assert slower.share(step) == pytest.approx(steady.share(step))
    assert slower.capacity == 50.0 and steady.capacity == 100.0


def test_a_server_that_collapses_under_load_is_found_out_on_any_machine(clock: Clock) -> None:
    speeds = [100.0, 70.0, 130.0, 90.0, 110.0, 60.0, 100.0]
    assert measured(Machine(clock, speeds), repeats=3).share(3.0) < 0.65


def test_the_peak_is_the_best_step_and_never_less_than_the_capacity() -> None:
    low = Curve([Trial(3.0, 100.0, taken(80.0))], [100.0], 0.0)
    assert low.peak == 1.0 and low.share(3.0) == 0.8
    high = Curve([Trial(1.0, 100.0, taken(120.0)), *low.trials], [100.0], 0.0)
    assert high.peak == 1.2


def test_what_was_offered_is_told_as_a_rate_and_as_a_share(clock: Clock) -> None:
    found = measured(Machine(clock, [100.0, 100.0, 100.0]))
    assert found.offered(3.0) == (300.0, 3.0)
    assert found.goodput(3.0) == 50.0


def test_the_slowest_recovery_counts_and_one_that_never_comes_is_an_error(clock: Clock) -> None:
    found = measured(Machine(clock, [100.0] * 5, recovers=[True, False, False, True]), repeats=2)
    assert found.recovery_s == 2.0  # the second time two probes were not answered soon
    with pytest.raises(RuntimeError, match="has not recovered in 60 s"):
        measured(Machine(clock, [100.0] * 3, recovers=[False] * 100))
