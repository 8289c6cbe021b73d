"""The loaders read the published files and find the counts that their authors state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.data import (
    group_by,
    load_arff,
    load_csv,
    load_mnist,
    load_npz,
    load_qmnist_labels,
    standardize,
)

ADULT = {
    "age": False,
    "workclass": True,
    "fnlwgt": False,
    "education": True,
    "education-num": False,
    "marital-status": True,
    "occupation": True,
    "relationship": True,
    "race": True,
    "sex": True,
    "capital-gain": False,
    "capital-loss": False,
    "hours-per-week": False,
    "native-country": True,
    "income": True,
}


def existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.parent.name}/{path.name} is not among the real data sets")
    return path


def test_mnist_has_its_published_counts_and_539_writers(shared_data: Path) -> None:
    folder = existing(shared_data / "mnist_writers")
    train, test = load_mnist(folder), load_mnist(folder, split="test")
    labels = load_qmnist_labels(existing(folder / "qmnist-train-labels-idx2-int.gz"))
    assert train.x.shape == (60_000, 28, 28, 1) and test.x.shape == (10_000, 28, 28, 1)
    digits = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train.y).tolist() == digits
    assert float(train.x.mean(dtype=np.float64)) == pytest.approx(0.1307, abs=5e-5)
    assert float(train.x.std(dtype=np.float64)) == pytest.approx(0.3081, abs=5e-5)
    assert (labels.digit == train.y).all()
    sizes = [len(writer) for writer in group_by(train, labels.writer)]
    assert (len(sizes), min(sizes), max(sizes), sorted(sizes)[269]) == (539, 19, 131, 116)
    assert sum(sizes) == 60_000


@pytest.mark.parametrize(
    ("hospital", "patients", "ill"),
    [("cleveland", 303, 139), ("hungarian", 294, 106), ("switzerland", 123, 115), ("va", 200, 149)],
)
def test_each_hospital_has_its_patients(
    shared_data: Path, hospital: str, patients: int, ill: int
) -> None:
    path = existing(shared_data / "heart_disease" / f"processed.{hospital}.data")
    data = load_csv(path, header=False).dataset(label=-1)
    assert data.x.shape == (patients, 13)
    assert int((data.y > 0).sum()) == ill
    scaled = standardize(data)(data)
    assert np.isnan(data.x).any() and np.isfinite(scaled.x).all()


def test_wisdm_has_36_people_and_six_activities(shared_data: Path) -> None:
    table = load_arff(existing(shared_data / "wisdm" / "WISDM_ar_v1.1_transformed.arff"))
    data = table.dataset(label="class", exclude=["UNIQUE_ID", "user"])
    assert data.x.shape == (5418, 43)
    counts = dict(zip(table.vocabularies["class"], np.bincount(data.y).tolist(), strict=True))
    assert counts == {
        "Walking": 2081,
        "Jogging": 1625,
        "Upstairs": 632,
        "Downstairs": 528,
        "Sitting": 306,
        "Standing": 246,
    }
    assert len(group_by(data, table["user"])) == 36


def test_adult_train_and_test_share_their_codes(shared_data: Path) -> None:
    folder = existing(shared_data / "adult")
    coded = [name for name, categorical in ADULT.items() if categorical]
    train = load_csv(folder / "adult.data.gz", header=False, names=list(ADULT), categorical=coded)
    # The test file ends its labels with a full stop and begins with a remark.
    words = {**train.vocabularies, "income": ("<=50K.", ">50K.")}
    test = load_csv(
        folder / "adult.test.gz", header=False, names=list(ADULT), vocabularies=words, comment="|"
    )
    assert (len(train), len(test)) == (32_561, 16_281)
    assert train.vocabularies["income"] == ("<=50K", ">50K")
    assert (int(train["income"].sum()), int(test["income"].sum())) == (7841, 3846)
    data = train.dataset(label="income", encode="one_hot")
    assert data.x.shape == (32_561, 105)
    assert test.dataset(label="income", encode="one_hot").x.shape == (16_281, 105)
    assert len(train.vocabularies["occupation"]) == 14


def test_parkinsons_has_42_patients(shared_data: Path) -> None:
    table = load_csv(existing(shared_data / "parkinsons" / "parkinsons_updrs.data.gz"))
    data = table.dataset(label="total_UPDRS", exclude=["subject#", "motor_UPDRS"])
    assert data.x.shape == (5875, 19) and data.y.dtype == np.float32
    assert len(group_by(data, table["subject#"])) == 42


def test_har_geotec_has_23_people_and_446_recordings(shared_data: Path) -> None:
    arrays = load_npz(existing(shared_data / "har_geotec" / "har_sp_sw.npz"))
    assert arrays["x"].shape == (521_766, 6) and arrays["x"].dtype == np.float32
    assert len(arrays["offset"]) == 447 and arrays["offset"][-1] == len(arrays["x"])
    assert len(np.unique(arrays["subject"])) == 23 and len(arrays["label_names"]) == 5
