"""A certificate tells what was spent, against whom it holds, and nothing of who took part."""

from __future__ import annotations

import json
import math
import os
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import LedgerError, RollbackError
from fedcore.privacy import accounting
from fedcore.privacy.accounting import account
from fedcore.privacy.banded import Strategy
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.claims import upward
from fedcore.privacy.events import Event, GaussianEvent
from fedcore.privacy.ledger import Head, Ledger
from fedcore.privacy.noise import BandedNoise, CentralNoise, NoiseShares, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.sampling import FixedSize, Poisson, Uncontrolled, rate_of
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy.ledger_world import KEY, bounded, plan_of

DELTA = 1e-5
SHARES = NoiseShares(clients=340, survivors=60, corrupt=10)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For no disk, and for no grid finer than it takes to tell figures apart."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    coarse = partial(accounting.pld_epsilon, interval=1e-2)
    monkeypatch.setattr(accounting, "pld_epsilon", coarse)


def spend(folder: Path, plan: PrivacyPlan, rounds: int, **options: Any) -> None:
    with Ledger.create(folder, plan, participation_key=KEY, **options) as ledger:
        for round_ in range(rounds):
            reservation = ledger.reserve(round_)
            reservation.participate([b"unit"])
            reservation.mark_drawn()
            reservation.release(b"payload")


def shared(**changes: Any) -> PrivacyPlan:
    """Clients that add the noise, and so many of them that a cohort's size tells of nobody."""
    terms: dict[str, Any] = {"population": 2000, "sampling": Poisson(rate_of(0.1)), "epsilon": 6.0}
    return plan_of(noise=SHARES, grid_steps=2**16, **terms | changes)


def against(data: dict[str, Any]) -> dict[str, float | None]:
    return {adversary["name"]: adversary["epsilon"] for adversary in data["adversaries"]}


def test_a_certificate_states_what_the_accountant_says_of_all_that_was_reserved(
    tmp_path: Path,
) -> None:
    plan = plan_of()
    with Ledger.create(tmp_path, plan) as ledger:
        ledger.reserve(0).void("nobody came")
        ledger.reserve(0)  # and a crash
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
        reservation.release(b"payload")
        data = certificate(ledger)
        assert data == certificate(tmp_path, checkpoint=ledger.head)
        assert data["ledger"] == ledger.head.to_json()
    assert data == json.loads(json.dumps(data, allow_nan=False))
    found = account({plan.event: 2}, adjacency=plan.adjacency, delta=DELTA)
    assert data["epsilon"] == found.value
    assert (data["accountant"]["rdp"], data["accountant"]["pld"]) == (found.rdp, found.pld)
    assert data["rounds"] == {"planned": 3, "reserved": 3, "voided": 1, "released": 1}
    assert (data["unit"], data["adjacency"]) == ("CLIENT", "ADD_REMOVE")
    rounds = {"planned": 3, "reserved": 2, "released": 1}
    terms = {"epsilon": plan.epsilon, "delta": plan.delta, "population": 1000, "rounds": rounds}
    assert data["plans"] == [{"digest": plan.digest.hex(), **terms}]
    assert not data["warnings"] and "plans" not in format_certificate(data)


def test_an_adaptive_schedule_is_certified_at_its_fixed_order_alone(tmp_path: Path) -> None:
    plan = plan_of(epsilon=9.0)
    spend(tmp_path, plan, 2, order=3)
    data = certificate(tmp_path)
    curve = compose({plan.event: 2}, plan.adjacency)
    assert data["epsilon"] == epsilon(curve, DELTA, order=3)[0]
    assert data["accountant"]["pld"] is None
    assert "fixed order 3" in format_certificate(data)


def test_who_knows_the_participants_is_told_what_sampling_no_longer_saves(tmp_path: Path) -> None:
    plan = plan_of(rounds=100, sampling=Poisson(rate_of(0.01)), epsilon=4.0)
    spend(tmp_path / "central", plan, 100)
    data = certificate(tmp_path / "central")
    most = data["participations"]["most"]
    assert 1 < most < 20
    known: dict[Event, int] = {GaussianEvent(Fraction(1)): most}
    found = account(known, adjacency=plan.adjacency, delta=0.99 * DELTA)
    assert against(data) == {
        "readers": data["epsilon"],
        "who knows participants": found.value,
        "the server": None,
    }
    assert "trusted" in format_certificate(data)


def test_under_secure_aggregation_both_numbers_are_printed(tmp_path: Path) -> None:
    spend(tmp_path, shared(), 3)
    data = certificate(tmp_path)
    found = against(data)
    assert found["readers"] == data["epsilon"]
    assert found["the server"] == found["who knows participants"]
    assert found["the server"] is not None
    assert found["the server"] > 2 * data["epsilon"]
    text = format_certificate(data)
    for value in found.values():
        assert value is not None
        assert upward(value) in text


def test_a_server_learns_nothing_of_the_records_that_their_holders_draw(tmp_path: Path) -> None:
    """Noisy sums are what readers see; by whom they are drawn decides, not who adds them up."""
    options: dict[str, Any] = {"unit": Unit.RECORD, "rounds": 5, "epsilon": 4.0}
    for name, noise in (("central", CentralNoise()), ("shares", SHARES)):
        plan = plan_of(noise=noise, grid_steps=2**16, steps=2, **options)
        with Ledger.create(tmp_path / name, plan) as ledger:
            for round_ in range(5):
                ledger.reserve(round_)
            data = certificate(ledger)
        found = against(data)
        known = found["who knows participants"]
        assert found["the server"] == found["readers"] == data["epsilon"]
        assert known is not None and known > 2 * data["epsilon"]
        text = " ".join(format_certificate(data).split())
        assert "drawn and kept by their holder" in text
        assert "as the server that selects" not in text and "the exact sums" not in text
        assert "noisy sums" in text if name == "shares" else "the holder adds the noise" in text


def test_where_noise_protects_nobody_nobody_is_said_to_be_protected_from(tmp_path: Path) -> None:
    for name, unit in (("clients", Unit.CLIENT), ("records", Unit.RECORD)):
        spend(tmp_path / name, plan_of(noise=SimulatedNoise(seed=1), unit=unit), 1)
        data = certificate(tmp_path / name)
        assert set(against(data).values()) == {None}
        assert format_certificate(data).count("no protection") == 3


def test_the_accountant_is_named_with_the_version_of_what_is_not_ours(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    spend(tmp_path / "central", plan_of(), 1)
    data = certificate(tmp_path / "central")
    text = " ".join(format_certificate(data).split())
    assert f"dp-accounting PLD {data['accountant']['version']}; RDP" in text
    assert "do not contradict" in text and "agree" not in text
    assert data["accountant"]["cross_checked"] is True
    assert f"the ledger goes by RDP, {upward(data['accountant']['rdp'])}" in text
    spend(tmp_path / "shares", shared(), 1)
    spend(tmp_path / "filter", plan_of(epsilon=9.0), 1, order=3)
    for name, said in (
        ("shares", "fedcore RDP, orders 2 to 256; no second accountant"),
        ("filter", "Rényi filter at the fixed order 3; the schedule"),
    ):
        data = certificate(tmp_path / name)
        text = " ".join(format_certificate(data).split())
        assert said in text and "the ledger goes by this figure" in text
        assert data["accountant"]["version"] is None
        assert data["accountant"]["cross_checked"] is False


@pytest.mark.slow
def test_what_the_ledger_goes_by_is_said_where_it_cannot_be_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dp_accounting")
    plan = plan_of(rounds=200, epsilon=0.7)
    with Ledger.create(tmp_path, plan, accountant="pld") as ledger:
        by_rdp = partial(epsilon_of, plan)
        count = next(n for n in range(1, 200) if by_rdp(n) > plan.epsilon)
        for round_ in range(count):
            ledger.reserve(round_)
    data = certificate(tmp_path)
    assert data["epsilon"] == data["accountant"]["held_at"] <= plan.epsilon
    assert not data["warnings"]
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    data = certificate(tmp_path)
    assert data["epsilon"] == by_rdp(count) > plan.epsilon
    assert data["accountant"]["held_at"] is None
    text = " ".join(format_certificate(data).split())
    assert text.startswith("WARNING: by RDP epsilon is")
    assert "goes by PLD, which was not computed again: dp-accounting is not installed" in text


def epsilon_of(plan: PrivacyPlan, count: int) -> float:
    return epsilon(compose({plan.event: count}, plan.adjacency), plan.failure)[0]


def test_without_sampling_there_is_one_number_for_all(tmp_path: Path) -> None:
    plan = bounded(1, 2)
    spend(tmp_path, plan, 2)
    data = certificate(tmp_path)
    assert against(data)["readers"] == against(data)["who knows participants"] == data["epsilon"]
    assert (data["participations"]["most"], data["participations"]["of"]) == (2, 2)
    assert data["gaussian"]["mu"] == pytest.approx(math.sqrt(2) / 2)
    assert data["gaussian"]["rho"] == pytest.approx(2 / 8)
    assert "nothing" in data["secret"]


def test_a_matrix_of_rounds_counts_the_participations_within_it(tmp_path: Path) -> None:
    noise = BandedNoise(Strategy((1024, 512)))
    plan = plan_of(
        sampling=Uncontrolled(2, 3),
        adjacency=Adjacency.ZERO_OUT,
        noise=noise,
        grid_steps=2**16,
        rounds=8,
        epsilon=9.0,
        noise_multiplier=Fraction(2),
    )
    spend(tmp_path, plan, 1)
    data = certificate(tmp_path)
    assert data["participations"]["most"] == 3
    assert data["gaussian"]["mu"] == pytest.approx(1 / 2)


def test_replacing_a_unit_costs_twice_the_distance(tmp_path: Path) -> None:
    plan = plan_of(adjacency=Adjacency.REPLACE_ONE, sampling=FixedSize(10, 1000), epsilon=9.0)
    spend(tmp_path / "sampled", plan, 1)
    assert certificate(tmp_path / "sampled")["gaussian"] is None
    plan = bounded(1, 1, adjacency=Adjacency.REPLACE_ONE)
    spend(tmp_path / "all", plan, 1)
    assert certificate(tmp_path / "all")["gaussian"]["mu"] == pytest.approx(2 / 2)


def test_a_certificate_depends_on_nobody_who_took_part(tmp_path: Path) -> None:
    found = []
    for name, units in (("one", [[b"a"], [b"a"], [b"a"]]), ("other", [[], [b"a", b"b"], []])):
        with Ledger.create(tmp_path / name, plan_of(), participation_key=KEY) as ledger:
            for round_, who in enumerate(units):
                reservation = ledger.reserve(round_)
                reservation.participate(who)
                reservation.mark_drawn()
                reservation.release(b"payload")
            data = certificate(ledger)
            del data["ledger"]
            found.append(data)
    assert found[0] == found[1]


def test_what_is_not_private_or_not_real_says_so_first(tmp_path: Path) -> None:
    spend(tmp_path / "float", plan_of(noise=SimulatedNoise(seed=1)), 1)
    data = certificate(tmp_path / "float")
    assert data["float_noise"]
    assert format_certificate(data).startswith("NOT PRIVATE")
    spend(tmp_path / "small", plan_of(), 1)
    data = certificate(tmp_path / "small", trained_on=50)
    assert data["simulated"] == {"population": 50}
    assert format_certificate(data).startswith("SIMULATED: 50 units")
    data = certificate(tmp_path / "small", trained_on=1000)
    assert data["simulated"] is None
    assert not data["float_noise"]


def test_of_nothing_spent_nothing_is_lost(tmp_path: Path) -> None:
    spend(tmp_path, plan_of(), 0)
    data = certificate(tmp_path)
    assert set(against(data).values()) == {0.0, None}
    format_certificate(data)


def test_a_ledger_that_was_changed_or_is_old_gets_no_certificate(tmp_path: Path) -> None:
    spend(tmp_path, plan_of(), 1)
    with pytest.raises(RollbackError):
        certificate(tmp_path, checkpoint=Head(9, bytes(32)))
    data = (tmp_path / "privacy.ledger").read_bytes()
    (tmp_path / "privacy.ledger").write_bytes(data.replace(b'"round":0', b'"round":1'))
    with pytest.raises(LedgerError):
        certificate(tmp_path)


def test_the_text_says_all_that_has_to_be_said(tmp_path: Path) -> None:
    spend(tmp_path, plan_of(), 1)
    data = certificate(tmp_path)
    text = format_certificate(data)
    for words in (
        "client",
        "add or remove one",
        "1000 units",
        "Poisson",
        "who took part",
        "dp-accounting",
        "hyper-parameters",
        data["ledger"]["digest"],
    ):
        assert words in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 100
