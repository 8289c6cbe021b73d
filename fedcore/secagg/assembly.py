"""A session's roster as the server assembles it: who takes part, with which keys, in what ring."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedcore.errors import MessageError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.graph import Graph, build_graph
from fedcore.secagg.identity import Certificate
from fedcore.secagg.keys import KeySchedule, PrekeyBundle
from fedcore.secagg.messages import Advertise, Roster
from fedcore.secagg.params import Parameters
from fedcore.secagg.transcript import MerkleTree, leaf_digest, roster_root, session_id

__all__ = ["SessionRoster"]

_HEAD = struct.Struct("<QI32sHHI")
_CERTIFICATE_BYTES, _BUNDLE_BYTES = 120, 176
_MEMBER_BYTES = _CERTIFICATE_BYTES + _BUNDLE_BYTES


@dataclass(frozen=True)
class SessionRoster:
    """A frozen roster: `members` are the advertisements in order of their 16-byte ids."""

    config: SessionConfig
    round: int
    attempt: int
    nonce: bytes
    pulse: bytes
    members: tuple[Advertise, ...]

    @property
    def n(self) -> int:
        """The number of clients."""
        return len(self.members)

    @cached_property
    def parameters(self) -> Parameters:
        """Raises: ParameterError or PackingError if so many clients cannot be aggregated so."""
        return self.config.parameters(self.n)

    @cached_property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates by index."""
        return tuple(Certificate.decode(member.certificate) for member in self.members)

    @cached_property
    def bundles(self) -> tuple[PrekeyBundle, ...]:
        """The prekey bundles by index."""
        return tuple(PrekeyBundle.decode(member.bundle) for member in self.members)

    @cached_property
    def indices(self) -> Mapping[bytes, int]:
        """The index of each id."""
        return {certificate.id: i for i, certificate in enumerate(self.certificates)}

    @cached_property
    def sid(self) -> bytes:
        """The name of the session."""
        return session_id(
            task=self.config.task,
            round=self.round,
            attempt=self.attempt,
            nonce=self.nonce,
            config_digest=self.config.digest,
        )

    @cached_property
    def root(self) -> bytes:
        """The digest of the whole roster."""
        return roster_root(
            certificates=self._all_certificates,
            merkle_root=self._tree.root,
            pulse=self.pulse,
            n=self.n,
        )

    @cached_property
    def graph(self) -> Graph:
        """Who is whose neighbour."""
        parameters = self.parameters
        return build_graph(
            self.root, self.n, degree=parameters.degree, complete=parameters.complete
        )

    @property
    def schedule(self) -> KeySchedule:
        """The keys of this session."""
        return KeySchedule(self.sid, self.root, self.config.prg)

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The neighbours of each client, ascending."""
        return tuple(tuple(self.graph.neighbours(i).tolist()) for i in range(self.n))

    def neighbours_in(self, i: int, members: npt.NDArray[np.bool_]) -> list[int]:
        """The neighbours of client i that `members` (n,) holds, ascending."""
        return [j for j in self.neighbours[i] if members[j]]

    def message_for(self, i: int) -> Roster:
        """The roster as client i is told it."""
        return Roster(
            sid=self.sid,
            round=self.round,
            attempt=self.attempt,
            nonce=self.nonce,
            config=self.config.encoded,
            pulse=self.pulse,
            n=self.n,
            index=i,
            pid=self.bundles[i].pid,
            certificates=self._all_certificates,
            path=self._paths[i],
            neighbours=tuple((self.members[j].bundle, self._paths[j]) for j in self.neighbours[i]),
        )

    def encode(self) -> bytes:
        """All of it, to be made durable before any client is told."""
        config = self.config.encoded
        head = _HEAD.pack(
            self.round, self.attempt, self.nonce, len(config), len(self.pulse), self.n
        )
        members = b"".join(member.certificate + member.bundle for member in self.members)
        return head + config + self.pulse + members

    @classmethod
    def decode(cls, data: bytes) -> SessionRoster:
        """What `encode` gave. Raises: MessageError."""
        if len(data) < _HEAD.size:
            raise _damaged()
        round, attempt, nonce, config_bytes, pulse_bytes, n = _HEAD.unpack_from(data)
        start = _HEAD.size + config_bytes
        first = start + pulse_bytes
        if len(data) != first + n * _MEMBER_BYTES:
            raise _damaged()
        members = (data[at : at + _MEMBER_BYTES] for at in range(first, len(data), _MEMBER_BYTES))
        return cls(
            config=SessionConfig.decode(data[_HEAD.size : start]),
            round=round,
            attempt=attempt,
            nonce=nonce,
            pulse=data[start:first],
            members=tuple(
                Advertise(member[:_CERTIFICATE_BYTES], member[_CERTIFICATE_BYTES:])
                for member in members
            ),
        )

    @cached_property
    def _all_certificates(self) -> bytes:
        return b"".join(member.certificate for member in self.members)

    @cached_property
    def _tree(self) -> MerkleTree:
        return MerkleTree(
            [
                leaf_digest(i, certificate.id, member.bundle)
                for i, (certificate, member) in enumerate(
                    zip(self.certificates, self.members, strict=True)
                )
            ]
        )

    @cached_property
    def _paths(self) -> tuple[bytes, ...]:
        return tuple(self._tree.path(i) for i in range(self.n))


def _damaged() -> MessageError:
    return MessageError(
        "the record of a roster is damaged",
        why="its length is not that of what it says it holds",
        fix="restore the server's records from where they were written last",
    )
