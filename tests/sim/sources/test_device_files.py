"""A folder of device's files: who is in it, what is read of each, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.data import Dataset, load_examples
from fedcore.errors import ArgumentError, DatasetError
from fedsim.partition import PartitionSpec
from fedsim.population import Population
from fedsim.sources.device_files import write_device_files
from tests.sim.sources.miniatures import MINIATURES, load


def people(folder: Path, **options: str) -> Population:
    source = load("device_files", {"path": str(folder), **options})
    natural = PartitionSpec.read({"name": "natural"}, "partition")
    return Population(source.train, natural.make(source.labels, source.ids, clients=None, seed=1))


def test_each_file_is_the_client_of_its_name_with_what_its_device_reads(tmp_path: Path) -> None:
    options = MINIATURES["device_files"](tmp_path)
    found = people(tmp_path, test=options["test"])
    assert found.names == ("anna", "ben", "dora")
    files = [tmp_path / name for name in ("anna.npz", "ben.csv.gz", "dora.npz")]
    for client, own in zip(found, map(load_examples, files), strict=True):
        assert client.dataset.x.dtype == np.float32 and client.dataset.y.dtype == np.int64
        assert np.array_equal(client.dataset.x, own.x.astype(np.float32))
        assert np.array_equal(client.dataset.y, own.y)
    assert people(tmp_path).names == ("anna", "ben", "dora", "test")


def test_what_was_written_for_devices_is_read_as_it_was(tmp_path: Path) -> None:
    clients = [
        Dataset(np.full((rows, 3), place, np.float32), np.arange(rows), f"phone {place}")
        for place, rows in enumerate((2, 5, 1))
    ]
    assert write_device_files(tmp_path / "new", clients) == 3
    for client, again in zip(clients, people(tmp_path / "new"), strict=True):
        assert again.name == client.name
        assert np.array_equal(again.dataset.x, client.x)
        assert np.array_equal(again.dataset.y, client.y)


def test_a_folder_that_is_there_and_a_name_that_no_file_can_have_are_refused(
    tmp_path: Path,
) -> None:
    def named(name: str) -> list[Dataset]:
        return [Dataset(np.zeros((1, 1)), np.zeros(1), name)]

    with pytest.raises(ArgumentError, match="cannot be made"):
        write_device_files(tmp_path, named("anna"))
    for place, name in enumerate(("", "a/b", "..", ".anna", "a" * 65)):
        with pytest.raises(ArgumentError, match="no device is called"):
            write_device_files(tmp_path / str(place), named(name))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 3)), "y": [0, 1]}, "in one form"),
        ({"x": np.zeros((2, 2)), "y": [0.5, 1]}, "in one form"),
        ({"x": np.zeros((2, 2)), "y": ["a", "b"]}, "numbered from 0 on"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "is empty"),
        ({"x": np.zeros((2, 2)), "y": [-1, 1]}, "from 0 to"),
        ({"x": np.zeros((2, 2))}, "no arrays x and y"),
    ],
)
def test_a_file_that_fits_no_others_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "anna.npz", x=np.zeros((2, 2)), y=[0, 1])
    np.savez(tmp_path / "ben.npz", **arrays)
    with pytest.raises(DatasetError) as refused:
        people(tmp_path)
    assert said in str(refused.value)


def test_two_files_of_one_device_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "anna.npz", x=np.zeros((2, 2)), y=[0, 1])
    (tmp_path / "anna.csv").write_text("a,b,c\n1,2,0\n")
    with pytest.raises(DatasetError, match="two files of anna"):
        people(tmp_path)
