"""The options of whatever simulates: how this machine works for it, and what follows the run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fedcore.console import Parser
from fedcore.errors import ArgumentError, TaskError
from fedcore.federated.programs import find_program
from fedsim.engine.plan import program_at
from fedsim.engine.ray_cluster import find_ray
from fedsim.scenario import Scenario
from fedsim.trackers.spec import TrackerSpec

__all__ = [
    "add_engine_options",
    "programs_of",
    "require_program",
    "trackers_of",
    "with_engine",
]

_WORKERS_A_CORE: Final = 16


def add_engine_options(parser: Parser) -> None:
    """Adds them; none of them changes a result."""
    parser.add_argument("--workers", type=int, metavar="N", help="in place of engine.workers")
    parser.add_argument("--kind", choices=("processes", "ray", "threads"), help="of workers")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster that is there")
    parser.add_argument("--lanes", type=int, metavar="N", help="clients trained side by side")
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAME=MODULE:ATTRIBUTE",
        help="where training.program is, for a scenario that names one of its own",
    )
    parser.add_argument(
        "--tracker",
        action="append",
        default=[],
        metavar="NAME[=TARGET]",
        help="what follows the run: jsonl, tensorboard or mlflow, and where it writes",
    )


def with_engine(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    """The same scenario on workers as they were asked for.

    Raises: TaskError for none, and for more than this machine bears; InstallError if they need
    what is not installed.
    """
    given = {
        name: value
        for name in ("workers", "kind", "address", "lanes")
        if (value := getattr(options, name)) is not None
    }
    if given.get("kind", "ray") != "ray":
        given.setdefault("address", None)  # the scenario's was for other workers
    try:
        engine = replace(scenario.engine, **given)
    except TaskError as error:
        error.where = f"--{error.where.removeprefix('engine.')}"
        raise
    if engine.kind == "ray":
        find_ray()
    elif (engine.workers or 1) > (most := _WORKERS_A_CORE * (cores := os.cpu_count() or 1)):
        raise TaskError(
            f"{engine.workers} workers on a machine of {cores} cores",
            why=f"each has memory of its own, and more than {most} would only wait for each other",
            fix=f"take {cores}, one a core, or the workers of a cluster with --kind ray",
            where="engine.workers" if options.workers is None else "--workers",
        )
    return replace(scenario, engine=engine)


def trackers_of(options: argparse.Namespace, folder: Path) -> list[TrackerSpec]:
    """The trackers, if what they need is installed. Raises: ArgumentError, InstallError."""
    found = [TrackerSpec.parse(text) for text in options.tracker]
    if len(set(found)) < len(found):
        raise ArgumentError(
            "a tracker is named twice",
            why="it would be told of each round twice",
            fix="name it once, or with another target",
        )
    for spec in found:
        spec.open(folder)  # which writes nothing yet
    return found


def programs_of(options: argparse.Namespace) -> Mapping[str, str]:
    """Where programs are, by name. Raises: ArgumentError."""
    found = {}
    for text in options.program:
        name, equals, place = text.partition("=")
        if not (name and equals and ":" in place):
            raise ArgumentError(
                f"--program {text!r:.80} names no program",
                why="a program is an attribute of a module that Python finds",
                fix="write it as name=module:attribute",
            )
        found[name] = place
    return found


def require_program(scenario: Scenario, programs: Mapping[str, str]) -> None:
    """Raises: ProgramError where no worker would find what the scenario trains by."""
    name = scenario.task.training.program
    if name in programs:
        if scenario.engine.kind != "ray":  # whose machines may have other modules
            program_at(programs[name])
    elif name != "local":
        find_program(name, {})
