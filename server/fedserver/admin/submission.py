"""What a researcher hands in: the task as it was resolved, in words, and with a signature.

What follows from a task is shown before it is handed in: how large it is, from how many clients a
sum is opened, what the privacy costs and who is trusted for it.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from fedcore.console import Json
from fedcore.federated.privacy_terms import session_parameters
from fedcore.federated.task import Task
from fedcore.privacy.statement import statement_of
from fedcore.v1 import admin_service_pb2
from fedcore.wire.channels import SERVER_RECEIVES_BYTES
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.admin.first_model import FirstModel
from fedserver.admin.showing import size
from fedserver.profiles import Profile

__all__ = ["describe", "in_words", "read_task", "submission_of", "travels_along"]

REQUEST_BYTES: Final = 16
_ENVELOPE_BYTES: Final = 4096  # of a request, beside the task and the model


def read_task(path: Path) -> Task:
    """The resolved task of a TOML file. Raises: TaskError with file and line, PlanError, and so on.

    Calibrating privacy takes about a second.
    """
    return Task.from_toml(path).resolved()


def submission_of(
    task: Task, model: FirstModel | None, profile: Profile
) -> admin_service_pb2.Submission:
    """The signed submission, with a request id of its own.

    `model`: the first one, which is named by its digest where it does not travel along; None where
    the task draws it. Raises: ArgumentError if its file cannot be read.
    """
    submission = admin_service_pb2.Submission(
        request_id=secrets.token_bytes(REQUEST_BYTES),
        task=task.canonical,
        signature=profile.identity.sign(signed_bytes(task.canonical, method=TASK, place=Place())),
    )
    if model is not None and travels_along(task, model):
        with model.open() as file:
            submission.model = file.read(model.size)
    elif model is not None:
        submission.model_sha256 = model.sha256
    return submission


def travels_along(task: Task, model: FirstModel) -> bool:
    """Whether a first model fits into the one message with its task; else it is uploaded before."""
    room = SERVER_RECEIVES_BYTES - _ENVELOPE_BYTES - len(task.canonical)
    return model.size <= room


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
