"""All clients and the server of one session, played by the reference on given secrets.

`run` returns every message. It refuses nothing that an attacker could send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tests.secagg import reference as ref, reference_messages as wire
from tests.secagg.reference import MALICIOUS, Config, P, bitmap, u32

NOT_DECRYPTED, OTHER_HASH, NOT_IN_FIELD = 1, 2, 3
TOO_FEW_SHARES, TOO_FEW_UPLOADS, WINDOW, NO_QUORUM, CANNOT_UNMASK = 1, 2, 3, 4, 5
NEVER = 6
NONE: Mapping[int, int] = MappingProxyType({})


class Client(NamedTuple):
    """What one client brings; `words` are the 32-bit words drawn for its polynomials.

    `nonces` are its GCM nonces, by holder in ascending order. `lost`: the first thing that does not
    come from it: 1 its shares, 2 its upload, 3 the trailer of it, 4 its confirmation, 5 its answer.
    `damaged`: what is wrong with the shares that it receives, by sharer.
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
    lost: int = NEVER
    damaged: Mapping[int, int] = NONE


class Session(NamedTuple):
    config: Config
    ca: bytes
    round: int
    attempt: int
    nonce: bytes
    pulse: bytes
    model_digest: bytes
    chunk_words: int = 131_072
    all_signatures: bool = False  # in the UnmaskRequest; otherwise the first T_sig


class Outcome(NamedTuple):
    messages: list[list[bytes]]  # by client, both directions, in the order of the rounds
    sid: bytes
    root: bytes
    order: list[int]  # the ring
    rule: ref.Parameters
    h_ctx: bytes
    t: bytes
    u1: list[int]
    u: list[int]
    held: dict[tuple[int, int], tuple[bytes, bytes]]  # the halves, by sharer and holder
    uploads: dict[int, bytes]  # y on the wire
    sum: list[list[int]]


class Aborted(Exception):
    """The session ends without a sum; `messages` as in Outcome."""

    def __init__(self, reason: int, messages: list[list[bytes]]) -> None:
        super().__init__(reason)
        self.reason, self.messages = reason, messages


def run(session: Session, clients: Iterable[Client]) -> Outcome:
    config, prg = session.config, session.config.prg
    roll = sorted(clients, key=lambda client: client.id)
    n, everyone = len(roll), range(len(roll))
    rule = ref.parameters(n, config.gamma, config.delta, config.sigma, config.eta, config.profile)
    log: list[list[bytes]] = [[] for _ in everyone]

    # R0
    certificates = [ref.certificate(session.ca, m.id, m.identity, m.expiry) for m in roll]
    bundles = [ref.bundle(m.identity, m.id, m.pid, m.mask_key, m.channel_key, m.b) for m in roll]
    for i in everyone:
        log[i].append(wire.advertise(certificates[i], bundles[i]))

    # R1
    digest = ref.config_digest(config)
    sid = ref.session_id(config, session.round, session.attempt, session.nonce)

    def stop(reason: int) -> Aborted:
        for i in everyone:
            log[i].append(wire.abort(sid, reason))
        return Aborted(reason, log)

    leaves = [ref.leaf(i, roll[i].id, bundles[i]) for i in everyone]
    levels = ref.merkle_levels(leaves)
    paths = [ref.merkle_path(levels, i) for i in everyone]
    root = ref.root_of(certificates, levels[-1][0], session.pulse)
    order = ref.ring(root, n)
    N = [ref.neighbours(order, i, rule.k) for i in everyone]
    ciphertexts: dict[tuple[int, int], bytes] = {}
    hashes: dict[tuple[int, int], bytes] = {}
    for i in everyone:
        others = [(bundles[j], paths[j]) for j in N[i]]
        start = sid, session.round, session.attempt, session.nonce, ref.config_bytes(config)
        place = i, roll[i].pid, certificates, paths[i], others
        log[i].append(wire.roster(*start, session.pulse, *place))
        if roll[i].lost <= 1:
            continue
        dealt = ref.shares(roll[i].b, roll[i].mask_key, rule.t, N[i], roll[i].words)
        for j, nonce in zip(N[i], roll[i].nonces, strict=True):
            if roll[j].damaged.get(i) == NOT_IN_FIELD:
                dealt[j] = 9 * u32(P), 9 * u32(P)
            secret = ref.agree(roll[i].channel_key, ref.public_key(roll[j].channel_key))
            key = ref.channel_key(sid, root, i, j, secret)
            ciphertexts[i, j] = ref.seal(key, nonce, i, j, dealt[j])
            hashes[i, j] = ref.share_hash(sid, i, j, dealt[j])
        sealed, hashed = [ciphertexts[i, j] for j in N[i]], [hashes[i, j] for j in N[i]]
        statement = wire.shares_statement(sid, root, sealed, hashed)
        signature = ref.sign(roll[i].identity, "R1", *statement)
        log[i].append(wire.shares_message(sid, sealed, hashed, signature))
    u1 = [i for i in everyone if roll[i].lost > 1]
    if len(u1) < rule.u_min:
        raise stop(TOO_FEW_SHARES)

    # R2
    h_ctx = wire.context(sid, root, bitmap(u1, n), session.model_digest, digest)
    length = sum(wire.words_in(block) for block in config.blocks)

    def pair_stream(i: int, sk: bytes, j: int) -> list[int]:
        secret = ref.agree(sk, ref.public_key(roll[j].mask_key))
        return ref.stream_words(prg, ref.pair_seed(sid, root, i, j, secret, prg), 0, length)

    def self_stream(i: int, b: bytes) -> list[int]:
        return ref.stream_words(prg, ref.self_seed(sid, root, i, b, prg), 0, length)

    held: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    signatures: dict[int, bytes] = {}
    uploads: dict[int, bytes] = {}
    for i in u1:
        dealers, damaged = [j for j in N[i] if j in u1], roll[i].damaged
        inbox = [
            (
                spoiled(ciphertexts[j, i], damaged.get(j) == NOT_DECRYPTED),
                spoiled(hashes[j, i], damaged.get(j) == OTHER_HASH),
            )
            for j in dealers
        ]
        log[i].append(wire.mask_request(sid, session.model_digest, bitmap(u1, n), inbox))
        if roll[i].lost <= 2:
            continue
        pairs = {}
        for j in dealers:
            if j in damaged:
                complaint = sid, root, u32(j), bytes([damaged[j]])
                signature = ref.sign(roll[i].identity, "complaint", *complaint)
                log[i].append(wire.complaint(sid, j, damaged[j], signature))
            else:
                secret = ref.agree(roll[i].channel_key, ref.public_key(roll[j].channel_key))
                key = ref.channel_key(sid, root, j, i, secret)
                held[j, i] = ref.unseal(key, j, i, ciphertexts[j, i])
            pairs[j] = pair_stream(i, roll[i].mask_key, j)
        packed = wire.pack_all(config.blocks, roll[i].vector)
        y = wire.masked(i, packed, self_stream(i, roll[i].b), pairs)
        sent = wire.wire_bytes(config.blocks, y)
        signatures[i] = ref.sign(roll[i].identity, "R2", h_ctx, u32(i))
        log[i].append(wire.upload_header(sid, h_ctx, len(sent), signatures[i]))
        for offset, data in wire.chunks(config.blocks, sent, session.chunk_words):
            log[i].append(wire.upload_chunk(sid, offset, data))
        if roll[i].lost > 3:
            log[i].append(wire.upload_trailer(sid, hashlib.sha256(sent).digest()))
            uploads[i] = sent
    u = sorted(uploads)
    if len(u) < rule.u_min:
        raise stop(TOO_FEW_UPLOADS)
    if rule.v and not ref.windows_hold(order, rule.k, rule.v, u):
        raise stop(WINDOW)

    # R3
    t = wire.decision(h_ctx, bitmap(u, n))
    quorum: list[tuple[int, bytes]] = []
    if config.profile == MALICIOUS:
        for i in u:
            headers = [signatures[j] for j in N[i] if j in u]
            log[i].append(wire.survivors(sid, bitmap(u, n), headers))
            if roll[i].lost > 4:
                quorum.append((i, ref.sign(roll[i].identity, "R3", t)))
                log[i].append(wire.confirmation(sid, t, quorum[-1][1]))
        if len(quorum) < rule.t_sig:
            raise stop(NO_QUORUM)
        if not session.all_signatures:
            quorum = quorum[: rule.t_sig]

    # R4
    revealed: dict[int, dict[int, bytes]] = {j: {} for j in u1}
    secrets: dict[int, bytes] = {}
    for i in u:
        log[i].append(wire.unmask_request(sid, bitmap(u, n), quorum))
        if roll[i].lost <= 5:
            continue
        answer: list[tuple[bytes, bytes] | None] = []
        for j in N[i]:
            if j in u1 and (j, i) in held:
                of_b, of_sk = held[j, i]
                if j in u:
                    answer.append((of_b, ref.half_hash("sk", sid, j, i, of_sk)))
                    revealed[j][i] = of_b
                else:
                    answer.append((of_sk, ref.half_hash("b", sid, j, i, of_b)))
                    revealed[j][i] = of_sk
            elif j in u1:
                answer.append(None)
        log[i].append(wire.unmask_answer(sid, roll[i].b, answer))
        secrets[i] = roll[i].b
    for j in u1:
        if j not in secrets:
            if len(revealed[j]) < rule.t:
                raise stop(CANNOT_UNMASK)
            secrets[j] = ref.reconstruct(dict(list(revealed[j].items())[: rule.t]))

    # The sum
    total = [0] * length
    for i in u:
        total = wire.combine(1, total, wire.wire_words(config.blocks, uploads[i]))
    for i in u1:
        if i in u:
            total = wire.combine(-1, total, self_stream(i, secrets[i]))
        else:
            for j in N[i]:
                if j in u:
                    # j added it with the sign of (j, i)
                    sign = -1 if j < i else 1
                    total = wire.combine(sign, total, pair_stream(i, secrets[i], j))
    agreed = log, sid, root, order, rule, h_ctx, t
    return Outcome(*agreed, u1, u, held, uploads, wire.unpack_all(config.blocks, total))


def spoiled(data: bytes, if_so: bool) -> bytes:
    """`data`, its last bit inverted if so."""
    return data[:-1] + bytes([data[-1] ^ 1]) if if_so else data
