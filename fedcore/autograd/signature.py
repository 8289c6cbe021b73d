"""What makes two calls of a compiled function the same program: the signature of their arguments.

An argument that is an array is what `tensor` makes of it, with its errors. Arrays count by shape,
dtype and order in memory, floats not at all, and everything else by its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedcore.autograd.program import layout
from fedcore.autograd.tree import Structure, flatten, unflatten
from fedcore.tensor.backend import backend_of, current_backend, is_array
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["Arguments"]

_LEAVES = frozenset({Tensor, np.ndarray, float})  # these need no search for containers


class Arguments(NamedTuple):
    """The arguments of one call as leaves; `structure` is None if each is a leaf by itself.

    `owners` tells for each leaf to which positional argument it belongs, -1 for a keyword's.
    """

    leaves: Sequence[Any]
    structure: Structure | None
    owners: Sequence[int]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The leaves of a call's arguments."""
        if not kwargs and all(
            isinstance(a, Tensor | np.ndarray | float | np.generic) for a in args
        ):
            return cls(args, None, range(len(args)))
        leaves, structure = flatten((args, kwargs))
        positional, named = structure.children
        owners = [i for i, child in enumerate(positional.children) for _ in range(child.leaves)]
        return cls(leaves, structure, [*owners, *[-1] * named.leaves])

    @property
    def traced(self) -> bool:
        """Whether an argument carries a tape or lanes."""
        return any(type(x) is Tensor and (x.node is not None or x.lanes > 0) for x in self.leaves)

    def call(self, function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
        """`function` on these arguments, with a tensor of each of `arrays` that is not None."""
        leaves = [x if a is None else Tensor(a) for x, a in zip(self.leaves, arrays, strict=True)]
        if self.structure is None:
            return function(*leaves)
        args, kwargs = unflatten(self.structure, leaves)
        return function(*args, **kwargs)

    def signature(self) -> tuple[list[Any], Any]:
        """The arrays among the leaves (None where one is static), and the key of their program."""
        arrays: list[Any] = []
        key: list[Any] = [self.structure]
        precision = np.dtype(np.float32)
        for x in self.leaves:
            a = x.data if type(x) is Tensor else x
            if is_array(a):
                if type(x) is not Tensor:
                    a = tensor(a).data
                key.append((a.shape, a.dtype, type(a), layout(a)))
                if a.dtype == np.float64:
                    precision = a.dtype
            elif isinstance(a, float | np.floating):
                key.append(float)
            elif isinstance(a, np.generic) and a.dtype.kind in "biu":
                key.append(type(a))
            else:
                key.append((type(a), a))
                a = None
            arrays.append(a)
        xp = next((backend_of(a).xp for a in arrays if is_array(a)), current_backend().xp)
        for i, a in enumerate(arrays):
            if isinstance(a, float | np.floating):  # a scalar follows the arrays, as in eager code
                arrays[i] = xp.asarray(a, dtype=precision)
            elif isinstance(a, np.generic):
                arrays[i] = xp.asarray(a)
        return arrays, tuple(key)

    def kept(self, key: Any) -> Any:
        """`key` without the arrays of this call, so that a program does not keep them alive."""
        if self.structure is None:
            return key
        return self.structure.without_arrays(self.leaves), *key[1:]

    def of_arguments(self, chosen: frozenset[int]) -> list[int]:
        """The positions of the arrays among the leaves of the arguments at positions `chosen`."""
        return [
            i
            for i, (x, owner) in enumerate(zip(self.leaves, self.owners, strict=True))
            if owner in chosen and is_array(x.data if type(x) is Tensor else x)
        ]
