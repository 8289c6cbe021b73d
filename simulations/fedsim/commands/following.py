"""What is told of a run while it goes on: on a terminal, in a stream of records, to trackers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from fedcore.console import Console, Json
from fedcore.errors import FedcoreError
from fedsim.engine.processes import Starting
from fedsim.records import Result, RoundRecord
from fedsim.records.plain_json import to_plain
from fedsim.report.page import write_report
from fedsim.report.settings import settings_of
from fedsim.run.folder import RunFolder
from fedsim.run.progress import progress
from fedsim.run.reading import read_run
from fedsim.run.simulation import simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.trackers.spec import Trackers, TrackerSpec
from fedsim.world import World

__all__ = ["Following"]

_STREAM: Final = "jsonl"


class Following:
    """One run, and all who want to know of it. Trackers hear of nothing before `begin`."""

    def __init__(
        self,
        console: Console,
        scenario: Scenario,
        folder: RunFolder,
        specs: Sequence[TrackerSpec],
    ) -> None:
        self._console, self._scenario, self._folder = console, scenario, folder
        self._trackers = Trackers(specs, folder.path, failed=self._failed)
        self._rounds = scenario.task.rounds.count
        self._stream = console.format == _STREAM

    def begin(self, told: Mapping[str, Json], *, resumed: bool) -> None:
        """Says where the run is, and from which round it goes on. Raises: as `Trackers.start`."""
        folder = self._folder
        done = len(folder.rounds)
        run = read_run(folder.path)
        self._trackers.start(folder.run, config=settings_of(run), first_round=done)
        said = f"goes on after round {done}" if resumed else "begins"
        self._console.progress(f"{'run':16}{folder.run.id} {said}, in {folder.path}")
        if self._stream:
            event: Json = {"event": "start", "folder": str(folder.path), "done": done, **told}
            self._console.show(event, "")

    def simulate(
        self, world: World, programs: Mapping[str, str], starting: Starting | None = None
    ) -> Result | None:
        """Runs to the end; None after Ctrl-C.

        Raises: as `simulate_in_folder`; what was finished is kept.
        """
        result = None
        try:
            with self._progress() as tell:

                def on_round(record: RoundRecord) -> None:
                    tell(record)
                    self._trackers.round(record)
                    if self._stream:
                        self._console.show({"event": "round", "record": to_plain(record)}, "")

                result = simulate_in_folder(
                    self._scenario,
                    self._folder,
                    world=world,
                    programs=programs,
                    starting=starting,
                    on_round=on_round,
                )
        except KeyboardInterrupt:
            # Whatever was asked to be quiet: how to go on is known here alone.
            print(f"interrupted; {self._kept}", file=sys.stderr, flush=True)
        except FedcoreError:
            if self._folder.rounds:
                with suppress(FedcoreError):  # what ended the run is what there is to say
                    write_report(read_run(self._folder.path))
                self._console.progress(self._kept)
            raise
        finally:
            self._trackers.end(result)
        return result

    def end(self, data: Mapping[str, Json], words: str) -> None:
        """Shows what came of it."""
        self._console.show({"event": "end", **data} if self._stream else data, words)

    @property
    def _kept(self) -> str:
        done, path = len(self._folder.rounds), self._folder.path
        return f"{done} of {self._rounds} rounds are kept; go on with: fed sim run --resume {path}"

    @contextmanager
    def _progress(self) -> Iterator[Callable[[RoundRecord], None]]:
        if self._stream or self._console.verbosity < 0:
            yield lambda record: None
            return
        done = len(self._folder.rounds)
        with progress(self._rounds, done=done, stream=sys.stderr) as tell:
            yield tell

    def _failed(self, name: str, error: Exception) -> None:
        self._console.progress(
            f"warning: the tracker {name} has failed and is told no more: "
            f"{type(error).__name__}: {error}"
        )
