"""The machines send, bit for bit, what a second implementation of the protocol's document sends."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import AbortError, SecAggError
from fedcore.secagg import shamir
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.messages import AbortReason
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import Profile, parameters
from fedcore.secagg.policy import Policy
from fedcore.secagg.prg import Prg
from tests.secagg import reference as ref, reference_session as second
from tests.secagg.conversation import Conversation, converse, replay
from tests.variants import mostly_slow

LAYOUT = Layout(
    (
        Block(13, 21, 2**10),
        Block(7, 16, 2**11),
        Block(5, 32, 2**26),
        Block(3, 37, 2**30),
        Block(2, 64, 2**50),
        Block(9, 12, 2**9, wraps=True),
    )
)
TASK, MODEL, SEED = hashlib.sha256(b"task").digest(), hashlib.sha256(b"model").digest(), b"same"
profiles = pytest.mark.parametrize("profile", list(Profile))


def configuration(profile: Profile = Profile.MALICIOUS, **terms: Any) -> SessionConfig:
    terms = {"layout": LAYOUT, "delta": Fraction(1, 4), "gamma": Fraction(1, 10)} | terms
    return SessionConfig(task=TASK, profile=profile, clipping_norm=1.5, **terms)


def vectors_for(layout: Layout, n: int) -> list[list[npt.NDArray[np.int64]]]:
    """The largest integers that the layout takes among others; of a wrapping block, any."""
    source = random.Random(n)

    def drawn(block: Block) -> npt.NDArray[np.int64]:
        most = 2**62 if block.wraps else block.limit
        values = [source.choice((-most, most, source.randint(-most, most)))]
        values += [source.randint(-most, most) for _ in range(block.length - 1)]
        return np.array(values, np.int64)

    return [[drawn(block) for block in layout.blocks] for _ in range(n)]


TERMS: Any = {"seed": SEED, "model_digest": MODEL, "round": 7}


def check_same(machines: Conversation, reference: second.Outcome) -> None:
    """Every message, every name, every held share, y and the sum."""
    roster, collected = machines.server.roster, machines.server._frozen
    assert (machines.error, machines.refused) == (None, [])
    assert roster.sid == reference.sid
    assert roster.root == reference.root
    assert roster.graph.order.tolist() == reference.order
    assert collected.context == reference.h_ctx
    assert collected.survivors_digest == reference.t
    assert np.flatnonzero(collected.uploaders).tolist() == reference.u1
    assert np.flatnonzero(collected.survivors).tolist() == reference.u
    for i, (mine, theirs) in enumerate(zip(machines.messages, reference.messages, strict=True)):
        assert [data[1] for data in mine] == [data[1] for data in theirs], f"types of client {i}"
        for place, pair in enumerate(zip(mine, theirs, strict=True)):
            assert pair[0] == pair[1], f"client {i}, message {place} of type {pair[0][1]}"
    for i in reference.u:
        y = b"".join(data[46:] for data in machines.messages[i] if data[1] == 7)
        assert y == reference.uploads[i]
    assert machines.sum == reference.sum


LOSSES = [
    (2, {}),
    (5, {}),
    (5, {2: LostAt.SHARES}),
    (5, {4: LostAt.UPLOADING}),
    (5, {3: LostAt.CONFIRMATION}),
    (8, {4: LostAt.UPLOAD, 6: LostAt.CONFIRMATION}),
    (3, {}),
    (5, {0: LostAt.UPLOAD}),
    (5, {1: LostAt.ANSWER}),
    (8, {0: LostAt.SHARES, 7: LostAt.UPLOAD}),
    (8, {3: LostAt.UPLOADING, 5: LostAt.ANSWER}),
]


@pytest.mark.parametrize("prg", mostly_slow(Prg))
@profiles
@pytest.mark.parametrize(("n", "lost"), mostly_slow(LOSSES, quick=6), ids=str)
def test_the_machines_send_what_the_reference_sends(
    n: int, lost: Mapping[int, LostAt], profile: Profile, prg: Prg
) -> None:
    config, vectors = configuration(profile, prg=prg), vectors_for(LAYOUT, n)
    machines = converse(config, vectors, **TERMS, lost=lost)
    check_same(machines, replay(config, vectors, **TERMS, lost=lost))
    for block, total in enumerate(machines.sum):
        survivors = [i for i in range(n) if lost.get(i, second.NEVER) > LostAt.UPLOADING]
        if not LAYOUT.blocks[block].wraps:
            assert total == sum(vectors[i][block] for i in survivors).tolist()


@pytest.mark.slow
@profiles
def test_a_ring_sends_what_the_reference_sends(profile: Profile) -> None:
    terms: Any = {"delta": Fraction(1, 16), "gamma": Fraction(1, 50)}
    config = configuration(profile, layout=Layout((Block(4, 21, 2**13),)), **terms)
    vectors, lost = (
        vectors_for(config.layout, 66),
        {11: LostAt.SHARES, 40: LostAt.UPLOAD, 41: LostAt.CONFIRMATION, 65: LostAt.ANSWER},
    )
    machines = converse(config, vectors, **TERMS, lost=lost)
    reference = replay(config, vectors, **TERMS, lost=lost)
    check_same(machines, reference)
    assert reference.rule.k == machines.server.roster.parameters.degree < 65


@pytest.mark.slow
def test_chunks_are_cut_where_the_reference_cuts_them() -> None:
    layout = Layout((Block(131_072 + 3, 64, 2**50), Block(5, 32, 2**20), Block(9, 21, 2**10)))
    config, vectors = configuration(layout=layout), vectors_for(layout, 2)
    machines = converse(config, vectors, **TERMS)
    check_same(machines, replay(config, vectors, **TERMS))
    cut = [len(data) - 46 for data in machines.messages[0] if data[1] == 7]
    assert cut == [2**20, 24, 24, 24]


def test_a_beacon_seeds_the_ring_as_in_the_reference() -> None:
    config, vectors = configuration(beacon="drand", sigma=40), vectors_for(LAYOUT, 3)
    seen = []

    def believed(name: str, pulse: bytes, published: bytes) -> bool:
        seen.append((name, pulse, published))
        return True

    policy = Policy(roots=(), delta_ceiling=Fraction(1), beacon=believed)
    machines = converse(config, vectors, **TERMS, policy=policy, pulse=b"pulse")
    reference = replay(config, vectors, **TERMS, pulse=b"pulse")
    check_same(machines, reference)
    published = replay(config, vectors, **TERMS).root  # the digest of the roster alone
    assert seen == [("drand", b"pulse", published)] * 3 and published != reference.root


@profiles
def test_complaints_and_the_shares_that_they_leave_out_are_those_of_the_reference(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = {0: {1: second.NOT_DECRYPTED, 3: second.OTHER_HASH}, 2: {4: second.NOT_IN_FIELD}}
    config, vectors = configuration(profile), vectors_for(LAYOUT, 5)
    deal, dealt = shamir.share, 0

    def dealt_badly(*args: Any, **kwargs: Any) -> npt.NDArray[np.uint32]:
        nonlocal dealt
        shares = deal(*args, **kwargs)
        if dealt == 4:  # clients deal in the order of the roster
            shares[list(kwargs["points"]).index(2 + 1)] = shamir.PRIME
        dealt += 1
        return shares

    def damage(i: int, data: bytes) -> bytes:
        if data[1] != 4 or i not in damaged:
            return data
        changed = bytearray(data)
        senders = [j for j in range(5) if j != i]
        for j, reason in damaged[i].items():
            end = 2 + 32 + 32 + 2 + 1 + 2 + 132 * (senders.index(j) + 1)
            if reason == second.NOT_DECRYPTED:
                changed[end - 33] ^= 1
            elif reason == second.OTHER_HASH:
                changed[end - 1] ^= 1
        return bytes(changed)

    monkeypatch.setattr(shamir, "share", dealt_badly)
    machines = converse(config, vectors, **TERMS, lost={1: LostAt.UPLOAD}, edit=damage)
    reference = replay(config, vectors, **TERMS, lost={1: LostAt.UPLOAD}, damaged=damaged)
    check_same(machines, reference)
    complaints = [[d[38] for d in sent if d[1] == 5] for sent in machines.messages]
    assert complaints == [[1, 2], [], [3], [], []]


@profiles
@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ({0: LostAt.SHARES, 1: LostAt.SHARES}, AbortReason.TOO_FEW_SHARES),
        ({0: LostAt.SHARES, 1: LostAt.UPLOADING}, AbortReason.TOO_FEW_UPLOADS),
        (
            {0: LostAt.CONFIRMATION, 1: LostAt.CONFIRMATION, 2: LostAt.CONFIRMATION},
            AbortReason.NO_QUORUM,
        ),
        (
            {0: LostAt.ANSWER, 1: LostAt.ANSWER, 2: LostAt.ANSWER, 3: LostAt.ANSWER},
            AbortReason.CANNOT_UNMASK,
        ),
    ],
)
def test_a_session_that_fails_ends_as_the_reference_ends_it(
    profile: Profile, lost: Mapping[int, LostAt], reason: AbortReason
) -> None:
    if profile is Profile.SEMI_HONEST and reason is AbortReason.NO_QUORUM:
        reason = AbortReason.CANNOT_UNMASK  # nobody confirms: the loss shows when they answer
    config, vectors = configuration(profile), vectors_for(LAYOUT, 5)
    machines = converse(config, vectors, **TERMS, lost=lost)
    with pytest.raises(second.Aborted) as ended:
        replay(config, vectors, **TERMS, lost=lost)
    assert isinstance(machines.error, AbortError) and not machines.sum
    assert ended.value.reason == reason
    assert machines.messages == ended.value.messages


def test_words_equal_to_p_are_drawn_again_as_in_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, spoiled = SeededEntropy.token, 0

    def token(self: SeededEntropy, size: int) -> bytes:
        nonlocal spoiled
        data = honest(self, size)
        if size < 72:
            return data
        spoiled += 1
        return data[:8] + b"\xff\xff\xff\x7f" + data[12:20] + b"\xff\xff\xff\xff" + data[24:]

    monkeypatch.setattr(SeededEntropy, "token", token)
    config, vectors = configuration(), vectors_for(LAYOUT, 5)
    machines = converse(config, vectors, **TERMS, lost={2: LostAt.UPLOAD, 4: LostAt.ANSWER})
    check_same(
        machines, replay(config, vectors, **TERMS, lost={2: LostAt.UPLOAD, 4: LostAt.ANSWER})
    )
    assert spoiled == 2 * 5


fractions = st.builds(Fraction, st.integers(0, 8), st.integers(9, 25))


@given(
    n=st.integers(1, 80) | st.integers(81, 1100),
    gamma=fractions,
    delta=fractions,
    sigma=st.sampled_from([1, 10, 40, 100, 128]),
    eta=st.sampled_from([1, 10, 30]),
    profile=st.sampled_from(Profile),
)
def test_both_compute_the_same_parameters_and_refuse_the_same_terms(
    n: int, gamma: Fraction, delta: Fraction, sigma: int, eta: int, profile: Profile
) -> None:
    if n > 160:  # the reference takes long for a large ring, and nothing for a refusal
        gamma, delta, sigma = Fraction(1, 30), Fraction(1, 30), min(sigma, 40)
    terms: Any = {"profile": profile, "beacon": True, "sigma": sigma, "eta": eta}
    try:
        found = ref.parameters(n, gamma, delta, sigma, eta, int(profile))
    except ValueError:
        with pytest.raises(SecAggError):
            parameters(n, gamma=gamma, delta=delta, **terms)
        return
    ours = parameters(n, gamma=gamma, delta=delta, **terms)
    sizes = ours.corrupt, ours.dropouts, ours.minimum_survivors, ours.quorum
    assert (*sizes, ours.degree, ours.window, ours.threshold) == found
    assert ours.complete == (found.k == n - 1)
