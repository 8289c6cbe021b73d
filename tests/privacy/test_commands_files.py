"""Files are anybody's: what `fed privacy` reads is believed by its bytes, never by its claims."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DataFormatError, FedcoreError
from fedcore.privacy.commands import files
from fedcore.privacy.plan import PrivacyPlan
from tests.privacy.commands_world import CLAIM, Fed
from tests.privacy.ledger_world import plan_of

# Files are anybody's.


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


SOUND = {
    "npy": npy(np.arange(6.0).reshape(3, 2) % 2),
    "npz": npz(scores=np.arange(3.0), included=np.array([True, False, True])),
    "csv": b"score,included\n0.5,1\n-2e3,0\n",
    "json": json.dumps(plan_of().to_json()).encode(),
}


@given(data=st.data(), form=st.sampled_from(sorted(SOUND)))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: str
) -> None:
    content = bytearray(SOUND[form])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{form}"
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    for read in (
        files.read_scores,
        files.read_array,
        lambda path: files.read_arrays(path, ("scores",)),
    ):
        with contextlib.suppress(DataFormatError):
            read(str(path))
    with contextlib.suppress(FedcoreError):
        PrivacyPlan.from_json(files.read_json(str(path), what="plan"))


def test_sizes_that_a_file_only_claims_are_not_believed(tmp_path: Path) -> None:
    header = npy(np.zeros(3, np.int64))
    path = tmp_path / "file"
    for claim in (b"(3000000000,)", b"(-3,)", b"(-1, -3)", b"(2**40,)", b"('3',)"):
        changed = header.replace(b"(3,), ", claim + b", ").replace(b" " * len(claim), b"", 1)
        path.write_bytes(changed)
        with pytest.raises(DataFormatError):
            files.read_array(str(path))


def written_header(text: str, content: bytes = b"") -> bytes:
    header = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    "shape", ["(0,10**30)", f"(0,{10**30})", f"({'1,' * 70})", "(True,True)", "(True,)", "(1,1,1)"]
)
def test_a_shape_that_no_audit_takes_is_refused_before_it_is_made(
    tmp_path: Path, shape: str
) -> None:
    path = tmp_path / "file.npy"
    header = f"{{'descr':'<i8','fortran_order':False,'shape':{shape}}}"
    path.write_bytes(written_header(header, bytes(8)))
    with pytest.raises(DataFormatError):
        files.read_array(str(path))


@pytest.mark.parametrize("header", ["-" * 9000 + "1", "(" * 3000 + "1" + ")" * 3000])
def test_a_header_that_no_parser_takes_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "file.npy"
    path.write_bytes(written_header(header))
    with pytest.raises(DataFormatError):
        files.read_array(str(path))


@pytest.mark.parametrize("kind", ["membership", "one-run", "canaries"])
@pytest.mark.parametrize("shapes", [((5,), (2,)), ((4, 2), (4, 2)), ((), ()), ((4,), (4, 1))])
def test_scores_without_a_coin_each_are_refused(
    fed: Fed, tmp_path: Path, kind: str, shapes: tuple[Any, Any]
) -> None:
    np.savez(tmp_path / "file.npz", scores=np.zeros(shapes[0]), included=np.zeros(shapes[1]))
    code, _, err = fed("audit", kind, tmp_path / "file.npz", *CLAIM)
    assert code == 4 and "FED-1201" in err and "shapes" in err


def test_an_array_that_memory_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / "file.npz"
    path.write_bytes(SOUND["npz"])
    monkeypatch.setattr(zipfile.ZipExtFile, "read", full)
    with pytest.raises(DataFormatError) as refused:
        files.read_scores(str(path))
    assert "memory" in refused.value.why
    path.write_bytes(SOUND["npy"])
    monkeypatch.setattr(np, "load", full)
    with pytest.raises(DataFormatError) as refused:
        files.read_scores(str(path))
    assert "memory" in refused.value.why


def test_a_member_is_inflated_no_farther_than_it_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LARGEST_ARRAYS", 2**20)  # so much memory is set aside for a file
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("scores", "included"):
            archive.writestr(f"{name}.npy", npy(np.zeros(3 * 10**6)))
        for member in archive.filelist:
            member.file_size = 1000
    tracemalloc.start()
    try:
        with pytest.raises(DataFormatError):
            files.read_scores(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def test_an_archive_is_not_unpacked_beyond_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, scores=np.zeros(10**6), included=np.zeros(10**6, bool))
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(files, "_LARGEST_ARRAYS", 2**20)
    with pytest.raises(DataFormatError, match="cannot be taken") as refused:
        files.read_scores(str(path))
    assert refused.value.why == "it holds more than 1 MiB"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("scores.npy", SOUND["npy"])
    with pytest.raises(DataFormatError) as refused:
        files.read_arrays(str(path), ("scores",))
    assert "compressed in a way" in refused.value.why


def test_files_beyond_a_limit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"1,1\n" * 2**18 + b"1")
    for name, limit in (("_LARGEST_ARRAYS", 2**20), ("_LARGEST_TEXT", 2**19)):
        monkeypatch.setattr(files, name, limit)
        with pytest.raises(DataFormatError) as refused:
            files.read_scores(str(path))
        assert "larger than" in refused.value.why
    with pytest.raises(DataFormatError) as refused:
        files.read_json(str(path), what="plan")
    assert "larger than 1 MiB" in refused.value.why


def test_nobody_waits_for_a_pipe_that_is_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    for read in (files.read_array, files.read_seal, partial(files.read_json, what="plan")):
        for wrong in (path, str(tmp_path), "/dev/zero"):
            with pytest.raises(ArgumentError, match="cannot be read"):
                read(wrong)


def test_what_stands_in_a_file_is_not_repeated_in_a_message(fed: Fed, tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("0.125,1\n12345.678,maybe\n")
    _, _, err = fed("audit", "one-run", tmp_path / "text.csv", *CLAIM)
    assert "line 2 " in err and "12345" not in err and "maybe" not in err


def test_a_write_that_fails_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    path, limits = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ArgumentError, match="cannot be written") as refused:
            files.write_new(str(path), "text " * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.why == "File too large" and not path.exists()
    files.write_new(str(path), "text")
    assert path.read_text() == "text"
    for wrong in (str(tmp_path), str(tmp_path / "a" / "b"), "a\0b"):
        with pytest.raises(ArgumentError, match="cannot be written"):
            files.write_new(wrong, "text")
    with pytest.raises(ArgumentError, match="cannot be read"):
        files.read_array("a\0b")
