"""Settings of a scenario by dotted paths, and a scenario in which some of them are others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, Final, Self

import numpy as np

from fedcore.console import Json
from fedcore.errors import ArgumentError, TaskError
from fedcore.toml import parse, text_of
from fedsim.scenario import Scenario
from fedsim.toml_text import toml_text, toml_value

__all__ = ["Axis", "Change", "scenario_with", "tables_of"]

_PATH: Final = re.compile(r"[A-Za-z_][\w-]*(\[\d+\])*(\.[A-Za-z_][\w-]*(\[\d+\])*)*", re.ASCII)
_STEP: Final = re.compile(r"([A-Za-z_][\w-]*)|\[(\d+)\]", re.ASCII)
_MARKS: Final = frozenset(",[]{}\"'")  # of lists, tables and texts: nobody knows what was meant
_WORD: Final = re.compile(r"([A-Za-z]|\.?\.?/)[\w./-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Change:
    """One setting by its dotted `path`, as "model.layers[1].outputs", and the TOML `value` it gets.

    Numbers and arrays of NumPy become Python's, and a file's Path its text.
    Raises: ArgumentError for a path that is none, or a value that TOML has no form for.
    """

    path: str
    value: Any

    def __post_init__(self) -> None:
        if not (isinstance(self.path, str) and _PATH.fullmatch(self.path)):
            raise ArgumentError(
                f"{self.path!r:.80} is no path of a setting",
                why="it is names with points between them, of lists with a number in brackets",
                fix="write it as training.optimizer.lr or model.layers[1].outputs",
            )
        object.__setattr__(self, "value", _plain(self.value))
        try:
            toml_value(self.value)
        except TypeError as error:
            raise ArgumentError(
                f"{self.path} = {self.value!r:.60}",
                why=f"a scenario is a text, in which {error}",
                fix="give a number, a text, a bool, or lists and mappings of these; a setting that"
                " is to have its default is left out of the file",
            ) from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change of a text `path=value`: see `Axis.parse`. Raises: ArgumentError.

        >>> Change.parse("training.optimizer.lr=0.1").text
        'training.optimizer.lr = 0.1'
        """
        axis = Axis.parse(text)
        if len(axis.values) > 1:
            raise ArgumentError(
                f"{text!r:.80} gives one setting {len(axis.values)} values",
                why="a run has one of each setting",
                fix="give one value, a list as [1, 2]; fed sim sweep tries several",
            )
        return cls(axis.path, axis.values[0])

    @property
    def text(self) -> str:
        """As a line of TOML."""
        return f"{self.path} = {toml_value(self.value)}"

    @property
    def json(self) -> Json:
        """The value as JSON has it."""
        return _json(self.value)

    def make(self, tables: dict[str, Any]) -> None:
        """Changes `tables`, as `fedcore.toml.parse` gives them; a table that is not there is made.

        Raises: TaskError where the path leads through what is no table or list.
        """
        steps = [name or int(index) for name, index in _STEP.findall(self.path)]
        at: Any = tables
        for step in steps[:-1]:
            if isinstance(step, str) and isinstance(at, dict):
                at = at.setdefault(step, {})
            else:
                self._require(at, step)
                at = at[step]
        if not (isinstance(steps[-1], str) and isinstance(at, dict)):
            self._require(at, steps[-1])
        at[steps[-1]] = self.value

    def _require(self, at: Any, step: str | int) -> None:
        if isinstance(step, int) and isinstance(at, list) and step < len(at):
            return
        what = f"a list of {len(at)}" if isinstance(at, list) else f"{at!r:.60}"
        raise TaskError(
            f"{self.path} leads nowhere",
            why=f"{what} has no {step if isinstance(step, str) else f'[{step}]'}",
            fix="write the path as the scenario has its tables",
            where=self.path,
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting and the values that it takes one after the other."""

    path: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The axis of a text `path=value,value`. Values are TOML; a bare word or path is a text.

        Raises: ArgumentError.

        >>> Axis.parse("algorithm.name=fedavg,fedprox").values
        ('fedavg', 'fedprox')
        >>> Axis.parse("cohort.goal=5,10").values
        (5, 10)
        >>> Axis.parse("population.source.path=../data/mnist").values
        ('../data/mnist',)
        """
        path, equals, rest = text.partition("=")
        Change(path.strip(), 0)
        values = _values(rest) if equals else None
        if not values and rest.strip() and not _MARKS.intersection(rest):
            raise ArgumentError(
                f"{rest.strip()!r:.80} is no value of TOML",
                why="numbers begin and end with a digit, and texts stand in quotes",
                fix=f"write it as {path.strip()}={_written(rest)}",
            )
        if not values:
            raise ArgumentError(
                f"{text!r:.80} sets nothing",
                why="a path is followed by = and values of TOML with commas between them",
                fix='write it as training.optimizer.lr=0.1,0.03 or clock.schedule="buffered"',
            )
        if len({toml_value(value) for value in values}) < len(values):
            raise ArgumentError(
                f"{path} gets one value twice",
                why="it would be simulated twice with the same result",
                fix="give each value once; --seeds repeats with other seeds",
            )
        return cls(path.strip(), tuple(values))


def scenario_with(path: Path | str, settings: Mapping[str, Any]) -> Scenario:
    """The scenario of a file, with other `settings` by their dotted paths; its text says which.

    Raises: as `Change` and `Scenario.from_toml`; a TaskError of what was changed says what was.
    """
    path = Path(path)
    if not isinstance(settings, Mapping):
        raise ArgumentError(
            f"settings are {settings!r:.80}",
            why="each has a dotted path and a value",
            fix='pass a dict, such as {"training.optimizer.lr": 0.1}',
        )
    changes = [Change(name, value) for name, value in settings.items()]
    if not changes:
        return Scenario.from_toml(path)
    said = ", ".join(change.text for change in changes)
    try:
        tables = tables_of(path)
        for change in changes:
            change.make(tables)
        note = f"# {path.name} with {said}"
        return Scenario.from_toml(f"{note}\n\n{toml_text(tables)}", base=path.parent)
    except TaskError as error:
        error.where = f"{path.name} with {said}"
        raise


def tables_of(path: Path) -> dict[str, Any]:
    """The tables of a scenario's file, and of the task's file that it names among them.

    Raises: TaskError.
    """
    tables = parse(text_of(path), path.name)
    head = tables.get("scenario")
    if not isinstance(head, dict) or not isinstance(named := head.get("task"), str):
        return tables
    task = parse(text_of(path.parent / named), named)
    if task.keys() & tables.keys():
        return tables  # which no scenario may have: it is left to say so
    del head["task"]
    return {**tables, **task}


def _written(text: str) -> str:
    """What was meant: numbers with a digit on both sides of the point, all else as a text."""
    number = re.fullmatch(r"([+-]?)(\d*)\.(\d*)((?:[eE][+-]?\d+)?)", text.strip(), re.ASCII)
    if number is None or not (number[2] or number[3]):
        return toml_value(text.strip())
    return f"{number[1]}{number[2] or 0}.{number[3] or 0}{number[4]}"


def _values(text: str) -> list[Any] | None:
    """The values of a text; a comma inside of one of them does not end it."""
    found: list[Any] = []
    waiting = ""
    for piece in text.split(","):
        waiting = f"{waiting},{piece}" if waiting else piece
        try:
            found.append(parse(f"value = {waiting}", "value")["value"])
        except TaskError:
            if not _WORD.fullmatch(waiting.strip()):
                continue
            found.append(waiting.strip())
        waiting = ""
    return None if waiting.strip() or text.rstrip().endswith(",") else found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _json(value: Any) -> Json:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
