"""A call about a task of another server is answered there, for its caller and for nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedcore.errors import DrainingError, PhaseError, UnauthenticatedError
from fedcore.v1 import client_service_pb2 as client, round_service_pb2 as rounds
from fedcore.wire.failures import error_from
from fedcore.wire.versions import installed_version
from fedserver.authority import Authority, ServerCertificate
from fedserver.federation.interface import ElsewhereError
from fedserver.passing import Note, Passing
from fedserver.store.records import ClientState
from tests.server.serving.conftest import a_world
from tests.variants import mostly_slow

OK = grpc.StatusCode.OK
NOBODY = grpc.StatusCode.UNAUTHENTICATED
OWNER = b"c" * 16
BEAT = "/fedcore.v1.ClientService/Heartbeat"
CHECK_IN = "/fedcore.v1.ClientService/CheckIn"
REPORT = "/fedcore.v1.RoundService/Report"
A_BEAT = client.HeartbeatRequest(assignment_id=b"a" * 16)
AN_ASK = client.CheckInRequest(request_id=b"r" * 16, sdk_version=installed_version())
# Of a database that nobody opens here: the parts of these servers are made by hand.
PEER = {"peer_address": "localhost:1", "database_url": "postgresql://fed@/fed"}


@dataclass
class Pair:
    """Two servers of one authority: `front` has no task, and `holder` has them all."""

    front: Any
    holder: Any
    authority: Authority

    def certificate(self, *, age_s: int = 0) -> ServerCertificate:
        return self.authority.peer_certificate(now=int(time.time()) - age_s)

    async def at_holder(
        self, path: str, request: Any, *, shown: Any, note: Note | None
    ) -> grpc.StatusCode:
        """How the holder ends a call with this certificate and this note."""
        key, chain = shown
        credentials = grpc.ssl_channel_credentials(self.authority.root_pem, key, chain)
        async with grpc.aio.secure_channel(self.holder.addresses.service, credentials) as channel:
            metadata = () if note is None else note.metadata()
            call = channel.unary_unary(path)(
                request.SerializeToString(), timeout=10, metadata=metadata
            )
            status: grpc.StatusCode = await call.code()
            return status


@asynccontextmanager
async def two_servers(folder: Path, authority: Authority, **limits: Any) -> AsyncIterator[Pair]:
    for name in ("front", "holder"):
        (folder / name).mkdir()
    async with (
        a_world(folder / "front", authority, server=PEER, limits=limits) as front,
        a_world(folder / "holder", authority, server=PEER, limits=limits) as holder,
    ):
        passed = frozenset({"digits-1"})
        front.federation.raises = ElsewhereError(holder.addresses.service, passed)
        yield Pair(front, holder, authority)


@pytest.fixture
async def pair(tmp_path: Path, authority: Authority) -> AsyncIterator[Pair]:
    async with two_servers(tmp_path, authority) as made:
        yield made


async def known_to_both(pair: Pair, client_id: bytes = OWNER) -> Any:
    """A client, as one database would have it."""
    holder = await pair.holder.client(client_id=client_id)
    found = await pair.front.client(client_id=client_id)
    record = await pair.holder.store.client(client_id)
    assert record is not None
    return replace(found, identity=holder.identity)


async def test_a_call_is_answered_by_the_server_that_has_its_task(pair: Pair) -> None:
    device = await known_to_both(pair)
    status, answer, _ = await pair.front.call(device, CHECK_IN, AN_ASK)
    assert status is OK
    assert client.CheckInResponse.FromString(answer).assignment.assignment_id == b"a" * 16
    (name, (caller, _)), *more = pair.holder.federation.calls
    assert (name, more) == ("check_in", [])
    assert (caller.kind, caller.id, caller.role) == ("client", OWNER, "client")
    assert caller.address == "ipv4:127.0.0.1" and caller.fingerprint == device.fingerprint
    assert caller.passed == {"digits-1"}


async def test_what_is_signed_is_checked_where_its_round_is(pair: Pair) -> None:
    device = await known_to_both(pair)
    report = rounds.Report(assignment_id=b"a" * 16)
    sealed = device.seal(report, "RoundService.Report", pair.holder.place)
    request = rounds.ReportRequest(report=sealed)
    assert (await pair.front.call(device, REPORT, request))[0] is OK
    assert [name for name, _ in pair.holder.federation.calls] == ["place", "report"]
    sealed.payload += b" "
    request = rounds.ReportRequest(report=sealed)
    assert (await pair.front.call(device, REPORT, request))[0] is not OK
    assert [name for name, _ in pair.holder.federation.calls].count("report") == 1


async def test_a_refusal_comes_back_as_it_was_said(pair: Pair) -> None:
    device = await known_to_both(pair)
    pair.holder.federation.raises = PhaseError("too late", why="it is over", fix="ask again")
    status, _, error = await pair.front.call(device, BEAT, A_BEAT)
    found = error_from(error)
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert isinstance(found, PhaseError) and (found.what, found.why) == ("too late", "it is over")


async def test_a_server_that_does_not_answer_makes_its_callers_come_again(pair: Pair) -> None:
    device = await known_to_both(pair)
    pair.front.federation.raises = ElsewhereError("localhost:9", frozenset({"digits-1"}))
    status, _, error = await pair.front.call(device, BEAT, A_BEAT)
    found = error_from(error)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert isinstance(found, DrainingError) and found.retry is not None


async def test_a_server_that_does_not_know_who_is_known_here_is_waited_for(pair: Pair) -> None:
    """As while one of them has been started with another issuing key, and the other has not."""
    device = await pair.front.client(client_id=OWNER)
    status, _, error = await pair.front.call(device, BEAT, A_BEAT)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error_from(error), DrainingError)


@pytest.fixture
async def patient_pair(tmp_path: Path, authority: Authority) -> AsyncIterator[Pair]:
    """Two servers that refuse nothing because their machine is busy."""
    async with two_servers(tmp_path, authority, loop_lag_s=60.0) as made:
        yield made


async def test_many_calls_that_are_held_do_not_keep_others_from_passing(
    patient_pair: Pair,
) -> None:
    """A port takes 100 calls of a connection, and lets the others wait."""
    pair = patient_pair
    devices = [await known_to_both(pair, bytes([n]) * 16) for n in range(1, 15)]
    free, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def held() -> None:
        asked.release()
        await free.wait()

    pair.holder.federation.block = held
    asking = [
        asyncio.ensure_future(pair.front.call(device, CHECK_IN, AN_ASK, limit_s=60))
        for device in devices
        for _ in range(8)
    ]
    for _ in asking:
        await asyncio.wait_for(asked.acquire(), 60)
    free.set()
    assert {(await one)[0] for one in asking} == {OK}


async def test_calls_that_follow_each_other_quickly_are_all_passed_on(patient_pair: Pair) -> None:
    """The other's port may still count a call that has ended, and refuse the next one unseen."""
    pair = patient_pair
    devices = [await known_to_both(pair, bytes([n]) * 16) for n in range(1, 31)]
    found = set()

    async def ask_on(device: Any) -> None:
        for _ in range(15):
            found.add((await pair.front.call(device, CHECK_IN, AN_ASK, limit_s=60))[0])

    await asyncio.gather(*map(ask_on, devices))
    assert found == {OK}


def pem(holder: Any) -> bytes:
    """A party's own certificate, without the chain."""
    first, end = holder.chain_pem.split(b"-----END CERTIFICATE-----", 1)[0], b"-----END "
    return bytes(first + end + b"CERTIFICATE-----\n")


async def test_nobody_but_a_server_calls_for_another(pair: Pair) -> None:
    device = await known_to_both(pair)
    other = await pair.holder.client(client_id=b"o" * 16)
    admin = pair.holder.user("admin")
    for shown in (other, admin):
        for named in (device, admin, other):
            note = Note(pem(named), "ipv4:10.0.0.1", frozenset())
            keys = (shown.key_pem, shown.chain_pem)
            assert await pair.at_holder(BEAT, A_BEAT, shown=keys, note=note) is NOBODY
    assert pair.holder.federation.calls == []


async def test_a_server_s_certificate_alone_opens_nothing(pair: Pair) -> None:
    mine = pair.certificate()
    keys = (mine.key, mine.chain)
    assert await pair.at_holder(BEAT, A_BEAT, shown=keys, note=None) is NOBODY
    for path, request in ((BEAT, A_BEAT), (CHECK_IN, AN_ASK)):
        own = Note(mine.chain, "ipv4:10.0.0.1", frozenset())
        assert await pair.at_holder(path, request, shown=keys, note=own) is NOBODY


@pytest.mark.parametrize(
    "how",
    mostly_slow(["expired", "revoked", "unknown", "stranger", "garbage", "server"], quick=2),
)
async def test_a_certificate_that_a_server_passes_on_is_read_as_if_it_came_by_itself(
    pair: Pair, stranger: Authority, how: str
) -> None:
    mine = pair.certificate()
    named = await pair.holder.client(
        client_id=OWNER,
        enrolled=how != "unknown",
        age_s=3 * 86_400 if how == "expired" else 0,
        authority=stranger if how == "stranger" else None,
    )
    certificate = pem(named)
    if how == "revoked":
        await pair.holder.store.set_client_state(OWNER, ClientState.REVOKED, reason="stolen")
    if how == "garbage":
        certificate = hashlib.sha256(certificate).digest()
    if how == "server":
        certificate = pair.certificate().chain
    note = Note(certificate, "ipv4:10.0.0.1", frozenset())
    shown = (mine.key, mine.chain)
    assert await pair.at_holder(BEAT, A_BEAT, shown=shown, note=note) is NOBODY
    assert pair.holder.federation.calls == []


async def test_an_old_certificate_of_a_server_does_not_count(pair: Pair) -> None:
    device = await known_to_both(pair)
    old = pair.certificate(age_s=8 * 86_400)
    note = Note(pem(device), "ipv4:10.0.0.1", frozenset())
    found = await pair.at_holder(BEAT, A_BEAT, shown=(old.key, old.chain), note=note)
    assert found in (NOBODY, grpc.StatusCode.UNAVAILABLE)  # TLS may be the first to refuse


async def test_a_renewed_certificate_is_shown_from_then_on(pair: Pair) -> None:
    device = await known_to_both(pair)
    passing = pair.front.server._passing
    assert isinstance(passing, Passing)
    before = passing.validity
    await passing.renew(pair.certificate(age_s=60))
    assert passing.validity != before
    assert (await pair.front.call(device, BEAT, A_BEAT))[0] is OK


def test_half_a_note_is_none() -> None:
    whole = Note(b"certificate", "ipv4:10.0.0.1", frozenset({"a", "b"}))
    assert Note.of(whole.metadata()) == whole
    assert Note.of([("user-agent", "grpc")]) is None
    for missing in range(3):
        pairs = [p for n, p in enumerate(whole.metadata()) if n != missing]
        with pytest.raises(UnauthenticatedError):
            Note.of(pairs)
