"""One task for two worlds: held by a server with devices, and simulated on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedcore.data import Dataset
from fedcore.federated.training import stream_of

__all__ = ["NAMES", "data_of", "scenario_text", "task_text"]

NAMES = ("anna", "ben", "cleo", "dora", "emil", "finn")

_LAYERS = """
[[model.layers]]
kind = "linear"
inputs = 6
outputs = 16
[[model.layers]]
kind = "batch_norm"
channels = 16
[[model.layers]]
kind = "relu"
[[model.layers]]
kind = "dropout"
rate = 0.3
[[model.layers]]
kind = "linear"
inputs = 16
outputs = 3
"""
_PLAIN_LAYERS = """
[[model.layers]]
kind = "linear"
inputs = 6
outputs = 3
"""


def data_of(names: tuple[str, ...] = NAMES) -> Mapping[str, Dataset]:
    """Examples by the name of a device, each with a number of its own."""
    found = {}
    for place, name in enumerate(names):
        draw = np.random.default_rng(stream_of(name))
        x = draw.normal(size=(11 + 7 * place, 6)).astype(np.float32)
        found[name] = Dataset(x, x[:, :3].argmax(axis=1), name)
    return found


def task_text(
    name: str,
    *,
    algorithm: str,
    training: str,
    goal: int = len(NAMES),
    select: int = len(NAMES),
    rounds: int = 3,
    profile: str = "malicious",
    more: str = "",
) -> str:
    """The TOML of a task for `select` devices, of which `goal` have to come through."""
    aggregation = f'profile = "{profile}"'
    if profile != "off":
        aggregation += "\ndelta = 0.2\ngamma = 0.1"
    phases = ("selecting", "keys", "shares", "compute", "upload", "confirming", "unmasking")
    deadlines = "\n".join(f"{phase}_s = 600.0" for phase in phases)
    return f"""
[task]
name = "{name}"
seed = 11
[model]
{_PLAIN_LAYERS if "[privacy]" in more else _LAYERS}
[data]
dataset = "rows"
[training]
loss = "cross_entropy"
{training}
[algorithm]
{algorithm}
[secure_aggregation]
{aggregation}
[rounds]
count = {rounds}
[cohort]
goal = {goal}
minimum = {goal}
overselection = {select / goal}
[deadlines]
{deadlines}
heartbeat_s = 60.0
patience = 10
{more}
"""


def scenario_text(name: str, *, task: Path, data: Path, mode: str, more: str = "") -> str:
    """The TOML of a scenario in which the devices of the files in `data` hold a task."""
    return f"""
[scenario]
name = "{name}"
task = "{task}"
mode = "{mode}"
[population]
source = {{ name = "device_files", path = "{data}" }}
partition = {{ name = "natural" }}
{more}
"""
