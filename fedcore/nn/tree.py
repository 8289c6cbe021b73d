"""How a layer opens itself to `grad`, `vmap` and `ravel`: parameters, modules, state, options.

A floating array found in an attribute, or in lists, tuples and dicts there, is a parameter, and a
module found there is a part. An array whose attribute is named in `state_names` is state: it is
not trained, and no derivative, optimiser or flat vector of parameters sees it. All else is static.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from fedcore.errors import MutationError, user_line
from fedcore.tensor.backend import is_array
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["ModuleTree", "attributes", "is_child", "modules", "replace_modules"]

Self = TypeVar("Self", bound="ModuleTree")


class ModuleTree:
    """An object of parameters and modules that is never changed, only rebuilt with others.

    Attributes are assigned until the `__init__` of its own class returns.
    Raises: MutationError for an assignment after that.
    """

    __slots__ = ("__dict__", "__weakref__", "_complete")

    state_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__init__ = _completing(cls.__init__)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_complete", False):
            raise MutationError(
                f"{type(self).__name__}.{name} is assigned to after __init__",
                where=user_line(),
                why="programs and derivatives rely on a module that stays as it was made",
                fix="make a new module, or give forward what changes as an argument",
            )
        object.__setattr__(self, name, value)

    def tree_children(self) -> tuple[tuple[str, ...], list[Any], Any]:
        """The paths and values of parameters and modules, in the order of assignment."""
        pairs = [
            pair
            for name, value in vars(self).items()
            if name not in self.state_names
            for pair in children(value, name)
        ]
        return tuple(path for path, _ in pairs), [child for _, child in pairs], Static(self)

    def tree_rebuild(self: Self, values: Sequence[Any]) -> Self:
        """The same module with other parameters and modules; the state stays."""
        remaining = iter(values)
        return self._with(lambda name, value: refilled(value, lambda _: next(remaining)))

    def state(self) -> dict[str, Tensor]:
        """The state of this module alone, by name."""
        return {name: tensor(getattr(self, name)) for name in self.state_names}

    def with_state(self: Self, values: Mapping[str, Any]) -> Self:
        """The same module with other state, by name."""
        changed = copy.copy(self)
        vars(changed).update(values)
        return changed

    def _with(self: Self, change: Callable[[str, Any], Any]) -> Self:
        changed = copy.copy(self)
        for name, value in vars(self).items():
            if name not in self.state_names:
                vars(changed)[name] = change(name, value)
        return changed


def _completing(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, after which nothing is assigned, unless it is called by that of a subclass."""

    @functools.wraps(init)
    def initialise(self: ModuleTree, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if getattr(type(self).__init__, "__wrapped__", None) is init:
            self._complete = True

    return initialise


def attributes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What the value of an attribute holds, with paths; containers are opened."""
    if _is_plain(value):
        yield path, value
    else:
        for key, item in _items(value):
            yield from attributes(item, f"{path}.{key}")


def children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The parameters and modules in the value of an attribute, with their paths."""
    return ((name, item) for name, item in attributes(value, path) if is_child(item))


def _is_plain(value: Any) -> bool:
    if not isinstance(value, dict | list | tuple):
        return True
    return all(isinstance(item, bool | int | float | str) for _, item in _items(value))


def is_child(value: Any) -> bool:
    """Whether `value` is a module or a floating array."""
    if isinstance(value, ModuleTree):
        return True
    return (isinstance(value, Tensor) or is_array(value)) and value.dtype.kind == "f"


def refilled(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change(child)` for each of its `children`, in their order."""
    if is_child(value):
        return change(value)
    if isinstance(value, dict):
        changed = {key: refilled(item, change) for key, item in _items(value)}
        return {key: changed[key] for key in value}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[refilled(item, change) for item in value])
    if isinstance(value, list | tuple):
        return type(value)(refilled(item, change) for item in value)
    return value


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list | tuple):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    return []


class Static:
    """What a module holds beside its children; compared only when two structures are.

    Arrays compare by identity: a program recorded with one state is not replayed with another.
    """

    __slots__ = ("module",)

    def __init__(self, module: ModuleTree) -> None:
        self.module = module

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static):
            return NotImplemented
        if self.module is other.module:
            return True
        mine, its = vars(self.module), vars(other.module)
        hidden = self.module.state_names
        return mine.keys() == its.keys() and all(
            value is its[name] or (name not in hidden and _same(value, its[name]))
            for name, value in mine.items()
        )

    def __hash__(self) -> int:
        return hash(type(self.module))


def _same(value: Any, other: Any) -> bool:
    """Whether two values of an attribute are equal but for the children that they hold."""
    if is_child(value):
        return is_child(other)
    if type(value) is not type(other) or isinstance(value, Tensor) or is_array(value):
        return False
    if isinstance(value, dict | list | tuple):
        pairs, others = _items(value), _items(other)
        return len(pairs) == len(others) and all(
            key == its and (x is y or _same(x, y))
            for (key, x), (its, y) in zip(pairs, others, strict=True)
        )
    return bool(value == other)


def modules(tree: Any, path: str = "") -> Iterator[tuple[str, ModuleTree]]:
    """Every module in `tree` with its path, each before its parts.

    `tree` is a module, or lists, tuples and dicts of them.
    """
    if isinstance(tree, ModuleTree):
        yield path, tree
        names, parts, _ = tree.tree_children()
        for name, part in zip(names, parts, strict=True):
            if isinstance(part, ModuleTree):
                yield from modules(part, f"{path}.{name}" if path else name)
    else:
        for key, item in _items(tree):
            yield from modules(item, f"{path}.{key}" if path else str(key))


def replace_modules(tree: Any, change: Callable[[str, ModuleTree], Any], path: str = "") -> Any:
    """`tree` with `change(path, module)` for every module, parts before what holds them."""
    if isinstance(tree, ModuleTree):
        names, parts, _ = tree.tree_children()
        changed = [
            replace_modules(part, change, f"{path}.{name}" if path else name)
            for name, part in zip(names, parts, strict=True)
        ]
        return change(path, tree.tree_rebuild(changed))
    if isinstance(tree, dict):
        return {
            key: replace_modules(item, change, f"{path}.{key}" if path else str(key))
            for key, item in tree.items()
        }
    if isinstance(tree, list | tuple):
        parts = [
            replace_modules(item, change, f"{path}.{key}" if path else str(key))
            for key, item in _items(tree)
        ]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree
