"""What a transfer moves is charged on its way: a client that is killed has paid, but for a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fedclient.participation
import fedclient.transfer
from fedclient import Client
from fedclient.expenses import STEP_BYTES, Expenses
from fedclient.identity import DeviceIdentity
from fedclient.state import Charge, State
from fedcore.data import Dataset
from fedcore.federated.task import Task
from tests.client.devices import OPENLY
from tests.client.server import FakeServer
from tests.client.test_state import ASSIGNMENT, KEY

Serve = Callable[..., FakeServer]
MIB = 2**20
RUN = """
import sys
import fedclient.expenses
from fedclient.commands import main
fedclient.expenses.STEP_BYTES = 1
sys.exit(main(sys.argv[1:]))
"""


def durable(folder: Path, key: bytes) -> list[Charge]:
    """What another process reads of the charges now."""
    with closing(State(folder, key=key, read_only=True)) as state:
        return state.charges()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * MIB)), max_size=40))
@settings(max_examples=15)
def test_at_any_moment_less_than_a_step_is_not_yet_charged(pieces: list[tuple[bool, int]]) -> None:
    with TemporaryDirectory() as name, closing(State(Path(name), key=KEY)) as state:
        state.answered(assignment=ASSIGNMENT)
        expenses, up, down, writes = Expenses(state, ASSIGNMENT), 0, 0, 0
        before = 0
        for upwards, count in pieces:
            expenses.moved(**{"up" if upwards else "down": count})
            up, down = up + upwards * count, down + (not upwards) * count
            charge = state.charge(ASSIGNMENT)
            assert charge.bytes_up <= up and charge.bytes_down <= down
            charged = charge.bytes_up + charge.bytes_down
            assert up + down - charged < STEP_BYTES
            writes, before = writes + (charged != before), charged
        assert writes <= (up + down) // STEP_BYTES
        expenses.settle(seconds=2.0)
        charge = state.charge(ASSIGNMENT)
        assert (charge.bytes_up, charge.bytes_down, charge.seconds) == (up, down, 2.0)


def test_a_round_charges_what_it_moves_before_it_ends(
    serve: Serve,
    open_task: Task,
    flowers: Callable[[int], Dataset],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(open_task, goal=1)
    server.chunk_bytes = 40
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr("fedclient.expenses.STEP_BYTES", 1)

    def look(name: str) -> None:
        if name.startswith("client.mid"):
            [charge] = durable(folder, device._identity.device_key)
            seen.append((name, charge.bytes_down, charge.bytes_up))

    monkeypatch.setattr(fedclient.transfer, "failpoint", look)
    with Client.join(server.join_string, directory=folder) as device:
        device.run(datasets={"flowers": flowers(0)}, policy=OPENLY, rounds=1)
        [charge] = device.charges()
    whole, sent = len(server.models[server.digest]), open_task.layout.upload_bytes
    assert (charge.bytes_down, charge.bytes_up) == (whole, sent)
    assert seen[0] == ("client.mid_download", whole, 0)
    [seat] = server.seats.values()
    assert seat.upload is not None and len(seat.upload.pieces) > 2
    lengths = [length for _, length in sorted(seat.upload.arrived)]
    assert [up for _, _, up in seen[1:]] == list(accumulate(lengths))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["client.mid_download", "client.mid_upload"])
def test_a_client_that_is_killed_in_a_transfer_has_paid_for_it(
    serve: Serve,
    open_task: Task,
    flowers: Callable[[int], Dataset],
    folder: Path,
    tmp_path: Path,
    place: str,
) -> None:
    server = serve(open_task, goal=1)
    Client.join(server.join_string, directory=folder).close()
    np.savez(tmp_path / "flowers.npz", x=flowers(0).x, y=flowers(0).y)
    (tmp_path / "policy.toml").write_text('[secure_aggregation]\nprofile = "off"\n')
    killed = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "run", "--test-mode"),
            *("--directory", str(folder), "--policy", str(tmp_path / "policy.toml")),
            *("--data", f"flowers={tmp_path / 'flowers.npz'}"),
        ],
        env={**os.environ, "FEDCORE_FAILPOINTS": f"{place}=kill"},
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    [charge] = durable(folder, DeviceIdentity(folder / "identity").device_key)
    assert charge.bytes_down == len(server.models[server.digest])
    # Of an update, the first of two pieces: the second was on its way.
    sent = open_task.layout.upload_bytes
    assert charge.bytes_up in (range(1, sent) if place == "client.mid_upload" else [0])
