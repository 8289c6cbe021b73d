"""What a compression of a study is: clients send fewer numbers, whose mean says the same.

Only what is linear goes through a sum of integers behind masks: the mean of what clients send has
to decode to the mean of what each would decode to.
"""

from __future__ import annotations

from typing import Protocol

from fedsim.algorithms.algorithm import State, Vector

__all__ = ["Code", "Compression"]


class Code(Protocol):
    """A compression in one round, the same for all clients and the server."""

    @property
    def length(self) -> int:
        """How many numbers a client sends, k."""
        ...

    @property
    def bytes_saved(self) -> int:
        """How many bytes fewer a client sends, each number in float32."""
        ...

    def encode(self, vector: Vector, state: State) -> tuple[Vector, State]:
        """What a client sends (k,) of its vector (M,), and what it keeps for its next round.

        `state`: what it kept at its last, empty at its first. What it keeps counts once it is
        certain that what it sent has entered a mean.
        """
        ...

    def decode(self, mean: Vector) -> Vector:
        """The mean (M,) that a mean (k,) of what clients sent stands for."""
        ...


class Compression(Protocol):
    """How vectors are compressed. `stateful`: clients keep state from round to round."""

    @property
    def stateful(self) -> bool: ...

    def code(self, length: int, *, scalars: int = 0, seed: int, round: int) -> Code:
        """The code of a round for vectors of so many numbers.

        `scalars`: of the last so many nothing is left out, see `Algorithm`.
        """
        ...
