"""A federation: tasks, what devices do in a round, and what the server makes of their sum.

A `Task` says everything, in one canonical form. Devices turn it into integers with a `Contributor`;
an `algorithm_of` the task turns the released mean into the next model.
"""

from fedcore.federated.algorithms import Algorithm, algorithm_of
from fedcore.federated.contribution import Contributor
from fedcore.federated.fields import StatisticField, statistics_of
from fedcore.federated.models import build_model, initial_theta
from fedcore.federated.numpy_client import NumPyClientProgram
from fedcore.federated.programs import (
    Program,
    Progress,
    TrainingRequest,
    TrainingResult,
    find_program,
)
from fedcore.federated.reference import train_in_process
from fedcore.federated.task import Task
from fedcore.federated.training import LocalTraining, stream_of
from fedcore.federated.update import Mean, UpdateLayout

__all__ = [
    "Algorithm",
    "Contributor",
    "LocalTraining",
    "Mean",
    "NumPyClientProgram",
    "Program",
    "Progress",
    "StatisticField",
    "Task",
    "TrainingRequest",
    "TrainingResult",
    "UpdateLayout",
    "algorithm_of",
    "build_model",
    "find_program",
    "initial_theta",
    "statistics_of",
    "stream_of",
    "train_in_process",
]
