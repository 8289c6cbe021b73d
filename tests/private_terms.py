"""Small private trainings that stand, for tests to change a term of."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.data.dataset import Dataset
from fedcore.optim import Adam
from fedcore.privacy.clipping import Flat
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import CentralNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.units import Adjacency, Unit
from fedcore.private_training import fit_private
from fedcore.tensor.random import Key

__all__ = ["examples", "fit", "linear", "parameters", "planned"]


def planned(**changes: Any) -> PrivacyPlan:
    terms: dict[str, Any] = {
        "unit": Unit.RECORD,
        "adjacency": Adjacency.ADD_REMOVE,
        "population": 40,
        "sampling": Poisson(2**31),
        "clipping": Flat(Fraction(1, 2)),
        "noise": CentralNoise(),
        "noise_multiplier": Fraction(1),
        "denominator": 20,
        "dimension": 18,
        "rounds": 3,
        "steps": 2,
        "epsilon": 1000.0,
    }
    return PrivacyPlan(**terms | changes)


def linear(seed: int = 0) -> nn.Linear:
    """Five inputs, three classes: 18 parameters."""
    return nn.Linear(5, 3, key=Key(seed, "init"))


def examples(count: int, shape: tuple[int, ...] = (5,), classes: int = 3) -> Dataset:
    source = np.random.default_rng(count)
    x = source.normal(size=(count, *shape)).astype(np.float32)
    return Dataset(x, source.integers(0, classes, count))


def fit(training: PrivacyPlan, ledger: Ledger, **options: Any) -> Any:
    terms: dict[str, Any] = {
        "loss": nn.cross_entropy,
        "optimizer": Adam(lr=0.05),
        "plan": training,
        "ledger": ledger,
        "average": 0.5,
    }
    terms |= {"model": linear(), "dataset": examples(40), "progress": False} | options
    return fit_private(terms.pop("model"), terms.pop("dataset"), **terms)


def parameters(model: Any) -> NDArray[np.float32]:
    return ravel(model)[0].numpy()
