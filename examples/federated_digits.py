"""Federated averaging over the 14 writer blocks of scikit-learn's digits, in one process.

Each block is a client that keeps its images. All clients train at once as lanes of one compiled
program. What a client reports, its weighted update, the length of the update and its weight, goes
as integers through a session of secure aggregation, from which two clients are lost every round:
the server computes with sums alone. Beside it stand what each block reaches alone, and what one
machine reaches that holds all images.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

import fedcore as fc
from fedcore import nn
from fedcore.checkpoint import save_checkpoint
from fedcore.data import Dataset, concat, group_by, load_digits, stack_clients
from fedcore.secagg import Block, Layout, LostAt, SessionConfig, SessionResult, run_session
from fedcore.tensor import blas

BATCH, LEARNING_RATE, SEED = 16, 0.2, 1

# A client's weighted update is rounded to multiples of 2^-20. Rounding shifts a coordinate of the
# mean by at most 2^-21 / 100 images = 5e-9; float32 itself rounds a parameter of 0.2 by up to 7e-9.
UPDATE_SCALE, LENGTH_SCALE = 2.0**20, 2.0**16
LOST = 2
PLACES = {
    LostAt.SHARES: "before its shares",
    LostAt.UPLOAD: "before its upload",
    LostAt.UPLOADING: "during its upload",
    LostAt.CONFIRMATION: "before its confirmation",
    LostAt.ANSWER: "before its answer",
}

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


def make_config(parameters: int, clients: int) -> SessionConfig:
    """The terms of a round's session: blocks of 32-bit slots that no sum can overflow."""
    limit = (2**31 - 1) // clients
    return SessionConfig(
        task=hashlib.sha256(b"federated digits").digest(),
        layout=Layout((Block(parameters, 32, limit), Block(2, 32, limit))),
        delta=Fraction(LOST, clients),
    )


def report(start: np.ndarray, end: np.ndarray, images: int, *, limit: int) -> list[np.ndarray]:
    """All that a client tells, as integers: images · update (D,), images · its length, images."""
    update = end.astype(np.float64) - start
    steps = np.rint(images * update * UPDATE_SCALE).clip(-limit, limit).astype(np.int64)
    length = round(images * float(np.linalg.norm(update)) * LENGTH_SCALE)
    return [steps, np.array([min(length, limit), images])]


def aggregate(start: np.ndarray, result: SessionResult) -> tuple[np.ndarray, float]:
    """The next model (D,) and the mean length of an update, from the sums of the survivors."""
    steps, (length, images) = result.totals
    return (
        (start + steps / (UPDATE_SCALE * images)).astype(np.float32),
        float(length / (LENGTH_SCALE * images)),
    )


def draw_losses(round_index: int, clients: int) -> dict[int, LostAt]:
    """Which clients fall silent in a round, and where in the session."""
    draw = np.random.default_rng((SEED, round_index))
    lost = sorted(draw.choice(clients, LOST, replace=False).tolist())
    return {client: LostAt(draw.integers(1, len(LostAt) + 1)) for client in lost}


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
    theta, rebuild = fc.ravel(make_model())
    train = make_trainer(rebuild)
    config = make_config(theta.size, len(clients))
    limit, terms = config.layout.blocks[0].limit, config.parameters(len(clients))
    print(
        f"{len(clients)} writer blocks, {len(pooled)} training and {len(test)} test images, "
        f"{theta.size:,} parameters\n"
        f"secure aggregation, profile {config.profile.name.lower()}: {config.profile.claim}\n"
        f"  n = {terms.n} clients, k = {terms.degree} neighbours each, t = {terms.threshold} "
        f"shares open a mask, any {terms.dropouts} clients may be lost"
    )
    federated = theta.numpy()[None]
    alone = np.repeat(federated, len(clients), axis=0)
    central = federated
    begin = time.perf_counter()
    for round_index in range(options.rounds):
        together = train(np.repeat(federated, len(clients), axis=0), clients, round_index)
        reports = [
            report(federated[0], end, len(client), limit=limit)
            for end, client in zip(together, clients, strict=True)
        ]
        losses = draw_losses(round_index, len(clients))
        result = run_session(reports, config=config, dropouts=losses)
        model, length = aggregate(federated[0], result)
        federated = model[None]
        alone = train(alone, clients, round_index)
        central = train(central, [pooled], round_index)
        accuracy = accuracies(rebuild, federated, test)[0]
        silent = ", ".join(f"writer {i + 1} {PLACES[at]}" for i, at in losses.items())
        print(
            f"round {round_index + 1:>2}/{options.rounds}  accuracy {accuracy:6.1%}  "
            f"update {length:.3f}  lost {len(losses)}: {silent}"
        )
    seconds = time.perf_counter() - begin
    each = accuracies(rebuild, alone, test)
    print("\nmodel                             test accuracy")
    print(f"federated, images stay apart      {accuracies(rebuild, federated, test)[0]:13.1%}")
    print(f"each block alone, mean            {each.mean():13.1%}")
    print(f"each block alone, worst to best   {each.min():6.1%} {each.max():6.1%}")
    print(f"centralised, images pooled        {accuracies(rebuild, central, test)[0]:13.1%}")
    print(
        f"\nA client uploaded {config.layout.upload_bytes:,} masked bytes a round (its parameters "
        f"in float32: {4 * theta.size:,}).\nThe server saw sums over {terms.minimum_survivors} to "
        f"{terms.n} writers, never one writer's update. All of them ran in this one process."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "model.safetensors"
    arrays = {name: value.copy() for name, value in rebuild.spec.split(federated[0]).items()}
    save_checkpoint(path, arrays, metadata={"task": "digits", "rounds": str(options.rounds)})
    print(f"{seconds:.1f} s of training. The federated model is in {path}")


if __name__ == "__main__":
    main()
