"""A lane's bits do not depend on how many lanes there are: simulations repeat in any chunk size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.tensor import blas
from fedcore.tensor.ops import (
    activations,
    attention,
    conv,
    gru,
    index,
    linalg,
    losses,
    lstm,
    norms,
    pool,
    recurrent,
    softmax,
)
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
LANES = 21
Shapes = tuple[tuple[int, ...], ...]
LABELS = np.arange(20) % 5

CASES: dict[str, tuple[Callable[..., Any], Shapes]] = {
    "matmul": (lambda x, w: x @ w, ((20, 33), (33, 17))),
    "matmul, large": (lambda x, w: x @ w, ((64, 128), (128, 96))),
    "matmul, one row": (lambda x, w: x @ w, ((1, 64), (64, 33))),
    "matmul, vectors": (lambda x, w: x @ w, ((100,), (100,))),
    "matmul, batched": (lambda x, w: x @ w, ((5, 3, 31), (31, 9))),
    "contract": (lambda x, w: fc.contract("bij,jk->bik", x, w), ((4, 9, 8), (8, 15))),
    "dense": (lambda x, w, b: activations.relu(x @ w + b), ((20, 33), (33, 17), (17,))),
    "conv2d": (
        lambda x, w: conv.conv2d(x, w, padding="same"),
        ((3, 9, 8, 4), (3, 3, 4, 6)),
    ),
    "conv2d, strided": (
        lambda x, w: conv.conv2d(x, w, stride=2, padding=1, groups=2),
        ((3, 9, 8, 4), (3, 3, 2, 6)),
    ),
    "conv2d, one channel": (
        lambda x, w: conv.conv2d(x, w),
        ((4, 28, 28, 1), (5, 5, 1, 8)),
    ),
    "conv2d, one image": (
        lambda x, w: conv.conv2d(x, w, padding="same"),
        ((1, 5, 5, 16), (3, 3, 16, 32)),
    ),
    "conv2d, one image, stride": (
        lambda x, w: conv.conv2d(x, w, stride=2),
        ((1, 9, 9, 4), (3, 3, 4, 32)),
    ),
    "conv2d, one thin image": (
        lambda x, w: conv.conv2d(x, w, padding="same"),
        ((1, 12, 12, 1), (3, 3, 1, 8)),
    ),
    "conv_transpose2d": (
        lambda x, w: conv.conv_transpose2d(x, w, stride=2),
        ((3, 5, 4, 6), (3, 3, 4, 6)),
    ),
    "max_pool2d": (pool.max_pool2d, ((3, 8, 8, 5),)),
    "avg_pool2d": (lambda x: pool.avg_pool2d(x, 3, stride=1), ((3, 8, 8, 5),)),
    "bias_relu_pool": (pool.bias_relu_pool, ((3, 8, 8, 5), (5,))),
    "global_avg_pool": (pool.global_avg_pool, ((3, 8, 8, 5),)),
    "softmax": (softmax.softmax, ((20, 10),)),
    "softmax, wide": (softmax.softmax, ((9, 200),)),
    "log_softmax": (softmax.log_softmax, ((20, 62),)),
    "cross_entropy": (lambda x: losses.cross_entropy(x, LABELS), ((20, 5),)),
    "layer_norm": (norms.layer_norm, ((20, 33), (33,), (33,))),
    "group_norm": (lambda x: norms.group_norm(x, groups=2), ((3, 5, 5, 4),)),
    "batch_norm": (lambda x: norms.batch_norm_training(x)[0], ((20, 33),)),
    "attention": (
        lambda q, k, v: attention.scaled_dot_product_attention(q, k, v, causal=True),
        ((2, 9, 8), (2, 9, 8), (2, 9, 4)),
    ),
    "rnn": (lambda x, w: recurrent.rnn(x, w)[0], ((6, 4, 9), (9, 9))),
    "lstm": (lambda x, w: lstm.lstm(x, w)[0], ((6, 4, 36), (9, 36))),
    "lstm, one row": (lambda x, w: lstm.lstm(x, w)[0], ((6, 1, 36), (9, 36))),
    "gru": (lambda x, w, b: gru.gru(x, w, b)[0], ((6, 4, 27), (9, 27), (27,))),
    "embedding": (lambda w: index.embedding(w, LABELS), ((5, 8),)),
    "sum": (lambda x: x.sum(0), ((33, 20),)),
    "logsumexp": (lambda x: fc.logsumexp(x, axis=0), ((33, 20),)),
}


# Single rows and images that share a weight are multiplied in blocks. A lane alone cannot be told
# from one that has a weight of its own, and is multiplied as that one.
SINGLE = {
    "matmul, one row",
    "lstm, one row",
    "conv2d, one image",
    "conv2d, one image, stride",
    "conv2d, one thin image",
}


def assert_same(part: Array, whole: Array, exactly: bool) -> None:
    if exactly:
        np.testing.assert_array_equal(part.view(np.uint32), whole.view(np.uint32))
    else:
        np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-5)  # of sums of 100 products


@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
@pytest.mark.parametrize("name", CASES)
def test_a_lane_has_the_same_bits_among_any_number_of_lanes(name: str, shared: bool) -> None:
    function, shapes = CASES[name]
    rng = np.random.default_rng(0)
    axes = [0 if i == 0 or not shared else None for i in range(len(shapes))]
    operands = [
        rng.standard_normal((LANES, *shape) if axis == 0 else shape).astype(np.float32)
        for shape, axis in zip(shapes, axes, strict=True)
    ]

    def run(*xs: Tensor) -> list[Tensor]:
        y, back = fc.vjp(function, *xs)
        weights = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        return [y, *back(tensor(weights))]

    def among(lanes: slice) -> list[Array]:
        chosen = [x[lanes] if axis == 0 else x for x, axis in zip(operands, axes, strict=True)]
        return [y.numpy() for y in fc.vmap(run, tuple(axes))(*[tensor(x) for x in chosen])]

    everything = among(slice(None))
    for lanes in (slice(1), slice(2), slice(3, 20), slice(None, None, -1)):
        exactly = not shared or name not in SINGLE or lanes != slice(1)
        for part, whole in zip(among(lanes), everything, strict=True):
            assert_same(part, whole[lanes], exactly)


@pytest.mark.parametrize("sizes", [(784, 128), (62, 200), (130, 40), (9, 3)], ids=str)
def test_a_row_has_the_same_bits_among_any_number_of_rows_of_one_weight(
    sizes: tuple[int, int],
) -> None:
    """Sums are cut by the size of a product, which must not be the number of lanes."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((40, 1, sizes[0])).astype(np.float32)
    weights = [rng.standard_normal(sizes).astype(np.float32)]
    weights.append(np.asarray(weights[0], order="F"))
    for w in map(tensor, weights):
        product = fc.vmap(linalg.matmul, (0, None))
        whole = product(tensor(rows), w).numpy()
        for count in range(2, 41):
            part = product(tensor(rows[40 - count :]), w).numpy()
            np.testing.assert_array_equal(part, whole[40 - count :])


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Haswell", "Sandybridge", "Nehalem", "Prescott"])
def test_lanes_have_bits_of_their_own_with_the_kernels_of_older_processors(processor: str) -> None:
    """OpenBLAS picks kernels as it is loaded, so another process runs the tests of this file."""
    if blas.kernels() is None:
        pytest.skip("NumPy brings no OpenBLAS here")
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            __file__,
        ],
        env={**os.environ, "OPENBLAS_CORETYPE": processor, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-2000:]
