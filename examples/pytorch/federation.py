"""Fourteen devices train your own PyTorch model: with a server, TLS, and masks on each update.

The server is a process, the devices are threads of this one. Instead of PyTorch, `--trainer
numpy_trainer` trains the same model by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from devices import federated
from local_server import running_server
from numpy.typing import NDArray

from fedcore.data import Dataset, concat, group_by, load_digits
from fedcore.errors import FedcoreError, InstallError
from fedcore.federated import NumPyClientProgram, Task
from fedcore.federated.parameters import parameters_of
from fedcore.federated.reference import train_in_process
from fedcore.model_format import encode_model

TASK = Path(__file__).with_name("task.toml")
Vector: TypeAlias = NDArray[np.float32]


def writers_and_test() -> tuple[dict[str, Dataset], Dataset]:
    """Scikit-learn's digits as rows of 64 numbers: by writer block, and a fifth to test on."""
    images, blocks = load_digits()
    rows = Dataset(images.x.reshape(-1, 64), images.y)
    parts = [block.split((0.8, 0.2), seed=1) for block in group_by(rows, blocks)]
    writers = {f"writer-{n:02}": train for n, (train, _) in enumerate(parts, start=1)}
    return writers, concat([held for _, held in parts])


def compare(folder: Path, trainer: Any, *, rounds: int) -> dict[str, float]:
    """The table: by row the share of test images that a model reads right."""
    text = re.sub(r"(?m)^count = \d+", f"count = {rounds}", TASK.read_text("utf-8"))
    task = Task.from_toml(text).resolved()
    writers, test = writers_and_test()
    trainers = {name: trainer(data.x, data.y) for name, data in writers.items()}
    tester = trainer(test.x, test.y)
    first = NumPyClientProgram(tester).first_model(task)

    def reached(theta: Vector) -> float:
        ends = np.cumsum([array.size for array in task.model.arrays])[:-1]
        arrays = zip(np.split(theta, ends), task.model.arrays, strict=True)
        _, _, found = tester.evaluate([part.reshape(spec.shape) for part, spec in arrays], {})
        return float(found["accuracy"])

    def alone(data: Dataset, own: Any) -> float:
        programs = {"alone": {"mine": NumPyClientProgram(own)}}
        found = train_in_process(task, {"alone": data}, theta=first, programs=programs)
        return reached(found[-1])

    with running_server(folder) as server:
        (folder / "task.toml").write_text(text, "utf-8")
        pieces = encode_model(first, parameters_of(task), metadata={})
        (folder / "first.safetensors").write_bytes(b"".join(pieces))
        last = federated(server, task, writers, trainers)
    each = [alone(writers[name], trainers[name]) for name in writers]
    pooled = concat(list(writers.values()))
    return {
        "federated, 14 writers": reached(last),
        "all images in one place": alone(pooled, trainer(pooled.x, pooled.y)),
        "one writer alone, best": max(each),
        "one writer alone, mean": sum(each) / len(each),
        "before training": reached(first),
    }


def installed(name: str) -> Any:
    """The class Trainer of a module. Raises: InstallError."""
    try:
        return import_module(name).Trainer
    except ModuleNotFoundError as error:
        raise InstallError(
            f"the trainer {name} cannot be imported",
            why=str(error),
            fix="pip install torch==2.13.0, or take --trainer numpy_trainer",
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainer", default="torch_trainer", metavar="MODULE", help="with Trainer")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(argv)
    try:
        trainer = installed(options.trainer)
        with tempfile.TemporaryDirectory() as root:
            table = compare(Path(root) / "federation", trainer, rounds=options.rounds)
    except (FedcoreError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    for row, share in {"trained how": "test accuracy", **table}.items():
        print(f"{row:<24}{share if isinstance(share, str) else format(share, '13.1%')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
