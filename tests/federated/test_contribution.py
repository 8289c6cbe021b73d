"""What leaves a device: bounded as the plan says, noised anew each time, silent about failures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.entropy import SeededEntropy
from fedcore.errors import CancelledError, DivergenceError, PlanError, UpdateError
from fedcore.federated.clipping import decode_clipping, encode_clipping
from fedcore.federated.contribution import Contributor
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingResult
from fedcore.federated.training import LocalTraining
from fedcore.federated.update import UpdateLayout
from fedcore.privacy import (
    CompactAdder,
    Flat,
    IntUpdate,
    RecordSum,
    ShareAdder,
    quantise,
)
from fedcore.record_gradients import RecordGradients
from fedcore.secagg.packing import pack
from fedcore.tensor.random import Key
from tests.federated.private_tasks import client_privacy, record_privacy, request_of

SEED = bytes(range(32))


class Fixed:
    """A program that always gives the same update."""

    def __init__(self, delta, weight=10):
        self.result = TrainingResult(np.float32(delta), weight)

    def train(self, request):
        return self.result


def require_packed(task, values):
    """They are what the layout takes: one array a block, within its limits."""
    for block, part in zip(task.layout.blocks, values, strict=True):
        pack(block, part, 0, block.words)


def test_without_privacy_it_is_the_encoded_update(small_task, small_data):
    task = small_task(evaluation={"every": 1, "metrics": ["accuracy"]})
    request = request_of(task, small_data, evaluate=True)
    found = Contributor(task).contribute(request)
    result = LocalTraining().train(request)
    wanted = UpdateLayout.of(task).encode(result.delta, result.weight, result.statistics)
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    require_packed(task, found)


def test_under_central_noise_a_client_sends_its_clipped_update_and_nothing_else(
    task_for, small_data
):
    task = task_for(client_privacy())
    request = request_of(task, small_data)
    (found,) = Contributor(task).contribute(request)
    delta = LocalTraining().train(request).delta
    plan = task.plan
    assert np.array_equal(
        found, quantise(delta, clipping=Flat(Fraction(1, 2)), grid_steps=plan.grid).vector
    )
    IntUpdate(found, plan.contribution_norm)  # refuses what is longer
    require_packed(task, (found,))


def test_a_weighted_client_counts_by_its_examples_after_clipping(task_for, small_data):
    task = task_for(
        client_privacy(largest_weight=20),
        training={
            "program": "own",
            "loss": None,
        },
    )
    far = np.full(15, 7.0)
    (found,) = Contributor(task, programs={"own": Fixed(far)}).contribute(
        request_of(task, small_data)
    )
    length = np.linalg.norm(found.astype(float)) / task.plan.grid
    assert length == pytest.approx(0.5, rel=1e-4)  # 10 of 20 examples, of the norm


def test_a_clients_share_of_the_noise_is_added_to_its_clipped_update(task_for, small_data):
    task = task_for(client_privacy(noise="shares"))
    request = request_of(task, small_data)
    (found,) = Contributor(task, entropy=SeededEntropy(SEED)).contribute(request)
    delta = LocalTraining().train(request).delta
    update = quantise(delta, clipping=task.plan.clipping, grid_steps=task.plan.grid)
    wanted = ShareAdder(task.plan, entropy=SeededEntropy(SEED)).add(update)
    assert np.array_equal(found, wanted)
    require_packed(task, (found,))


def test_in_the_compact_mode_the_rotated_update_is_sent(task_for, small_data):
    task = task_for(client_privacy(noise="compact"))
    request = request_of(task, small_data)
    (found,) = Contributor(task, entropy=SeededEntropy(SEED)).contribute(request)
    delta = LocalTraining().train(request).delta
    wanted = CompactAdder(task.plan, entropy=SeededEntropy(SEED)).add(delta, round=1)
    assert np.array_equal(found, wanted)
    assert found.shape == (task.plan.wire_dimension,)
    require_packed(task, (found,))


def test_where_records_are_protected_the_sum_of_their_clipped_gradients_is_sent(
    task_for, small_data
):
    task = task_for(record_privacy())
    (found,) = Contributor(task).contribute(request_of(task, small_data))
    flat = FlatModel(task)
    key = Key(1, "forward", round=1, client=5)
    wanted = RecordGradients(flat.rebuild, loss=flat.loss, plan=task.plan).total(
        initial_theta(task), small_data.x, small_data.y, key=key
    )
    assert np.array_equal(found, wanted.vector)  # at a rate of 1 all records are drawn
    require_packed(task, (found,))


def test_records_are_drawn_and_noise_is_added_on_the_device(task_for, small_data):
    task = task_for(record_privacy(noise="shares", sampling_rate=0.5))
    contributor = Contributor(task)
    request = request_of(task, small_data)
    one, other = contributor.contribute(request)[0], contributor.contribute(request)[0]
    assert not np.array_equal(one, other)
    require_packed(task, (one,))


def test_record_gradients_of_one_class_are_bounded_by_their_number(task_for):
    task = task_for(record_privacy())
    far = Dataset(np.full((6, 4), 1e6, np.float32), np.zeros(6, np.int64))
    (found,) = Contributor(task).contribute(request_of(task, far))
    assert np.linalg.norm(found.astype(float)) <= 6 * task.plan.grid
    RecordSum(task.plan)  # and the plan is one of records


@pytest.mark.parametrize("noise", ["central", "shares", "compact"])
def test_noise_is_drawn_anew_at_every_call(task_for, small_data, noise):
    task = task_for(client_privacy(noise=noise))
    contributor, request = Contributor(task), request_of(task, small_data)
    one, other = contributor.contribute(request)[0], contributor.contribute(request)[0]
    assert np.array_equal(one, other) == (noise == "central")


def test_without_privacy_a_divergence_is_an_error(small_task, small_data):
    x = small_data.x.copy()
    x[0] = np.nan
    task = small_task()
    with pytest.raises(DivergenceError):
        Contributor(task).contribute(request_of(task, Dataset(x, small_data.y)))


def test_a_record_that_cannot_be_computed_is_a_zero(task_for, small_data):
    task = task_for(record_privacy())
    x = small_data.x.copy()
    x[0] = np.nan
    contributor = Contributor(task)
    (found,) = contributor.contribute(request_of(task, Dataset(x, small_data.y)))
    (rest,) = contributor.contribute(request_of(task, small_data[1:]))
    assert np.array_equal(found, rest)


def test_a_request_of_another_task_is_refused(small_task, small_data):
    one, other = small_task(), small_task(task={"name": "other", "seed": 1})
    with pytest.raises(UpdateError, match="'other'"):
        Contributor(one).contribute(request_of(other, small_data))


@pytest.mark.parametrize("privacy", [client_privacy(), record_privacy()])
def test_a_cancelled_client_contributes_nothing(task_for, small_data, privacy):
    task = task_for(privacy)
    with pytest.raises(CancelledError):
        Contributor(task).contribute(request_of(task, small_data, cancelled=lambda: True))


def test_devices_measure_for_their_owner_where_nothing_is_reported(task_for, small_data):
    evaluation = {"every": 1, "metrics": ["accuracy"], "reported": False}
    for privacy in (client_privacy(), record_privacy()):
        task, told = task_for(privacy, evaluation=evaluation), []
        request = request_of(task, small_data, evaluate=True, measured=told.append)
        assert len(Contributor(task).contribute(request)) == 1
        assert [found["evaluation_examples"] for found in told] == [10]


@pytest.fixture(scope="module")
def adaptive(task_for):
    return task_for(client_privacy(clipping="adaptive", denominator=40))


def start(plan):
    return plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)


def test_adaptive_clipping_clips_by_the_state_that_the_server_sent(adaptive, small_data):
    plan = adaptive.plan
    state = start(plan).next(-(10**7))
    request = request_of(adaptive, small_data, clipping=encode_clipping(state))
    (found,) = Contributor(adaptive).contribute(request)
    delta = LocalTraining().train(request).delta
    assert np.array_equal(found, state.quantise(delta).vector)
    assert found.shape == (16,)
    require_packed(adaptive, (found,))


def test_a_state_of_clipping_comes_back_from_its_bytes(adaptive):
    state = start(adaptive.plan)
    for count in (-(10**8), 3, 10**8):
        state = state.next(count)
        assert decode_clipping(adaptive.plan, encode_clipping(state)) == state
    assert encode_clipping(None) == b""


def test_a_state_of_another_rule_or_form_is_refused(adaptive, task_for):
    plan = adaptive.plan
    good = encode_clipping(start(plan))
    finer = encode_clipping(
        plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=2 * plan.grid)
    )
    bad = [b"", b"{}", b"[]", b"null", good + b" ", b" " + good, good[:-1], b"\xff", finer]
    bad += [good.replace(b'"kind"', b'"kine"', 1), b"[" * 5000, b"1" * 9000]
    for data in bad:
        with pytest.raises(PlanError):
            decode_clipping(plan, data)
    with pytest.raises(PlanError, match="norm of its own"):
        decode_clipping(task_for(client_privacy()).plan, good)
    assert decode_clipping(task_for(client_privacy()).plan, b"") is None
