"""Small scenarios that the tests of the simulator share."""

from __future__ import annotations

from fedsim.scenario import Scenario

__all__ = ["scenario_of"]

_TASK = """
task = {{ name = "small", seed = 5 }}
data = {{ dataset = "rows" }}
algorithm = {{ {algorithm} }}
secure_aggregation = {{ {secure} }}
rounds = {{ count = {rounds}, max_attempts = 3 }}
cohort = {{ goal = {goal}, minimum = {minimum} }}
{privacy}
{more}
[training]
{training}
[[model.layers]]
kind = "linear"
inputs = 6
outputs = 8
[[model.layers]]
kind = "tanh"
[[model.layers]]
kind = "linear"
inputs = 8
outputs = 3
"""
_LOCAL = """
loss = "cross_entropy"
batch_size = {batch_size}
epochs = 2
optimizer = {{ name = "sgd", lr = 0.1 }}
"""


def scenario_of(
    *,
    mode: str = "fast",
    clients: int = 12,
    partition: str = 'name = "dirichlet", alpha = 0.5, minimum = 3',
    algorithm: str = 'name = "fedavg"',
    secure: str = 'profile = "off"',
    rounds: int = 4,
    goal: int = 6,
    minimum: int = 3,
    privacy: str = "",
    workers: int = 1,
    kind: str = "threads",
    rows: int = 240,
    clients_every: int = 0,
    batch_size: int = 64,
    more: str = "",
) -> Scenario:
    """A scenario of Gaussian classes that trains in milliseconds.

    `batch_size`: of 64, no client has more than a batch, so that all take two steps. Each number of
    steps and of clients side by side records a program, which takes longer than all the training.
    """
    local = _LOCAL.format(batch_size=batch_size)
    training = 'loss = "cross_entropy"' if "fedsgd" in algorithm else local
    task = _TASK.format(
        algorithm=algorithm,
        secure=secure,
        rounds=rounds,
        goal=goal,
        minimum=minimum,
        training=training,
        privacy=f"privacy = {{ {privacy} }}" if privacy else "",
        more=f"""
scenario = {{ name = "small", mode = "{mode}", evaluate_clients_every = {clients_every} }}
engine = {{ workers = {workers}, kind = "{kind}" }}
{more}
[population]
clients = {clients}
partition = {{ {partition} }}
source = {{ name = "synthetic", rows = {rows}, shape = [6], classes = 3, test_rows = 60 }}
""",
    )
    return Scenario.from_toml(task)
