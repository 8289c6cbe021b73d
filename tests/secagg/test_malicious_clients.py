"""What clients may send to the server, and what it does: names who it was, and sums up the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fedcore.entropy import SystemEntropy
from fedcore.errors import (
    AuthenticationError,
    ConsistencyError,
    MessageError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.keys import PrekeyBundle
from fedcore.secagg.loopback import ClientHost, LostAt
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Advertise,
    Confirmation,
    Message,
    Shares,
    UnmaskAnswer,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
)
from fedcore.secagg.revealing import confirmation_statement, header_statement
from fedcore.secagg.stages import Stage
from tests.secagg.adversary import LAYOUT, NOW, World
from tests.secagg.liars import Game, Lie, instead_of, others, play, session_of
from tests.secagg.picture import picture

ALL = list(range(8))  # c = 1, d₀ = 2, u_min = 6, a quorum of 5, t = 4 of k = 7


# --- R0: prekeys ----------------------------------------------------------------------------------


def bundle_of(message: Advertise, **changes: bytes) -> Advertise:
    return replace(message, bundle=replace(PrekeyBundle.decode(message.bundle), **changes).encode())


@pytest.mark.parametrize("field", ["pid", "mask_key", "channel_key", "commitment", "signature"])
def test_a_bundle_that_its_client_did_not_sign_is_refused(field: str) -> None:
    def change(host: ClientHost, message: Advertise) -> Sequence[Message]:
        size = len(getattr(PrekeyBundle.decode(message.bundle), field))
        return [bundle_of(message, **{field: bytes([9]) * size})]

    game = play(World(), {3: instead_of(Advertise, change)})
    assert game.named == {3}
    assert type(game.refused[0]) is AuthenticationError
    assert world_size(game) == 7


def world_size(game: Game) -> int:
    return game.server.roster.n


def test_a_key_of_low_order_keeps_its_client_out() -> None:
    world = World(corrupt=[3])
    forged = world.forged_prekey(3, mask_key=bytes(32))
    game = play(world, {3: instead_of(Advertise, lambda host, message: [forged])})
    assert game.named == {3}
    assert world_size(game) == 7


def test_nobody_posts_for_another() -> None:
    world = World()
    stolen = world.prekey(4)
    game = play(world, {3: instead_of(Advertise, lambda host, message: [stolen])})
    assert game.named == {3}
    assert type(game.refused[0]) is AuthenticationError
    assert world_size(game) == 7


def test_an_expired_client_is_kept_out() -> None:
    world = World(corrupt=[3])
    expired = world.forged_prekey(3, identity=world.certified(world.ids[3], expires=NOW))
    game = play(world, {3: instead_of(Advertise, lambda host, message: [expired])})
    assert game.named == {3}
    assert world_size(game) == 7


def test_a_second_bundle_for_one_session_is_refused() -> None:
    world = World()
    second = world.prekey(3)
    game = play(world, {3: instead_of(Advertise, lambda host, message: [message, second])})
    assert [type(error) for error in game.refused] == [ReuseError]
    game.assert_sum(ALL)


# --- R2: uploads ----------------------------------------------------------------------------------


def other_context(host: ClientHost, message: UploadHeader) -> Sequence[Message]:
    signature = host.client._identity.sign(header_statement(bytes(32), 3))
    return [replace(message, context=bytes(32), signature=signature)]


UPLOADS: dict[str, tuple[Lie, type[SecAggError]]] = {
    "another context": (instead_of(UploadHeader, other_context), ConsistencyError),
    "no signature": (
        instead_of(UploadHeader, lambda h, m: [replace(m, signature=bytes(64))]),
        AuthenticationError,
    ),
    "another length": (
        instead_of(UploadHeader, lambda h, m: [replace(m, length=m.length - 1)]),
        MessageError,
    ),
    "no header": (instead_of(UploadHeader, lambda h, m: []), MessageError),
    "another digest": (
        instead_of(UploadTrailer, lambda h, m: [replace(m, digest=bytes(32))]),
        MessageError,
    ),
    "a bent chunk": (
        instead_of(UploadChunk, lambda h, m: [replace(m, data=bytes(len(m.data)))]),
        MessageError,
    ),
    "no chunks": (instead_of(UploadChunk, lambda h, m: []), MessageError),
    "too long": (
        instead_of(UploadChunk, lambda h, m: [replace(m, data=m.data + bytes(8))]),
        MessageError,
    ),
    "a chunk of another session": (
        instead_of(UploadChunk, lambda h, m: [replace(m, sid=bytes(32))]),
        MessageError,
    ),
    "a trailer of another session": (
        instead_of(UploadTrailer, lambda h, m: [replace(m, sid=bytes(32))]),
        MessageError,
    ),
    "a chunk far beyond": (
        instead_of(UploadChunk, lambda h, m: [replace(m, offset=2**63)]),
        MessageError,
    ),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_is_not_what_it_announces_is_left_out(name: str) -> None:
    lie, error = UPLOADS[name]
    game = play(World(), {3: lie})
    game.run(Stage.CONFIRMATIONS)
    assert game.named == {3}
    assert {type(found) for found in game.refused} <= {error, MessageError, StageError}
    assert error in {type(found) for found in game.refused}
    game.assert_sum(others(3))


def test_half_an_upload_with_its_own_digest_is_left_out() -> None:
    """Its digest fits what was sent; added up, it would leave half of its masks in the sum."""
    sent: list[bytes] = []

    def lie(host: ClientHost, message: Message) -> Sequence[Message]:
        if isinstance(message, UploadChunk):
            if sent:
                return []
            sent.append(message.data)
        if isinstance(message, UploadTrailer):
            return [replace(message, digest=hashlib.sha256(sent[0]).digest())]
        return [message]

    game = play(World(), {3: lie})
    game.assert_sum(others(3))
    assert game.named == {3}


def test_an_upload_that_comes_twice_counts_once() -> None:
    kept: list[Message] = []

    def lie(host: ClientHost, message: Message) -> Sequence[Message]:
        if isinstance(message, UploadHeader | UploadChunk):
            kept.append(message)
        return [message, *kept, message] if isinstance(message, UploadTrailer) else [message]

    game = play(World(), {3: lie})
    game.assert_sum(ALL)


def test_a_second_upload_after_the_first_is_refused() -> None:
    def lie(host: ClientHost, message: UploadTrailer) -> Sequence[Message]:
        return [message, UploadChunk(message.sid, 0, bytes(24)), replace(message, digest=bytes(32))]

    game = play(World(), {3: instead_of(UploadTrailer, lie)})
    game.run(Stage.CONFIRMATIONS)
    assert ReuseError in {type(error) for error in game.refused}
    assert game.named == {3}
    game.assert_sum(ALL)


# --- R3: confirmations ----------------------------------------------------------------------------


def confirms(host: ClientHost, message: Confirmation, digest: bytes) -> Confirmation:
    signature = session_of(host, message.sid).identity.sign(confirmation_statement(digest))
    return Confirmation(message.sid, digest, signature)


CONFIRMATIONS: dict[str, tuple[Lie, type[SecAggError]]] = {
    "another set": (
        instead_of(Confirmation, lambda h, m: [confirms(h, m, bytes(32))]),
        MessageError,
    ),
    "no signature": (
        instead_of(Confirmation, lambda h, m: [replace(m, signature=bytes(64))]),
        AuthenticationError,
    ),
    "two sets": (
        instead_of(Confirmation, lambda h, m: [m, confirms(h, m, bytes(32))]),
        ReuseError,
    ),
    "another session": (
        instead_of(Confirmation, lambda h, m: [replace(m, sid=bytes(32))]),
        MessageError,
    ),
}


@pytest.mark.parametrize("name", CONFIRMATIONS)
def test_a_client_that_confirms_another_set_is_named(name: str) -> None:
    lie, error = CONFIRMATIONS[name]
    game = play(World(), {3: lie})
    game.run(Stage.ANSWERS)
    assert [type(found) for found in game.refused] == [error]
    assert game.named == {3}
    game.assert_sum(ALL)


# --- order ----------------------------------------------------------------------------------------


def test_whoever_is_not_in_the_roster_is_not_heard() -> None:
    world = World()
    game = play(world)
    stranger = SystemEntropy().token(16)
    with pytest.raises(StageError) as caught:
        game.server.handle(stranger, game.server._frozen.of(Shares)[0])
    assert caught.value.culprit == stranger
    chunk = UploadChunk(game.server.roster.sid, 0, bytes(8))
    with pytest.raises(StageError):
        game.server.takes(stranger, chunk)
    game.assert_sum(ALL)


def test_a_client_that_dealt_nothing_has_no_say_later() -> None:
    world = World()
    game = play(world, lost={5: LostAt.SHARES}, until=Stage.UPLOADS)
    sid = game.server.roster.sid
    for message in (
        UploadHeader(sid, game.server._frozen.context, LAYOUT.upload_bytes, bytes(64)),
        Confirmation(sid, bytes(32), bytes(64)),
        UploadChunk(sid, 0, bytes(8)),
        UploadTrailer(sid, bytes(32)),
    ):
        with pytest.raises(StageError):
            game.say(5, message)
    game.assert_sum(others(5))


@pytest.mark.parametrize("stage", [Stage.SHARES, Stage.UPLOADS, Stage.CONFIRMATIONS, Stage.ANSWERS])
def test_what_is_not_awaited_is_refused_and_changes_nothing(stage: Stage) -> None:
    world = World()
    late = LostAt.SHARES if stage is Stage.SHARES else None
    game = play(world, lost={} if late is None else {3: late}, until=stage)
    sid = game.server.roster.sid
    messages: dict[Stage, Message] = {
        Stage.SHARES: Shares(sid, bytes(700), bytes(224), bytes(64)),
        Stage.UPLOADS: UploadHeader(sid, bytes(32), LAYOUT.upload_bytes, bytes(64)),
        Stage.CONFIRMATIONS: Confirmation(sid, bytes(32), bytes(64)),
        Stage.ANSWERS: UnmaskAnswer(sid, bytes(32), b"\x00", 7, b"", b""),
    }
    before = picture(game.server)
    for of, message in messages.items():
        if of is not stage:
            with pytest.raises(SecAggError) as caught:
                game.say(3, message)
            assert type(caught.value) in (StageError, ReuseError)
    for message in (
        Abort(sid, AbortReason.CANCELLED),
        game.server.roster.message_for(0),
        world.prekey(3),
    ):
        with pytest.raises(StageError):
            game.say(3, message)
    assert picture(game.server) == before
    game.assert_sum(ALL if late is None else others(3))


def test_a_session_that_is_over_takes_nothing_more() -> None:
    world = World()
    game = play(world)
    game.assert_sum(ALL)
    answer = game.server._frozen.of(UnmaskAnswer)[3]
    game.say(3, answer)
    with pytest.raises(ReuseError):
        game.say(3, replace(answer, b=bytes(32)))
    cancelled = play(World(), until=Stage.UPLOADS)
    cancelled.server.abort()
    sid = cancelled.server.roster.sid
    for late in (UploadTrailer(bytes(32), bytes(32)), Confirmation(sid, bytes(32), bytes(64))):
        with pytest.raises(SecAggError):
            cancelled.say(3, late)
    assert cancelled.server.stage is Stage.ABORTED
