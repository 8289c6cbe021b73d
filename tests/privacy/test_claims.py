"""What is claimed of a ledger holds for every plan that it has charged, however it ended."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.privacy import accounting
from fedcore.privacy.banded import Strategy
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.claims import often, upward
from fedcore.privacy.clipping import Flat
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.ledger_records import Migrate
from fedcore.privacy.noise import BandedNoise, NoiseShares, SimulatedNoise
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.sampling import Poisson, Uncontrolled, rate_of
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy.ledger_world import KEY, plan_of

DELTA = 1e-5
EVERYBODY = Uncontrolled(minimum_separation=1, maximum_participations=5)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For no disk, and for no grid finer than it takes to tell figures apart."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    coarse = partial(accounting.pld_epsilon, interval=1e-2)
    monkeypatch.setattr(accounting, "pld_epsilon", coarse)


def clients(**changes: Any) -> PrivacyPlan:
    """A plan of clients that never tells by its cohorts, with a budget for much."""
    terms: dict[str, Any] = {
        "adjacency": Adjacency.ZERO_OUT,
        "population": 20,
        "sampling": EVERYBODY,
        "rounds": 5,
        "grid_steps": 2**16,
        "epsilon": 100.0,
    }
    return plan_of(**terms | changes)


def shares(corrupt: int = 2) -> NoiseShares:
    return NoiseShares(clients=20, survivors=14, corrupt=corrupt)


def run(folder: Path, *plans: tuple[PrivacyPlan, int]) -> dict[str, Any]:
    """The certificate of a ledger that follows these plans, so many rounds each."""
    with Ledger.create(folder, plans[0][0], participation_key=KEY) as ledger:
        for plan, rounds in plans:
            ledger.migrate(plan)
            for round_ in range(rounds):
                ledger.reserve(round_)
        data = certificate(ledger)
    format_certificate(data)
    return data


def against(data: dict[str, Any]) -> dict[str, float | None]:
    return {adversary["name"]: adversary["epsilon"] for adversary in data["adversaries"]}


def text_of(data: dict[str, Any]) -> str:
    return " ".join(format_certificate(data).split())


def test_exact_sums_that_a_server_saw_are_not_unsaid_by_a_later_plan(tmp_path: Path) -> None:
    central, shared = clients(), clients(noise=shares())
    for name, plans in (
        ("later", ((central, 3), (shared, 2))),
        ("earlier", ((shared, 2), (central, 3))),
        ("only", ((central, 3), (shared, 0))),
    ):
        data = run(tmp_path / name, *plans)
        assert against(data)["the server"] is None
        assert data["statement"]["trust"].startswith("whoever adds up is trusted")
        assert ("under another plan: nobody is trusted" in data["statement"]["trust"]) is (
            name != "only"
        )
        assert "exact sums" in text_of(data)


def test_a_plan_under_which_nothing_was_spent_weakens_nothing(tmp_path: Path) -> None:
    data = run(tmp_path, (clients(), 0), (clients(noise=shares()), 2))
    assert against(data)["the server"] == data["epsilon"]
    assert data["statement"]["trust"].startswith("nobody is trusted with a sum")
    assert "trusted: it sees" not in text_of(data)


def test_who_was_in_an_earlier_sample_stays_a_secret(tmp_path: Path) -> None:
    sampled, everybody = (
        clients(sampling=Poisson(rate_of(0.2))),
        clients(noise_multiplier=Fraction(4)),
    )
    data = run(tmp_path / "both", (sampled, 4), (everybody, 2))
    assert data["secret"].startswith("where the plan sampled, who took part")
    assert data["statement"]["sampling"].startswith("Poisson")
    assert "; under another plan: none: whoever comes" in data["statement"]["sampling"]
    known = against(data)["who knows participants"]
    assert known is not None and known > 2 * data["epsilon"]
    bound = data["participations"]["bound"]
    assert "by the sampling; under another plan: as the ledger enforces" in bound
    data = run(tmp_path / "sampled", (sampled, 4), (everybody, 0))
    assert data["secret"].startswith("who took part in which round")
    data = run(tmp_path / "open", (sampled, 0), (everybody, 2))
    assert data["secret"].startswith("nothing")


def test_of_several_plans_the_weakest_terms_come_first(tmp_path: Path) -> None:
    plans = (
        clients(noise=shares(6), noise_multiplier=Fraction(2)),
        clients(noise=shares(0), population=21, clipping=Flat(0.5), noise_multiplier=Fraction(3)),
        clients(noise=shares(2), population=1000, noise_multiplier=Fraction(1)),
    )
    for number, order in enumerate(permutations(plans)):
        data = run(tmp_path / str(number), *((plan, 1) for plan in order))
        assert data["population"] == 20
        assert "20 units; under another plan: 21, 1000" in text_of(data)
        said = data["statement"]["trust"]
        assert said.index("up to 0 of") < said.index("up to 2 of") < said.index("up to 6 of")
        assert "length 0.5" in data["statement"]["clipping"]
        assert "length 1;" in data["statement"]["clipping"] + ";"
        assert data["noise_multiplier"] == "1/1"
        assert data["statement"]["unit"] == "one client"
        assert (data["participations"]["most"], data["participations"]["of"]) == (3, 3)


def test_each_plan_of_several_has_its_line(tmp_path: Path) -> None:
    first, second = clients(), clients(noise_multiplier=Fraction(2), epsilon=50.0, rounds=9)
    data = run(tmp_path, (first, 2), (second, 1))
    text = text_of(data)
    for plan, said in (
        (first, "100 at delta 1e-05, 5 rounds, 2"),
        (second, "50 at delta 1e-05, 9 rounds, 1"),
    ):
        assert f"{plan.digest.hex()[:16]}: epsilon {said} paid for, 0 released" in text
    assert "9 planned by the present plan, 3 paid for, 0 released" in text
    assert [plan["digest"] for plan in data["plans"]] == [first.digest.hex(), second.digest.hex()]
    with Ledger.open(tmp_path, checkpoint=None, participation_key=KEY) as ledger:
        assert data["epsilon"] == ledger.epsilon()


def test_noise_that_was_never_private_taints_what_follows(tmp_path: Path) -> None:
    data = run(tmp_path, (clients(noise=SimulatedNoise(1)), 1), (clients(), 1))
    assert set(against(data).values()) == {None}
    assert data["statement"]["trust"].startswith("NOT PRIVATE")
    assert format_certificate(data).startswith("NOT PRIVATE")


def test_participations_of_all_plans_add_up(tmp_path: Path) -> None:
    matrix = clients(
        noise=BandedNoise(Strategy((1024, 512))), sampling=Uncontrolled(2, 3), rounds=8
    )
    data = run(tmp_path, (clients(noise_multiplier=Fraction(2)), 4), (matrix, 1))
    assert (data["participations"]["most"], data["participations"]["of"]) == (4 + 3, 4 + 8)


def test_steps_over_records_are_counted_as_steps(tmp_path: Path) -> None:
    plan = plan_of(unit=Unit.RECORD, steps=5, rounds=20, epsilon=9.0, grade=Grade.SUM)
    data = run(tmp_path, (plan, 20))
    most = data["participations"]["most"]
    assert data["participations"]["of"] == 100 and 1 < most < 30
    assert f"one unit in at most {most} of 100 steps, but for a chance" in text_of(data)


def test_what_plans_set_aside_of_delta_is_added_up(tmp_path: Path) -> None:
    sampled = Poisson(rate_of(0.1))
    noise = NoiseShares(clients=340, survivors=60, corrupt=10)
    terms: dict[str, Any] = {"population": 2000, "sampling": sampled, "noise": noise, "rounds": 3}
    first, second = clients(epsilon=6.0, **terms), clients(epsilon=7.0, **terms)
    kept = DELTA - first.failure
    data = run(tmp_path / "one", (first, 1))
    assert data["delta"] == DELTA
    data = run(tmp_path / "two", (first, 1), (second, 1))
    assert data["delta"] == pytest.approx(DELTA + kept, rel=1e-12)
    assert data["delta"] >= DELTA + kept * (1 - 1e-9)


def test_more_spent_than_the_budget_is_said_first(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        ledger.reserve(0)
        ledger._journal.write(Migrate(plan_of(epsilon=0.1)))  # as no ledger of ours would
        data = certificate(ledger)
    assert data["warnings"] == [
        f"epsilon {upward(data['epsilon'])} was spent, more than the budget of 0.1"
    ]
    assert format_certificate(data).startswith("WARNING: epsilon ")


def test_what_fewer_units_stood_in_for_is_a_simulation_under_any_plan(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, clients(), participation_key=KEY) as ledger:
        for population, simulated in ((20, False), (1000, True)):
            ledger.migrate(clients(population=population))
            ledger.reserve(0)
            data = certificate(ledger, trained_on=20)
            assert (data["simulated"] is not None) is simulated


@given(value=st.floats(min_value=1e-300, max_value=1e300))
def test_a_printed_figure_is_no_less_than_what_it_stands_for(value: float) -> None:
    assert value <= float(upward(value)) <= value * 1.00011


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-5, 2.0, 879.0, math.inf])
def test_a_figure_of_few_digits_is_printed_as_it_is(value: float) -> None:
    assert float(upward(value)) == value


@given(
    rounds=st.integers(1, 3000),
    probability=st.floats(1e-6, 1.0),
    tail=st.sampled_from([1e-3, 1e-7, 1e-12]),
)
def test_the_bound_on_participations_is_exceeded_by_at_most_the_stated_chance(
    rounds: int, probability: float, tail: float
) -> None:
    scipy = pytest.importorskip("scipy.stats")
    most = often(rounds, probability, tail)
    assert 0 <= most <= rounds
    assert scipy.binom.sf(most, rounds, probability) <= tail * (1 + 1e-9)


@given(rounds=st.integers(1, 2000), probability=st.floats(1e-6, 1.0), tail=st.floats(1e-300, 0.999))
def test_the_bound_on_participations_is_the_least_that_chernoff_proves(
    rounds: int, probability: float, tail: float
) -> None:
    def proven(count: int) -> bool:
        part = (count + 1) / rounds
        left = (1 - part) * math.log((1 - part) / (1 - probability)) if part < 1 else 0.0
        found = part * math.log(part / probability) + left
        return rounds * found >= -math.log(tail)

    counts = range(math.ceil(rounds * probability), rounds)
    assert often(rounds, probability, tail) == next(filter(proven, counts), rounds)


def test_the_bound_is_found_among_any_number_of_rounds() -> None:
    assert 2**59 < often(2**60, 0.5, 1e-9) < 2**59 + 2**33
