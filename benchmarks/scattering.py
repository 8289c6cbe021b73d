"""Features that no data shaped cost no privacy: a wavelet scattering transform of small images.

Averages of moduli of oriented wavelet coefficients, and of moduli of coefficients of those, move
half as far as the pixels do when strokes are shifted by one. A linear model on them is what
differentially private training does best, because its gradient has few coordinates to hide.

Sources: J. Bruna, S. Mallat, "Invariant scattering convolution networks" (TPAMI 2013), sections 2
and 3; the Morlet filters' constants as in M. Andreux et al., "Kymatio" (JMLR 2020); the group
normalisation as in F. Tramer, D. Boneh, "Differentially private learning needs better features"
(ICLR 2021), appendix A.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["CHANNELS", "FEATURES", "GRID", "cached", "scatter", "standardised"]

ANGLES = 8
CHANNELS = 1 + 2 * ANGLES + ANGLES**2
"""The mean image; 8 orientations at 2 scales; each fine one seen again by each coarse one."""
GRID = 7
FEATURES = CHANNELS * GRID**2

_SIDE, _PAD = 28, 2
_PADDED = _SIDE + 2 * _PAD
_COARSE = _PADDED // 2
_CHUNK = 256  # images at a time: 70,000 take 50 s of one core
_VERSION = b"scattering 1"

Floats: TypeAlias = npt.NDArray[np.float32]


def scatter(images: npt.ArrayLike) -> Floats:
    """Scattering of order two over two octaves and eight orientations.

    Shapes: (N, 28, 28) -> (N, 81, 7, 7). Channels: the mean; the fine scale's eight orientations;
    the coarse scale's; then for each fine orientation the eight coarse ones seen in its modulus.
    An image's result depends on that image alone.
    """
    images = np.asarray(images, np.float32)
    out = np.empty((len(images), CHANNELS, GRID, GRID), np.float32)
    for start in range(0, len(images), _CHUNK):
        _scatter(images[start : start + _CHUNK], out[start : start + _CHUNK])
    return out


def standardised(coefficients: Floats, *, groups: int = 27) -> Floats:
    """Each image's groups of neighbouring channels, each to mean zero and variance one.

    Shapes: (N, C, H, W) -> (N, C * H * W). A group without any variance becomes zeros.
    """
    n = len(coefficients)
    rows = coefficients.reshape(n, groups, -1)
    rows = rows - rows.mean(axis=2, keepdims=True)
    # PyTorch's GroupNorm adds as much: an empty group is divided by it, not by zero.
    rows /= np.sqrt(np.mean(rows * rows, axis=2, keepdims=True) + np.float32(1e-5))
    flat: Floats = rows.reshape(n, -1)
    return flat


def cached(images: npt.NDArray[Any], folder: Path) -> Floats:
    """`standardised(scatter(images))`, read from `folder` if the same images were seen before.

    Shapes: (N, 28, 28) -> (N, 3969), mapped read-only. The file's name is a digest of the images;
    a run that is cut short leaves nothing under that name.
    """
    digest = hashlib.sha256(_VERSION + str((images.dtype.str, images.shape)).encode())
    digest.update(np.ascontiguousarray(images).data)
    path = folder / f"scattering-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as unfinished:
            np.save(unfinished, standardised(scatter(images)), allow_pickle=False)
        Path(unfinished.name).replace(path)
    features: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return features


def _scatter(images: Floats, out: Floats) -> None:
    """One chunk, written into `out` (n, 81, 7, 7)."""
    fine, coarse = _filters()
    mean, mean_of_coarse = _averaging(_PADDED), _averaging(_COARSE)
    pad = ((0, 0), (_PAD, _PAD), (_PAD, _PAD))
    padded = np.pad(images, pad, mode="reflect")
    out[:, 0] = _average(padded, mean)
    spectrum = np.fft.fft2(padded)
    for i in range(ANGLES):
        out[:, 1 + ANGLES + i] = _average(_coarse_modulus(spectrum, coarse[i]), mean_of_coarse)
        modulus = np.abs(np.fft.ifft2(spectrum * fine[i]))
        out[:, 1 + i] = _average(modulus, mean)
        again = np.fft.fft2(modulus)
        first = 1 + 2 * ANGLES + ANGLES * i
        for k in range(ANGLES):
            out[:, first + k] = _average(_coarse_modulus(again, coarse[k]), mean_of_coarse)


def _coarse_modulus(spectrum: npt.NDArray[np.complexfloating[Any, Any]], wavelet: Floats) -> Floats:
    """|image * wavelet| at every other pixel: (n, 32, 32), (32, 32) -> (n, 16, 16)."""
    product = spectrum * wavelet
    # Taking every other pixel is, in frequency, the mean over the two halves of each axis.
    rows = product[:, :_COARSE] + product[:, _COARSE:]
    folded = rows[:, :, :_COARSE] + rows[:, :, _COARSE:]
    folded *= np.float32(0.25)
    modulus: Floats = np.abs(np.fft.ifft2(folded)).astype(np.float32, copy=False)
    return modulus


def _average(maps: Floats, weights: Floats) -> Floats:
    """Gaussian averages about the grid's points: (n, S, S), (7, S) -> (n, 7, 7)."""
    averages: npt.NDArray[Any] = weights @ maps @ weights.T
    return averages


@functools.cache
def _averaging(side: int) -> Floats:
    """The Gaussian of deviation 1.6 pixels about each of seven points 4 pixels apart: (7, side).

    The points lie symmetrically in the image, and each row adds up to one.
    """
    pixel = np.arange(side) * (_PADDED / side)
    point = _PAD + (_SIDE - 1) / 2 + 4.0 * (np.arange(GRID) - GRID // 2)
    weights = np.exp(-((pixel - point[:, None]) ** 2) / (2 * 1.6**2))
    rows: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows


@functools.cache
def _filters() -> tuple[Floats, Floats]:
    """Fourier transforms, which are real, of the wavelets of both scales: each (8, 32, 32)."""
    angles = [np.pi * i / ANGLES for i in range(ANGLES)]
    fine, coarse = (np.stack([_morlet(scale, angle) for angle in angles]) for scale in (0, 1))
    return fine, coarse


def _morlet(scale: int, angle: float) -> Floats:
    """A wave of 3/4 pi / 2^scale under a Gaussian twice as long across as along, with mean zero."""
    # Sums over neighbouring periods make the filter periodic; five leave less than 1e-9 out.
    offset = np.arange(_PADDED) + _PADDED * np.arange(-2, 3)[:, None]
    y, x = offset[:, None, :, None], offset[None, :, None, :]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    deviation = 0.8 * 2.0**scale
    envelope = np.exp(-(along**2 + (across * 4 / ANGLES) ** 2) / (2 * deviation**2))
    wave = envelope * np.exp(0.75j * np.pi / 2**scale * along)
    gaussian, oscillation = envelope.sum(axis=(0, 1)), wave.sum(axis=(0, 1))
    filtered = oscillation - gaussian * (oscillation.sum() / gaussian.sum())
    filtered *= 4 / ANGLES / (2 * np.pi * deviation**2)
    spectrum: Floats = np.fft.fft2(filtered).real.astype(np.float32)
    return spectrum
