"""What a forward pass did, layer by layer: output shapes, and FLOPs by the primitives' costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedcore.nn.tree import ModuleTree
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.tensor import Tensor, interpreter

__all__ = ["LayerCall", "Trace"]


@dataclass(slots=True)
class LayerCall:
    """One call of a layer: where, which, with what result, at how many FLOPs (its parts' too)."""

    path: str
    module: ModuleTree
    output: Any = None
    flops: int = 0


class Trace:
    """Listens to kernel calls and to layers; `calls` are the layers' in order of entry."""

    def __init__(self) -> None:
        self.calls: list[LayerCall] = []
        self._flops = 0

    def record(self, prim: Primitive, xs: list[Tensor], params: dict[str, Any], y: Tensor) -> None:
        """Count a kernel call."""
        if prim.cost is not None:
            self._flops += prim.cost(*[x.shape for x in xs], **params)

    @contextmanager
    def inside(self, path: str, module: ModuleTree) -> Iterator[LayerCall]:
        """The call of a layer, to which the caller adds the output."""
        call = LayerCall(path, module)
        self.calls.append(call)
        before = self._flops
        yield call
        call.flops = self._flops - before

    @contextmanager
    def listening(self) -> Iterator[Trace]:
        """Receive every kernel call of this thread meanwhile."""
        outer, interpreter.recorder = interpreter.recorder, self
        try:
            yield self
        finally:
            interpreter.recorder = outer
