"""A second implementation of secure aggregation, so that one mistake must be made twice to pass.

It is written from `docs/secure-aggregation-protocol.md` alone, in its order and in plain integers,
and imports nothing of `fedcore`. Here stand its sections 1 to 5, then 6 and 7 in
`reference_messages`, and a whole session in `reference_session`. It is slow on purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Collection, Iterable, Sequence
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


def merkle_path(levels: Sequence[Sequence[bytes]], i: int) -> list[bytes]:
    return [level[(i >> depth) ^ 1] for depth, level in enumerate(levels[:-1])]


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
    """Raise ValueError where a session of n clients cannot be had on these terms.

    With w = k/2 the first even k is taken for which hold, at σ + 1 and η + 1 bits:
    (A) no window of w clients has v corrupt ones, (B) no client has t corrupt neighbours,
    (C) each window keeps v clients, (D) each client keeps t neighbours. In `semi_honest` no window
    may be all corrupt or lost, and (D) holds at η bits.
    """
    c = gamma.numerator * n // gamma.denominator
    d0 = delta.numerator * n // delta.denominator
    if n >= 3:
        c = max(1, c)
    t_sig = (n + c) // 2 + 1
    if not 2 <= n <= 1024 or 2 * delta >= 1 - gamma or n - d0 < t_sig:
        raise ValueError(f"no quorum of {t_sig} among the {n - d0} clients that are left of {n}")
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
