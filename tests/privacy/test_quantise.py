"""Whatever an update holds, its integers have the declared norm: replayed in Python's integers."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import math
import os
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedcore.errors import DtypeError, PlanError, ShapeError
from fedcore.privacy.clipping import BLOCK, Clipping, Flat, Measure, PerLayer
from fedcore.privacy.quantise import MOST_GRID_STEPS, decode, quantise, quantise_rows
from fedcore.privacy.values import IntSum

module = importlib.import_module("fedcore.privacy.quantise")  # the package has it as a function
SIZE = 9
DTYPES = ("<f2", "<f4", "<f8", ">f4", ">f8", np.longdouble)
NORMS = st.sampled_from([1, 0.1, Fraction(10**6, 7), 2.0**-100, 2.0**99]) | st.floats(1e-9, 1e9)
FLAT = NORMS.map(Flat)
LAYERS = st.tuples(NORMS, NORMS, NORMS).map(lambda norms: PerLayer(norms, (4, 1, 4)))
RULES: st.SearchStrategy[Clipping] = FLAT | LAYERS
GRIDS = st.sampled_from([1, 2, 1000, 2**20, 2**24, 2**26, 2**26 + 1, 2**31, MOST_GRID_STEPS])
WEIGHTS = st.just(Fraction(1)) | st.fractions(0, 1, max_denominator=100)


@st.composite
def updates(draw: Any, size: int = SIZE) -> NDArray[Any]:
    """A vector of any float dtype with any content."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    anything = hnp.from_dtype(np.dtype(np.float64), allow_subnormal=True)
    small = st.floats(-3, 3) | st.sampled_from([0.0, 1.0, -1.0, 0.1, 1e300, -1e-300, 5e-324])
    elements = draw(st.sampled_from([small, anything, small | anything]))
    values = draw(hnp.arrays(np.float64, size, elements=elements, fill=st.nothing()))
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def square_of(vector: NDArray[np.int64]) -> int:
    """The squared norm in Python's integers."""
    return sum(value * value for value in vector.tolist())


def exact(value: Any) -> Fraction:
    return Fraction(*value.as_integer_ratio())


def root(value: Fraction) -> Fraction:
    """The square root to a relative 2^-80 or so."""
    shift = 400
    return Fraction(math.isqrt(math.floor(value * 4**shift)), 2**shift)


@given(updates(), RULES, GRIDS, WEIGHTS)
@example(np.array([1e300, -1e300] + [0.0] * 7), Flat(1), 2**24, Fraction(1))
@example(np.array([np.nan] + [1.0] * 8), Flat(1), 2**24, Fraction(1))
@example(np.array([5e-324] * 9), Flat(2.0**-100), 2**40, Fraction(1))
def test_the_integers_of_any_floats_have_at_most_the_declared_norm(
    update: NDArray[Any], rule: Clipping, grid: int, weight: Fraction
) -> None:
    vector = quantise(update, clipping=rule, grid_steps=grid, weight=weight).vector
    assert vector.dtype == np.int64 and vector.shape == update.shape
    assert square_of(vector) <= math.floor((grid * weight) ** 2)
    for part, norm in rule.parts(update.size):
        assert square_of(vector[part]) <= (grid * weight * norm / rule.norm) ** 2


@given(updates(), RULES, GRIDS, WEIGHTS)
def test_the_integers_are_the_clipped_coordinates_cut_toward_zero(
    update: NDArray[Any], rule: Clipping, grid: int, weight: Fraction
) -> None:
    vector = quantise(update, clipping=rule, grid_steps=grid, weight=weight).vector
    if not np.isfinite(update).all():
        assert not vector.any()
        return
    for part, norm in rule.parts(update.size):
        values = [exact(value) for value in update[part]]
        length = root(sum((value**2 for value in values), Fraction(0)))
        scale = grid * weight / rule.norm * (min(Fraction(1), norm / length) if length else 1)
        for value, found in zip(values, vector[part].tolist(), strict=True):
            wanted = value * scale
            # Where several roundings met, one pass of shrinking by 2^-44 may have followed.
            slack = abs(wanted) / 2**43
            assert abs(found) <= abs(wanted) * (1 + Fraction(1, 2**50))
            assert abs(found) > abs(wanted) - 1 - slack
            assert found * value >= 0


@given(updates(), RULES, GRIDS)
def test_cutting_never_raises_the_magnitude_of_a_coordinate(
    update: NDArray[Any], rule: Clipping, grid: int
) -> None:
    vector = quantise(update, clipping=rule, grid_steps=grid).vector
    for value, found in zip(update, vector.tolist(), strict=True):
        if found:
            assert abs(found) * rule.norm <= abs(exact(value)) * grid * (1 + Fraction(1, 2**51))


@given(st.lists(updates(), max_size=5), updates(), updates(), RULES, GRIDS)
def test_neighbours_differ_by_one_bound_or_by_two_if_one_is_replaced(
    others: list[NDArray[Any]], one: NDArray[Any], other: NDArray[Any], rule: Clipping, grid: int
) -> None:
    def total(these: list[NDArray[Any]]) -> NDArray[np.int64]:
        found = (quantise(update, clipping=rule, grid_steps=grid) for update in these)
        return IntSum.of(found, dimension=SIZE, grid_steps=grid).vector

    without = total(others)
    assert square_of(total([*others, one]) - without) <= grid**2
    assert square_of(total([*others, one]) - total([*others, other])) <= 4 * grid**2
    zeros = np.zeros(SIZE)
    assert (total([*others, zeros]) == without).all()


@given(st.lists(updates(), min_size=2, max_size=4), RULES)
def test_a_sum_is_the_same_in_every_order(these: list[NDArray[Any]], rule: Clipping) -> None:
    found = [quantise(update, clipping=rule, grid_steps=2**24) for update in these]
    sums = {
        IntSum.of(order, dimension=SIZE, grid_steps=2**24).vector.tobytes()
        for order in itertools.permutations(found)
    }
    assert len(sums) == 1


@given(updates(), FLAT, GRIDS)
def test_one_layer_is_the_whole_update(update: NDArray[Any], rule: Flat, grid: int) -> None:
    layered = quantise(update, clipping=PerLayer((rule.norm,), (SIZE,)), grid_steps=grid)
    flat = quantise(update, clipping_norm=rule.norm, grid_steps=grid)
    assert flat.vector.tobytes() == layered.vector.tobytes()


@given(st.integers(0, 2**32), st.floats(-40, 40))
def test_a_long_update_loses_next_to_nothing_of_its_bound(seed: int, power: float) -> None:
    update = np.random.default_rng(seed).standard_normal(1000) * 2.0**power
    vector = quantise(update, clipping_norm=2.0**-50, grid_steps=2**24).vector
    assert 2**24 - 33 <= math.sqrt(square_of(vector)) <= 2**24


def test_an_update_that_floats_measure_as_short_enough_is_shrunk_in_integers() -> None:
    # 2^60 + 1 is no float64: the length is measured as the norm, the integers show one too much.
    update = np.array([2.0**30, 1.0])
    vector = quantise(update, clipping_norm=2.0**30, grid_steps=2**30).vector
    assert vector.tolist() == [2**30 - 1, 0]


@given(updates(), RULES, GRIDS, st.floats(1e-6, 0.999))
def test_the_bound_rests_on_the_integers_and_not_on_the_measured_length(
    update: NDArray[Any], rule: Clipping, grid: int, lie: float
) -> None:
    honest = module.measure

    def shorter(vector: NDArray[Any]) -> Measure | None:
        found = honest(vector)
        return found and Measure(found.square * (1 - lie), found.exponent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure", shorter)
        vector = quantise(update, clipping=rule, grid_steps=grid).vector
    assert square_of(vector) <= grid**2


@given(st.integers(1, 4), RULES, GRIDS, st.integers(0, 2**32))
def test_the_bound_of_rows_rests_on_the_integers_too(
    count: int, rule: Clipping, grid: int, seed: int
) -> None:
    row = np.random.default_rng(seed).standard_normal(SIZE)
    for part, norm in rule.parts(SIZE):
        row[part] *= 1.5 * float(norm) / np.linalg.norm(row[part])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_round_down", lambda square: 4 * float(square))
        total = quantise_rows(np.tile(row, (count, 1)), clipping=rule, grid_steps=grid)
    assert square_of(total) <= (count * grid) ** 2
    exactly = np.array([[2.0**30, 1.0]])
    found = quantise_rows(exactly, clipping_norm=2.0**30, grid_steps=2**30)
    assert found.tolist() == [2**30 - 1, 0]


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_the_bits_depend_on_neither_layout_nor_threads(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    wanted = quantise(values, clipping_norm=1, grid_steps=2**24).vector.tobytes()
    wide = np.zeros((size, 2))
    wide[:, 1] = values
    for same in (wide[:, 1], values[::-1].copy()[::-1], values.astype(">f8")):
        assert quantise(same, clipping_norm=1, grid_steps=2**24).vector.tobytes() == wanted
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(quantise, values, clipping_norm=1, grid_steps=2**24) for _ in range(16)]
        assert {job.result().vector.tobytes() for job in jobs} == {wanted}


def test_the_bits_do_not_depend_on_the_threads_of_the_blas() -> None:
    script = (
        "import hashlib, numpy as np; from fedcore.privacy.quantise import quantise\n"
        "values = np.random.default_rng(3).standard_normal(200_003)\n"
        "found = quantise(values, clipping_norm=0.1, grid_steps=2**24).vector\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())"
    )
    values = np.random.default_rng(3).standard_normal(200_003)
    here = quantise(values, clipping_norm=0.1, grid_steps=2**24).vector
    digests = {hashlib.sha256(here.tobytes()).hexdigest()}
    for threads in {"1", "2"} - {os.environ.get("OPENBLAS_NUM_THREADS")}:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        digests.add(done.stdout.decode().strip())
    assert len(digests) == 1


@given(st.data(), st.integers(0, 6), RULES, GRIDS)
def test_rows_are_quantised_each_by_itself(
    data: st.DataObject, count: int, rule: Clipping, grid: int
) -> None:
    rows = data.draw(updates(count * SIZE)).reshape(count, SIZE)
    found = quantise_rows(rows, clipping=rule, grid_steps=grid)
    wanted = np.zeros(SIZE, np.int64)
    for row in rows:
        wanted += quantise(row, clipping=rule, grid_steps=grid).vector
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dimension", [1, 2, 7, 130, 3000, BLOCK // 2, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_of_rows_does_not_depend_on_how_they_are_batched(dimension: int, dtype: Any) -> None:
    count = min(50, 4 + 2 * BLOCK // dimension)
    source = np.random.default_rng(dimension)
    rows = source.standard_normal((count, dimension)).astype(dtype)
    rows *= (10.0 ** source.uniform(-3, 3, (count, 1))).astype(dtype)
    rows[1], rows[2, 0], rows[3] = 0, np.nan, np.finfo(dtype).max
    wanted = np.zeros(dimension, np.int64)
    for row in rows:
        wanted += quantise(row, clipping_norm=1, grid_steps=2**24).vector
    for batch in (1, 3, count):
        found = np.zeros(dimension, np.int64)
        for start in range(0, count, batch):
            found += quantise_rows(rows[start : start + batch], clipping_norm=1, grid_steps=2**24)
        assert found.tobytes() == wanted.tobytes()
    turned = np.asfortranarray(rows)
    assert (quantise_rows(turned, clipping_norm=1, grid_steps=2**24) == wanted).all()


def test_rows_are_faster_together_than_in_a_loop() -> None:
    rows = np.random.default_rng(1).standard_normal((1000, 50)).astype(np.float32)
    begin = time.thread_time()
    for row in rows:
        quantise(row, clipping_norm=1, grid_steps=2**24)
    middle = time.thread_time()
    quantise_rows(rows, clipping_norm=1, grid_steps=2**24)
    assert time.thread_time() - middle < (middle - begin) / 5


def test_rows_take_no_more_memory_than_a_block_beside_their_sum() -> None:
    rows = np.ones((2000, 500), np.float32)
    quantise_rows(rows[:2], clipping_norm=1, grid_steps=2**24)
    tracemalloc.start()
    try:
        quantise_rows(rows, clipping_norm=1, grid_steps=2**24)
        assert tracemalloc.get_traced_memory()[1] < 4 * 8 * BLOCK < rows.nbytes
    finally:
        tracemalloc.stop()


@given(
    hnp.arrays(np.int64, 5, elements=st.integers(-(2**50), 2**50)),
    NORMS,
    GRIDS,
    st.integers(1, 10**6),
)
def test_a_decoded_mean_is_the_fraction_rounded(
    total: NDArray[np.int64], norm: Any, grid: int, denominator: int
) -> None:
    found = decode(total, clipping_norm=norm, grid_steps=grid, denominator=denominator)
    assert found.dtype == np.float32
    for value, mean in zip(total.tolist(), found, strict=True):
        wanted = value * Fraction(norm) / (grid * denominator)
        if np.isfinite(mean):
            error = abs(exact(mean) - wanted)
            assert error <= abs(wanted) * Fraction(1001, 1000) / 2**24 + Fraction(1, 2**150)
        else:
            assert abs(wanted) > Fraction(float(np.finfo(np.float32).max))


def test_what_was_quantised_is_decoded_up_to_a_grid_step() -> None:
    update = np.random.default_rng(2).standard_normal(10_000)
    update /= np.linalg.norm(update)
    vector = quantise(update, clipping_norm=2, grid_steps=2**24).vector
    found = decode(vector, clipping_norm=2, grid_steps=2**24, denominator=1)
    assert np.abs(found - update).max() <= 2.0**-23 + 2.0**-26


def test_an_update_without_coordinates_is_one() -> None:
    assert quantise(np.zeros(0), clipping_norm=1, grid_steps=8).vector.shape == (0,)
    assert quantise_rows(np.zeros((3, 0)), clipping_norm=1, grid_steps=8).shape == (0,)
    assert not quantise_rows(np.zeros((0, 3)), clipping_norm=1, grid_steps=8).any()


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64, object, "S3"])
def test_what_is_no_float_is_refused(dtype: Any) -> None:
    with pytest.raises(DtypeError):
        quantise(np.zeros(3, dtype), clipping_norm=1, grid_steps=8)
    with pytest.raises(DtypeError):
        quantise_rows(np.zeros((3, 3), dtype), clipping_norm=1, grid_steps=8)


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
def test_what_has_other_axes_is_refused(axes: int) -> None:
    array = np.zeros((2,) * axes)
    if axes != 1:
        with pytest.raises(ShapeError):
            quantise(array, clipping_norm=1, grid_steps=8)
    if axes != 2:
        with pytest.raises(ShapeError):
            quantise_rows(array, clipping_norm=1, grid_steps=8)


def test_an_update_of_another_length_than_its_layers_is_refused() -> None:
    with pytest.raises(ShapeError):
        quantise(np.zeros(4), clipping=PerLayer((1, 1), (2, 3)), grid_steps=8)


@pytest.mark.parametrize(
    "terms",
    [
        {"clipping_norm": 1, "grid_steps": 0},
        {"clipping_norm": 1, "grid_steps": MOST_GRID_STEPS + 1},
        {"clipping_norm": 1, "grid_steps": 8.0},
        {"clipping_norm": 1, "grid_steps": True},
        {"clipping_norm": 0, "grid_steps": 8},
        {"clipping_norm": 1, "grid_steps": 8, "weight": 2},
        {"clipping_norm": 1, "grid_steps": 8, "weight": Fraction(-1, 2)},
        {"clipping_norm": 1, "grid_steps": 8, "weight": 0.5},
        {"clipping_norm": 1, "clipping": Flat(1), "grid_steps": 8},
        {"grid_steps": 8},
    ],
)
def test_terms_that_no_plan_has_are_refused(terms: Any) -> None:
    with pytest.raises(PlanError):
        quantise(np.zeros(3), **terms)


@pytest.mark.parametrize("denominator", [0, -1, 1.5, True])
def test_a_denominator_that_is_no_public_count_is_refused(denominator: Any) -> None:
    with pytest.raises(PlanError):
        decode(np.zeros(3, np.int64), clipping_norm=1, grid_steps=8, denominator=denominator)
