"""A private federation over the 14 writer blocks of scikit-learn's digits: `make demo`.

A server and 14 clients, each a process of its own, meet on this machine over mutually authenticated
TLS. Each client keeps its images; in every round it draws some, clips the gradient of each, adds
its share of noise and masks the sum, so that the server opens a noisy total alone. Clients are
killed on the way, and come back. At the end stand what the model is worth beside federated
averaging without privacy, training alone and training on pooled images, what may be claimed, and
where model, certificate, ledger, audit log and picture lie.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from comparison import accuracy_of, compare
from deployment import Deployment, PartFailed
from figures import Figures, Round
from mishaps import happen, mishaps
from patience import patiently
from picture import picture

from fedcore.data import Dataset, concat, group_by, load_digits
from fedcore.errors import FedcoreError
from fedcore.federated import Task
from fedcore.federated.parameters import parameters_of
from fedcore.model_format import read_model
from fedcore.privacy import certificate, format_certificate, verify
from fedcore.tensor import blas
from fedcore.v1.admin_service_pb2 import (
    ListRoundsRequest,
    RoundEntry,
    ShowPrivacyRequest,
    TaskEntry,
)
from fedserver.admin.connection import Connection, connected
from fedserver.admin.download import download
from fedserver.admin.rounds_text import OVER
from fedserver.admin.user import User
from fedserver.admin.watching import ENDED

SEED = 1
TASK = Path(__file__).with_suffix(".toml")


def new_folder(parent: Path) -> Path:
    """The first free one of `parent`/1, `parent`/2 …: a ledger is never written over."""
    return next(path for n in count(1) if not (path := parent / str(n)).exists())


def writers_and_test() -> tuple[dict[str, Dataset], Dataset]:
    """The training images by writer, and the held-out fifth of all."""
    parts = [block.split((0.8, 0.2), seed=SEED) for block in group_by(*load_digits())]
    writers = {f"writer-{n:02}": train for n, (train, _) in enumerate(parts, start=1)}
    return writers, concat([held for _, held in parts])


def follow(
    server: Connection, task_id: str, deployment: Deployment
) -> Iterator[tuple[RoundEntry, TaskEntry]]:
    """Every state of every round as it comes. Raises: PartFailed if the task, or a part, fails."""
    after = 0
    while True:
        deployment.check()
        request = ListRoundsRequest(task_id=task_id, after_event=after, wait_ms=1000)
        ask = partial(server.ask, server.admin.ListRounds, request)
        answer = patiently(ask, deployment)
        after = max(after, answer.last_event)
        for entry in answer.rounds:
            yield entry, answer.task
        if answer.task.state in ENDED and not answer.rounds:
            break
    if answer.task.state != "COMPLETED":
        raise PartFailed(
            f"the task is {answer.task.state}: {answer.task.reason}; see {deployment.logs}"
        )


@contextmanager
def progress_bar(rounds: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many rounds are done; a bar where there is a terminal."""
    if not sys.stdout.isatty():
        yield lambda done: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        bar = progress.add_task("rounds", total=rounds)
        yield lambda done: progress.update(bar, completed=done)


def line_of(entry: RoundEntry, task: TaskEntry, accuracy: float) -> str:
    """What came of one attempt at a round."""
    lost = ", ".join(f"{number} in {phase}" for phase, number in sorted(entry.lost.items()))
    words = (
        f"round {entry.round.round + 1:>2} of {task.rounds}  accuracy {accuracy:5.1%}  "
        f"eps {entry.epsilon:.2f}/{task.epsilon_budget:.2f}  "
        f"{entry.reported} of {entry.selected} reported  "
        f"{(entry.since_ms - entry.started_ms) / 1000:4.1f} s"
    )
    words += f"  lost: {lost}" if lost else ""
    return words if entry.model_digest else f"{words}  {entry.phase}: {entry.reason}"


def train(
    deployment: Deployment, server: Connection, task: Task, task_id: str, test: Dataset
) -> list[Round]:
    """Follows the task to its end, a line a round; the rounds that were completed."""
    story, seen, done, reached = mishaps(task.rounds.count), set[tuple[int, int]](), [], 0.0
    with progress_bar(task.rounds.count) as advance:
        for entry, found in follow(server, task_id, deployment):
            if words := happen(story, entry, deployment):
                print(words, flush=True)
            which = (entry.round.round, entry.round.attempt)
            if entry.phase not in OVER or which in seen:
                continue
            seen.add(which)
            if entry.model_digest:
                path = deployment.folder / "models" / f"{entry.round.round:02}.safetensors"
                patiently(partial(download, server, entry.model_digest, path), deployment)
                with path.open("rb") as file:
                    model = read_model(file, parameters_of(task))
                reached = accuracy_of(task, model.vector, test)
                done.append(
                    Round(
                        number=entry.round.round + 1,
                        accuracy=reached,
                        epsilon=entry.epsilon,
                        selected=entry.selected,
                        reported=entry.reported,
                    )
                )
            print(line_of(entry, found, reached), flush=True)
            advance(found.rounds_completed)
    return done


def start_writers(deployment: Deployment, writers: Mapping[str, Dataset], join_string: str) -> None:
    """Gives each writer its images, and starts its process."""
    for name, data in writers.items():
        folder = deployment.folder / "writers" / name
        folder.mkdir(parents=True)
        np.savez(folder / "digits.npz", x=data.x, y=data.y)
        deployment.start_writer(name, join_string=join_string)
    print(f"  {len(writers)} clients: python writer.py writers/NAME", flush=True)


def proven(statement: Mapping[str, Any], ledger: Path) -> None:
    """Holds what the server says of privacy against its ledger. Raises: PartFailed, LedgerError."""
    verify(ledger)
    if json.loads(json.dumps(certificate(ledger))) != statement:
        raise PartFailed(f"the server's certificate is not what follows from {ledger}")


def show(figures: Figures) -> None:
    """The table of all models on standard output."""
    from rich import box
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "test accuracy", "", "told of an image"):
        table.add_column(name, no_wrap=True, justify="right" if "accuracy" in name else "left")
    for name, accuracy, told in figures.table:
        table.add_row(name, f"{accuracy:.1%}", Bar(1.0, 0.0, accuracy, width=10), told)
    Console(highlight=False).print(table)


def run(folder: Path, *, rounds: int) -> None:
    """The demo, in a new folder. Raises: PartFailed, FedcoreError."""
    began = time.perf_counter()
    spent: dict[str, float] = {}

    def lap(part: str) -> None:
        spent[part] = time.perf_counter() - began - sum(spent.values())

    writers, test = writers_and_test()
    (folder / "models").mkdir(parents=True)
    text = re.sub(r"(?m)^count = \d+$", f"count = {rounds}", TASK.read_text("utf-8"))
    (folder / "task.toml").write_text(text, "utf-8")
    task = Task.from_toml(folder / "task.toml")
    with Deployment(folder) as deployment:
        token = deployment.fed("token", "create", "--uses", str(len(writers)), "--lifetime", "1h")
        submitted = deployment.fed("task", "submit", "task.toml")
        lap("server, authority, task")
        start_writers(deployment, writers, token["join_string"])
        task_id = submitted["task_id"]
        with connected(User.open(deployment.profile)) as server:
            done = train(deployment, server, task, task_id, test)
            lap("clients and rounds")
            asked = ShowPrivacyRequest(task_id=task_id)
            ask = partial(server.ask, server.admin.ShowPrivacy, asked)
            told = patiently(ask, deployment).certificate
        read = partial(patiently, deployment=deployment)
        export = ("model", "export", task_id, "--out", "model.safetensors")
        read(partial(deployment.fed, *export))
        signer = deployment.fed("audit", "signer", "authority/audit-signer.key")
        audit = read(partial(deployment.fed, "audit", "verify", "--signer", signer["signer"]))
        deployment.fed("audit", "export", "--out", "audit.jsonl")
    ledger, statement = folder / "state" / "ledgers" / task_id, json.loads(told)
    proven(statement, ledger)
    (folder / "certificate.json").write_bytes(told)
    lap("model, audit log")
    rivals = compare(writers, test, rounds=rounds)
    figures = Figures(
        epsilon=statement["epsilon"], delta=statement["delta"], rounds=done, **rivals._asdict()
    )
    figures.save(folder / "figures.json")
    (folder / "picture.svg").write_text(picture(figures), "utf-8")
    lap("comparison")
    print(f"\n{format_certificate(statement)}")
    show(figures)
    print(
        f"The server opened noisy sums of at least {task.cohort.minimum} clients, never one\n"
        f"client's. What is measured on test images is not covered by the guarantee.\n\n"
        + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in spent.items())
        + f"\n\nIn {folder}:\n"
        f"  picture      picture.svg\n"
        f"  model        model.safetensors\n"
        f"  certificate  certificate.json, which follows from the ledger\n"
        f"  ledger       {ledger.relative_to(folder)}, verified\n"
        f"  audit log    audit.jsonl, {audit['entries']} entries, verified\n"
        f"  logs         {deployment.logs.relative_to(folder)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/federated-digits"))
    options = parser.parse_args(argv)
    blas.prepare()
    folder = new_folder(options.out)
    print(f"A server and 14 clients, each a process of its own: about a minute. See {folder}\n")
    try:
        run(folder, rounds=options.rounds)
    except (PartFailed, FedcoreError) as error:
        print(f"{error}\nThe logs are in {folder / 'logs'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
