"""The operations by name: `Tensor`'s operators need not import the modules that define them.

This cuts the one cycle of the core: a tensor's `+` is an operation, and operations make tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedcore.tensor.tensor import Tensor

__all__ = ["Operations", "operations"]


class Operations:
    """A namespace of callables; each name may be taken once.

    >>> ops = Operations()
    >>> ops.register("twice", lambda x: 2 * x)
    >>> ops.twice(4)
    8
    """

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        raise AttributeError(f"no operation named {name!r} is registered")

    def register(self, name: str, operation: Callable[..., Any]) -> None:
        """Add `operation` under `name`; a second one under the same name is a programming error."""
        if name in self.__dict__:
            raise ValueError(f"an operation named {name!r} is registered already")
        self.__dict__[name] = operation

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.__dict__))


operations = Operations()
