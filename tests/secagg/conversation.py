"""One session of the machines on secrets that the reference can be given too.

All that the machines draw comes from one seeded source, in an order that `secrets_of` follows.
Every message that travels is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fedcore.entropy import SeededEntropy
from fedcore.errors import SecAggError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.loopback import Loopback, LostAt
from fedcore.secagg.policy import Policy
from fedcore.secagg.server import SecAggServer, Stage
from fedcore.secagg.session import make_loopback
from fedcore.secagg.unmask import total_of, unmask

__all__ = ["EXPIRES", "Conversation", "Secrets", "converse", "secrets_of", "tapped"]

EXPIRES = 2**40
_PRIME = 2**31 - 1


class Secrets(NamedTuple):
    """What a session of the machines draws; of the clients by roster index.

    `prekeys`: pid, mask key, channel key and b. `words`: of the polynomials. `nonces`: of AES-GCM.
    """

    authority: bytes
    nonce: bytes
    ids: list[bytes]
    identities: list[bytes]
    prekeys: list[tuple[bytes, bytes, bytes, bytes]]
    words: list[list[int]]
    nonces: list[list[bytes]]


def secrets_of(
    seed: bytes, n: int, *, threshold: int, degree: int, silent: Collection[int] = ()
) -> Secrets:
    """The draws of `converse`; `silent`: who deals no shares."""
    draw = SeededEntropy(seed).token
    authority, nonce = draw(32), draw(32)
    named = [(draw(16), draw(32)) for _ in range(n)]
    posted = [(draw(16), draw(32), draw(32), draw(32)) for _ in range(n)]
    order = sorted(range(n), key=lambda position: named[position][0])
    words: list[list[int]] = [[] for _ in range(n)]
    nonces: list[list[bytes]] = [[] for _ in range(n)]
    for i in set(range(n)).difference(silent):
        while missing := 18 * (threshold - 1) - sum(word % 2**31 != _PRIME for word in words[i]):
            words[i] += np.frombuffer(draw(4 * missing), "<u4").tolist()
        nonces[i] = [draw(12) for _ in range(degree)]
    return Secrets(
        authority,
        nonce,
        [named[position][0] for position in order],
        [named[position][1] for position in order],
        [posted[position] for position in order],
        words,
        nonces,
    )


def tapped(
    loopback: Loopback, *, edit: Callable[[bytes, bytes], bytes] | None = None
) -> dict[bytes, list[bytes]]:
    """What arrives anywhere from now on, by the client that gets or sends it.

    `edit(client's id, message)`: what a client gets in place of a message.
    """
    carried: dict[bytes, list[bytes]] = {client_id: [] for client_id in loopback.hosts}

    def to_client(client_id: bytes, receive: Any, data: bytes) -> Iterator[bytes]:
        arrived = edit(client_id, data) if edit else data
        carried[client_id].append(arrived)
        yield from receive(arrived)

    def to_server(receive: Any, client_id: bytes, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        carried[client_id].append(data)
        yield from receive(client_id, data)

    for client_id, host in loopback.hosts.items():
        host.receive = partial(to_client, client_id, host.receive)  # type: ignore[method-assign]
    loopback.server.receive = partial(  # type: ignore[method-assign]
        to_server, loopback.server.receive
    )
    return carried


class Conversation(NamedTuple):
    """What a session came to; `messages` by roster index, both directions, as they arrived."""

    messages: list[list[bytes]]
    server: SecAggServer
    sum: list[list[int]]
    error: SecAggError | None
    refused: list[tuple[str, SecAggError]]


def converse(
    config: SessionConfig,
    vectors: Sequence[Sequence[Any]],
    *,
    seed: bytes,
    lost: Mapping[int, LostAt] | None = None,
    edit: Callable[[int, bytes], bytes] | None = None,
    policy: Policy | None = None,
    pulse: bytes = b"",
    model_digest: bytes = bytes(32),
    round: int = 0,
) -> Conversation:
    """Aggregate `vectors`; these, `lost` and `edit` go by roster index."""
    terms: Any = {"policy": policy, "model_digest": model_digest, "round": round}
    loopback, _ = make_loopback(config, vectors, entropy=SeededEntropy(seed), **terms)
    roll = sorted(loopback.hosts)
    for i, client_id in enumerate(roll):
        host = loopback.hosts[client_id]
        host.blocks, host.lost_at = vectors[i], (lost or {}).get(i)
    carried = tapped(
        loopback, edit=edit and (lambda client_id, data: edit(roll.index(client_id), data))
    )
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=EXPIRES))
    server, error = loopback.server, None
    machine, total = server.server, []
    loopback.to_clients(server.perform(machine.close(Stage.PREKEYS, pulse=pulse)))
    try:
        while machine.stage is not Stage.OPENED:
            loopback.close(machine.stage)
    except SecAggError as failure:
        error = failure
    else:
        unmask(server.accumulator, machine.plan())
        total = [block.tolist() for block in total_of(server.accumulator, config.layout)]
    messages = [carried[client_id] for client_id in roll]
    return Conversation(messages, machine, total, error, loopback.refused)
