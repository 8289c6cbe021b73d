"""A client pays once a round: all that it does should cost little more than its ciphers must."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.figure import Figure, Target
from benchmarks.measure import Comparison, compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.secagg_cohort import COORDINATES, SecAggCohort, session_config
from benchmarks.secagg_mask import encryption_s
from fedcore.entropy import SystemEntropy
from fedcore.secagg.identity import SIGNATURE_BYTES, TrustStore
from fedcore.secagg.messages import (
    MaskRequest,
    Message,
    Roster,
    Survivors,
    UnmaskRequest,
    decode_as,
    encode,
)
from fedcore.secagg.roster import open_roster
from fedcore.secagg.sharing import channels_of, deal, receive

__all__ = ["Device", "secagg_client"]

_CLIENTS, _LOST, _WATCHED = 1000, 100, 500
_REPEATS = 7
_LIMIT = "AES-128-CTR and Ed25519 alone"


@benchmark(
    "secagg-client", "What does a session cost one client of 1000, beside ciphers and signatures?"
)
def secagg_client(_peers: Peers) -> Iterator[Figure]:
    """CPU time of one thread from the roster's bytes to the answer's, a million integers between.

    γ = δ = 0.1, σ = 40, k = 104; a tenth of the clients is lost before the upload. The limit is as
    many bytes of AES-128-CTR, and as many Ed25519 verifications.
    """
    wide = Device(21)
    found = compare(wide.first, {_LIMIT: wide.first_limit}, repeats=_REPEATS, best=min)
    yield _figure("secagg-client", found, 250)
    again = compare(wide.later, {_LIMIT: wide.later_limit}, repeats=_REPEATS, best=min)
    yield _figure("secagg-client.later", again, 150)
    without = min(wide.trusting() for _ in range(_REPEATS))
    yield Figure("secagg-client.signatures", 1e3 * (found.value - without), "ms")
    for name, part in (("masking", wide.masking), ("shares", wide.shares)):
        value = min(part() for _ in range(_REPEATS))
        yield Figure(f"secagg-client.{name}", 1e3 * value, "ms")
    bound = Target("value", "<=", 5)
    yield Figure("secagg-client.memory", wide.memory() / 2**20, "MiB", target=bound)
    bound = Target("value", "<=", 2.7)
    yield Figure("secagg-client.upload", wide.sent / 1e6, "MB", target=bound)

    narrow = Device(16)
    found = compare(narrow.first, {_LIMIT: narrow.first_limit}, repeats=_REPEATS, best=min)
    yield _figure("secagg-client.16bit", found, 250)
    bound = Target("value", "<=", 2.05)
    yield Figure("secagg-client.16bit-upload", narrow.sent / 1e6, "MB", target=bound)


def _figure(name: str, found: Comparison, most_ms: float) -> Figure:
    bound = Target("value", "<=", most_ms)
    return Figure(name, 1e3 * found.value, "ms", found.ratio, found.against, bound)


class Device:
    """One client, and the messages that its server has for it from a session of a thousand.

    `sent`: the bytes of its upload, frames and all.
    """

    def __init__(self, slot_bits: int) -> None:
        cohort = SecAggCohort(_CLIENTS, session_config(slot_bits, _CLIENTS), watched=_WATCHED)
        cohort.deal()
        cohort.upload(lost=range(_LOST))
        cohort.confirm()
        (block,) = cohort.config.layout.blocks
        vector = np.random.default_rng(0).integers(-block.limit, block.limit, COORDINATES)
        self._cohort, self._blocks = cohort, [vector.astype(np.int32)]
        self._roster = decode_as(cohort.told[0], Roster)
        self._request = decode_as(cohort.told[1], MaskRequest)
        headers = len(decode_as(cohort.told[2], Survivors).signatures) // SIGNATURE_BYTES
        quorum = len(decode_as(cohort.told[3], UnmaskRequest).signers)
        self._verifications = len(self._roster.neighbours) + headers + quorum
        self._certified = TrustStore(cohort.policy.roots)
        self._trusting = TrustStore(cohort.policy.roots, remember_signatures=True)
        for trust in (self._certified, self._trusting):
            self._session_s(trust)
        self._masked = cohort.device(self._blocks, self._trusting)
        for data in cohort.told[:2]:
            list(self._masked.receive(data))
        self.sent = sum(len(encode(message)) for message in self._upload())

    def first(self) -> float:
        """CPU seconds of a session in which every certificate is new."""
        return self._session_s(TrustStore(self._cohort.policy.roots))

    def first_limit(self) -> float:
        """CPU seconds of the ciphers and signatures of `first` alone."""
        return self._limit_s(_CLIENTS + self._verifications)

    def later(self) -> float:
        """CPU seconds of a session whose certificates are known."""
        return self._session_s(self._certified)

    def later_limit(self) -> float:
        """CPU seconds of the ciphers and signatures of `later` alone."""
        return self._limit_s(self._verifications)

    def trusting(self) -> float:
        """CPU seconds of a session in which no signature is new."""
        return self._session_s(self._trusting)

    def masking(self) -> float:
        """CPU seconds of the upload: the keys of all masks, packing again, masking."""
        begin = time.thread_time()
        for _ in self._upload():
            pass
        return time.thread_time() - begin

    def shares(self) -> float:
        """CPU seconds of the channels to all neighbours, shares dealt and shares received."""
        identity, prekey, entropy = *self._cohort.secrets, SystemEntropy()
        view = open_roster(
            self._roster,
            certificate=identity.certificate,
            bundle=prekey.bundle(identity),
            policy=self._cohort.policy,
            trust=self._trusting,
            now=0,
        )
        begin = time.thread_time()
        channels = channels_of(view, prekey)
        deal(view, prekey, channels, identity=identity, entropy=entropy)
        receive(view, self._request, list(view.bundles), channels, identity=identity)
        return time.thread_time() - begin

    def memory(self) -> int:
        """The most bytes that an upload holds at a time, beside the vector and the session."""
        tracemalloc.start()
        for message in self._upload():
            encode(message)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    def _upload(self) -> Iterator[Message]:
        return self._masked.client.upload(self._roster.sid, self._blocks)

    def _session_s(self, trust: TrustStore) -> float:
        host = self._cohort.device(self._blocks, trust)
        begin = time.thread_time()
        for data in self._cohort.told:
            for _ in host.receive(data):
                pass
        spent = time.thread_time() - begin
        assert host.failure is None and not host.client.stages, "the session did not end well"
        return spent

    def _limit_s(self, verifications: int) -> float:
        streams = 1 + len(self._roster.neighbours)
        encrypting_s = encryption_s(streams * self._cohort.config.layout.words)
        key, statement = Ed25519PrivateKey.generate(), os.urandom(32)
        public, signature = key.public_key(), key.sign(statement)
        begin = time.thread_time()
        for _ in range(verifications):
            public.verify(signature, statement)
        return encrypting_s + time.thread_time() - begin
