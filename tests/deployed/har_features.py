"""Windows of the recordings of 23 people, as what a device's owner would bind: 36 figures each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset

__all__ = ["people"]

_SAMPLES, _STEP = 100, 50  # about a second, every half second
# Metres per second squared and radians per second to numbers about 1, the same for everybody:
# nothing about a person's own data has to be known for it.
_SCALE: Final = np.array([10.0, 10.0, 10.0, 2.0, 2.0, 2.0], np.float32)


def people(path: Path) -> dict[str, tuple[Dataset, Dataset]]:
    """By person what is trained on, and what is held back: a fifth of the recordings."""
    with np.load(path) as arrays:
        x, label, offset = arrays["x"] / _SCALE, arrays["label"].astype(np.int64), arrays["offset"]
        subject = arrays["subject"].tolist()
    windows: dict[str, list[list[tuple[NDArray[np.float32], int]]]] = {}
    for person, begin, end in zip(subject, offset[:-1], offset[1:], strict=True):
        starts = range(int(begin), int(end) - _SAMPLES + 1, _STEP)
        recording = [_window(x[s : s + _SAMPLES], label[s : s + _SAMPLES]) for s in starts]
        windows.setdefault(person, []).append(recording)
    return {
        person: (
            _dataset([w for i, r in enumerate(recordings) if i % 5 for w in r]),
            _dataset([w for r in recordings[::5] for w in r]),
        )
        for person, recordings in windows.items()
    }


def _window(x: NDArray[np.float32], label: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """Six statistics of each of six channels (36,), and what was done for most of the time."""
    moved = np.abs(np.diff(x, axis=0))
    parts = [x.mean(0), x.std(0), x.min(0), x.max(0), 10 * moved.mean(0), np.median(x, axis=0)]
    return np.concatenate(parts).astype(np.float32), int(np.bincount(label).argmax())


def _dataset(windows: list[tuple[NDArray[np.float32], int]]) -> Dataset:
    return Dataset(np.stack([x for x, _ in windows]), np.array([y for _, y in windows]))
