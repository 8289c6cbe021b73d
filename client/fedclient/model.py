"""The model that a federation trained, for who has devices and uses it on them."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedclient.connection import Connection
from fedclient.identity import DeviceIdentity, authority_pem, now_utc
from fedclient.policy import Policy
from fedclient.progress import Progress, Stage
from fedclient.stopping import Stop
from fedclient.transfer import download_file
from fedcore.errors import NotFoundError, TransferError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Fetched", "arrays_of", "download_for", "download_model"]

_PATIENCE_S: Final = 10.0  # somebody waits for the command


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model in a file: `digest`, SHA-256 of `size` bytes; in how many rounds it was trained.

    `task`: its canonical JSON.
    """

    path: Path
    digest: bytes
    round: int
    size: int
    task: bytes


def download_model(
    connection: Connection,
    task_id: str,
    path: Path,
    *,
    policy: Policy,
    stop: Stop,
    tell: Callable[[Progress], None],
) -> Fetched:
    """Makes `path` the newest model of a task; what of it is here already is not fetched again.

    Raises: NotFoundError for a task that there is not, or that has no model yet;
    DevicePolicyError for one that is too large; EnvelopeError; as `download_file`.
    """
    from fedcore.v1.client_service_pb2 import GetTaskRequest
    from fedcore.v1.model_service_pb2 import DescribeRequest
    from fedcore.wire.envelope import TASK, Place, opened

    asked = GetTaskRequest(task_id=task_id)
    answer = connection.call(connection.clients.GetTask, asked, stop=stop, patience_s=_PATIENCE_S)
    task = opened(answer.task, method=TASK, place=Place(), key=answer.task.key_id)
    digest = answer.model_digest
    if not digest:
        raise NotFoundError(
            f"task {task_id} has no model yet",
            why="none of its rounds has ended with one",
            fix="ask again after a round was completed: fed client status",
        )
    if len(digest) != 32:
        raise TransferError(
            f"the newest model of task {task_id} has no name",
            why=f"a model is named by 32 bytes, not by {len(digest)}",
            fix="report it to the operator",
        )
    about = connection.call(
        connection.models.Describe,
        DescribeRequest(digest=digest),
        stop=stop,
        patience_s=_PATIENCE_S,
    )
    policy.check_download(about.size)
    part = path.with_name(f".{path.name}.{digest.hex()}.part")
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if other != part:  # of a model that is the newest no more
            other.unlink(missing_ok=True)
    arrived = part.stat().st_size if part.exists() else 0

    def moved(count: int, size: int) -> None:
        nonlocal arrived
        arrived += count
        share = min(1.0, arrived / max(1, size))
        tell(Progress(Stage.DOWNLOADING, share=share, detail=f"the model of {task_id}"))

    download_file(connection, digest, size=about.size, path=path, part=part, stop=stop, moved=moved)
    return Fetched(path, digest, about.round, about.size, task)


def arrays_of(found: Fetched) -> dict[str, NDArray[np.float32]]:
    """The model's arrays by their names.

    Raises: DataFormatError if the file holds another model than the task's; TaskError;
    ProgramError for a model that is not installed here.
    """
    from fedcore.federated.parameters import parameters_of
    from fedcore.federated.task import Task
    from fedcore.model_format import read_model

    spec = parameters_of(Task.from_canonical(found.task))
    with found.path.open("rb", buffering=0) as file:
        return spec.split(read_model(file, spec).vector)


def download_for(
    folder: Path, task_id: str, path: Path, *, policy: Policy, tell: Callable[[Progress], None]
) -> Fetched:
    """The same for the member in `folder`, also while another process takes part with it.

    Raises: as `download_model`; ClientStateError if it is none.
    """
    identity = DeviceIdentity(folder / "identity")
    if identity.tls.expired(now_utc()):
        # Nobody takes part with it, or it would have been renewed, which takes the whole folder.
        from fedclient.client import Client

        with Client.open(folder) as client:
            client.model(task_id, path, policy=policy, on_progress=tell)
        identity = DeviceIdentity(folder / "identity")
    membership = identity.membership
    connection = Connection(
        membership.address, root=authority_pem(membership.authority), tls=identity.tls
    )
    try:
        return download_model(connection, task_id, path, policy=policy, stop=Stop(), tell=tell)
    finally:
        connection.close()
