"""The settings of a run as flat names, so that they can be listed, compared and tracked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from fedcore.console import Json
from fedsim.run.reading import Run

__all__ = ["flat", "settings_of", "written"]


def settings_of(run: Run) -> dict[str, Json]:
    """Everything that a run was set to: its mode, seeds, scenario and task, by dotted names."""
    return flat(
        {
            "mode": run.record.mode.value,
            "seeds": run.record.seeds,
            "scenario": run.scenario,
            "task": run.task,
        }
    )


def flat(tables: Mapping[str, Json]) -> dict[str, Json]:
    """Nested tables as one, by dotted names; lists stay what they are.

    >>> flat({"clock": {"seed": 1, "stages": ["train"]}, "mode": "fast"})
    {'clock.seed': 1, 'clock.stages': ['train'], 'mode': 'fast'}
    """
    return dict(_entries(tables, ""))


def _entries(tables: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, Json]]:
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def written(value: Json) -> str:
    """A setting as people write it.

    >>> written("fedavg"), written([1, 2]), written(None), written(True)
    ('fedavg', '[1, 2]', '–', 'true')
    """
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
