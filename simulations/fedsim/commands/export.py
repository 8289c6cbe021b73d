"""`fed sim export`: the task of a scenario, as a server takes it, and its clients' examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedcore.errors import TaskError
from fedcore.federated.task import Task
from fedcore.privacy.commands.files import write_new
from fedsim.scenario import TABLES, Scenario
from fedsim.sources.device_files import write_device_files
from fedsim.sweep.changes import Change, scenario_with, tables_of
from fedsim.toml_text import toml_text
from fedsim.world import World

__all__ = ["add_export"]


def add_export(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "export",
        parents=[common_options()],
        help="write the task of a scenario, for `fed task submit`, and its clients' examples",
        description="Writes the task of a scenario as TOML. It has the digest that the runs of the "
        "scenario have noted, so a server trains what was simulated; and with --data devices that "
        "are named as the files train on what its clients did.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="a TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="a setting by its dotted path, as of fed sim run",
    )
    parser.add_argument("--out", metavar="FILE", help="a file that is not there yet")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="a new folder: an .npz for each client"
    )


def _run(options: argparse.Namespace) -> int:
    changes = [Change.parse(text) for text in options.set]
    scenario = scenario_with(options.scenario, {change.path: change.value for change in changes})
    _require_deployable(scenario)
    tables = tables_of(options.scenario)
    for change in changes:
        change.make(tables)
    task = {key: value for key, value in tables.items() if key not in TABLES}
    note = f"# The task of the scenario {scenario.head.name}, digest {scenario.task.digest.hex()}"
    text = f"{note}\n\n{toml_text(task)}"
    assert Task.from_toml(text).resolved().digest == scenario.task.digest
    data: dict[str, Json] = {
        "task": scenario.task.name,
        "digest": scenario.task.digest.hex(),
        "toml": text,
        "file": options.out,
        "data": None if options.data is None else str(options.data),
    }
    console = Console.of(options, command="sim export")
    world = None if options.data is None else World.of(scenario)
    if options.out is not None:
        write_new(options.out, text)
        text = f"{options.out}: task {scenario.task.name}, {data['digest']}"
    if world is not None:
        count = write_device_files(options.data, (one.dataset for one in world.population))
        console.progress(f"{options.data}: the examples of {count} clients")
    console.show(data, text.rstrip("\n"))
    return ExitCode.OK


def _require_deployable(scenario: Scenario) -> None:
    study = scenario.study
    studied = {
        "an algorithm": study.algorithm and study.algorithm.name,
        "a robust rule": study.robust and study.robust.name,
        "compression": study.compression and study.compression.name,
    }
    found = [f"{what}, {name}" for what, name in studied.items() if name]
    if scenario.clock.schedule == "buffered":
        found.append("a buffered schedule")
    if found:
        raise TaskError(
            f"{scenario.head.name} studies what no server does: {'; '.join(found)}",
            why="a server holds rounds, and sees sums alone",
            fix="export a scenario with an algorithm of tasks, and without [study]",
            where=str(scenario.head.name),
        )
