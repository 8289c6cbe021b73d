"""A run as JSON lines in a file of its own, for whoever reads along. It needs no package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedcore.console import Json
from fedsim.records import Result, RoundRecord, RunRecord
from fedsim.records.plain_json import to_plain

__all__ = ["JsonlTracker"]


class JsonlTracker:
    """Appends to `path` a line for the start, for each round and for the end; each has an "event".

    The line of a start names the first round: of a run that goes on, earlier lines of that round
    and of later ones are void.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, run: RunRecord, *, config: Mapping[str, Json], first_round: int = 0) -> None:
        """Raises: OSError if the file cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append(
            {
                "event": "start",
                "run": to_plain(run),
                "config": dict(config),
                "first_round": first_round,
            }
        )

    def round(self, record: RoundRecord) -> None:
        """Raises: OSError if the file cannot be written."""
        self._append({"event": "round", "record": to_plain(record)})

    def end(self, result: Result | None) -> None:
        """Raises: OSError if the file cannot be written."""
        self._append({"event": "end", "result": to_plain(result)})

    def _append(self, line: Json) -> None:
        with self._path.open("a", encoding="ascii") as file:
            file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
