"""Initial values and dropout are distributed as PyTorch's: the numbers themselves differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.nn import init
from fedcore.tensor.random import Key
from tests.golden.case import Array
from tests.golden.layouts import conv_weight, dense_weight

torch = pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle

DENSE, IMAGES = (150, 400), (5, 3, 40, 100)

# our initialiser, PyTorch's name for it, its options
INITIALIZERS: Mapping[str, tuple[Callable[..., Any], str, Mapping[str, Any]]] = {
    "xavier_uniform": (init.xavier_uniform, "xavier_uniform_", {}),
    "xavier_normal": (partial(init.xavier_normal, gain=0.5), "xavier_normal_", {"gain": 0.5}),
    "kaiming_uniform": (init.kaiming_uniform, "kaiming_uniform_", {"nonlinearity": "relu"}),
    "kaiming_normal": (init.kaiming_normal, "kaiming_normal_", {"nonlinearity": "relu"}),
    "lecun_normal": (init.lecun_normal, "kaiming_normal_", {"nonlinearity": "linear"}),
    "orthogonal": (partial(init.orthogonal, gain=2.0), "orthogonal_", {"gain": 2.0}),
    "truncated_normal": (
        partial(init.truncated_normal, std=0.5),
        "trunc_normal_",
        {"std": 0.5, "a": -1.0, "b": 1.0},
    ),
    "uniform": (partial(init.uniform, bound=0.3), "uniform_", {"a": -0.3, "b": 0.3}),
    "normal": (partial(init.normal, std=3.0), "normal_", {"std": 3.0}),
}


def assert_same_distribution(one: Array, other: Array) -> None:
    """The Kolmogorov-Smirnov distance, which by chance is this large once in a million times."""
    both = np.concatenate([one.ravel(), other.ravel()])
    ranks = [np.searchsorted(np.sort(x.ravel()), both, "right") / x.size for x in (one, other)]
    assert np.abs(ranks[0] - ranks[1]).max() < 2.69 * np.sqrt(1 / one.size + 1 / other.size)


def theirs(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> Any:
    """A weight in PyTorch's layout, drawn by its initialiser."""
    to_their_layout = dense_weight if len(shape) == 2 else conv_weight
    weight = to_their_layout(torch.zeros(shape)).contiguous()
    generator = torch.Generator().manual_seed(0)
    return getattr(torch.nn.init, name)(weight, generator=generator, **options)


@pytest.mark.parametrize("shape", [DENSE, IMAGES], ids=["dense", "images"])
@pytest.mark.parametrize("name", INITIALIZERS)
def test_initial_values_are_distributed_as_pytorchs(name: str, shape: tuple[int, ...]) -> None:
    ours, their_name, options = INITIALIZERS[name]
    weight = ours(shape, key=Key(0, "oracle")).numpy()
    assert_same_distribution(weight, theirs(their_name, shape, options).numpy())


@pytest.mark.parametrize("shape", [DENSE, DENSE[::-1]])
def test_the_shorter_side_of_an_orthogonal_weight_is_orthonormal_as_in_pytorch(
    shape: tuple[int, int],
) -> None:
    for weight in (
        init.orthogonal(shape, key=Key(0, "oracle")).numpy(),
        theirs("orthogonal_", shape, {}).numpy().T,
    ):
        gram = weight @ weight.T if shape[0] < shape[1] else weight.T @ weight
        # sums of 400 products of float32 numbers near 1/20
        np.testing.assert_allclose(gram, np.eye(min(shape)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_as_many_as_pytorch_and_scales_them_as_much(rate: float) -> None:
    count = 100_000
    layer = nn.Dropout(rate)
    ours = layer(fc.tensor(np.ones(count)), ctx=nn.Context(layer, training=True, key=0)).numpy()
    torch.manual_seed(0)
    expected = torch.nn.functional.dropout(torch.ones(count).double(), rate).numpy()
    np.testing.assert_allclose(np.unique(ours), np.unique(expected), rtol=1e-15)
    deviation = np.sqrt(count * rate * (1 - rate))
    for values in (ours, expected):
        assert abs(int((values == 0).sum()) - count * rate) < 5 * deviation
