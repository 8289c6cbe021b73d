"""How a quantity of devices is spread over them: one number a device, from one number in [0, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import TaskError
from fedcore.federated.choices import Choice
from fedcore.settings import Bounds, Settings

__all__ = ["DistributionSpec"]

_LARGEST: Final = 1e18
_STANDARD: Final = NormalDist()
_TINY: Final = 2.0**-54  # half a step of a draw, which may be 0


@dataclass(frozen=True, kw_only=True)
class _Fixed(Settings):
    value: Annotated[float, Bounds(least=0, most=_LARGEST)]

    def at(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(u.shape, self.value)


@dataclass(frozen=True, kw_only=True)
class _Uniform(Settings):
    least: Annotated[float, Bounds(least=0, most=_LARGEST)]
    most: Annotated[float, Bounds(least=0, most=_LARGEST)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise TaskError(
                f"least = {self.least} is more than most = {self.most}",
                why="numbers are drawn between the two",
                fix="exchange them",
            )

    def at(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.least + u * (self.most - self.least)


@dataclass(frozen=True, kw_only=True)
class _LogNormal(Settings):
    median: Annotated[float, Bounds(above=0, most=_LARGEST)]
    sigma: Annotated[float, Bounds(least=0, most=5)]

    def at(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        normal = [_STANDARD.inv_cdf(each + _TINY) for each in u.ravel().tolist()]
        return self.median * np.exp(self.sigma * np.array(normal).reshape(u.shape))


@dataclass(frozen=True, kw_only=True)
class DistributionSpec(Choice):
    """Numbers from 0 on: "fixed" at `value`; "uniform" from `least` to `most`; or "lognormal".

    Of the last the logarithm is normal with deviation `sigma`: half of the devices are below
    `median`, and one in six below median · e^−sigma.

    >>> uniform = DistributionSpec(name="uniform", options=(("least", 10.0), ("most", 30.0)))
    >>> uniform.quantiles(np.array([0.0, 0.5])).tolist()
    [10.0, 20.0]
    """

    known: ClassVar[Mapping[str, Any]] = {
        "fixed": _Fixed,
        "lognormal": _LogNormal,
        "uniform": _Uniform,
    }
    key = "kind"

    def quantiles(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """The number below which a share `u` of the devices lies. Shapes: (...) -> (...)."""
        found: NDArray[np.float64] = self.known[self.name](**dict(self.options)).at(u)
        return found
