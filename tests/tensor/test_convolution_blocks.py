"""A convolution worked on in blocks of image rows is the one that takes all rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.tensor.ops import columns, conv_kernels
from fedcore.tensor.ops.columns import Geometry
from fedcore.tensor.primitive import primitives

OPTIONS: list[dict[str, Any]] = [
    {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1},
    {"stride": (2, 1), "padding": ((2, 0), (0, 1)), "dilation": (1, 1), "groups": 1},
    {"stride": (1, 2), "padding": ((0, 0), (2, 2)), "dilation": (2, 1), "groups": 2},
]
BYTES = [1 << 11, 1 << 13, 1 << 15]


def set_block_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in (columns, conv_kernels):
        monkeypatch.setattr(module, "BLOCK_BYTES", count)


def geometry(channels: int, options: dict[str, Any]) -> Geometry:
    moved = {k: v for k, v in options.items() if k != "groups"}
    return Geometry(batch=2, size=(17, 6), channels=channels, kernel=(3, 3), **moved)


@pytest.mark.parametrize("lanes", [(), (2,)])
@pytest.mark.parametrize("channels", [2, 8, 32])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("count", BYTES)
def test_blocks_of_rows_give_the_products_of_all_rows_at_once(
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    options: dict[str, Any],
    channels: int,
    lanes: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*lanes, 2, 17, 6, channels))
    w = rng.standard_normal((*lanes, 3, 3, channels // options["groups"], 4))
    products: list[tuple[str, tuple[Any, Any], dict[str, Any]]] = [("conv2d", (x, w), {})]
    set_block_bytes(monkeypatch, 1 << 30)
    g = rng.standard_normal(primitives["conv2d"].kernel(np, x, w, **options).shape)
    products.append(("conv2d_input_gradient", (g, w), {"size": (17, 6)}))
    products.append(("conv2d_weight_gradient", (x, g), {"kernel": (3, 3)}))
    for name, operands, own in products:
        set_block_bytes(monkeypatch, 1 << 30)
        expected = primitives[name].kernel(np, *operands, **options, **own)
        set_block_bytes(monkeypatch, count)
        found = primitives[name].kernel(np, *operands, **options, **own)
        # float64 sums of up to 2 * 17 * 6 products in another order
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def test_rows_are_cut_evenly_unless_their_columns_overlap_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged, apart = geometry(2, OPTIONS[0]), geometry(8, OPTIONS[0])
    monkeypatch.setattr(columns, "BLOCK_BYTES", 1 << 20)
    assert (merged.block_rows, apart.block_rows) == (17, 17)
    monkeypatch.setattr(columns, "BLOCK_BYTES", 8 * 4 * 2 * 6 * 3 * 3 * 2)  # 8 rows of `merged`
    assert merged.block_rows == 6
    monkeypatch.setattr(columns, "BLOCK_BYTES", (6 + 2) * 4 * 2 * 6 * 3 * 8)  # 6 rows of `apart`
    assert apart.block_rows == 6
    monkeypatch.setattr(columns, "BLOCK_BYTES", (5 + 2) * 4 * 2 * 6 * 3 * 8)  # 5 overlap by 2
    assert apart.block_rows == 17


def test_a_lane_of_large_images_has_the_bits_it_has_alone() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 20, 28, 28, 1)).astype(np.float32)
    w = rng.standard_normal((3, 3, 3, 1, 8)).astype(np.float32)

    def both(x: Any, w: Any) -> Any:
        return fc.value_and_grad(lambda w: (nn.conv2d(x, w, padding="same") ** 2).sum())(w)

    together = fc.vmap(both)(x, w)
    for lane in range(3):
        for whole, alone in zip(together, both(x[lane], w[lane]), strict=True):
            np.testing.assert_array_equal(whole.numpy()[lane], alone.numpy())
