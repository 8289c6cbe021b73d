"""One session, held by the machines and by the reference on the same secrets.

All that the machines draw comes from one seeded source, in an order that `_secrets_of` follows for
the reference. Every message that travels is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
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
from tests.secagg import reference as ref, reference_session as second

__all__ = ["NO_LOSS", "Conversation", "converse", "replay", "tapped"]

NO_LOSS: Mapping[int, LostAt] = MappingProxyType({})
_EXPIRES = 2**40


class _Secrets(NamedTuple):
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


def _secrets_of(
    seed: bytes, n: int, *, threshold: int, degree: int, silent: Collection[int] = ()
) -> _Secrets:
    """What `converse` draws; `silent`: who deals no shares."""
    draw = SeededEntropy(seed).token
    authority, nonce = draw(32), draw(32)
    named = [(draw(16), draw(32)) for _ in range(n)]
    posted = [(draw(16), draw(32), draw(32), draw(32)) for _ in range(n)]
    order = sorted(range(n), key=lambda position: named[position][0])
    words: list[list[int]] = [[] for _ in range(n)]
    nonces: list[list[bytes]] = [[] for _ in range(n)]
    for i in set(range(n)).difference(silent):
        while missing := 18 * (threshold - 1) - sum(word % 2**31 != ref.P for word in words[i]):
            words[i] += np.frombuffer(draw(4 * missing), "<u4").tolist()
        nonces[i] = [draw(12) for _ in range(degree)]
    return _Secrets(
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
    lost: Mapping[int, LostAt] = NO_LOSS,
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
        host.blocks, host.lost_at = vectors[i], lost.get(i)
    carried = tapped(
        loopback, edit=edit and (lambda client_id, data: edit(roll.index(client_id), data))
    )
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=_EXPIRES))
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


def replay(
    config: SessionConfig,
    vectors: Sequence[Sequence[Any]],
    *,
    seed: bytes,
    lost: Mapping[int, LostAt] = NO_LOSS,
    damaged: Mapping[int, Mapping[int, int]] = MappingProxyType({}),
    pulse: bytes = b"",
    model_digest: bytes = bytes(32),
    round: int = 0,
) -> second.Outcome:
    """The reference's session in place of `converse`'s. Raises: second.Aborted.

    `damaged`: what is wrong with the shares that clients get, by holder and sharer.
    """
    n, fractions = len(vectors), (config.gamma, config.delta, config.sigma, config.eta)
    rule = ref.parameters(n, *fractions, int(config.profile))
    silent = [i for i, at in lost.items() if at is LostAt.SHARES]
    drawn = _secrets_of(seed, n, threshold=rule.t, degree=rule.k, silent=silent)
    told = ref.Config(
        int(config.profile),
        int(config.prg),
        *fractions,
        config.clipping_norm,
        config.noise_multiplier,
        config.task,
        config.beacon,
        [ref.Block(b.length, b.slot_bits, b.wraps, b.limit) for b in config.layout.blocks],
    )
    clients = [
        second.Client(
            drawn.ids[i],
            drawn.identities[i],
            _EXPIRES,
            *drawn.prekeys[i],
            drawn.words[i],
            drawn.nonces[i],
            [block.tolist() for block in vectors[i]],
            lost=int(lost.get(i, second.NEVER)),
            damaged=damaged.get(i, {}),
        )
        for i in range(n)
    ]
    session = second.Session(
        told, drawn.authority, round, 0, drawn.nonce, pulse, model_digest=model_digest
    )
    return second.run(session, reversed(clients))
