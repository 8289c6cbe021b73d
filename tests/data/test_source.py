"""Files are read whole, inflated within a limit, and refused with their place and a remedy."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fedcore.data.source import read_bytes, read_lines
from fedcore.errors import DataFormatError, TruncatedFileError


def test_plain_and_gzip_files_read_alike_whatever_their_names(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.gz", tmp_path / "b"
    plain.write_bytes(b"content" * 1000)
    packed.write_bytes(gzip.compress(b"content" * 1000))
    assert read_bytes(plain) == read_bytes(packed) == b"content" * 1000


def test_what_is_no_readable_file_is_refused_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(DataFormatError, match="cannot read") as caught:
            read_bytes(path)
        assert caught.value.where == str(path) and caught.value.why and caught.value.fix


@pytest.mark.parametrize("path", [None, 1.5, 0, ["a"]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(DataFormatError, match="cannot read") as caught:
        read_bytes(path)
    assert caught.value.where == str(path)


def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataFormatError, match="cannot read") as caught:
        read_bytes(tmp_path / "pipe")
    assert caught.value.why == "it is not a regular file"


def test_a_device_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="not a regular file"):
        read_bytes(os.devnull)


def test_neither_a_large_file_nor_a_small_one_that_inflates_passes_the_limit(
    tmp_path: Path,
) -> None:
    path = tmp_path / "zeros"
    for content in (bytes(5_000_000), gzip.compress(bytes(5_000_000))):
        path.write_bytes(content)
        assert len(read_bytes(path, max_bytes=5_000_000)) == 5_000_000
        with pytest.raises(DataFormatError, match="than 4999999 bytes"):
            read_bytes(path, max_bytes=4_999_999)


def test_what_inflates_as_no_data_do_is_refused_long_before_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.gz"
    one = gzip.compress(bytes(16 << 20))  # members, one after another
    path.write_bytes(one * 16)
    tracemalloc.start()
    try:
        with pytest.raises(
            DataFormatError, match="inflates to more than 134217728 bytes"
        ) as caught:
            read_bytes(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000_000 and "without compression" in caught.value.fix


@pytest.mark.slow
def test_as_much_as_data_shrink_they_may_inflate(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    random, zeros = Random(1), bytes(99_000)
    content = b"".join(random.randbytes(1000) + zeros for _ in range(1400))
    path.write_bytes(gzip.compress(content))
    assert 80 < len(content) / path.stat().st_size < 100
    assert len(read_bytes(path)) == len(content) > 128 << 20


def test_cut_gzip_is_truncated_and_changed_gzip_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    packed = bytearray(gzip.compress(os.urandom(1000)))
    path.write_bytes(packed[:-10])
    with pytest.raises(TruncatedFileError, match="ends inside its gzip data"):
        read_bytes(path)
    packed[500] ^= 1
    path.write_bytes(packed)
    with pytest.raises(DataFormatError, match="corrupt gzip"):
        read_bytes(path)


def test_lines_end_with_any_of_three_ends_and_no_other_character(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\r\nb\rc\n\nd\x0c\u2028e".encode())
    assert read_lines(path) == ["a", "b", "c", "", "d\x0c\u2028e"]
    path.write_bytes(b"")
    assert read_lines(path) == []


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nba\xffd\n")
    with pytest.raises(DataFormatError, match="not UTF-8") as caught:
        read_lines(path)
    assert caught.value.where == f"{path}:2"


def test_a_leading_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_bytes(b"x\n")
    assert read_bytes("~/a.csv") == read_bytes(Path("~") / "a.csv") == b"x\n"
    with pytest.raises(DataFormatError) as caught:
        read_bytes("~/absent")
    assert caught.value.where == "~/absent"
