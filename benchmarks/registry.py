"""A benchmark is a function marked with its name and its question; this finds all of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import benchmarks
from benchmarks.figure import Figure
from benchmarks.peers import Peers
from fedcore.errors import ArgumentError

__all__ = ["Benchmark", "Measurement", "benchmark", "discover"]

Measurement: TypeAlias = Callable[[Peers], Iterator[Figure]]


@dataclass(frozen=True)
class Benchmark:
    """A question about speed or size, and the function that yields the figures which answer it.

    `short`: the same with less of everything, to see that it works; None where it is short anyway.
    """

    name: str
    question: str
    measure: Measurement
    short: Measurement | None = None


def benchmark(
    name: str, question: str, *, short: Measurement | None = None
) -> Callable[[Measurement], Benchmark]:
    """Declares the decorated generator a benchmark; it will be called with the peers at hand."""

    def declare(measure: Measurement) -> Benchmark:
        return Benchmark(name, question, measure, short)

    return declare


def discover() -> Mapping[str, Benchmark]:
    """Every benchmark declared in a module of this package, by name and in order of the names.

    Raises: ArgumentError if two benchmarks have one name.
    """
    found: dict[str, Benchmark] = {}
    for info in pkgutil.iter_modules(benchmarks.__path__):
        if info.name == "__main__":
            continue
        module = importlib.import_module(f"{benchmarks.__name__}.{info.name}")
        for declared in vars(module).values():
            if not isinstance(declared, Benchmark):
                continue
            if found.setdefault(declared.name, declared) is not declared:
                raise ArgumentError(
                    f"benchmarks: two benchmarks are named {declared.name!r}",
                    why=f"{found[declared.name].question!r} and {declared.question!r}",
                    fix="give one of them another name",
                )
    return dict(sorted(found.items()))
