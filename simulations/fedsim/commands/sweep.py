"""`fed sim sweep`: a scenario with other settings and seeds, a run each, and which were best."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedcore.console import Console, ExitCode, Json, Parser, common_options, plain
from fedcore.errors import ArgumentError, FedcoreError
from fedcore.tensor import blas
from fedsim.commands.engine_options import (
    add_engine_options,
    programs_of,
    require_program,
    trackers_of,
    with_engine,
)
from fedsim.commands.following import Following
from fedsim.commands.pages import write_page
from fedsim.commands.results import data_of, line_of
from fedsim.modes.foreseen import require_possible
from fedsim.records.durable import disk
from fedsim.records.plain_json import canonical_json
from fedsim.report.compare import compare
from fedsim.report.comparison_text import render_comparison_page
from fedsim.report.page import write_report
from fedsim.run.folder import ELSEWHERE
from fedsim.run.outcome import begun
from fedsim.run.reading import RESOLVED, Run, read_run
from fedsim.scenario import Scenario
from fedsim.sweep.changes import Axis
from fedsim.sweep.grid import Grid, Point
from fedsim.sweep.table import in_order, render_rows, rows_of
from fedsim.trackers.spec import TrackerSpec
from fedsim.world import World

__all__ = ["add_sweep"]

_PAGE, _TABLE = "sweep.html", "sweep.json"


def add_sweep(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "sweep",
        parents=[common_options()],
        help="simulate a scenario with other settings and seeds",
        description="Simulates each combination of the values of --set and of the seeds, one after "
        "the other, and shows which did best. All are checked before the first is run.",
        epilog="The same command again goes on where it was: runs that have ended are not "
        "repeated. It ends with 1 if a run was given up.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="a TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=V1,V2",
        help="a setting by its dotted path, and the values of TOML that it gets",
    )
    parser.add_argument("--seeds", metavar="1,2,3", help="of task.seed, for a mean over them")
    parser.add_argument(
        "--out", type=Path, metavar="ROOT", help="the folder that the sweep's is made in: runs"
    )
    parser.add_argument("--folder", type=Path, metavar="PATH", help="the sweep's own folder")
    add_engine_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="check and list, simulate nothing")


def _run(options: argparse.Namespace) -> int:
    console = Console.of(options, command="sim sweep")
    blas.prepare()
    axes = [Axis.parse(text) for text in options.set]
    grid = Grid(options.scenario, axes, _seeds(options.seeds))
    folder = _folder(options)
    specs, programs = trackers_of(options, folder), programs_of(options)
    points = _checked(grid, console, options, programs)
    if options.dry_run:
        console.show_each(
            ({"run": point.folder, "digest": point.scenario.digest.hex()}, point.words)
            for point in points
        )
        return ExitCode.OK
    console.progress(f"sweep of {len(points)} runs in {folder}")
    found: list[tuple[Point, Run | None]] = []
    for number, point in enumerate(points, start=1):
        console.progress(f"run {number}/{len(points)}  {plain(point.words)}")
        scenario = with_engine(point.scenario, options)
        try:
            run = _ended(console, scenario, folder / point.folder, specs, programs)
        except FedcoreError as error:
            console.progress(f"given up: {plain(str(error.what))}: {plain(str(error.why))}")
            found.append((point, None))
            continue
        if run is None:
            return ExitCode.INTERRUPTED
        found.append((point, run))
        console.progress(line_of(run))
        if console.format == "jsonl":
            console.show({"event": "run", **data_of(run)}, "")
    _show(console, folder, found)
    return ExitCode.FAILED if any(run is None for _, run in found) else ExitCode.OK


def _seeds(text: str | None) -> Sequence[int]:
    if text is None:
        return ()
    if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", text, re.ASCII):
        raise ArgumentError(
            f"--seeds {text!r:.80}",
            why="seeds are whole numbers from 0 with commas between them",
            fix="write them as 1,2,3",
        )
    return tuple(map(int, text.split(",")))


def _folder(options: argparse.Namespace) -> Path:
    """The same for the same scenario, so that a larger grid finds the runs of a smaller one."""
    if options.folder is not None:
        return Path(options.folder)
    scenario = Scenario.from_toml(options.scenario)
    root = options.out or Path("runs")
    return Path(root / f"{scenario.head.name}-sweep-{scenario.digest.hex()[:8]}")


def _checked(
    grid: Grid, console: Console, options: argparse.Namespace, programs: Mapping[str, str]
) -> list[Point]:
    """The points, each of which can run. Raises: what the first one that cannot says."""
    found = []
    for point in grid.points():
        console.detail(f"checks {point.words}")
        try:
            require_program(with_engine(point.scenario, options), programs)
            require_possible(point.scenario, World.of(point.scenario))
        except FedcoreError as error:
            error.where = f"{grid.path.name} with {point.words}"
            raise
        found.append(point)
    return found


def _ended(
    console: Console,
    scenario: Scenario,
    path: Path,
    specs: Sequence[TrackerSpec],
    programs: Mapping[str, str],
) -> Run | None:
    """A run that has ended, now or before; None after Ctrl-C. Raises: as `simulate_in_folder`."""
    with disk(path, fix=ELSEWHERE):
        there = (path / RESOLVED).exists()
    if there and (run := read_run(path)).result is not None:
        return run
    # Rounds are told if asked for: of a sweep there are too many.
    inner = Console(console.command, verbosity=0 if console.verbosity > 0 else -1)
    with begun(scenario, path) as folder:
        following = Following(inner, scenario, folder, specs)
        following.begin({}, resumed=there)
        if following.simulate(World.of(scenario), programs) is None:
            return None
    run = read_run(path)
    write_report(run)
    return run


def _show(console: Console, folder: Path, found: Sequence[tuple[Point, Run | None]]) -> None:
    """Shows the table, and writes it into the sweep's folder, with a page of all runs."""
    rows = in_order(rows_of(found))
    data: dict[str, Json] = {"folder": str(folder), "rows": [row.data for row in rows]}
    text = render_rows(rows)
    runs = [run for _, run in found if run is not None]
    if len(runs) > 1:
        title = f"Sweep of {runs[0].record.name}: {len(runs)} runs"
        write_page(folder / _PAGE, render_comparison_page(runs, compare(runs), title=title))
        data["page"] = str(folder / _PAGE)
        text = f"{text}\n\nThe page is {folder / _PAGE}."
    if runs:
        write_page(folder / _TABLE, canonical_json(data).decode() + "\n")
    console.show({"event": "end", **data} if console.format == "jsonl" else data, text)
