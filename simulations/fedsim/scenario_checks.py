"""What a scenario says has to agree with itself: every contradiction, and the nearest way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedcore.errors import TaskError
from fedsim.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from fedsim.scenario import Scenario

__all__ = ["check"]


def check(scenario: Scenario) -> None:
    """Raises: TaskError."""
    for one in (
        _check_promise,
        _check_mode,
        _check_study,
        _check_clock,
        _check_model,
        _check_evaluation,
    ):
        one(scenario)


def _check_promise(scenario: Scenario) -> None:
    study = scenario.study.any or scenario.clock.schedule == "buffered"
    if study and scenario.task.privacy is not None:
        plain = "" if scenario.head.mode == "plain" else ', and set scenario.mode = "plain"'
        raise _refused(
            "privacy",
            "a study of a task with privacy",
            "what no server does is computed in floating sums, which keep no promise",
            f"leave [privacy] out{plain}; or take an algorithm of tasks, without [study]",
        )


def _check_mode(scenario: Scenario) -> None:
    task, mode = scenario.task, scenario.head.mode
    if mode == "plain" and task.privacy is not None:
        raise _refused(
            "scenario.mode",
            "a task with privacy in the mode plain",
            "floating sums without noise keep no promise",
            'set mode = "fast", or leave [privacy] out',
        )
    if mode == "exact" and task.secure_aggregation is None:
        raise _refused(
            "scenario.mode",
            "the mode exact of a task without secure aggregation",
            "there are no masks to be exact about",
            'set mode = "fast", or let [secure_aggregation] have the profile "malicious"',
        )


def _check_study(scenario: Scenario) -> None:
    task, study = scenario.task, scenario.study
    if not study.any:
        return
    if scenario.head.mode != "plain":
        raise _refused(
            "scenario.mode",
            f"a study in the mode {scenario.head.mode}",
            "what no server does is computed in floating sums, without privacy",
            'set mode = "plain"',
        )
    if task.training.program != "local" or task.algorithm.name == "fedsgd":
        raise _refused(
            "study",
            "a study of clients whose steps it does not know",
            "algorithms of studies steer each step of the built-in training",
            'set training.program = "local", and another algorithm than fedsgd',
        )
    algorithm = study.algorithm
    if algorithm is not None and getattr(ALGORITHMS[algorithm.name], "needs_sgd", False):
        optimizer = task.training.optimizer
        assert optimizer is not None
        options = dict(optimizer.options)
        if optimizer.name != "sgd" or options.get("momentum"):
            raise _refused(
                "training.optimizer",
                f"{algorithm.name} with {optimizer.name} that remembers",
                "it takes a client's change for lr times the sum of its gradients",
                'take { name = "sgd", lr = ... } without momentum',
            )


def _check_clock(scenario: Scenario) -> None:
    task, clock = scenario.task, scenario.clock
    algorithm = scenario.study.algorithm
    buffered = clock.schedule == "buffered"
    if buffered and scenario.head.mode != "plain":
        raise _refused(
            "clock.schedule",
            f"a buffered schedule in the mode {scenario.head.mode}",
            "a session of secure aggregation and a round's noise are of one model, and its updates"
            " start from many",
            'set scenario.mode = "plain", or schedule = "synchronous"',
        )
    if algorithm is not None and (algorithm.name == "fedbuff") != buffered:
        raise _refused(
            "clock.schedule",
            f"the algorithm {algorithm.name} with a {clock.schedule} schedule",
            "fedbuff takes updates as they come, and nothing else does",
            'set schedule = "buffered" and algorithm.name = "fedbuff", or neither',
        )
    for name in ("robust", "compression"):
        if buffered and getattr(scenario.study, name) is not None:
            raise _refused(
                f"study.{name}",
                f"study.{name} with a buffered schedule",
                "a step takes updates of several models as they come, each by its age, and neither"
                " compares nor unpacks them as those of one round",
                f'leave study.{name} out, or take another algorithm with schedule = "synchronous"',
            )
    if buffered and algorithm is None:
        raise _refused(
            "clock.schedule",
            f"the algorithm {task.algorithm.name} with a buffered schedule",
            "it is of rounds, and here are none",
            'set algorithm.name = "fedbuff"',
        )


def _check_model(scenario: Scenario) -> None:
    if scenario.task.model.arrays:
        raise _refused(
            "model.arrays",
            "a model of bare arrays in a simulation",
            "it is measured on a test set, and only its program knows how",
            "describe it as layers, or install it under a name",
        )


def _check_evaluation(scenario: Scenario) -> None:
    if scenario.task.privacy is not None and scenario.head.evaluate_clients_every:
        raise _refused(
            "scenario.evaluate_clients_every",
            "clients' own accuracies of a task with privacy",
            "what is measured on their data and not released would be told for nothing",
            "leave it out: the released model is measured on the test set",
        )


def _refused(where: str, what: str, why: str, fix: str) -> TaskError:
    return TaskError(what, why=why, fix=fix, where=where)
