"""No bytes make a loader raise anything but its own errors, or hold more than it was given."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.data import load_arff, load_csv, load_idx, load_npz, load_qmnist_labels
from fedcore.errors import FedcoreError
from tests.random_examples import thorough
from tests.variants import mostly_slow

Loader = Callable[[Path], Any]


def _npz(compress: bool) -> bytes:
    stream = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(stream, x=np.arange(6.0).reshape(2, 3), y=np.array(["ab", "c"]))
    return stream.getvalue()


IDX = b"\0\0\x0b\x02\0\0\0\2\0\0\0\3" + bytes(range(12))
ARFF = (
    b"""% c\n@relation 'r s'\n@attribute "a" real\n@attribute b {x, 'y z'}\n@data\n1,x\n?,'y z'\n"""
)
CSV = b'a,b\n1,"x ""q"""\n?,y\n2e3,\xc3\xa9\n'
VALID: dict[str, tuple[Loader, bytes]] = {
    "idx": (load_idx, IDX),
    "idx gzip": (load_idx, gzip.compress(IDX)),
    "qmnist": (load_qmnist_labels, b"\0\0\x0c\x02\0\0\0\2\0\0\0\x08" + bytes(64)),
    "arff": (load_arff, ARFF),
    "csv": (lambda path: load_csv(path, categorical=[1]), CSV),
    "csv gzip": (lambda path: load_csv(path, header=False), gzip.compress(b"1,2\n3,4\n")),
    "npz": (load_npz, _npz(False)),
    "npz deflated": (load_npz, _npz(True)),
}
# Pieces of 1 MiB, the inflated content (deflate expands at most 1,032 times) and the tables made of
# it, for inputs of at most about 1 kB.
PEAK_BYTES = 12_000_000


def load_or_refuse(loader: Loader, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        loader(path)
    except FedcoreError as error:
        assert error.why and error.fix
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PEAK_BYTES


@pytest.mark.parametrize("name", VALID)
def test_the_unchanged_file_is_read(tmp_path: Path, name: str) -> None:
    loader, content = VALID[name]
    (tmp_path / "a").write_bytes(content)
    loader(tmp_path / "a")


@pytest.mark.parametrize("name", mostly_slow(VALID, quick=4))
def test_a_file_cut_anywhere_is_read_or_refused(tmp_path: Path, name: str) -> None:
    loader, content = VALID[name]
    for end in range(len(content)):
        load_or_refuse(loader, tmp_path / "a", content[:end])


@pytest.mark.parametrize("name", mostly_slow(VALID, quick=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=thorough(200))
@given(data=st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    loader, content = VALID[name]
    changed = bytearray(content)
    place = st.integers(0, len(content) - 1)
    for position, byte in data.draw(
        st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)
    ):
        changed[position] = byte
    load_or_refuse(loader, tmp_path / "a", bytes(changed))


@pytest.mark.parametrize("name", VALID)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=thorough(100))
@given(prefix=st.integers(0, 40), tail=st.binary(max_size=200))
def test_any_bytes_after_a_true_beginning_are_read_or_refused(
    tmp_path: Path, name: str, prefix: int, tail: bytes
) -> None:
    loader, content = VALID[name]
    load_or_refuse(loader, tmp_path / "a", content[:prefix] + tail)


@pytest.mark.parametrize("name", ["arff", "csv"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=thorough(200))
@given(text=st.text(st.sampled_from("@attribute rl{}'\"\\%,?\n\r\t 1e-.x\0\x0c"), max_size=120))
def test_any_text_is_read_or_refused(tmp_path: Path, name: str, text: str) -> None:
    loader, _ = VALID[name]
    head = "@relation r\n@attribute a real\n" if name == "arff" else "a,b\n"
    load_or_refuse(loader, tmp_path / "a", (head + text).encode())
