"""`Module`, the base of all layers: a value that is called, printed, stored and rebuilt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from fedcore.autograd.tree import flatten_paths, unflatten
from fedcore.errors import ArgumentError, CheckpointError, FedcoreError, user_line
from fedcore.nn.context import Context, passes
from fedcore.nn.summary import summary
from fedcore.nn.tree import ModuleTree, attributes, is_child, modules, replace_modules
from fedcore.tensor.backend import is_array, to_host
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["Module"]

Self = TypeVar("Self", bound="Module")


def _no_forward(module: ModuleTree, *inputs: Any, ctx: Context) -> NoReturn:
    raise ArgumentError(
        f"{type(module).__name__} has no forward",
        where=user_line(),
        why="it says what a module computes",
        fix="write def forward(self, x, ctx):",
    )


class Module(ModuleTree):
    """A layer or model: assign parameters and parts in `__init__`, compute in `forward`.

    `forward(self, x, ctx)` gets the context of the pass; give it to every part that is called, as
    `self.part(x, ctx=ctx)`, or dropout and batch statistics inside stay as in evaluation. A module
    is not changed after `__init__`: training gives a new one.

    >>> class Scale(Module):
    ...     def __init__(self, size):
    ...         self.factor = tensor(np.ones(size, np.float32))
    ...     def forward(self, x, ctx):
    ...         return x * self.factor
    >>> Scale(2)(tensor([3.0, 4.0])).tolist(), list(Scale(2).parameters())
    ([3.0, 4.0], ['factor'])

    An array named in `state_names` is state: it is stored but not trained. The context reads and
    writes it; the module keeps what it began with.

    >>> class Center(Module):
    ...     state_names = ("mean",)
    ...     def __init__(self, size):
    ...         self.mean = tensor(np.zeros(size, np.float32))
    ...     def forward(self, x, ctx):
    ...         if ctx.training:
    ...             ctx.write(self, "mean", ctx.read(self, "mean") * 0.5 + x.mean(axis=0) * 0.5)
    ...         return x - ctx.read(self, "mean")
    >>> center = Center(2)
    >>> ctx = Context(center, training=True)
    >>> center(tensor([[2.0, 4.0], [2.0, 8.0]]), ctx=ctx).tolist()
    [[1.0, 1.0], [1.0, 5.0]]
    >>> ctx.state.tolist(), center.mean.tolist()  # fedcore.nn.ravel_state puts it into a model
    ([1.0, 3.0], [0.0, 0.0])
    """

    forward: Callable[..., Any] = _no_forward

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "forward" in vars(cls) and not _takes_context(cls.forward):
            raise ArgumentError(
                f"{cls.__name__}.forward takes no ctx",
                where=user_line(),
                why="the context of the pass is handed to every layer as ctx=ctx",
                fix="write def forward(self, x, ctx):",
            )

    def __call__(self, *inputs: Any, ctx: Context | None = None) -> Any:
        """`forward` on `inputs`; without a context as in evaluation.

        Raises: what the layers raise, named by the path of the layer; ArgumentError for a part that
        is called without `ctx` inside a pass that trains or was given a state.
        """
        outer = passes.running
        if ctx is None:
            ctx = Context.of_call(self)
        given = [tensor(x) if is_array(x) else x for x in inputs]
        passes.running = ctx
        try:
            if ctx.trace is None:
                return self.forward(*given, ctx=ctx)
            with ctx.trace.inside(ctx.path(self), self) as call:
                call.output = self.forward(*given, ctx=ctx)
            return call.output
        except FedcoreError as error:
            if ctx.named_error is not error:
                ctx.named_error = error
                path, kind = ctx.find(self), type(self).__name__
                error.what = f"{f'{path} ({kind})' if path else kind}: {error.what}"
            raise
        finally:
            passes.running = outer

    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors by path, in the order in which `ravel` lays them out."""
        return {path: tensor(value) for path, value in flatten_paths(self)[0]}

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Parameters and state by path as NumPy arrays: what a checkpoint stores."""
        arrays = {path: value.numpy() for path, value in self.parameters().items()}
        return arrays | {
            f"{path}.{name}" if path else name: value.numpy()
            for path, module in modules(self)
            for name, value in module.state().items()
        }

    def summary(self, input_shape: int | tuple[int, ...], *, dtype: str = "float32") -> str:
        """The table of `fedcore.nn.summary` for this model."""
        return summary(self, input_shape, dtype=dtype)

    def with_state_dict(self: Self, arrays: Mapping[str, Any]) -> Self:
        """The same model with these parameters and this state: the inverse of `state_dict`.

        Raises: CheckpointError listing what is missing, unexpected or of another shape or dtype;
        ArgumentError for what is no mapping.
        """
        if not isinstance(arrays, Mapping):
            raise ArgumentError(
                f"with_state_dict: the arrays are a {type(arrays).__name__}",
                where=user_line(),
                why="parameters and state are found by their paths",
                fix="pass a mapping of arrays, such as load_checkpoint(path).arrays",
            )
        own = self.state_dict()
        problems = [f"missing: {path}" for path in sorted(own.keys() - arrays.keys())]
        problems += [f"unexpected: {path}" for path in sorted(arrays.keys() - own.keys())]
        for path in own.keys() & arrays.keys():
            given = to_host(arrays[path])
            if (given.shape, given.dtype) != (own[path].shape, own[path].dtype):
                problems.append(
                    f"{path} is {given.dtype} {given.shape}, "
                    f"expected {own[path].dtype} {own[path].shape}"
                )
        if problems:
            raise CheckpointError(
                f"these arrays do not fit the {type(self).__name__}",
                why="; ".join(sorted(problems)[:8]),
                fix="load them into the model that they were saved from",
            )
        pairs, structure = flatten_paths(self)

        def loaded(path: str, like: Any) -> Tensor:
            return Tensor(tensor(like).backend.asarray(np.array(to_host(arrays[path]))))

        model: Self = unflatten(structure, [loaded(path, value) for path, value in pairs])

        def restored(path: str, module: ModuleTree) -> ModuleTree:
            prefix = f"{path}." if path else ""
            return module.with_state(
                {name: loaded(prefix + name, like) for name, like in module.state().items()}
            )

        return replace_modules(model, restored)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        options, parts = [], []
        for name, value in vars(self).items():
            if name in self.state_names:
                continue
            for path, item in attributes(value, name):
                if isinstance(item, ModuleTree) or (path != name and callable(item)):
                    parts.append(f"{path}: {_shown(item)}")
                elif is_child(item):
                    options.append(f"{path} {tensor(item).shape}")
                elif item is not None:
                    options.append(f"{path}={_shown(item)}")
        head = f"{type(self).__name__}({', '.join(options)}"
        inside = "\n".join(parts).replace("\n", "\n  ")
        return f"{head}\n  {inside}\n)" if parts else f"{head})"


def _takes_context(forward: Callable[..., Any]) -> bool:
    try:
        inspect.signature(forward).bind_partial(ctx=None)
    except TypeError:
        return False
    return True


def _shown(item: Any) -> str:
    if isinstance(item, ModuleTree):
        return repr(item)
    return str(item.name if isinstance(item, Primitive) else getattr(item, "__name__", item))
