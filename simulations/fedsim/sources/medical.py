"""Patients: four hospitals' heart disease, and the voices of 42 people with Parkinson's disease.

Sources: A. Janosi, W. Steinbrunn, M. Pfisterer and R. Detrano, "Heart Disease", UCI (1989);
A. Tsanas and M. Little, "Parkinsons Telemonitoring", UCI (2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from fedcore.data import Dataset, load_csv
from fedsim.sources.columns import Columns, examples
from fedsim.sources.files import file_of, place_of, sole_file
from fedsim.sources.held_out import Measured
from fedsim.sources.source import Source

__all__ = ["HeartDisease", "Parkinsons"]

_HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")
_MEASURES: Final = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
)
_SPARSE: Final = ("slope", "ca", "thal")
_NEVER_ZERO: Final = ("trestbps", "chol")


@dataclass(frozen=True, kw_only=True)
class HeartDisease(Measured):
    """920 patients of four hospitals, who have narrowed arteries (1) or not (0); ids: hospitals.

    Missing measurements become the mean of the training rows that have them. Three columns, slope,
    ca and thal, are missing in most rows of three hospitals, and a mean would say little but which
    hospital it is: they are left out unless `sparse` is set. A blood pressure or a cholesterol of
    0, which Switzerland has throughout, is none: it is missing, too.
    Shapes: x (N, 10) float32, with `sparse` (N, 13); y (N,) int64.
    """

    path: str
    sparse: bool = False

    def load(self, base: Path) -> Source:
        """The four files `processed.HOSPITAL.data` in the folder `path`."""
        place = place_of(base, self.path)
        kept = [name for name in _MEASURES if self.sparse or name not in _SPARSE]
        parts, y = [], []
        for hospital in _HOSPITALS:
            official = 'the processed files of "Heart Disease" from the UCI repository'
            path = file_of(place, (f"processed.{hospital}.data",), official=official)
            data = load_csv(path, header=False, names=[*_MEASURES, "num"]).dataset(label="num")
            parts.append(data.x)
            y.append(data.y > 0)
        x = np.concatenate(parts)
        for name in _NEVER_ZERO:
            column = x[:, _MEASURES.index(name)]
            column[column == 0] = np.nan
        return self.finished(
            Source(
                Dataset(
                    x[:, [_MEASURES.index(name) for name in kept]],
                    np.concatenate(y).astype(np.int64),
                    "heart disease",
                ),
                ids=np.repeat(np.array(_HOSPITALS), [len(part) for part in parts]),
                classes=2,
                feature_names=tuple(kept),
                class_names=("healthy", "diseased"),
            )
        )


@dataclass(frozen=True, kw_only=True)
class Parkinsons(Measured):
    """5,875 recordings of the voices of 42 patients, and their score on the scale UPDRS; ids: them.

    `target`: "total_UPDRS", or "motor_UPDRS"; the other one is no feature. A day's recordings,
    about six, have one score, and are held out together.
    Shapes: x (N, 19) float32, age, sex, time in days and 16 measures of the voice; y (N, 1)
    float32.
    """

    path: str
    target: Literal["motor_UPDRS", "total_UPDRS"] = "total_UPDRS"

    def load(self, base: Path) -> Source:
        """The file `parkinsons_updrs.data` in the folder `path`, or `path` itself."""
        official = '"Parkinsons Telemonitoring" from the UCI repository'
        place = place_of(base, self.path)
        table = load_csv(sole_file(place, "parkinsons_updrs.data", official=official))
        other = {"motor_UPDRS", "total_UPDRS"} - {self.target}
        columns = Columns(target=self.target, ids="subject#", exclude=other)
        return self.finished(examples(table, columns), np.floor(table["test_time"]))
