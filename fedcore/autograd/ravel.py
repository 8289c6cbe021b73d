"""A model as one flat vector: optimisers, aggregation, clipping and masks see only (D,) arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from fedcore.autograd.tree import Structure, flatten_paths, unflatten
from fedcore.errors import DtypeError, ShapeError, TreeError, user_line
from fedcore.tensor.backend import current_backend, to_host
from fedcore.tensor.ops.flat import assemble, leaf
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["Entry", "Rebuild", "Spec", "ravel"]

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter: its path ("conv1.weight"), shape, and offset in the flat vector."""

    path: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Spec:
    """The layout of a flat vector; offsets are unpadded, so `size` is the parameter count."""

    entries: tuple[Entry, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """The length of the vector, D."""
        return sum(entry.size for entry in self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, path: str) -> Entry:
        for entry in self.entries:
            if entry.path == path:
                return entry
        raise KeyError(path)

    def split(self, vector: Any) -> dict[str, Any]:
        """Views of `vector`, an array (..., D), by path.

        Raises: ShapeError if its last axis has another length than D.
        """
        if vector.ndim == 0 or vector.shape[-1] != self.size:
            raise ShapeError(
                f"split: the vector is {vector.shape}, the model has {self.size} parameters",
                where=user_line(),
                why="each parameter is a view of the last axis",
                fix="use the vector that ravel made for this model",
            )
        return {
            e.path: vector[..., e.offset : e.offset + e.size].reshape(
                (*vector.shape[:-1], *e.shape)
            )
            for e in self.entries
        }

    def join(self, arrays: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """One vector (D,) of the arrays by path: the inverse of `split`.

        Raises: ShapeError if an array is missing or has another shape.
        """
        vector = np.empty(self.size, dtype=self.dtype)
        for e in self.entries:
            given = to_host(arrays[e.path]) if e.path in arrays else None
            if given is None or given.shape != e.shape:
                found = "nothing" if given is None else given.shape
                raise ShapeError(
                    f"join: parameter {e.path!r} should have shape {e.shape}, found {found}",
                    where=user_line(),
                    why="the vector is laid out by the model's own shapes",
                    fix="pass the arrays of this model",
                )
            vector[e.offset : e.offset + e.size] = given.ravel()
        return vector


class Rebuild(Generic[Model]):
    """Makes the model whose parameters are views of a flat vector; keeps the layout as `spec`."""

    def __init__(self, structure: Structure, spec: Spec) -> None:
        self._structure, self.spec = structure, spec

    def __call__(self, vector: Any) -> Model:
        vector = tensor(vector)
        if vector.ndim != 1 or vector.shape[0] != self.spec.size:
            raise ShapeError(
                f"rebuild: the vector is {vector.shape}, the model has {self.spec.size} parameters",
                where=user_line(),
                why="each parameter is a view of the vector",
                fix="use the vector that ravel made; map over clients with vmap",
            )
        views = [leaf(vector, offset=e.offset, shape=e.shape) for e in self.spec.entries]
        return unflatten(self._structure, views)  # type: ignore[no-any-return]


def ravel(model: Model) -> tuple[Tensor, Rebuild[Model]]:
    """The parameters of `model` in one new vector (D,), and the function that rebuilds it.

    Raises: DtypeError if the parameters are not floating or of several dtypes, TreeError if two
    have one path, or if one module with parameters stands at two places.

    >>> theta, rebuild = ravel({"w": tensor([[1.0, 2.0]]), "b": tensor([0.5])})
    >>> theta.tolist(), rebuild(theta)["w"].shape, rebuild.spec["b"].offset
    ([0.5, 1.0, 2.0], (1, 2), 0)
    """
    pairs, structure = flatten_paths(model)
    _refuse_shared(structure, "", {})
    tensors = [(path, tensor(value)) for path, value in pairs]
    dtypes = {t.dtype for _, t in tensors}
    if len(dtypes) > 1 or any(d.kind != "f" for d in dtypes):
        raise DtypeError(
            "ravel: the parameters are of " + ", ".join(sorted(str(d) for d in dtypes)),
            where=user_line(),
            why="one vector has one floating dtype",
            fix="convert the parameters to float32",
        )
    paths = [path for path, _ in pairs]
    if len(set(paths)) < len(paths):
        raise TreeError(
            f"ravel: two parameters are called {next(p for p in paths if paths.count(p) > 1)!r}",
            where=user_line(),
            why="a parameter's name is the path of keys to it, joined by dots",
            fix="use keys without dots",
        )
    entries: list[Entry] = []
    offset = 0
    for path, t in tensors:
        entries.append(Entry(path, t.shape, offset))
        offset += t.size
    spec = Spec(tuple(entries), next(iter(dtypes), np.dtype(np.float32)))
    if not tensors:
        nothing = current_backend().xp.empty(0, dtype=spec.dtype)
        return Tensor(nothing), Rebuild(structure, spec)
    offsets = tuple(entry.offset for entry in entries)
    vector = assemble([t for _, t in tensors], offsets=offsets, size=offset)
    return vector, Rebuild(structure, spec)


def _refuse_shared(structure: Structure, path: str, seen: dict[int, str]) -> None:
    """Raise a TreeError if one object with leaves stands at two places of the structure.

    Each place has slices of the vector of its own, so that the two would be trained apart.
    """
    if structure.leaves == 0:
        return
    if structure.prototype is not None:
        first = seen.setdefault(id(structure.prototype), path)
        if first != path:
            raise TreeError(
                f"ravel: {first!r} and {path!r} are the same {type(structure.prototype).__name__}",
                where=user_line(),
                why="each place has parameters of its own, so the two would be trained apart",
                fix="hold it in one attribute and call it twice in forward, or make two",
            )
    for name, child in zip(structure.names, structure.children, strict=True):
        _refuse_shared(child, f"{path}.{name}" if path else str(name), seen)
