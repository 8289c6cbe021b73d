"""Private federated learning over the 14 writer blocks of scikit-learn's digits, in one process.

Each block is a client that keeps its images. In every round a client draws some of them, clips the
gradient of each, adds up on an integer grid and adds its share of noise; the sums go through a
session of secure aggregation, from which two clients are lost. What the server sees is private
already, so the ledger's ε holds for every image, against the server too. Beside it stand federated
averaging without privacy, what each block reaches alone, and what one machine reaches that holds
all images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path

import numpy as np

import fedcore as fc
from fedcore import nn, optim
from fedcore.checkpoint import save_checkpoint
from fedcore.data import Dataset, concat, group_by, load_digits, stack_clients
from fedcore.privacy import (
    Adjacency,
    Flat,
    Ledger,
    NoiseShares,
    NoisySum,
    Poisson,
    PrivacyPlan,
    ShareAdder,
    SharedMechanism,
    Stream,
    Unit,
    certificate,
    draw_records,
    format_certificate,
    rate_of,
)
from fedcore.private_training import RecordGradients
from fedcore.secagg import Block, Layout, LostAt, SessionConfig, run_session
from fedcore.tensor import blas

SEED, ROUNDS, LOST = 1, 40, 2
EPSILON, DELTA = 3.0, 1e-4
CLIPPING_NORM, SHARE_OF_IMAGES, LIMIT = 1.0, 0.25, 2**26
PRIVATE = optim.SGD(lr=2.0, momentum=0.5)
BATCH, LEARNING_RATE = 16, 0.2  # of federated averaging
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


def make_plan(images: int, clients: int, dimension: int, *, rounds: int) -> PrivacyPlan:
    """The terms of the guarantee, with the least noise that `rounds` rounds need."""
    terms = make_config(bytes(32), dimension, clients).parameters(clients)
    return PrivacyPlan(
        unit=Unit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        population=images,
        sampling=Poisson(rate_of(SHARE_OF_IMAGES)),
        clipping=Flat(CLIPPING_NORM),
        noise=NoiseShares(
            clients=clients,
            survivors=terms.minimum_survivors,
            corrupt=terms.corrupt,
            limit=LIMIT,
        ),
        noise_multiplier=Fraction(1),
        denominator=round(SHARE_OF_IMAGES * images),
        dimension=dimension,
        rounds=rounds,
        epsilon=EPSILON,
        delta=DELTA,
    ).calibrated()


def make_config(task: bytes, dimension: int, clients: int) -> SessionConfig:
    """The terms of a round's session; that noise fits into its slots, the plan has seen to."""
    return SessionConfig(
        task=task,
        layout=Layout((Block(dimension, 32, LIMIT, wraps=True),)),
        delta=Fraction(LOST, clients),
    )


class PrivateFederation:
    """A model, and the rounds that train it: all that a server would hold."""

    def __init__(
        self,
        clients: list[Dataset],
        plan: PrivacyPlan,
        ledger: Ledger,
        theta: fc.Tensor,
        rebuild: Callable[[fc.Tensor], nn.Sequential],
    ) -> None:
        self.clients, self.plan, self.ledger = clients, plan, ledger
        self.config = replace(
            make_config(plan.digest, plan.dimension, len(clients)),
            clipping_norm=float(plan.clipping_norm),
            noise_multiplier=float(plan.noise_multiplier),
        )
        self.theta, self.moments = theta, PRIVATE.init(theta)
        self.gradients = RecordGradients(rebuild, loss=nn.cross_entropy, plan=plan, chunk=32)
        self.devices = [(Stream(), ShareAdder(plan)) for _ in clients]
        self.mechanism = SharedMechanism(plan)

    def round(self, index: int) -> dict[int, LostAt]:
        """One noisy step of all clients together; who was lost, and where."""
        reservation = self.ledger.reserve(index)
        terms = self.config.parameters(len(self.clients))
        self.mechanism.begin(
            reservation, minimum_survivors=terms.minimum_survivors, corrupt=terms.corrupt
        )
        reports = [self.report(client, index) for client in range(len(self.clients))]
        losses = draw_losses(index, len(self.clients))
        result = run_session(reports, config=self.config, dropouts=losses)
        total = NoisySum(result.totals[0], shares=len(result.survivors))
        mean = self.mechanism.release(total, reservation)
        self.theta, self.moments = PRIVATE.step(self.theta, fc.tensor(mean.vector), self.moments)
        return losses

    def report(self, client: int, index: int) -> np.ndarray:
        """What one client sends, before it is masked: a sum of clipped gradients, with noise."""
        data, (stream, adder) = self.clients[client], self.devices[client]
        drawn = draw_records(self.plan, len(data), stream=stream)
        key = fc.Key(SEED, "forward", round=index, client=client)
        return adder.add(
            self.gradients.total(self.theta.numpy(), data.x[drawn], data.y[drawn], key=key)
        )


def draw_losses(round_index: int, clients: int) -> dict[int, LostAt]:
    """Which clients fall silent in a round, and where in the session."""
    draw = np.random.default_rng((SEED, round_index))
    lost = sorted(draw.choice(clients, LOST, replace=False).tolist())
    return {client: LostAt(int(draw.integers(1, len(LostAt) + 1))) for client in lost}


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


def new_folder(parent: Path) -> Path:
    """The first free one of `parent`/1, `parent`/2 …: a ledger is never written over."""
    return next(path for n in count(1) if not (path := parent / str(n)).exists())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print one line a round, the table and the certificate, and save the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("runs/federated-digits"))
    options = parser.parse_args(argv)
    blas.prepare()
    digits = load_digits()
    parts = [block.split((0.8, 0.2), seed=SEED) for block in group_by(*digits)]
    clients = [train for train, _ in parts]
    test, pooled = concat([held for _, held in parts]), concat(clients)
    theta, rebuild = fc.ravel(make_model())
    train = make_trainer(rebuild)
    plan = make_plan(len(pooled), len(clients), theta.size, rounds=options.rounds)
    folder = new_folder(options.out)
    with Ledger.create(folder / "ledger", plan) as ledger:
        private = PrivateFederation(clients, plan, ledger, theta, rebuild)
        terms = private.config.parameters(len(clients))
        print(
            f"{len(clients)} writer blocks, {len(pooled)} training and {len(test)} test images, "
            f"{theta.size:,} parameters\n"
            f"secure aggregation, profile {private.config.profile.name.lower()}: "
            f"{private.config.profile.claim}\n"
            f"  n = {terms.n} clients, k = {terms.degree} neighbours each, t = {terms.threshold} "
            f"shares open a mask, any {terms.dropouts} clients may be lost\n"
            f"differential privacy of every image: epsilon at most {EPSILON:g} at delta = "
            f"{DELTA:g}; each client adds its share of the noise"
        )
        averaged = theta.numpy()[None]
        alone = np.repeat(averaged, len(clients), axis=0)
        central = averaged
        begin = time.perf_counter()
        for index in range(options.rounds):
            losses = private.round(index)
            together = train(np.repeat(averaged, len(clients), axis=0), clients, index)
            averaged = np.average(together, axis=0, weights=list(map(len, clients)))[None]
            averaged = averaged.astype(np.float32)
            alone = train(alone, clients, index)
            central = train(central, [pooled], index)
            accuracy = accuracies(rebuild, private.theta.numpy()[None], test)[0]
            silent = ", ".join(f"writer {i + 1} {PLACES[at]}" for i, at in losses.items())
            print(
                f"round {index + 1:>2}/{options.rounds}  accuracy {accuracy:6.1%}  "
                f"eps {ledger.epsilon():.2f}/{EPSILON:g}  lost {len(losses)}: {silent}"
            )
        seconds = time.perf_counter() - begin
        statement = certificate(ledger)
    final = private.theta.numpy()
    each = accuracies(rebuild, alone, test)
    print("\nmodel                             test accuracy")
    print(f"federated and private             {accuracies(rebuild, final[None], test)[0]:13.1%}")
    print(f"federated, without privacy        {accuracies(rebuild, averaged, test)[0]:13.1%}")
    print(f"each block alone, mean            {each.mean():13.1%}")
    print(f"each block alone, worst to best   {each.min():6.1%} {each.max():6.1%}")
    print(f"centralised, images pooled        {accuracies(rebuild, central, test)[0]:13.1%}")
    print(f"\n{format_certificate(statement)}")
    print(
        f"\nA client uploaded {private.config.layout.upload_bytes:,} masked bytes a round (its "
        f"parameters in float32: {4 * theta.size:,}).\nThe server saw noisy sums over "
        f"{terms.minimum_survivors} to {terms.n} writers, never one writer's. All of them ran in "
        f"this one process. What the table measures on test images is not covered by the guarantee."
    )
    path = folder / "model.safetensors"
    arrays = {name: value.copy() for name, value in rebuild.spec.split(final).items()}
    head = f"{statement['ledger']}"
    save_checkpoint(path, arrays, metadata={"task": "digits", "ledger": head})
    print(f"{seconds:.1f} s of training. The private model is in {path}, beside its ledger")


if __name__ == "__main__":
    main()
