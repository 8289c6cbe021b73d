"""From one dataset to many clients, and from many clients back to lane arrays.

`group_by` cuts a dataset where nature did: one client per writer, patient or phone. `stack_clients`
lays clients side by side, one lane each, so that one program trains all of them at once; clients
with fewer rows than the largest have steps of weight zero at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data.batching import Batch, batch_plan
from fedcore.data.dataset import Dataset
from fedcore.errors import ArgumentError, DatasetError
from fedcore.tensor.random import Key

__all__ = ["group_by", "stack_clients"]


def group_by(dataset: Dataset, ids: NDArray[Any]) -> list[Dataset]:
    """One dataset per distinct id, in sorted order of id, each named by its id.

    Shapes: ids (N,). Rows keep their order within a group. `numpy.unique(ids)` gives the ids.
    Raises: DatasetError if `ids` is not one id a row, or an id is NaN.

    >>> data = Dataset(np.arange(4), np.arange(4))
    >>> [(g.name, g.x.tolist()) for g in group_by(data, np.array([7, 3, 7, 3]))]
    [('3', [1, 3]), ('7', [0, 2])]
    """
    ids = np.asarray(ids)
    if ids.shape != (len(dataset),) or ids.dtype.hasobject:
        raise DatasetError(
            f"group_by: ids are {ids.dtype} of shape {ids.shape} for {len(dataset)} rows",
            why="every row belongs to one client",
            fix=f"pass {len(dataset)} integers or texts",
        )
    if ids.dtype.kind == "f" and bool(np.isnan(ids).any()):
        raise DatasetError(
            "group_by: some ids are NaN",
            why="a row with no id belongs to no client",
            fix="leave these rows out first: data[~numpy.isnan(ids)]",
        )
    order = np.argsort(ids, kind="stable")
    names, starts = np.unique(ids[order], return_index=True)
    groups = np.split(order, starts[1:])
    return [
        Dataset(dataset.x[rows], dataset.y[rows], str(name))
        for name, rows in zip(names, groups, strict=True)
    ]


def stack_clients(
    datasets: Sequence[Dataset],
    size: int,
    *,
    keys: Sequence[Key] | None = None,
    epochs: int = 1,
    shuffle: bool = True,
) -> Batch:
    """The batches of all clients for `epochs` epochs, one lane a client.

    Lane p holds what `datasets[p].batches(size, key=keys[p], epoch=e)` yields for e = 0, 1, ...,
    one after another, then steps of weight 0 until the client with most steps is done. These must
    leave their client as it is: plain gradient descent without weight decay does, anything with
    momentum, moments or batch statistics needs `fedcore.training.skip_empty` around its step.

    Shapes: x (P, steps, size, ...), y (P, steps, size, ...), weight (P, steps, size).
    Memory: P times the largest client; stack clients of similar size together.
    Raises: DatasetError if there are no clients or their rows differ in shape or dtype;
    ArgumentError if `epochs` or `size` is less than 1, or keys are missing or of another number.
    """
    if epochs < 1:
        raise ArgumentError(
            f"stack_clients: epochs is {epochs}",
            why="a client makes at least one pass over its rows",
            fix="pass an integer of at least 1",
        )
    if keys is not None and len(keys) != len(datasets):
        raise ArgumentError(
            f"stack_clients: {len(keys)} keys for {len(datasets)} clients",
            why="each client's order depends on its own key, whoever else is stacked with it",
            fix="pass one key a client: Key(seed, purpose, round=round, client=id)",
        )
    _check_alike(datasets)
    lane_keys: Sequence[Key | None] = keys if keys is not None else [None] * len(datasets)
    steps = epochs * max(dataset.steps_per_epoch(size) for dataset in datasets)
    first, lanes = datasets[0], len(datasets)
    x = np.empty((lanes, steps, size, *first.x.shape[1:]), first.x.dtype)
    y = np.empty((lanes, steps, size, *first.y.shape[1:]), first.y.dtype)
    weight = np.zeros((lanes, steps, size), np.float32)
    for lane, (dataset, key) in enumerate(zip(datasets, lane_keys, strict=True)):
        plans = [
            batch_plan(len(dataset), size, key=key, epoch=epoch, shuffle=shuffle)
            for epoch in range(epochs)
        ]
        rows = np.concatenate([plan.rows for plan in plans])
        used = len(rows)
        # Steps beyond a client's own repeat its last rows: finite values, which weight 0 removes.
        rows = np.concatenate([rows, np.broadcast_to(rows[-1], (steps - used, size))])
        np.take(dataset.x, rows, axis=0, out=x[lane], mode="clip")
        np.take(dataset.y, rows, axis=0, out=y[lane], mode="clip")
        weight[lane, :used] = np.concatenate([plan.weight for plan in plans])
    return Batch(x, y, weight)


def _check_alike(datasets: Sequence[Dataset]) -> None:
    rows = {(d.x.shape[1:], d.x.dtype, d.y.shape[1:], d.y.dtype) for d in datasets}
    if len(rows) != 1:
        raise DatasetError(
            f"stack_clients: {len(rows)} kinds of rows among {len(datasets)} clients",
            why="lanes lie in one array, so the rows of all clients have one shape and one dtype",
            fix="pass at least one client, and bring all to the same features and dtypes first",
        )
