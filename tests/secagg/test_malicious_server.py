"""What a server may send, to whom and when it likes, and what honest clients then do: nothing.

Every refusal leaves the client as it was, and a monitor that knows all that the server ever got
finds neither both secrets of a client nor a sum other than the one that a quorum confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction

import pytest

from fedcore.entropy import SystemEntropy
from fedcore.errors import (
    AbortError,
    AuthenticationError,
    ConsistencyError,
    MessageError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.identity import CertificateAuthority, Identity
from fedcore.secagg.loopback import Disk
from fedcore.secagg.messages import (
    Confirmation,
    Shares,
    UploadHeader,
    encode,
)
from fedcore.secagg.params import Profile, parameters
from fedcore.secagg.revealing import confirmation_statement
from fedcore.secagg.transcript import members_of
from tests.secagg.adversary import CONFIG, EXPIRES, POLICY, Session, World, members
from tests.secagg.monitor import Leak
from tests.secagg.stories import ALL, RING, confirmed, finish, uploaded

# --- the tests can fail ---------------------------------------------------------------------------


def test_the_honest_story_gives_the_exact_sum_and_nothing_else() -> None:
    world = World(corrupt=[3])
    session = confirmed(world, [0, 1, 2, 3, 4, 6, 7])
    session.answer([0, 1, 2, 4, 6, 7])
    session.assert_sum([0, 1, 2, 3, 4, 6, 7])
    honest = frozenset(world.ids[i] for i in (0, 1, 2, 4, 6, 7))
    assert world.monitor.openable() == [(session.sid, honest)]


def test_the_monitor_sees_both_secrets_of_one_client() -> None:
    world = World()
    session = confirmed(world, [0, 1, 2, 3, 4, 5])
    snapshots = [dict(host.disk) for host in world.hosts]
    session.answer()
    world.monitor.check()
    for i in range(1, 6):  # devices whose disks were copied, and which are told another set
        world.hosts[i].disk = Disk({k: v for k, v in snapshots[i].items() if "confirm" not in k})
        world.restart(i)
    session.known.survivors = members(8, [1, 2, 3, 4, 5, 6])
    session.confirm(range(1, 6))
    signed = {i: c.signature for i, c in session.known.of(Confirmation).items() if i}
    request = session.unmask_request([1, 2, 3, 4, 5, 6], signatures=signed)
    for i in range(1, 6):
        session.send(i, request)
    with pytest.raises(Leak, match="both secrets"):
        world.monitor.check()


def test_the_monitor_sees_a_sum_of_few_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedcore.secagg.roster.RosterView.check_survivors",
        lambda self, bitmap, *_, **__: members_of(bitmap, 8),
    )
    world = World(corrupt=[0])
    session = confirmed(world, [0, 1])
    for seat in range(2, 8):  # careless clients, who confirm a set that they are no part of
        session.send(seat, session.survivors(seat, [0, 1]))
    for seat in ALL:
        session.send(seat, session.unmask_request([0, 1]))
    assert (session.sid, frozenset({world.ids[1]})) in world.monitor.openable()
    with pytest.raises(Leak):
        world.monitor.check()


# --- sets -----------------------------------------------------------------------------------------


def test_two_sets_told_to_two_groups_find_no_quorum() -> None:
    world = World(corrupt=[0])
    session = uploaded(world)
    one, other = [0, 1, 2, 3, 4, 6], [0, 1, 2, 3, 5, 7]
    for seat in (1, 2, 4, 6):
        session.send(seat, session.survivors(seat, one))
    for seat in (3, 5, 7):
        session.send(seat, session.survivors(seat, other))
    forged = {0: session.confirmation_of(0, other)}
    for seat in (3, 5, 7):  # 3 honest signatures and the corrupt one: a quorum has 5
        request = session.unmask_request(other, signatures=forged)
        session.refused(seat, request, AuthenticationError, stage="R4")
    forged = {0: session.confirmation_of(0, one)}
    for seat in (1, 2, 4, 6):  # 4 and the corrupt one make the one quorum there can be
        session.send(seat, session.unmask_request(one, signatures=forged))
    world.monitor.check()


def test_of_two_sets_at_most_one_ever_has_a_quorum() -> None:
    for n in range(3, 65):
        terms = parameters(
            n,
            profile=Profile.MALICIOUS,
            gamma=Fraction(1, 10),
            delta=Fraction(0),
            sigma=100,
            eta=30,
            beacon=False,
        )
        honest = n - terms.corrupt
        assert 2 * (terms.quorum - terms.corrupt) > honest


@pytest.mark.parametrize(
    ("survivors", "error"),
    [
        pytest.param([1, 2, 3, 4, 5, 6, 7], ConsistencyError, id="own index missing"),
        pytest.param([0, 1, 2, 3, 4, 5, 6, 7], ConsistencyError, id="no subset of U1"),
        pytest.param([0, 1, 2, 3, 4], ConsistencyError, id="fewer than u_min"),
        pytest.param([0], ConsistencyError, id="alone"),
        pytest.param([], ConsistencyError, id="nobody"),
    ],
)
def test_a_set_of_survivors_that_would_reveal_more_is_refused(
    survivors: list[int], error: type[SecAggError]
) -> None:
    session = Session(World())
    session.deal()
    session.known.uploaders = members(8, range(7))
    session.mask()
    session.refused(0, session.survivors(0, survivors), error, stage="R3")
    session.refused(0, session.unmask_request(survivors), StageError, stage="R4")
    finish(session, range(7))


def test_after_its_confirmation_a_client_opens_no_other_set() -> None:
    session = confirmed(World())
    for survivors in (range(1, 8), range(5), range(7)):
        session.refused(0, session.unmask_request(survivors), ReuseError, stage="R4")
    finish(session)


@pytest.mark.parametrize("bitmap", [b"", b"\xff\x01", b"\xff\x00", bytes(128)], ids=len)
def test_a_set_with_members_outside_the_roster_is_refused(bitmap: bytes) -> None:
    world = World()
    session = Session(world)
    session.deal()
    session.known.uploaders = members(8, ALL)
    request = session.mask_request(0)
    session.refused(0, replace(request, uploaders=bitmap), MessageError)
    session.mask()
    told = session.survivors(0, ALL)
    session.refused(0, replace(told, survivors=bitmap), MessageError)
    finish(session)


def test_bits_beyond_the_roster_are_no_clients() -> None:
    world = World(5)
    session = uploaded(world, replace(CONFIG, delta=Fraction(1, 5)))
    told = session.survivors(0, range(5))
    session.refused(0, replace(told, survivors=b"\x3f"), MessageError)
    session.refused(0, replace(told, survivors=b"\x9f"), MessageError)
    finish(session, range(5))


@pytest.mark.parametrize("uploaders", [range(1, 8), range(5), [0], []], ids=str)
def test_a_set_of_uploaders_that_is_too_small_or_without_the_client_is_refused(
    uploaders: Iterable[int],
) -> None:
    session = Session(World())
    session.deal()
    request = session.mask_request(0, uploaders)
    session.refused(0, request, ConsistencyError, stage="R2")
    session.known.uploaders = members(8, ALL)
    told = session.survivors(0, ALL)
    session.refused(0, told, StageError, stage="R3")
    finish(session)


def ring() -> Session:
    return uploaded(
        World(65, corrupt=[9], policy=replace(POLICY, gamma_floor=Fraction(1, 33))), RING
    )


def test_in_a_ring_the_survivors_cannot_be_cut_apart() -> None:
    session = ring()
    terms, graph = session.roster.parameters, session.roster.graph
    assert not terms.complete and terms.degree // 2 > terms.dropouts - 1
    # All neighbours on one side of client 0 but one: too few in that window, enough in the roster.
    start = int(graph.positions[0])
    lost = [int(graph.order[(start + step) % 65]) for step in range(1, terms.dropouts + 1)]
    survivors = sorted(set(range(65)) - set(lost))
    assert len(survivors) >= terms.minimum_survivors
    assert not graph.windows_hold(members(65, survivors), terms.window)
    for seat in (0, *survivors[-3:]):  # the far side of the ring sees it as well
        error = session.refused(
            seat, session.survivors(seat, survivors), ConsistencyError, stage="R3"
        )
        assert "ring" in error.what
    kept = sorted(set(range(65)) - set(lost[:-2]))
    session.known.survivors = members(65, kept)
    session.confirm()
    session.answer()
    session.assert_sum(kept)


@pytest.mark.slow
def test_in_a_ring_a_client_is_not_left_without_its_honest_neighbours() -> None:
    session = ring()
    near = set(session.roster.neighbours[0]) - {session.roster.neighbours[0][0]}
    survivors = sorted(set(range(65)) - near)
    for seat in survivors[:3]:
        session.refused(seat, session.survivors(seat, survivors), ConsistencyError, stage="R3")
    assert session.world.monitor.openable() == []


# --- another story for one target -----------------------------------------------------------------


def other_model(session: Session) -> Session:
    return replace(session, model=b"\x01" * 32)


def other_uploaders(session: Session) -> Session:
    story = replace(session)
    story.known.uploaders = members(8, [0, 1, 2, 3, 4, 5, 6])
    return story


def other_roster(session: Session) -> Session:
    adverts = [*session.adverts[:7], session.world.forged_prekey(7)]
    return replace(session, adverts=adverts)


def other_config(session: Session) -> Session:
    return replace(session, config=replace(session.config, eta=31))


def other_attempt(session: Session) -> Session:
    return replace(session, attempt=1)


@pytest.mark.parametrize(
    "tell", [other_model, other_uploaders, other_roster, other_config, other_attempt]
)
def test_a_target_that_was_told_another_story_is_never_opened(
    tell: Callable[[Session], Session],
) -> None:
    world = World(corrupt=[7])
    session = Session(world)
    story = tell(session)
    target, others = 0, range(1, 8)
    told = story if story.sid != session.sid or tell is other_roster else session
    told.deal([target])
    session.deal(others)
    if told is not session:  # the target's part, as far as it can pass for one of the session
        session.known.of(Shares)[target] = told.known.of(Shares)[target]
        told.known.of(Shares).update(session.known.of(Shares))
    story.known.boxes[Shares].update(told.known.of(Shares))
    if story.known.uploaders is None:
        story.known.uploaders = members(8, ALL)
    story.mask([target])
    session.known.uploaders = members(8, ALL)
    session.mask(others)
    header = story.known.of(UploadHeader)[target]
    session.keep(target, replace(header, sid=session.sid))
    for seat in range(1, 7):
        message = session.survivors(seat, ALL)
        error = session.refused(seat, message, AuthenticationError, stage="R3")
        assert error.culprit == world.ids[target]
    # Without the target the others get their sum, and the target stays closed for ever.
    session.known.survivors = members(8, others)
    session.confirm(range(1, 7))
    forged = {7: session.confirmation_of(7, others)}
    for seat in range(1, 7):
        session.send(seat, session.unmask_request(others, signatures=forged))
    session.send(7, session.survivors(7, others))
    session.send(7, session.unmask_request(others))
    if told is session:
        session.assert_sum(others)
    else:  # the target dealt its shares under another roster: its masks cannot be removed
        with pytest.raises(AbortError):
            session.total()
    world.monitor.check()
    known = world.monitor.points(world.ids[target], told.sid, "b")
    assert known < session.roster.parameters.threshold
    opened = {name for _, summands in world.monitor.openable() for name in summands}
    assert world.ids[target] not in opened


def test_a_split_of_the_uploaders_opens_neither_half() -> None:
    world = World()
    session = Session(world)
    session.deal()
    halves = [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]
    for seat in ALL:
        uploaders = halves[0] if seat in (0, 1, 2, 3) else halves[1]
        session.send(seat, session.mask_request(seat, uploaders))
    for seat in ALL:
        uploaders = halves[0] if seat in (0, 1, 2, 3) else halves[1]
        session.known.uploaders = members(8, uploaders)
        session.refused(seat, session.survivors(seat, uploaders), AuthenticationError, stage="R3")
    world.monitor.check()
    assert world.monitor.openable() == []


# --- quorums --------------------------------------------------------------------------------------


def test_one_signature_less_than_a_quorum_opens_nothing() -> None:
    world = World()
    session = confirmed(world)
    request = session.unmask_request(ALL)
    short = replace(request, signers=request.signers[:4], signatures=request.signatures[: 4 * 64])
    session.refused(0, short, AuthenticationError, stage="R4")
    session.refused(0, replace(request, signers=(), signatures=b""), AuthenticationError)
    exact = replace(request, signers=request.signers[:5], signatures=request.signatures[: 5 * 64])
    session.send(0, exact)
    finish(session)


def test_a_signer_counts_once() -> None:
    session = confirmed(World())
    request = session.unmask_request(ALL)
    first = request.signatures[:64]
    with pytest.raises(MessageError, match="twice"):
        replace(request, signers=(0, 0, 1, 2, 3), signatures=first * 5)
    repeated = encode(replace(request, signers=(0, 1, 2, 3, 4), signatures=first * 5))
    at = len(repeated) - 5 * 66
    forged = repeated[:at] + (b"\x00\x00" + first) * 5
    with pytest.raises(MessageError):
        list(session.world.hosts[0].receive(forged))
    # One signature under five names.
    session.refused(
        0,
        replace(request, signers=(0, 1, 2, 3, 4), signatures=first * 5),
        AuthenticationError,
        stage="R4",
    )
    finish(session)


def test_confirmations_of_another_session_or_set_count_for_nothing() -> None:
    world = World()
    past = confirmed(world)
    past.answer()
    session = confirmed(world, round=1)
    stale = {i: c.signature for i, c in past.known.of(Confirmation).items()}
    request = session.unmask_request(ALL)
    fresh = {i: c.signature for i, c in session.known.of(Confirmation).items()}
    mixed = {i: (fresh if i < 4 else stale)[i] for i in range(5)}
    for signatures in (stale, mixed):
        forged = replace(
            request,
            signers=tuple(signatures),
            signatures=b"".join(signatures[i] for i in signatures),
        )
        session.refused(0, forged, AuthenticationError, stage="R4")
    finish(session)


def test_signers_outside_the_roster_count_for_nothing() -> None:
    world = World()
    session = confirmed(world)
    outsider = world.certified(SystemEntropy().token(16))
    rogue = Identity.generate(
        SystemEntropy(),
        certify=lambda key: CertificateAuthority.generate(SystemEntropy()).issue(
            world.ids[4], key, expires=EXPIRES
        ),
    )
    request = session.unmask_request(ALL)
    signed = confirmation_statement(session.opened(ALL))
    for seat, identity in ((8, outsider), (999, outsider), (4, rogue), (4, outsider)):
        forged = replace(
            request,
            signers=(0, 1, 2, 3, seat),
            signatures=request.signatures[: 4 * 64] + identity.sign(signed),
        )
        session.refused(5, forged, AuthenticationError, stage="R4")
    finish(session)


def test_a_roster_with_a_revoked_client_is_refused() -> None:
    world = World()
    session = Session(world)
    world.trust._revoked = frozenset({world.ids[4]})
    for seat in (0, 4):
        error = session.refused(seat, session.roster.message_for(seat), AuthenticationError)
        assert error.culprit == world.ids[4]
    rest = [i for i in ALL if i != 4]
    finish(Session(world, seats=rest), range(7))
