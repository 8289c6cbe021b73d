"""What a task says has to agree with itself: every contradiction, and the nearest way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedcore.federated.choices import LOSSES, METRICS, require_name
from fedcore.federated.cohort_checks import check_clients, check_cohort
from fedcore.federated.fields import update_limit
from fedcore.federated.layers import COUNTS
from fedcore.federated.models import require_small
from fedcore.federated.refusal import refused
from fedcore.federated.spec import LARGEST_DIMENSION, ModelSpec, PrivacySpec, UpdateSpec
from fedcore.settings import setting_error

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["check"]

_COARSEST = 2**10
"""Grid steps in an update's range that are too few to train with: a slot has room for more."""


def check(task: Task) -> None:
    """Raises: TaskError for the first contradiction, with the dotted path as `where`."""
    _check_model(task)
    if task.privacy is not None and task.privacy.unit == "record":
        _check_gradients(task)
    _check_training(task)
    check_cohort(task)
    if task.privacy is not None:
        _check_privacy(task, task.privacy)
    elif task.plan is not None:
        raise refused("plan", "a plan without [privacy]", "it keeps no promise", "leave it out")
    else:
        _check_update(task)
    _check_evaluation(task)


def _check_layers(model: ModelSpec) -> None:
    for index, layer in enumerate(model.layers):
        for name, value in layer.options:
            given = value if isinstance(value, tuple) else (value,)
            if name in COUNTS and any(isinstance(item, int) and item < 1 for item in given):
                raise setting_error(
                    f"model.layers[{index}].{name}", value, "it has to be a number from 1"
                )


def _check_model(task: Task) -> None:
    model = task.model
    given = [name for name in ("layers", "name", "arrays") if getattr(model, name)]
    if len(given) != 1:
        raise refused(
            "model",
            f"a model by {' and '.join(given) or 'nothing'}",
            "a model is layers, an installed model by its name, or the arrays of a program's own",
            "set exactly one of model.layers, model.name and model.arrays",
        )
    if model.options and model.name is None:
        raise refused(
            "model.options", "options without a name", "layers have their own", "leave them out"
        )
    _check_layers(model)
    names = [array.name for array in model.arrays]
    if len(set(names)) < len(names):
        raise refused("model.arrays", "two arrays of one name", "names tell them apart", "rename")
    if model.arrays and task.training.program == "local":
        raise refused(
            "training.program",
            'program = "local" with model.arrays',
            "what the arrays compute is known to the program that they belong to alone",
            "name that program, or describe the model by layers",
        )
    require_small(model)
    if model.parts is None:
        return
    if sum(model.parts) > LARGEST_DIMENSION or (
        model.arrays and model.parts != tuple(array.size for array in model.arrays)
    ):
        raise refused(
            "model.parts",
            f"parts of {sum(model.parts):,} numbers",
            "they are the sizes of the model's arrays, as resolving fills them in",
            "leave them out, and resolve the task",
        )


def _check_gradients(task: Task) -> None:
    """Before what else the algorithm would ask for."""
    if task.algorithm.name != "fedsgd":
        raise refused(
            "algorithm.name",
            f"{task.algorithm.name} with records as the unit",
            "each record's gradient is clipped by itself, so a round is one noisy step, which the "
            "server takes",
            'take name = "fedsgd", or unit = "client"',
        )


def _check_training(task: Task) -> None:
    training, algorithm = task.training, task.algorithm.name
    local = training.program == "local"
    if training.loss is not None:
        require_name("training.loss", training.loss, LOSSES)
    if local and training.loss is None:
        raise refused(
            "training.loss",
            "a task without a loss",
            "the built-in program has to know what to minimise",
            f"set training.loss to one of {', '.join(LOSSES)}",
        )
    if local and training.options:
        raise refused(
            "training.options",
            "options of the built-in program",
            "it takes none beside [training] itself",
            "leave training.options out",
        )
    if not local and algorithm in ("fedprox", "fedsgd"):
        raise refused(
            "algorithm.name",
            f"{algorithm} with program = {training.program!r}",
            "it changes what is minimised or sent, which the built-in program alone does",
            'take "fedavg", or program = "local"',
        )
    if training.epochs is not None and training.steps is not None:
        raise refused(
            "training.steps", "both epochs and steps", "each says when to stop", "leave one out"
        )
    if algorithm == "fedsgd":
        _check_one_gradient(task)
    elif local:
        _check_local_steps(task)
    if training.schedule is not None and training.optimizer is None and algorithm != "fedsgd":
        raise refused(
            "training.schedule",
            "a schedule of no rate",
            "it changes the optimizer's learning rate from round to round",
            "name an optimizer, or leave the schedule out",
        )
    if training.schedule is not None:
        for round in (0, task.rounds.count - 1):
            task.rate(round)


def _check_one_gradient(task: Task) -> None:
    names = ("epochs", "steps", "batch_size", "optimizer")
    given = [f"training.{name}" for name in names if getattr(task.training, name) is not None]
    if given:
        raise refused(
            given[0],
            f"{' and '.join(given)} under fedsgd",
            "clients send one gradient, and the server takes the step, by algorithm.lr and "
            "algorithm.momentum",
            f"leave {'it' if len(given) == 1 else 'them'} out, or take fedavg",
        )


def _check_local_steps(task: Task) -> None:
    training = task.training
    missing = [name for name in ("batch_size", "optimizer") if getattr(training, name) is None]
    if training.epochs is None and training.steps is None:
        missing.insert(0, "epochs")
    if missing:
        raise refused(
            "training",
            f"training without {', '.join(missing)}",
            f"{task.algorithm.name} trains on each device, for some epochs or steps",
            f"set {' and '.join(f'training.{name}' for name in missing)}",
        )


def _check_privacy(task: Task, promise: PrivacySpec) -> None:
    if task.update != UpdateSpec():
        raise refused(
            "update",
            "[update] beside [privacy]",
            "the plan's clipping norm, grid and weights say how updates are sent",
            "leave [update] out; bound weights by privacy.largest_weight",
        )
    if promise.noise != "central" and task.secure_aggregation is None:
        raise refused(
            "privacy.noise",
            f"noise = {promise.noise!r} without secure aggregation",
            "one client's share of noise hides nothing: only the sum of all does",
            'take profile = "malicious", or noise = "central" and trust the server',
        )
    if any(layer.name == "batch_norm" for layer in task.model.layers):
        raise refused(
            "model.layers",
            "batch_norm under privacy",
            "every example of a batch changes every other's output, and statistics carry no noise",
            'take "group_norm" or "layer_norm"',
        )
    _check_options(promise)
    if promise.unit == "record":
        _check_records(task, promise)
    else:
        check_clients(task, promise)
    if task.evaluation.every and task.evaluation.reported:
        raise refused(
            "evaluation.reported",
            "evaluation reports under privacy",
            "sums of losses and hits carry no noise, and would tell what the promise hides",
            "set evaluation.reported = false: devices measure for their owners",
        )


def _check_options(promise: PrivacySpec) -> None:
    bounded = promise.minimum_separation or promise.maximum_participations
    wrong = {
        "quantile": promise.quantile is not None and promise.clipping != "adaptive",
        "clipping_rate": promise.clipping_rate is not None and promise.clipping != "adaptive",
        "slot_bits": promise.slot_bits is not None and promise.noise != "shares",
        "sampling_rate": promise.sampling_rate is not None and bool(bounded),
    }
    why = {
        "quantile": 'it belongs to clipping = "adaptive"',
        "clipping_rate": 'it belongs to clipping = "adaptive"',
        "slot_bits": 'it belongs to noise = "shares"',
        "sampling_rate": "units are drawn by coins, or come as they like and are counted",
    }
    for name, broken in wrong.items():
        if broken:
            raise refused(f"privacy.{name}", f"privacy.{name} here", why[name], "leave it out")


def _check_records(task: Task, promise: PrivacySpec) -> None:
    if promise.sampling_rate is None:
        raise refused(
            "privacy.sampling_rate",
            "records without a sampling rate",
            "devices draw their records by coins, and the ledger counts no single record",
            "set privacy.sampling_rate, like 0.1",
        )
    if promise.clipping != "flat":
        raise refused(
            "privacy.clipping",
            f"clipping = {promise.clipping!r} with records as the unit",
            "gradients of records are clipped as a whole, by one norm that is fixed",
            'take clipping = "flat"',
        )
    if promise.noise == "compact":
        raise refused(
            "privacy.noise",
            'noise = "compact" with records as the unit',
            "an update is rotated and rounded as a whole, not record by record",
            'take noise = "shares"',
        )
    if promise.largest_weight is not None:
        raise refused(
            "privacy.largest_weight",
            "weights with records as the unit",
            "every record counts alike",
            "leave it out",
        )


def _check_update(task: Task) -> None:
    limit = update_limit(task)
    if limit < _COARSEST:
        bits = (_COARSEST * task.cohort.select).bit_length() + 1
        raise refused(
            "update.slot_bits",
            f"slot_bits = {task.update.slot_bits} for sums of {task.cohort.select} updates",
            f"each would have {limit} steps in its range, and coarser steps than a "
            f"{_COARSEST}th train badly",
            f"take slot_bits = {bits} or more",
        )


def _check_evaluation(task: Task) -> None:
    names, local = task.evaluation.metrics, task.training.program == "local"
    for index, name in enumerate(names):
        path = f"evaluation.metrics[{index}]"
        if local:
            require_name(path, name, METRICS)
        if name in names[:index] or name in ("loss", "examples"):
            raise refused(path, f"{name!r} is measured twice", "one is enough", "leave it out")
    if names and not task.evaluation.every:
        raise refused(
            "evaluation.every",
            "metrics that are never measured",
            "every = 0 means no evaluation",
            "set evaluation.every, like 5, or leave the metrics out",
        )
