"""Windows lie within one recording, and what overlaps is held out together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.data import load_csv
from fedcore.errors import DataFormatError
from tests.sim.sources.miniatures import MINIATURES, load

CHANNELS = ("x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro")
SCALE = np.array([10, 10, 10, 2, 2, 2], np.float32)


def recordings(folder: Path) -> dict[tuple[str, int, str], tuple[Any, Any]]:
    """Person, execution and device of each official file: its samples and labels."""
    found = {}
    for path in sorted(folder.glob("s*/*_s?.csv")):
        person, execution, device = path.stem.split("_")
        table = load_csv(path, categorical=["label"])
        x = np.stack([table[name] for name in CHANNELS], axis=1).astype(np.float32)
        names = np.array(table.vocabularies["label"])
        found[person, int(execution), device] = x / SCALE, names[table["label"]]
    return found


def pack(folder: Path, path: Path, **changes: Any) -> None:
    """All recordings of a folder in one archive."""
    found = recordings(folder)
    order = ["SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN"]
    labels = np.concatenate([label for _, label in found.values()])
    whose = list(zip(*found, strict=True))
    arrays = {
        "x": np.concatenate([x for x, _ in found.values()]) * SCALE,
        "label": np.array([order.index(label) for label in labels], np.uint8),
        "offset": np.cumsum([0, *(len(x) for x, _ in found.values())]),
        "subject": np.array(whose[0]),
        "execution": np.array(whose[1], np.uint8),
        "device": np.array(whose[2]),
    }
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if len(value)})


def test_each_window_is_a_stretch_of_one_recording_and_says_what_most_of_it_is(
    tmp_path: Path,
) -> None:
    source = load("har", {**MINIATURES["har"](tmp_path), "held_out": 0.0})
    expected = [
        (person, x[begin : begin + 4], label[begin : begin + 4])
        for (person, _, _), (x, label) in recordings(tmp_path).items()
        for begin in range(0, len(x) - 3, 2)
    ]
    assert source.ids is not None and source.ids.tolist() == [person for person, _, _ in expected]
    assert np.array_equal(source.train.x, np.stack([x for _, x, _ in expected]))
    for number, (_, _, labels) in zip(source.labels.tolist(), expected, strict=True):
        name = source.class_names[number]
        assert (labels == name).sum() >= 2  # of four samples, of two activities


def test_the_statistics_are_those_of_the_windows(tmp_path: Path) -> None:
    options = {**MINIATURES["har"](tmp_path), "held_out": 0.0}
    x = load("har", options).train.x
    found = load("har", {**options, "features": "statistics"})
    assert found.train.x.shape == (len(x), 36)
    columns = {name: found.train.x[:, i] for i, name in enumerate(found.feature_names)}
    assert np.allclose(columns["y_acc mean"], x[:, :, 1].mean(axis=1), atol=1e-6)
    assert np.allclose(columns["z_gyro max"], x[:, :, 5].max(axis=1))
    assert np.allclose(columns["x_acc median"], np.median(x[:, :, 0], axis=1))
    moved = 10 * np.abs(np.diff(x[:, :, 3], axis=1)).mean(axis=1)
    assert np.allclose(columns["x_gyro moved"], moved, atol=1e-5)


def test_phone_and_watch_of_one_execution_are_held_out_together(tmp_path: Path) -> None:
    source = load("har", {**MINIATURES["har"](tmp_path), "held_out": 0.2})
    assert source.test is not None
    found = recordings(tmp_path)

    def executions(x: Any) -> set[tuple[str, int]]:
        return {
            (person, execution)
            for (person, execution, _), (samples, _) in found.items()
            if any(np.array_equal(samples[:4], window) for window in x)
        }

    train, test = executions(source.train.x), executions(source.test.x)
    assert train.isdisjoint(test) and len(train) == 8
    assert {person for person, _ in test} == {"s01", "s02"} and len(test) == 2


def test_devices_are_chosen_and_recordings_too_short_left_out(tmp_path: Path) -> None:
    options = {**MINIATURES["har"](tmp_path), "held_out": 0.0}
    sizes = {d: len(load("har", {**options, "device": d}).train) for d in ("phone", "watch")}
    assert sizes == {"phone": 2 * 5 * 4, "watch": 2 * 5 * 3}
    assert len(load("har", {**options, "window": 10}).train) == 2 * 5
    with pytest.raises(DataFormatError, match="no recording has 12 samples"):
        load("har", {**options, "window": 12})


def test_an_archive_of_the_recordings_gives_what_their_files_give(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    options = MINIATURES["har"](tmp_path / "files")
    pack(tmp_path / "files", tmp_path / "har_sp_sw.npz")
    one, same = load("har", options), load("har", {**options, "path": str(tmp_path)})
    assert np.allclose(one.train.x, same.train.x, atol=1e-6)
    assert np.array_equal(one.train.y, same.train.y)
    assert one.ids is not None and same.ids is not None and np.array_equal(one.ids, same.ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": np.array([0, 5])},
        {"offset": np.array([])},
        {"offset": np.arange(21.0)},
        {"offset": np.array([0, *range(200, 181, -1), 200])},
        {"label": np.full(200, 5)},
        {"label": np.zeros(199, np.uint8)},
        {"x": np.zeros((200, 5), np.float32)},
        {"subject": np.arange(20)},
        {"device": np.array(["sp"])},
        {"x": np.zeros((0, 6)), "label": np.array([], int), "offset": np.zeros(21, int)},
    ],
)
def test_an_archive_that_does_not_fit_together_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    options = MINIATURES["har"](tmp_path / "files")
    pack(tmp_path / "files", tmp_path / "har_sp_sw.npz", **changes)
    with pytest.raises(DataFormatError):
        load("har", {**options, "path": str(tmp_path)})


def test_a_bad_cell_is_named_by_file_line_and_column(tmp_path: Path) -> None:
    options = MINIATURES["har"](tmp_path)
    path = tmp_path / "s02" / "s02_03_sp.csv"
    lines = path.read_text().splitlines()
    cells = lines[4].split(",")
    path.write_text("\n".join([*lines[:4], ",".join([*cells[:2], "much", *cells[3:]]), ""]))
    with pytest.raises(DataFormatError, match="'z_acc'") as found:
        load("har", options)
    assert found.value.where == f"{path}:5"
