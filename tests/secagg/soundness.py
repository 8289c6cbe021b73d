"""What must hold of a session whose programs crashed: an exact sum, and no secret left behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from fedcore.secagg.keys import Prekey
from fedcore.secagg.messages import MaskRequest
from fedcore.secagg.params import Profile
from fedcore.secagg.sharing import CIPHERTEXT_BYTES
from fedcore.secagg.transcript import members_of
from tests.secagg.crashing import SERVER, CrashingDisk, Moment, Network, configuration, network_of

__all__ = ["N", "assert_sound", "disk_of", "moments", "writes"]

N = 5
moments = pytest.mark.parametrize("moment", list(Moment), ids=lambda moment: moment.value)


def disk_of(net: Network, who: bytes) -> CrashingDisk:
    disk = net.server.disk if who == SERVER else net.hosts[who].disk
    assert isinstance(disk, CrashingDisk)
    return disk


@cache
def writes(profile: Profile) -> tuple[int, int]:
    """How often a client, and the server, writes in a session in which all goes well."""
    net = network_of(configuration(N, profile=profile), N)
    net.run()
    per_client = {len(disk_of(net, client_id).written) for client_id in net.hosts}
    assert len(per_client) == 1
    return per_client.pop(), len(disk_of(net, SERVER).written)


def assert_sound(net: Network, total: np.ndarray | None) -> None:
    """The exact sum of the survivors; one form of everything said; no secret left on a disk."""
    assert total is not None
    np.testing.assert_array_equal(total, net.expected())
    assert [name for name, forms in net.said.items() if len(forms) > 1] == []
    for client_id in net.machine.survivors:
        assert_forgotten(net, client_id)


def assert_forgotten(net: Network, client_id: bytes) -> None:
    """Nothing of a session that this client answered is on its disk, but what it revealed."""
    disk = disk_of(net, client_id)
    answers = [a for name, forms in net.said.items() if name[0] == client_id for a in forms]
    revealed = b"".join(data for data in answers if data[1] == 12)
    assert {key.partition("/")[0] for key in disk} <= {"release", "tombstone", "prekey"}
    left = b"".join(disk.values())
    secrets = list(secrets_of(net, client_id))
    for secret in secrets:
        assert secret not in left or secret in revealed
    shares_held = (len(secrets) - 3) // 2
    assert shares_held >= net.machine.roster.parameters.threshold
    assert sum(secret in revealed for secret in secrets) == 1 + shares_held  # b, a half of each


def secrets_of(net: Network, client_id: bytes) -> Iterator[bytes]:
    """What this client knew in the session and nobody else should: its own keys, shares held."""
    roster = net.machine.roster
    me = roster.indices[client_id]
    prekey = next(
        prekey
        for key, values in disk_of(net, client_id).history.items()
        for prekey in [Prekey.decode(values[0])] * key.startswith("prekey")
        if prekey.pid == roster.bundles[me].pid
    )
    yield from (prekey.mask_secret, prekey.channel_secret, prekey.b)
    (request,) = (m for m in net.messages(MaskRequest, to=client_id) if m.sid == roster.sid)
    dealers = roster.neighbours_in(me, members_of(request.uploaders, roster.n))
    for place, j in enumerate(dealers):
        ciphertext = request.ciphertexts[CIPHERTEXT_BYTES * place :][:CIPHERTEXT_BYTES]
        channel = roster.schedule.channel(
            prekey.channel_private, roster.bundles[j].channel_key, me, j
        )
        halves = channel.open(ciphertext)
        yield from (halves[:36], halves[36:])
