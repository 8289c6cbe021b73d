"""Clients as nature made them: whoever wrote, owned or collected a row has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DatasetError
from fedsim.partition.dealing import draws, grouped, require_whole
from fedsim.partition.partition import Partition

__all__ = ["natural"]


def natural(
    ids: NDArray[Any], *, minimum: int = 1, clients: int | None = None, seed: int | None = None
) -> Partition:
    """One client an id, in sorted order of id, named by it, as `fedcore.data.group_by` cuts.

    Ids with fewer than `minimum` rows are left out. Of the others `clients` are kept: the first,
    or with a `seed` a sample that is drawn, in sorted order too; by default all. Rows of the ids
    that are left out belong to nobody; every other row to one client.
    Shapes: ids (N,) of integers, texts or real numbers.
    Raises: DatasetError for no ids, several a row, objects or NaN; ArgumentError if fewer than
    `clients` ids have `minimum` rows.

    >>> parts = natural(np.array(["b", "a", "b", "c"]), clients=2)
    >>> parts.names, [part.tolist() for part in parts]
    (('a', 'b'), [[1], [0, 2]])
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.hasobject:
        raise DatasetError(
            f"ids are {ids.dtype} of shape {ids.shape}",
            why="every row belongs to one client",
            fix="pass one integer or text a row",
        )
    if ids.dtype.kind == "f" and bool(np.isnan(ids).any()):
        raise DatasetError(
            "some ids are NaN",
            why="a row with no id belongs to no client",
            fix="leave these rows out first: data[~numpy.isnan(ids)]",
        )
    values, owners, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    kept = _kept(sizes, require_whole("minimum", minimum, least=1), clients, seed)
    rows = grouped(owners, len(values))
    rows = rows[np.repeat(np.isin(np.arange(len(values)), kept), sizes)]
    ends = np.concatenate([[0], np.cumsum(sizes[kept])])
    return Partition(rows, ends, tuple(str(value) for value in values[kept]))


def _kept(
    sizes: NDArray[np.int64], minimum: int, clients: int | None, seed: int | None
) -> NDArray[np.int64]:
    """Which ids become clients, rising."""
    large = np.flatnonzero(sizes >= minimum)
    wanted = 1 if clients is None else require_whole("clients", clients, least=1)
    if len(large) < wanted:
        falling = np.sort(sizes)[::-1]
        possible = [f"at most {len(large)} clients"] if len(large) else []
        possible += (
            [f"a minimum of at most {falling[wanted - 1]} rows"] if wanted <= len(sizes) else []
        )
        possible = possible or [f"one client, and a minimum of at most {falling[0]} rows"]
        raise ArgumentError(
            f"{wanted} clients of at least {minimum} rows each, among {len(sizes)} ids",
            why=f"{len(large)} ids have as many rows",
            fix=f"take {', or '.join(possible)}",
        )
    if clients is None:
        return large
    if seed is None:
        return large[:wanted]
    return np.sort(draws(seed, "natural").choice(large, wanted, replace=False))
