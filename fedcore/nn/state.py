"""`ravel_state`: what a model remembers but does not train, as a second flat vector."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from fedcore.autograd.ravel import Spec
from fedcore.errors import ShapeError, user_line
from fedcore.nn.context import Context, state_spec
from fedcore.nn.tree import ModuleTree, replace_modules
from fedcore.tensor.ops.flat import leaf
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["RebuildState", "ravel_state"]

Model = TypeVar("Model")


class RebuildState(Generic[Model]):
    """Gives a model the state held in a flat vector; keeps the layout as `spec`."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __call__(self, model: Model, vector: Any) -> Model:
        vector = tensor(vector)
        if vector.shape != (self.spec.size,):
            raise ShapeError(
                f"rebuild_state: the vector has shape {vector.shape}, "
                f"the model {self.spec.size} numbers of state",
                where=user_line(),
                why="each state is a view of the vector",
                fix="use the vector that ravel_state made; map over clients with vmap",
            )

        def stateful(path: str, module: ModuleTree) -> ModuleTree:
            prefix = f"{path}." if path else ""
            entries = {name: self.spec[prefix + name] for name in module.state_names}
            return module.with_state(
                {n: leaf(vector, offset=e.offset, shape=e.shape) for n, e in entries.items()}
            )

        return replace_modules(model, stateful)  # type: ignore[no-any-return]


def ravel_state(model: Model) -> tuple[Tensor, RebuildState[Model]]:
    """The state of `model` in one new vector (S,), and the function that puts one into a model.

    A forward pass takes it as `Context(model, state=vector)` and leaves the new one in
    `context.state`.

    >>> from fedcore.nn.linear import Linear
    >>> ravel_state(Linear(2, 2, key=0))[0].shape
    (0,)
    """
    spec = state_spec(model)
    before = Context(model).state
    return Tensor(before.data.copy()), RebuildState(spec)
