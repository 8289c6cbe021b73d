"""A second implementation of secure aggregation, so that one mistake must be made twice to pass.

It is written from `docs/secure-aggregation-protocol.md` alone, in its order and in plain integers,
and imports nothing of `fedcore`. `run` plays all clients and the server of one session on given
secrets and returns every message. It refuses nothing that an attacker could send, and it is slow on
purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from math import comb
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SEMI_HONEST, MALICIOUS = 0, 1
AES_128_CTR, CHACHA20 = 0, 1
P = 2**31 - 1
WORD = 2**64


def u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def f64(value: float) -> bytes:
    return struct.pack("<d", value)


# 1. Hashes and signatures


def frame(tag: str, *parts: bytes) -> bytes:
    framed = b""
    for part in (b"fedcore/secagg/v1/" + tag.encode("ascii"), *parts):
        framed += u64(len(part)) + part
    return framed


def H(tag: str, *parts: bytes) -> bytes:
    return hashlib.sha256(frame(tag, *parts)).digest()


def statement(tag: str, *parts: bytes) -> bytes:
    return H("sign/" + tag, *parts)


def sign(identity: bytes, tag: str, *parts: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).sign(statement(tag, *parts))


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    prk = hmac.digest(salt, ikm, "sha256")
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        okm, counter = okm + block, counter + 1
    return okm[:length]


def kdf(sid: bytes, ikm: bytes, length: int, label: str, *parts: bytes) -> bytes:
    return hkdf(ikm, sid, frame(label, *parts), length)


def bitmap(members: Collection[int], n: int) -> bytes:
    return bytes(
        sum(1 << bit for bit in range(8) if 8 * byte + bit in members) for byte in range(-(-n // 8))
    )


# 2. Identities and prekeys


def public_identity(identity: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


def certificate(ca: bytes, id: bytes, identity: bytes, expiry: int) -> bytes:
    key = public_identity(identity)
    return id + key + u64(expiry) + sign(ca, "cert", id, key, u64(expiry))


def commitment(pid: bytes, b: bytes) -> bytes:
    return H("bcommit", pid, b)


def bundle(identity: bytes, id: bytes, pid: bytes, mask: bytes, channel: bytes, b: bytes) -> bytes:
    fields = pid, public_key(mask), public_key(channel), commitment(pid, b)
    return b"".join(fields) + sign(identity, "R0", id, *fields)


# 3. Configuration


class Block(NamedTuple):
    length: int
    bits: int
    wraps: bool
    limit: int


class Config(NamedTuple):
    profile: int
    prg: int
    gamma: Fraction
    delta: Fraction
    sigma: int
    eta: int
    clip_norm: float
    noise_multiplier: float
    task_digest: bytes
    beacon: str
    blocks: Sequence[Block]


def config_bytes(config: Config) -> bytes:
    encoded = u16(1) + u8(config.profile) + u8(config.prg)
    for fraction in (config.gamma, config.delta):
        encoded += u32(fraction.numerator) + u32(fraction.denominator)
    encoded += u16(config.sigma) + u16(config.eta)
    encoded += f64(config.clip_norm) + f64(config.noise_multiplier) + config.task_digest
    encoded += u8(len(config.beacon)) + config.beacon.encode("ascii") + u8(len(config.blocks))
    for block in config.blocks:
        encoded += u64(block.length) + u8(block.bits) + u8(block.wraps) + u64(block.limit)
    return encoded


def config_digest(config: Config) -> bytes:
    return H("config", config_bytes(config))


def session_id(config: Config, round: int, attempt: int, nonce: bytes) -> bytes:
    return H("sid", config.task_digest, u64(round), u32(attempt), nonce, config_digest(config))


def leaf(i: int, id: bytes, bundle: bytes) -> bytes:
    return H("leaf", u32(i), id, bundle)


def merkle_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    width = 1
    while width < len(leaves):
        width *= 2
    level = list(leaves) + [H("empty")] * (width - len(leaves))
    levels = [level]
    while len(level) > 1:
        level = [H("node", level[p], level[p + 1]) for p in range(0, len(level), 2)]
        levels.append(level)
    return levels


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    return merkle_levels(leaves)[-1][0]


def merkle_path(leaves: Sequence[bytes], i: int) -> list[bytes]:
    return [level[(i >> depth) ^ 1] for depth, level in enumerate(merkle_levels(leaves)[:-1])]


def climb(leaf: bytes, i: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf and its path lead to."""
    node = leaf
    for depth, sibling in enumerate(path):
        node = H("node", sibling, node) if (i >> depth) & 1 else H("node", node, sibling)
    return node


def root_of(certificates: Sequence[bytes], merkle: bytes, pulse: bytes) -> bytes:
    return H("root", u32(len(certificates)), b"".join(certificates), merkle, pulse)


class Parameters(NamedTuple):
    c: int
    d0: int
    u_min: int
    t_sig: int
    k: int
    v: int  # 0 where there is no window check
    t: int


def tails(N: int, K: int, m: int) -> list[int]:
    """H(N, K, m, a) for a = 0 … m + 1."""
    terms = [comb(K, i) * comb(N - K, m - i) for i in range(m + 1)]
    return [sum(terms[a:]) for a in range(m + 2)]


def parameters(
    n: int, gamma: Fraction, delta: Fraction, sigma: int, eta: int, profile: int
) -> Parameters:
    """Raise ValueError where no threshold gives both privacy and availability.

    With w = k/2 the first even k is taken for which hold, at σ + 1 and η + 1 bits:
    (A) no window of w clients has v corrupt ones, (B) no client has t corrupt neighbours,
    (C) each window keeps v clients, (D) each client keeps t neighbours. In `semi_honest` no window
    may be all corrupt or lost, and (D) holds at η bits.
    """
    c = gamma.numerator * n // gamma.denominator
    d0 = delta.numerator * n // delta.denominator
    if 3 <= n <= 64:
        c = max(1, c)
    t_sig = (n + c) // 2 + 1
    sizes = c, d0, max(n - d0, t_sig), t_sig
    if n > 64:
        for k in range(2, n - 1, 2):
            w, v = k // 2, 0
            if profile == SEMI_HONEST:
                if 2 ** (sigma + 1) * n * (c + d0) ** w > n**w:
                    continue
            else:
                corrupt, lost = tails(n, c, w), tails(n, d0, w)
                private = [
                    v for v in range(w + 1) if 2 ** (sigma + 1) * n * corrupt[v] <= comb(n, w)
                ]
                if not private:
                    continue
                v = private[0]
                if 2 ** (eta + 1) * n * lost[w - v + 1] > comb(n, w):
                    continue
            corrupt, lost = tails(n - 1, c, k), tails(n - 1, d0, k)
            all_of = comb(n - 1, k)
            failures = eta if profile == SEMI_HONEST else eta + 1
            enough = [t for t in range(1, k + 1) if 2 ** (sigma + 1) * n * corrupt[t] <= all_of]
            alive = [t for t in range(1, k + 1) if 2**failures * n * lost[k - t + 1] <= all_of]
            if enough and alive and enough[0] <= alive[-1]:
                return Parameters(*sizes, k, v, -(-(enough[0] + alive[-1]) // 2))
    least, most = c + 1, n - 1 - d0
    if least > most:
        raise ValueError(f"no threshold: more than {c} of {n - 1}, at most {most}")
    return Parameters(*sizes, n - 1, 0, -(-(least + most) // 2))


def ring(root: bytes, n: int) -> list[int]:
    """The clients by ring position."""
    g = H("graph", root)
    stream = aes_ctr(g[0:16], g[16:32], 0, n)
    keys = [int.from_bytes(stream[16 * i : 16 * i + 16], "little") for i in range(n)]
    return sorted(range(n), key=lambda i: (keys[i], i))


def neighbours(order: Sequence[int], i: int, k: int) -> list[int]:
    n = len(order)
    if k >= n - 1:
        return [j for j in range(n) if j != i]
    p = order.index(i)
    return sorted(order[(p + side * r) % n] for side in (1, -1) for r in range(1, k // 2 + 1))


def windows_hold(order: Sequence[int], k: int, v: int, members: Collection[int]) -> bool:
    """Whether each k/2 consecutive positions hold at least v members."""
    n = len(order)
    return all(sum(order[(p + r) % n] in members for r in range(k // 2)) >= v for p in range(n))


# 4. Streams


def aes_ctr(key: bytes, initial_counter: bytes, first_block: int, blocks: int) -> bytes:
    start = int.from_bytes(initial_counter, "big") + first_block
    counters = [((start + j) % 2**128).to_bytes(16, "big") for j in range(blocks)]
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(b"".join(counters))


def chacha20(key: bytes, nonce: bytes, first_block: int, blocks: int) -> bytes:
    return b"".join(
        Cipher(algorithms.ChaCha20(key, u32(j) + nonce), None).encryptor().update(bytes(64))
        for j in range(first_block, first_block + blocks)
    )


def seed_length(prg: int) -> int:
    return 32 if prg == AES_128_CTR else 44


def stream_words(prg: int, seed: bytes, offset: int, count: int) -> list[int]:
    """Words `offset` … `offset + count − 1` of a stream."""
    size = 16 if prg == AES_128_CTR else 64
    first = 8 * offset // size
    blocks = -(-8 * (offset + count) // size) - first
    if prg == AES_128_CTR:
        stream = aes_ctr(seed[:16], seed[16:32], first, blocks)
    else:
        stream = chacha20(seed[:32], seed[32:44], first, blocks)
    stream = stream[8 * offset - size * first :]
    return [int.from_bytes(stream[8 * w : 8 * w + 8], "little") for w in range(count)]


def ends(i: int, j: int) -> tuple[bytes, bytes]:
    return u32(min(i, j)), u32(max(i, j))


def pair_seed(sid: bytes, root: bytes, i: int, j: int, secret: bytes, prg: int) -> bytes:
    return kdf(sid, secret, seed_length(prg), "pair", root, *ends(i, j))


def self_seed(sid: bytes, root: bytes, i: int, b: bytes, prg: int) -> bytes:
    return kdf(sid, b, seed_length(prg), "self", root, u32(i))


def channel_key(sid: bytes, root: bytes, sharer: int, holder: int, secret: bytes) -> bytes:
    """The key of one direction, from the secret of the two channel keys."""
    keys = kdf(sid, secret, 32, "chan", root, *ends(sharer, holder))
    return keys[:16] if sharer < holder else keys[16:]


# 5. Shares


def limbs(secret: bytes) -> list[int]:
    value = int.from_bytes(secret, "little")
    return [value // 2 ** (30 * limb) % 2**30 for limb in range(9)]


def shares(
    b: bytes, sk: bytes, t: int, holders: Iterable[int], words: Iterable[int]
) -> dict[int, tuple[bytes, bytes]]:
    """The halves (of b, of sk) for each holder; `words` are the 32-bit words drawn, in order."""
    coefficients = iter([word % 2**31 for word in words if word % 2**31 != P])
    rows = [limbs(b) + limbs(sk)]
    rows += [[next(coefficients) for _ in range(18)] for _ in range(1, t)]
    dealt = {}
    for j in holders:
        values = [
            sum(row[limb] * (j + 1) ** degree for degree, row in enumerate(rows)) % P
            for limb in range(18)
        ]
        dealt[j] = b"".join(map(u32, values[:9])), b"".join(map(u32, values[9:]))
    return dealt


def reconstruct(halves: dict[int, bytes]) -> bytes:
    """The secret from exactly t halves, by holder; ValueError if they fit no secret."""
    secret = 0
    for limb in range(9):
        value = 0
        for j, half in halves.items():
            weight = 1
            for m in halves:
                if m != j:
                    weight = weight * (m + 1) * pow(m - j, -1, P) % P
            value += weight * int.from_bytes(half[4 * limb : 4 * limb + 4], "little")
        if value % P >= 2**30:
            raise ValueError(f"limb {limb} has more than 30 bits")
        secret += (value % P) << (30 * limb)
    if secret >= 2**256:
        raise ValueError("the secret has more than 32 bytes")
    return secret.to_bytes(32, "little")


def half_hash(kind: str, sid: bytes, sharer: int, holder: int, half: bytes) -> bytes:
    """`kind` is "b" or "sk"."""
    return H("share/" + kind, sid, u32(sharer), u32(holder), half)


def share_hash(sid: bytes, sharer: int, holder: int, halves: tuple[bytes, bytes]) -> bytes:
    of_b, of_sk = halves
    return H(
        "share",
        half_hash("b", sid, sharer, holder, of_b),
        half_hash("sk", sid, sharer, holder, of_sk),
    )


def seal(key: bytes, nonce: bytes, sharer: int, holder: int, halves: tuple[bytes, bytes]) -> bytes:
    aad = u32(sharer) + u32(holder)
    return nonce + AESGCM(key).encrypt(nonce, halves[0] + halves[1], aad)


def unseal(key: bytes, sharer: int, holder: int, ciphertext: bytes) -> tuple[bytes, bytes]:
    aad = u32(sharer) + u32(holder)
    plain = AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], aad)
    return plain[:36], plain[36:]


# 6. Packing


def slots(block: Block) -> int:
    return 64 // block.bits


def words_in(block: Block) -> int:
    return -(-block.length // slots(block))


def wire_width(block: Block) -> int:
    """Bytes of a word on the wire."""
    if slots(block) == 1:
        return -(-block.bits // 8)
    used = slots(block) * block.bits
    return 6 if used <= 48 else 7 if used <= 56 else 8


def pack(block: Block, x: Sequence[int]) -> list[int]:
    W, L = words_in(block), slots(block)
    padded = list(x) + [0] * (W * L - block.length)
    return [
        sum(padded[slot * W + w] * 2 ** (block.bits * slot) for slot in range(L)) % WORD
        for w in range(W)
    ]


def unpack(block: Block, words: Sequence[int]) -> list[int]:
    W, L = words_in(block), slots(block)
    x = [0] * (W * L)
    for w, s in enumerate(words):
        for slot in range(L):
            v = s % 2**block.bits
            if v >= 2 ** (block.bits - 1):
                v -= 2**block.bits
            x[slot * W + w] = v
            s = (s - v) >> block.bits
    return x[: block.length]


def pack_all(blocks: Sequence[Block], vector: Sequence[Sequence[int]]) -> list[int]:
    return [word for block, x in zip(blocks, vector, strict=True) for word in pack(block, x)]


def unpack_all(blocks: Sequence[Block], words: Sequence[int]) -> list[list[int]]:
    vector, start = [], 0
    for block in blocks:
        vector.append(unpack(block, words[start : start + words_in(block)]))
        start += words_in(block)
    return vector


def wire_bytes(blocks: Sequence[Block], words: Sequence[int]) -> bytes:
    widths = [wire_width(block) for block in blocks for _ in range(words_in(block))]
    return b"".join(u64(word)[:width] for word, width in zip(words, widths, strict=True))


def wire_words(blocks: Sequence[Block], wire: bytes) -> list[int]:
    words, start = [], 0
    for block in blocks:
        for _ in range(words_in(block)):
            words.append(int.from_bytes(wire[start : start + wire_width(block)], "little"))
            start += wire_width(block)
    return words


# 7. Messages


def message(type: int, *fields: bytes) -> bytes:
    return u8(1) + u8(type) + b"".join(fields)


def sized(field: bytes) -> bytes:
    return u16(len(field)) + field


def advertise(certificate: bytes, bundle: bytes) -> bytes:
    return message(1, certificate, bundle)


def roster(
    sid: bytes,
    round: int,
    attempt: int,
    nonce: bytes,
    config: bytes,
    pulse: bytes,
    index: int,
    certificates: Sequence[bytes],
    own_path: Sequence[bytes],
    others: Sequence[tuple[bytes, Sequence[bytes]]],
) -> bytes:
    """`others`: the bundle and the path of each neighbour."""
    session = sid, u64(round), u32(attempt), nonce, sized(config), sized(pulse)
    place = u32(len(certificates)), u32(index), *certificates, *own_path, u16(len(others))
    return message(2, *session, *place, *(part for b, path in others for part in (b, *path)))


def shares_statement(
    sid: bytes, root: bytes, ciphertexts: Sequence[bytes], hashes: Sequence[bytes]
) -> tuple[bytes, bytes, bytes]:
    return sid, root, H("shares", b"".join(ciphertexts), b"".join(hashes))


def shares_message(
    sid: bytes, ciphertexts: Sequence[bytes], hashes: Sequence[bytes], signature: bytes
) -> bytes:
    return message(3, sid, u16(len(ciphertexts)), *ciphertexts, *hashes, signature)


def mask_request(
    sid: bytes, model_digest: bytes, u1: bytes, inbox: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """`inbox`: ciphertext and share hash of each neighbour in U1."""
    parts = (part for pair in inbox for part in pair)
    return message(4, sid, model_digest, sized(u1), u16(len(inbox)), *parts)


def complaint(sid: bytes, accused: int, reason: int, signature: bytes) -> bytes:
    return message(5, sid, u32(accused), u8(reason), signature)


def upload_header(sid: bytes, h_ctx: bytes, length: int, signature: bytes) -> bytes:
    return message(6, sid, h_ctx, u64(length), signature)


def upload_chunk(sid: bytes, offset: int, data: bytes) -> bytes:
    return message(7, sid, u64(offset), u32(len(data)), data)


def upload_trailer(sid: bytes, digest: bytes) -> bytes:
    return message(8, sid, digest)


def survivors(sid: bytes, u: bytes, header_signatures: Sequence[bytes]) -> bytes:
    return message(9, sid, sized(u), u16(len(header_signatures)), *header_signatures)


def confirmation(sid: bytes, t: bytes, signature: bytes) -> bytes:
    return message(10, sid, t, signature)


def unmask_request(sid: bytes, u: bytes, quorum: Sequence[tuple[int, bytes]]) -> bytes:
    """`quorum`: signers and their signatures of T; empty in `semi_honest`."""
    parts = (part for signer, signature in quorum for part in (u16(signer), signature))
    return message(11, sid, sized(u), u16(len(quorum)), *parts)


def unmask_answer(sid: bytes, b: bytes, revealed: Sequence[tuple[bytes, bytes] | None]) -> bytes:
    """`revealed`: half and hash of the other half for each member of N(i) ∩ U1, None if absent.

    The count is taken to be |N(i) ∩ U1|: only then does it fix the length of the bitmap.
    """
    present = bitmap([m for m, pair in enumerate(revealed) if pair], len(revealed))
    parts = (part for pair in revealed if pair for part in pair)
    return message(12, sid, b, u16(len(revealed)), present, *parts)


def abort(sid: bytes, reason: int) -> bytes:
    return message(13, sid, u16(reason))


def context(sid: bytes, root: bytes, u1: bytes, model_digest: bytes, config: bytes) -> bytes:
    """H_ctx; `config` is the config digest."""
    return H("ctx", sid, root, u1, model_digest, config)


def decision(h_ctx: bytes, u: bytes) -> bytes:
    """T."""
    return H("T", h_ctx, u)


def combine(sign: int, words: Sequence[int], stream: Sequence[int]) -> list[int]:
    return [(a + sign * b) % WORD for a, b in zip(words, stream, strict=True)]


def masked(
    i: int, packed: Sequence[int], self_stream: Sequence[int], pairs: Mapping[int, Sequence[int]]
) -> list[int]:
    """y_i, from the pair streams with each j in N(i) ∩ U1."""
    y = combine(1, packed, self_stream)
    for j, stream in pairs.items():
        y = combine(1 if i < j else -1, y, stream)
    return y


# A whole session


class Client(NamedTuple):
    """What one client brings; `words` are the 32-bit words drawn for its polynomials.

    `nonces` are its GCM nonces, by holder in ascending order. `lost` is the first round (1 … 4) in
    which nothing complete comes from it, 5 for none.
    """

    id: bytes
    identity: bytes
    expiry: int
    pid: bytes
    mask_key: bytes
    channel_key: bytes
    b: bytes
    words: Sequence[int]
    nonces: Sequence[bytes]
    vector: Sequence[Sequence[int]]
    lost: int = 5


class Session(NamedTuple):
    config: Config
    ca: bytes
    round: int
    attempt: int
    nonce: bytes
    pulse: bytes
    model_digest: bytes
    chunk_bytes: int
    all_signatures: bool = False  # in the UnmaskRequest; otherwise the first T_sig


class Outcome(NamedTuple):
    messages: list[list[bytes]]  # by client, both directions, in the order of the rounds
    root: bytes
    order: list[int]  # the ring
    h_ctx: bytes
    t: bytes
    u1: list[int]
    u: list[int]
    sum: list[list[int]]


class Aborted(Exception):
    """The session ends without a sum."""


def run(session: Session, clients: Iterable[Client]) -> Outcome:
    config, prg = session.config, session.config.prg
    roll = sorted(clients, key=lambda client: client.id)
    n, everyone = len(roll), range(len(roll))
    rule = parameters(n, config.gamma, config.delta, config.sigma, config.eta, config.profile)
    log: list[list[bytes]] = [[] for _ in everyone]

    # R0
    certificates = [certificate(session.ca, m.id, m.identity, m.expiry) for m in roll]
    bundles = [bundle(m.identity, m.id, m.pid, m.mask_key, m.channel_key, m.b) for m in roll]
    for i in everyone:
        log[i].append(advertise(certificates[i], bundles[i]))

    # R1
    digest = config_digest(config)
    sid = session_id(config, session.round, session.attempt, session.nonce)
    leaves = [leaf(i, roll[i].id, bundles[i]) for i in everyone]
    paths = [merkle_path(leaves, i) for i in everyone]
    root = root_of(certificates, merkle_root(leaves), session.pulse)
    order = ring(root, n)
    N = [neighbours(order, i, rule.k) for i in everyone]
    ciphertexts: dict[tuple[int, int], bytes] = {}
    hashes: dict[tuple[int, int], bytes] = {}
    for i in everyone:
        others = [(bundles[j], paths[j]) for j in N[i]]
        start = sid, session.round, session.attempt, session.nonce, config_bytes(config)
        log[i].append(roster(*start, session.pulse, i, certificates, paths[i], others))
        if roll[i].lost <= 1:
            continue
        dealt = shares(roll[i].b, roll[i].mask_key, rule.t, N[i], roll[i].words)
        for j, nonce in zip(N[i], roll[i].nonces, strict=True):
            secret = agree(roll[i].channel_key, public_key(roll[j].channel_key))
            key = channel_key(sid, root, i, j, secret)
            ciphertexts[i, j] = seal(key, nonce, i, j, dealt[j])
            hashes[i, j] = share_hash(sid, i, j, dealt[j])
        sealed, hashed = [ciphertexts[i, j] for j in N[i]], [hashes[i, j] for j in N[i]]
        signature = sign(roll[i].identity, "R1", *shares_statement(sid, root, sealed, hashed))
        log[i].append(shares_message(sid, sealed, hashed, signature))
    u1 = [i for i in everyone if roll[i].lost > 1]
    if len(u1) < rule.u_min:
        raise Aborted(f"{len(u1)} of {rule.u_min} needed shared their secrets")

    # R2
    h_ctx = context(sid, root, bitmap(u1, n), session.model_digest, digest)
    length = sum(words_in(block) for block in config.blocks)

    def pair_stream(i: int, sk: bytes, j: int) -> list[int]:
        secret = agree(sk, public_key(roll[j].mask_key))
        return stream_words(prg, pair_seed(sid, root, i, j, secret, prg), 0, length)

    def self_stream(i: int, b: bytes) -> list[int]:
        return stream_words(prg, self_seed(sid, root, i, b, prg), 0, length)

    held: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    signatures: dict[int, bytes] = {}
    uploads: dict[int, bytes] = {}
    for i in u1:
        inbox = [(ciphertexts[j, i], hashes[j, i]) for j in N[i] if j in u1]
        log[i].append(mask_request(sid, session.model_digest, bitmap(u1, n), inbox))
        if roll[i].lost <= 2:
            continue
        pairs = {}
        for j in N[i]:
            if j in u1:
                secret = agree(roll[i].channel_key, public_key(roll[j].channel_key))
                key = channel_key(sid, root, j, i, secret)
                held[j, i] = unseal(key, j, i, ciphertexts[j, i])
                pairs[j] = pair_stream(i, roll[i].mask_key, j)
        packed = pack_all(config.blocks, roll[i].vector)
        y = masked(i, packed, self_stream(i, roll[i].b), pairs)
        wire = uploads[i] = wire_bytes(config.blocks, y)
        signatures[i] = sign(roll[i].identity, "R2", h_ctx, u32(i))
        log[i].append(upload_header(sid, h_ctx, len(wire), signatures[i]))
        for offset in range(0, len(wire), session.chunk_bytes):
            data = wire[offset : offset + session.chunk_bytes]
            log[i].append(upload_chunk(sid, offset, data))
        log[i].append(upload_trailer(sid, hashlib.sha256(wire).digest()))
    u = sorted(uploads)
    if len(u) < rule.u_min:
        raise Aborted(f"{len(u)} of {rule.u_min} needed uploaded")
    if rule.v and not windows_hold(order, rule.k, rule.v, u):
        raise Aborted(f"a window of {rule.k // 2} clients holds fewer than {rule.v} survivors")

    # R3
    t = decision(h_ctx, bitmap(u, n))
    quorum: list[tuple[int, bytes]] = []
    if config.profile == MALICIOUS:
        for i in u:
            headers = [signatures[j] for j in N[i] if j in u]
            log[i].append(survivors(sid, bitmap(u, n), headers))
            if roll[i].lost > 3:
                quorum.append((i, sign(roll[i].identity, "R3", t)))
                log[i].append(confirmation(sid, t, quorum[-1][1]))
        if len(quorum) < rule.t_sig:
            raise Aborted(f"{len(quorum)} of {rule.t_sig} needed signed")
        if not session.all_signatures:
            quorum = quorum[: rule.t_sig]

    # R4
    revealed: dict[int, dict[int, bytes]] = {j: {} for j in u1}
    secrets: dict[int, bytes] = {}
    for i in u:
        if roll[i].lost <= 3 and config.profile == MALICIOUS:
            continue
        log[i].append(unmask_request(sid, bitmap(u, n), quorum))
        if roll[i].lost <= 4:
            continue
        answer: list[tuple[bytes, bytes] | None] = []
        for j in N[i]:
            if j in u1:
                of_b, of_sk = held[j, i]
                if j in u:
                    answer.append((of_b, half_hash("sk", sid, j, i, of_sk)))
                    revealed[j][i] = of_b
                else:
                    answer.append((of_sk, half_hash("b", sid, j, i, of_b)))
                    revealed[j][i] = of_sk
        log[i].append(unmask_answer(sid, roll[i].b, answer))
        secrets[i] = roll[i].b
    for j in u1:
        if j not in secrets:
            if len(revealed[j]) < rule.t:
                raise Aborted(f"{len(revealed[j])} of {rule.t} needed hold shares of {j}")
            secrets[j] = reconstruct(dict(list(revealed[j].items())[: rule.t]))

    # The sum
    total = [0] * length
    for i in u:
        total = combine(1, total, wire_words(config.blocks, uploads[i]))
    for i in u1:
        if i in u:
            total = combine(-1, total, self_stream(i, secrets[i]))
        else:
            for j in N[i]:
                if j in u:
                    # j added it with the sign of (j, i)
                    total = combine(-1 if j < i else 1, total, pair_stream(i, secrets[i], j))
    return Outcome(log, root, order, h_ctx, t, u1, u, unpack_all(config.blocks, total))
