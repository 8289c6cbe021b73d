"""Two models side by side: how far each of their arrays has moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import Entry, Spec
from fedcore.errors import ArgumentError, CheckpointError, DataFormatError, FedcoreError
from fedcore.model_format import read_model

__all__ = ["Difference", "compare", "read_arrays"]

_MOST_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one array: max |Δ|, the L2 norm of Δ, and the cosine of both, None if one of them is 0."""

    name: str
    shape: tuple[int, ...]
    largest: float
    norm: float
    cosine: float | None


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of a model file by name, as views of the file. Raises: DataFormatError, and so on.

    What the header claims gives the expectation by which the whole file is then read strictly.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, _MOST_HEADER))
            spec = _claimed(header, path)
            arrays: dict[str, NDArray[np.float32]] = spec.split(
                read_model(file, spec, mapped=True).vector
            )
            return arrays
    except FedcoreError:  # some of which are an OSError, too
        raise
    except OSError as error:
        raise ArgumentError(
            f"{path.name} cannot be read",
            why=(error.strerror or str(error)).lower(),
            fix="name a file that `fed model export` wrote, or a digest",
        ) from None


def compare(
    first: dict[str, NDArray[np.float32]], second: dict[str, NDArray[np.float32]]
) -> Iterator[Difference]:
    """The difference of each array, in the first's order. Raises: CheckpointError for other shapes.

    >>> a, b = np.float32([3, 4]), np.float32([3, 0])
    >>> next(compare({"w": a}, {"w": b}))
    Difference(name='w', shape=(2,), largest=4.0, norm=4.0, cosine=0.6)
    """
    shapes = [{name: one.shape for name, one in arrays.items()} for arrays in (first, second)]
    if shapes[0] != shapes[1]:
        names = sorted(set(shapes[0]) | set(shapes[1]))
        name = next(name for name in names if shapes[0].get(name) != shapes[1].get(name))
        raise CheckpointError(
            "these are two different models",
            why=f"{name} is {_shape(shapes[0].get(name))} in the one and "
            f"{_shape(shapes[1].get(name))} in the other",
            fix="compare models of one task",
        )
    for name, array in first.items():
        yield _difference(name, array, second[name])


def _difference(name: str, one: NDArray[Any], other: NDArray[Any]) -> Difference:
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    delta = a - b
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return Difference(
        name,
        one.shape,
        float(np.max(np.abs(delta), initial=0.0)),
        float(np.linalg.norm(delta)),
        float(a @ b) / norms if norms else None,
    )


def _claimed(header: bytes, path: Path) -> Spec:
    """The layout that a header claims, each array behind the one before."""
    try:
        found = json.loads(header)
        shapes = [
            (str(name), tuple(int(size) for size in one["shape"]))
            for name, one in found.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise DataFormatError(
            f"{path.name} is no model file",
            why="it does not begin with the header of a safetensors file",
            fix="name a file that `fed model export` wrote",
        ) from None
    entries, offset = [], 0
    for name, shape in shapes:
        entry = Entry(name, shape, offset)
        entries.append(entry)
        offset += entry.size
    return Spec(tuple(entries), np.dtype(np.float32))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(shape)
