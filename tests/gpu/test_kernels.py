"""Our CUDA kernels, run on the host, do what the primitives of NumPy do: for any geometry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import DtypeError
from fedcore.tensor.cuda import kernel as launching, rows, special
from fedcore.tensor.cuda.kernel import in_words
from fedcore.tensor.cuda.windows import Windows, fold, gather_maxima, route_to_maxima, unfold
from fedcore.tensor.ops.gather import scatter_sum
from fedcore.tensor.ops.patches import add_patches, patches_of
from fedcore.tensor.ops.pool_primitives import max_pool, max_pool_gather, max_pool_gradient
from tests.gpu.host_kernels import MISSING_COMPILER
from tests.gpu.stand_in import make_cupy

pytestmark = pytest.mark.skipif(bool(MISSING_COMPILER), reason=MISSING_COMPILER)

CUPY: Any = make_cupy()
Array = np.ndarray[Any, Any]
sizes = st.integers(1, 4)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
FLOATS = st.sampled_from([np.float32, np.float64])


@st.composite
def geometries(draw: st.DrawFn, *, plain: bool = False) -> tuple[Array, Windows]:
    """Images (2, N, H, W, C) with many equal values, and windows that fit them."""
    window, stride = draw(pairs), draw(pairs)
    dilation = (1, 1) if plain else draw(pairs)
    border = (0, 0) if plain else draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    places = draw(pairs)
    more = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    size = []
    for p, k, s, d, b, m in zip(places, window, stride, dilation, border, more, strict=True):
        least = max(1, (p - 1) * s + d * (k - 1) + 1 - 2 * b)
        size.append(least + m)
    places = (
        *(
            (n + 2 * b - d * (k - 1) - 1) // s + 1
            for n, k, s, d, b in zip(size, window, stride, dilation, border, strict=True)
        ),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    shape = (2, draw(sizes), *size, draw(sizes))
    images = rng.integers(-3, 3, shape).astype(draw(FLOATS))
    return images, Windows((size[0], size[1]), places, window, stride, border, dilation)


@contextmanager
def launched(threads: int, wide: bool) -> Iterator[None]:
    """Small blocks and few of them, so that threads take several elements; 64-bit places."""
    limits = {"THREADS": threads, "MAX_BLOCKS": 3, "NARROW": 0 if wide else 1 << 30}
    with mock.patch.multiple(launching, **limits):
        yield


launches = st.builds(launched, st.sampled_from([1, 5, 256]), st.booleans())


def host(array: Any) -> Array:
    return np.asarray(array.get())


def noise(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def options(windows: Windows) -> dict[str, Any]:
    return {"window": windows.window, "stride": windows.stride, "dilation": windows.dilation}


def test_rows_of_whole_words_are_moved_by_words() -> None:
    whole, odd = CUPY.ones((3, 4), np.float32), CUPY.ones((3, 3), np.float32)
    taken = in_words(whole, whole)
    assert taken is not None and [x.shape for x in taken] == [(3, 1), (3, 1)]
    assert in_words(odd) is None
    assert in_words(CUPY.ones(9, np.float32)[1:5]) is None, "not at a multiple of sixteen bytes"


@given(geometries(), launches)
def test_unfolding_gives_the_patches_of_padded_images(one: Any, launch: Any) -> None:
    images, windows = one
    (top, left), none = windows.corner, (0, 0)
    padded = np.pad(images, (none, none, (top, top), (left, left), none))
    expected = patches_of.kernel(np, padded, **options(windows))
    with launch:
        found = host(unfold(CUPY, CUPY.asarray(images), windows))
    assert found.dtype == images.dtype
    assert np.array_equal(found.reshape(expected.shape), expected)


@given(geometries(), launches)
def test_folding_adds_the_patches_up_to_the_bits_of_numpy(one: Any, launch: Any) -> None:
    images, windows = one
    shape = (*images.shape[:2], *windows.places, *windows.window, images.shape[-1])
    parts = noise(shape, images.dtype)
    (h, w), (top, left) = windows.size, windows.corner
    padded = add_patches.kernel(
        np,
        parts.reshape(*shape[:4], -1),
        size=(h + 2 * top, w + 2 * left),
        **options(windows),
    )
    with launch:
        found = host(fold(CUPY, CUPY.asarray(parts), windows))
    assert np.array_equal(found, padded[..., top : top + h, left : left + w, :])


@given(geometries(plain=True), launches)
def test_maxima_are_those_of_numpy_and_the_first_of_equal_ones_wins(one: Any, launch: Any) -> None:
    images, windows = one
    steps = {"window": windows.window, "stride": windows.stride}
    values = noise(images.shape, images.dtype)
    g = noise((*images.shape[:2], *windows.places, images.shape[-1]), images.dtype)
    x = CUPY.asarray(images)
    with launch:
        top = host(gather_maxima(CUPY, x, x, windows))
        gathered = host(gather_maxima(CUPY, CUPY.asarray(values), x, windows))
        routed = host(route_to_maxima(CUPY, CUPY.asarray(g), x, windows))
    assert np.array_equal(top, max_pool.kernel(np, images, **steps))
    assert np.array_equal(gathered, max_pool_gather.kernel(np, values, images, **steps))
    expected = max_pool_gradient.kernel(np, g, images, **steps)
    # A pixel in several windows sums in another order than NumPy, which takes rows and columns.
    np.testing.assert_allclose(routed, expected, rtol=1e-5, atol=1e-5)


def test_no_images_have_no_windows() -> None:
    windows = Windows((3, 4), (2, 3), (2, 2), (1, 1))
    x, g, parts = (CUPY.ones(shape) for shape in ((0, 3, 4, 2), (0, 2, 3, 2), (0, 2, 3, 2, 2, 2)))
    assert unfold(CUPY, x, windows).shape == parts.shape
    assert fold(CUPY, parts, windows).shape == x.shape
    assert gather_maxima(CUPY, x, x, windows).shape == g.shape
    assert route_to_maxima(CUPY, g, x, windows).shape == x.shape


def test_places_are_64_bits_wide_if_any_array_needs_it() -> None:
    found = []

    class Compiler:
        """It notes what it is asked to compile, and with which arguments that is called."""

        def RawKernel(self, code: str, name: str) -> Any:
            return lambda grid, block, args: found.append((code, type(args[0]), grid))

    kernel = launching.Kernel("nothing", "")
    with mock.patch.object(launching, "NARROW", 10):
        for size in (10, 11):
            kernel(Compiler(), 5, CUPY.ones(size), 3, dtype=np.dtype("float32"))
    assert [("typedef int I;" in code, kind) for code, kind, _ in found] == [
        (True, np.int32),
        (False, np.int64),
    ]
    assert "typedef long long I;" in found[1][0]


def test_a_nan_is_the_maximum_of_its_window() -> None:
    images = np.array([1.0, np.nan, 3.0, 4.0]).reshape(1, 1, 4, 1)
    windows = Windows((1, 4), (1, 2), (1, 2), (1, 2))
    x = CUPY.asarray(images)
    assert np.array_equal(host(gather_maxima(CUPY, x, x, windows)).ravel(), [np.nan, 4], True)


@settings(max_examples=100)
@given(
    st.integers(0, 9), st.integers(0, 3), st.integers(1, 5), FLOATS, st.integers(0, 99), launches
)
def test_rows_at_repeated_places_add_up_to_the_bits_of_numpy(
    count: int, width: int, length: int, dtype: Any, seed: int, launch: Any
) -> None:
    rng = np.random.default_rng(seed)
    places = rng.integers(0, length, count)
    values = rng.standard_normal((count, width)).astype(dtype)
    expected = scatter_sum.kernel(np, values, places, axis=-2, rank=1, length=length)
    added, written = CUPY.zeros((length, width), dtype), CUPY.zeros((length, width), dtype)
    with launch:
        rows.add_rows(CUPY, CUPY.asarray(places), CUPY.asarray(values), added)
        rows.put_rows(CUPY, CUPY.asarray(places), CUPY.asarray(values), written)
    assert np.array_equal(host(added), expected)
    last = np.zeros((length, width), dtype)
    for place, value in zip(places, values, strict=True):
        last[place] = value
    assert np.array_equal(host(written), last)


def test_rows_at_places_outside_are_left_out() -> None:
    places, values = CUPY.asarray([-1, 3, 1]), CUPY.ones((3, 2))
    for kernel in (rows.add_rows, rows.put_rows):
        memory = CUPY.zeros((5, 2))
        kernel(CUPY, places, values, memory[1:4])
        assert np.array_equal(host(memory).sum(1), [0, 0, 2, 0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_error_function_is_exact_in_both_precisions(dtype: Any) -> None:
    import math

    x = np.linspace(-4, 4, 41, dtype=dtype)
    found = host(special.erf(CUPY, CUPY.asarray(x)))
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps)


def test_a_type_that_no_kernel_takes_is_named() -> None:
    with pytest.raises(DtypeError, match="float16"):
        special.erf(CUPY, CUPY.ones(3, "float16"))
