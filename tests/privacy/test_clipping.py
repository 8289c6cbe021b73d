"""Clipping is total, exact about its bounds, and done after one application."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedcore.errors import DtypeError, LedgerError, PlanError, ShapeError
from fedcore.privacy.clipping import BLOCK, Clipping, Flat, PerLayer, measure
from fedcore.privacy.codec import from_json, to_json

DTYPES = ("<f2", "<f4", "<f8", ">f4", ">f8", np.longdouble)
TWO = st.sampled_from([Flat(1), Flat(0.1), Flat(Fraction(10**6, 7))]).map(lambda rule: (rule, 12))
LAYERS = st.lists(st.tuples(st.floats(1e-9, 1e9), st.integers(1, 9)), min_size=1, max_size=4)


def per_layer(parts: list[tuple[float, int]]) -> tuple[Clipping, int]:
    norms, sizes = zip(*parts, strict=True)
    return PerLayer(norms, sizes), sum(sizes)


RULES = TWO | LAYERS.map(per_layer)


@st.composite
def rules_and_updates(draw: Any) -> tuple[Clipping, NDArray[Any]]:
    """A rule and an update that fits it, of any float dtype and with any content."""
    rule, size = draw(RULES)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    anything = hnp.from_dtype(np.dtype(np.float64), allow_subnormal=True)
    small = st.floats(-3, 3)
    elements = draw(st.sampled_from([small, anything, small | anything]))
    values = draw(hnp.arrays(np.float64, size, elements=elements, fill=st.nothing()))
    with np.errstate(all="ignore"):
        return rule, values.astype(dtype)


def exact_square(vector: NDArray[Any]) -> Fraction:
    """The squared length without any rounding."""
    return sum((Fraction(*value.as_integer_ratio()) ** 2 for value in vector), Fraction(0))


@given(rules_and_updates())
def test_every_part_of_a_clipped_update_lies_in_its_ball(
    case: tuple[Clipping, NDArray[Any]],
) -> None:
    rule, update = case
    clipped = rule.clip(update)
    assert clipped.dtype == np.float64 and clipped.shape == update.shape
    for part, norm in rule.parts(update.size):
        assert exact_square(clipped[part]) <= norm**2 * (1 + Fraction(1, 2**47))


@given(rules_and_updates())
@example((Flat(1), np.array([1e300, -1e300])))
@example((Flat(1), np.array([5e-324, 0.0])))
def test_to_clip_twice_is_to_clip_once(case: tuple[Clipping, NDArray[Any]]) -> None:
    rule, update = case
    once = rule.clip(update)
    assert rule.clip(once).tobytes() == once.tobytes()


@given(st.integers(0, 2**32), st.integers(1, 3 * BLOCK), st.floats(-60, 60))
def test_to_clip_long_vectors_twice_is_to_clip_once(seed: int, size: int, power: float) -> None:
    update = np.random.default_rng(seed).standard_normal(size) * 2.0**power
    once = Flat(0.3).clip(update)
    assert Flat(0.3).clip(once).tobytes() == once.tobytes()


@given(rules_and_updates())
def test_an_update_is_changed_only_where_it_is_too_long(
    case: tuple[Clipping, NDArray[Any]],
) -> None:
    rule, update = case
    clipped = rule.clip(update)
    if not np.isfinite(update).all():
        assert not clipped.any()
        return
    for part, norm in rule.parts(update.size):
        square = exact_square(update[part])
        if square <= norm**2 * (1 - Fraction(1, 2**46)):
            assert (clipped[part] == update[part].astype(np.float64)).all()
        elif square >= norm**2 * (1 + Fraction(1, 2**46)):
            length = float(np.linalg.norm(clipped[part]))
            assert math.isclose(length, float(norm), rel_tol=1e-12)
            assert (np.abs(clipped[part]) <= np.abs(update[part])).all()


@given(rules_and_updates())
def test_a_length_is_measured_whatever_its_size(case: tuple[Clipping, NDArray[Any]]) -> None:
    _, update = case
    found = measure(update)
    if not np.isfinite(update).all():
        assert found is None
        return
    assert found is not None
    square = exact_square(update)
    assert abs(Fraction(found.square) * Fraction(4) ** found.exponent - square) <= max(
        square / 2**46, Fraction(1, 2**1000)
    )


@given(st.integers(0, 2**32), st.integers(1, 3 * BLOCK))
def test_a_length_has_the_same_bits_in_every_layout(seed: int, size: int) -> None:
    values = np.random.default_rng(seed).standard_normal(size)
    wide = np.zeros((size, 3))
    wide[:, 1] = values
    for same in (
        wide[:, 1],
        values[::-1].copy()[::-1],
        values.astype(">f8"),
        np.asfortranarray(values),
    ):
        assert measure(same) == measure(values)


@pytest.mark.parametrize("value", ["1e4000", "-1e4930"])
def test_numbers_beyond_float64_are_clipped_if_their_dtype_holds_them(value: str) -> None:
    if np.finfo(np.longdouble).maxexp < 16_384:
        pytest.skip("long doubles are no longer than doubles here")
    update = np.array([np.longdouble(value), 0])
    assert np.allclose(Flat(2.5).clip(update), [math.copysign(2.5, float(value)), 0])


@given(LAYERS)
def test_the_joint_norm_is_the_root_of_the_sum_of_squares_rounded_up(
    parts: list[tuple[float, int]],
) -> None:
    rule, _ = per_layer(parts)
    assert isinstance(rule, PerLayer)
    square = sum((norm**2 for norm in rule.norms), Fraction(0))
    assert square <= rule.norm**2 < square * (1 + Fraction(1, 2**60))


def test_a_joint_norm_that_is_a_fraction_is_exact() -> None:
    assert PerLayer((3, 4), (1, 1)).norm == 5
    assert PerLayer((Fraction(3, 7), Fraction(4, 7)), (1, 1)).norm == Fraction(5, 7)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_norm_of_endless_digits_is_none(sign: int) -> None:
    Flat(1 + Fraction(1, 10**398))
    for long in (1 + Fraction(sign, 10**401), 1 + Fraction(sign, 10**9000), sign * 10**9000):
        with pytest.raises(PlanError) as refused:
            Flat(long)
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("scale", [Fraction(1, 3), Fraction(1), Fraction(3)], ids=str)
def test_the_joint_norm_of_many_long_norms_is_found_at_once_and_rounded_up(scale: Fraction) -> None:
    """One common denominator of these would have half a million digits."""
    norms = [scale * (1 + Fraction(1, 10**398 + 2 * place)) for place in range(1300)]
    found = PerLayer(norms, [1] * 1300).norm
    assert found**2 > 1300 * scale**2 and found.denominator < 2**100
    some = PerLayer(norms[:6], [1] * 6).norm
    square = sum(norm**2 for norm in norms[:6])
    assert square <= some**2 < square * (1 + Fraction(1, 2**60))


@given(RULES)
def test_a_rule_survives_its_json_and_equals_itself(case: tuple[Clipping, int]) -> None:
    rule, _ = case
    again = from_json(to_json(rule), Flat | PerLayer)
    assert again == rule and hash(again) == hash(rule) and again.norm == rule.norm


def test_norms_are_read_exactly() -> None:
    assert Flat(0.1).norm == Fraction(0.1) != Fraction(1, 10)
    assert Flat(0.5) == Flat(Fraction(1, 2)) != Flat(0.25)


@pytest.mark.parametrize(
    "norm", [0, -1, math.nan, math.inf, 2.0**-101, Fraction(2**100 + 1), True, "1", None]
)
def test_what_bounds_nothing_is_refused(norm: Any) -> None:
    with pytest.raises(PlanError):
        Flat(norm)
    with pytest.raises(PlanError):
        PerLayer((1, norm), (1, 1))


@pytest.mark.parametrize(
    ("norms", "sizes"), [((), ()), ((1,), (1, 2)), ((1,), (0,)), ((1,), (1.0,)), ((1,), (True,))]
)
def test_parts_without_one_norm_and_size_each_are_refused(norms: Any, sizes: Any) -> None:
    with pytest.raises(PlanError):
        PerLayer(norms, sizes)


def test_a_stored_rule_with_an_impossible_norm_is_refused() -> None:
    with pytest.raises(LedgerError):
        from_json({"kind": "Flat", "norm": "-1/2"}, Flat | PerLayer)


def test_an_update_of_another_length_than_its_layers_is_refused() -> None:
    with pytest.raises(ShapeError):
        PerLayer((1, 1), (2, 3)).clip(np.zeros(6))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex128, object, "S3"])
def test_what_is_no_float_is_refused(dtype: Any) -> None:
    with pytest.raises(DtypeError) as refused:
        Flat(1).clip(np.zeros(3, dtype))
    assert refused.value.what.endswith(f" {np.dtype(dtype)}")


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_what_is_no_vector_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        Flat(1).clip(np.zeros(shape))


def test_a_rule_says_what_it_does() -> None:
    assert "2.5" in Flat(2.5).describe()
    assert "3, 4" in PerLayer((3, 4), (1, 1)).describe()
