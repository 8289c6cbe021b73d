"""`fed sim run`: says what will be simulated, simulates it, and says what came of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from fedcore.console import Console, ExitCode, Parser, common_options
from fedcore.errors import ArgumentError
from fedcore.tensor import blas
from fedsim.commands.describing import Description
from fedsim.commands.engine_options import (
    add_engine_options,
    programs_of,
    require_program,
    trackers_of,
    with_engine,
)
from fedsim.commands.following import Following
from fedsim.commands.results import data_of, words_of
from fedsim.modes.foreseen import require_possible
from fedsim.records import Versions
from fedsim.report.page import write_report
from fedsim.run.folder import RunFolder
from fedsim.run.origin import base_of, write_base
from fedsim.run.reading import read_run
from fedsim.run.simulation import plan_of, workers_to_come
from fedsim.scenario import Scenario
from fedsim.sweep.changes import Change, scenario_with
from fedsim.world import World

__all__ = ["add_run"]

_SCENARIO = "scenario.toml"


def add_run(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "run",
        parents=[common_options()],
        help="simulate a scenario, or go on with a run",
        description="Simulates a scenario. A round is a line on standard error; standard output "
        "gets the result, with --format jsonl also each round.",
        epilog="Ctrl-C, and a kill too, leaves a run that --resume takes up where it was.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("scenario", nargs="?", type=Path, metavar="SCENARIO", help="a TOML file")
    parser.add_argument(
        "--out", type=Path, metavar="ROOT", help="the folder that the run's is made in: runs"
    )
    parser.add_argument("--folder", type=Path, metavar="PATH", help="the run's own folder")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in a folder")
    parser.add_argument("--rounds", type=int, metavar="N", help="in place of rounds.count")
    parser.add_argument(
        "--set",
        action="append",
        metavar="PATH=VALUE",
        help="a setting by its dotted path, and the value of TOML that it gets",
    )
    add_engine_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="check and say, simulate nothing")


def _run(options: argparse.Namespace) -> int:
    console = Console.of(options, command="sim run")
    blas.prepare()
    _require_coherent(options)
    scenario = with_engine(_scenario(options), options)
    root = options.out or Path("runs")
    specs, programs = trackers_of(options, root), programs_of(options)
    require_program(scenario, programs)
    with ExitStack() as stack:
        starting = None
        if not options.dry_run:
            starting = stack.enter_context(closing(workers_to_come(scenario)))
        world = World.of(scenario)
        require_possible(scenario, world)
        told = Description(scenario, world)
        if options.dry_run:
            console.show({"dry_run": True, **told.data}, f"{told.words}\nnothing was simulated")
            return ExitCode.OK
        console.progress(told.words)
        folder = stack.enter_context(_folder(options, scenario, root))
        following = Following(console, scenario, folder, specs)
        following.begin(told.data, resumed=options.resume is not None)
        if following.simulate(world, programs, starting) is None:
            return ExitCode.INTERRUPTED
        found = read_run(folder.path)
        write_report(found)
        following.end({**data_of(read_run(folder.path)), "simulated": told.data}, words_of(found))
    return ExitCode.OK


def _require_coherent(options: argparse.Namespace) -> None:
    if options.scenario is None and options.resume is None:
        raise ArgumentError(
            "fed sim run: no scenario",
            why="it is simulated, or a run of one goes on",
            fix="name the scenario's file, or a run with --resume",
        )
    beside = [
        name for name in ("out", "folder", "rounds", "set") if getattr(options, name) is not None
    ]
    if options.resume is not None and beside:
        raise ArgumentError(
            f"--{beside[0]} beside --resume",
            why="a run goes on in its own folder and as it was begun",
            fix=f"leave --{beside[0]} out, or begin a new run",
        )
    if options.out is not None and options.folder is not None:
        raise ArgumentError(
            "--out beside --folder",
            why="one names the folder around the run's, the other the run's own",
            fix="give one of both",
        )


def _scenario(options: argparse.Namespace) -> Scenario:
    """The file's, or that of the run that goes on, whose paths begin where they did."""
    if options.scenario is not None:
        changes = [Change.parse(text) for text in options.set or ()]
        settings = {change.path: change.value for change in changes}
        if options.rounds is not None:
            settings["rounds.count"] = options.rounds
        return scenario_with(options.scenario, settings)
    read_run(options.resume)  # which says better than a missing file that this is no run
    return Scenario.from_toml(options.resume / _SCENARIO, base=base_of(options.resume))


@contextmanager
def _folder(options: argparse.Namespace, scenario: Scenario, root: Path) -> Iterator[RunFolder]:
    if options.resume is None:
        with RunFolder.create(root, plan_of(scenario), path=options.folder) as folder:
            write_base(folder.path, scenario.base)
            yield folder
        return
    digest = scenario.digest.hex()
    with RunFolder.resume(options.resume, scenario_digest=digest) as folder:
        _warn_of_versions(Console.of(options, command="sim run"), folder)
        yield folder


def _warn_of_versions(console: Console, folder: RunFolder) -> None:
    if differing := folder.run.versions.differing(Versions.here()):
        console.progress(
            f"warning: the run was begun with other versions, so the last bits may differ: "
            f"{', '.join(differing)}"
        )
