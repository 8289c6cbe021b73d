"""A client takes part in no session that is weaker than its policy, however it is proposed."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest

from fedcore.errors import (
    AuthenticationError,
    ConsistencyError,
    MessageError,
    PackingError,
    ParameterError,
    PolicyError,
    SecAggError,
    StageError,
)
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.messages import Roster, encode
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import Profile, parameters
from fedcore.secagg.policy import Policy
from fedcore.secagg.prg import Prg
from fedcore.secagg.transcript import digest, roster_root, session_id
from tests.secagg.adversary import CONFIG, LAYOUT, POLICY, Session, World, members
from tests.secagg.stories import ALL, finish

SEMI_HONEST: dict[str, Any] = {"profile": Profile.SEMI_HONEST, "sigma": 40}
WRAPPING = Layout((Block(6, 32, 1000, wraps=True), Block(2, 16, 100)))


def trusted(name: str, pulse: bytes, roster: bytes) -> bool:
    """A beacon whose pulses only come after the roster: it answers with a digest of it."""
    return name == "drand" and pulse == digest("pulse", roster)


# For each field of the policy: the policy, the terms that break it, and terms that do not.
ROWS: dict[str, list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]] = {
    "smallest_cohort": [({"smallest_cohort": 9}, {}, {})],
    "profile": [({}, SEMI_HONEST, {})],
    "gamma_floor": [({"gamma_floor": Fraction(1, 5)}, {}, {"gamma": Fraction(1, 5)})],
    "sigma_floor": [({"sigma_floor": 101}, {}, {"sigma": 101})],
    "delta_ceiling": [({"delta_ceiling": Fraction(1, 8)}, {}, {"delta": Fraction(1, 8)})],
    "prgs": [({"prgs": frozenset({Prg.CHACHA20})}, {}, {"prg": Prg.CHACHA20})],
    "slot_bits": [
        ({"slot_bits": (17, 64)}, {}, {"layout": Layout((Block(6, 17, 1000),))}),
        ({"slot_bits": (2, 31)}, {}, {"layout": Layout((Block(6, 31, 1000),))}),
    ],
    "wrapping_slots": [({"wrapping_slots": False}, {"layout": WRAPPING}, {})],
    "largest_upload": [
        (
            {"largest_upload": LAYOUT.upload_bytes},
            {"layout": Layout((Block(13, 16, 9), *LAYOUT.blocks))},
            {},
        )
    ],
    "clipping_ceiling": [
        ({"clipping_ceiling": 1.0}, {}, {"clipping_norm": 1.0}),
        ({"clipping_ceiling": 1.0}, {"clipping_norm": 1.5}, {"clipping_norm": 0.5}),
    ],
    "noise_floor": [
        ({"noise_floor": 0.5}, {}, {"noise_multiplier": 0.5}),
        ({"noise_floor": 0.5}, {"noise_multiplier": 0.25}, {"noise_multiplier": 1.0}),
    ],
    "tasks": [({"tasks": frozenset({b"\x01" * 32})}, {}, {"task": b"\x01" * 32})],
    "beacon": [({}, {"beacon": "drand"}, {})],
}
# Fields that more than the terms decides: a test of its own below for each.
OF_THEIR_OWN = {"roots", "revoked", "attempts", "models"}

# For each field of the configuration: the field of the policy that bounds it.
BOUNDED_BY = {
    "task": "tasks",
    "layout": "slot_bits",
    "profile": "profile",
    "prg": "prgs",
    "gamma": "gamma_floor",
    "delta": "delta_ceiling",
    "sigma": "sigma_floor",
    "eta": "",  # how often a sum is lost, nothing else: a test below
    "beacon": "beacon",
    "clipping_norm": "clipping_ceiling",
    "noise_multiplier": "noise_floor",
}


def proposed(session: Session, seat: int, config: SessionConfig) -> Roster:
    """The roster of a session for a seat, under another configuration than it was made for."""
    roster = session.roster
    sid = session_id(
        task=config.task,
        round=roster.round,
        attempt=roster.attempt,
        nonce=roster.nonce,
        config_digest=config.digest,
    )
    return replace(roster.message_for(seat), config=config.encoded, sid=sid)


# --- terms ----------------------------------------------------------------------------------------


def test_every_field_of_a_policy_has_a_row() -> None:
    assert {field.name for field in fields(Policy)} == ROWS.keys() | OF_THEIR_OWN


def test_every_field_of_a_configuration_is_bounded_or_harmless() -> None:
    assert {field.name for field in fields(SessionConfig)} == BOUNDED_BY.keys()
    assert {name for name in BOUNDED_BY.values() if name} <= ROWS.keys()


@pytest.mark.parametrize(
    ("policy", "weak", "strong"),
    [pytest.param(*row, id=name) for name, rows in ROWS.items() for row in rows],
)
def test_terms_weaker_than_the_policy_are_refused(
    policy: dict[str, Any], weak: dict[str, Any], strong: dict[str, Any]
) -> None:
    world = World(policy=replace(POLICY, **policy))
    session = Session(world, replace(CONFIG, **strong))
    config = replace(CONFIG, **weak)
    session.refused(0, proposed(session, 0, config), PolicyError, stage="R1")
    if policy.get("smallest_cohort") == 9:
        return
    session.deal([0])  # the stronger terms are taken


def test_how_often_a_sum_is_lost_costs_no_privacy() -> None:
    for eta in (1, 10, 30, 100, 1000):
        for n in (5, 64, 128):
            terms = parameters(
                n,
                profile=Profile.MALICIOUS,
                gamma=Fraction(1, 10),
                delta=Fraction(1, 10),
                sigma=100,
                eta=eta,
                beacon=False,
            )
            assert terms.threshold > terms.corrupt
            assert terms.complete or terms.threshold >= 13  # t_min of the table at n = 128


@pytest.mark.parametrize("extra", [b"\x00", bytes(2), bytes(6)], ids=len)
def test_degree_window_and_threshold_cannot_be_sent(extra: bytes) -> None:
    world = World()
    session = Session(world)
    roster = session.roster.message_for(0)
    session.refused(0, replace(roster, config=roster.config + extra), MessageError)
    with pytest.raises(MessageError):
        list(world.hosts[0].receive(encode(roster) + extra))
    finish(session)


@pytest.mark.parametrize("keep", [0, 1, 3, 6])
def test_another_degree_than_the_terms_give_is_refused(keep: int) -> None:
    session = Session(World())
    roster = session.roster.message_for(0)
    fewer = replace(roster, neighbours=roster.neighbours[:keep])
    session.refused(0, fewer, ConsistencyError, stage="R1")
    more = replace(roster, neighbours=(*roster.neighbours, roster.neighbours[-1]))
    session.refused(0, more, ConsistencyError, stage="R1")
    finish(session)


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        pytest.param({"sigma": 99}, ParameterError, id="sigma below 100 without a beacon"),
        pytest.param({"sigma": 40}, ParameterError, id="sigma 40 without a beacon"),
        pytest.param({"delta": Fraction(1, 3), "gamma": Fraction(1, 3)}, ParameterError, id="room"),
        pytest.param(
            {"gamma": Fraction(7, 8), "delta": Fraction(0)}, ParameterError, id="all corrupt"
        ),
        pytest.param({"layout": Layout((Block(6, 8, 16),))}, PackingError, id="slots overflow"),
    ],
)
def test_terms_that_protect_nobody_are_refused_whatever_the_policy(
    terms: dict[str, Any], error: type[SecAggError]
) -> None:
    lenient = replace(POLICY, sigma_floor=1, gamma_floor=Fraction(0), delta_ceiling=Fraction(1))
    session = Session(World(policy=lenient))
    session.refused(0, proposed(session, 0, replace(CONFIG, **terms)), error)
    finish(session)


def test_too_few_clients_are_refused() -> None:
    world = World(policy=replace(POLICY, smallest_cohort=4))
    few = Session(world, replace(CONFIG, delta=Fraction(0)), seats=[0, 1, 2])
    few.refused(0, few.roster.message_for(0), PolicyError, stage="R1")
    enough = Session(world, replace(CONFIG, delta=Fraction(0)), seats=[0, 1, 2, 3])
    finish(enough, range(enough.n))


def test_the_name_of_a_session_follows_from_its_terms() -> None:
    session = Session(World())
    roster = session.roster.message_for(0)
    for lie in (
        replace(roster, sid=bytes(32)),
        replace(roster, round=1),
        replace(roster, attempt=1),
        replace(roster, nonce=bytes(32)),
        replace(roster, config=replace(CONFIG, eta=31).encoded),
    ):
        session.refused(0, lie, ConsistencyError, stage="R1")
    finish(session)


def test_only_a_model_that_the_policy_lists_is_trained() -> None:
    world = World(policy=replace(POLICY, models=frozenset({b"\x02" * 32})))
    session = Session(world, model=b"\x02" * 32)
    session.deal()
    session.known.uploaders = members(8, ALL)
    crafted = replace(session.mask_request(0), model_digest=bytes(32))
    session.refused(0, crafted, PolicyError, stage="R2")
    finish(session)


# --- beacons --------------------------------------------------------------------------------------


def test_a_ring_is_seeded_by_the_beacon_or_not_at_all() -> None:
    config = replace(CONFIG, beacon="drand", sigma=40)
    world = World(policy=replace(POLICY, beacon=trusted))
    adverts = [world.prekey(i) for i in ALL]

    def story(pulse: bytes, config: SessionConfig = config) -> Session:
        return Session(world, config, adverts=adverts, pulse=pulse)

    published = roster_root(
        certificates=story(b"").roster._all_certificates,
        merkle_root=story(b"").roster._tree.root,
        pulse=b"",
        n=8,
    )
    pulse = digest("pulse", published)
    wrong: tuple[tuple[Session, type[SecAggError]], ...] = (
        (story(b""), AuthenticationError),
        (story(bytes(32)), AuthenticationError),
        (story(pulse + b"\x00"), AuthenticationError),
        (story(digest("pulse", bytes(32))), AuthenticationError),
        (story(pulse, replace(config, beacon="other")), AuthenticationError),
        (story(pulse, CONFIG), ConsistencyError),
    )
    for session, error in wrong:
        session.refused(0, session.roster.message_for(0), error, stage="R1")
    finish(story(pulse))


def test_a_beacon_without_a_pulse_is_refused_even_by_a_careless_check() -> None:
    """A ring without a pulse is one that the server can try offline, and sigma is 40."""
    world = World(policy=replace(POLICY, beacon=lambda *_: True))
    session = Session(world, replace(CONFIG, beacon="drand", sigma=40))
    session.refused(0, session.roster.message_for(0), AuthenticationError, stage="R1")


# --- profiles -------------------------------------------------------------------------------------


def test_a_semi_honest_session_has_no_messages_of_a_malicious_one() -> None:
    world = World(policy=replace(POLICY, profile=Profile.SEMI_HONEST))
    session = Session(world, replace(CONFIG, **SEMI_HONEST))
    session.deal()
    session.mask()
    session.refused(0, session.survivors(0, ALL), StageError, stage="R3")
    request = session.unmask_request(ALL)
    for signatures in ({0: bytes(64)}, {i: bytes(64) for i in ALL}):
        signed = session.unmask_request(ALL, signatures=signatures)
        session.refused(0, signed, AuthenticationError, stage="R4")
    session.refused(0, session.unmask_request(range(5)), ConsistencyError, stage="R4")
    session.refused(0, session.unmask_request(range(1, 8)), ConsistencyError, stage="R4")
    session.known.survivors = members(8, ALL)
    session.send(0, request)
    session.answer(range(1, 8))
    session.assert_sum(ALL)


def test_a_malicious_session_cannot_be_ended_like_a_semi_honest_one() -> None:
    session = Session(World())
    session.deal()
    session.mask()
    session.refused(0, session.unmask_request(ALL), StageError, stage="R4")
    session.known.survivors = members(8, ALL)
    session.confirm()
    bare = replace(session.unmask_request(ALL), signers=(), signatures=b"")
    session.refused(0, bare, AuthenticationError, stage="R4")
    session.answer()
    session.assert_sum(ALL)
