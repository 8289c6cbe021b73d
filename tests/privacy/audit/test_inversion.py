"""Inversion must succeed where there is no noise, or its failure elsewhere would mean nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy import Stream, quantise
from fedcore.privacy.audit import Inversion, Outcome, inversion
from fedcore.privacy.quantise import decode
from fedcore.privacy.sampler import rounded_gaussian

INPUTS, GRID = 784, 2**20


def clipped_gradient(
    seed: int, *, outputs: int = 64, clipping_norm: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A first layer's gradient of one example; a fifth of its pixels is lit, as in MNIST."""
    random = np.random.default_rng(seed)
    example = random.uniform(0.2, 1, size=INPUTS) * (random.uniform(size=INPUTS) < 0.19)
    cotangent = random.normal(size=outputs)
    norm = np.linalg.norm(cotangent) * np.sqrt(example @ example + 1)
    cotangent *= min(1.0, clipping_norm / norm)
    return np.outer(cotangent, example), cotangent, example


def attacked(noise: float, seed: int, *, outputs: int = 64) -> Inversion:
    """What a server decodes from the release of this one gradient, as the package makes it."""
    weights, biases, example = clipped_gradient(seed, outputs=outputs)
    gradient = np.concatenate([weights.reshape(-1), biases])
    released = quantise(gradient, clipping_norm=1, grid_steps=GRID).vector.copy()
    if noise:
        stream = Stream(SeededEntropy(b"%d" % seed))
        released += rounded_gaussian((Fraction(noise) * GRID) ** 2, len(released), stream=stream)
    mean = decode(released, clipping_norm=1, grid_steps=GRID, denominator=1)
    return inversion(mean[: weights.size].reshape(weights.shape), mean[weights.size :], example)


def test_it_succeeds_without_privacy() -> None:
    found = inversion(*clipped_gradient(0, clipping_norm=np.inf))
    assert found.verdict.failed and found.quotient_correlation > 0.9999


@given(st.integers(0, 1000), st.floats(1e-6, 10))
def test_clipping_alone_protects_nothing(seed: int, clipping_norm: float) -> None:
    found = inversion(*clipped_gradient(seed, clipping_norm=clipping_norm))
    assert found.verdict.failed
    assert found.quotient_correlation > 0.9999 and found.spectral_correlation > 0.9999


@pytest.mark.parametrize("outputs", [10, 64])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_it_fails_with_noise_of_three_tenths_of_the_clipping_norm(
    noise: float, outputs: int
) -> None:
    found = [attacked(noise, seed, outputs=outputs) for seed in range(20)]
    for name in ("quotient_correlation", "spectral_correlation"):
        assert abs(np.mean([getattr(f, name) for f in found])) < 0.05
    # A guess that knows nothing is off by 0.036, and there are two: one in a hundred is above 0.1.
    # With 10 outputs and the least noise one in six is, by a remnant of the input.
    passed = sum(f.verdict.passed for f in found)
    assert passed >= (14 if outputs == 10 else 18)
    assert not any(f.verdict.failed for f in found)


def test_correlations_are_about_the_designs() -> None:
    # The design: 0.60 and 0.86 at 0.01, -0.02 and 0.15 at 0.1, over a layer it does not name.
    found = [[attacked(z, seed) for seed in range(20)] for z in (0, 0.01, 0.1)]
    quotient = [np.mean([f.quotient_correlation for f in group]) for group in found]
    best = [np.mean([f.best_row_correlation for f in group]) for group in found]
    assert quotient == pytest.approx([1, 0.60, 0], abs=0.1)
    assert best == pytest.approx([1, 0.75, 0.15], abs=0.12)


def test_all_rows_together_say_more_than_the_best_of_them() -> None:
    found = [attacked(0.01, seed) for seed in range(10)]
    assert all(f.spectral_correlation > f.quotient_correlation for f in found)
    assert all(f.verdict.outcome is Outcome.INCONCLUSIVE for f in found)


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 20), (60, 20)])
def test_the_spectral_attack_takes_the_leading_singular_vector(outputs: int, inputs: int) -> None:
    random = np.random.default_rng(6)
    cotangent, example = random.normal(size=outputs), random.normal(size=inputs)
    noisy = np.outer(cotangent, example) + 0.1 * random.normal(size=(outputs, inputs))
    _, _, vectors = np.linalg.svd(np.column_stack([noisy, cotangent]), full_matrices=False)
    expected = abs(np.corrcoef(vectors[0, :-1], example)[0, 1])
    found = inversion(noisy, cotangent, example).spectral_correlation
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_gradient_of_zeros_says_nothing() -> None:
    found = inversion(np.zeros((3, 1000)), np.zeros(3), np.arange(1000.0))
    assert found.verdict.passed and found.quotient_correlation == 0


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**1023])
def test_what_is_read_depends_on_no_scale(scale: float) -> None:
    weights, biases, example = clipped_gradient(3)
    largest = max(np.abs(part).max() for part in (weights, biases, example)) * 2
    weights, biases, example = (part / largest for part in (weights, biases, example))
    noise = np.random.default_rng(3).normal(size=weights.shape) * 1e-3
    found = inversion(weights + noise, biases, example)
    again = inversion((weights + noise) * scale, biases * scale, example * scale)
    assert again.verdict == found.verdict
    for name in ("quotient", "best_row", "spectral"):
        correlation = getattr(found, f"{name}_correlation")
        assert getattr(again, f"{name}_correlation") == pytest.approx(correlation)
    apart = inversion([[1e308, 2e307], [1.0, 3.0]], [1e-300, 1.0], [-1.7e308, 1.7e308])
    assert all(value == value for value in apart.as_dict().values())


def test_a_short_input_is_said_to_correlate_with_noise() -> None:
    random = np.random.default_rng(1)
    found = inversion(random.normal(size=(3, 12)), random.normal(size=3), np.arange(12.0))
    assert found.verdict.outcome is Outcome.INCONCLUSIVE
    assert "noise alone reaches 0.87" in found.verdict.reason


def test_what_is_no_gradient_is_refused() -> None:
    weights, biases, example = clipped_gradient(2)
    with pytest.raises(ShapeError):
        inversion(weights.T, biases, example)
    with pytest.raises(ShapeError):
        inversion(weights, biases[:, None], example)
    with pytest.raises(DtypeError):
        inversion(weights, biases, example.astype(bool))
    with pytest.raises(ArgumentError):
        inversion(weights * np.nan, biases, example)
    with pytest.raises(ArgumentError):
        inversion(weights, biases, np.ones(INPUTS))
