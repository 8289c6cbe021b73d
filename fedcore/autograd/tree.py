"""Pytrees: containers and modules seen as a list of leaves and a structure that can be compared.

Arguments of `grad`, `vmap` and `compile` may be lists, tuples, dicts, None, modules and any nesting
of them; leaves are tensors, arrays and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedcore.errors import TreeError, user_line
from fedcore.tensor.backend import backend_of, is_array
from fedcore.tensor.tensor import Tensor

__all__ = ["Structure", "TreeNode", "flatten", "flatten_paths", "map_tree", "unflatten"]


class TreeNode(Protocol):
    """A class that opens itself to the tree functions: a module, or a user's own container."""

    def tree_children(self) -> tuple[tuple[str, ...], list[Any], Any]:
        """Names and values of the children, and static data that compares by equality."""
        ...

    def tree_rebuild(self, children: Sequence[Any]) -> Any:
        """The same object with other children."""
        ...


@dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a pytree: its kind, its children's names and structures, and the leaf count."""

    kind: type | None
    names: tuple[Any, ...]
    children: tuple[Structure, ...]
    static: Any
    leaves: int
    prototype: Any = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Structure)
            and self.kind is other.kind
            and self.names == other.names
            and self.static == other.static
            and self.children == other.children
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.names, self.children))

    def without_arrays(self, leaves: Sequence[Any]) -> Structure:
        """An equal structure whose prototypes hold zeros in the memory of one for these leaves."""
        return flatten(unflatten(self, [_one_zero(x) for x in leaves]))[1]

    def __repr__(self) -> str:
        if self.kind is None:
            return "*"
        inside = ", ".join(f"{n}: {c!r}" for n, c in zip(self.names, self.children, strict=True))
        return f"{self.kind.__name__}({inside})"


_LEAF = Structure(None, (), (), None, 1)
_DEPTH = 200  # levels, well within the depth of Python's own recursion


def _one_zero(leaf: Any) -> Any:
    array = leaf.data if isinstance(leaf, Tensor) else leaf
    if not is_array(array):
        return leaf
    xp = backend_of(array).xp
    zeros = xp.broadcast_to(xp.zeros((), dtype=array.dtype), array.shape)
    return Tensor(zeros) if isinstance(leaf, Tensor) else zeros


def _open(tree: Any) -> tuple[tuple[Any, ...], list[Any], Any, Any] | None:
    """Names, children, static data and prototype of a container, or None for a leaf."""
    if tree is None:
        return (), [], None, None
    if isinstance(tree, dict):
        keys = _sorted_keys(tree)
        return tuple(keys), [tree[k] for k in keys], None, None
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tuple(tree._fields), list(tree), None, None
    if isinstance(tree, list | tuple):
        return tuple(range(len(tree))), list(tree), None, None
    if hasattr(type(tree), "tree_children"):
        names, children, static = tree.tree_children()
        return names, children, static, tree
    return None


def _sorted_keys(tree: dict[Any, Any]) -> list[Any]:
    try:
        return sorted(tree)
    except TypeError:
        raise TreeError(
            f"the keys of a dict cannot be sorted: {list(tree)!r:.200}",
            where=user_line(),
            why="leaves are taken in the order of the keys, whatever the order of insertion",
            fix="use keys of one type, such as strings",
        ) from None


def _walk(tree: Any, path: str, leaves: list[tuple[str, Any]], depth: int = 0) -> Structure:
    opened = _open(tree)
    if opened is None:
        leaves.append((path, tree))
        return _LEAF
    if depth == _DEPTH:
        raise TreeError(
            f"a {type(tree).__name__} lies within {_DEPTH} others, at {path:.40}...",
            where=user_line(),
            why="a container that contains itself has no end",
            fix="check what was appended to it, or nest less deeply",
        )
    names, children, static, prototype = opened
    structures = tuple(
        _walk(child, f"{path}.{name}" if path else str(name), leaves, depth + 1)
        for name, child in zip(names, children, strict=True)
    )
    kind = dict if isinstance(tree, dict) else type(tree)
    return Structure(kind, names, structures, static, sum(s.leaves for s in structures), prototype)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves in order, and the structure that `unflatten` needs; dicts come back plain.

    Raises: TreeError for keys that cannot be sorted, and for a container that contains itself.

    >>> flatten({"b": 2, "a": [0, 1]})[0]
    [0, 1, 2]
    """
    found: list[tuple[str, Any]] = []
    structure = _walk(tree, "", found)
    return [leaf for _, leaf in found], structure


def flatten_paths(tree: Any) -> tuple[list[tuple[str, Any]], Structure]:
    """As `flatten`, each leaf with its path, such as "conv1.weight"."""
    found: list[tuple[str, Any]] = []
    return found, _walk(tree, "", found)


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The tree of `structure` with these leaves.

    Raises: TreeError if their number is wrong.
    """
    if len(leaves) != structure.leaves:
        raise TreeError(
            f"a tree of {structure.leaves} leaves cannot hold {len(leaves)}",
            where=user_line(),
            why=f"its structure is {structure!r}",
            fix="pass one value for each leaf",
        )
    return _build(structure, iter(leaves))


def _build(structure: Structure, leaves: Any) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    children = [_build(child, leaves) for child in structure.children]
    if kind is type(None):
        return None
    if kind is dict:
        return dict(zip(structure.names, children, strict=True))
    if structure.prototype is not None:
        return structure.prototype.tree_rebuild(children)
    make: Any = kind
    return make(*children) if hasattr(kind, "_fields") else make(children)


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` applied to corresponding leaves of trees of one structure.

    Raises: TreeError if the structures differ.

    >>> map_tree(lambda a, b: a + b, {"x": 1}, {"x": 2})
    {'x': 3}
    """
    leaves, structure = flatten(tree)
    columns = [leaves]
    for other in others:
        values, its = flatten(other)
        if its != structure:
            raise TreeError(
                f"the trees differ: {structure!r} and {its!r}",
                where=user_line(),
                why="leaves are combined one by one",
                fix="pass trees of one structure",
            )
        columns.append(values)
    return unflatten(structure, [function(*row) for row in zip(*columns, strict=True)])
