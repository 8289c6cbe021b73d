"""How unlike clients are, in a few figures that tell one partition from another.

A study says little unless it says how far its clients were from alike, and "Dirichlet, 0.1" does
not: the figures depend on the classes, the sizes and the number of clients as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import AxisError, DtypeError, ShapeError
from fedsim.partition.dealing import draws, require_whole
from fedsim.partition.labels import class_numbers
from fedsim.partition.partition import Partition

__all__ = ["Heterogeneity", "heterogeneity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heterogeneity:
    """The figures of one partition; client p has n_p rows of N, counted once a client.

    * `clients`: P. `rows`: N. `size_min`, `size_median`, `size_max`: of n_p.
    * `size_gini`: Σ_p Σ_q |n_p - n_q| / (2·P·N), 0 for equal sizes, below 1.
    * `effective_clients`: N² / Σ_p n_p², P for equal sizes, 1 if one client has nearly everything
      (Kish's effective sample size).
    * `classes`: how many occur. `classes_mean`: Σ_p (classes that client p has) / P.
    * `label_divergence_mean`: Σ_p n_p·D_p / N; `label_divergence_max`: the largest D_p. D_p is the
      divergence of Jensen and Shannon, in bits, of the shares of classes a among p's rows and b
      among all N: Σ_k [a_k·log2(a_k/m_k) + b_k·log2(b_k/m_k)] / 2, with m = (a + b) / 2. It lies
      in [0, 1] (Lin 1991).
    * `feature_shift`: Σ_p n_p·d_p / N, with d_p the root mean square over features of
      (mean of p's rows - mean of all) / (standard deviation of all), without features that do not
      vary. Or None. Clients that are alike have about 1/√n_p by chance.
    """

    clients: int
    rows: int
    size_min: int
    size_median: float
    size_max: int
    size_gini: float
    effective_clients: float
    classes: int
    classes_mean: float
    label_divergence_mean: float
    label_divergence_max: float
    feature_shift: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures by name, as JSON values."""
        return asdict(self)


def heterogeneity(
    partition: Partition,
    labels: NDArray[Any],
    *,
    x: NDArray[Any] | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Heterogeneity:
    """How unlike the clients of a partition are, in labels, sizes and features.

    `labels` (N, ...): classes as `labels.class_numbers` counts them, so that targets of a
    regression are binned into tenths; each entry of a row counts. `x` (N, ...): numbers.
    `most`: of each client at most so many rows enter the feature shift, drawn by `seed`; fewer
    rows make the shift larger by chance.
    Raises: AxisError if the partition names a row that is not there; DatasetError for labels that
    are no classes; DtypeError, ShapeError for features that are no numbers or not one a row.

    >>> alike = heterogeneity(Partition.of([[0, 1], [2, 3]]), np.array([0, 1, 0, 1]))
    >>> apart = heterogeneity(Partition.of([[0, 2], [1, 3]]), np.array([0, 1, 0, 1]))
    >>> alike.label_divergence_mean, round(apart.label_divergence_mean, 3), apart.classes_mean
    (0.0, 0.311, 1.0)
    """
    labels = np.asarray(labels)
    if labels.ndim == 0 or partition.rows.max() >= len(labels):
        raise AxisError(
            f"a partition names row {partition.rows.max()} of labels of shape {labels.shape}",
            why="it was made for more data",
            fix="pass the labels that it was made of",
        )
    sizes = partition.sizes()
    divergence, present, classes = _label_divergence(partition, labels)
    shift = None if x is None else _feature_shift(partition, x, labels, most, seed)
    return Heterogeneity(
        clients=len(sizes),
        rows=int(sizes.sum()),
        size_min=int(sizes.min()),
        size_median=float(np.median(sizes)),
        size_max=int(sizes.max()),
        size_gini=_gini(sizes),
        effective_clients=float(sizes.sum() ** 2 / (sizes.astype(float) ** 2).sum()),
        classes=classes,
        classes_mean=float(present.mean()),
        label_divergence_mean=float(sizes @ divergence / sizes.sum()),
        label_divergence_max=float(divergence.max()),
        feature_shift=shift,
    )


def _gini(sizes: NDArray[np.int64]) -> float:
    """From sorted sizes, where the i-th is the larger one of i pairs: exact in integers."""
    count = len(sizes)
    signs = 2 * np.arange(count) - (count - 1)
    return int(signs @ np.sort(sizes)) / (count * int(sizes.sum()))


def _label_divergence(
    partition: Partition, labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Of each client the divergence (P,) and its number of classes (P,); and how many there are.

    Only pairs of a client and a class that occur are counted: where a client lacks a class of
    share b, the terms are b·log2(b / (b/2)) = b.
    """
    clients = len(partition)
    numbers, classes = class_numbers(labels[partition.rows])
    entries = numbers.size // len(numbers)
    owner = np.repeat(np.arange(clients), partition.sizes() * entries)
    if clients * classes <= 8 * numbers.size:  # counting takes 4 ms for a million, sorting 70
        counts = np.bincount(owner * classes + numbers.ravel(), minlength=clients * classes)
        pairs = np.flatnonzero(counts)
        counts = counts[pairs]
    else:
        pairs, counts = np.unique(owner * classes + numbers.ravel(), return_counts=True)
    client, kind = np.divmod(pairs, classes)
    a = counts / np.bincount(owner, minlength=clients)[client]
    b = np.bincount(numbers.ravel(), minlength=classes)[kind] / numbers.size
    m = (a + b) / 2
    terms = a * np.log2(a / m) + b * np.log2(b / m) - b
    divergence = (1 + np.bincount(client, weights=terms, minlength=clients)) / 2
    return divergence.clip(0, 1), np.bincount(client, minlength=clients), classes


def _feature_shift(
    partition: Partition, x: NDArray[Any], labels: NDArray[Any], most: int | None, seed: int
) -> float:
    if x.dtype.kind not in "biuf":
        raise DtypeError(
            f"features of {x.dtype} have no mean",
            why="a feature shift is a distance of means",
            fix="encode them as numbers first, or leave x out",
        )
    if len(x) != len(labels) or not x.size:
        raise ShapeError(
            f"features of shape {x.shape} for {len(labels)} labels",
            why="row i of x belongs to label i",
            fix="pass the features of the same rows",
        )
    weights = partition.sizes()
    total, mean, squares = 0, np.zeros(1), np.zeros(1)
    for part in _parts(partition, x, most, seed):  # Chan, Golub and LeVeque 1983
        own, size = part.mean(axis=0), len(part)
        step = own - mean
        squares = (
            squares + ((part - own) ** 2).sum(axis=0) + step**2 * total * size / (total + size)
        )
        mean = mean + step * size / (total + size)
        total += size
    deviation = np.sqrt(squares / total)
    # Of equal numbers the mean is off by rounding: what varies less than that does not vary.
    varies = deviation > 1e-12 * np.abs(mean)
    if not varies.any():
        return 0.0
    scaled = (
        (part.mean(axis=0)[varies] - mean[varies]) / deviation[varies]
        for part in _parts(partition, x, most, seed)
    )
    distances = [float(np.sqrt(np.mean(distance**2))) for distance in scaled]
    return float(weights @ distances / weights.sum())


def _parts(
    partition: Partition, x: NDArray[Any], most: int | None, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Each client's features (n, F), one client at a time in memory."""
    rng = draws(seed, "heterogeneity")
    if most is not None:
        require_whole("most", most, least=1)
    for rows in partition:
        chosen = rows
        if most is not None and len(rows) > most:
            chosen = np.sort(rng.choice(rows, most, replace=False))
        yield x[chosen].reshape(len(chosen), -1).astype(np.float64)
