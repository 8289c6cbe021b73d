"""What was sent once is not taken again, elsewhere, by another, or in another's name.

Neither across sessions and rounds, nor after a crash: a client never gives a second vector under
one set of masks, or a second set of shares of one prekey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedcore.errors import (
    AuthenticationError,
    ConsistencyError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.keys import PrekeyBundle
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Advertise,
    Complaint,
    ComplaintReason,
    Confirmation,
    MaskRequest,
    Message,
    Shares,
    UnmaskAnswer,
    UploadHeader,
)
from fedcore.secagg.sharing import CIPHERTEXT_BYTES
from tests.secagg.adversary import LAYOUT, Session, World, members
from tests.secagg.stories import ALL, confirmed, finish, uploaded


def test_no_message_of_a_finished_session_is_taken_again() -> None:
    world = World()
    past = uploaded(world)
    told = past.survivors(0, ALL)
    past.confirm()
    past.answer()
    for message in (past.roster.message_for(0), past.mask_request(0), told):
        past.refused(0, message, ReuseError)
    past.refused(0, past.unmask_request(range(7)), ReuseError)
    before = world.monitor.openable()
    assert past.send(0, past.unmask_request(ALL)) == [past.known.of(UnmaskAnswer)[0]]
    assert world.monitor.openable() == before
    past.assert_sum(ALL)


def test_no_message_of_one_round_is_taken_in_another() -> None:
    world = World()
    past = uploaded(world)
    told = past.survivors(0, ALL)
    past.confirm()
    session = Session(world, round=1)
    session.refused(0, replace(past.mask_request(0), sid=session.sid), StageError)
    session.deal()
    session.known.uploaders = members(8, ALL)
    # Shares sealed in the past cannot be opened now: complaints, and a sum all the same.
    replayed = replace(past.mask_request(0), sid=session.sid)
    complaints = [m for m in session.send(0, replayed) if isinstance(m, Complaint)]
    assert [c.reason for c in complaints] == [ComplaintReason.NOT_DECRYPTED] * 7
    session.mask(range(1, 8))
    session.refused(0, replace(told, sid=session.sid), AuthenticationError, stage="R3")
    session.refused(0, replace(past.unmask_request(ALL), sid=session.sid), StageError, stage="R4")
    session.confirm()
    session.refused(
        0, replace(past.unmask_request(ALL), sid=session.sid), AuthenticationError, stage="R4"
    )
    finish(session)


def test_a_message_of_an_unknown_session_is_refused() -> None:
    world = World()
    session = Session(world)
    session.known.uploaders = members(8, ALL)
    session.known.boxes[Shares].update(
        {i: Shares(session.sid, bytes(700), bytes(224), bytes(64)) for i in ALL}
    )
    for message in (
        session.mask_request(0),
        session.survivors(0, ALL),
        session.unmask_request(ALL),
    ):
        session.refused(0, message, StageError)
    assert session.send(0, Abort(session.sid, AbortReason.CANCELLED)) == []


@pytest.mark.parametrize("kind", [Shares, UploadHeader, Confirmation, Complaint, Advertise])
def test_a_client_takes_no_message_of_clients(kind: type[Message]) -> None:
    world = World()
    session = confirmed(world)
    message: Message
    match kind.__name__:
        case "Complaint":
            message = Complaint(session.sid, 1, ComplaintReason.OTHER_HASH, bytes(64))
        case "Advertise":
            message = session.adverts[1]
        case _:
            message = session.known.of(kind)[1]
    session.refused(0, message, StageError)
    finish(session)


def reflected(session: Session, request: MaskRequest) -> MaskRequest:
    """Client 0's own ciphertexts, sent back to it as those of its neighbours."""
    shares = session.known.of(Shares)[0]
    return replace(request, ciphertexts=shares.ciphertexts, hashes=shares.hashes)


def exchanged(session: Session, request: MaskRequest) -> MaskRequest:
    """The shares of two neighbours, each under the name of the other."""
    a, b, rest = (request.ciphertexts[s] for s in (slice(100), slice(100, 200), slice(200, None)))
    c, d, more = (request.hashes[s] for s in (slice(32), slice(32, 64), slice(64, None)))
    return replace(request, ciphertexts=b + a + rest, hashes=d + c + more)


def for_another(session: Session, request: MaskRequest) -> MaskRequest:
    """What was sealed for client 1, delivered to client 0, where both have a neighbour's share."""
    other = session.mask_request(1)
    return replace(
        request,
        ciphertexts=request.ciphertexts[:100] + other.ciphertexts[100:],
        hashes=request.hashes[:32] + other.hashes[32:],
    )


def bent(session: Session, request: MaskRequest) -> MaskRequest:
    """One bit of every ciphertext turned round."""
    cells = bytearray(request.ciphertexts)
    cells[50::CIPHERTEXT_BYTES] = bytes(b ^ 1 for b in cells[50::CIPHERTEXT_BYTES])
    return replace(request, ciphertexts=bytes(cells))


def rehashed(session: Session, request: MaskRequest) -> MaskRequest:
    """Other hashes than the dealers signed."""
    return replace(request, hashes=bytes(len(request.hashes)))


@pytest.mark.parametrize(
    ("change", "bad"), [(reflected, 7), (exchanged, 2), (for_another, 6), (bent, 7), (rehashed, 7)]
)
def test_shares_that_the_server_exchanged_or_bent_cost_one_holder_and_nothing_else(
    change: Callable[[Session, MaskRequest], MaskRequest], bad: int
) -> None:
    world = World()
    session = Session(world)
    session.deal()
    session.known.uploaders = members(8, ALL)
    heard = session.send(0, change(session, session.mask_request(0)))
    assert len([m for m in heard if isinstance(m, Complaint)]) == bad
    session.refused(0, session.mask_request(0), ReuseError, stage="R2")
    session.mask(range(1, 8))
    session.known.survivors = members(8, [0, 1, 2, 3, 4, 5, 6])
    session.confirm()
    session.answer()
    assert session.known.of(UnmaskAnswer)[0].present.hex() != "7f"
    session.assert_sum(range(7))


def test_neighbours_keys_cannot_be_exchanged() -> None:
    world = World()
    session = Session(world)
    roster = session.roster.message_for(0)
    first, second, *rest = roster.neighbours
    swapped = replace(roster, neighbours=(second, first, *rest))
    session.refused(0, swapped, ConsistencyError, stage="R1")
    bundles_only = ((second[0], first[1]), (first[0], second[1]), *rest)
    session.refused(0, replace(roster, neighbours=bundles_only), ConsistencyError, stage="R1")
    finish(session)


def test_keys_that_no_client_signed_are_refused() -> None:
    """The server in the middle: its own keys in the place of a client's."""
    world = World(corrupt=[7])
    keys = PrekeyBundle.decode(world.forged_prekey(7).bundle)
    adverts = [world.prekey(i) for i in ALL]
    honest = PrekeyBundle.decode(adverts[3].bundle)
    for field in ("mask_key", "channel_key", "commitment", "pid", "signature"):
        bundle = replace(honest, **{field: getattr(keys, field)}).encode()
        forged = [*adverts[:3], Advertise(adverts[3].certificate, bundle), *adverts[4:]]
        story = Session(world, adverts=forged)
        error = story.refused(0, story.roster.message_for(0), AuthenticationError)
        assert error.culprit == world.ids[3]
    finish(Session(world, adverts=adverts))


def test_a_client_finds_itself_under_its_own_keys_or_refuses() -> None:
    world = World(corrupt=[7])
    adverts = [world.prekey(i) for i in ALL]
    mine = PrekeyBundle.decode(adverts[0].bundle)
    forged = replace(PrekeyBundle.decode(world.forged_prekey(7).bundle), pid=mine.pid).encode()
    story = Session(world, adverts=[Advertise(adverts[0].certificate, forged), *adverts[1:]])
    story.refused(0, story.roster.message_for(0), ConsistencyError, stage="R1")
    session = Session(world, adverts=adverts)
    roster = session.roster.message_for(0)
    for lie in (
        replace(roster, index=1),
        replace(roster, path=bytes(len(roster.path))),
        replace(roster, path=session.roster.message_for(1).path),
        session.roster.message_for(1),
        replace(session.roster.message_for(1), pid=roster.pid),
        replace(roster, pid=session.roster.message_for(1).pid),
    ):
        with pytest.raises(SecAggError) as caught:
            world.send(0, lie)
        assert type(caught.value) in (ConsistencyError, ReuseError)
    finish(session)


def test_nobody_else_stands_in_the_roster_at_a_client_s_own_place() -> None:
    """All paths hold, but a stranger is counted in the place of whoever is told so."""
    world = World()
    session = Session(world)
    stranger = world.certified(bytes(16)).certificate.encode()
    roster = session.roster.message_for(0)
    replaced = replace(roster, certificates=stranger + roster.certificates[120:])
    error = session.refused(0, replaced, ConsistencyError, stage="R1")
    assert "own" in error.what
    finish(session)


def test_a_roster_for_the_prekey_of_another_client_is_refused() -> None:
    world = World()
    session = Session(world)
    error = session.refused(1, session.roster.message_for(0), ReuseError, stage="R1")
    assert "prekey" in error.what
    finish(session)


def test_a_prekey_serves_one_session() -> None:
    world = World()
    past = Session(world)
    past.deal()
    again = Session(world, round=1, adverts=past.adverts)
    for seat in ALL:
        again.refused(seat, again.roster.message_for(seat), ReuseError, stage="R1")
    finish(past)
    for seat in ALL:
        again.refused(seat, again.roster.message_for(seat), ReuseError, stage="R1")
        world.restart(seat)
        again.refused(seat, again.roster.message_for(seat), ReuseError, stage="R1")


def test_an_old_bundle_whose_key_was_rebuilt_opens_nobody_else() -> None:
    """Its client signed it once, so others take it; but only that client could use it."""
    world = World()
    past = confirmed(world, range(7))
    past.answer()
    assert world.monitor.points(world.ids[7], past.sid, "sk") == 7
    stale = [*[world.prekey(i) for i in range(7)], past.adverts[7]]
    session = Session(world, round=1, adverts=stale)
    session.deal(range(7))
    session.refused(7, session.roster.message_for(7), ReuseError, stage="R1")
    session.known.of(Shares)[7] = past.known.of(Shares)[7]  # nobody can open these again
    session.known.uploaders = members(8, ALL)
    session.mask(range(7))
    for survivors in (ALL, [0, 1, 2, 3, 4, 7]):
        session.refused(0, session.survivors(0, survivors), AuthenticationError, stage="R3")
    session.known.survivors = members(8, range(7))
    session.confirm()
    session.answer()
    world.monitor.check()
    honest = frozenset(world.ids[:7])
    assert (session.sid, honest) in world.monitor.openable()
    assert world.monitor.points(world.ids[0], session.sid, "sk") == 0


def test_an_old_bundle_cannot_stand_for_a_client_that_takes_part_with_a_new_one() -> None:
    world = World()
    past = confirmed(world)
    past.answer()
    fresh = [world.prekey(i) for i in ALL]
    session = Session(world, round=1, adverts=[past.adverts[0], *fresh[1:]])
    own = Session(world, round=1, nonce=session.nonce, adverts=fresh)
    assert own.sid == session.sid
    own.deal([0])
    session.deal(range(1, 8))
    own.known.boxes[Shares] = session.known.boxes[Shares] = {
        **session.known.of(Shares),
        **own.known.of(Shares),
    }
    for story, seats in ((own, [0]), (session, range(1, 8))):
        story.known.uploaders = members(8, ALL)
        story.mask(seats)
    session.keep(0, own.known.of(UploadHeader)[0])
    for seat in range(1, 8):
        session.refused(seat, session.survivors(seat, ALL), AuthenticationError, stage="R3")
    assert (session.sid, frozenset({world.ids[0]})) not in world.monitor.openable()
    world.monitor.check()


def test_keys_copied_from_another_client_help_nobody() -> None:
    """A corrupt client posts, under its own signature, the public keys of the target."""
    world = World(corrupt=[7])
    adverts = [world.prekey(i) for i in range(7)]
    target = PrekeyBundle.decode(adverts[0].bundle)
    copied = world.forged_prekey(
        7,
        pid=target.pid,
        mask_key=target.mask_key,
        channel_key=target.channel_key,
        commitment=target.commitment,
    )
    session = Session(world, adverts=[*adverts, copied])
    session.deal(range(7))
    session.known.of(Shares)[7] = session.known.of(Shares)[0]
    session.known.uploaders = members(8, ALL)
    session.mask(range(7))
    session.known.survivors = members(8, ALL)
    session.confirm(range(7))
    session.answer(range(7))
    world.monitor.check()
    assert world.monitor.openable() == [(session.sid, frozenset(world.ids[:7]))]


def test_a_session_name_serves_one_roster() -> None:
    world = World()
    session = Session(world)
    session.deal()
    again = Session(world, nonce=session.nonce)
    assert again.sid == session.sid
    again.refused(0, again.roster.message_for(0), ReuseError, stage="R1")
    finish(session)
    again.refused(0, again.roster.message_for(0), ReuseError, stage="R1")
    world.restart(0)
    again.refused(0, again.roster.message_for(0), ReuseError, stage="R1")


def test_the_same_roster_gets_the_same_shares_and_never_new_polynomials() -> None:
    world = World()
    session = Session(world)
    session.deal()
    first = session.known.of(Shares)[0]
    assert session.send(0, session.roster.message_for(0)) == [first]
    assert first in world.restart(0)
    assert session.send(0, session.roster.message_for(0)) == [first]
    finish(session)


def test_a_second_vector_after_a_restart_ends_the_session_for_this_client() -> None:
    world = World()
    session = uploaded(world)
    world.hosts[0].blocks = [np.zeros(block.length, np.int64) for block in LAYOUT.blocks]
    assert world.restart(0) == []
    assert isinstance(world.hosts[0].failure, ReuseError)
    for message in (session.mask_request(0), session.survivors(0, range(1, 8))):
        session.refused(0, message, ReuseError)
    finish(session, range(1, 8))


def test_a_second_vector_without_a_restart_ends_the_session_for_this_client() -> None:
    world = World()
    session = uploaded(world)
    world.hosts[0].blocks = [np.zeros(block.length, np.int64) for block in LAYOUT.blocks]
    assert session.send(0, session.mask_request(0)) == []
    assert isinstance(world.hosts[0].failure, ReuseError)
    finish(session, range(1, 8))
