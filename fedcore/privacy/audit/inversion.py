"""A gradient of one example is the example: a linear layer's rows are multiples of its input.

The gradient of the weights of one output is its cotangent times the input, and the gradient of its
bias is the cotangent alone. Their quotient is the input, however much the gradient was clipped:
clipping scales both. Noise alone takes it away, which this audit checks on what was released.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, ShapeError
from fedcore.privacy.audit.arguments import require_finite
from fedcore.privacy.audit.verdict import Finding, Outcome, Verdict

__all__ = ["Inversion", "inversion"]

Floats = npt.NDArray[np.float64]

_SUCCEEDED = 0.99
_FAILED = 0.1


@dataclass(frozen=True, kw_only=True)
class Inversion(Finding):
    """How much of an input was found in a gradient; see `inversion`. All are Pearson correlations.

    `quotient_correlation`: of the row with the largest bias gradient. `best_row_correlation`: of
    the row that fits best, which only who knows the input can choose. `spectral_correlation`: of
    the leading singular vector. `chance`: three standard errors of a guess that knows nothing.
    """

    title: ClassVar[str] = "Gradient inversion"

    inputs: int
    outputs: int
    quotient_correlation: float
    best_row_correlation: float
    spectral_correlation: float
    chance: float


def inversion(
    weight_gradient: npt.ArrayLike, bias_gradient: npt.ArrayLike, true_input: npt.ArrayLike
) -> Inversion:
    """Whether the input of a linear layer can be read from the gradient that was released.

    `weight_gradient`: shape (o, k) for o outputs and k inputs. `bias_gradient`: shape (o,).
    `true_input`: shape (k,), the one example of that gradient. Two attacks are run: the quotient
    of the row whose bias gradient is the largest, and the leading singular vector of both gradients
    side by side, which uses all rows. The sign is left to the attacker's eye.

    The verdict is that of the stronger attack: `FAILED` if it correlates with the input by more
    than 0.99, `PASSED` if by less than 0.1, else `INCONCLUSIVE`. An input of fewer than 900 numbers
    correlates by more than 0.1 with pure noise now and then.

    Raises: ArgumentError, DtypeError, ShapeError.
    Source: Phong et al., IEEE TIFS 13 (2018), section 3; Geiping et al., arXiv 2003.14053,
    proposition 3.1.

    >>> cotangent, example = np.array([0.5, -1.0]), np.array([3.0, 1.0, 4.0, 1.0])
    >>> clipped = 0.01 * np.outer(cotangent, example), 0.01 * cotangent
    >>> inversion(*clipped, example).verdict.outcome.value
    'failed'
    """
    weights = require_finite("weight_gradient", weight_gradient, dimensions=2)
    biases = require_finite("bias_gradient", bias_gradient, dimensions=1)
    example = require_finite("true_input", true_input, dimensions=1, least=2)
    outputs, inputs = len(biases), len(example)
    if weights.shape != (outputs, inputs):
        raise ShapeError(
            f"inversion: gradients of shapes {weights.shape} and {biases.shape}, an input of shape "
            f"{example.shape}",
            why="there is a row for each output and a column for each input",
            fix="pass shapes (o, k), (o,) and (k,)",
        )
    # Correlations are blind to scale; squares of the largest floats are not.
    (example,) = _scaled(example)
    weights, biases = _scaled(weights, biases)
    if example.min() == example.max():
        raise ArgumentError(
            "inversion: all numbers of the input are equal",
            why="nothing correlates with a constant",
            fix="take an example that varies",
        )
    quotient = _correlation(_reading(weights, biases, int(np.abs(biases).argmax())), example)
    rows = [_correlation(_reading(weights, biases, row), example) for row in range(outputs)]
    spectral = _correlation(_leading(weights, biases), example)
    chance = 3 / inputs**0.5
    return Inversion(
        verdict=_judge(max(abs(quotient), abs(spectral)), chance),
        inputs=inputs,
        outputs=outputs,
        quotient_correlation=quotient,
        best_row_correlation=max(rows),
        spectral_correlation=spectral,
        chance=chance,
    )


def _scaled(*parts: Floats) -> tuple[Floats, ...]:
    """The parts over the largest number among them."""
    largest = max((float(np.abs(part).max(initial=0.0)) for part in parts), default=0.0)
    return tuple(part / largest if largest else part for part in parts)


def _reading(weights: Floats, biases: Floats, row: int) -> Floats:
    # Correlation is blind to scale: the sign of a bias gradient does what its quotient would,
    # without dividing by zero.
    reading: Floats = weights[row] * (np.sign(biases[row]) or 1.0)
    return reading


def _leading(weights: Floats, biases: Floats) -> Floats:
    """The inputs' part of the leading right singular vector of (weights, biases)."""
    both = np.column_stack([weights, biases])
    # By the smaller Gram matrix: its side is that of the outputs, of which there are few.
    if len(both) <= both.shape[1]:
        _, vectors = np.linalg.eigh(both @ both.T)
        vector = vectors[:, -1] @ both
    else:
        _, vectors = np.linalg.eigh(both.T @ both)
        vector = vectors[:, -1]
    leading: Floats = vector[:-1] * (np.sign(vector[-1]) or 1.0)
    return leading


def _correlation(reading: Floats, example: Floats) -> float:
    (reading,) = _scaled(reading)
    centred, wanted = reading - reading.mean(), example - example.mean()
    norm = np.linalg.norm(centred) * np.linalg.norm(wanted)
    # A gradient of zeros, of a dead unit or an empty round, says nothing.
    return float(centred @ wanted / norm) if norm > 0 else 0.0


def _judge(correlation: float, chance: float) -> Verdict:
    if correlation > _SUCCEEDED:
        return Verdict(
            Outcome.FAILED,
            f"the attack succeeded: what it read correlates with the input by {correlation:.4f}",
        )
    if correlation < _FAILED:
        return Verdict(
            Outcome.PASSED,
            f"the attack failed: what it read correlates with the input by {correlation:.2f} only",
        )
    alone = (
        f"; noise alone reaches {chance:.2f} for an input as short as this"
        if chance > _FAILED
        else ""
    )
    return Verdict(
        Outcome.INCONCLUSIVE,
        f"the attack found a part: what it read correlates with the input by {correlation:.2f}"
        f"{alone}",
    )
