"""What a client believes of a session's roster, and the checks after which it believes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcore.errors import AuthenticationError, ConsistencyError, MessageError, PolicyError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.graph import Graph, build_graph
from fedcore.secagg.identity import Certificate, TrustStore
from fedcore.secagg.keys import KeySchedule, PrekeyBundle
from fedcore.secagg.messages import Roster
from fedcore.secagg.params import Parameters
from fedcore.secagg.policy import Policy
from fedcore.secagg.transcript import (
    leaf_digest,
    members_of,
    path_depth,
    root_of_path,
    roster_root,
    session_id,
)

__all__ = ["RosterView", "open_roster"]

_STAGE = "R1"


@dataclass(frozen=True)
class RosterView:
    """A verified roster, seen by the client at `index`.

    `bundles`: the keys of its neighbours by their index, in ascending order.
    """

    sid: bytes
    root: bytes
    round: int
    config: SessionConfig
    parameters: Parameters
    graph: Graph
    index: int
    certificates: tuple[Certificate, ...]
    bundles: Mapping[int, PrekeyBundle]

    @property
    def schedule(self) -> KeySchedule:
        """The keys of this session."""
        return KeySchedule(self.sid, self.root, self.config.prg)

    def neighbours_in(self, members: npt.NDArray[np.bool_]) -> list[int]:
        """The neighbours that `members` (n,) holds, ascending."""
        return [j for j in self.bundles if members[j]]

    def check_survivors(
        self, bitmap: bytes, uploaders: npt.NDArray[np.bool_], *, stage: str
    ) -> npt.NDArray[np.bool_]:
        """The survivors (n,) of `bitmap`, if revealing their sum reveals nothing else.

        Raises: MessageError if the bitmap is malformed; ConsistencyError if a survivor was not an
        uploader, this client is none of them, they are too few, or a window of the ring holds
        too few of them.
        """
        survivors = members_of(bitmap, self.parameters.n)
        found = int(survivors.sum())
        for sound, what, why in (
            (
                not (survivors & ~uploaders).any(),
                "the survivors contain a client that was no uploader",
                "its neighbours did not mask their vectors with it",
            ),
            (
                survivors[self.index],
                "the survivors do not contain this client",
                "it helps to open only a sum that it is part of",
            ),
            (
                found >= self.parameters.minimum_survivors,
                f"only {found} clients survive",
                f"a sum of fewer than {self.parameters.minimum_survivors} is not opened",
            ),
            (
                self.graph.windows_hold(survivors, self.parameters.window),
                "a stretch of the ring holds too few survivors",
                f"each window must hold {self.parameters.window}, or their masks may fall apart",
            ),
        ):
            if not sound:
                raise ConsistencyError(
                    what, why=why, fix="the server must abandon this session", stage=stage
                )
        return survivors


def open_roster(
    roster: Roster,
    *,
    certificate: Certificate,
    bundle: PrekeyBundle,
    policy: Policy,
    trust: TrustStore,
    now: int,
) -> RosterView:
    """Verify all of `roster` for the client with this certificate, whose prekey `bundle` it uses.

    Raises: PolicyError, ParameterError, PackingError, MessageError, AuthenticationError or
    ConsistencyError, before anything is kept.
    """
    config = SessionConfig.decode(roster.config)
    policy.check(config, roster.n)
    parameters = config.parameters(roster.n)
    if roster.sid != session_id(
        task=config.task,
        round=roster.round,
        attempt=roster.attempt,
        nonce=roster.nonce,
        config_digest=config.digest,
    ):
        raise _inconsistent("the session's name does not come from its terms")
    if len(roster.neighbours) != parameters.degree:
        raise _inconsistent(f"{len(roster.neighbours)} neighbours for degree {parameters.degree}")
    if not 0 <= roster.index < roster.n or len(roster.path) != 32 * path_depth(roster.n):
        raise MessageError(
            "the roster gives this client no place",
            why=f"index {roster.index} of {roster.n}, a path of {len(roster.path)} bytes",
            fix="send the index and path of the recipient",
            stage=_STAGE,
        )
    certificates = tuple(trust.verify_roster(roster.certificates, now=now))
    own = certificates[roster.index]
    # One from before a renewal is as good: prekeys were posted with it.
    if (own.id, own.key) != (certificate.id, certificate.key):
        raise _inconsistent("the certificate at this client's index is not its own")
    leaf = leaf_digest(roster.index, certificate.id, bundle.encode())
    merkle_root = root_of_path(leaf, roster.index, roster.path)
    root = roster_root(
        certificates=roster.certificates, merkle_root=merkle_root, pulse=roster.pulse, n=roster.n
    )
    _check_beacon(roster, config, policy, merkle_root)
    graph = build_graph(root, roster.n, degree=parameters.degree, complete=parameters.complete)
    bundles = {}
    for j, (encoded, path) in zip(
        graph.neighbours(roster.index).tolist(), roster.neighbours, strict=True
    ):
        leaf = leaf_digest(j, certificates[j].id, encoded)
        if len(path) != len(roster.path) or root_of_path(leaf, j, path) != merkle_root:
            raise _inconsistent(f"the keys of client {j} are not those of the roster's root")
        bundles[j] = PrekeyBundle.decode(encoded)
        bundles[j].verify(certificates[j], trust)
    return RosterView(
        sid=roster.sid,
        root=root,
        round=roster.round,
        config=config,
        parameters=parameters,
        graph=graph,
        index=roster.index,
        certificates=certificates,
        bundles=bundles,
    )


def _check_beacon(
    roster: Roster, config: SessionConfig, policy: Policy, merkle_root: bytes
) -> None:
    if not config.beacon:
        if roster.pulse:
            raise _inconsistent("there is a pulse, and the configuration names no beacon")
        return
    published = roster_root(
        certificates=roster.certificates, merkle_root=merkle_root, pulse=b"", n=roster.n
    )
    if policy.beacon is None:
        raise PolicyError(
            f"the ring is seeded by the beacon {config.beacon!r}",
            why="this client's policy trusts no beacon",
            fix="leave the beacon out, with sigma 100",
            stage=_STAGE,
        )
    if not roster.pulse or not policy.beacon(config.beacon, roster.pulse, published):
        raise AuthenticationError(
            "the pulse that seeds the ring is not the beacon's",
            why=f"the policy's check of {config.beacon!r} refused it",
            fix="send a pulse that was issued after this roster was published",
            stage=_STAGE,
        )


def _inconsistent(what: str) -> ConsistencyError:
    return ConsistencyError(
        f"roster: {what}",
        why="parts of the message contradict each other",
        fix="the server must build the roster from what the clients posted",
        stage=_STAGE,
    )
