"""Models in the blob store: named by what they are, and checked when they come out."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fedcore.autograd.ravel import ravel
from fedcore.errors import BlobError, CheckpointError, DataFormatError, ShapeError
from fedcore.tensor.tensor import tensor
from fedserver.blobs import LocalBlobStore
from fedserver.model_files import ModelOrigin, load_model, store_model

THETA, REBUILD = ravel({"w": tensor([[1.0, 2.0]]), "b": tensor([0.5])})
SPEC, VECTOR = REBUILD.spec, THETA.numpy()
FIRST = ModelOrigin("digits", 0, b"")


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


@pytest.mark.parametrize("mapped", [False, True])
async def test_a_model_comes_out_as_it_went_in(blobs: LocalBlobStore, mapped: bool) -> None:
    first = await store_model(blobs, VECTOR, SPEC, FIRST)
    origin = ModelOrigin("digits", 1, first)
    second = await store_model(blobs, VECTOR * 2, SPEC, origin)
    vector, found = await load_model(blobs, second, SPEC, mapped=mapped)
    assert np.array_equal(vector, VECTOR * 2)
    assert found == origin
    assert (await load_model(blobs, first, SPEC))[1] == FIRST


async def test_a_model_has_one_name_and_another_model_has_another(blobs: LocalBlobStore) -> None:
    stored = [
        await store_model(blobs, vector, SPEC, origin)
        for vector, origin in [
            (VECTOR, FIRST),
            (VECTOR.copy(), ModelOrigin("digits", 0, b"")),
            (VECTOR + 1, FIRST),
            (VECTOR, ModelOrigin("digits", 1, b"")),
            (VECTOR, ModelOrigin("letters", 0, b"")),
        ]
    ]
    assert stored[0] == stored[1]
    assert len(set(stored)) == 4


async def test_what_is_no_model_leaves_nothing_behind(
    blobs: LocalBlobStore, tmp_path: Path
) -> None:
    with pytest.raises(ShapeError):
        await store_model(blobs, VECTOR[:-1], SPEC, FIRST)
    assert files(tmp_path) == []


async def test_a_damaged_a_missing_and_a_strange_model_are_told_apart(
    blobs: LocalBlobStore, tmp_path: Path
) -> None:
    digest = await store_model(blobs, VECTOR, SPEC, FIRST)
    other = ravel({"v": tensor([1.0, 2.0, 3.0])})[1].spec
    with pytest.raises(CheckpointError):
        await load_model(blobs, digest, other)
    with pytest.raises(DataFormatError):
        await load_model(blobs, await blobs.put_bytes(b"a letter to somebody"), SPEC)
    path = next(path for path in files(tmp_path) if path.name == digest.hex())
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(BlobError, match="damaged"):
        await load_model(blobs, digest, SPEC)
    with pytest.raises(BlobError, match="ENOENT"):
        await load_model(blobs, bytes(32), SPEC)


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"round": "1", "parent": ""},
        {"task": "t", "round": "01", "parent": ""},
        {"task": "t", "round": "-1", "parent": ""},
        {"task": "t", "round": "9" * 19, "parent": ""},
        {"task": "t", "round": "1"},
        {"task": "t", "round": "1", "parent": "AB" * 32},
        {"task": "t", "round": "1", "parent": "ab" * 31},
    ],
)
def test_texts_that_name_no_origin_are_refused(texts: dict[str, str]) -> None:
    with pytest.raises(DataFormatError, match="comes from"):
        ModelOrigin.of(texts)


async def test_a_large_model_is_stored_and_read_without_a_second_copy(
    blobs: LocalBlobStore,
) -> None:
    theta, rebuild = ravel({"w": tensor(np.ones(1 << 22, np.float32))})
    vector = theta.numpy()
    tracemalloc.start()
    try:
        digest = await store_model(blobs, vector, rebuild.spec, FIRST)
        _, storing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        loaded = (await load_model(blobs, digest, rebuild.spec))[0]
        _, loading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert storing < 2 << 20
    assert loading < loaded.nbytes + (4 << 20)
    assert np.array_equal(loaded, vector)
