"""Phone and watch at 23 people's bodies: recordings of accelerometer and gyroscope as windows.

Source: M. Matey-Sanz, S. Casteleyn and C. Granell, "Dataset of inertial measurements of
smartphones and smartwatches for human activity recognition", Data in Brief 51 (2023).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset, load_csv, load_npz
from fedcore.errors import DataFormatError
from fedcore.settings import Bounds
from fedsim.sources.files import file_of, place_of
from fedsim.sources.held_out import Measured
from fedsim.sources.source import Source

__all__ = ["Har"]

_CHANNELS: Final = ("x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro")
_ACTIVITIES: Final = ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")
_STATISTICS: Final = ("mean", "std", "min", "max", "moved", "median")
_DEVICES: Final = {"phone": ("sp",), "watch": ("sw",), "both": ("sp", "sw")}
_FILE: Final = re.compile(r"(s\d+)_(\d+)_(sp|sw)\.csv(?:\.gz)?")
_ARRAYS: Final = {"x": 2, "label": 1, "offset": 1, "subject": 1, "execution": 1, "device": 1}
_OFFICIAL: Final = (
    "the folder DATA of the set of Matey-Sanz, Casteleyn and Granell from Zenodo or from GeoTec's "
    "repository on GitHub"
)
# Metres per second squared and radians per second to numbers about 1, the same for everybody:
# nothing about a person's own data has to be known for it.
_SCALE: Final = np.array([10, 10, 10, 2, 2, 2], np.float32)
_MOVED_SCALE: Final = np.float32(10)  # from one sample to the next everything moves little


class _Recording(NamedTuple):
    """What one device of one person measured in one execution: x (T, 6), label (T,)."""

    subject: str
    execution: int
    device: str
    x: NDArray[np.float32]
    label: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Har(Measured):
    """Windows of the recordings of 23 people, and which of 5 activities fills most of each.

    `window`, `step`: in samples, of which there are about 100 a second; no window crosses the end
    of a recording. `device`: "phone", "watch" or "both". `features`: "raw" for the samples,
    x (N, window, 6), or "statistics" for mean, standard deviation, minimum, maximum, ten times the
    mean step and median of each channel, x (N, 36). x is float32, accelerations in units of
    10 m/s², rates of turn in 2 rad/s; y (N,) int64. ids: the people, "s01", …

    Held out are executions, phone and watch together, since windows of one overlap: a share of each
    person's.
    `path`: the official folder of CSV files, one folder a person, or one that holds
    `har_sp_sw.npz`: the same recordings end to end, `x` (T, 6), `label` (T,), `offset` (R + 1,),
    and of each recording `subject`, `execution` and `device` (R,).
    """

    path: str
    window: Annotated[int, Bounds(least=2, most=100_000)] = 100
    step: Annotated[int, Bounds(least=1)] = 50
    device: Literal["phone", "watch", "both"] = "both"
    features: Literal["raw", "statistics"] = "raw"

    def load(self, base: Path) -> Source:
        """The windows of all recordings that are long enough for one."""
        place = place_of(base, self.path)
        packed = place if place.is_file() else place / "har_sp_sw.npz"
        found = _unpacked(packed) if packed.exists() else _folder(place)
        kept = [
            r for r in found if r.device in _DEVICES[self.device] and len(r.label) >= self.window
        ]
        if not kept:
            raise DataFormatError(
                f"no recording has {self.window} samples",
                where=str(place),
                why="a window lies within one recording",
                fix="take a smaller window, or both devices",
            )
        x = np.concatenate([self._features(_windows(r.x / _SCALE, self)) for r in kept])
        y = np.concatenate([_most_frequent(_windows(r.label, self)) for r in kept])
        counts = [(len(r.label) - self.window) // self.step + 1 for r in kept]
        whole = Source(
            Dataset(x, y, "har"),
            ids=np.repeat(np.array([r.subject for r in kept]), counts),
            classes=len(_ACTIVITIES),
            feature_names=self._names(),
            class_names=_ACTIVITIES,
        )
        return self.finished(whole, np.repeat(np.array([r.execution for r in kept]), counts))

    def _features(self, windows: NDArray[Any]) -> NDArray[np.float32]:
        if self.features == "raw":
            return windows
        moved = np.abs(np.diff(windows, axis=1)).mean(axis=1) * _MOVED_SCALE
        parts = [windows.mean(1), windows.std(1), windows.min(1), windows.max(1), moved]
        return np.concatenate([*parts, np.median(windows, axis=1)], axis=1).astype(np.float32)

    def _names(self) -> tuple[str, ...]:
        if self.features == "raw":
            return _CHANNELS
        return tuple(f"{channel} {kind}" for kind in _STATISTICS for channel in _CHANNELS)


def _windows(samples: NDArray[Any], options: Har) -> NDArray[Any]:
    """Samples (T, ...) as windows (W, window, ...), contiguous."""
    starts = np.arange(0, len(samples) - options.window + 1, options.step)
    windows: NDArray[Any] = samples[starts[:, np.newaxis] + np.arange(options.window)]
    return windows


def _most_frequent(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each window (W, window) the label that most samples have, the first of equals (W,)."""
    counts = [np.count_nonzero(labels == activity, axis=1) for activity in range(len(_ACTIVITIES))]
    return np.asarray(np.argmax(np.stack(counts), axis=0), np.int64)


def _unpacked(path: Path) -> Iterator[_Recording]:
    arrays = load_npz(path)
    for name, axes in _ARRAYS.items():
        if name not in arrays or arrays[name].ndim != axes:
            raise _unfit(path, f"it has no array {name!r} with {axes} axes")
    x, label, offset = arrays["x"], arrays["label"], arrays["offset"]
    recordings = len(arrays["subject"])
    if x.dtype.kind != "f" or x.shape != (len(label), len(_CHANNELS)):
        raise _unfit(path, f"x is {x.dtype} of shape {x.shape} for {len(label)} labels")
    kinds = {"label": "iu", "offset": "iu", "subject": "U", "execution": "iu", "device": "U"}
    if unlike := [name for name, kind in kinds.items() if arrays[name].dtype.kind not in kind]:
        raise _unfit(path, f"{unlike[0]} is {arrays[unlike[0]].dtype}")
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < len(_ACTIVITIES):
        raise _unfit(path, f"labels are not numbers from 0 to {len(_ACTIVITIES) - 1}")
    lengths = {len(arrays[name]) for name in ("subject", "execution", "device")}
    ends = len(offset) == recordings + 1 and offset[0] == 0
    if lengths != {recordings} or not ends or offset[-1] != len(x) or np.any(np.diff(offset) < 0):
        raise _unfit(path, "offset does not cut x into as many recordings as there are subjects")
    whose = (arrays[name].tolist() for name in ("subject", "execution", "device"))
    for begin, end, subject, execution, device in zip(offset[:-1], offset[1:], *whose, strict=True):
        samples = x[begin:end].astype(np.float32, copy=False)
        yield _Recording(subject, execution, device, samples, label[begin:end].astype(np.int64))


def _unfit(path: Path, why: str) -> DataFormatError:
    return DataFormatError(
        f"{path.name} is no archive of recordings",
        where=str(path),
        why=why,
        fix=f"pack it again, or get {_OFFICIAL}",
    )


def _folder(place: Path) -> Iterator[_Recording]:
    paths = sorted(place.glob("s*/s*_*_s*.csv*"))
    if not paths:
        file_of(place, ("s01/s01_01_sp.csv", "har_sp_sw.npz"), official=_OFFICIAL)
    for path in paths:
        if match := _FILE.fullmatch(path.name):
            table = load_csv(path, vocabularies={"label": _ACTIVITIES}, missing=())
            x = np.stack([table[name] for name in _CHANNELS], axis=1).astype(np.float32)
            yield _Recording(match[1], int(match[2]), match[3], x, table["label"])
