"""The command line: `list` names the benchmarks, `run` prints one JSON line a figure."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import machine, table
from benchmarks.figure import Json, UnmeasuredError
from benchmarks.load import CLEAN, COUNTED_S, Load
from benchmarks.peers import DEFAULT_SCRIPTS, DEFAULT_VENVS, Peers
from benchmarks.registry import Benchmark, discover
from fedcore.errors import ArgumentError, DeviceError, FedcoreError, InstallError

__all__ = ["README", "main"]

README = Path(__file__).with_name("README.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line: 0, 1 if a benchmark failed, 4 if the arguments are wrong.

    What this machine cannot run has failed if it was named, and is left out of all.
    """
    options = _parser().parse_args(argv)
    try:
        if options.command == "list":
            for benchmark in discover().values():
                print(f"{benchmark.name:<20} {benchmark.question}")
            return 0
        return _run(options)
    except FedcoreError as error:
        print(error, file=sys.stderr)
        return 4


def _run(options: argparse.Namespace) -> int:
    known = discover()
    chosen = _chosen(known, options.names, everything=options.all)
    peers = Peers(options.peers, options.venvs)
    records: list[dict[str, Json]] = []
    ran: list[str] = []
    left_out = 0
    for benchmark in chosen:
        try:
            for record in _records(benchmark, peers, short=options.short):
                print(json.dumps(record, allow_nan=False), flush=True)
                records.append(record)
            ran.append(benchmark.name)
        except (InstallError, DeviceError) as absent:
            print(f"benchmarks: {benchmark.name} does not run here: {absent}", file=sys.stderr)
            left_out += options.all
        except UnmeasuredError as reason:
            print(f"benchmarks: {benchmark.name} failed: {reason}", file=sys.stderr)
        except Exception:  # one broken benchmark must not lose the figures of the others
            traceback.print_exc()
            print(f"benchmarks: {benchmark.name} failed", file=sys.stderr)
    if options.write:
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        finished = [record for record in records if str(record["name"]).partition(".")[0] in ran]
        README.write_text(
            table.rewritten(README.read_text(), finished, ran=ran, known=known, date=today)
        )
    return 0 if len(ran) + left_out == len(chosen) else 1


def _chosen(
    known: Mapping[str, Benchmark], names: Sequence[str], *, everything: bool
) -> list[Benchmark]:
    if everything == bool(names):
        raise ArgumentError(
            "benchmarks: nothing to run" if not names else "benchmarks: names given beside --all",
            why="either names or --all say what to run",
            fix="python -m benchmarks list",
        )
    if unknown := [name for name in names if name not in known]:
        raise ArgumentError(
            f"benchmarks: there is no {', '.join(unknown)}",
            why=f"there are {', '.join(known)}",
            fix="python -m benchmarks list",
        )
    return list(known.values()) if everything else [known[name] for name in names]


def _records(benchmark: Benchmark, peers: Peers, *, short: bool) -> Iterator[dict[str, Json]]:
    """The benchmark's figures, each with the machine and the foreign load while it was taken."""
    measure = (benchmark.short if short else None) or benchmark.measure
    earlier, foreign = Load.now(), None
    for figure in measure(peers):
        where = machine.describe()  # the benchmark has chosen its device by now
        now = Load.now()
        if now is not None and earlier is not None:
            # Those that come together were taken together: between them there is no load to count.
            counts = foreign is None or now.at_s - earlier.at_s >= COUNTED_S
            foreign = now.foreign_cores_since(earlier) if counts else foreign
        if foreign is not None and foreign > CLEAN:
            print(
                f"benchmarks: {figure.name} is not clean: {foreign:.2f} cores busy with other work",
                file=sys.stderr,
            )
        yield figure.record(machine=where, foreign_cores=foreign)
        earlier = Load.now()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name every benchmark with its question")
    run = commands.add_parser("run", help="run benchmarks, print one JSON line a figure")
    run.add_argument("names", nargs="*", metavar="NAME")
    run.add_argument("--all", action="store_true", help="run every benchmark")
    size = run.add_mutually_exclusive_group()
    size.add_argument(
        "--short",
        action="store_true",
        help="with less of everything, to see that it works: the figures are no measurement",
    )
    size.add_argument(
        "--write",
        action="store_true",
        help="put the figures into the table of benchmarks/README.md",
    )
    run.add_argument(
        "--peers", type=Path, default=DEFAULT_SCRIPTS, help="folder of the peers' scripts"
    )
    run.add_argument(
        "--venvs", type=Path, default=DEFAULT_VENVS, help="folder of the peers' environments"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
