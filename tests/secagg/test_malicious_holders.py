"""What dealers and holders of shares may do wrong, and who is named for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fedcore.entropy import SystemEntropy
from fedcore.errors import (
    AbortError,
    AuthenticationError,
    MessageError,
    ReuseError,
    SecAggError,
    ShareError,
    StageError,
)
from fedcore.secagg.keys import half_hash, share_hash
from fedcore.secagg.loopback import ClientHost, LostAt
from fedcore.secagg.messages import (
    Complaint,
    ComplaintReason,
    Confirmation,
    Message,
    Shares,
    UnmaskAnswer,
    UploadHeader,
)
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.shamir import PRIME
from fedcore.secagg.sharing import complaint_statement, deal, shares_statement
from fedcore.secagg.stages import Stage
from fedcore.secagg.transcript import bitmap_of, members_of
from tests.secagg.adversary import World
from tests.secagg.liars import instead_of, others, play, session_of
from tests.secagg.picture import picture
from tests.variants import mostly_slow

ALL = list(range(8))  # c = 1, d₀ = 2, u_min = 6, a quorum of 5, t = 4 of k = 7
OUT_OF_FIELD = PRIME.to_bytes(4, "little") * 9


# --- R1: shares -----------------------------------------------------------------------------------


def signed(host: ClientHost, message: Shares, ciphertexts: bytes, hashes: bytes) -> Shares:
    """Other shares, signed by the client that deals them."""
    root = session_of(host, message.sid).view.root
    statement = shares_statement(message.sid, root, ciphertexts, hashes)
    signature = session_of(host, message.sid).identity.sign(statement)
    return Shares(message.sid, ciphertexts, hashes, signature)


def redealt(host: ClientHost, message: Shares, **secrets: bytes) -> Shares:
    """Shares of other secrets than the prekey's, with all signatures in order."""
    session = session_of(host, message.sid)
    own = session.prekey
    fake = replace(
        own,
        mask_secret=secrets.get("mask_secret", own.mask_secret),
        b=secrets.get("b", own.b),
    )
    return deal(
        session.view, fake, session.channels, identity=session.identity, entropy=SystemEntropy()
    )


def sealed(host: ClientHost, message: Shares, halves: Callable[[int], bytes]) -> Shares:
    """Shares of the dealer's choice for each neighbour, in good order otherwise."""
    session = session_of(host, message.sid)
    ciphertexts, hashes = [], []
    for j, channel in session.channels.items():
        pair = halves(j)
        ciphertexts.append(channel.seal(pair, SystemEntropy()))
        hashes.append(share_hash(message.sid, session.view.index, j, pair[:36], pair[36:]))
    return signed(host, message, b"".join(ciphertexts), b"".join(hashes))


BAD_SHARES: dict[str, tuple[Callable[[ClientHost, Shares], Sequence[Message]], type[SecAggError]]]
BAD_SHARES = {
    "no signature": (lambda h, m: [replace(m, signature=bytes(64))], AuthenticationError),
    "bent": (
        lambda h, m: [replace(m, ciphertexts=bytes(len(m.ciphertexts)))],
        AuthenticationError,
    ),
    "too few": (lambda h, m: [signed(h, m, m.ciphertexts[100:], m.hashes[32:])], MessageError),
    "none": (lambda h, m: [signed(h, m, b"", b"")], MessageError),
    "another session": (lambda h, m: [replace(m, sid=bytes(32))], SecAggError),
    "dealt again": (lambda h, m: [m, redealt(h, m)], ReuseError),
}


@pytest.mark.parametrize("name", BAD_SHARES)
def test_shares_out_of_order_are_refused_and_the_rest_goes_on(name: str) -> None:
    change, error = BAD_SHARES[name]
    game = play(World(), {3: instead_of(Shares, change)}, until=Stage.UPLOADS)
    assert game.named == {3}
    assert [isinstance(found, error) for found in game.refused] == [True]
    game.assert_sum(ALL if error is ReuseError else others(3))


def test_nobody_deals_for_another() -> None:
    world = World()
    game = play(world)
    shares = game.server._frozen.of(Shares)[0]
    game.server._frozen.of(Shares).pop(1)
    with pytest.raises(AuthenticationError) as caught:
        game.say(1, shares)
    assert caught.value.culprit == world.ids[1]


@pytest.mark.parametrize(
    ("secret", "lost_at"),
    [("mask_secret", LostAt.UPLOAD), ("b", LostAt.ANSWER), ("mask_secret", LostAt.UPLOADING)],
)
def test_a_dealer_of_shares_of_something_else_is_named(secret: str, lost_at: LostAt) -> None:
    def change(host: ClientHost, message: Shares) -> Sequence[Message]:
        return [redealt(host, message, **{secret: SystemEntropy().token(32)})]

    world = World()
    game = play(world, {3: instead_of(Shares, change)}, lost={3: lost_at})
    with pytest.raises(ShareError) as caught:
        game.run()
    assert caught.value.culprit == world.ids[3]
    assert game.server.stage is Stage.ABORTED
    assert set(game.server.culprits) == {world.ids[3]}


def test_all_dealers_of_shares_of_something_else_are_named_also_after_a_restart() -> None:
    def change(host: ClientHost, message: Message) -> Sequence[Message]:
        return [redealt(host, message, mask_secret=SystemEntropy().token(32))]

    world, lie = World(), instead_of(Shares, change)
    game = play(world, {3: lie, 5: lie}, lost={3: LostAt.UPLOAD, 5: LostAt.UPLOAD})
    with pytest.raises(ShareError):
        game.run()
    named = {world.ids[3], world.ids[5]}
    assert set(game.server.culprits) == named
    after, _ = SecAggServer.restore(dict(game.loopback.server.disk), trust=world.trust)
    assert after.stage is Stage.ABORTED and set(after.culprits) == named


def mixed(good: Sequence[int]) -> Callable[[ClientHost, Shares], Sequence[Message]]:
    """Shares of one polynomial for the holders at the places `good`, of another for the others."""

    def change(host: ClientHost, message: Shares) -> Sequence[Message]:
        other = redealt(host, message)
        holders = range(len(message.hashes) // 32)
        sealed = [message if place in good else other for place in holders]
        ciphertexts = b"".join(
            chosen.ciphertexts[100 * place :][:100]
            for place, chosen in zip(holders, sealed, strict=True)
        )
        hashes = b"".join(
            chosen.hashes[32 * place :][:32] for place, chosen in zip(holders, sealed, strict=True)
        )
        return [signed(host, message, ciphertexts, hashes)]

    return change


@pytest.mark.parametrize("bad", mostly_slow([3, 4, 0, 1, 2, 5, 6], quick=2))  # t = 4
@pytest.mark.parametrize("lost_at", [LostAt.UPLOAD, LostAt.ANSWER])
def test_a_dealer_of_one_share_that_contradicts_the_others_is_named_and_the_sum_is_right(
    bad: int, lost_at: LostAt
) -> None:
    world = World()
    good = [place for place in range(7) if place != bad]
    game = play(world, {3: instead_of(Shares, mixed(good))}, lost={3: lost_at})
    survivors = others(3) if lost_at is LostAt.UPLOAD else ALL
    game.assert_sum(survivors)
    threshold = game.server.roster.parameters.threshold
    used = bad < threshold  # a bad share beyond the first t is never looked at
    culprits = {world.ids[3]} if used else set()
    assert set(game.server.culprits) == culprits
    after, _ = SecAggServer.restore(dict(game.loopback.server.disk), trust=world.trust)
    assert set(after.culprits) == culprits


def test_a_dealer_of_shares_that_contradict_each_other_is_named() -> None:
    world = World()
    game = play(world, {3: instead_of(Shares, mixed([0, 1]))}, lost={3: LostAt.UPLOAD})
    with pytest.raises(ShareError) as caught:
        game.run()
    assert caught.value.culprit == world.ids[3]


def test_bad_shares_of_a_client_that_is_not_lost_harm_nobody() -> None:
    def change(host: ClientHost, message: Shares) -> Sequence[Message]:
        return [redealt(host, message, b=bytes(32), mask_secret=bytes(32))]

    game = play(World(), {3: instead_of(Shares, change)})
    game.assert_sum(ALL)
    assert not game.refused


# --- R2: complaints -------------------------------------------------------------------------------

UNUSABLE: dict[str, tuple[Callable[[ClientHost, Shares], Shares], ComplaintReason]] = {
    "garbage": (
        lambda h, m: signed(h, m, bytes(len(m.ciphertexts)), m.hashes),
        ComplaintReason.NOT_DECRYPTED,
    ),
    "another hash": (
        lambda h, m: signed(h, m, m.ciphertexts, bytes(len(m.hashes))),
        ComplaintReason.OTHER_HASH,
    ),
    "b not in the field": (
        lambda h, m: sealed(h, m, lambda j: OUT_OF_FIELD + bytes(36)),
        ComplaintReason.NOT_IN_FIELD,
    ),
    "sk not in the field": (
        lambda h, m: sealed(h, m, lambda j: bytes(36) + OUT_OF_FIELD),
        ComplaintReason.NOT_IN_FIELD,
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_dealer_of_unusable_shares_is_named_by_more_complaints_than_can_be_false(
    name: str,
) -> None:
    change, reason = UNUSABLE[name]
    world = World()
    game = play(world, {3: instead_of(Shares, lambda host, message: [change(host, message)])})
    game.run(Stage.UPLOADS)
    assert set(game.server.culprits) == {world.ids[3]}
    complaints = game.server._frozen.complaints
    assert set(complaints) == {(i, 3) for i in others(3)}
    assert {complaint.reason for complaint in complaints.values()} == {reason}
    game.assert_sum(ALL)  # it is there until the end, and tells its b itself


def test_whose_shares_are_unusable_may_not_be_lost() -> None:
    change, _ = UNUSABLE["garbage"]
    world = World()
    lies = {3: instead_of(Shares, lambda host, message: [change(host, message)])}
    game = play(world, lies, lost={3: LostAt.UPLOAD})
    with pytest.raises(AbortError) as caught:
        game.run()
    assert caught.value.culprit is None  # to be lost is no fault; what it dealt is
    assert set(game.server.culprits) == {world.ids[3]}


def complaint(host: ClientHost, sid: bytes, accused: int) -> Complaint:
    session = session_of(host, sid)
    reason = ComplaintReason.OTHER_HASH
    statement = complaint_statement(sid, session.view.root, accused, reason)
    return Complaint(sid, accused, reason, session.identity.sign(statement))


def test_as_many_complaints_as_there_are_corrupt_clients_name_nobody() -> None:
    def slander(host: ClientHost, message: UploadHeader) -> Sequence[Message]:
        return [*[complaint(host, message.sid, j) for j in others(3)], message]

    game = play(World(), {3: instead_of(UploadHeader, slander)})
    game.assert_sum(ALL)
    assert not game.refused and not game.server.culprits


def test_forged_complaints_are_refused() -> None:
    world = World()
    game = play(world, until=Stage.UPLOADS)
    sid = game.server.roster.sid
    good = complaint(world.hosts[3], sid, 5)
    before = picture(game.server)
    for forged, error in (
        (replace(good, signature=bytes(64)), AuthenticationError),
        (replace(good, accused=6), AuthenticationError),
        (replace(good, reason=ComplaintReason.NOT_DECRYPTED), AuthenticationError),
        (complaint(world.hosts[2], sid, 5), AuthenticationError),
        (complaint(world.hosts[3], sid, 3), MessageError),
        (complaint(world.hosts[3], sid, 8), MessageError),
        (replace(good, accused=2**32 - 1), MessageError),
        (replace(good, sid=bytes(32)), MessageError),
    ):
        with pytest.raises(error) as caught:
            game.say(3, forged)
        assert caught.value.culprit == world.ids[3]
        assert picture(game.server) == before
    game.say(3, good)
    game.say(3, good)
    assert not game.server.culprits  # said twice by one client, it counts once
    game.say(4, complaint(world.hosts[4], sid, 5))
    assert set(game.server.culprits) == {world.ids[5]}
    game.assert_sum(ALL)


def test_nobody_complains_before_there_are_shares() -> None:
    world = World()
    game = play(world)
    with pytest.raises(StageError):
        game.say(3, complaint(world.hosts[3], game.server.roster.sid, 5))
    game.assert_sum(ALL)


# --- R4: answers ----------------------------------------------------------------------------------


def bend(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


ANSWERS: dict[str, tuple[Callable[[ClientHost, UnmaskAnswer], UnmaskAnswer], type[SecAggError]]]
ANSWERS = {
    "another b": (lambda h, m: replace(m, b=bytes(32)), AuthenticationError),
    "a bent share": (lambda h, m: replace(m, shares=bend(m.shares)), AuthenticationError),
    "a bent hash": (
        lambda h, m: replace(m, other_hashes=bend(m.other_hashes, 40)),
        AuthenticationError,
    ),
    "shares in another order": (
        lambda h, m: replace(
            m,
            shares=m.shares[36:72] + m.shares[:36] + m.shares[72:],
            other_hashes=m.other_hashes[32:64] + m.other_hashes[:32] + m.other_hashes[64:],
        ),
        AuthenticationError,
    ),
    "not in the field": (
        lambda h, m: replace(m, shares=OUT_OF_FIELD + m.shares[36:]),
        AuthenticationError,
    ),
    "fewer neighbours": (
        lambda h, m: replace(
            m, count=6, present=b"\x3f", shares=m.shares[:216], other_hashes=m.other_hashes[:192]
        ),
        MessageError,
    ),
    "another session": (lambda h, m: replace(m, sid=bytes(32)), MessageError),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_is_named_and_the_sum_is_right(name: str) -> None:
    change, error = ANSWERS[name]
    game = play(World(), {3: instead_of(UnmaskAnswer, lambda h, m: [change(h, m)])})
    game.assert_sum(ALL)
    assert [type(found) for found in game.refused] == [error]
    assert game.named == {3}


@pytest.mark.parametrize("name", ANSWERS)
def test_nobody_but_a_dealer_is_named_for_answers_that_do_not_rebuild_its_secret(name: str) -> None:
    """Two are lost, and four of the other six lie of the shares that they were dealt."""
    change, _ = ANSWERS[name]
    lie = instead_of(UnmaskAnswer, lambda host, message: [change(host, message)])
    lost = {3: LostAt.UPLOAD, 5: LostAt.UPLOAD}
    game = play(World(), dict.fromkeys([0, 1, 2, 4], lie), lost=lost)
    with pytest.raises(AbortError) as caught:
        game.run()
    assert caught.value.culprit is None and not game.server.culprits
    assert game.named == {0, 1, 2, 4}


def test_an_answer_that_holds_nothing_back_but_the_shares_is_taken() -> None:
    def change(host: ClientHost, message: UnmaskAnswer) -> Sequence[Message]:
        return [replace(message, present=b"\x00", shares=b"", other_hashes=b"")]

    game = play(World(), {3: instead_of(UnmaskAnswer, change)}, lost={5: LostAt.UPLOAD})
    game.assert_sum(others(5))


def test_a_second_answer_is_refused() -> None:
    def change(host: ClientHost, message: UnmaskAnswer) -> Sequence[Message]:
        return [message, replace(message, present=b"\x00", shares=b"", other_hashes=b"")]

    game = play(World(), {3: instead_of(UnmaskAnswer, change)})
    game.assert_sum(ALL)
    assert [type(found) for found in game.refused] == [ReuseError]


@pytest.mark.parametrize("bad", [1, 2, 3, 4])
def test_up_to_k_minus_t_bad_holders_cost_nothing(bad: int) -> None:
    world = World()
    lie = instead_of(UnmaskAnswer, lambda h, m: [replace(m, shares=bend(m.shares, 36 * 2))])
    liars = [0, 1, 2, 4][:bad]
    game = play(world, dict.fromkeys(liars, lie), lost={7: LostAt.UPLOAD})
    if bad <= 3:
        game.assert_sum(others(7))
    else:
        with pytest.raises(AbortError):
            game.run()
    assert game.named == set(liars)


def test_the_wrong_half_of_a_share_is_refused() -> None:
    """A holder that would give sk where b was asked: the server does not even take it."""
    held: dict[int, Any] = {}

    def lie(host: ClientHost, message: Message) -> Sequence[Message]:
        if isinstance(message, Confirmation):
            masking = session_of(host, message.sid).masking
            assert masking is not None
            held.update(masking.held)
        if not isinstance(message, UnmaskAnswer):
            return [message]
        share = held[0]
        other = half_hash("b", message.sid, 0, 3, share.of_b)
        return [
            replace(
                message,
                shares=share.of_mask_key + message.shares[36:],
                other_hashes=other + message.other_hashes[32:],
            )
        ]

    game = play(World(), {3: lie})
    game.assert_sum(ALL)
    assert game.named == {3}


@pytest.mark.parametrize("lost_at", [LostAt.UPLOAD, LostAt.ANSWER])
def test_a_holder_in_league_with_a_dealer_cannot_spoil_the_sum(lost_at: LostAt) -> None:
    """The dealer gives it one share that is in no field; honest holders have enough good ones."""

    def deals(host: ClientHost, message: Shares) -> Sequence[Message]:
        session = session_of(host, message.sid)
        channel, bad = session.channels[0], OUT_OF_FIELD * 2
        ciphertexts = channel.seal(bad, SystemEntropy()) + message.ciphertexts[100:]
        hashes = share_hash(message.sid, 7, 0, bad[:36], bad[36:]) + message.hashes[32:]
        return [signed(host, message, ciphertexts, hashes)]

    def reveals(host: ClientHost, message: Message) -> Sequence[Message]:
        if isinstance(message, Complaint):
            return []
        if not isinstance(message, UnmaskAnswer):
            return [message]
        present = members_of(message.present, message.count)
        assert not present[6]
        present[6] = True
        kind = "sk" if lost_at is LostAt.ANSWER else "b"
        other = half_hash(kind, message.sid, 7, 0, OUT_OF_FIELD)  # type: ignore[arg-type]
        return [
            replace(
                message,
                present=bitmap_of(present),
                shares=message.shares + OUT_OF_FIELD,
                other_hashes=message.other_hashes + other,
            )
        ]

    game = play(World(), {0: reveals, 7: instead_of(Shares, deals)}, lost={7: lost_at})
    game.assert_sum(ALL if lost_at is LostAt.ANSWER else others(7))
    assert game.named == {0}
