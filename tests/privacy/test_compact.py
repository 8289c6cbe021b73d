"""Compressed updates stay in their ball, whatever they were, and sums decode as exact ones do."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from fedcore.entropy import SeededEntropy
from fedcore.errors import DtypeError, PlanError, ShapeError
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.compact import (
    SLOT_BITS,
    CompactTerms,
    _radius,
    _rounded,
    centred,
    compress,
    expand,
)
from fedcore.privacy.csprng import Stream
from fedcore.privacy.quantise import decode, quantise
from fedcore.privacy.rotation import Rotation
from fedcore.privacy.skellam import skellam
from fedcore.privacy.values import IntSum, squared_norm
from tests.variants import mostly_slow

SEED = hashlib.sha256(b"round").digest()

# z, n, D, and by what Skellam noise of a standard deviation of z clipping norms costs more at order
# 8 than Gaussian noise, at 16 and at 21 bits: known beforehand.
PUBLISHED = [
    (0.5, 1000, 2**20, "1.005", "1.000"),
    (1.0, 100, 2**20, "1.004", "1.000"),
    (1.0, 1000, 2**17, "1.005", "1.000"),
    (1.0, 1000, 2**20, "1.008", "1.000"),
    (1.0, 1000, 2**24, "1.066", "1.000"),
    (3.0, 1000, 2**24, "1.57", "1.001"),
    (1.0, 10**4, 2**20, "1.38", "1.000"),
]


def stream(seed: bytes = b"") -> Stream:
    return Stream(SeededEntropy(seed))


def terms(dimension: int, **changes: Any) -> CompactTerms:
    options: dict[str, Any] = {
        "clients": 20,
        "counted": 18,
        "noise_multiplier": Fraction(1),
        "slot_bits": 16,
    }
    return CompactTerms(dimension=dimension, **options | changes)


def updates(clients: int, dimension: int) -> np.ndarray:
    """Of lengths 0.1 to 10, some of them concentrated in a few coordinates."""
    generator = np.random.default_rng(clients * dimension)
    found = generator.normal(size=(clients, dimension)) * generator.exponential(
        1, (clients, dimension)
    )
    found[::3, dimension // 10 :] = 0
    lengths = 10.0 ** generator.uniform(-1, 1, (clients, 1))
    return found / np.linalg.norm(found, axis=1, keepdims=True) * lengths


@given(st.integers(1, 2**21), st.integers(1, 2**26))
def test_the_radius_is_the_least_integer_for_the_published_bound(steps: int, d: int) -> None:
    with mpmath.workprec(200):
        root = mpmath.sqrt(d)
        always = (steps + root) ** 2
        often = mpmath.mpf(steps) ** 2 + mpmath.mpf(d) / 4 + steps + root / 2
        bound = int(mpmath.floor(min(always, often)))  # a squared norm of integers is an integer
    radius = _radius(steps, d)
    assert (radius - 1) ** 2 < bound <= radius**2


FLOATS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(1, 40),
    elements={"allow_subnormal": True},
)


@given(FLOATS, st.sampled_from([1e-20, 1.0, 1e20]), st.sampled_from(SLOT_BITS), st.binary())
def test_whatever_the_update_its_integers_lie_within_the_radius(
    update: np.ndarray, norm: float, bits: int, seed: bytes
) -> None:
    found = terms(update.size, slot_bits=bits)
    rotation = Rotation(update.size, SEED)
    sent = compress(update, clipping=Flat(norm), terms=found, rotation=rotation, stream=stream())
    assert sent.vector.dtype == np.int64
    assert sent.vector.shape == (found.padded,)
    assert sent.grid_steps == found.radius
    assert sum(int(x) ** 2 for x in sent.vector) <= found.event.squared_sensitivity


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_contributes_zeros(poison: float) -> None:
    update = np.full(30, 1e300)
    update[7] = poison
    sent = compress(
        update,
        clipping=Flat(1.0),
        terms=terms(30),
        rotation=Rotation(30, SEED),
        stream=stream(),
    )
    assert not sent.vector.any()


@given(st.integers(1, 400), st.sampled_from([1, 7, 300]), st.integers(0, 2**32))
def test_rounding_at_random_stays_in_its_ball_and_beside_what_it_rounds(
    dimension: int, steps: int, seed: int
) -> None:
    vector = np.random.default_rng(seed).normal(size=dimension)
    vector *= steps / np.linalg.norm(vector)
    radius = _radius(steps, dimension)
    for attempts in (64, 1, 0):
        found = _rounded(vector, radius, stream(), attempts)
        assert squared_norm(found) <= radius**2
        assert (np.abs(found - vector) < 1).all()


def test_one_attempt_of_three_succeeds_at_least_as_published() -> None:
    """1 - exp(-1/2) = 0.39 of roundings at worst; what fails would be cut toward zero."""
    generator, source = np.random.default_rng(2), stream()
    for dimension, steps in [(1000, 3), (1000, 100), (50, 50), (10_000, 30)]:
        vector = generator.normal(size=dimension)
        vector *= steps / np.linalg.norm(vector)
        radius, cut = _radius(steps, dimension), np.trunc(vector)
        kept = sum((_rounded(vector, radius, source, 1) != cut).any() for _ in range(100))
        assert kept >= 30


def test_rounding_is_without_bias_and_nearly_so_if_it_has_to_be_repeated() -> None:
    vector, source, count = np.linspace(-1.5, 1.5, 40), stream(), 20_000
    free = _rounded(np.tile(vector, count), 10**6, source).reshape(count, -1).mean(axis=0)
    np.testing.assert_allclose(free, vector, atol=5 * 0.5 / count**0.5)
    # Acceptance depends a little on each of so few coordinates: at most as 1 / sqrt(D).
    radius = _radius(math.ceil(np.linalg.norm(vector)), 40)
    bound = np.mean([_rounded(vector, radius, source) for _ in range(count)], axis=0)
    np.testing.assert_allclose(bound, vector, atol=5 * 0.5 / count**0.5 + 0.03)


def test_the_rounding_bits_come_from_the_given_stream() -> None:
    update = np.random.default_rng(0).normal(size=500)
    options: dict[str, Any] = {
        "clipping": Flat(1.0),
        "terms": terms(500),
        "rotation": Rotation(500, SEED),
    }
    first = compress(update, stream=stream(b"a"), **options).vector
    assert (compress(update, stream=stream(b"a"), **options).vector == first).all()
    assert (compress(update, stream=stream(b"b"), **options).vector != first).any()


@given(
    hnp.arrays(np.int64, st.integers(1, 20)),
    st.sampled_from([2, 16, 21, 32, 64]),
)
def test_centred_is_the_residue_of_least_magnitude(total: np.ndarray, bits: int) -> None:
    found = centred(total, slot_bits=bits)
    for value, residue in zip(total.tolist(), found.tolist(), strict=True):
        assert (value - residue) % 2**bits == 0
        assert -(2 ** (bits - 1)) <= residue < 2 ** (bits - 1)
    assert (centred(found, slot_bits=bits) == found).all()
    assert (centred(total.view(np.uint64), slot_bits=bits) == found).all()


@pytest.mark.parametrize("bits", SLOT_BITS)
@pytest.mark.parametrize("dimension", [1000, 1025])
def test_sums_modulo_the_slot_decode_as_those_of_the_exact_mode(dimension: int, bits: int) -> None:
    """Without noise they differ by rounding alone: half a step of each client, or less."""
    clients, norm, source = 20, 2.0, stream()
    found, rotation = terms(dimension, slot_bits=bits), Rotation(dimension, SEED)
    rows = updates(clients, dimension)
    exact = IntSum.of(
        (quantise(row, clipping_norm=norm, grid_steps=2**24) for row in rows),
        dimension=dimension,
        grid_steps=2**24,
    )
    wanted = decode(exact.vector, clipping_norm=norm, grid_steps=2**24, denominator=clients)
    options: dict[str, Any] = {"terms": found, "rotation": rotation}
    sent = [
        compress(row, clipping=Flat(norm), stream=source, **options).vector % 2**bits
        for row in rows
    ]
    total = sum(sent) % 2**bits
    assert isinstance(total, np.ndarray)
    got = expand(total, clipping_norm=norm, denominator=clients, **options)
    assert got.dtype == np.float32
    assert got.shape == (dimension,)
    step = norm / (found.grid_steps * clients)
    error = (got - wanted) / step
    assert np.abs(error).max() < 6 * (clients / 4) ** 0.5
    assert error.var() < 1.2 * clients / 4


@pytest.mark.parametrize("bits", mostly_slow(SLOT_BITS))
def test_the_noise_of_a_mean_is_what_the_terms_declare(bits: int) -> None:
    dimension, clients, norm, source = 3000, 20, 1.0, stream()
    found, rotation = terms(dimension, slot_bits=bits), Rotation(dimension, SEED)
    options: dict[str, Any] = {"terms": found, "rotation": rotation}
    rows = updates(clients, dimension)
    total = np.zeros(found.padded, np.int64)
    for row in rows:
        total += compress(row, clipping=Flat(norm), stream=source, **options).vector
        total += skellam(found.local_variance, found.padded, stream=source)
    got = expand(total % 2**bits, clipping_norm=norm, denominator=clients, **options)
    wanted = sum(Flat(norm).clip(row) for row in rows) / clients
    error = (got - wanted) * found.grid_steps * clients / norm
    noise = float(found.local_variance) * clients
    # 3,000 coordinates: the variance of a variance is 2 / 3000; five deviations are 13 %.
    assert error.var() == pytest.approx(noise, rel=0.13)
    assert found.variance <= found.local_variance * found.counted


def test_updates_that_agree_seldom_wrap_round() -> None:
    """The worst case that the grid has room for: all clients send the same vector of norm C."""
    dimension, clients = 2**14, 200
    found = terms(dimension, clients=clients, counted=clients)
    rotation, source = Rotation(dimension, SEED), stream()
    update = np.zeros(dimension)
    update[: dimension // 3] = 1
    sent = compress(update, clipping=Flat(1), terms=found, rotation=rotation, stream=source)
    noise = skellam(found.local_variance * clients, found.padded, stream=source)
    total = sent.vector * clients + noise
    wrapped = (centred(total, slot_bits=16) != total).mean()
    assert wrapped < 20 * 6.3e-5
    # And not much is given away: with half the room one coordinate of 22 would wrap.
    assert (np.abs(total) >= 2**14).mean() > 0.02


@pytest.mark.parametrize(("z", "n", "d", "at_16", "at_21"), PUBLISHED)
def test_costs_and_slot_widths_are_the_published_ones(
    z: float, n: int, d: int, at_16: str, at_21: str
) -> None:
    costs = {}
    for bits, text in zip(SLOT_BITS, (at_16, at_21), strict=True):
        # The published scale: kappa = 4, rho = 1, C = 1, noise of z clipping norms.
        scale2 = (4.0**bits - 16 * n) / (64 * (n**2 / d + z**2))
        often = scale2 + d / 4 + math.sqrt(scale2) + math.sqrt(d) / 2
        squared = min((math.sqrt(scale2) + math.sqrt(d)) ** 2, often)
        mu = z**2 * scale2
        manhattan = min(math.sqrt(d * squared), squared)
        extra = min((15 * squared + 6 * manhattan) / (4 * mu**2), 3 * manhattan / (2 * mu))
        costs[bits] = (4 * squared / mu + extra) / (4 / z**2)
        assert f"{costs[bits]:.{len(text) - 2}f}" == text
    options = {
        "dimension": d,
        "clients": n,
        "counted": n,
        "noise_multiplier": Fraction(z),
    }
    found = CompactTerms.fitting(**options)  # type: ignore[arg-type]
    assert found.slot_bits == (16 if costs[16] < 1.05 else 21)
    # Ours make room for the noise of the radius, not of the norm: a little more where it is much.
    assert float(found.inflation) == pytest.approx(costs[found.slot_bits], rel=2e-3)


@given(
    st.integers(1, 2**22),
    st.integers(1, 5000),
    st.fractions(Fraction(1, 10), 20, max_denominator=50),
    st.sampled_from(SLOT_BITS),
    st.data(),
)
def test_terms_have_room_and_no_coarser_grid_than_need_be(
    dimension: int, clients: int, z: Fraction, bits: int, data: st.DataObject
) -> None:
    counted = data.draw(st.integers(max(1, clients // 3), clients))
    try:
        found = CompactTerms(dimension, clients, counted, z, bits)
    except PlanError:
        return
    assert found.local_variance * counted == found.variance == z**2 * found.radius**2
    assert found.event.variance == z**2 * found.event.squared_sensitivity
    assert found.event.dimension == found.padded
    assert 1 <= found.inflation <= 2

    def spread(steps: int) -> float:
        share = float(z) ** 2 * _radius(steps, found.padded) ** 2 / counted
        return math.sqrt((clients * steps) ** 2 / found.padded + clients * (share + 0.25))

    assert 4 * spread(found.grid_steps) <= 2 ** (bits - 1) * (1 + 1e-9)
    capped = float(z) * _radius(found.grid_steps + 1, found.padded) > 8192 * counted**0.5
    capped |= found.grid_steps == 2**bits - 1
    assert capped or 4 * spread(found.grid_steps + 1) > 2 ** (bits - 1) * (1 - 1e-9)


def test_terms_take_wide_slots_where_narrow_ones_have_no_room() -> None:
    options: dict[str, Any] = {
        "dimension": 2**24,
        "clients": 1000,
        "counted": 1000,
        "noise_multiplier": Fraction(3),
    }
    with pytest.raises(PlanError, match="noise_multiplier"):
        CompactTerms(**options, slot_bits=16)
    assert CompactTerms.fitting(**options).slot_bits == 21
    options["noise_multiplier"] = Fraction(10**6)
    with pytest.raises(PlanError) as caught:
        CompactTerms.fitting(**options)
    assert "32 bits" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dimension", 0),
        ("dimension", 2.0),
        ("clients", 0),
        ("clients", True),
        ("counted", 0),
        ("counted", 21),
        ("noise_multiplier", 1.0),
        ("noise_multiplier", Fraction(0)),
        ("noise_multiplier", Fraction(1, 10**6)),
        ("slot_bits", 12),
        ("slot_bits", 32),
    ],
)
def test_what_are_no_terms_is_refused(name: str, value: object) -> None:
    options = {
        "dimension": 100,
        "clients": 20,
        "counted": 20,
        "noise_multiplier": Fraction(1),
        "slot_bits": 16,
    }
    with pytest.raises(PlanError, match=name):
        CompactTerms(**options | {name: value})  # type: ignore[arg-type]


def test_rotation_update_and_sum_have_to_fit_the_terms() -> None:
    found, rotation = terms(10), Rotation(10, SEED)
    options: dict[str, Any] = {"clipping": Flat(1), "terms": found, "stream": stream()}
    with pytest.raises(PlanError, match="11 coordinates"):
        compress(np.zeros(10), rotation=Rotation(11, SEED), **options)
    with pytest.raises(ShapeError, match="10 coordinates"):
        compress(np.zeros(11), rotation=rotation, **options)
    with pytest.raises(DtypeError):
        compress(np.zeros(10, np.int64), rotation=rotation, **options)  # type: ignore[arg-type]
    decoding: dict[str, Any] = {"clipping_norm": 1.0, "terms": found, "rotation": rotation}
    with pytest.raises(ShapeError):
        expand(np.zeros(9, np.int64), denominator=1, **decoding)
    with pytest.raises(DtypeError):
        expand(np.zeros(10), denominator=1, **decoding)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="0"):
        expand(np.zeros(10, np.int64), denominator=0, **decoding)


def test_layers_keep_their_own_bounds_before_the_rotation_mixes_them() -> None:
    rule = PerLayer(norms=(3, 4), sizes=(10, 20))
    found, rotation = terms(30, slot_bits=21), Rotation(30, SEED)
    update = np.full(30, 100.0)
    sent = compress(update, clipping=rule, terms=found, rotation=rotation, stream=stream())
    got = expand(
        sent.vector, clipping_norm=rule.norm, terms=found, rotation=rotation, denominator=1
    )
    assert np.linalg.norm(got[:10]) == pytest.approx(3, rel=1e-3)
    assert np.linalg.norm(got[10:]) == pytest.approx(4, rel=1e-3)
