"""A thousand clients up to any stage of a session, in seconds: its server is real, they are brief.

What they sign and deal is made by the functions that a client runs, from their own secrets. What
nobody looks at is left out: the checks of a thousand rosters, the vectors and their masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import numpy.typing as npt

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Effect, Erase, Persist, Send
from fedcore.secagg.identity import Certificate, CertificateAuthority, Identity, TrustStore
from fedcore.secagg.keys import Channel, Prekey
from fedcore.secagg.loopback import ClientHost, Disk
from fedcore.secagg.masking import mask_streams
from fedcore.secagg.messages import (
    Advertise,
    Confirmation,
    Message,
    UnmaskAnswer,
    UploadHeader,
    UploadTrailer,
    encode,
)
from fedcore.secagg.packing import Block, IntegerSource, Layout, pack
from fedcore.secagg.policy import Policy
from fedcore.secagg.prg import apply_streams
from fedcore.secagg.records import prekey_key
from fedcore.secagg.revealing import confirmation_statement, header_statement, reveal
from fedcore.secagg.roster import RosterView
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.sharing import HeldShare, deal
from fedcore.secagg.stages import Stage
from fedcore.secagg.transcript import bitmap_of, context_digest, survivor_digest

__all__ = ["CHECKED_WORDS", "COORDINATES", "SecAggCohort", "layout_of", "session_config"]

COORDINATES = 1_000_000
CHECKED_WORDS = 64

_NOW, _EXPIRES = 0, 2**40
_BEACON, _PULSE = "benchmark", bytes(32)
_MODEL = bytes(32)


def layout_of(slot_bits: int, clients: int) -> Layout:
    """A million integers that `clients` can add up in slots of so many bits."""
    return Layout((Block(COORDINATES, slot_bits, (2 ** (slot_bits - 1) - 1) // clients),))


def session_config(
    slot_bits: int,
    clients: int,
    *,
    gamma: Fraction = Fraction(1, 10),
    delta: Fraction = Fraction(1, 10),
) -> SessionConfig:
    """Against a malicious server, with σ = 40, for a beacon draws the ring."""
    return SessionConfig(
        task=bytes(32),
        layout=layout_of(slot_bits, clients),
        gamma=gamma,
        delta=delta,
        sigma=40,
        beacon=_BEACON,
    )


class _Handover(Channel):
    """A channel that leaves a share with its holder as it is, which costs no key exchange."""

    __slots__ = ("_held", "_sharer")

    def __init__(self, held: dict[int, HeldShare], sharer: int) -> None:
        self._held, self._sharer = held, sharer

    def seal(self, plaintext: bytes, entropy: Entropy) -> bytes:
        self._held[self._sharer] = HeldShare(plaintext[:36], plaintext[36:])
        return bytes(100)


@dataclass(frozen=True)
class _Member:
    identity: Identity
    prekey: Prekey
    held: dict[int, HeldShare]


class SecAggCohort:
    """One session of `n` clients; the methods take it from stage to stage.

    `watched`: the index of the client whose shares are sealed for it as by real neighbours, and
    whose messages `told` keeps; None for none. `disk`: what the server has made durable.
    """

    def __init__(self, n: int, config: SessionConfig, *, watched: int | None = None) -> None:
        self.config, self._watched, self._entropy = config, watched, SystemEntropy()
        authority = CertificateAuthority.generate(self._entropy)
        self.trust = TrustStore([authority.public_key], remember_signatures=True)
        self.policy = Policy(
            roots=(authority.public_key,), beacon=lambda name, pulse, roster: pulse == _PULSE
        )
        members = []
        for _ in range(n):
            certify = partial(_certified, authority, self._entropy.token(16))
            identity = Identity.generate(self._entropy, certify=certify)
            members.append(_Member(identity, Prekey.generate(self._entropy, expires=_EXPIRES), {}))
        self._members = sorted(members, key=lambda member: member.identity.id)
        self.disk = Disk()
        self.told: list[bytes] = []
        self.server = SecAggServer(config, model_digest=_MODEL, round=0, trust=self.trust, now=_NOW)
        for member in self._members:
            certificate = member.identity.certificate.encode()
            bundle = member.prekey.bundle(member.identity).encode()
            self._give(member, Advertise(certificate, bundle))
        self._perform(self.server.close(Stage.PREKEYS, pulse=_PULSE))
        roster = self.server.roster
        self._views = [
            RosterView(
                sid=roster.sid,
                root=roster.root,
                round=roster.round,
                config=roster.config,
                parameters=roster.parameters,
                graph=roster.graph,
                index=i,
                certificates=roster.certificates,
                bundles={j: roster.bundles[j] for j in roster.neighbours[i]},
            )
            for i in range(n)
        ]

    def deal(self) -> None:
        """Every client deals its shares; all of them become uploaders."""
        for view, member in zip(self._views, self._members, strict=True):
            channels = {j: self._channel(view, member, j) for j in view.bundles}
            shares = deal(
                view, member.prekey, channels, identity=member.identity, entropy=self._entropy
            )
            self._give(member, shares)
        self._perform(self.server.close(Stage.SHARES))

    def upload(self, *, lost: Sequence[int] = ()) -> None:
        """All but the `lost` upload, without sending a vector; they become the survivors."""
        sid, context, size = self.server.roster.sid, self._context, self.config.layout.upload_bytes
        received = bytes(32)
        for i, member in enumerate(self._members):
            if i not in lost:
                signature = member.identity.sign(header_statement(context, i))
                self._give(member, UploadHeader(sid, context, size, signature))
                effects = self.server.finish_upload(
                    member.identity.id,
                    UploadTrailer(sid, received),
                    received=received,
                    length=size,
                )
                self._perform(effects)
        self._perform(self.server.close(Stage.UPLOADS))

    def confirm(self) -> None:
        """Every survivor signs the one set, and a quorum of them is shown to all."""
        opened = survivor_digest(self._context, bitmap_of(self._survivors))
        for i in np.flatnonzero(self._survivors).tolist():
            member = self._members[i]
            signature = member.identity.sign(confirmation_statement(opened))
            self._give(member, Confirmation(self.server.roster.sid, opened, signature))
        self._perform(self.server.close(Stage.CONFIRMATIONS))

    def answers(self, *, lost: Sequence[int] = ()) -> dict[bytes, UnmaskAnswer]:
        """The answer of every survivor but the `lost`, by its id."""
        survivors = self._survivors
        return {
            member.identity.id: reveal(
                view,
                member.prekey,
                member.held,
                uploaders=np.ones(len(survivors), bool),
                survivors=survivors,
            )
            for i, (view, member) in enumerate(zip(self._views, self._members, strict=True))
            if survivors[i] and i not in lost
        }

    def masked(self, total: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """An accumulator whose first words hold `total` under the masks of all survivors.

        The others hold it bare: a few words show whether the right masks are taken off. `total`:
        (COORDINATES,), within the limit of one client.
        """
        (block,) = self.config.layout.blocks
        words = pack(block, total, 0, block.words)
        everyone = np.ones(len(self._members), bool)
        for i in np.flatnonzero(self._survivors):
            streams = mask_streams(self._views[i], self._members[i].prekey, everyone)
            apply_streams(words[:CHECKED_WORDS], streams, prg=self.config.prg)
        return words

    @property
    def secrets(self) -> tuple[Identity, Prekey]:
        """What the watched client has of its own."""
        assert self._watched is not None
        member = self._members[self._watched]
        return member.identity, member.prekey

    def device(self, blocks: Sequence[IntegerSource], trust: TrustStore) -> ClientHost:
        """The watched client's program, started anew as it stood before the roster came."""
        identity, prekey = self.secrets
        disk = Disk({prekey_key(prekey.pid): prekey.encode()})
        make = partial(SecAggClient, identity, self.policy, trust=trust)
        host = ClientHost(make, blocks, disk=disk, now=_NOW)
        list(host.restart())
        return host

    @property
    def _survivors(self) -> npt.NDArray[np.bool_]:
        ids = self.server.survivors
        return np.array([member.identity.id in ids for member in self._members])

    @property
    def _context(self) -> bytes:
        roster = self.server.roster
        return context_digest(
            sid=roster.sid,
            root=roster.root,
            bitmap=bitmap_of(np.ones(roster.n, bool)),
            model_digest=_MODEL,
            config_digest=roster.config.digest,
        )

    def _channel(self, view: RosterView, sharer: _Member, holder: int) -> Channel:
        if holder == self._watched:
            key = view.bundles[holder].channel_key
            return view.schedule.channel(sharer.prekey.channel_private, key, view.index, holder)
        return _Handover(self._members[holder].held, view.index)

    def _give(self, member: _Member, message: Message) -> None:
        self._perform(self.server.handle(member.identity.id, message))

    def _perform(self, effects: Sequence[Effect]) -> None:
        watched = None if self._watched is None else self._members[self._watched].identity.id
        for effect in effects:
            if isinstance(effect, Persist | Erase):
                self.disk.perform(effect)
            elif isinstance(effect, Send) and effect.to == watched:
                self.told.append(encode(effect.message))


def _certified(authority: CertificateAuthority, client_id: bytes, key: bytes) -> Certificate:
    return authority.issue(client_id, key, expires=_EXPIRES)
