"""A LeNet-style network on MNIST: `python examples/mnist_lenet.py FOLDER_OF_THE_FOUR_IDX_FILES`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedcore import nn, optim
from fedcore.data import load_mnist
from fedcore.errors import DataFormatError
from fedcore.tensor import blas
from fedcore.training import accuracy, evaluate, fit

EPOCHS, BATCH = 5, 64


def train(folder: Path) -> float:
    """The share of test images told apart after five epochs; prints a line an epoch."""
    data, test = load_mnist(folder), load_mnist(folder, split="test")
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, key=0, padding="same"),
        nn.relu,
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, key=1),
        nn.relu,
        nn.MaxPool2d(2),
        nn.flatten,
        nn.Linear(400, 128, key=2),
        nn.relu,
        nn.Linear(128, 10, key=3),
    )
    schedule = optim.cosine(2e-3, steps=EPOCHS * data.steps_per_epoch(BATCH))
    fitted = fit(
        model,
        data,
        loss=nn.cross_entropy,
        optimizer=optim.Adam(),
        schedule=schedule,
        epochs=EPOCHS,
        batch_size=BATCH,
        metrics=[accuracy],
    )
    return evaluate(fitted.model, test)["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where train-images-idx3-ubyte.gz and so on lie")
    blas.prepare()
    try:
        print(f"test accuracy {train(parser.parse_args().folder):.2%}")
    except DataFormatError as error:
        sys.exit(
            f"{error}\n  Or: get the four files of MNIST, from Yann LeCun's site or a mirror of it"
        )
