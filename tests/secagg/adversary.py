"""A malicious server with the corrupt clients it is in league with, against honest real clients.

The adversary builds every message itself, from real key material, and may tell each client another
story. All that it ever gets, over all sessions and restarts, passes a `Monitor`, which works out
whose secrets can be rebuilt from it and which sums can be opened: tests ask it, not the client,
whether anything leaked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pytest

from fedcore.entropy import SystemEntropy
from fedcore.errors import SecAggError
from fedcore.secagg.assembly import SessionRoster
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.collected import Collected
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.identity import CertificateAuthority, Identity, TrustStore
from fedcore.secagg.keys import Prekey
from fedcore.secagg.loopback import ClientHost, Disk
from fedcore.secagg.messages import (
    Advertise,
    Confirmation,
    MaskRequest,
    Message,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    decode,
    encode,
)
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.policy import Policy
from fedcore.secagg.revealing import confirmation_statement, header_statement
from fedcore.secagg.transcript import bitmap_of, context_digest, survivor_digest
from fedcore.secagg.unmask import accumulate, new_accumulator, total_of, unmask
from tests.secagg.monitor import Monitor
from tests.secagg.picture import picture

__all__ = [
    "CONFIG",
    "EXPIRES",
    "LAYOUT",
    "NOW",
    "POLICY",
    "Session",
    "World",
    "members",
]

NOW, EXPIRES = 1_000, 2**40
LAYOUT = Layout((Block(6, 32, 1000), Block(2, 16, 100)))
CONFIG = SessionConfig(task=bytes(32), layout=LAYOUT, delta=Fraction(1, 4))
POLICY = Policy(roots=())


def members(n: int, these: Iterable[int]) -> npt.NDArray[np.bool_]:
    """A set of clients, (n,) bool."""
    held = set(these)
    return np.array([i in held for i in range(n)], np.bool_)


def certified(
    authority: CertificateAuthority, client_id: bytes, *, expires: int = EXPIRES
) -> Identity:
    """A new identity under an id."""
    return Identity.generate(
        SystemEntropy(), certify=lambda key: authority.issue(client_id, key, expires=expires)
    )


@cache
def registered(n: int) -> tuple[CertificateAuthority, tuple[Identity, ...]]:
    """A registrar and n clients of its, by their ids; no session changes them."""
    authority = CertificateAuthority.generate(SystemEntropy())
    ids = sorted(SystemEntropy().token(16) for _ in range(n))
    return authority, tuple(certified(authority, client_id) for client_id in ids)


class World:
    """Certified clients by their index in a full roster: honest ones, and those in `corrupt`.

    Corrupt clients run the same program, but the adversary knows their secrets and may sign for
    them. `policy`: of every client, with the registrar's root put into it.
    """

    def __init__(
        self, n: int = 8, *, corrupt: Iterable[int] = (), policy: Policy = POLICY, seed: int = 1
    ) -> None:
        self.n, self.corrupt = n, frozenset(corrupt)
        self.authority, identities = registered(n)
        self.identities = list(identities)
        self.ids = [identity.id for identity in identities]
        self.policy = replace(policy, roots=(self.authority.public_key,))
        self.trust = TrustStore(self.policy.roots, self.policy.revoked, remember_signatures=True)
        draw = np.random.default_rng(seed).integers
        self.vectors = [[draw(-9, 9, block.length) for block in LAYOUT.blocks] for _ in self.ids]
        self.hosts = [self._host(i) for i in range(n)]
        self.monitor = Monitor({self.ids[i] for i in self.corrupt})
        self._posted: list[list[Advertise]] = [[] for _ in self.ids]

    def certified(self, client_id: bytes, *, expires: int = EXPIRES) -> Identity:
        """A new identity under an id."""
        return certified(self.authority, client_id, expires=expires)

    def client(self, i: int) -> SecAggClient:
        """The machine of a client, as it runs now."""
        return self.hosts[i].client

    def prekey(self, i: int) -> Advertise:
        """A bundle of client i that served no session yet."""
        if not self._posted[i]:
            for data in self.hosts[i].offer(4, expires=EXPIRES):
                message = decode(data)
                assert isinstance(message, Advertise)
                self._posted[i].append(message)
        return self._posted[i].pop()

    def forged_prekey(
        self, i: int, *, identity: Identity | None = None, **changes: bytes
    ) -> Advertise:
        """A bundle that the corrupt client i signs, with keys of its choice in it."""
        assert i in self.corrupt
        identity = identity or self.identities[i]
        bundle = Prekey.generate(SystemEntropy(), expires=EXPIRES).bundle(identity)
        bundle = replace(bundle, **changes)
        bundle = replace(bundle, signature=identity.sign(bundle.statement(identity.id)))
        return Advertise(identity.certificate.encode(), bundle.encode())

    def send(self, i: int, message: Message) -> list[Message]:
        """Let client i take a message; all that the server gets for it. Raises: what i raises."""
        return self._heard(i, self.hosts[i].receive(encode(message)))

    def restart(self, i: int) -> list[Message]:
        """Let the program of client i start again from its disk."""
        return self._heard(i, self.hosts[i].restart())

    def refused(
        self, i: int, message: Message, error: type[SecAggError], *, stage: str | None = None
    ) -> SecAggError:
        """Assert that client i refuses a message with this very error, and is as it was before.

        The error says what, why, and what to do.
        """
        before = picture(self.client(i)), dict(self.hosts[i].disk)
        with pytest.raises(error) as caught:
            self.send(i, message)
        assert type(caught.value) is error, caught.value
        assert stage is None or caught.value.stage == stage, caught.value
        words = (caught.value.what, caught.value.why, caught.value.fix)
        assert all(words) and "None" not in "".join(words), caught.value
        assert caught.value.stage in {"", "R0", "R1", "R2", "R3", "R4"}, caught.value
        assert (picture(self.client(i)), dict(self.hosts[i].disk)) == before
        return caught.value

    def _heard(self, i: int, messages: Iterator[bytes]) -> list[Message]:
        heard = []
        for data in messages:
            heard.append(decode(data))
            self.monitor.hear(self.ids[i], self.client(i), heard[-1])
        return heard

    def _host(self, i: int) -> ClientHost:
        make: Callable[[], SecAggClient] = partial(
            lambda i: SecAggClient(self.identities[i], self.policy, trust=self.trust), i
        )
        return ClientHost(make, self.vectors[i], disk=Disk(), now=NOW)


@dataclass
class Session:
    """One story of a session, told to the clients in `seats` (their indices in the world).

    The honest story by default, step by step; tests change what a step says, or tell two sessions
    of one sid to different clients. `adverts`: by seat; by default a fresh prekey of each client.
    """

    world: World
    config: SessionConfig = CONFIG
    round: int = 0
    attempt: int = 0
    nonce: bytes = field(default_factory=lambda: SystemEntropy().token(32))
    pulse: bytes = b""
    model: bytes = bytes(32)
    seats: Sequence[int] = ()
    adverts: Sequence[Advertise] = ()

    def __post_init__(self) -> None:
        self.seats = list(self.seats) or list(range(self.world.n))
        self.adverts = self.adverts or [self.world.prekey(i) for i in self.seats]
        self.roster = SessionRoster(
            self.config, self.round, self.attempt, self.nonce, self.pulse, tuple(self.adverts)
        )
        self.known = Collected(self.roster, self.model)
        self.uploads: dict[int, dict[int, bytes]] = {}

    @property
    def n(self) -> int:
        """The number of seats."""
        return self.roster.n

    @property
    def sid(self) -> bytes:
        """The name of the session."""
        return self.roster.sid

    def send(self, seat: int, message: Message) -> list[Message]:
        """Let the client at a seat take a message, and keep what it answers."""
        heard = self.world.send(self.seats[seat], message)
        for answer in heard:
            self.keep(seat, answer)
        return heard

    def keep(self, seat: int, answer: Message) -> None:
        """Take a message of the client at a seat into the server's memory."""
        if isinstance(answer, UploadChunk):
            self.uploads.setdefault(seat, {})[answer.offset] = answer.data
        elif type(answer) in self.known.boxes:
            self.known.of(type(answer))[seat] = answer

    def refused(
        self, seat: int, message: Message, error: type[SecAggError], *, stage: str | None = None
    ) -> SecAggError:
        """Assert that the client at a seat refuses a message, and is as it was before."""
        return self.world.refused(self.seats[seat], message, error, stage=stage)

    def deal(self, seats: Iterable[int] | None = None) -> None:
        """Tell the roster; each client deals its shares."""
        for seat in self._all(seats):
            self.send(seat, self.roster.message_for(seat))

    def mask(self, seats: Iterable[int] | None = None) -> None:
        """Tell U1, all that dealt shares unless it is set already; each client uploads."""
        if self.known.uploaders is None:
            self.known.uploaders = self.known.senders(Shares)
        for seat in self._all(seats, self.known.uploaders):
            self.send(seat, self.mask_request(seat))

    def confirm(self, seats: Iterable[int] | None = None) -> None:
        """Tell U, all that uploaded unless it is set already; each client confirms it."""
        if self.known.survivors is None:
            self.known.survivors = members(self.n, self.uploads)
        for seat in self._all(seats, self.known.survivors):
            self.send(seat, self.survivors(seat, np.flatnonzero(self.known.survivors).tolist()))

    def answer(self, seats: Iterable[int] | None = None) -> None:
        """Show the quorum; each client reveals its part."""
        assert self.known.survivors is not None
        request = self.unmask_request(np.flatnonzero(self.known.survivors).tolist())
        for seat in self._all(seats, self.known.survivors):
            self.send(seat, request)

    def mask_request(self, seat: int, uploaders: Iterable[int] | None = None) -> MaskRequest:
        """The MaskRequest of a seat, for the set U1 that was frozen or for another."""
        frozen = self.known.uploaders
        self.known.uploaders = frozen if uploaders is None else members(self.n, uploaders)
        request = self.known.mask_request(seat)
        self.known.uploaders = frozen
        return request

    def survivors(self, seat: int, survivors: Iterable[int]) -> Survivors:
        """U for a seat, with those header signatures that the server has or can forge."""
        told = members(self.n, survivors)
        signatures = [self._header(j) for j in self.roster.neighbours_in(seat, told)]
        return Survivors(self.sid, bitmap_of(told), b"".join(signatures))

    def opened(self, survivors: Iterable[int]) -> bytes:
        """T for a set of survivors."""
        return survivor_digest(self.known.context, bitmap_of(members(self.n, survivors)))

    def context(self, uploaders: Iterable[int], *, model: bytes | None = None) -> bytes:
        """H_ctx for a set of uploaders."""
        return context_digest(
            sid=self.sid,
            root=self.roster.root,
            bitmap=bitmap_of(members(self.n, uploaders)),
            model_digest=self.model if model is None else model,
            config_digest=self.config.digest,
        )

    def confirmation_of(self, seat: int, survivors: Iterable[int]) -> bytes:
        """The signature with which a corrupt client confirms any set."""
        world_index = self.seats[seat]
        assert world_index in self.world.corrupt
        signed = confirmation_statement(self.opened(survivors))
        return self.world.identities[world_index].sign(signed)

    def unmask_request(
        self, survivors: Iterable[int], *, signatures: Mapping[int, bytes] | None = None
    ) -> UnmaskRequest:
        """U with the confirmations that were given for it, and `signatures` beside them."""
        survivors = list(survivors)
        opened = self.opened(survivors)
        shown = {
            seat: confirmation.signature
            for seat, confirmation in self.known.of(Confirmation).items()
            if confirmation.digest == opened
        } | dict(signatures or {})
        return UnmaskRequest(
            self.sid,
            bitmap_of(members(self.n, survivors)),
            tuple(sorted(shown)),
            b"".join(shown[seat] for seat in sorted(shown)),
        )

    def total(self) -> list[npt.NDArray[np.int64]]:
        """The sums that the server gets from what the survivors answered."""
        assert self.known.survivors is not None
        layout = self.config.layout
        accumulator = new_accumulator(layout)
        for seat in np.flatnonzero(self.known.survivors).tolist():
            for offset, data in self.uploads[seat].items():
                accumulate(accumulator, layout, offset, data)
        unmask(accumulator, self.known.opening.plan(self.known.of(UnmaskAnswer)))
        return list(total_of(accumulator, layout))

    def expected(self, seats: Iterable[int]) -> list[npt.NDArray[np.int64]]:
        """The sums of the vectors of these seats."""
        vectors = [self.world.vectors[self.seats[seat]] for seat in seats]
        return [np.sum(block, axis=0) for block in zip(*vectors, strict=True)]

    def assert_sum(self, seats: Iterable[int]) -> None:
        """The server gets the exact sum of these seats, and nothing besides it."""
        seats = sorted(seats)
        for found, wanted in zip(self.total(), self.expected(seats), strict=True):
            np.testing.assert_array_equal(found, wanted)
        self.world.monitor.check()

    def _header(self, seat: int) -> bytes:
        if self.seats[seat] in self.world.corrupt:
            signed = header_statement(self.known.context, seat)
            return self.world.identities[self.seats[seat]].sign(signed)
        header = self.known.of(UploadHeader).get(seat)
        return bytes(64) if header is None else header.signature

    def _all(
        self, seats: Iterable[int] | None, default: npt.NDArray[np.bool_] | None = None
    ) -> list[int]:
        if seats is not None:
            return list(seats)
        return list(range(self.n)) if default is None else np.flatnonzero(default).tolist()
