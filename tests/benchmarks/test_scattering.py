"""Features are what wavelets say, of one image at a time, and feel shifts less than pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import scattering
from benchmarks.drawings import Whitening, shapes, strokes
from benchmarks.scattering import CHANNELS, FEATURES, GRID, cached, scatter, standardised

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]

IMAGES = strokes(5, seed=3)


def _modulus(image: Array, wavelet: Array) -> Array:
    """|image * wavelet| by the definition of a circular convolution, in float64."""
    kernel = np.fft.ifft2(wavelet.astype(float))
    found = np.zeros(image.shape, complex)
    for row, column in np.ndindex(image.shape):
        found += image[row, column] * np.roll(kernel, (row, column), (0, 1))
    return np.abs(found)


def test_coefficients_are_averaged_moduli_of_moduli_of_wavelets() -> None:
    fine, coarse = scattering._filters()
    image = np.pad(IMAGES[0], 2, mode="reflect").astype(float)
    first = _modulus(image, fine[3])
    second = _modulus(first, coarse[6])[::2, ::2]
    mean = scattering._averaging(16)
    found = scatter(IMAGES[:1])[0]
    wide = scattering._averaging(32)
    assert np.allclose(found[1 + 3], wide @ first @ wide.T, atol=1e-6)
    assert np.allclose(found[1 + 16 + 8 * 3 + 6], mean @ second @ mean.T, atol=1e-6)
    alone = _modulus(image, coarse[5])[::2, ::2]
    assert np.allclose(found[1 + 8 + 5], mean @ alone @ mean.T, atol=1e-6)


def test_wavelets_have_no_mean_and_averages_keep_it() -> None:
    fine, coarse = scattering._filters()
    assert np.abs([fine[:, 0, 0], coarse[:, 0, 0]]).max() < 1e-6
    blank = scatter(np.full((1, 28, 28), 0.7))[0]
    assert np.allclose(blank[0], 0.7, atol=1e-6)
    assert np.abs(blank[1:]).max() < 1e-6


def test_an_image_has_the_same_features_in_any_company() -> None:
    together = standardised(scatter(IMAGES))
    assert together.shape == (5, FEATURES) and together.dtype == np.float32
    for i, image in enumerate(IMAGES):
        assert np.allclose(standardised(scatter(image[None]))[0], together[i], atol=1e-4)


def test_a_quarter_turn_of_the_image_turns_the_map_and_the_orientations() -> None:
    found, turned = scatter(IMAGES), scatter(np.rot90(IMAGES, axes=(1, 2)))
    assert np.allclose(np.rot90(found[:, 0], axes=(1, 2)), turned[:, 0], atol=1e-5)
    moved = np.rot90(found[:, 1:9], axes=(2, 3))
    assert np.allclose(np.roll(moved, 4, axis=1), turned[:, 1:9], atol=1e-5)


def test_a_shift_by_a_pixel_moves_features_less_than_pixels() -> None:
    shifted = np.roll(IMAGES, 1, axis=2)

    def change(before: Floats, after: Floats) -> float:
        return float(np.linalg.norm(after - before) / np.linalg.norm(before))

    assert change(scatter(IMAGES), scatter(shifted)) < change(IMAGES, shifted)


def test_groups_have_mean_zero_and_variance_one() -> None:
    rows = standardised(scatter(IMAGES), groups=27).reshape(5, 27, CHANNELS // 27 * GRID**2)
    assert np.abs(rows.mean(axis=2)).max() < 1e-4
    assert rows.var(axis=2).max() < 1 + 1e-4
    assert not standardised(np.ones((1, 81, 7, 7), np.float32)).any()


def test_what_was_computed_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(IMAGES, tmp_path)
    monkeypatch.setattr(scattering, "scatter", None)
    assert np.array_equal(cached(IMAGES, tmp_path), first)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    with pytest.raises(TypeError):
        cached(IMAGES[:4], tmp_path)


@pytest.mark.parametrize("draw", [strokes, shapes])
def test_drawings_are_the_same_for_a_seed_and_cover_the_range_of_grey(
    draw: Callable[..., Floats],
) -> None:
    images = draw(70, seed=1)
    assert np.array_equal(images, draw(70, seed=1))
    assert not np.array_equal(images, draw(70, seed=2))
    assert images.shape == (70, 28, 28) and images.dtype == np.float32
    assert images.min() >= 0 and 0.5 < images.max() <= 1


def test_whitened_features_have_length_one_and_kept_directions_one_width() -> None:
    rng = np.random.default_rng(0)
    known = (rng.standard_normal((4000, 6)) * [8, 4, 2, 1, 0.1, 0.1] + 5).astype(np.float32)
    whitening = Whitening.of(known, dimension=4, ridge=0)
    assert np.allclose(
        np.cov((known - whitening.mean) @ whitening.basis, rowvar=False), np.eye(4), atol=1e-3
    )
    assert np.allclose(np.linalg.norm(whitening(known), axis=1), 1, atol=1e-5)
