"""The published files as sources: counts that their authors state, and natural clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.sources import Source
from tests.deployed.har_features import people
from tests.sim.sources.miniatures import load

SETS: dict[str, tuple[str, dict[str, Any], int, int | None, int | None, tuple[int, ...]]] = {
    "mnist": ("mnist_writers", {}, 70_000, 539, 10, (28, 28, 1)),
    "har": ("har_geotec", {}, 9_777, 23, 5, (100, 6)),
    "heart_disease": ("heart_disease", {}, 920, 4, 2, (10,)),
    "wisdm": ("wisdm", {}, 5_418, 36, 6, (43,)),
    "adult": ("adult", {"clients": "workclass"}, 48_842, 9, 2, (108,)),
    "parkinsons": ("parkinsons", {}, 5_875, 42, None, (19,)),
    "shakespeare": ("shakespeare", {"held_out": 0.0}, 198_308, 624, 97, (80,)),
}


def read(shared_data: Path, name: str, **options: Any) -> Source:
    folder = shared_data / SETS[name][0]
    if not folder.exists():
        pytest.skip(f"{folder.name} is not among the real data sets")
    return load(name, {"path": folder.name, **SETS[name][1], **options}, shared_data)


@pytest.mark.parametrize("name", SETS)
def test_rows_clients_and_classes_are_those_published(name: str, shared_data: Path) -> None:
    _, _, rows, clients, classes, shape = SETS[name]
    source = read(shared_data, name)
    assert len(source.train) + (0 if source.test is None else len(source.test)) == rows
    assert source.ids is not None and len(np.unique(source.ids)) == clients
    assert source.classes == classes and source.train.x.shape[1:] == shape
    assert not np.isnan(source.train.x.astype(np.float32, copy=False)).any()
    if classes is not None and name != "shakespeare":  # which has not every printable character
        assert len(np.unique(source.labels)) == classes


@pytest.mark.parametrize("name", ["har", "heart_disease", "wisdm", "parkinsons"])
def test_about_a_fifth_of_each_client_is_held_out(name: str, shared_data: Path) -> None:
    source = read(shared_data, name)
    assert source.test is not None and source.ids is not None and source.test_ids is not None
    assert np.array_equal(np.unique(source.ids), np.unique(source.test_ids))
    assert len(source.test) / (len(source.test) + len(source.train)) == pytest.approx(0.2, abs=0.01)


def test_the_statistics_of_windows_are_those_that_the_deployed_example_trains_on(
    shared_data: Path,
) -> None:
    source = read(shared_data, "har", features="statistics", held_out=0.0)
    expected = people(shared_data / "har_geotec" / "har_sp_sw.npz")
    assert source.ids is not None and sorted(expected) == np.unique(source.ids).tolist()
    for person, parts in expected.items():
        rows = source.train[source.ids == person]
        x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in "xy")
        order, wanted = np.lexsort(np.rint(rows.x.T * 1e3)), np.lexsort(np.rint(x.T * 1e3))
        assert np.allclose(rows.x[order], x[wanted], atol=1e-4)
        assert np.array_equal(np.sort(rows.y), np.sort(y))
