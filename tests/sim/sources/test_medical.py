"""Hospitals and patients: what is missing, what ill means, and which rows are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import DataFormatError
from tests.sim.sources.miniatures import MINIATURES, load


def test_a_label_above_0_is_disease_and_hospitals_are_clients(tmp_path: Path) -> None:
    source = load("heart_disease", {**MINIATURES["heart_disease"](tmp_path), "held_out": 0.0})
    assert source.ids is not None
    names, sizes = np.unique(source.ids, return_counts=True)
    assert dict(zip(names.tolist(), sizes.tolist(), strict=True)) == {
        "cleveland": 6,
        "hungarian": 5,
        "switzerland": 5,
        "va": 4,
    }
    assert source.labels.tolist() == [int(n % 5 > 0) for k in (6, 5, 5, 4) for n in range(k)]
    assert source.train.x.shape == (20, 10) and source.class_names == ("healthy", "diseased")


def test_measures_that_are_missing_or_cannot_be_0_become_the_mean_of_those_there_are(
    tmp_path: Path,
) -> None:
    options = {**MINIATURES["heart_disease"](tmp_path), "held_out": 0.0, "sparse": True}
    plain = load("heart_disease", options).train.x.copy()
    path = tmp_path / "processed.va.data"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[0][4], rows[1][4], rows[2][11], rows[3][7] = "0", "?", "?", "0"
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    found = load("heart_disease", options).train.x
    gone = np.zeros(plain.shape, bool)
    gone[[16, 17, 18], [4, 4, 11]] = True
    mean = np.nanmean(np.where(gone, np.nan, plain), axis=0)
    plain[19, 7] = 0  # a pulse of 0 is written, and kept
    assert np.allclose(found[gone], np.broadcast_to(mean, plain.shape)[gone])
    assert np.array_equal(found[~gone][:150], plain[~gone][:150])
    assert found[19, 7] == 0


def test_columns_that_most_hospitals_lack_are_read_if_asked(tmp_path: Path) -> None:
    options = MINIATURES["heart_disease"](tmp_path)
    few, all_ = load("heart_disease", options), load("heart_disease", {**options, "sparse": True})
    assert set(all_.feature_names) - set(few.feature_names) == {"slope", "ca", "thal"}
    columns = [all_.feature_names.index(name) for name in few.feature_names]
    assert np.array_equal(all_.train.x[:, columns], few.train.x)


def test_a_hospital_that_is_missing_or_malformed_is_named(tmp_path: Path) -> None:
    options = MINIATURES["heart_disease"](tmp_path)
    path = tmp_path / "processed.hungarian.data"
    path.write_text(path.read_text() + "1,2,3\n")
    with pytest.raises(DataFormatError, match="row of 3 cells") as found:
        load("heart_disease", options)
    assert found.value.where == f"{path}:6"
    path.unlink()
    with pytest.raises(DataFormatError, match=r"processed\.hungarian\.data is missing") as found:
        load("heart_disease", options)
    assert "UCI" in found.value.fix


@pytest.mark.parametrize("target", ["total_UPDRS", "motor_UPDRS"])
def test_either_score_is_predicted_and_neither_is_a_feature(target: str, tmp_path: Path) -> None:
    options = {**MINIATURES["parkinsons"](tmp_path), "target": target, "held_out": 0.0}
    source = load("parkinsons", options)
    assert source.classes is None and source.train.x.shape == (24, 19)
    assert not {"total_UPDRS", "motor_UPDRS", "subject#"} & set(source.feature_names)
    first = 26.5 if target == "total_UPDRS" else 20.5
    assert np.allclose(source.labels, [first + row % 6 for row in range(24)])
    assert source.ids is not None and source.ids.tolist() == [1] * 12 + [2] * 12


def test_recordings_of_one_patient_and_day_are_held_out_together(tmp_path: Path) -> None:
    source = load("parkinsons", {**MINIATURES["parkinsons"](tmp_path), "held_out": 0.4})
    assert source.test is not None and len(source.test) == 2 * 2 * 2
    days = [
        set(zip(data.x[:, 0].tolist(), np.floor(data.x[:, 2]).tolist(), strict=True))
        for data in (source.train, source.test)
    ]
    assert days[0].isdisjoint(days[1])
