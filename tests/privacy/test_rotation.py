"""The rotation against its dense matrix: it inverts, keeps lengths, and spreads what is given."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.rotation import Rotation, padded_length

SEED = hashlib.sha256(b"round 1").digest()
SEEDS = st.binary(min_size=32, max_size=32)
DIMENSIONS = st.integers(1, 300) | st.integers(1, 20_000)


def dense(rotation: Rotation) -> np.ndarray:
    """Its matrix (padded, D), a column for each unit vector."""
    return np.stack([rotation.forward(unit) for unit in np.eye(rotation.dimension)], axis=1)


@given(DIMENSIONS, SEEDS)
def test_it_inverts_and_keeps_lengths(dimension: int, seed: bytes) -> None:
    rotation = Rotation(dimension, seed)
    x = np.random.default_rng(dimension).normal(size=dimension)
    rotated = rotation.forward(x)
    assert rotated.shape == (rotation.padded,)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    np.testing.assert_allclose(rotation.backward(rotated), x, atol=1e-12)


@given(st.integers(1, 200), SEEDS)
def test_its_matrix_has_orthonormal_columns_and_small_entries(dimension: int, seed: bytes) -> None:
    rotation = Rotation(dimension, seed)
    matrix = dense(rotation)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(dimension), atol=1e-12)
    assert np.abs(matrix).max() <= np.sqrt(2 / rotation.padded) * (1 + 1e-12)


@given(st.integers(1, 60), SEEDS)
def test_backward_is_the_transpose_for_any_vector(dimension: int, seed: bytes) -> None:
    """Noise has a part outside the image of `forward`; it is dropped, not folded back."""
    rotation = Rotation(dimension, seed)
    noise = np.random.default_rng(dimension).normal(size=rotation.padded)
    np.testing.assert_allclose(rotation.backward(noise), dense(rotation).T @ noise, atol=1e-12)


@given(st.integers(9, 2**26))
def test_padding_adds_at_most_an_eighth(dimension: int) -> None:
    padded = padded_length(dimension)
    assert dimension <= padded < dimension * 9 / 8
    while padded > 16:
        assert padded % 2 == 0
        padded //= 2
    assert padded >= 9


def test_nothing_shorter_of_that_form_would_do() -> None:
    allowed = sorted({m << j for m in range(9, 17) for j in range(8)})
    for dimension in range(9, 1000):
        assert padded_length(dimension) == next(size for size in allowed if size >= dimension)


@pytest.mark.parametrize("dimension", [60_000, 65_536])
def test_a_single_large_coordinate_is_spread_over_all(dimension: int) -> None:
    rotation = Rotation(dimension, SEED)
    x = np.zeros(dimension)
    x[17] = 1
    assert np.abs(rotation.forward(x)).max() <= np.sqrt(2 / rotation.padded) * (1 + 1e-9)


def test_an_update_that_the_matrix_would_concentrate_is_spread_by_the_signs() -> None:
    """A constant vector is a row of the Hadamard matrix: without signs one coordinate gets all."""
    rotation = Rotation(2**16, SEED)
    rotated = rotation.forward(np.full(2**16, 2.0**-8))
    # Each is a sum of 2^16 signs / 2^16: standard deviation 2^-8, and 7 of them in 65,536 draws.
    assert np.abs(rotated).max() < 7 * 2.0**-8
    assert rotated.std() == pytest.approx(2.0**-8, rel=0.02)


def test_each_seed_is_a_rotation_of_its_own_and_the_same_for_everybody() -> None:
    x = np.random.default_rng(3).normal(size=100)
    other = hashlib.sha256(b"round 2").digest()
    assert (Rotation(100, SEED).forward(x) == Rotation(100, SEED).forward(x)).all()
    assert not np.allclose(Rotation(100, SEED).forward(x), Rotation(100, other).forward(x))


def test_signs_are_frozen() -> None:
    """Clients and server of different versions have to derive the same ones."""
    assert Rotation(8, SEED)._signs().tolist() == [1, 1, -1, -1, -1, -1, -1, 1]


def test_signs_are_fair_and_uncorrelated() -> None:
    signs = Rotation(100_000, SEED)._signs().astype(float)
    for lag in (1, 2, 8, 64):
        assert abs(signs[lag:] @ signs[:-lag]) < 5 * np.sqrt(100_000)
    assert abs(signs.sum()) < 5 * np.sqrt(100_000)


def test_float32_is_rotated_in_float64() -> None:
    x = np.random.default_rng(4).normal(size=1000).astype(np.float32)
    rotation = Rotation(1000, SEED)
    assert rotation.forward(x).dtype == np.float64
    assert (rotation.backward(rotation.forward(x)).astype(np.float32) == x).all()


def test_what_cannot_be_rotated_is_refused() -> None:
    rotation = Rotation(5, SEED)
    with pytest.raises(ShapeError, match="5 coordinates"):
        rotation.forward(np.zeros(6))
    with pytest.raises(ShapeError):
        rotation.backward(np.zeros((5, 1)))
    with pytest.raises(DtypeError, match="int64"):
        rotation.forward(np.zeros(5, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="0 coordinates"):
        Rotation(0, SEED)
    with pytest.raises(ArgumentError, match="32 bytes"):
        Rotation(5, SEED[:31])
