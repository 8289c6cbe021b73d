"""What has to hold after whatever happened: nothing acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise

from fedcore.data import Dataset
from fedcore.federated.task import Task
from fedcore.privacy import account, verify
from fedcore.v1 import admin_service_pb2
from tests.chaos.deployment import Deployment
from tests.chaos.devices import Uploaded
from tests.chaos.tasks import digests_of

__all__ = ["check_acknowledged", "check_ledger", "check_models", "summed"]

_IN_THE_SUM = ("COMPLETED", "SCRUBBED")


def check_models(
    deployment: Deployment, task_id: str, task: Task, clients: Mapping[str, Dataset]
) -> None:
    """Every model is the one that an undisturbed run finds, to the bit, and lies on the disk."""
    entry = deployment.admin.task(task_id)
    assert (entry.state, entry.rounds_completed) == ("COMPLETED", task.rounds.count), entry.reason
    wanted = digests_of(task, clients)
    line = [model.digest for model in deployment.admin.models(task_id)]
    assert [digest.hex() for digest in line] == [digest.hex() for digest in wanted]
    assert entry.model_digest == wanted[-1]
    for digest in line:
        check_served(deployment, digest)


def check_served(deployment: Deployment, digest: bytes) -> None:
    """The file of a model is on the server's disk, and is what its name says."""
    (path,) = deployment.state.glob(f"*/??/??/{digest.hex()}")  # of blobs, or of their copies
    assert hashlib.sha256(path.read_bytes()).digest() == digest


def summed(deployment: Deployment, task_id: str) -> dict[int, admin_service_pb2.RoundEntry]:
    """By round the one attempt whose sum was released."""
    found: dict[int, admin_service_pb2.RoundEntry] = {}
    for entry in deployment.admin.rounds(task_id):
        if entry.phase in _IN_THE_SUM:
            assert entry.round.round not in found, "a round was released twice"
            found[entry.round.round] = entry
    return found


def check_acknowledged(
    deployment: Deployment, task_id: str, task: Task, uploaded: Iterable[Uploaded]
) -> None:
    """Every acknowledged update is in the sum, or its attempt was given up as a whole.

    And nobody is in a sum twice: it says how many it is of, and so many devices there are.
    """
    by_round = summed(deployment, task_id)
    assert sorted(by_round) == list(range(task.rounds.count))
    acknowledged = {u for u in uploaded if u.task == task.name}
    for round, entry in by_round.items():
        members = {
            u.device for u in acknowledged if (u.round, u.attempt) == (round, entry.round.attempt)
        }
        if "reports" in entry.metrics:
            assert entry.metrics["reports"] == entry.reported
        # A device that was killed before it could say so may be in the sum beside these.
        assert len(members) <= entry.reported <= entry.selected


def check_ledger(deployment: Deployment, task_id: str, task: Task) -> None:
    """Every release was paid for before, and every payload is what was released."""
    plan = task.plan
    assert plan is not None
    found = verify(deployment.state / "ledgers" / task_id)
    assert found.released == task.rounds.count and not found.damaged
    assert found.reservations - found.voided >= found.released
    least = account(plan.spend(found.released), adjacency=plan.adjacency, delta=found.delta)
    assert least.value <= found.epsilon <= plan.epsilon
    line = deployment.admin.models(task_id)
    assert [model.round for model in line] == list(range(task.rounds.count + 1))
    for parent, model in pairwise(line):
        assert model.parent == parent.digest
        check_served(deployment, model.digest)
