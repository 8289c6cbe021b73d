"""Tables: columns by name, classes in the order of their values, ids as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Table
from fedcore.errors import ArgumentError, DataFormatError, DatasetError, FedcoreError
from fedsim.sources.columns import Columns, examples
from tests.sim.sources.miniatures import MINIATURES, load

WHOLE: dict[str, Any] = {"held_out": 0.0}


def write(folder: Path, text: str, name: str = "t.csv") -> dict[str, Any]:
    (folder / name).write_text(text)
    return {"path": str(folder / name), **WHOLE}


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=20))
def test_classes_follow_the_order_of_numbers(labels: list[int]) -> None:
    words = tuple(sorted({str(label) for label in labels}))
    codes = np.array([words.index(str(label)) for label in labels])
    table = Table({"a": np.zeros(len(labels)), "y": codes}, {"y": words})
    source = examples(table, Columns(target="y"))
    order = sorted(set(labels))
    assert source.class_names == tuple(map(str, order))
    assert source.labels.tolist() == [order.index(label) for label in labels]


def test_columns_are_target_ids_left_out_or_features(tmp_path: Path) -> None:
    text = "who,a,colour,b,y\n7,1,red,2,no\n12,3,blue,4,yes\n7,5,red,?,no\n"
    options = {**write(tmp_path, text), "target": "y", "ids": "who", "categorical": ["colour"]}
    source = load("csv", options)
    assert source.feature_names == ("a", "colour", "b")
    assert source.train.x.tolist() == [[1, 1, 2], [3, 0, 4], [5, 1, 3]]  # 3: the mean of 2 and 4
    assert source.labels.tolist() == [0, 1, 0] and source.class_names == ("no", "yes")
    assert source.ids is not None and source.ids.dtype == np.int64
    assert source.ids.tolist() == [7, 12, 7]
    found = load("csv", {**options, "encode": "one_hot", "exclude": ["b"]})
    assert found.feature_names == ("a", "colour=blue", "colour=red")
    assert found.train.x.tolist() == [[1, 0, 1], [3, 1, 0], [5, 0, 1]]


def test_a_table_without_header_has_columns_by_number_and_other_cells_may_be_missing(
    tmp_path: Path,
) -> None:
    options = write(tmp_path, "1\t2\n-\t4\n5\t1\n")
    options |= {"target": "1", "header": False, "delimiter": "tab", "missing": ["-"]}
    source = load("csv", {**options, "regression": True})
    assert source.classes is None and source.train.y.tolist() == [[2], [4], [1]]
    assert source.train.x.tolist() == [[1], [3], [5]] and source.ids is None


def test_ids_that_are_no_plain_numbers_stay_texts(tmp_path: Path) -> None:
    source = load("csv", {**write(tmp_path, "w,a,y\n07,1,0\n7,2,1\n"), "target": "y", "ids": "w"})
    assert source.ids is not None and source.ids.tolist() == ["07", "7"]


def test_a_test_file_has_the_training_files_words_and_clients_of_its_own(tmp_path: Path) -> None:
    text = "w,c,y\na,red,no\nb,blue,yes\nb,green,no\n"
    options = {**write(tmp_path, text), "target": "y", "ids": "w", "categorical": ["c"]}
    write(tmp_path, "w,c,y\nz,red,yes\n", "test.csv")
    source = load("csv", {**options, "test": str(tmp_path / "test.csv")})
    assert source.test is not None and len(source.train) == 3
    assert (source.test.x.tolist(), source.test.y.tolist()) == ([[2]], [1])
    assert source.test_ids is not None and source.test_ids.tolist() == ["z"]
    write(tmp_path, "w,c,y\nz,red,yes\nz,black,yes\n", "test.csv")
    with pytest.raises(DataFormatError, match="vocabulary") as found:
        load("csv", {**options, "test": str(tmp_path / "test.csv")})
    assert found.value.where == f"{tmp_path / 'test.csv'}:3"
    write(tmp_path, "w,d,y\nz,1,yes\n", "test.csv")
    with pytest.raises(FedcoreError):
        load("csv", {**options, "test": str(tmp_path / "test.csv")})


def test_cells_targets_and_ids_that_are_wrong_are_named(tmp_path: Path) -> None:
    options = {**write(tmp_path, "w,a,y\nx,1,0\nx,one,0\n"), "target": "y", "ids": "w"}
    with pytest.raises(DataFormatError, match="'a'") as found:
        load("csv", options)
    assert found.value.where == f"{options['path']}:3"
    for text, column in (("w,a,y\nx,1,\n", "'y'"), ("w,a,y\nx,1,0\n?,1,0\n", "'w'")):
        write(tmp_path, text)
        with pytest.raises(DatasetError) as missing:
            load("csv", options)
        assert column in missing.value.where
    with pytest.raises(ArgumentError, match="'z'") as unknown:
        load("csv", {**options, "target": "z"})
    assert unknown.value.where == options["path"]
    for text in ("w,a,y\nx,1e300,0\n", "w,a,y\nx,1,0\nx,-1e39,0\n"):
        write(tmp_path, text)
        with pytest.raises(DatasetError, match="beyond float32"):
            load("csv", options)
    write(tmp_path, "a,y\n1,1e300\n")
    with pytest.raises(DatasetError, match="targets are float32"):
        load("csv", {"path": options["path"], "target": "y", "regression": True})


def test_nominal_targets_are_classes_as_declared_and_numbers_a_regression(tmp_path: Path) -> None:
    header = "@relation r\n@attribute w numeric\n@attribute a real\n@attribute y {no,yes,maybe}\n"
    options = write(tmp_path, f"{header}@data\n3,1,yes\n3,?,no\n4,5,yes\n", "t.arff")
    source = load("arff", {**options, "target": "y", "ids": "w"})
    assert source.class_names == ("no", "yes", "maybe") and source.classes == 3
    assert source.labels.tolist() == [1, 0, 1] and source.train.x.tolist() == [[1], [3], [5]]
    assert source.ids is not None and source.ids.tolist() == [3, 3, 4]
    numbers = load("arff", {**options, "target": "w", "exclude": ["y"]})
    assert numbers.classes is None and numbers.train.y.tolist() == [[3], [3], [4]]
    other = header.replace("no,yes", "yes,no")
    write(tmp_path, f"{other}@data\n3,1,yes\n", "test.arff")
    with pytest.raises(DatasetError, match="'y'"):
        load("arff", {**options, "target": "y", "test": str(tmp_path / "test.arff")})
    write(tmp_path, f"{header}@data\n9,?,yes\n", "test.arff")
    found = load("arff", {**options, "target": "y", "test": str(tmp_path / "test.arff")})
    assert found.test is not None and found.test.x.tolist() == [[9, 3]]


def test_activities_and_people_of_wisdm_are_classes_and_clients(tmp_path: Path) -> None:
    source = load("wisdm", {**MINIATURES["wisdm"](tmp_path), **WHOLE})
    assert source.ids is not None and source.ids.tolist() == [33, 4] * 6
    assert source.train.x.shape == (12, 43) and source.class_names[0] == "Walking"
    assert source.labels.tolist() == list(range(6)) * 2


def test_the_census_shares_its_codes_and_clients_are_made_of_a_column(tmp_path: Path) -> None:
    options = MINIATURES["adult"](tmp_path)
    source = load("adult", {**options, "encode": "codes"})
    assert source.train.x.shape == (12, 14) and source.test is not None
    assert source.class_names == ("<=50K", ">50K")
    assert source.labels.tolist() == [0, 1] * 6 and source.test.y.tolist() == [0, 1] * 2
    jobs = ("Sales", "?", "Tech-support", "Sales")
    assert source.ids is not None and source.ids.tolist() == [jobs[row % 4] for row in range(12)]
    assert source.test_ids is not None and source.test_ids.tolist() == list(jobs)
    sexes = source.feature_names.index("sex")
    assert source.train.x[:, sexes].tolist() == [1, 0] * 6
    assert load("adult", {**options, "clients": "none"}).ids is None
    one_hot = load("adult", options)
    assert "workclass=?" in one_hot.feature_names
    job = [name for name in one_hot.feature_names if name.startswith("occupation=")]
    columns = [one_hot.feature_names.index(name) for name in job]
    assert (one_hot.train.x[:, columns].sum(axis=1) == 1).all()
