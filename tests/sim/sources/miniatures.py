"""Every source in small: files of the official form, written by hand, and the options that fit."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.sources import SourceSpec
from fedsim.sources.source import Source

__all__ = ["MINIATURES", "load", "write_idx"]

Options = dict[str, Any]


def write_idx(path: Path, array: np.ndarray) -> None:
    """An IDX file of bytes or int32, gzip if its name says so."""
    code = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist(folder: Path) -> Options:
    draw = np.random.default_rng(1)
    for prefix, rows in (("train", 12), ("t10k", 5)):
        images = draw.integers(256, size=(rows, 3, 3)).astype(np.uint8)
        labels = (np.arange(rows) % 4).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
        if prefix == "train":
            table = np.zeros((rows, 8), np.int32)
            table[:, 0], table[:, 2] = labels, 100 + np.arange(rows) // 5
            write_idx(folder / "qmnist-train-labels-idx2-int.gz", table)
    return {"path": str(folder)}


def har(folder: Path) -> Options:
    draw = np.random.default_rng(2)
    for person in ("s01", "s02"):
        (folder / person).mkdir()
        for execution in (1, 2, 3, 4, 5):
            for device, samples in (("sp", 11), ("sw", 9), ("xx", 9)):
                lines = ["x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"]
                for time in range(samples):
                    cells = ",".join(f"{value:.4f}" for value in draw.normal(size=6))
                    activity = "WALKING" if time < 6 else "SITTING_DOWN"
                    lines.append(f"{cells},{1657533977813 + time},{activity}")
                path = folder / person / f"{person}_{execution:02d}_{device}.csv"
                path.write_text("\n".join(lines) + "\n")
    return {"path": str(folder), "window": 4, "step": 2}


def heart_disease(folder: Path) -> Options:
    draw = np.random.default_rng(3)
    for hospital, rows in (("cleveland", 6), ("hungarian", 5), ("switzerland", 5), ("va", 4)):
        table = draw.integers(1, 99, size=(rows, 14))
        table[:, 13] = np.arange(rows) % 5
        lines = [",".join(map(str, row)) for row in table.tolist()]
        (folder / f"processed.{hospital}.data").write_text("\n".join(lines) + "\n")
    return {"path": str(folder)}


def wisdm(folder: Path) -> Options:
    features = [f"F{place}" for place in range(43)]
    activities = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
    lines = ["@relation tiny", '@attribute "UNIQUE_ID" numeric', '@attribute "user" {"33", "4"}']
    lines += [f'@attribute "{name}" numeric' for name in features]
    lines += ["@attribute class { " + " , ".join(f'"{name}"' for name in activities) + " }"]
    lines += ["", "@data"]
    for row in range(12):
        cells = ",".join(str(row * 43 + place) for place in range(43))
        lines.append(f"{row},{(33, 4)[row % 2]},{cells},{activities[row % 6]}")
    (folder / "WISDM_ar_v1.1_transformed.arff").write_text("\n".join(lines) + "\n")
    return {"path": str(folder)}


_ADULT = (
    "{age}, {work}, {weight}, Bachelors, 13, Never-married, {job}, Not-in-family, White, {sex}, "
    "{gain}, 0, 40, United-States, {income}"
)


def adult(folder: Path) -> Options:
    works, jobs = ("State-gov", "Private", "?"), ("Sales", "?", "Tech-support", "Sales")
    rows = [
        _ADULT.format(
            age=20 + row,
            work=works[row % 3],
            weight=1000 + row,
            job=jobs[row % 4],
            sex=("Male", "Female")[row % 2],
            gain=row,
            income=("<=50K", ">50K")[row % 2],
        )
        for row in range(16)
    ]
    (folder / "adult.data").write_text("\n".join(rows[:12]) + "\n\n")
    tested = "|1x3 Cross validator\n" + "".join(f"{row}.\n" for row in rows[12:])
    (folder / "adult.test.gz").write_bytes(gzip.compress(tested.encode()))
    return {"path": str(folder), "clients": "occupation"}


def parkinsons(folder: Path) -> Options:
    voice = [f"voice{place}" for place in range(16)]
    names = ["subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS", *voice]
    lines = [",".join(names)]
    for row in range(24):
        person, session = 1 + row // 12, row % 6
        time = 5.6431 + 7 * session + 0.0007 * (row % 12 // 6)
        score = 20.5 + session
        cells = [person, 60 + person, 0, time, score, score + 6, *range(row, row + 16)]
        lines.append(",".join(map(str, cells)))
    (folder / "parkinsons_updrs.data").write_text("\n".join(lines) + "\n")
    return {"path": str(folder)}


def shakespeare(folder: Path) -> Options:
    plays = {
        "first": {"HAM": ["To be,\nor not", "to be: that is the question"], "MUTE": ["O!"]},
        "second": {"HAM": ["abcdefghijklmnopqrstuvwxyz0123456789"], "ZÖE": ["Ça va? " * 9]},
    }
    (folder / "shakespeare_37plays_by_role.json").write_text(json.dumps(plays), "utf-8")
    return {"path": str(folder), "length": 4, "step": 4, "minimum": 10}


def digits(folder: Path) -> Options:
    return {}


def synthetic(folder: Path) -> Options:
    return {"rows": 30, "shape": [3, 2], "classes": 3, "test_rows": 7}


def npz(folder: Path) -> Options:
    x = np.arange(60.0).reshape(20, 3)
    np.savez(folder / "own.npz", x=x, y=np.arange(20) % 3, ids=np.arange(20) // 7)
    return {"path": str(folder / "own.npz")}


def csv(folder: Path) -> Options:
    lines = ["ward;age;colour;ill"]
    lines += [
        f"{'ab'[row % 2]};{30 + row};{('red', 'blue')[row % 3 % 2]};{10 * (row % 2)}"
        for row in range(14)
    ]
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    return {
        "path": str(folder / "own.csv"),
        "target": "ill",
        "ids": "ward",
        "categorical": ["colour"],
        "delimiter": ";",
    }


def arff(folder: Path) -> Options:
    lines = ["@relation r", "@attribute age numeric", "@attribute ward string"]
    lines += ["@attribute dose real", "@data"]
    lines += [f"{30 + row},ward {row % 2},{row / 4}" for row in range(12)]
    (folder / "own.arff").write_text("\n".join(lines) + "\n")
    return {"path": str(folder / "own.arff"), "target": "dose", "ids": "ward"}


def device_files(folder: Path) -> Options:
    draw = np.random.default_rng(4)
    for name, rows in (("dora", 3), ("anna", 4), ("test", 2)):
        np.savez(folder / f"{name}.npz", x=draw.normal(size=(rows, 2)), y=np.arange(rows) % 3)
    lines = ["width,height,kind", "1,2,0", "3,4.5,2"]
    (folder / "ben.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "notes.txt").write_text("of no device")
    return {"path": str(folder), "test": str(folder / "test.npz")}


MINIATURES: Mapping[str, Callable[[Path], Options]] = {
    "adult": adult,
    "arff": arff,
    "csv": csv,
    "device_files": device_files,
    "digits": digits,
    "har": har,
    "heart_disease": heart_disease,
    "mnist": mnist,
    "npz": npz,
    "parkinsons": parkinsons,
    "shakespeare": shakespeare,
    "synthetic": synthetic,
    "wisdm": wisdm,
}
"""What writes a source's files into an empty folder, and gives the options to read them."""


def load(name: str, options: Mapping[str, Any], base: Path = Path()) -> Source:
    """What a scenario's table of this source and these options loads."""
    return SourceSpec.read({"name": name, **options}, "source").load(base)
