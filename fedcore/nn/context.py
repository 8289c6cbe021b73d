"""What one forward pass has beside its input: training or not, random keys, state in and state out.

It is passed explicitly, so that a model stays a value and a forward pass a function.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fedcore.autograd.ravel import Entry, Spec
from fedcore.errors import ArgumentError, ShapeError, TreeError, user_line
from fedcore.nn.tree import ModuleTree, modules
from fedcore.tensor.ops.flat import assemble, leaf
from fedcore.tensor.ops.random import fold_words
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor

if TYPE_CHECKING:
    from fedcore.nn.trace import Trace

__all__ = ["Context", "passes", "state_spec"]


def state_spec(model: Any) -> Spec:
    """The layout of the state of all modules of `model` in one flat vector.

    Raises: TreeError if one module with state stands at two places, which would part in training.
    """
    entries: list[Entry] = []
    offset = 0
    dtype = tensor(0.0).dtype
    seen: dict[int, str] = {}
    for path, module in modules(model):
        first = seen.setdefault(id(module), path) if module.state_names else path
        if first != path:
            raise TreeError(
                f"state: {first!r} and {path!r} are the same {type(module).__name__}",
                where=user_line(),
                why="each place has a state of its own, so the two would part in training",
                fix="hold it in one attribute and call it twice in forward, or make two",
            )
        for name, value in module.state().items():
            entries.append(Entry(f"{path}.{name}" if path else name, value.shape, offset))
            offset += value.size
            dtype = value.dtype
    return Spec(tuple(entries), dtype)


class Context:
    """Mode, randomness and state of one forward pass of `model`.

    `training` turns dropout and batch statistics on. `key` is a seed, a `Key` or its words as a
    tensor (2,); each layer draws from a stream of its own, named by its path and by how often it
    has drawn. `state` is the flat vector (S,) to read, by default the model's own; after the pass
    the attribute `state` is the vector with what the layers have updated.

    >>> Context({}, training=True).training
    True
    """

    def __init__(
        self,
        model: Any,
        *,
        training: bool = False,
        key: Key | int | Tensor | None = None,
        state: Any = None,
    ) -> None:
        self.model, self.training = model, training
        self._key = Key(key, "forward") if isinstance(key, int) else key
        self._given = None if state is None else tensor(state)
        self._written: dict[str, Tensor] = {}
        self._draws: dict[str, int] = {}
        self._paths: dict[int, str] | None = None
        self._spec: Spec | None = None
        self.named_error: Exception | None = None
        self.trace: Trace | None = None

    @classmethod
    def of_call(cls, module: ModuleTree) -> Context:
        """The context of a call that was given none: evaluation with the module's own state.

        Raises: ArgumentError inside a pass that trains or reads a state: the part would not see it.
        """
        running = passes.running
        if running is None or not (running.training or running._given is not None):
            return cls(module)
        path, kind = running.find(module), type(module).__name__
        raise ArgumentError(
            f"{f'{path} ({kind})' if path else kind} is called without ctx",
            where=user_line(),
            why="the pass that is running trains or has a state, which this part would not see: "
            "dropout and batch statistics inside it would stay as in evaluation",
            fix="hand the context on: self.part(x, ctx=ctx); another model takes one of its own: "
            "other(x, ctx=Context(other))",
        )

    def path(self, module: ModuleTree) -> str:
        """The path of `module` in the model, such as "blocks.0.norm"; "" for the model itself.

        Raises: ArgumentError if the module is not part of the model.
        """
        path = self.find(module)
        if path is None:
            raise ArgumentError(
                f"context: this {type(module).__name__} is not part of the context's model",
                where=user_line(),
                why="streams of random numbers and state are found by a layer's path",
                fix="make the context from the very model that is called: Context(model, ...)",
            )
        return path

    def find(self, module: ModuleTree) -> str | None:
        """As `path`, but None for a module that is not part of the model."""
        if self._paths is None:
            self._paths = {id(module): path for path, module in reversed([*modules(self.model)])}
        return self._paths.get(id(module))

    def key(self, module: ModuleTree) -> Tensor:
        """The words (2,) of a key for the next draw of `module`.

        Raises: ArgumentError if the context was made without a key.
        """
        path = self.path(module)
        if self._key is None:
            raise ArgumentError(
                f"{type(module).__name__}: the context has no key",
                where=user_line(),
                why="a layer that draws in training needs a stream that can be repeated",
                fix="pass a seed: Context(model, training=True, key=0)",
            )
        count = self._draws.get(path, 0)
        self._draws[path] = count + 1
        return fold_words(self._key, path=(path, count))

    def read(self, module: ModuleTree, name: str) -> Tensor:
        """The state `name` of `module`, as it stands now in this pass."""
        path = self._state_path(module, name)
        if path in self._written:
            return self._written[path]
        if self._given is None:
            return tensor(getattr(module, name))
        entry = self._layout()[path]
        return leaf(self._given, offset=entry.offset, shape=entry.shape)

    def write(self, module: ModuleTree, name: str, value: Tensor) -> None:
        """Make `value` the state `name` of `module`, for what follows and for the result.

        Raises: ShapeError if it is shaped otherwise than what it replaces.
        """
        before = self.read(module, name)
        if value.shape != before.shape:
            raise ShapeError(
                f"{type(module).__name__}: state {name!r} of shape {before.shape} cannot become "
                f"{value.shape}",
                where=user_line(),
                why="the flat vector of states keeps its layout",
                fix="write a value of the same shape",
            )
        self._written[self._state_path(module, name)] = value

    @property
    def state(self) -> Tensor:
        """The flat vector (S,) of the model's state after what has been written."""
        layout = self._layout()
        own: dict[str, Tensor] = {}
        if self._given is None:
            own = {
                f"{path}.{name}" if path else name: value
                for path, module in modules(self.model)
                for name, value in module.state().items()
            }
        elif not self._written:
            return self._given
        if not layout.entries:
            return tensor([])
        parts = []
        for entry in layout:
            if entry.path in self._written:
                parts.append(self._written[entry.path])
            elif self._given is None:
                parts.append(own[entry.path])
            else:
                parts.append(leaf(self._given, offset=entry.offset, shape=entry.shape))
        offsets = tuple(entry.offset for entry in layout)
        return assemble(parts, offsets=offsets, size=layout.size)

    def _state_path(self, module: ModuleTree, name: str) -> str:
        path = self.path(module)
        return f"{path}.{name}" if path else name

    def _layout(self) -> Spec:
        if self._spec is None:
            self._spec = state_spec(self.model)
            if self._given is not None and self._given.shape != (self._spec.size,):
                raise ShapeError(
                    f"context: the state has shape {self._given.shape}, "
                    f"the model {self._spec.size} numbers of state",
                    where=user_line(),
                    why="the state of all layers is one flat vector",
                    fix="pass the vector that ravel_state made; map over clients with vmap",
                )
        return self._spec


class Passes(threading.local):
    """The pass that the thread is in, since simulators train clients in threads."""

    running: Context | None = None


passes = Passes()
