"""Clients by label: alike, or skewed by Dirichlet proportions, by shards, or by classes.

Each partitioner gives every row to exactly one client, depends on its arguments alone, and ends:
where a minimum is asked for, rows move once, and nothing is drawn again until it fits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DatasetError
from fedsim.partition.dealing import (
    by_owner,
    draws,
    grouped,
    raise_to_minimum,
    require_rows,
    require_whole,
    row_count,
)
from fedsim.partition.labels import class_numbers
from fedsim.partition.partition import Partition

__all__ = [
    "LARGEST_ALPHA",
    "LEAST_ALPHA",
    "classes",
    "dirichlet",
    "dirichlet_by_client",
    "iid",
    "shards",
]

LEAST_ALPHA, LARGEST_ALPHA = 1e-6, 1e6
"""Beyond these, a class has one client, or all clients are alike, whatever else is drawn."""

_MOST_CELLS = 1 << 26  # proportions of clients · classes: about 4 s to draw

Integers = NDArray[np.int64]


def iid(labels_or_count: NDArray[Any] | int, clients: int, *, seed: int) -> Partition:
    """Rows dealt at random; clients' sizes differ by one at most.

    Raises: ArgumentError for more clients than rows; DatasetError for no rows.

    >>> iid(10, 3, seed=1).sizes().tolist()
    [4, 3, 3]
    """
    rows = row_count(labels_or_count)
    require_rows(rows, clients)
    return by_owner(draws(seed, "iid").permutation(np.arange(rows) % clients), clients)


def dirichlet(
    labels: NDArray[Any], clients: int, *, alpha: float, minimum: int = 1, seed: int
) -> Partition:
    """Each class goes to clients by proportions of its own, drawn from a Dirichlet distribution.

    For class k: p_k ~ Dir_P(α, …, α) over the P clients, and each row of the class goes to client
    j with probability p_kj. So labels and sizes are skewed, both more for a smaller α. This is the
    split of Yurochkin et al. 2019 and of NIID-Bench (Li et al. 2022, "distribution-based label
    imbalance"), but that rows are drawn by p_k, where those cut a class at p_k·n_k, and that no
    client is passed over for being large; `dirichlet_by_client` is the split of Hsu et al. 2019.
    Clients with fewer than `minimum` rows then get rows, drawn at random, of the largest clients,
    as few as possible: see `dealing.raise_to_minimum`.
    p_k is never formed. By Pólya's urn (Blackwell and MacQueen 1973, theorem 1), the same rows come
    out if the i-th row of a class, from 0, goes to any client alike with probability
    P·α / (P·α + i), and else where an earlier row of its class went, any of them alike. It takes
    no memory of P · classes, and knows no α for which the proportions underflow.
    Shapes: labels (N,) or (N, 1), classes as `labels.class_numbers` counts them.
    Raises: ArgumentError for α outside [1e-6, 1e6], or clients · minimum above N; DatasetError for
    no labels, or not one a row.
    """
    order, counts = _in_classes(labels, rng := draws(seed, "dirichlet"))
    require_rows(len(order), clients, minimum)
    _require_alpha(alpha)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(order))
    rank = place - start
    fresh = rng.random(len(order)) * (clients * alpha + rank) < clients * alpha
    follows = np.where(fresh | (rank == 0), place, start + rng.integers(np.maximum(rank, 1)))
    while np.any((root := follows[follows]) != follows):  # each turn halves the way to the first
        follows = root
    owners = np.empty(len(order), np.int64)
    owners[order] = rng.integers(clients, size=len(order))[follows]
    return by_owner(raise_to_minimum(owners, clients, minimum=minimum, rng=rng), clients)


def dirichlet_by_client(
    labels: NDArray[Any], clients: int, *, alpha: float, seed: int
) -> Partition:
    """Each client's classes have proportions of its own, drawn around those of all rows.

    For client j: q_j ~ Dir(α·π), where π are the classes' shares of all rows; its labels are drawn
    by q_j, and of a class that has run out no more, so that the last clients served, in a drawn
    order, take what is left. Sizes differ by one at most.
    Where q_j has nothing left in its classes, the rows left are drawn alike.
    Shapes: labels (N,) or (N, 1), classes as `labels.class_numbers` counts them.
    Raises: ArgumentError for α outside [1e-6, 1e6], more clients than rows, or clients · classes
    above 2^26; DatasetError for no labels, or not one a row.
    Source: Hsu, Qi and Brown 2019, "Measuring the effects of non-identical data distribution".
    """
    order, left = _in_classes(labels, rng := draws(seed, "dirichlet_by_client"))
    require_rows(len(order), clients)
    _require_alpha(alpha)
    if clients * len(left) > _MOST_CELLS:
        raise ArgumentError(
            f"{len(left)} classes for {clients} clients",
            why=f"each client's proportions are drawn, at most {_MOST_CELLS} in all",
            fix="put the labels into fewer classes, or take the partitioner dirichlet",
        )
    around = alpha * left / len(order)
    sizes = (len(order) + np.arange(clients)[::-1]) // clients
    taken = np.zeros((len(left), clients), np.int64)
    for client in rng.permutation(clients):
        taken[:, client] = _taken(rng.dirichlet(around), int(sizes[client]), left, rng)
        left = left - taken[:, client]
    owners = np.empty(len(order), np.int64)
    owners[order] = np.repeat(np.tile(np.arange(clients), len(left)), taken.reshape(-1))
    return by_owner(owners, clients)


def _taken(
    shares: NDArray[np.float64], size: int, left: Integers, rng: np.random.Generator
) -> Integers:
    """How many rows of each class one client takes, by its shares of what is left.

    Each turn but the last empties a class, so there are no more turns than classes.
    """
    taken = np.zeros(len(left), np.int64)
    while size:
        open_ = np.flatnonzero(taken < left)
        wanted = shares[open_] if shares[open_].sum() > 0 else (left - taken)[open_].astype(float)
        drawn = rng.multinomial(size, wanted / wanted.sum())
        drawn = np.minimum(drawn, (left - taken)[open_])
        taken[open_] += drawn
        size -= int(drawn.sum())
    return taken


def shards(
    labels: NDArray[Any], clients: int, *, shards_per_client: int = 2, seed: int
) -> Partition:
    """Rows sorted by label, cut into equal shards, and the shards dealt at random.

    Shards that do not divide the rows differ by one row: the remainder is dealt among them. A
    shard crosses into the next class where classes do not end with one, so a client has
    `shards_per_client` classes or few more.
    Shapes: labels (N,) or (N, 1), classes as `labels.class_numbers` counts them. Rows of a class
    are in random order. Raises: ArgumentError for more shards than rows; DatasetError.
    Source: McMahan et al. 2017, section 3 ("pathological non-IID": 2 shards of 300 rows each).
    """
    order, _ = _in_classes(labels, rng := draws(seed, "shards"))
    each = require_whole("shards_per_client", shards_per_client, least=1)
    require_rows(len(order), clients)
    number = clients * each
    if number > len(order):
        raise ArgumentError(
            f"{clients} clients of {each} shards each, among {len(order)} rows",
            why=f"each of {number} shards has at least one row",
            fix=f"take at most {len(order) // clients} shards a client"
            + (f", or at most {len(order) // each} clients" if each <= len(order) else ""),
        )
    ends = np.arange(number + 1) * len(order) // number
    owners = np.empty(len(order), np.int64)
    owners[order] = np.repeat(rng.permutation(number) // each, np.diff(ends))
    return by_owner(owners, clients)


def classes(labels: NDArray[Any], clients: int, *, classes_per_client: int, seed: int) -> Partition:
    """Each client has exactly so many classes, and shares each evenly with the others that do.

    Which classes a client has is drawn; the numbers of clients that two classes have differ by
    one at most, and no class is left out. NIID-Bench's "quantity-based label imbalance" (Li et
    al. 2022, #C = k), balanced.
    Shapes: labels (N,) or (N, 1), classes as `labels.class_numbers` counts them.
    Raises: ArgumentError if there are fewer classes, if there is a class that no client would
    have, or one with fewer rows than clients; DatasetError.
    """
    order, counts = _in_classes(labels, rng := draws(seed, "classes"))
    each = require_whole("classes_per_client", classes_per_client, least=1)
    require_rows(len(order), clients)
    _require_holders(counts, clients, each)
    holders = _holders(len(counts), clients, each, rng)
    places = grouped(holders, len(counts))  # class after class, the places of those who have it
    shared = np.bincount(holders, minlength=len(counts))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(np.cumsum(shared) - shared, counts)
    owners = np.empty(len(order), np.int64)
    owners[order] = places[first + rank % np.repeat(shared, counts)] // each
    return by_owner(owners, clients)


def _require_holders(counts: Integers, clients: int, each: int) -> None:
    """Raises: ArgumentError unless each class has a client, and a row for each that it has."""
    number, least = len(counts), int(counts.min())
    if each > number:
        raise ArgumentError(
            f"{each} classes a client, of {number}",
            why="a client has a class once",
            fix=f"take at most {number} classes a client",
        )
    possible = [
        f"{nearest} {what}"
        for what, asked, other in (("clients", clients, each), ("classes a client", each, clients))
        if (nearest := max(-(-number // other), min(asked, least * number // other)))
        <= least * number // other
        and (what == "clients" or nearest <= number)
    ]
    fix = f"take {', or '.join(possible)}" if possible else "take the partitioner shards"
    if clients * each < number:
        raise ArgumentError(
            f"{number} classes for {clients} clients of {each} classes each",
            why=f"{number - clients * each} classes would have no client, and their rows neither",
            fix=fix,
        )
    if (shared := -(-clients * each // number)) > least:
        raise ArgumentError(
            f"{shared} clients share a class, and one class has {least} rows",
            why="each client has at least one row of each of its classes",
            fix=fix + ", or leave out the classes that are rare",
        )


def _holders(number: int, clients: int, each: int, rng: np.random.Generator) -> Integers:
    """The classes of all clients, `each` distinct ones a client, one client after another.

    Clients take turns at the classes in a drawn order. Whenever the turns end where they began,
    another order is drawn.
    Shapes: -> (P · each,).
    """
    places = clients * each
    around = min(each // math.gcd(number, each), -(-places // number))  # times through one order
    orders = np.tile(np.arange(number), (-(-places // (around * number)), 1))
    return np.tile(rng.permuted(orders, axis=1), around).reshape(-1)[:places]


def _in_classes(labels: NDArray[Any], rng: np.random.Generator) -> tuple[Integers, Integers]:
    """All rows class after class, in random order within each, and each class's number of rows."""
    numbers, number = class_numbers(labels)
    if numbers.size != len(numbers):
        raise DatasetError(
            f"labels of shape {numbers.shape}",
            why="a row goes where its label says, and so it has one",
            fix="pass one label a row, or partition by size or by id",
        )
    numbers = numbers.reshape(-1)
    order = rng.permutation(len(numbers))
    return order[grouped(numbers[order], number)], np.bincount(numbers, minlength=number)


def _require_alpha(alpha: float) -> None:
    """Raises: ArgumentError for a concentration that no proportions can be drawn from."""
    if not LEAST_ALPHA <= alpha <= LARGEST_ALPHA:
        raise ArgumentError(
            f"alpha = {alpha}",
            why="a Dirichlet distribution has a concentration above 0, and beyond "
            f"{LEAST_ALPHA:g} and {LARGEST_ALPHA:g} nothing changes",
            fix="take 0.1 for clients of few classes, 1 for some skew, or the partitioner iid",
        )
