"""What features look like before any data was seen: learnt from pictures that a program drew.

Differential privacy pays for every direction in which it must find out how features vary. Pen
strokes and patterned shapes drawn at random tell that for nothing: they are no data of anybody's.
Centred and whitened by them, features need fewer steps, under less noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Whitening", "shapes", "strokes"]

SIDE = 28
_POINTS = 32  # of a curve
_MOST_CURVES = 3
_CHUNK = 64

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Whitening:
    """A fixed linear map of features, (F,) -> (dimension,), and then to length one."""

    mean: Floats
    basis: Floats

    @classmethod
    def of(cls, features: Floats, *, dimension: int, ridge: float) -> Whitening:
        """Scales the `dimension` widest directions of `features` (N, F) to the same width, nearly.

        A direction of variance v is divided by the root of v + `ridge` times the total variance.
        """
        mean = features.mean(axis=0)
        variance, axes = np.linalg.eigh(np.cov(features, rowvar=False))
        total = variance.sum()
        variance, axes = variance[: -dimension - 1 : -1], axes[:, : -dimension - 1 : -1]
        return cls(mean, (axes / np.sqrt(variance + ridge * total)).astype(np.float32))

    def __call__(self, features: Floats) -> Floats:
        """Shapes: (N, F) -> (N, dimension), each row by itself."""
        rows: npt.NDArray[Any] = (features - self.mean) @ self.basis
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def strokes(count: int, *, seed: int = 0) -> Floats:
    """Pictures (count, 28, 28) in [0, 1] of one to three cubic curves by one pen."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, SIDE, SIDE), np.float32)
    for start in range(0, count, _CHUNK):
        part = images[start : start + _CHUNK]
        part[...] = _strokes(len(part), rng)
    return images


def shapes(count: int, *, seed: int = 0) -> Floats:
    """Pictures (count, 28, 28) in [0, 1] of one blot on black, mostly symmetric, with a pattern."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    width, height = (rng.uniform(low, high, (count, 1, 1)) for low, high in ((5, 13), (7, 15)))
    outline = 1 - (x / width) ** 4 - (y / height) ** 4 + 0.5 * _clouds(rng, count, 1.5, 3.0)
    symmetric = rng.random(count) < 0.6
    outline[symmetric] = (outline[symmetric] + outline[symmetric][:, :, ::-1]) / 2
    grey, contrast = (
        rng.uniform(low, high, (count, 1, 1)) for low, high in ((0.3, 0.9), (0.05, 0.3))
    )
    pattern = np.clip(grey + contrast * _clouds(rng, count, 0.3, 2.0), 0, 1)
    images: Floats = (pattern / (1 + np.exp(-8 * outline))).astype(np.float32)
    return images


def _strokes(count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    t = np.linspace(0, 1, _POINTS)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], axis=1)
    ends = rng.uniform(4, 23, (count, _MOST_CURVES, 4, 2))
    ends[:, 0, 0] = rng.uniform(5, 22, (count, 2))
    curves = rng.integers(1, _MOST_CURVES + 1, count)
    for i in range(1, _MOST_CURVES):
        lifted = rng.random((count, 1)) > 0.7
        ends[:, i, 0] = np.where(lifted, rng.uniform(5, 22, (count, 2)), ends[:, i - 1, 3])
        # A curve too many is drawn over the first one.
        ends[:, i] = np.where((curves > i)[:, None, None], ends[:, i], ends[:, 0])
    points = (weights @ ends).reshape(count, -1, 2).astype(np.float32)
    pixel = np.arange(SIDE, dtype=np.float32)
    squared = (pixel - points[..., None]) ** 2  # (count, points, 2, 28)
    nearest = (squared[:, :, 1, :, None] + squared[:, :, 0, None, :]).min(axis=1)
    pen = rng.uniform(0.7, 1.5, (count, 1, 1))
    pictures: npt.NDArray[Any] = np.minimum(1, 1.4 * np.exp(-nearest / (2 * pen**2)))
    return pictures


def _clouds(rng: np.random.Generator, count: int, least: float, most: float) -> npt.NDArray[Any]:
    """Fields (count, 28, 28) of variance one, amplitudes by frequency to a power of its own."""
    frequency = np.fft.fftfreq(SIDE)
    radius = np.hypot(frequency[:, None], frequency)
    radius[0, 0] = np.inf  # no mean
    power = rng.uniform(least, most, (count, 1, 1))
    noise = np.fft.fft2(rng.standard_normal((count, SIDE, SIDE)))
    fields: npt.NDArray[Any] = np.fft.ifft2(noise * radius**-power).real
    fields /= fields.std(axis=(1, 2), keepdims=True)
    return fields
