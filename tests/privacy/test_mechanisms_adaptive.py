"""Under adaptive clipping a release also moves the norm, and a crash loses neither."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    PlanError,
)
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import (
    CentralMechanism,
    ShareAdder,
    SharedMechanism,
    read_release,
)
from fedcore.privacy.noise import NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.values import IntUpdate, NoisySum
from tests.privacy import plans
from tests.privacy.releases import KEY, ledgers_in, opened, reserved, sum_of


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    with ledgers_in(tmp_path) as new:
        yield new


def cohort_of(state: QuantileState, seed: int, count: int = 50) -> list[IntUpdate]:
    """Updates of length about 3."""
    source = np.random.default_rng(seed)
    made = source.normal(size=(count, 6)) * 3 / 6**0.5
    return [state.quantise(update) for update in made]


@pytest.mark.parametrize("where", ["central", "shared"])
def test_an_adaptive_norm_moves_by_the_noisy_count_and_survives_a_crash(
    tmp_path: Path, where: str
) -> None:
    shares = plans.OPENLY | {"noise": NoiseShares(50, 40, 5)}
    more = shares if where == "shared" else {}
    plan = plans.adaptive(rounds=3, clipping=Adaptive(1, 50, 5), **more)
    rule = plan.clipping
    assert isinstance(rule, Adaptive)
    state = rule.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    states, means = [state], []
    key = KEY if where == "shared" else None
    with Ledger.create(tmp_path / "ledger", plan, participation_key=key) as ledger:
        for index in range(3):
            found = cohort_of(states[-1], index)
            reservation = reserved(ledger, index)
            entropy = SeededEntropy(b"round %d" % index)
            if where == "central":
                mechanism = CentralMechanism(plan, entropy=entropy)
                noisy = sum_of(plan, found).vector + rounded_gaussian(
                    plan.variance,
                    plan.dimension,
                    stream=Stream(SeededEntropy(b"round %d" % index)),
                )
                mean = mechanism.release(sum_of(plan, found), reservation, clipping=states[-1])
            else:
                adder = ShareAdder(plan, entropy=entropy)
                noisy = sum(adder.add(sum_of(plan, [update])) for update in found)  # type: ignore[assignment]
                mean = opened(
                    SharedMechanism(plan),
                    NoisySum(noisy, 50),
                    reservation,
                    clipping=states[-1],
                )
            # decoded by the norm that was sent; the next one follows from the noisy count
            assert np.array_equal(mean.vector, states[-1].mean(noisy))
            assert mean.clipping == states[-1].next(int(noisy[-1]))
            assert mean.clipping is not None and mean.clipping.norm > states[-1].norm
            states.append(mean.clipping)
            means.append(mean.vector)
    folder = tmp_path / "ledger"
    with Ledger.open(folder, checkpoint=None, participation_key=key) as ledger:
        state = states[0]
        for index in range(3):
            vector, following = read_release(plan, ledger.released(index) or b"", clipping=state)
            assert following is not None
            assert np.array_equal(vector, means[index]) and following == states[index + 1]
            state = following


def test_a_release_is_decoded_by_no_other_clipping_than_the_plans(
    create: Callable[..., Ledger],
) -> None:
    plan, fixed = plans.adaptive(), plans.client()
    rule, z = plan.clipping, plan.noise_multiplier
    assert isinstance(rule, Adaptive)
    wrong = [
        None,
        Adaptive(2, 50).start(noise_multiplier=z, grid_steps=plan.grid),
        rule.start(noise_multiplier=z + 1, grid_steps=plan.grid),
        rule.start(noise_multiplier=z, grid_steps=plan.grid // 2),
    ]
    reservation = reserved(create(plan))
    for state in wrong:
        with pytest.raises(PlanError, match="another clipping"):
            CentralMechanism(plan).release(sum_of(plan, []), reservation, clipping=state)
        with pytest.raises(PlanError, match="another clipping"):
            read_release(plan, bytes(32), clipping=state)
    assert not reservation.drawn
    good = rule.start(noise_multiplier=z, grid_steps=plan.grid)
    with pytest.raises(PlanError, match="another clipping"):
        CentralMechanism(fixed).release(sum_of(fixed, []), reserved(create(fixed)), clipping=good)
    CentralMechanism(plan).release(sum_of(plan, []), reservation, clipping=good)


@pytest.mark.parametrize("size", [0, 23, 25, 32])
def test_a_payload_of_another_size_is_no_mean_of_the_plan(size: int) -> None:
    with pytest.raises(PlanError, match="no mean under the plan"):
        read_release(plans.client(), bytes(size))
    assert read_release(plans.client(), bytes(24))[0].shape == (6,)
