"""From a task's description of a model to the model: the same numbers wherever it is built."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.errors import FedcoreError, ProgramError, TaskError
from fedcore.federated.layers import LAYERS, layer_size
from fedcore.federated.spec import LARGEST_DIMENSION, ModelSpec
from fedcore.tensor.random import Key

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["MODEL_GROUP", "build_model", "initial_theta", "require_small", "sizes_of"]

MODEL_GROUP: Final = "fedcore.models"
"""Entry points of installed packages: each a function of options, and of `key`, to a module."""


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """The model with its first parameters, which depend on `seed` alone.

    Raises: ProgramError for a name that is not installed, or for a model of plain arrays, which
    belongs to the program that trains it; TaskError for options that the model refuses.

    >>> from fedcore.federated.choices import LayerSpec
    >>> layers = (LayerSpec(name="linear", options=(("inputs", 2), ("outputs", 1))),)
    >>> build_model(ModelSpec(layers=layers), 1)
    Sequential(
      layers.0: Linear(weight (2, 1), bias (1,))
    )
    """
    if spec.layers:
        require_small(spec)
        return _sequential(spec, Key(seed, "model"))
    if spec.name is not None:
        return _installed(spec, Key(seed, "model"))
    raise ProgramError(
        "a model of plain arrays has nothing to build",
        why="it belongs to the program that trains it",
        fix="name layers or an installed model, or hand in the first model with the task",
    )


def initial_theta(task: Task) -> NDArray[np.float32]:
    """The first model of a task as one vector (D,): its parameters, and then its state.

    Raises: as `build_model`.
    """
    model = build_model(task.model, task.seed)
    parts = [ravel(model)[0].numpy(), nn.ravel_state(model)[0].numpy()]
    return np.concatenate([part.astype(np.float32) for part in parts])


def sizes_of(spec: ModelSpec, seed: int) -> tuple[tuple[int, ...], int]:
    """How many numbers each array of a model has, parameters and then state; and the state's sum.

    Raises: as `build_model`; TaskError for a model of more than 10^9 numbers, before it is made.
    """
    require_small(spec)
    if spec.arrays:
        return tuple(array.size for array in spec.arrays), 0
    model = build_model(spec, seed)
    state, rebuilt = nn.ravel_state(model)
    entries = (*ravel(model)[1].spec, *rebuilt.spec)
    return tuple(entry.size for entry in entries if entry.size), int(state.size)


def require_small(spec: ModelSpec) -> None:
    """Raises: TaskError if layers or arrays hold more numbers than a model may have."""
    size = sum(layer_size(layer.name, dict(layer.options)) for layer in spec.layers)
    size += sum(array.size for array in spec.arrays)
    if size > LARGEST_DIMENSION:
        raise TaskError(
            f"a model of {size:,} numbers",
            why=f"a model has at most {LARGEST_DIMENSION:,}",
            fix="take smaller layers",
            where="model",
        )


def _sequential(spec: ModelSpec, key: Key) -> nn.Module:
    layers = []
    for index, layer in enumerate(spec.layers):
        make = LAYERS[layer.name]
        options: dict[str, Any] = dict(layer.options)
        if "key" in inspect.signature(make).parameters:
            options["key"] = key.fold(index)
        try:
            layers.append(make(**options))
        except (FedcoreError, TypeError, ValueError) as error:
            what = error.what if isinstance(error, FedcoreError) else str(error)
            raise TaskError(
                f"model.layers[{index}], {layer.name}: {what}",
                why=getattr(error, "why", ""),
                fix=getattr(error, "fix", ""),
                where=f"model.layers[{index}]",
            ) from error
    return nn.Sequential(*layers)


def _installed(spec: ModelSpec, key: Key) -> nn.Module:
    installed = entry_points(group=MODEL_GROUP)
    if spec.name not in installed.names:
        known = ", ".join(sorted(installed.names)) or "none"
        raise ProgramError(
            f"no model {spec.name!r} is installed",
            why=f"a task names models and never brings one; here there are: {known}",
            fix=f"install the package that provides it as an entry point of {MODEL_GROUP}",
        )
    make = installed[spec.name].load()
    options: dict[str, Any] = dict(spec.options)
    signature = inspect.signature(make)
    if "key" in signature.parameters:
        options["key"] = key
    try:
        signature.bind(**options)
    except TypeError as error:
        raise TaskError(
            f"model {spec.name!r}: {error}",
            why=f"it takes {signature}",
            fix="correct model.options",
            where="model.options",
        ) from error
    model = make(**options)
    if not isinstance(model, nn.Module):
        raise ProgramError(
            f"the model {spec.name!r} is a {type(model).__name__}",
            why="parameters are found in an nn.Module",
            fix="let the entry point return one",
        )
    return model
