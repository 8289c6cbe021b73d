"""What a researcher hands in: the task as it was resolved, in words, and with a signature.

What follows from a task is shown before it is handed in: how large it is, from how many clients a
sum is opened, what the privacy costs and who is trusted for it.
"""

from __future__ import annotations

import io
import secrets
from pathlib import Path
from typing import Final

import numpy as np

from fedcore.autograd.ravel import Spec
from fedcore.checkpoint import load_checkpoint
from fedcore.console import Json
from fedcore.errors import ArgumentError, CheckpointError, DataFormatError
from fedcore.federated.parameters import parameters_of
from fedcore.federated.privacy_terms import session_parameters
from fedcore.federated.task import Task
from fedcore.model_format import encode_model, read_model
from fedcore.privacy.statement import statement_of
from fedcore.v1 import admin_service_pb2
from fedcore.wire.channels import SERVER_RECEIVES_BYTES
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.admin.showing import size
from fedserver.profiles import Profile

__all__ = ["describe", "first_model", "in_words", "read_task", "submission_of"]

REQUEST_BYTES: Final = 16
_ENVELOPE_BYTES: Final = 4096  # of a request, beside the task and the model


def read_task(path: Path) -> Task:
    """The resolved task of a TOML file. Raises: TaskError with file and line, PlanError, and so on.

    Calibrating privacy takes about a second.
    """
    return Task.from_toml(path).resolved()


def submission_of(task: Task, model: bytes, profile: Profile) -> admin_service_pb2.Submission:
    """The signed submission, with a request id of its own. `model`: the first one, or empty."""
    return admin_service_pb2.Submission(
        request_id=secrets.token_bytes(REQUEST_BYTES),
        task=task.canonical,
        signature=profile.identity.sign(signed_bytes(task.canonical, method=TASK, place=Place())),
        model=model,
    )


def first_model(task: Task, path: Path | None) -> bytes:
    """The safetensors file with which a task begins; empty where it draws its first model itself.

    Raises: DataFormatError, CheckpointError for a file of another model; ArgumentError for one
    that cannot be read, is too large for a request, or is missing and needed.
    """
    if path is None:
        if task.model.arrays:
            raise ArgumentError(
                "a task whose model is plain arrays comes without a first model",
                why="nobody here knows how its parameters are drawn",
                fix="hand in a safetensors file: fed task submit --model first.safetensors",
            )
        return b""
    room = SERVER_RECEIVES_BYTES - _ENVELOPE_BYTES - len(task.canonical)
    try:
        with path.open("rb") as file:
            data = file.read(room + 1)
    except OSError as error:
        raise ArgumentError(
            f"the first model {path.name} cannot be read",
            why=(error.strerror or str(error)).lower(),
            fix="name a safetensors file, like one that `fed model export` wrote",
        ) from None
    if len(data) > room:
        raise ArgumentError(
            f"the first model {path.name} is too large to be handed in",
            why=f"a request takes {size(SERVER_RECEIVES_BYTES)} with the task",
            fix="let the task draw it: give the model's layers and a seed in the task",
        )
    spec = parameters_of(task)
    try:
        read_model(io.BytesIO(data), spec)
    except CheckpointError:
        if not (data := _in_order(path, spec)):
            raise
    except DataFormatError as error:
        error.where = str(path)
        raise
    return data


def _in_order(path: Path, spec: Spec) -> bytes:
    """The arrays of a checkpoint, which are sorted, in the model's order; empty if they differ."""
    arrays = {name: np.asarray(array) for name, array in load_checkpoint(path).arrays.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {entry.path: entry.shape for entry in spec} or any(
        array.dtype != np.float32 for array in arrays.values()
    ):
        return b""
    vector = np.concatenate([arrays[entry.path].ravel() for entry in spec])
    return b"".join(encode_model(vector, spec, metadata={}))


def describe(task: Task) -> dict[str, Json]:
    """What was resolved, as data."""
    return {
        "name": task.name,
        "digest": task.digest.hex(),
        "dimension": task.dimension,
        "upload_bytes": task.layout.upload_bytes,
        "rounds": task.rounds.count,
        "cohort": {
            "selected": task.cohort.select,
            "goal": task.cohort.goal,
            "minimum": task.cohort.minimum,
        },
        "secure_aggregation": _secure_aggregation(task),
        "privacy": _privacy(task),
    }


def in_words(task: Task) -> str:
    """The same in lines for people."""
    cohort = task.cohort
    lines = [
        f"task {task.name}, {task.dimension:,} parameters, {task.rounds.count} rounds",
        f"  cohort: {cohort.select} clients selected, {cohort.goal} awaited, "
        f"at least {cohort.minimum}",
        f"  each update: {size(task.layout.upload_bytes)}",
        f"  secure aggregation: {_secure_words(task)}",
        *(f"  {line}" for line in _privacy_words(task)),
        f"  digest: {task.digest.hex()}",
    ]
    return "\n".join(lines)


def _secure_aggregation(task: Task) -> Json:
    terms = task.secure_aggregation
    if terms is None:
        return None
    found = session_parameters(terms, task.cohort.select)
    return {
        "profile": terms.profile,
        "clients": found.n,
        "neighbours": found.degree,
        "threshold": found.threshold,
        "minimum_survivors": found.minimum_survivors,
        "corrupt": found.corrupt,
        "dropouts": found.dropouts,
    }


def _secure_words(task: Task) -> str:
    terms = task.secure_aggregation
    if terms is None:
        return "none, the server sees each update"
    found = session_parameters(terms, task.cohort.select)
    return (
        f"{terms.profile.replace('_', '-')}, n = {found.n}, k = {found.degree}, "
        f"t = {found.threshold}, opened from {found.minimum_survivors} survivors on; "
        f"{found.corrupt} may collude, {found.dropouts} be lost"
    )


def _privacy(task: Task) -> Json:
    plan = task.plan
    if plan is None:
        return None
    return {
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "noise_multiplier": float(plan.noise_multiplier),
        "clipping_norm": float(plan.clipping_norm),
        **statement_of(plan),
    }


def _privacy_words(task: Task) -> list[str]:
    plan = task.plan
    if plan is None:
        return ["privacy: none is promised"]
    said = statement_of(plan)
    return [
        f"privacy: epsilon = {plan.epsilon:g}, delta = {plan.delta:.3g}, noise multiplier "
        f"{float(plan.noise_multiplier):.4g}, for {said['unit']} ({said['adjacency']})",
        *(f"  {name}: {said[name]}" for name in ("trust", "sampling", "clipping", "denominator")),
    ]
