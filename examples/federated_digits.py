"""Federated averaging over the 14 writer blocks of scikit-learn's digits, in one process.

Each block is a client that keeps its images. All clients train at once as lanes of one compiled
program; the server sees their models and averages them. Beside it stand what each block reaches
alone, and what one machine reaches that holds all images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import fedcore as fc
from fedcore import nn
from fedcore.checkpoint import save_checkpoint
from fedcore.data import Dataset, concat, group_by, load_digits, stack_clients
from fedcore.tensor import blas

BATCH, LEARNING_RATE, SEED = 16, 0.2, 1

Train = Callable[[np.ndarray, list[Dataset], int], np.ndarray]


def make_model() -> nn.Sequential:
    """A perceptron 64-64-10."""
    key = fc.Key(SEED, "model")
    return nn.Sequential(
        nn.flatten, nn.Linear(64, 64, key=key.fold(0)), nn.relu, nn.Linear(64, 10, key=key.fold(1))
    )


def make_trainer(rebuild: Callable[[fc.Tensor], nn.Sequential]) -> Train:
    """A function that trains every client for one epoch: models (P, D) to models (P, D)."""

    def loss(theta: fc.Tensor, x: fc.Tensor, y: fc.Tensor, weight: fc.Tensor) -> fc.Tensor:
        return nn.cross_entropy(rebuild(theta)(x), y, weight=weight)

    def step(
        theta: fc.Tensor, x: fc.Tensor, y: fc.Tensor, weight: fc.Tensor, lr: fc.Tensor
    ) -> fc.Tensor:
        return fc.add_scaled(theta, fc.factored_grad(loss)(theta, x, y, weight), -lr)

    lanes = fc.compile(fc.vmap(step, in_axes=(0, 0, 0, 0, None)), donate=(0,))

    def train(models: np.ndarray, clients: list[Dataset], round_index: int) -> np.ndarray:
        keys = [fc.Key(SEED, "shuffle", round=round_index, client=i) for i in range(len(clients))]
        batches = stack_clients(clients, BATCH, keys=keys)
        theta = fc.tensor(models.copy())
        for i in range(batches.x.shape[1]):
            x, y, weight = batches.x[:, i], batches.y[:, i], batches.weight[:, i]
            theta = lanes(theta, x.copy(), y.copy(), weight.copy(), LEARNING_RATE)
        return theta.numpy()

    return train


def accuracies(
    rebuild: Callable[[fc.Tensor], nn.Sequential], models: np.ndarray, test: Dataset
) -> np.ndarray:
    """The share of right answers of each model (P, D) on `test`."""
    scores = fc.vmap(lambda theta, x: rebuild(theta)(x), in_axes=(0, None))(models, test.x)
    right: np.ndarray = (scores.numpy().argmax(-1) == test.y).mean(axis=1)
    return right


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print one line a round and the table, and save the federated model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/federated-digits"))
    options = parser.parse_args(argv)
    blas.prepare()
    digits = load_digits()
    parts = [block.split((0.8, 0.2), seed=SEED) for block in group_by(*digits)]
    clients = [train for train, _ in parts]
    test, pooled = concat([held for _, held in parts]), concat(clients)
    share = np.array([len(c) for c in clients], np.float32) / len(pooled)
    theta, rebuild = fc.ravel(make_model())
    train = make_trainer(rebuild)
    print(
        f"{len(clients)} writer blocks, {len(pooled)} training and {len(test)} test images, "
        f"{theta.size:,} parameters"
    )
    federated = theta.numpy()[None]
    alone = np.repeat(federated, len(clients), axis=0)
    central = federated
    begin = time.perf_counter()
    for round_index in range(options.rounds):
        together = train(np.repeat(federated, len(clients), axis=0), clients, round_index)
        federated = (share @ together)[None]
        alone = train(alone, clients, round_index)
        central = train(central, [pooled], round_index)
        accuracy = accuracies(rebuild, federated, test)[0]
        spread = float(np.linalg.norm(together - federated, axis=1).mean())
        print(
            f"round {round_index + 1:>2}/{options.rounds}  clients {len(clients)}  "
            f"accuracy {accuracy:6.1%}  client drift {spread:.3f}"
        )
    seconds = time.perf_counter() - begin
    each = accuracies(rebuild, alone, test)
    print("\nmodel                             test accuracy")
    print(f"federated, images stay apart      {accuracies(rebuild, federated, test)[0]:13.1%}")
    print(f"each block alone, mean            {each.mean():13.1%}")
    print(f"each block alone, worst to best   {each.min():6.1%} {each.max():6.1%}")
    print(f"centralised, images pooled        {accuracies(rebuild, central, test)[0]:13.1%}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "model.safetensors"
    arrays = {name: value.copy() for name, value in rebuild.spec.split(federated[0]).items()}
    save_checkpoint(path, arrays, metadata={"task": "digits", "rounds": str(options.rounds)})
    print(f"\n{seconds:.1f} s of training. The federated model is in {path}")


if __name__ == "__main__":
    main()
