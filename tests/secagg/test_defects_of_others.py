"""Faults that other systems have or had, each shown to be impossible here.

A name says which system; what it did stands in the docstring. Their versions and sources are those
that were looked at in November 2026.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from fedcore.entropy import SeededEntropy, SystemEntropy
from fedcore.errors import AuthenticationError, EntropyError, PackingError
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.keys import Channel, KeySchedule, Prekey, PrekeyBundle
from fedcore.secagg.loopback import Disk, LostAt
from fedcore.secagg.messages import (
    Advertise,
    Complaint,
    Confirmation,
    MaskRequest,
    Message,
    Roster,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.packing import Block, Layout, from_wire, pack
from fedcore.secagg.params import Profile, parameters
from fedcore.secagg.prg import Prg, Stream, apply_streams, keystream
from fedcore.secagg.session import run_session
from tests.secagg.adversary import CONFIG, LAYOUT, POLICY, Session, World, members
from tests.secagg.liars import play

ALL = list(range(8))
ENTROPY = SystemEntropy()
SCHEDULE = KeySchedule(bytes(32), bytes(32), Prg.AES_128_CTR)


def first_words(seeds: Iterator[bytes]) -> npt.NDArray[np.uint64]:
    """The first word of the mask of each seed: a fingerprint of 64 bits."""
    return np.array([keystream(seed, prg=Prg.AES_128_CTR, words=1)[0] for seed in seeds], np.uint64)


def masked(world: World, i: int) -> npt.NDArray[np.uint64]:
    """The words of client i's upload in a session of its own round."""
    session = Session(world, round=len(world.hosts[i].disk))
    session.deal()
    session.mask()
    chunks = session.uploads[i]
    frames = {frame.byte: frame for frame in session.config.layout.frames()}
    return np.concatenate([from_wire(chunks[at], frames[at].word_bytes) for at in sorted(chunks)])


# --- Flower ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [2**14, 2**20], ids=["2^14", "2^20"])
def test_flower_28_bit_seeds(count: int) -> None:
    """It folds a pair's secret to 28 varying bits: 2^20 masks would hold some 2,000 pairs alike."""
    words = first_words(SCHEDULE.self_seed(ENTROPY.token(32), 0) for _ in range(count))
    assert len(np.unique(words)) == count
    ones = np.array([((words >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)])
    assert np.abs(ones - 0.5).max() < 7 * 0.5 / np.sqrt(count)  # no bit stands still


def test_flower_every_bit_of_a_pair_s_secret_counts() -> None:
    """Bits that are folded away would leave the mask as it was."""
    secret = ENTROPY.token(32)
    seeds = {SCHEDULE.self_seed(secret, 0)}
    for bit in range(256):
        bent = int.from_bytes(secret, "little") ^ 1 << bit
        seeds.add(SCHEDULE.self_seed(bent.to_bytes(32, "little"), 0))
    assert len(seeds) == 257
    assert len(set(first_words(iter(seeds)).tolist())) == 257


def test_flower_keys_replaced_by_the_server() -> None:
    """Its clients mask with whatever keys the server relays."""
    world = World(corrupt=[7])
    adverts = [world.prekey(i) for i in ALL]
    keys = PrekeyBundle.decode(world.forged_prekey(7).bundle)
    forged = replace(PrekeyBundle.decode(adverts[3].bundle), mask_key=keys.mask_key).encode()
    adverts[3] = Advertise(adverts[3].certificate, forged)
    session = Session(world, adverts=adverts)
    session.refused(0, session.roster.message_for(0), AuthenticationError)


def test_flower_a_threshold_of_one() -> None:
    """Its server chooses the threshold, down to 1. Here nobody can say one, and it is above c."""
    told = [SessionConfig, Roster, MaskRequest, Survivors, UnmaskRequest]
    names = {field.name for kind in told for field in fields(kind)}
    assert not names & {"threshold", "t", "degree", "k", "window", "v", "quorum"}
    for n in (3, 4, 5, 8, 64, 65, 128, 1000, 1024):
        for profile in Profile:
            terms = parameters(
                n,
                profile=profile,
                gamma=Fraction(0),
                delta=Fraction(0),
                sigma=100,
                eta=30,
                beacon=False,
            )
            assert terms.threshold > terms.corrupt >= 1


def test_flower_both_secrets_of_a_peer_that_is_listed_twice() -> None:
    """It sends a list of the living and one of the dead, and answers for a peer in both.

    Here one bitmap says which: there is no way to write the other list.
    """
    assert [field.name for field in fields(UnmaskRequest)] == [
        "sid",
        "survivors",
        "signers",
        "signatures",
    ]
    world = World()
    session = Session(world)
    session.deal()
    session.known.uploaders = members(8, ALL)
    session.mask()
    session.known.survivors = members(8, range(7))
    session.confirm()
    session.answer()
    for i in range(7):
        assert world.monitor.points(world.ids[i], session.sid, "b") == 6
        assert world.monitor.points(world.ids[i], session.sid, "sk") == 0
    assert world.monitor.points(world.ids[7], session.sid, "sk") == 7
    assert world.monitor.points(world.ids[7], session.sid, "b") == 0
    session.assert_sum(range(7))


@pytest.mark.parametrize("lost_at", [LostAt.SHARES, LostAt.UPLOAD, LostAt.UPLOADING])
def test_flower_a_client_lost_before_the_masked_stage(lost_at: LostAt) -> None:
    """There each neighbour of it fails with a KeyError, and the round is over."""
    play(World(), lost={2: lost_at, 6: LostAt.SHARES}).assert_sum([0, 1, 3, 4, 5, 7])


@pytest.mark.parametrize("n", range(3, 10))
def test_flower_even_share_counts(n: int) -> None:
    """There an even number of shares crashes."""
    vectors = np.arange(3 * n).reshape(n, 3)
    result = run_session(list(vectors), delta=Fraction(1, n) if n > 3 else Fraction(0))
    np.testing.assert_array_equal(result.totals[0], vectors.sum(axis=0))
    assert result.parameters[0].degree == n - 1


def test_flower_an_overflow_check_against_the_number_of_shares() -> None:
    """A sum has n summands, not k; it warns, and compares with k. Here it is refused."""
    ring = replace(CONFIG, gamma=Fraction(1, 33), delta=Fraction(1, 5))
    n, k = 65, ring.parameters(65).degree
    limit = 2**15 // n + 1
    assert k * limit < 2**15 <= n * limit
    config = replace(ring, layout=Layout((Block(6, 16, limit),)))
    with pytest.raises(PackingError):
        config.parameters(n)
    replace(config, layout=Layout((Block(6, 16, limit - 1),))).parameters(n)


def test_flower_counts_and_metrics_in_clear() -> None:
    """It sends the number of examples and all metrics beside the hidden vector.

    Here they are summands like the rest, and nothing else that a client sends depends on them.
    """
    layout = Layout((Block(4, 32, 2**20), Block(2, 40, 2**30)))
    config = replace(CONFIG, layout=layout)
    world = World()
    for i in ALL:
        examples, loss = 10 + i, 100 + 7 * i
        update = np.arange(4) * examples
        world.hosts[i].blocks = world.vectors[i] = [update, np.array([examples, loss * examples])]
    session = Session(world, config)
    session.deal()
    session.known.uploaders = members(8, ALL)
    before = dict(world.hosts[0].disk)
    told: list[list[Message]] = []
    for blocks in (world.vectors[0], [np.zeros(4, int), np.array([2**29, 1])]):
        world.hosts[0].disk, world.hosts[0].blocks = Disk(before), blocks
        world.hosts[0].client = world.hosts[0].make()  # the same device, with other data
        list(world.hosts[0].client.restore(before, now=0))
        told.append(list(map(decode, world.hosts[0].receive(encode(session.mask_request(0))))))
    one, other = told
    data = UploadChunk, UploadTrailer
    assert [m for m in one if not isinstance(m, data)] == [
        m for m in other if not isinstance(m, data)
    ]
    assert [len(m.data) for m in one if isinstance(m, UploadChunk)] == [
        len(m.data) for m in other if isinstance(m, UploadChunk)
    ]
    sent = {
        field.name
        for kind in (Advertise, Shares, Complaint, UploadHeader, Confirmation, UnmaskAnswer)
        for field in fields(kind)
    }
    assert sent == {
        "sid", "certificate", "bundle", "ciphertexts", "hashes", "signature", "accused", "reason",
        "context", "length", "digest", "b", "present", "count", "shares", "other_hashes",
    }  # fmt: skip
    fresh = World()
    fresh.vectors = world.vectors
    for host, vector in zip(fresh.hosts, world.vectors, strict=True):
        host.blocks = vector
    honest = Session(fresh, config)
    honest.deal()
    honest.mask()
    honest.confirm()
    honest.answer()
    honest.assert_sum(ALL)
    assert honest.total()[1].tolist() == [108, sum((10 + i) * (100 + 7 * i) for i in ALL)]


# --- OpenFL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prg", Prg)
def test_openfl_one_scalar_for_a_whole_vector(prg: Prg) -> None:
    """It adds one random number to all elements: what is sent correlates with the input by 1."""
    length = 2**15
    words = np.zeros(length, np.uint64)
    apply_streams(words, [Stream(ENTROPY.token(prg.seed_bytes), negative=False)], prg=prg)
    assert len(np.unique(words)) == length  # a constant vector, masked
    x = np.arange(length, dtype=np.int64) << 40
    y = pack(Block(length, 64, 2**62), x, 0, length)
    apply_streams(y, [Stream(ENTROPY.token(prg.seed_bytes), negative=False)], prg=prg)
    correlation = np.corrcoef(x.astype(float), y.view(np.int64).astype(float))[0, 1]
    assert abs(correlation) < 7 / np.sqrt(length)


def test_openfl_masks_set_up_once_for_all_rounds() -> None:
    """The same vector twice: no word of one upload is that of the other."""
    world = World()
    world.hosts[0].blocks = [np.full(block.length, 1) for block in LAYOUT.blocks]
    one, other = masked(world, 0), masked(world, 0)
    assert not (one == other).any()
    assert len(np.unique(one)) == len(one)


# --- APPFL ----------------------------------------------------------------------------------------


def test_appfl_one_secret_for_all_pairs() -> None:
    """There all clients know one secret, which gives every pair's mask."""
    prekeys = [Prekey.generate(ENTROPY, expires=1) for _ in range(6)]
    publics = [p.mask_private.public_key().public_bytes_raw() for p in prekeys]
    seeds = {
        (i, j): SCHEDULE.pair_seed(prekeys[i].mask_secret, publics[j], i, j)
        for i, j in combinations(range(6), 2)
    }
    assert len(set(seeds.values())) == 15
    for (i, j), seed in seeds.items():
        assert seed == SCHEDULE.pair_seed(prekeys[j].mask_secret, publics[i], j, i)
        for k in set(range(6)) - {i, j}:  # whatever a third one makes of its own secret
            for public in publics:
                assert SCHEDULE.pair_seed(prekeys[k].mask_secret, public, i, j) != seed


def test_appfl_masks_that_are_floats() -> None:
    """Gaussian masks hide little of a large value, and their sums are rounded."""
    extremes = np.array([[2**25, -(2**25), 0]] * 5)
    result = run_session(list(extremes), delta=Fraction(1, 5), dropouts={2: LostAt.UPLOAD})
    assert result.totals[0].tolist() == [2**27, -(2**27), 0]
    small, large = (
        keystream(ENTROPY.token(32), prg=Prg.AES_128_CTR, words=2**14) + np.uint64(x)
        for x in (0, 2**62)
    )
    for words in (small, large):  # either way a quarter of the words in each quarter of the range
        counts = np.bincount((words >> np.uint64(62)).astype(int), minlength=4)
        assert np.abs(counts - 2**12).max() < 7 * np.sqrt(2**14 * 3 / 16)


def test_appfl_no_client_may_be_lost() -> None:
    play(World(), lost={2: LostAt.UPLOAD, 5: LostAt.ANSWER}).assert_sum([0, 1, 3, 4, 5, 6, 7])


# --- FedML ----------------------------------------------------------------------------------------


def test_fedml_keys_from_the_rank() -> None:
    """It seeds NumPy with the rank and draws the private key. Alike clients have nothing alike."""
    world = World(2)
    drawn: list[bytes] = []
    for _ in range(2):
        np.random.seed(3)
        client = SecAggClient(world.identities[0], world.policy)
        client.offer(4, expires=1)
        for prekey in client._prekeys.values():
            drawn += [prekey.pid, prekey.mask_secret, prekey.channel_secret, prekey.b]
    assert len(set(drawn)) == 32


def test_fedml_seeded_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seeded:
        def token(self, size: int) -> bytes:
            return bytes(size)

    world = World(2)
    with pytest.raises(EntropyError):
        SecAggClient(world.identities[0], world.policy, entropy=Seeded())
    # As outside a run of pytest, which keeps a hook of its own among the finders.
    ours = "_pytest.assertion.rewrite"
    finders = [finder for finder in sys.meta_path if type(finder).__module__ != ours]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(EntropyError):
        SeededEntropy(b"rank 3")


def test_fedml_shares_in_clear() -> None:
    """Neither a secret nor a share of one stands in what the server relays."""
    world = World()
    session = Session(world)
    prekeys = [dict(host.client._prekeys) for host in world.hosts]
    session.deal()
    session.known.uploaders = members(8, ALL)
    relayed = b"".join(m.ciphertexts + m.hashes for m in session.known.of(Shares).values())
    for owned in prekeys:
        for prekey in owned.values():
            assert prekey.b not in relayed and prekey.mask_secret not in relayed
    session.mask()
    for i in ALL:
        masking = world.client(i)._sessions[session.sid].masking
        assert masking is not None and len(masking.held) == 7
        for share in masking.held.values():
            assert share.of_b not in relayed and share.of_mask_key not in relayed


# --- Fed-BioMed, Flamingo, MicroSecAgg ------------------------------------------------------------


def test_fed_biomed_round_seeds_that_differ_by_a_public_number() -> None:
    """There the seeds of two rounds differ, for every pair, by the same known XOR."""
    rounds = [KeySchedule(bytes([r]) * 32, bytes(32), Prg.AES_128_CTR) for r in range(4)]
    secrets = [ENTROPY.token(32) for _ in range(8)]
    differences = {
        bytes(a ^ b for a, b in zip(one.self_seed(s, 0), other.self_seed(s, 0), strict=True))
        for one, other in combinations(rounds, 2)
        for s in secrets
    }
    assert len(differences) == 6 * 8


def test_flamingo_16_bit_seeds() -> None:
    """Its research code cuts pair seeds to 16 bits: 4,096 masks would hold some 128 pairs alike."""
    a = Prekey.generate(ENTROPY, expires=1)
    publics = [
        Prekey.generate(ENTROPY, expires=1).mask_private.public_key().public_bytes_raw()
        for _ in range(64)
    ]
    seeds = [
        SCHEDULE.pair_seed(a.mask_private, public, 0, j) for public in publics for j in range(1, 65)
    ]
    assert len(set(first_words(iter(seeds)).tolist())) == len(seeds) == 4096


def test_flamingo_tags_that_nobody_checks() -> None:
    keys = ENTROPY.token(32)
    here, there = Channel(keys, 0, 1), Channel(keys, 1, 0)
    sealed = here.seal(bytes(72), ENTROPY)
    assert there.open(sealed) == bytes(72)
    for at in range(len(sealed)):
        bent = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(AuthenticationError):
            there.open(bent)


def test_microsecagg_masks_used_again_in_the_next_round() -> None:
    """The difference of two rounds then gives away the difference of two vectors."""
    world = World()
    one, other = masked(world, 0), masked(world, 0)
    difference = one - other
    assert len(np.unique(difference)) == len(difference)
    pids = [PrekeyBundle.decode(world.prekey(i).bundle).pid for i in ALL for _ in range(3)]
    assert len(set(pids)) == len(pids)


# --- NVFlare, and crafted models ------------------------------------------------------------------


def test_nvflare_a_client_that_can_decrypt_everyone() -> None:
    """There all clients hold one secret key: with one of them the server reads every vector."""
    world = World(corrupt=[3])
    session = Session(world)
    session.deal()
    session.mask()
    assert world.monitor.openable() == []
    session.confirm()
    session.answer()
    others = frozenset(world.ids[i] for i in ALL if i != 3)
    assert world.monitor.openable() == [(session.sid, others)]
    session.assert_sum(ALL)


def test_a_model_crafted_for_one_target() -> None:
    """Dead units let every gradient but the target's vanish: the sum is then the target's alone.

    Whoever was told another model masks under another context, and nobody helps to open it.
    """
    world = World(policy=replace(POLICY, models=None))
    session = Session(world)
    session.deal()
    session.known.uploaders = members(8, ALL)
    crafted = replace(session.mask_request(0), model_digest=b"\x01" * 32)
    session.send(0, crafted)
    session.mask(range(1, 8))
    for seat in range(1, 8):
        told = session.survivors(seat, ALL)
        error = session.refused(seat, told, AuthenticationError, stage="R3")
        assert error.culprit == world.ids[0]
    session.refused(0, session.survivors(0, ALL), AuthenticationError, stage="R3")
    assert world.monitor.openable() == []
    assert world.monitor.points(world.ids[0], session.sid, "b") == 0
