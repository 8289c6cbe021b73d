"""`fed client`: join a federation, take part in it, see what it cost, find out what is wrong.

Nothing but the base install is needed. Data are bound by name, from files that `fedcore.data` reads
or by a function of the owner's own that returns them; nothing of it comes from a network.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fedclient.bound_data import BoundData
from fedcore.console import Console, ExitCode, Json, Parser, common_options, plain
from fedcore.errors import ArgumentError

if TYPE_CHECKING:
    from fedclient.client import Client
    from fedclient.progress import Progress, Summary
    from fedcore.data import Dataset
    from fedcore.federated.programs import Program

__all__ = ["main"]

_STATE = "fed-client"


def main(argv: list[str]) -> int:
    """Runs one subcommand and returns its exit code. Raises: FedcoreError, which `fed` prints."""
    options = _parser().parse_args(argv)
    console = Console.of(options, command=f"client {options.verb}")
    code: int = options.run(options, console)
    return code


def _parser() -> Parser:
    common = common_options()
    parser = Parser(prog="fed client", description="Take part in a federation.", parents=[common])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    join = verbs.add_parser("join", parents=[common], help="become a member")
    join.add_argument("join_string", help="what `fed token create` printed, or - to read it")
    join.add_argument("--name", default="", help="what this device is called; the operator sees it")
    join.add_argument(
        *("--attribute", "-a"), action="append", default=[], metavar="NAME=VALUE", type=_pair
    )
    _folder_of(join)
    join.set_defaults(run=_join)

    run = verbs.add_parser("run", parents=[common], help="take part")
    run.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH",
        type=_pair,
        help="bind a data set: .npz, or .csv whose last column is the target",
    )
    run.add_argument(
        "--setup",
        metavar="MODULE:FUNCTION",
        help="an installed function that returns (datasets, programs), each by name",
    )
    run.add_argument("--policy", type=Path, help="a TOML file: what this device takes part in")
    run.add_argument("--rounds", type=int, help="end after so many assignments")
    run.add_argument("--test-mode", action="store_true", help=argparse.SUPPRESS)
    _folder_of(run)
    run.set_defaults(run=_run)

    status = verbs.add_parser("status", parents=[common], help="what it does, and what it cost")
    status.add_argument("--policy", type=Path, help="the TOML file, to say what is left of it")
    _folder_of(status)
    status.set_defaults(run=_status)

    model = verbs.add_parser("model", parents=[common], help="fetch the newest model of a task")
    model.add_argument("task", help="its id, as `fed client status` shows it")
    model.add_argument(*("--output", "--out"), type=Path, required=True, help="a safetensors file")
    model.add_argument("--policy", type=Path, help="a TOML file: how large a model may be")
    _folder_of(model)
    model.set_defaults(run=_model)

    doctor = verbs.add_parser("doctor", parents=[common], help="why the server is not reached")
    _folder_of(doctor)
    doctor.set_defaults(run=_doctor)
    return parser


def _folder_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--directory", "-d"), type=Path, default=Path(_STATE), help=f"state (default {_STATE})"
    )


def _join(options: argparse.Namespace, console: Console) -> int:
    from fedclient.client import Client
    from fedclient.status import described

    text = options.join_string
    if text == "-":
        text = sys.stdin.readline()
    attributes = dict(options.attribute)
    with Client.join(
        text, directory=options.directory, name=options.name, attributes=attributes
    ) as client:
        data = described(client.membership)
        console.show(data, plain(f"{data['name']} is a member, at {data['server']}"))
    return ExitCode.OK


def _run(options: argparse.Namespace, console: Console) -> int:
    from fedclient.client import Client
    from fedclient.memory import return_large_arrays
    from fedclient.policy import Policy

    return_large_arrays()
    _arm(test_mode=options.test_mode)
    if options.rounds is not None and options.rounds < 1:
        raise ArgumentError(
            f"--rounds {options.rounds}", why="it is at least 1", fix="leave it out for no end"
        )
    policy = Policy.load(options.policy) if options.policy else None
    datasets, programs = _bound(options)
    with Client.open(options.directory) as client:
        _stop_on_signals(client)
        summaries = client.run(
            datasets=datasets,
            programs=programs,
            policy=policy,
            on_progress=_teller(console),
            rounds=options.rounds,
            own_process=True,
        )
    console.show_each((_of_summary(summary), plain(_line_of(summary))) for summary in summaries)
    return ExitCode.OK


def _status(options: argparse.Namespace, console: Console) -> int:
    from fedclient.policy import Policy
    from fedclient.status import status_of

    policy = Policy.load(options.policy) if options.policy else None
    console.show(*status_of(options.directory, policy=policy))
    return ExitCode.OK


def _model(options: argparse.Namespace, console: Console) -> int:
    from fedclient.model import download_for
    from fedclient.policy import Policy

    found = download_for(
        options.directory,
        options.task,
        options.output,
        policy=Policy.load(options.policy) if options.policy else Policy(),
        tell=_teller(console),
    )
    console.show(
        {
            "task": options.task,
            "round": found.round,
            "digest": found.digest.hex(),
            "bytes": found.size,
            "path": str(found.path),
        },
        plain(f"{options.task}: the model after {found.round} rounds is in {found.path}"),
    )
    return ExitCode.OK


def _doctor(options: argparse.Namespace, console: Console) -> int:
    from fedclient.doctor import examine
    from fedclient.identity import DeviceIdentity
    from fedclient.stopping import Stop

    found = list(examine(DeviceIdentity(options.directory / "identity"), stop=Stop()))
    console.show_each(
        (
            {
                "check": finding.check,
                "ok": finding.error is None,
                "detail": finding.detail,
                "code": finding.error.code if finding.error else None,
                "why": finding.error.why if finding.error else None,
                "fix": finding.error.fix if finding.error else None,
            },
            f"{'wrong' if finding.error else 'ok   '} {finding.check}: "
            + (str(finding.error) if finding.error else plain(finding.detail)),
        )
        for finding in found
    )
    return ExitCode.CONNECTION if any(finding.error for finding in found) else ExitCode.OK


def _line_of(summary: Summary) -> str:
    line = f"{summary.task} round {summary.round + 1}: {summary.outcome}"
    return f"{line}; {summary.warning}" if summary.warning else line


def _of_summary(summary: Summary) -> Json:
    return {
        "task": summary.task,
        "round": summary.round,
        "attempt": summary.attempt,
        "outcome": summary.outcome.value,
        "reason": summary.reason,
        "bytes_up": summary.bytes_up,
        "bytes_down": summary.bytes_down,
        "seconds": summary.seconds,
        "joules": summary.energy.joules,
        "energy": "measured" if summary.energy.measured else "estimated",
        "warning": summary.warning,
    }


def _teller(console: Console) -> Callable[[Progress], None]:
    """Tells of progress: of every step on a terminal, sparsely in a log."""
    from fedclient.progress import Sparsely

    def tell(progress: Progress) -> None:
        console.progress(str(progress))

    return tell if sys.stderr.isatty() else Sparsely(tell)


def _bound(options: argparse.Namespace) -> tuple[BoundData, Mapping[str, Program]]:
    datasets: Mapping[str, Dataset] = {}
    programs: Mapping[str, Program] = {}
    if options.setup:
        datasets, programs = _setup(options.setup)
    bound = BoundData({name: Path(path) for name, path in options.data}, datasets)
    if not bound:
        raise ArgumentError(
            "no data are bound",
            why="each task asks for data by name, so that this device would wait for ever",
            fix="bind them: --data name=path, or --setup module:function",
        )
    return bound, programs


def _setup(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(
            f"--setup {name}",
            why=f"no such function is installed: {error}",
            fix="name a function of an installed package, like my_package.devices:setup",
        ) from error
    return found()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _stop_on_signals(client: Client) -> None:
    """A first signal ends the run in good order, a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        # A handler runs between two steps of this very thread, which may hold a lock.
        threading.Thread(target=client.stop, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _arm(*, test_mode: bool) -> None:
    import os

    from fedcore.failpoints import arm

    arm(os.environ.get("FEDCORE_FAILPOINTS", ""), test_mode=test_mode)
