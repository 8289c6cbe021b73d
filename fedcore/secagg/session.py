"""A whole secure aggregation in one call: for tests, benchmarks and simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import ArgumentError, PackingError, SecAggError
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.identity import Certificate, CertificateAuthority, Identity, TrustStore
from fedcore.secagg.loopback import (
    ClientHost,
    Disk,
    Loopback,
    LostAt,
    ServerHost,
    check_count,
    unmask_in_threads,
)
from fedcore.secagg.masking import frame_digests
from fedcore.secagg.packing import Block, IntegerSource, Layout
from fedcore.secagg.params import LARGEST_SESSION, Parameters, Profile
from fedcore.secagg.policy import Policy
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import total_of

__all__ = ["SessionResult", "default_layout", "make_loopback", "run_session", "shards"]

_NOW, _EXPIRES = 0, 2**40
_LENIENT = Policy(
    roots=(),
    smallest_cohort=2,
    profile=Profile.SEMI_HONEST,
    gamma_floor=Fraction(0),
    sigma_floor=1,
    delta_ceiling=Fraction(1),
)


@dataclass(frozen=True)
class SessionResult:
    """What came out of a session.

    `totals`: for each block the sums (length,) int64. `survivors`: the positions of the clients
    whose vectors are in them. `parameters`: of each shard's session. `claim`: what may be said of
    the protection, in these words.
    """

    totals: tuple[npt.NDArray[np.int64], ...]
    survivors: tuple[int, ...]
    parameters: tuple[Parameters, ...]
    claim: str


def default_layout(length: int, clients: int) -> Layout:
    """One block of so many integers: 32-bit slots for up to 64 clients, 21-bit slots beyond.

    Raises: ArgumentError without clients; PackingError without integers.

    >>> default_layout(10, 14).blocks[0].limit
    153391689
    """
    check_count("clients", clients, 1)
    bits = 32 if clients <= 64 else 21
    return Layout((Block(length, bits, (2 ** (bits - 1) - 1) // clients),))


def shards(clients: int, *, largest: int = LARGEST_SESSION) -> list[range]:
    """The positions of `clients` as the fewest sessions of at most `largest`, of nearly one size.

    The server sees the sum of each shard, so what is promised of a cohort holds for a shard.
    Raises: ArgumentError without clients, or for a `largest` that no session may have.

    >>> shards(2500)
    [range(0, 833), range(833, 1666), range(1666, 2500)]
    """
    check_count("clients", clients, 1)
    check_count("largest", largest, 2, LARGEST_SESSION)
    count = -(-clients // largest)
    return [range(clients * i // count, clients * (i + 1) // count) for i in range(count)]


def run_session(
    vectors: Sequence[Sequence[IntegerSource] | npt.NDArray[np.integer]],
    *,
    dropouts: Mapping[int, LostAt] | None = None,
    profile: Profile = Profile.MALICIOUS,
    gamma: Fraction | int = Fraction(1, 10),
    delta: Fraction | int = Fraction(1, 10),
    config: SessionConfig | None = None,
    largest: int = LARGEST_SESSION,
    threads: int = 1,
    entropy: Entropy | None = None,
) -> SessionResult:
    """Aggregate the clients' integer vectors in one process, through the real protocol.

    `vectors`: for each client an array (d,), or one array for each block of `config`'s layout.
    `dropouts`: at which point which client is lost, by its position. `config` overrides `profile`,
    `gamma` and `delta`. More than `largest` clients are split into shards.
    Raises: PackingError, ParameterError or ArgumentError for what cannot be a session, before it
    begins; AbortError or another SecAggError if one ends without a sum.

    >>> vectors = np.array([[1, -2], [10, 20], [100, 200], [1000, 2000], [5, 5]])
    >>> result = run_session(vectors, delta=Fraction(1, 5), dropouts={4: LostAt.UPLOAD})
    >>> result.totals[0], result.survivors
    (array([1111, 2218]), (0, 1, 2, 3))
    """
    blocks = _blocks_of(vectors)
    check_count("threads", threads, 1)
    _check_dropouts(dropouts, len(blocks))
    parts = shards(len(blocks), largest=largest)
    config = config or SessionConfig(
        task=bytes(32),
        layout=default_layout(len(blocks[0][0]), max(len(part) for part in parts)),
        profile=profile,
        gamma=gamma,
        delta=delta,
        sigma=100 if profile is Profile.MALICIOUS else 40,
    )
    for size in sorted({len(part) for part in parts}):
        config.parameters(size)
    _check_total(config.layout, len(blocks))
    for position, vector in enumerate(blocks):
        _check_vector(position, vector, config.layout)
    results = []
    for number, part in enumerate(parts, 1):
        lost = {i - part.start: at for i, at in (dropouts or {}).items() if i in part}
        loopback, ids = make_loopback(
            config, blocks[part.start : part.stop], dropouts=lost, entropy=entropy
        )
        try:
            results.append(_aggregate(loopback, ids, part.start, threads=threads))
        except SecAggError as error:
            if len(parts) == 1:
                raise
            raise _of_shard(error, f"shard {number} of {len(parts)}", part) from error
    return SessionResult(
        totals=tuple(
            np.sum(totals, axis=0)
            for totals in zip(*[result.totals for result in results], strict=True)
        ),
        survivors=tuple(i for result in results for i in result.survivors),
        parameters=tuple(result.parameters[0] for result in results),
        claim=config.profile.claim,
    )


def make_loopback(
    config: SessionConfig,
    blocks: Sequence[Sequence[IntegerSource]],
    *,
    dropouts: Mapping[int, LostAt] | None = None,
    policy: Policy | None = None,
    model_digest: bytes = bytes(32),
    round: int = 0,
    entropy: Entropy | None = None,
) -> tuple[Loopback, list[bytes]]:
    """Certified clients and a server, connected, with nothing sent yet; and the clients' ids.

    `dropouts`: at which point which client is lost, by its position in `blocks`. `policy`: of every
    client, with the registrar's root put into it; by default one that takes any configuration.
    Raises: ArgumentError for drop-outs that would lose nobody.
    """
    _check_dropouts(dropouts, len(blocks))
    entropy = entropy or SystemEntropy()
    authority = CertificateAuthority.generate(entropy)
    policy = replace(policy or _LENIENT, roots=(authority.public_key,))
    trust = TrustStore(policy.roots, policy.revoked, remember_signatures=True)
    server = SecAggServer(
        config, model_digest=model_digest, round=round, trust=trust, now=_NOW, entropy=entropy
    )
    hosts: dict[bytes, ClientHost] = {}
    for position, vector in enumerate(blocks):
        client_id = entropy.token(16)
        identity = Identity.generate(entropy, certify=partial(_certify, authority, client_id))
        make = partial(SecAggClient, identity, policy, entropy=entropy, trust=trust)
        hosts[client_id] = ClientHost(
            make, vector, disk=Disk(), lost_at=(dropouts or {}).get(position), now=_NOW
        )
    host = ServerHost(server, config.layout, disk=Disk(), trust=trust)
    return Loopback(host, hosts), list(hosts)


def _check_dropouts(dropouts: Mapping[int, LostAt] | None, clients: int) -> None:
    if dropouts is None:
        return
    if not isinstance(dropouts, Mapping):
        raise ArgumentError(
            f"dropouts is a {type(dropouts).__name__}",
            why="it says of each lost client where it is lost",
            fix="pass a mapping such as {4: LostAt.UPLOAD}",
        )
    for position, at in dropouts.items():
        whole = isinstance(position, int | np.integer) and not isinstance(position, bool)
        if not whole or not 0 <= position < clients:
            raise ArgumentError(
                f"client {position!r} cannot be lost: there is none",
                why=f"the clients are called by their positions, 0 to {clients - 1}",
                fix="use the position of a vector as the key",
            )
        if not isinstance(at, LostAt):
            raise ArgumentError(
                f"client {position} cannot be lost at {at!r}",
                why="a client is lost at one of the points of LostAt",
                fix=f"pass one of {', '.join(f'LostAt.{point.name}' for point in LostAt)}",
            )


def _blocks_of(
    vectors: Sequence[Sequence[IntegerSource] | npt.NDArray[np.integer]],
) -> list[list[IntegerSource]]:
    """The blocks of each client's vector; a plain list of integers is one block."""
    if not _is_sequence(vectors):
        raise PackingError(
            f"an object of type {type(vectors).__name__} is no sequence of vectors",
            why="the vectors are counted before the first is sent, and each is read twice",
            fix="pass an array (clients, integers), or a list: list(vectors) if they are generated",
        )
    if not len(vectors):
        raise PackingError(
            "there are no vectors to add up",
            why="a session adds up one vector of each client",
            fix="pass a sequence of arrays of integers, or an array (clients, integers)",
        )
    return [_blocks_of_one(position, vector) for position, vector in enumerate(vectors)]


def _blocks_of_one(position: int, vector: Any) -> list[IntegerSource]:
    if isinstance(vector, np.ndarray):
        blocks = [vector]
    elif _is_sequence(vector) and len(vector):
        blocks = [vector] if isinstance(vector[0], Number) else vector
    elif _is_source(vector):
        raise _unfit(
            position,
            f"an object of type {type(vector).__name__} is no list of blocks",
            "each block of the layout has a source of its own",
            "pass [source] for a client whose integers are one block",
        )
    else:
        raise _no_integers(position, vector)
    return [_block_of(position, block) for block in blocks]


def _block_of(position: int, block: Any) -> IntegerSource:
    if _is_sequence(block) and len(block) and isinstance(block[0], Number):
        try:
            block = np.asanyarray(block)
        except ValueError as error:
            raise _unfit(position, "a list is ragged", "a block has one axis") from error
    if not (_is_sequence(block) or _is_source(block)):
        raise _no_integers(position, block)
    if not len(block):
        raise _unfit(position, "a block has no integers", "a block holds at least one")
    return block  # type: ignore[no-any-return]


def _is_sequence(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_source(value: object) -> bool:
    """Whether it may make slices when asked; what it makes is seen when it is packed."""
    may = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return may and not isinstance(value, Sequence | Mapping | np.ndarray)


def _check_total(layout: Layout, clients: int) -> None:
    """The shards' sums are added up beyond their slots, in 64 bits."""
    for block in layout.blocks:
        if not block.wraps and clients * block.limit >= 2**63:
            raise PackingError(
                f"the sum of {clients} clients may not fit into 64 bits",
                why=f"each of them may give as much as {block.limit}",
                fix="lower the limit of the block",
            )


def _check_vector(position: int, vector: Sequence[IntegerSource], layout: Layout) -> None:
    """Here the caller can still mend it; in a session that client would be lost."""
    try:
        frame_digests(layout, vector)
    except PackingError as error:
        raise _unfit(position, error.what, error.why, error.fix) from error


def _unfit(position: int, what: str, why: str, fix: str = "") -> PackingError:
    return PackingError(
        f"the vector of client {position} cannot be sent: {what}",
        why=why,
        fix=fix or "give one array of integers for each block of the layout",
    )


def _no_integers(position: int, found: object) -> PackingError:
    return _unfit(
        position, f"an object of type {type(found).__name__}", "it holds no arrays of integers"
    )


def _of_shard(error: SecAggError, shard: str, part: range) -> SecAggError:
    """The same error, saying of which clients."""
    return type(error)(
        f"{shard} (clients {part[0]} to {part[-1]}): {error.what}",
        why=error.why,
        fix=error.fix,
        where=error.where,
        stage=error.stage,
        culprit=error.culprit,
    )


def _aggregate(loopback: Loopback, ids: list[bytes], first: int, *, threads: int) -> SessionResult:
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=_EXPIRES))
    machine = loopback.server.server
    while machine.stage is not Stage.OPENED:
        loopback.close(machine.stage)
    accumulator = loopback.server.accumulator
    unmask_in_threads(accumulator, machine.plan(), threads=threads)
    return SessionResult(
        totals=tuple(total_of(accumulator, loopback.server.layout)),
        survivors=tuple(first + i for i, name in enumerate(ids) if name in machine.survivors),
        parameters=(machine.roster.parameters,),
        claim=machine.roster.config.profile.claim,
    )


def _certify(authority: CertificateAuthority, client_id: bytes, key: bytes) -> Certificate:
    return authority.issue(client_id, key, expires=_EXPIRES)
