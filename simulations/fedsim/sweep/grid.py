"""Every combination of settings and seeds, each a scenario that is checked before any is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from fedcore.errors import ArgumentError
from fedsim.scenario import Scenario
from fedsim.sweep.changes import Axis, Change, scenario_with
from fedsim.toml_text import toml_value

__all__ = ["Grid", "Point"]

_SEED: Final = "task.seed"
_MOST: Final = 10_000
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9.=]+")
_LONGEST_NAME: Final = 60


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a grid: `settings` are what it is compared by, beside its `seed`, if it has one.

    `names`: of the settings, as short as they can be told apart.
    """

    settings: tuple[Change, ...]
    names: tuple[str, ...]
    seed: int | None
    scenario: Scenario

    @property
    def words(self) -> str:
        """What is different about it."""
        said = [
            f"{name} = {toml_value(change.value)}"
            for name, change in zip(self.names, self.settings, strict=True)
        ]
        return ", ".join([*said, *([] if self.seed is None else [f"seed = {self.seed}"])])

    @property
    def folder(self) -> str:
        """The name of its folder: what people can read, and what makes it the only one."""
        words = self.words.replace(" = ", "=").replace('"', "")
        slug = _UNSAFE.sub("-", words)[:_LONGEST_NAME].strip("-")
        return f"{slug or 'run'}-{self.scenario.digest.hex()[:8]}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The scenario in a file, with each combination of its `axes` and its `seeds`.

    Raises: ArgumentError for nothing to vary, one path or seed twice, or more than 10,000 runs.
    """

    path: Path
    axes: Sequence[Axis]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        paths = [axis.path for axis in self.axes] + [_SEED] * bool(self.seeds)
        twice = {path for path in paths if paths.count(path) > 1}
        if twice or len(set(self.seeds)) < len(self.seeds):
            raise ArgumentError(
                f"{sorted(twice)[0] if twice else 'a seed'} is given twice",
                why="each combination is simulated once",
                fix="give all values of a path in one --set, and each seed once",
            )
        if not paths:
            raise ArgumentError(
                "a sweep over nothing",
                why="one scenario as it is written is one run",
                fix="give --set PATH=V1,V2 or --seeds 1,2,3, or use fed sim run",
            )
        if len(self) > _MOST:
            raise ArgumentError(
                f"a sweep of {len(self):,} runs",
                why=f"they are made one after the other, and {_MOST:,} are the most",
                fix="vary fewer settings at a time",
            )

    def __len__(self) -> int:
        count = len(self.seeds) or 1
        for axis in self.axes:
            count *= len(axis.values)
        return count

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the axes, each as short as tells it from the others."""
        paths = [axis.path for axis in self.axes]
        last = [path.rpartition(".")[2] for path in paths]
        return tuple(
            path if last.count(short) > 1 or short == "seed" else short
            for path, short in zip(paths, last, strict=True)
        )

    def points(self) -> Iterator[Point]:
        """Each combination, the last axis first to change, seeds within it.

        Raises: as `Scenario.from_toml`, with what was set.
        """
        for values in product(*(axis.values for axis in self.axes)):
            settings = tuple(
                Change(axis.path, value) for axis, value in zip(self.axes, values, strict=True)
            )
            for seed in self.seeds or (None,):
                seeded = {change.path: change.value for change in settings}
                if seed is not None:
                    seeded[_SEED] = seed
                scenario = scenario_with(self.path, seeded)
                yield Point(settings, self.names, seed, scenario)
