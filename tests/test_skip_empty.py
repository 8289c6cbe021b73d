"""A client among others ends where it would end alone: steps of padding change nothing of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.autograd.tree import flatten
from fedcore.data import Dataset, stack_clients
from fedcore.training import skip_empty, train_step

DRAW = np.random.default_rng(2)
SIZES, BATCH = (9, 3, 5), 2


def clients() -> list[Dataset]:
    return [
        Dataset(
            DRAW.standard_normal((size, 4)).astype(np.float32),
            DRAW.standard_normal((size, 2)).astype(np.float32),
        )
        for size in SIZES
    ]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3, key=0), nn.BatchNorm(3), nn.relu, nn.Linear(3, 2, key=1))


RULES = [
    optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.1),
    optim.Adam(lr=0.05),
    optim.AdamW(lr=0.05),
    optim.Yogi(lr=0.05),
    optim.RMSprop(lr=0.01, momentum=0.5),
    optim.Adagrad(lr=0.1),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "replayed"])
def test_a_padded_client_ends_where_it_ends_alone(rule: optim.Optimizer, compiled: bool) -> None:
    parts, lanes = clients(), len(SIZES)
    keys = [fc.Key(0, "shuffle", client=i) for i in range(lanes)]
    words = np.stack([fc.Key(0, "forward", client=i).words() for i in range(lanes)])
    theta, rebuild = fc.ravel(model())
    state, _ = nn.ravel_state(model())
    step = skip_empty(train_step(rebuild, loss=nn.mse, optimizer=rule))

    together = fc.vmap(step, in_axes=(0, 0, 0, 0, 0, 0, 0, None))
    together = fc.compile(together, donate=(0, 1, 2)) if compiled else together
    batches = stack_clients(parts, BATCH, keys=keys)
    now: Any = (
        fc.stack([theta] * lanes),
        fc.stack([state] * lanes),
        tuple(fc.stack([part] * lanes) for part in rule.init(theta)),
    )
    for i in range(batches.x.shape[1]):
        rows = [np.ascontiguousarray(part[:, i]) for part in batches]
        *now, _, _ = together(*now, *rows, words, 0.05)

    for lane, (part, key) in enumerate(zip(parts, keys, strict=True)):
        own: Any = (theta, state, rule.init(theta))
        for batch in part.batches(BATCH, key=key):
            *own, _, _ = step(*own, *batch, words[lane], 0.05)
        found = [now[0], now[1], *now[2]]
        for several, alone in zip(found, [own[0], own[1], *own[2]], strict=True):
            np.testing.assert_array_equal(several.numpy()[lane], alone.numpy())


def test_a_batch_of_padding_gives_everything_back_bit_for_bit() -> None:
    theta, rebuild = fc.ravel(model())
    state, _ = nn.ravel_state(model())
    rule = optim.Adam(lr=0.1)

    def undefined(prediction: Any, target: Any, *, weight: Any) -> Any:
        return fc.where(weight.sum() > 0.0, (prediction * weight[:, None]).sum(), np.nan)

    bare = train_step(rebuild, loss=undefined, optimizer=rule)
    batch = (np.ones((2, 4), np.float32), np.ones((2, 2), np.float32))
    rest = (fc.Key(0, "forward").words(), 0.1)
    real, padding = np.ones(2, np.float32), np.zeros(2, np.float32)
    *before, _, _ = bare(theta, state, rule.init(theta), *batch, real, *rest)
    *after, value, _ = skip_empty(bare)(*before, *batch, padding, *rest)
    for new, old in zip(flatten(after)[0], flatten(before)[0], strict=True):
        np.testing.assert_array_equal(new.numpy(), old.numpy())
    assert value.item() == 0.0
    moved = bare(*before, *batch, padding, *rest)[0]
    assert not np.array_equal(moved.numpy(), before[0].numpy())


def test_a_batch_with_one_example_takes_the_step_itself() -> None:
    theta, rebuild = fc.ravel(model())
    state, _ = nn.ravel_state(model())
    rule = optim.Adam(lr=0.1)
    bare = train_step(rebuild, loss=nn.mse, optimizer=rule)
    args = (
        *(theta, state, rule.init(theta)),
        *(np.ones((2, 4), np.float32), np.ones((2, 2), np.float32)),
        *(np.array([0.0, 1.0], np.float32), fc.Key(0, "forward").words(), 0.1),
    )
    for new, same in zip(skip_empty(bare)(*args)[:2], bare(*args)[:2], strict=True):
        np.testing.assert_array_equal(new.numpy(), same.numpy())
