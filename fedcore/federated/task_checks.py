"""What a task says has to agree with itself: every contradiction, and the nearest way out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedcore.errors import TaskError
from fedcore.federated.choices import LOSSES, METRICS, require_name
from fedcore.federated.fields import LARGEST_COHORT, update_limit
from fedcore.federated.layers import COUNTS
from fedcore.federated.models import require_small
from fedcore.federated.privacy_terms import session_parameters
from fedcore.federated.spec import LARGEST_DIMENSION, ModelSpec, PrivacySpec, SecAggSpec, UpdateSpec
from fedcore.privacy import Poisson, default_delta, rate_of
from fedcore.settings import setting_error

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["check", "refused"]

_COARSEST = 2**10
"""Grid steps in an update's range that are too few to train with: a slot has room for more."""


def check(task: Task) -> None:
    """Raises: TaskError for the first contradiction, with the dotted path as `where`."""
    _check_model(task)
    _check_training(task)
    _check_cohort(task)
    if task.secure_aggregation is not None:
        _check_session(task, task.secure_aggregation)
    if task.privacy is not None:
        _check_privacy(task, task.privacy)
    elif task.plan is not None:
        raise refused("plan", "a plan without [privacy]", "it keeps no promise", "leave it out")
    else:
        _check_update(task)
    _check_evaluation(task)


def refused(path: str, what: str, why: str, fix: str) -> TaskError:
    """The error of a task whose part `path` cannot be so."""
    return TaskError(what, why=why, fix=fix, where=path)


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
    for name in ("epochs", "steps", "batch_size", "optimizer"):
        if getattr(task.training, name) is not None:
            raise refused(
                f"training.{name}",
                f"training.{name} under fedsgd",
                "clients send one gradient, and the server takes the step, by algorithm.lr and "
                "algorithm.momentum",
                "leave it out, or take fedavg",
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
            f"set training.{missing[0]}",
        )


def _check_cohort(task: Task) -> None:
    cohort = task.cohort
    if cohort.minimum > cohort.goal:
        raise refused(
            "cohort.minimum",
            f"minimum = {cohort.minimum} above goal = {cohort.goal}",
            "a round ends once the goal is reached",
            f"take minimum = {cohort.goal} or less",
        )
    if cohort.select > LARGEST_COHORT:
        raise refused(
            "cohort.overselection",
            f"{cohort.select} clients in a round",
            f"sums are exact up to {LARGEST_COHORT}",
            f"take goal times overselection up to {LARGEST_COHORT}",
        )


def _check_session(task: Task, terms: SecAggSpec) -> None:
    cohort = task.cohort
    for name in ("gamma", "delta"):
        if getattr(terms, name).denominator >= 2**32:
            raise refused(
                f"secure_aggregation.{name}",
                f"{name} = {getattr(terms, name)}",
                "a session's terms hold fractions of 32 bits",
                "take fewer digits, like 0.15",
            )
    session_parameters(terms, cohort.minimum)
    least = session_parameters(terms, cohort.select).minimum_survivors
    for name in ("goal", "minimum"):
        if getattr(cohort, name) < least:
            raise refused(
                f"cohort.{name}",
                f"{name} = {getattr(cohort, name)} of {cohort.select} selected clients",
                f"with delta = {terms.delta} secure aggregation opens no sum of fewer than {least}",
                f"take {name} = {least} or more, a larger secure_aggregation.delta, or less "
                f"overselection",
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
    elif promise.sampling_rate is not None:
        _check_drawn_clients(task, promise)
    else:
        _check_participations(task, promise)
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
    if task.algorithm.name != "fedsgd":
        raise refused(
            "algorithm.name",
            f"{task.algorithm.name} with records as the unit",
            "each record's gradient is clipped by itself, so a round is one noisy step, which the "
            "server takes",
            'take name = "fedsgd", or unit = "client"',
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


def _check_drawn_clients(task: Task, promise: PrivacySpec) -> None:
    """That nobody's place depends on another's coin: all who are drawn take part, or none know."""
    assert promise.sampling_rate is not None
    cohort, sampling = task.cohort, Poisson(rate_of(promise.sampling_rate))
    if cohort.goal != cohort.select:
        raise refused(
            "cohort.overselection",
            "overselection of clients that are drawn by coins",
            "to drop those who come late lets one client decide about another, for which no "
            "accountant knows the cost",
            "take overselection = 1.0, and goal as the most that may be drawn",
        )
    delta = promise.delta or default_delta(promise.population)
    chance = math.log(delta) - math.log(1024 * task.rounds.count) - promise.epsilon - 1
    least, most = sampling.cohort(promise.population, chance)
    if cohort.minimum >= least or cohort.goal <= most:
        raise refused(
            "cohort",
            f"rounds of {cohort.minimum} … {cohort.goal} clients, drawn from {promise.population}",
            f"but for a chance that is negligible beside delta, {least} … {most} are drawn; a "
            f"round that fails or fills up tells of one client",
            f"take minimum = {least - 1} or less and goal = {most + 1} or more"
            if least > 1
            else "take a larger sampling_rate or population, or leave sampling_rate out",
        )


def _check_participations(task: Task, promise: PrivacySpec) -> None:
    """That so many clients may come often enough, were each of them there whenever it may be."""
    count, minimum, people = task.rounds.count, task.cohort.minimum, promise.population
    if people < minimum:
        raise refused(
            "privacy.population",
            f"population = {people} for rounds of {minimum} clients or more",
            "each client takes part once in a round",
            f"set population = {minimum} or more, if there are so many, or a smaller minimum",
        )
    apart = promise.minimum_separation or 1
    if min(apart, count) * minimum > people:
        raise refused(
            "privacy.minimum_separation",
            f"minimum_separation = {apart} for {people} clients in rounds of {minimum} or more",
            f"who took part comes again after {apart} rounds, and others are too few until then",
            f"set minimum_separation = {people // minimum} or less",
        )
    most = promise.maximum_participations or count
    if most * people < count * minimum:
        raise refused(
            "privacy.maximum_participations",
            f"maximum_participations = {most} for {people} clients in {count} rounds",
            f"each round needs {minimum} of them, and all together may come {most * people} times",
            f"set maximum_participations = {math.ceil(count * minimum / people)} or more, better "
            f"some more, or rounds.count = {most * people // minimum} or less",
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
