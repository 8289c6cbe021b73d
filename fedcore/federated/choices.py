"""What a task chooses by name, with options: layers, optimisers, schedules, losses, algorithms.

A choice holds all of its options, defaults too, so that a task's digest says what was meant even
if a default changes one day.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Self,
    get_type_hints,
)

from fedcore import metrics, nn, optim
from fedcore.errors import FedcoreError, TaskError
from fedcore.federated.layers import LAYERS
from fedcore.settings import (
    Bounds,
    Options,
    Settings,
    read_settings,
    read_value,
    unknown_key,
    write_options,
)

__all__ = [
    "LOSSES",
    "METRICS",
    "NEEDS_EACH_UPDATE",
    "NEVER_NEGATIVE",
    "AlgorithmSpec",
    "Choice",
    "LayerSpec",
    "OptimizerSpec",
    "ScheduleSpec",
    "require_name",
]

LOSSES: Final[Mapping[str, Any]] = {
    "binary_cross_entropy": nn.binary_cross_entropy_with_logits,
    "cross_entropy": nn.cross_entropy,
    "huber": nn.huber,
    "l1": nn.l1,
    "mse": nn.mse,
    "nll": nn.nll,
}
"""Losses by the name that a task gives."""

NEVER_NEGATIVE: Final = frozenset({"cross_entropy", "huber", "l1", "mse"})
"""Those of `LOSSES` that are 0 or more whatever is predicted, and whatever the targets."""

METRICS: Final[Mapping[str, metrics.Metric]] = {
    "accuracy": metrics.accuracy,
    "binary_accuracy": metrics.binary_accuracy,
}
"""Metrics by the name that a task gives: of each example a share, from 0 to 1."""


def require_name(path: str, name: str, known: Mapping[str, Any]) -> None:
    """Raises: TaskError if `name` is not known, with the nearest that is."""
    if name in known:
        return
    near = get_close_matches(name[:60], known, n=1, cutoff=0.5)
    raise TaskError(
        f"{path} = {name!r:.80}",
        why=f"it is one of {', '.join(known)}",
        fix=f"did you mean {near[0]!r}?" if near else "",
        where=path,
    )


@dataclass(frozen=True, kw_only=True)
class Choice(Settings):
    """A name of the class's `known`, and all the options that it takes, by name, sorted.

    Made with some options, it fills in the others. Raises: TaskError for what is not known.

    >>> OptimizerSpec(name="sgd", options=(("lr", 0.1),)).options
    (('lr', 0.1), ('momentum', 0.0), ('nesterov', False), ('weight_decay', 0.0))
    """

    known: ClassVar[Mapping[str, Any]]
    key: ClassVar[str] = "name"

    name: str
    options: Options = ()

    def __post_init__(self) -> None:
        complete = self._complete(self.name, dict(self.options), "")
        object.__setattr__(self, "options", complete)

    @classmethod
    def read(cls, values: Mapping[str, Any], path: str) -> Self:
        """A table whose key "name" (of layers "kind") names the choice; the others are options."""
        options = {name: value for name, value in values.items() if name != cls.key}
        if cls.key not in values:
            raise TaskError(
                f"{path}.{cls.key} is missing",
                why=f"it is one of {', '.join(cls.known)}",
                fix=f"set {path}.{cls.key}",
                where=path,
            )
        name = read_value(values[cls.key], str, f"{path}.{cls.key}")
        try:
            return cls(name=name, options=cls._complete(name, options, path))
        except TaskError as error:
            error.where = error.where or path
            raise

    def write(self) -> dict[str, Any]:
        """What `read` reads."""
        return {self.key: self.name, **write_options(self.options)}

    @classmethod
    def _complete(cls, name: str, options: Mapping[str, Any], path: str) -> Options:
        place = f"{path}.{cls.key}" if path else cls.key
        require_name(place, name, cls.known)
        return _complete(cls.known[name], options, path)


@dataclass(frozen=True, kw_only=True)
class LayerSpec(Choice):
    """A layer of `layers.LAYERS`: in a task's text, `kind` and options."""

    known = LAYERS
    key = "kind"


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Choice):
    """An optimiser of `fedcore.optim`."""

    known: ClassVar[Mapping[str, Any]] = {
        "adagrad": optim.Adagrad,
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "rmsprop": optim.RMSprop,
        "sgd": optim.SGD,
        "yogi": optim.Yogi,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _made(self.name, self.make)

    def make(self) -> optim.Optimizer:
        """The optimiser."""
        found: optim.Optimizer = self.known[self.name](**dict(self.options))
        return found


def _piecewise(
    lr: float, *, boundaries: tuple[int, ...], factors: tuple[float, ...]
) -> optim.Schedule:
    return optim.piecewise(boundaries, [lr * factor for factor in factors])


def _warmup(lr: float, *, steps: int) -> optim.Schedule:
    return optim.warmup(optim.constant(lr), steps=steps)


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(Choice):
    """How the learning rate follows the number of the round, from the rate that it starts with.

    >>> ScheduleSpec(name="step", options=(("every", 10),)).rate(0.5, round=10)
    0.05
    """

    known: ClassVar[Mapping[str, Any]] = {
        "constant": optim.constant,
        "cosine": optim.cosine,
        "exponential": optim.exponential,
        "piecewise": _piecewise,
        "step": optim.step_decay,
        "warmup": _warmup,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _made(self.name, lambda: self.rate(1.0, round=0))

    def rate(self, lr: float, *, round: int) -> float:
        """The rate in a round, counted from 0, if it starts from `lr`.

        Raises: TaskError where it leaves the numbers.
        """
        try:
            found = float(self.known[self.name](lr, **dict(self.options))(round))
        except OverflowError:
            found = math.inf
        if not 0 <= found < math.inf:
            raise TaskError(
                f"a learning rate of {found} in round {round + 1}",
                why="a rate is finite and at least 0",
                fix="let the schedule fall, or rise more slowly",
                where="training.schedule",
            )
        return found


@dataclass(frozen=True, kw_only=True)
class _FedAvg(Settings):
    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0


@dataclass(frozen=True, kw_only=True)
class _FedAvgM(Settings):
    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0
    momentum: Annotated[float, Bounds(least=0, below=1)] = 0.9


@dataclass(frozen=True, kw_only=True)
class _FedProx(Settings):
    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0
    mu: Annotated[float, Bounds(least=0, most=1e6)] = 0.01


@dataclass(frozen=True, kw_only=True)
class _FedAdagrad(Settings):
    lr: Annotated[float, Bounds(above=0, most=1e6)] = 0.1
    beta1: Annotated[float, Bounds(least=0, below=1)] = 0.0
    tau: Annotated[float, Bounds(above=0, most=1e6)] = 1e-3


@dataclass(frozen=True, kw_only=True)
class _FedAdam(_FedAdagrad):
    beta1: Annotated[float, Bounds(least=0, below=1)] = 0.9
    beta2: Annotated[float, Bounds(least=0, below=1)] = 0.99


@dataclass(frozen=True, kw_only=True)
class _FedSGD(Settings):
    lr: Annotated[float, Bounds(above=0, most=1e6)]
    momentum: Annotated[float, Bounds(least=0, below=1)] = 0.0


NEEDS_EACH_UPDATE: Final = (
    "bulyan",
    "geometric_median",
    "krum",
    "median",
    "multi_krum",
    "trimmed_mean",
)
"""Names of rules that are none of a task, since they have no sum."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmSpec(Choice):
    """What the server makes of a round's mean, and clients of their loss: a sum in any case.

    `lr` is the server's. Under fedsgd clients send one gradient and the server takes the step.
    """

    known: ClassVar[Mapping[str, Any]] = {
        "fedadagrad": _FedAdagrad,
        "fedadam": _FedAdam,
        "fedavg": _FedAvg,
        "fedavgm": _FedAvgM,
        "fedprox": _FedProx,
        "fedsgd": _FedSGD,
        "fedyogi": _FedAdam,
    }

    @classmethod
    def _complete(cls, name: str, options: Mapping[str, Any], path: str) -> Options:
        if name in NEEDS_EACH_UPDATE:
            raise TaskError(
                f"algorithm {name!r} has to see each client's update",
                why="clients send integers of which nothing but the sum is learned",
                fix='take an algorithm of sums, like "fedavg", and bound each update by its range '
                "or clipping norm",
                where=f"{path}.name" if path else "name",
            )
        return super()._complete(name, options, path)


@dataclass(frozen=True)
class _Option:
    hint: Any
    default: Any


@cache
def _options_of(make: Any) -> Mapping[str, _Option]:
    """The keyword options of a function or class, by its signature, without key and lr."""
    target = make.__init__ if inspect.isclass(make) and not is_dataclass(make) else make
    hints = get_type_hints(target)
    if is_dataclass(make):
        return {field.name: _Option(hints[field.name], field.default) for field in fields(make)}
    keywords = inspect.signature(make).parameters.values()
    return {
        found.name: _Option(
            hints[found.name], MISSING if found.default is found.empty else found.default
        )
        for found in keywords
        if found.kind is found.KEYWORD_ONLY and found.name != "key"
    }


def _complete(make: Any, options: Mapping[str, Any], path: str) -> Options:
    if inspect.isclass(make) and issubclass(make, Settings):
        read = read_settings(options, make, path=path)
        return tuple(sorted((field.name, getattr(read, field.name)) for field in fields(read)))
    known = _options_of(make)
    found = {}
    for name, value in options.items():
        place = f"{path}.{name}" if path else str(name)
        if name not in known:
            raise unknown_key(path, name, list(known))
        found[name] = read_value(value, known[name].hint, place)
    for name, option in known.items():
        if name not in found and option.default is MISSING:
            place = f"{path}.{name}" if path else name
            raise TaskError(f"{place} is missing", why="it has no default", where=path or place)
        if name not in found and option.default is not None:
            found[name] = option.default
    return tuple(sorted(found.items()))


def _made(name: str, make: Callable[[], Any]) -> None:
    """What the choice itself says of its options' ranges, as an error of a task."""
    try:
        make()
    except FedcoreError as error:
        raise TaskError(f"{name}: {error.what}", why=error.why, fix=error.fix) from error
