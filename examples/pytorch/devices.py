"""What devices do: each joins with an invitation, binds its own program, and takes part."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from local_server import Server
from numpy.typing import NDArray

from fedclient import Client
from fedcore.data import Dataset
from fedcore.federated import NumPyClientProgram, Task
from fedcore.federated.parameters import parameters_of
from fedcore.model_format import read_model

__all__ = ["federated", "take_part"]


def take_part(client: Client, data: Dataset, trainer: Any) -> None:
    """What a device does until it is stopped: its program is bound as the task's `mine`."""
    with client:
        client.run(datasets={"digits": data}, programs={"mine": NumPyClientProgram(trainer)})


def federated(
    server: Server, task: Task, writers: Mapping[str, Dataset], trainers: Mapping[str, Any]
) -> NDArray[np.float32]:
    """The last model of the task in the server's folder. Raises: RuntimeError if it fails."""
    token = server.fed("token", "create", "--uses", str(len(writers)), "--lifetime", "1h")
    clients = {
        name: Client.join(token["join_string"], directory=server.folder / name, name=name)
        for name in writers
    }
    task_id = server.fed("task", "submit", "task.toml", "--model", "first.safetensors")["task_id"]
    with ThreadPoolExecutor(len(clients)) as threads:
        working = [
            threads.submit(take_part, client, writers[name], trainers[name])
            for name, client in clients.items()
        ]
        try:
            server.watch(task_id)
        finally:
            for client in clients.values():
                client.stop()
    for device in working:
        device.result()
    last = server.folder / "last.safetensors"
    server.fed("model", "export", task_id, "--out", last.name)
    with last.open("rb") as file:
        return read_model(file, parameters_of(task)).vector
