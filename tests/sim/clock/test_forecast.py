"""What is expected of rounds is what becomes of them, and what cannot go well is said before."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fedcore.rounds import Phase
from fedcore.secagg import Profile
from fedsim.clock import ClockState, SynchronousClock, Terms, forecast
from fedsim.devices import Stage
from tests.sim.clock.hands import Device, Hands, terms, work
from tests.sim.clock.test_sessions import config


def test_ideal_devices_all_report_and_nothing_is_to_be_said() -> None:
    found = forecast(terms(goal=4), Hands([Device()] * 9), work(*[1] * 9))
    assert (found.reports, found.needed, found.in_time, found.kept) == (4, 4, 1, 1)
    assert found.warnings == ()


def test_as_many_report_as_were_expected() -> None:
    """Of 400 clients: a quarter too slow, and of the others a good fourth lost."""
    lost = {Stage.TRAINING: 0.2, Stage.UPLOAD: 0.1}
    devices = Hands(
        [Device(compute=10, upload=100, dropout=lost)] * 300 + [Device(compute=1)] * 100
    )
    rules = terms(goal=400, minimum=100, compute_s=50, seconds={Phase.COLLECTING: 90})
    what = work(*[100] * 400)
    found = forecast(rules, devices, what)
    assert (found.in_time, found.needed) == (0.75, 100)
    assert found.reports == pytest.approx(300 * 0.8 * 0.9)
    reported = len(SynchronousClock(rules, devices).round(0, ClockState(), what).last.reported)
    assert abs(reported - found.reports) < 3.5 * np.sqrt(300 * 0.72 * 0.28)
    (warning,) = found.warnings
    assert "400 are waited for" in warning and "until their deadline" in warning


@pytest.mark.parametrize(
    ("device", "says"),
    [
        (Device(dropout={Stage.UPLOAD: 0.5}), "overselection = 1.6"),
        (Device(dropout={Stage.UPLOAD: 1.0}), "lower dropout"),
        (Device(compute=0.01), "lengthen deadlines.compute_s"),
        (Device(upload=1), "lengthen deadlines.compute_s"),
    ],
)
def test_a_minimum_beyond_what_is_expected_is_warned_of_with_what_would_do(
    device: Device, says: str
) -> None:
    rules = terms(goal=10, minimum=8)
    found = forecast(rules, Hands([device] * 30), work(*[100] * 30))
    (warning,) = found.warnings
    assert "8 have to: most attempts will be given up" in warning and says in warning


def test_who_would_be_selected_beyond_those_there_are_has_to_be_simulated() -> None:
    rules, lossy = terms(goal=10, minimum=8), Device(dropout={Stage.TRAINING: 0.75})
    (warning,) = forecast(rules, Hands([lossy] * 20), work(*[1] * 20)).warnings
    assert "simulate 32 clients and set cohort.overselection = 3.2, or" in warning
    wider = terms(goal=10, minimum=8, select=32)
    found = forecast(wider, Hands([lossy] * 32), work(*[1] * 32))
    assert found.reports >= found.needed


def secure(device: Device) -> tuple[Terms, Hands]:
    rules = config(20, Profile.MALICIOUS, Fraction(1, 10))
    policy = terms(goal=20, minimum=2, secure=True, confirming=True, session=rules)
    return policy, Hands([device] * 20)


def test_what_a_session_needs_counts_as_well_as_the_tasks_minimum() -> None:
    found = forecast(*secure(Device(dropout={Stage.SHARES: 0.2})), work(*[1] * 20))
    assert found.needed == 18 and found.reports == pytest.approx(16)
    assert "18 have to" in found.warnings[0]


def test_a_session_that_opens_what_is_expected_is_told_by_its_delta() -> None:
    rules, devices = secure(Device(dropout={Stage.SHARES: 0.2}))
    (warning,) = forecast(rules, devices, work(*[1] * 20)).warnings
    assert "overselection" not in warning and "secure_aggregation.delta = 0.2, or" in warning
    assert rules.session is not None
    lossy = replace(rules, session=replace(rules.session, delta=Fraction(1, 5)))
    assert not forecast(lossy, devices, work(*[1] * 20)).warnings[1:]
    assert "most attempts" not in forecast(lossy, devices, work(*[1] * 20)).warnings[0]


def test_those_who_are_lost_after_they_have_reported_are_warned_of() -> None:
    found = forecast(*secure(Device(dropout={Stage.UNMASKING: 0.4})), work(*[1] * 20))
    (warning,) = found.warnings
    assert "40 % of the clients" in warning and "secure_aggregation.delta" in warning
