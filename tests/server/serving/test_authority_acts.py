"""What `fed ca` did is in the audit log, so that no list that was lost lets anybody in again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli import main as fed
from fedcore.errors import AuthorityError, FedcoreError, RefusedError, StoreError
from fedcore.v1 import admin_service_pb2
from fedcore.wire.failures import error_from
from fedserver.app import Server
from fedserver.authority_acts import AuthorityActs
from fedserver.certificate_lists import CertificateLists
from fedserver.commands.ca import main as ca
from fedserver.config import load
from fedserver.doctor import Finding, examine
from fedserver.doctor.finding import refused
from fedserver.opening import opened
from fedserver.parts import Parts
from fedserver.store.records import AuditEntry


def found(place: Path) -> dict[str, Finding]:
    return {one.check: one for one in examine(load(place / "server.toml"))}


def command(place: Path, *words: str) -> None:
    """A verb of `fed ca` on the authority of a place, as another process runs it."""
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(ca, [*words, "--directory", f"{place}/ca"]).result() == 0


def issue(place: Path, name: str) -> str:
    """Gives a user a profile; the fingerprint of its certificate."""
    who = ["--name", name, "--role", "viewer", "--address", "localhost:1"]
    command(place, "issue", *who, "--output", f"{place}/{name}")
    return CertificateLists(place / "ca").users()[-1].fingerprint.hex()


def revoke(place: Path, fingerprint: str, reason: str = "left") -> None:
    command(place, "revoke", fingerprint, "--reason", reason, "--yes")


async def acts_in(parts: Parts) -> list[AuditEntry]:
    entries = [record.entry for record in await parts.store.audit_entries()]
    return [entry for entry in entries if entry.action.startswith("ca.")]


async def refusal(place: Path) -> FedcoreError:
    with pytest.raises(FedcoreError) as error:
        async with opened(load(place / "server.toml")):
            raise AssertionError("opened")
    return error.value


async def test_what_was_done_before_a_start_and_while_a_server_runs_is_audited_once(
    place: Path,
) -> None:
    ada = issue(place, "ada")
    command(place, "rotate", "datastore")
    async with opened(load(place / "server.toml")) as parts:
        await parts.acts.refresh()
        bob = issue(place, "bob")
        revoke(place, ada)
        command(place, "retire", "datastore", "--yes")
        await parts.acts.refresh()
        await parts.acts.refresh()
    async with opened(load(place / "server.toml")) as parts:
        await parts.acts.refresh()
        acts = await acts_in(parts)
    [rotated, issued, revoked, retired, second] = acts
    assert {entry.actor for entry in acts} == {"operator"}
    assert (rotated.action, rotated.object[:17]) == ("ca.rotate", "key:datastore at ")
    assert (retired.action, retired.object[:17]) == ("ca.retire", "key:datastore at ")
    assert (issued.action, issued.object) == ("ca.issue", f"certificate:{ada}")
    assert issued.decision == "viewer spiffe://fl.test/t/default/u/ada"
    assert (revoked.action, revoked.object) == ("ca.revoke", f"certificate:{ada}")
    assert revoked.decision == "left"
    assert (second.action, second.object) == ("ca.issue", f"certificate:{bob}")


async def test_of_several_servers_on_a_database_one_writes_an_act_down(place: Path) -> None:
    settings = load(place / "server.toml")
    async with opened(settings) as parts:
        second = AuthorityActs(parts.store, CertificateLists(place / "ca"), settings.database)
        ada = issue(place, "ada")
        await parts.acts.refresh()
        await second.refresh()
        assert [entry.object for entry in await acts_in(parts)] == [f"certificate:{ada}"]


async def test_a_running_server_takes_up_what_is_done_by_itself(place: Path) -> None:
    async with opened(load(place / "server.toml")) as parts:
        server = Server(load(place / "server.toml"), parts)
        written = asyncio.Event()
        append = parts.store.append_audit

        async def watched(entry: AuditEntry) -> Any:
            head = await append(entry)
            written.set()
            return head

        parts.store.append_audit = watched  # type: ignore[method-assign]
        ada = issue(place, "ada")
        await server.start()
        try:
            await asyncio.wait_for(written.wait(), 30)
        finally:
            await server.stop()
        assert [entry.object for entry in await acts_in(parts)] == [f"certificate:{ada}"]


LOST: dict[str, Callable[[Path, bytes], object]] = {
    "deleted": lambda path, before: path.unlink(),
    "restored from an older copy": lambda path, before: path.write_bytes(before),
    "emptied": lambda path, before: path.write_bytes(b""),
}


@pytest.mark.parametrize("how", LOST)
async def test_a_list_that_lost_a_revocation_is_refused_and_put_back_from_the_audit_log(
    how: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ada, bob, eve = (issue(place, name) for name in ("ada", "bob", "eve"))
    revoke(place, ada, "left")
    before = (place / "ca/revoked.jsonl").read_bytes()
    revoke(place, bob, "stolen")
    async with opened(load(place / "server.toml")) as parts:
        await parts.acts.refresh()
    assert found(place)["revocations"].detail == "2, as the audit log has them"

    LOST[how](place / "ca/revoked.jsonl", before)
    told = await refusal(place)
    assert isinstance(told, AuthorityError) and bob in told.why and eve not in told.why
    assert "fed ca recover" in told.fix
    assert found(place)["revocations"] == refused("revocations", told)

    recover = ["ca", "recover", "--config", f"{place}/server.toml"]
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(fed, [*recover, "--dry-run"]).result() == 0
        assert bob in capsys.readouterr().out
        assert (await refusal(place)).why == told.why
        assert thread.submit(fed, [*recover, "--format", "json"]).result() == 0
    assert bob in json.loads(capsys.readouterr().out)["data"]["revoked"]
    lists = CertificateLists(place / "ca")
    assert {line.fingerprint.hex(): line.reason for line in lists.revocations()} == {
        ada: "left",
        bob: "stolen",
    }
    assert all("/u/" in line.name for line in lists.revocations())
    assert {one.level for one in found(place).values()} <= {"ok", "warning"}
    async with opened(load(place / "server.toml")) as parts:
        await parts.acts.refresh()
        assert len(await acts_in(parts)) == 5


async def test_a_revocation_that_a_running_server_lost_is_still_one_and_is_told(
    place: Path,
) -> None:
    ada, bob = issue(place, "ada"), issue(place, "bob")
    revoke(place, ada)
    config = load(place / "server.toml")
    async with opened(config) as parts:
        server = Server(config, parts)
        await server.start()
        try:
            await parts.acts.refresh()
            assert server.reasons() == []
            (place / "ca/revoked.jsonl").unlink()
            assert any("lacks" in reason for reason in server.reasons())
            assert bytes.fromhex(ada) in parts.authority.lists.revoked()
            revoke(place, bob)
            with pytest.raises(AuthorityError, match="lacks revocations") as told:
                await parts.acts.refresh()
            assert ada in told.value.why and bob not in told.value.why
            assert f"certificate:{bob}" in {entry.object for entry in await acts_in(parts)}
            revoke(place, ada)
            await parts.acts.refresh()
            assert server.reasons() == []
        finally:
            await server.stop()


async def test_a_list_that_is_lost_while_no_server_runs_lets_nobody_in_whom_one_refused(
    place: Path,
) -> None:
    ada, config = issue(place, "ada"), load(place / "server.toml")
    async with opened(config) as parts:
        await parts.acts.refresh()
        revoke(place, ada)
        assert bytes.fromhex(ada) in parts.authority.lists.revoked()
    (place / "ca/revoked.jsonl").unlink()
    assert ada in (await refusal(place)).why


@pytest.mark.parametrize("other", ["issued.jsonl", "exchanged.jsonl"])
async def test_a_user_is_revoked_for_good_while_another_list_is_damaged(
    other: str, place: Path
) -> None:
    ada, config = issue(place, "ada"), load(place / "server.toml")
    with (place / "ca" / other).open("a") as file:
        file.write("{}\n")
    revoke(place, ada)
    async with opened(config) as parts:
        assert bytes.fromhex(ada) in parts.authority.lists.revoked()
        with pytest.raises(AuthorityError, match=other):
            await parts.acts.refresh()
        assert f"certificate:{ada}" in {entry.object for entry in await acts_in(parts)}
    (place / "ca/revoked.jsonl").unlink()
    assert ada in (await refusal(place)).why
    with ThreadPoolExecutor(1) as thread:
        recover = ["ca", "recover", "--config", f"{place}/server.toml"]
        assert thread.submit(fed, recover).result() == 0
    assert CertificateLists(place / "ca").revoked() == {bytes.fromhex(ada)}


async def test_what_could_not_be_written_into_the_log_is_written_later(place: Path) -> None:
    ada = issue(place, "ada")
    async with opened(load(place / "server.toml")) as parts:
        append = parts.store.append_audit

        async def full(entry: AuditEntry) -> Any:
            raise StoreError("the disk is full")

        parts.store.append_audit = full  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await parts.acts.refresh()
        parts.store.append_audit = append  # type: ignore[method-assign]
        await parts.acts.refresh()
        assert [entry.object for entry in await acts_in(parts)] == [f"certificate:{ada}"]


async def test_a_list_that_is_damaged_is_told_before_a_start_and_by_a_server_that_runs(
    place: Path,
) -> None:
    fingerprint = issue(place, "ada")
    revoke(place, fingerprint)
    path, config = place / "ca/revoked.jsonl", load(place / "server.toml")
    whole = path.read_bytes()
    async with opened(config) as parts:
        server = Server(config, parts)
        await server.start()
        try:
            path.write_bytes(whole + b'{"fingerprint": "0')
            [reason] = server.reasons()
            assert "revoked.jsonl is damaged" in reason and "cut off" in reason
        finally:
            path.write_bytes(whole)
            await server.stop()
        assert not parts.authority.lists.lost
    path.write_bytes(whole + b'{"fingerprint": "0')
    told = await refusal(place)
    assert isinstance(told, AuthorityError) and "fed ca revoke" in told.fix
    assert found(place)["lists"] == refused("lists", told)


async def test_while_nobody_knows_who_is_revoked_all_are_told_when_to_come_back(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = world.user("admin")
    request = admin_service_pb2.ListTasksRequest()
    path = "/fedcore.v1.AdminService/ListTasks"

    def damaged() -> frozenset[bytes]:
        raise AuthorityError("the list revoked.jsonl is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(world.authority.lists, "revoked", damaged)
        _, _, error = await world.call(user, path, request)
    told = error_from(error)
    assert isinstance(told, RefusedError) and told.retry is not None
    assert "nobody can be let in" in told.what
    _, _, error = await world.call(user, path, request)
    assert error is None
