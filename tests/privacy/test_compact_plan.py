"""A plan of the compact mode says which slots it takes, what they cost, and who is trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from fedcore.errors import LedgerError, PlanError
from fedcore.privacy.noise import CompactShares, NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.units import Unit
from tests.privacy import plans


def test_slots_that_the_plan_chose_are_written_down() -> None:
    plan = plans.compact(dimension=10**5)
    assert plan.noise == CompactShares(5, 4, 1, slot_bits=16)
    wide = plans.compact(
        dimension=2**24, noise=CompactShares(1000, 1000, 0), noise_multiplier=Fraction(3)
    )
    assert wide.noise == CompactShares(1000, 1000, 0, slot_bits=21)
    assert plan == plans.compact(dimension=10**5, noise=CompactShares(5, 4, 1, slot_bits=16))
    assert plans.compact(noise=CompactShares(5, 4, 1, 21)).grid > plan.grid
    written = json.loads(json.dumps(plan.to_json()))
    assert PrivacyPlan.from_json(written) == plan
    written["noise"]["slot_bits"] = None
    with pytest.raises(LedgerError, match="written out"):
        PrivacyPlan.from_json(written)


def test_a_grid_that_the_slots_do_not_give_is_refused_by_its_name() -> None:
    fitting = plans.compact(dimension=10**5).grid
    assert plans.compact(dimension=10**5, grid_steps=fitting).grid == fitting
    with pytest.raises(PlanError, match=r"a privacy plan with grid_steps = ") as found:
        plans.compact(dimension=10**5, grid_steps=fitting + 1)
    assert str(fitting) in found.value.why and "grid_steps=None" in found.value.fix


def test_a_text_in_place_of_its_values_is_refused_with_the_way_to_read_it() -> None:
    with pytest.raises(LedgerError, match="read from a text") as found:
        PrivacyPlan.from_json(json.dumps(plans.compact().to_json()))
    assert "json.loads" in found.value.fix


def test_more_noise_than_narrow_slots_hold_is_calibrated_into_wide_ones() -> None:
    many = CompactShares(1000, 900, 50)
    plan = plans.compact(
        dimension=2**22,
        noise=many,
        population=10**4,
        delta=1e-6,
        epsilon=0.5,
        rounds=1,
        noise_multiplier=Fraction(1),
    )
    assert plan.noise == replace(many, slot_bits=16)
    found = plan.calibrated()
    assert found.noise == replace(many, slot_bits=21)
    spent = found.spend(found.reservations)
    assert 0.49 < epsilon(compose(spent, found.adjacency), found.failure)[0] <= 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": CompactShares(6, 4, 1)},
        {"noise": CompactShares(5, 5, 1)},
        {"noise": CompactShares(5, 4, 2)},
        {"noise": CompactShares(5, 4, 1, slot_bits=21)},
        {"noise": NoiseShares(5, 4, 1)},
        {"noise_multiplier": Fraction(2)},
    ],
)
def test_the_digest_changes_with_every_term(changes: dict[str, Any]) -> None:
    assert plans.compact(**changes).digest != plans.compact().digest


def test_a_plan_says_who_is_trusted_and_what_rounding_costs() -> None:
    plan = plans.compact(unit=Unit.USER, dimension=1000)
    said = plan.statement()
    for words in ("Skellam", "at least 4 clients", "up to 1 of them"):
        assert words in said["trust"]
    for words in ("16 bits", f"{plan.grid} grid steps", f"{plan.contribution_norm} that"):
        assert words in said["quantisation"]


def test_an_upload_takes_half_or_two_thirds_of_the_bytes() -> None:
    """Of a million parameters: the figures of docs/privacy.md."""
    found = {}
    for bits in (16, 21):
        plan = plans.compact(dimension=10**6, noise=CompactShares(5, 4, 1, slot_bits=bits))
        found[bits] = plans.layout_of(plan, bits).upload_bytes
    found[32] = plans.layout_of(plans.shared(dimension=10**6), 32).upload_bytes
    assert found == {16: 2_097_152, 21: 2_796_208, 32: 4_000_000}
