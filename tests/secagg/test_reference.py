"""The reference agrees with itself and with published vectors, before anything agrees with it."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping
from fractions import Fraction

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st

from tests.secagg import reference as ref, reference_messages as wire
from tests.secagg.reference import AES_128_CTR, CHACHA20, MALICIOUS, SEMI_HONEST, Block, Config
from tests.secagg.reference_session import NEVER, Aborted, Client, Outcome, Session, run
from tests.variants import mostly_slow

BLOCKS = (Block(13, 21, False, 2**10), Block(5, 16, False, 2**9), Block(3, 40, False, 2**30))
CA = hashlib.sha256(b"CA").digest()
NO_LOSS: Mapping[int, int] = {}
profiles = pytest.mark.parametrize("profile", [SEMI_HONEST, MALICIOUS])
streams = pytest.mark.parametrize("prg", [AES_128_CTR, CHACHA20])


def session(
    profile: int = MALICIOUS,
    prg: int = AES_128_CTR,
    delta: Fraction = Fraction(1, 4),
    gamma: Fraction = Fraction(1, 10),
) -> Session:
    rule = profile, prg, gamma, delta, 100, 30
    config = Config(*rule, 1.5, 0.0, hashlib.sha256(b"task").digest(), "", BLOCKS)
    return Session(config, CA, 7, 1, hashlib.sha256(b"nonce").digest(), b"", bytes(32), 3)


def clients(n: int, lost: Mapping[int, int] = NO_LOSS) -> list[Client]:
    """n clients in the order of their ids, with fixed secrets; `lost` by roster index."""
    source = random.Random(n)
    ids = sorted(source.randbytes(16) for _ in range(n))
    crowd = []
    for i, id in enumerate(ids):
        secrets = [source.randbytes(size) for size in (32, 16, 32, 32, 32)]
        identity, pid, mask_key, channel_key, b = secrets
        words = [source.getrandbits(32) for _ in range(18 * n)]
        nonces = [source.randbytes(12) for _ in range(n - 1)]
        vector = [
            [source.randint(-block.limit, block.limit) for _ in range(block.length)]
            for block in BLOCKS
        ]
        keys = identity, 2_000_000_000, pid, mask_key, channel_key, b
        crowd.append(Client(id, *keys, words, nonces, vector, lost.get(i, NEVER)))
    return crowd


def true_sum(crowd: list[Client], members: list[int]) -> list[list[int]]:
    return [
        [sum(column) for column in zip(*(crowd[i].vector[m] for i in members), strict=True)]
        for m in range(len(BLOCKS))
    ]


def of_type(outcome: Outcome, i: int, type: int) -> list[bytes]:
    return [data for data in outcome.messages[i] if data[1] == type]


# A whole session


@pytest.mark.parametrize("prg", mostly_slow([AES_128_CTR, CHACHA20]))
@pytest.mark.parametrize("profile", mostly_slow([MALICIOUS, SEMI_HONEST]))
@pytest.mark.parametrize(
    ("n", "lost"),
    [
        (2, {}),
        (3, {}),
        (5, {}),
        (5, {2: 1}),
        (5, {4: 2}),
        (5, {3: 3}),
        (5, {0: 4}),
        (5, {1: 5}),
        (8, {}),
        (8, {0: 1, 7: 2}),
        (8, {3: 2, 4: 3}),
        (8, {2: 4, 5: 5}),
        (8, {6: 1, 1: 5}),
    ],
)
def test_the_sum_is_that_of_the_complete_uploads(
    n: int, lost: Mapping[int, int], profile: int, prg: int
) -> None:
    crowd = clients(n, lost)
    outcome = run(session(profile, prg), crowd)
    assert outcome.u1 == [i for i in range(n) if lost.get(i, NEVER) > 1]
    assert outcome.u == [i for i in range(n) if lost.get(i, NEVER) > 3]
    assert outcome.sum == true_sum(crowd, outcome.u)


@profiles
@pytest.mark.parametrize(("stage", "reason"), [(1, 1), (2, 2), (3, 2), (5, 0)])
def test_one_loss_more_than_allowed_aborts_or_leaves_the_sum_exact(
    profile: int, stage: int, reason: int
) -> None:
    crowd = clients(8, {1: stage, 2: stage, 6: stage})
    if not reason:  # five answers are still as many as the threshold asks for
        assert run(session(profile), crowd).sum == true_sum(crowd, list(range(8)))
    else:
        with pytest.raises(Aborted) as ended:
            run(session(profile), crowd)
        assert ended.value.reason == reason


@profiles
def test_damaged_shares_cost_holders_and_the_sum_stays_exact(profile: int) -> None:
    crowd = clients(5, {3: 2})
    crowd[0] = crowd[0]._replace(damaged={1: 1, 2: 2})
    crowd[1] = crowd[1]._replace(damaged={4: 3})
    outcome = run(session(profile), crowd)
    assert outcome.sum == true_sum(crowd, [0, 1, 2, 4])
    assert [len(of_type(outcome, i, 5)) for i in range(5)] == [2, 1, 0, 0, 0]
    count = len(outcome.messages[0][-1]) - (2 + 32 + 32 + 2 + 1)
    assert count == 2 * 68  # of the shares of 1, 2, 3 and 4


@pytest.mark.slow
def test_a_ring_of_66_gives_the_exact_sum_with_losses_in_every_round() -> None:
    crowd = clients(66, {11: 1, 40: 3, 41: 4, 65: 5})
    small = session(delta=Fraction(1, 16), gamma=Fraction(1, 50))
    k = ref.parameters(66, Fraction(1, 50), Fraction(1, 16), 100, 30, MALICIOUS).k
    assert k < 65
    crowd = [client._replace(nonces=client.nonces[:k]) for client in crowd]
    outcome = run(small, crowd)
    assert outcome.sum == true_sum(crowd, outcome.u)
    assert len(outcome.u) == 64


def test_the_order_in_which_clients_arrive_changes_nothing() -> None:
    crowd = clients(5, {2: 2})
    assert run(session(), crowd) == run(session(), crowd[::-1])


def test_an_upload_is_the_vector_under_every_mask_and_chunks_join_to_it() -> None:
    crowd = clients(2)
    outcome = run(session(), crowd)
    sums = [0] * sum(map(wire.words_in, BLOCKS))
    for i in range(2):
        chunks = of_type(outcome, i, 7)
        assert [int.from_bytes(data[34:42], "little") for data in chunks] == [0, 24, 40, 56]
        sent = b"".join(data[46:] for data in chunks)
        assert of_type(outcome, i, 8)[0][34:] == hashlib.sha256(sent).digest()
        assert wire.wire_words(BLOCKS, sent) != wire.pack_all(BLOCKS, crowd[i].vector)
        own = ref.self_seed(session_id(), outcome.root, i, crowd[i].b, AES_128_CTR)
        words = wire.wire_words(BLOCKS, sent)
        sums = wire.combine(1, sums, words)
        sums = wire.combine(-1, sums, ref.stream_words(AES_128_CTR, own, 0, len(words)))
    assert wire.unpack_all(BLOCKS, sums) == true_sum(crowd, [0, 1])


def session_id() -> bytes:
    return ref.session_id(session().config, 7, 1, session().nonce)


@profiles
def test_lengths_are_those_of_the_document(profile: int) -> None:
    n, depth, config = 8, 3, len(ref.config_bytes(session(profile).config))
    outcome = run(session(profile), clients(n, {5: 1, 6: 2}))
    confirmed = 5 if profile == MALICIOUS else 0
    path, sid, inbox, peers = 32 * depth, 32, 6, 5
    terms = sid + 8 + 4 + 32 + 2 + config
    lengths = {
        1: [2 + 120 + 176],
        2: [2 + terms + 2 + 4 + 4 + 16 + 120 * n + path + 2 + 7 * (176 + path)],
        3: [2 + sid + 2 + 7 * 132 + 64],
        4: [2 + sid + 32 + 2 + 1 + 2 + inbox * 132],
        6: [2 + sid + 32 + 8 + 64],
        7: [2 + sid + 8 + 4 + data for data in (24, 16, 16, 15)],
        8: [2 + sid + 32],
        9: [2 + sid + 2 + 1 + 2 + peers * 64] if confirmed else [],
        10: [2 + sid + 32 + 64] if confirmed else [],
        11: [2 + sid + 2 + 1 + 2 + confirmed * 66],
        12: [2 + sid + 32 + 2 + 1 + inbox * 68],
    }
    for type, expected in lengths.items():
        assert [len(data) for data in of_type(outcome, 0, type)] == expected
    assert len(wire.complaint(bytes(32), 3, 1, bytes(64))) == 2 + 32 + 4 + 1 + 64
    assert len(wire.abort(bytes(32), 5)) == 2 + 32 + 2


def test_every_signature_verifies_under_the_key_of_its_certificate() -> None:
    crowd = clients(5)
    outcome = run(session(), crowd)
    ca = Ed25519PublicKey.from_public_bytes(ref.public_identity(CA))
    for i in range(5):
        first = of_type(outcome, i, 1)[0]
        id, key, expiry = first[2:18], first[18:50], first[50:58]
        ca.verify(first[58:122], ref.statement("cert", id, key, expiry))
        identity = Ed25519PublicKey.from_public_bytes(key)
        pid, mask, channel, hb = first[122:138], first[138:170], first[170:202], first[202:234]
        identity.verify(first[234:298], ref.statement("R0", id, pid, mask, channel, hb))
        third = of_type(outcome, i, 3)[0]
        sealed, hashed = third[36:436], third[436:564]
        digest = ref.H("shares", sealed, hashed)
        identity.verify(third[564:], ref.statement("R1", third[2:34], outcome.root, digest))
        header = of_type(outcome, i, 6)[0]
        identity.verify(header[74:], ref.statement("R2", outcome.h_ctx, ref.u32(i)))
        identity.verify(of_type(outcome, i, 10)[0][66:], ref.statement("R3", outcome.t))


# Hashes, keys and the tree


def test_hkdf_gives_the_first_vector_of_rfc_5869() -> None:
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    okm = ref.hkdf(b"\x0b" * 22, bytes(range(13)), info, 42)
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_a_frame_shows_the_length_of_every_part() -> None:
    tag = b"fedcore/secagg/v1/x"
    assert ref.frame("x", b"ab", b"") == ref.u64(19) + tag + ref.u64(2) + b"ab" + ref.u64(0)
    assert ref.frame("x", b"a", b"b") != ref.frame("x", b"ab")


def test_a_bitmap_starts_at_the_lowest_bit() -> None:
    assert ref.bitmap({0, 3, 8}, 9) == bytes([0b1001, 1])
    assert ref.bitmap(set(), 16) == bytes(2)


@pytest.mark.parametrize("n", range(1, 18))
def test_every_path_leads_from_its_leaf_to_the_root_and_from_no_other_place(n: int) -> None:
    leaves = [ref.leaf(i, bytes(16), bytes(176)) for i in range(n)]
    levels = ref.merkle_levels(leaves)
    root = levels[-1][0]
    for i in range(n):
        path = ref.merkle_path(levels, i)
        assert len(path) == (n - 1).bit_length()
        assert ref.climb(leaves[i], i, path) == root
        for j in range(n):
            assert j == i or ref.climb(leaves[i], j, path) != root


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_ends_of_a_channel_find_its_keys_and_each_direction_has_its_own(
    mine: bytes, theirs: bytes
) -> None:
    here = ref.agree(mine, ref.public_key(theirs))
    there = ref.agree(theirs, ref.public_key(mine))
    assert here == there
    key = ref.channel_key(b"sid", b"root", 4, 2, here)
    assert key != ref.channel_key(b"sid", b"root", 2, 4, here)
    halves = bytes(36), bytes(range(36))
    sealed = ref.seal(key, bytes(12), 4, 2, halves)
    assert len(sealed) == 100
    assert ref.unseal(key, 4, 2, sealed) == halves
    with pytest.raises(InvalidTag):
        ref.unseal(key, 2, 4, sealed)


# Parameters and the ring


@pytest.mark.parametrize(
    ("profile", "n", "delta", "gamma", "sigma", "k", "v", "t_min", "t_max"),
    [
        (MALICIOUS, 128, "1/20", "1/20", 100, 26, 7, 7, 20),
        (MALICIOUS, 256, "1/10", "1/10", 40, 78, 21, 26, 55),
        (MALICIOUS, 128, "3/10", "2/10", 100, 122, 26, 26, 84),
        (MALICIOUS, 512, "1/20", "1/20", 100, 82, 26, 26, 63),
        (MALICIOUS, 1000, "1/20", "1/20", 40, 66, 18, 23, 46),
        (SEMI_HONEST, 128, "1/10", "1/10", 40, 40, 0, 13, 28),
        (SEMI_HONEST, 1024, "1/10", "1/10", 40, 52, 0, 28, 28),
    ],
)
def test_parameters_match_the_published_table(
    profile: int, n: int, delta: str, gamma: str, sigma: int, k: int, v: int, t_min: int, t_max: int
) -> None:
    found = ref.parameters(n, Fraction(gamma), Fraction(delta), sigma, 30, profile)
    assert (found.k, found.v, found.t) == (k, v, (t_min + t_max + 1) // 2)


def test_a_small_group_never_assumes_that_nobody_colludes() -> None:
    none = Fraction(0)
    assert ref.parameters(2, none, none, 100, 30, MALICIOUS) == (0, 0, 2, 2, 1, 0, 1)
    assert ref.parameters(3, none, none, 100, 30, MALICIOUS) == (1, 0, 3, 3, 2, 0, 2)
    with pytest.raises(ValueError, match="no quorum"):
        ref.parameters(3, none, Fraction(1, 3), 100, 30, MALICIOUS)


@pytest.mark.parametrize(("n", "k"), [(9, 4), (70, 10), (70, 68), (8, 7), (2, 1)])
def test_the_ring_is_symmetric_and_every_client_has_k_neighbours(n: int, k: int) -> None:
    order = ref.ring(hashlib.sha256(bytes([n])).digest(), n)
    assert sorted(order) == list(range(n))
    near = [ref.neighbours(order, i, k) for i in range(n)]
    for i in range(n):
        assert len(near[i]) == len(set(near[i])) == k
        assert near[i] == sorted(near[i])
        assert all(j != i and i in near[j] for j in near[i])


def test_where_every_window_holds_a_member_the_members_are_connected() -> None:
    order, k = ref.ring(bytes(32), 9), 4
    for members in itertools.chain.from_iterable(
        itertools.combinations(range(9), size) for size in range(2, 10)
    ):
        reached, pending = {members[0]}, [members[0]]
        while pending:
            for j in ref.neighbours(order, pending.pop(), k):
                if j in members and j not in reached:
                    reached.add(j)
                    pending.append(j)
        assert not ref.windows_hold(order, k, 1, members) or reached == set(members)


# Streams


@streams
@given(
    offset=st.integers(0, 40), count=st.integers(0, 40), seed=st.binary(min_size=44, max_size=44)
)
def test_words_at_an_offset_are_those_of_the_whole_stream(
    prg: int, offset: int, count: int, seed: bytes
) -> None:
    whole = ref.stream_words(prg, seed, 0, 80)
    assert ref.stream_words(prg, seed, offset, count) == whole[offset : offset + count]


@given(key=st.binary(min_size=16, max_size=16), back=st.integers(0, 4))
def test_aes_counts_as_the_library_does_and_wraps_at_128_bits(key: bytes, back: int) -> None:
    start = (2**128 - 1 - back).to_bytes(16, "big")
    library = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(96))
    assert ref.aes_ctr(key, start, 0, 6) == library
    assert ref.aes_ctr(key, start, 2, 4) == library[32:]


def test_chacha20_gives_the_keystreams_of_rfc_8439() -> None:
    first = ref.chacha20(bytes(32), bytes(12), 0, 2)
    assert first[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert first[64:80].hex() == "9f07e7be5551387a98ba977c732d080d"


# Shares

secrets = st.binary(min_size=32, max_size=32)


@given(secrets, secrets, st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_t_shares_rebuild_both_secrets_and_t_minus_1_do_not(
    b: bytes, sk: bytes, t: int, source: random.Random
) -> None:
    holders = source.sample(range(1000), 7)
    words = [source.getrandbits(32) for _ in range(18 * 6)]
    dealt = ref.shares(b, sk, t, holders, words)
    chosen = source.sample(holders, t)
    assert ref.reconstruct({j: dealt[j][0] for j in chosen}) == b
    assert ref.reconstruct({j: dealt[j][1] for j in chosen}) == sk
    if t > 1:
        try:
            rebuilt = ref.reconstruct({j: dealt[j][0] for j in chosen[1:]})
        except ValueError:
            return
        assert rebuilt != b


def test_with_t_minus_1_shares_every_secret_is_as_likely_as_another() -> None:
    """At degree 1, one share leaves each first limb with exactly one coefficient that fits."""
    value = 12345
    for limb in (0, 1, 2**30 - 1):
        slope = (value - limb) * pow(6, -1, ref.P) % ref.P
        dealt = ref.shares(limb.to_bytes(32, "little"), bytes(32), 2, [5], [slope] + [0] * 17)
        assert dealt[5][0][:4] == ref.u32(value)


def test_words_equal_to_p_are_drawn_again_and_the_top_bit_is_dropped() -> None:
    words = list(range(100, 136))
    spoiled = [ref.P, *words[:20], 2**32 - 1, *(word + 2**31 for word in words[20:])]
    args = bytes(range(32)), bytes(32), 3, [0, 9]
    assert ref.shares(*args, spoiled) == ref.shares(*args, words)


# Packing


@st.composite
def packed_sums(draw: st.DrawFn) -> tuple[Block, list[list[int]]]:
    """A block and three vectors whose sum fits into its slots."""
    bits = draw(st.integers(4, 64))
    limit = (2 ** (bits - 1) - 1) // 3
    length = draw(st.integers(0, 20))
    values = st.lists(st.integers(-limit, limit), min_size=length, max_size=length)
    return Block(length, bits, False, limit), [draw(values) for _ in range(3)]


@given(packed_sums())
def test_the_sum_of_packed_words_on_the_wire_unpacks_to_the_sum(
    case: tuple[Block, list[list[int]]],
) -> None:
    block, vectors = case
    total = [0] * wire.words_in(block)
    for x in vectors:
        sent = wire.wire_bytes([block], wire.pack(block, x))
        total = wire.combine(1, total, wire.wire_words([block], sent))
    assert wire.unpack(block, total) == [sum(column) for column in zip(*vectors, strict=True)]


@given(packed_sums(), st.integers(1, 5))
def test_chunks_join_to_the_upload_and_none_crosses_from_one_block_into_the_next(
    case: tuple[Block, list[list[int]]], words: int
) -> None:
    blocks = [case[0], Block(7, 21, False, 1), case[0]]
    sent = bytes(range(256)) * 4
    sent = sent[: sum(wire.words_in(block) * wire.wire_width(block) for block in blocks)]
    cut = wire.chunks(blocks, sent, words)
    assert b"".join(data for _, data in cut) == sent
    assert [offset for offset, _ in cut] == [
        sum(len(data) for _, data in cut[:place]) for place in range(len(cut))
    ]
    lengths = [
        min(words, wire.words_in(block) - first) * wire.wire_width(block)
        for block in blocks
        for first in range(0, wire.words_in(block), words)
    ]
    assert [len(data) for _, data in cut] == lengths


def test_a_word_travels_in_as_many_bytes_as_the_table_says() -> None:
    table = {8: 8, 9: 8, 10: 8, 11: 7, 12: 8, 13: 7, 14: 7, 15: 8, 16: 8, 17: 7, 18: 7}
    table |= {19: 8, 20: 8, 21: 8, 22: 6, 23: 6, 24: 6, 25: 7, 28: 7, 29: 8, 32: 8}
    table |= {33: 5, 40: 5, 41: 6, 48: 6, 49: 7, 56: 7, 57: 8, 64: 8}
    assert {bits: wire.wire_width(Block(1, bits, False, 1)) for bits in table} == table


def test_a_slot_that_overflows_wraps_and_carries_into_the_next() -> None:
    block = Block(2, 32, True, 2**31)
    assert wire.unpack(block, wire.pack(block, [2**31, 5])) == [-(2**31), 6]
    assert wire.unpack(block, wire.pack(block, [-(2**31) - 1, 5])) == [2**31 - 1, 4]
