"""A secret is written whole, is read only if nobody else can read it, and is never overwritten."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from fedcore.errors import KeyFileError
from fedserver.disk import MAKE_ROOM
from fedserver.key_files import (
    create_key,
    load_key,
    load_keys,
    prepend_key,
    private_directory,
    read_secret,
    secret_from,
    write_public,
    write_secret,
)


def test_a_key_is_found_again_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    key = create_key(path)
    assert load_key(path) == key and len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["a.key"]


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o420, 0o401, 0o660, 0o777])
def test_a_secret_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys" / "a.key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="open to others") as refused:
        load_key(path)
    assert f"{mode:04o}" in refused.value.why


def test_a_secret_is_not_written_where_others_can_look(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(KeyFileError, match="open to others"):
        write_secret(tmp_path / "a.key", b"secret")
    assert list(tmp_path.iterdir()) == []


def test_directories_that_are_made_above_a_secret_are_closed_to_others_too(tmp_path: Path) -> None:
    private_directory(tmp_path / "state/authority")
    for name in ("state", "state/authority"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_directories_that_are_made_are_found_after_a_power_cut_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    private_directory(tmp_path / "srv/fed/state")
    assert synced == [tmp_path, tmp_path / "srv", tmp_path / "srv/fed"]


def test_a_secret_is_never_overwritten_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    write_secret(path, b"first")
    with pytest.raises(KeyFileError) as refused:
        write_secret(path, b"second")
    assert "lost" in refused.value.fix and "second" not in str(refused.value)
    assert read_secret(path) == b"first"
    write_secret(path, b"second", replace=True)
    assert read_secret(path) == b"second"
    assert os.listdir(path.parent) == ["a.key"]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys" / "a.key"
    write_secret(path, b"first")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="written") as refused:
        write_secret(path, b"second", replace=True)
    assert refused.value.fix == MAKE_ROOM
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["a.key"]


def test_what_is_public_can_be_read_by_all(tmp_path: Path) -> None:
    write_public(tmp_path / "root.pem", b"x")
    assert stat.S_IMODE((tmp_path / "root.pem").stat().st_mode) == 0o444


def test_the_newest_key_of_a_list_comes_first_and_the_old_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "datastore.keys"
    first = create_key(path)
    keys = prepend_key(path)
    assert keys[1] == first != keys[0]
    assert load_keys(path) == keys
    with pytest.raises(KeyFileError) as refused:
        load_key(path)
    assert "2 keys" in refused.value.why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "ab",
        "g" * 64,
        "A" * 64,
        "0" * 63,
        "0" * 65,
        f"{'0' * 64}\n{'0' * 64}",
        "\xff" * 64,
    ],
    ids=repr,
)
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys" / "a.key"
    write_secret(path, text.encode())
    with pytest.raises(KeyFileError) as refused:
        load_keys(path)
    assert len(text) < 10 or text not in str(refused.value)


def test_a_file_that_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    directory = private_directory(tmp_path / "keys")
    for path in (directory, directory / "missing"):
        with pytest.raises(KeyFileError):
            read_secret(path)
    write_secret(directory / "large", bytes(70_000))
    with pytest.raises(KeyFileError, match="no key"):
        read_secret(directory / "large")


def test_a_pipe_is_no_key(tmp_path: Path) -> None:
    directory = private_directory(tmp_path / "keys")
    os.mkfifo(directory / "pipe", 0o400)
    with pytest.raises(KeyFileError):
        read_secret(directory / "pipe")


def test_a_passphrase_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_secret(tmp_path / "keys" / "p", b"from a file\n")
    monkeypatch.setenv("FEDCORE_TEST_PASSPHRASE", "from the environment")
    assert secret_from(str(tmp_path / "keys" / "p")) == b"from a file"
    assert secret_from("env:FEDCORE_TEST_PASSPHRASE") == b"from the environment"
    with pytest.raises(KeyFileError, match="missing"):
        secret_from("env:FEDCORE_TEST_NOTHING")


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A list as Linux keeps it: of each entry whom it is for, and what they may."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NO_ID = 2**32 - 1
_OWNER, _MASK, _OTHER = (0x01, 4, _NO_ID), (0x10, 4, _NO_ID), (0x20, 0, _NO_ID)


@pytest.mark.parametrize(
    ("user", "group", "refused"),
    [(os.geteuid(), 0, False), (os.geteuid() + 1, 0, True), (os.geteuid(), 4, True)],
    ids=["the user of this process", "another user", "a group beside it"],
)
def test_a_credential_that_a_list_opens_to_this_user_alone_is_a_secret(
    tmp_path: Path, user: int, group: int, refused: bool
) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b"as systemd hands it over")
    entries = [_OWNER, (0x02, 4, user), (0x04, group, _NO_ID), _MASK, _OTHER]
    try:
        os.setxattr(file, "system.posix_acl_access", acl(*entries))
    except (AttributeError, OSError) as error:
        pytest.skip(f"no access control lists here: {error}")
    assert file.stat().st_mode & 0o077 == 0o040  # the mask, which looks like a group's bits
    if refused:
        with pytest.raises(KeyFileError, match="open to others"):
            read_secret(file)
    else:
        assert read_secret(file) == b"as systemd hands it over"
