"""A list is whole or as it was; no revocation is ever forgotten, and in doubt nobody is let in."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import AuthorityError, KeyFileError, RefusedError, UnauthenticatedError
from fedserver import certificate_lists
from fedserver.authority import Authority
from fedserver.certificate_lists import CertificateLists, Exchange, Listed
from fedserver.certificates import new_key
from fedserver.commands.ca import main
from fedserver.disk import MAKE_ROOM
from tests.server.authority.parties import (
    NOW,
    Parties,
    RequestFor,
    RequestOf,
    enrolment_at,
    token_record,
)

FIRST, SECOND = b"1" * 32, b"2" * 32


@pytest.fixture
def lists(authority: Authority) -> CertificateLists:
    """Of an authority that has disowned the first certificate."""
    authority.lists.revoke(FIRST, reason="left", now=NOW, name="ada")
    return authority.lists


def path_of(authority: Authority) -> Path:
    return authority.directory / "revoked.jsonl"


def revoke(authority: Authority, fingerprint: bytes) -> int:
    words = ["revoke", fingerprint.hex(), "--reason", "left", "--yes"]
    return main([*words, "--directory", str(authority.directory)])


def cut_off(authority: Authority, bytes_kept: int) -> None:
    """As an older program left the list where the disk was full: half a line at its end."""
    with path_of(authority).open("r+") as file:
        line = file.read()
        file.write(line.replace(FIRST.hex(), SECOND.hex())[:bytes_kept])


def test_a_full_disk_leaves_a_list_as_it_was_and_says_to_make_room(
    authority: Authority, lists: CertificateLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path_of(authority).read_bytes(), sorted(os.listdir(authority.directory))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(KeyFileError, match=r"revoked\.jsonl cannot be written") as refused:
            revoke(authority, SECOND)
    assert refused.value.fix == MAKE_ROOM
    assert (path_of(authority).read_bytes(), sorted(os.listdir(authority.directory))) == before
    assert lists.revoked() == {FIRST}
    assert revoke(authority, SECOND) == 0
    assert lists.revoked() == {FIRST, SECOND}


def test_commands_at_once_lose_none_of_their_lines(authority: Authority) -> None:
    def act(number: int) -> None:
        lists = CertificateLists(authority.directory)
        lists.revoke(bytes([number]) * 32, reason="left", now=NOW)
        lists.note(Listed(bytes([number]) * 32, f"user-{number}", NOW))

    threads = [threading.Thread(target=act, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everyone = {bytes([number]) * 32 for number in range(16)}
    assert authority.lists.revoked() == everyone
    assert {user.fingerprint for user in authority.lists.users()} == everyone


@pytest.mark.parametrize("bytes_kept", [1, 10, 17, 30, 81, 90, 150])
def test_a_revocation_that_was_cut_off_is_completed_and_never_dropped(
    authority: Authority, lists: CertificateLists, bytes_kept: int
) -> None:
    cut_off(authority, bytes_kept)
    torn = path_of(authority).read_bytes()
    for ask in (authority.lists.revoked, CertificateLists(authority.directory).revocations):
        with pytest.raises(AuthorityError, match="damaged") as refused:
            ask()
        assert "never acknowledged" in refused.value.why and "fed ca revoke" in refused.value.fix
        assert (SECOND.hex()[:10] in refused.value.why) == (bytes_kept >= 27)
    if bytes_kept > 17:  # what is there of the fingerprint is not this one's
        with pytest.raises(AuthorityError, match="damaged"):
            revoke(authority, b"3" * 32)
        assert path_of(authority).read_bytes() == torn
    assert revoke(authority, SECOND) == 0
    assert lists.revoked() == {FIRST, SECOND}
    assert [json.loads(line)["at"] for line in path_of(authority).read_text().splitlines()]


def test_no_end_of_a_list_is_too_deep_to_be_told(
    authority: Authority, lists: CertificateLists
) -> None:
    with path_of(authority).open("a") as file:
        file.write("[" * 200_000)
    with pytest.raises(AuthorityError, match="damaged"):
        lists.revoked()


def test_what_was_revoked_is_not_a_reason_to_forget_half_a_line(
    authority: Authority, lists: CertificateLists
) -> None:
    cut_off(authority, 5)
    with pytest.raises(AuthorityError, match="damaged"):
        revoke(authority, FIRST)


def test_a_whole_line_without_its_end_counts(authority: Authority, lists: CertificateLists) -> None:
    revoke(authority, SECOND)
    path_of(authority).write_text(path_of(authority).read_text().rstrip("\n"))
    assert lists.revoked() == {FIRST, SECOND}
    assert revoke(authority, b"3" * 32) == 0
    assert lists.revoked() == {FIRST, SECOND, b"3" * 32}


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe\n", b"\0" * 200 + b"\n", b'{"fingerprint": 1}\n', b"\n", b"[" * 200_000 + b"\n"],
)
def test_a_line_that_was_written_whole_and_is_damaged_is_refused(
    authority: Authority, lists: CertificateLists, damage: bytes
) -> None:
    with path_of(authority).open("ab") as file:
        file.write(damage)
    with pytest.raises(AuthorityError, match="damaged") as refused:
        lists.revoked()
    assert "line 2 " in refused.value.why and "fed ca recover" in refused.value.fix
    with pytest.raises(AuthorityError, match="damaged"):
        revoke(authority, SECOND)


@pytest.mark.parametrize(
    "damage",
    [
        {"fingerprint": SECOND.hex()[:40]},
        {"fingerprint": ""},
        {"fingerprint": SECOND.hex() + "00"},
        {"at": 10**30},
        {"not_after": -1},
    ],
)
def test_a_line_that_reads_well_and_is_of_no_certificate_is_damage_and_not_a_revocation(
    authority: Authority, lists: CertificateLists, damage: dict[str, object]
) -> None:
    line = json.loads(path_of(authority).read_text())
    with path_of(authority).open("a") as file:
        file.write(json.dumps(line | damage) + "\n")
    with pytest.raises(AuthorityError, match="damaged"):
        lists.revoked()


def test_what_keeps_a_list_from_being_read_is_said(
    authority: Authority, lists: CertificateLists
) -> None:
    path_of(authority).unlink()
    path_of(authority).mkdir()
    with pytest.raises(AuthorityError, match="cannot be read"):
        lists.revoked()


def test_a_damaged_list_is_read_once_however_many_call_until_it_changes(
    authority: Authority, lists: CertificateLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_text = Path.read_text

    def counted(path: Path, *how: str) -> str:
        read.append(path)
        return read_text(path, *how)

    monkeypatch.setattr(Path, "read_text", counted)
    whole = path_of(authority).read_bytes()
    path_of(authority).write_bytes(whole + b"{}\n")
    for _ in range(3):
        with pytest.raises(AuthorityError, match="damaged") as refused:
            lists.revoked()
    assert len(read) == 1 and len(refused.traceback) == 2
    path_of(authority).write_bytes(whole)
    assert lists.revoked() == lists.revoked() == {FIRST}
    assert len(read) == 2


def test_a_list_that_could_not_be_read_is_tried_again(
    authority: Authority, lists: CertificateLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(path: Path, *how: str) -> str:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", exhausted)
        with pytest.raises(AuthorityError, match="cannot be read"):
            lists.revoked()
    assert lists.revoked() == {FIRST}


def test_a_running_server_forgets_no_revocation_that_it_has_read(
    authority: Authority, lists: CertificateLists
) -> None:
    running = CertificateLists(authority.directory)
    assert running.revoked() == {FIRST} and not running.lost
    old = path_of(authority).read_bytes()
    revoke(authority, SECOND)
    assert running.revoked() == {FIRST, SECOND} and not running.lost
    path_of(authority).unlink()
    path_of(authority).write_bytes(old)
    assert running.revoked() == {FIRST, SECOND} and running.lost == {SECOND}
    path_of(authority).unlink()
    assert running.revoked() == {FIRST, SECOND} and running.lost == {FIRST, SECOND}
    revoke(authority, FIRST)
    revoke(authority, SECOND)
    assert running.revoked() == {FIRST, SECOND} and not running.lost


def test_however_many_revocations_are_put_back_the_list_is_written_once(
    lists: CertificateLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of some thousand lines, written anew for each of them, took minutes."""
    write, written = certificate_lists.write_public, list[Path]()

    def counted(path: Path, *arguments: Any, **options: Any) -> None:
        written.append(path)
        write(path, *arguments, **options)

    lists.revoke(bytes(32), reason="before", now=1)
    earlier = lists.revocations()
    monkeypatch.setattr(certificate_lists, "write_public", counted)
    lost = [Listed(number.to_bytes(32), f"user {number}", 2, reason="left") for number in range(9)]
    lists.put_back(lost)
    lists.put_back(lost)
    assert len(written) == 1
    assert lists.revocations() == [*earlier, *lost[1:]]


def test_a_user_whose_line_was_cut_off_was_never_given_a_profile(authority: Authority) -> None:
    authority.lists.note(Listed(FIRST, "ada", NOW, role="viewer"))
    with (authority.directory / "issued.jsonl").open("a") as file:
        file.write('{"fingerprint": "32')
    assert [user.name for user in authority.lists.users()] == ["ada"]
    authority.lists.note(Listed(SECOND, "bob", NOW, role="viewer"))
    assert [user.name for user in authority.lists.users()] == ["ada", "bob"]


def test_what_was_done_with_keys_is_listed_and_damage_is_told(authority: Authority) -> None:
    done = [Exchange("rotate", "datastore", NOW), Exchange("retire", "datastore", NOW + 1)]
    for exchange in done:
        authority.lists.exchanged(exchange)
    assert authority.lists.exchanges() == done
    path = authority.directory / "exchanged.jsonl"
    whole = path.read_text()
    for damage in ({}, {"act": "eat", "key": "issuing", "at": NOW}):
        path.write_text(f"{whole}{json.dumps(damage)}\n")
        with pytest.raises(AuthorityError, match=r"exchanged\.jsonl is damaged") as refused:
            authority.lists.exchanges()
        assert "fed ca recover" not in refused.value.fix  # which puts revocations back alone


async def test_no_device_is_certified_anew_while_the_list_cannot_be_read_and_then_it_is(
    authority: Authority,
    request_for: RequestFor,
    request_of: RequestOf,
    lists: CertificateLists,
) -> None:
    store = Parties(token_record())
    enrolment = enrolment_at(authority, store)
    client_id = (await enrolment.enrol(request_for())).client_id
    cut_off(authority, 30)
    with pytest.raises(RefusedError) as refused:
        await enrolment.renew(client_id, request_of(new_key()))
    assert refused.value.retry is not None and not isinstance(refused.value, UnauthenticatedError)
    revoke(authority, SECOND)
    assert (await enrolment.renew(client_id, request_of(new_key()))).certificate_chain
