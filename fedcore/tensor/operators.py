"""The operators and methods of a tensor, spelled out by hand: each is an operation by its name.

They mean what NumPy's mean, except that floating numbers keep their precision, that integers become
float32 where NumPy gives float64, and that nothing is assigned in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedcore.tensor.registry import operations

if TYPE_CHECKING:
    from fedcore.tensor.tensor import Tensor

__all__ = ["Axis", "Operators"]

Axis = int | tuple[int, ...] | None


class Operators:
    """What `Tensor` inherits: no state, only names for registered operations."""

    __slots__ = ()

    # ---- arithmetic
    def __add__(self, other: Any) -> Tensor:
        return operations.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return operations.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return operations.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return operations.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return operations.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return operations.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return operations.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return operations.divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return operations.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return operations.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return operations.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return operations.remainder(other, self)

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __pow__(self, other: Any) -> Tensor:
        return operations.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return operations.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return operations.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return operations.matmul(other, self)

    def __neg__(self) -> Tensor:
        return operations.negative(self)

    def __abs__(self) -> Tensor:
        return operations.absolute(self)

    # ---- bits, which of booleans are truth values
    def __invert__(self) -> Tensor:
        return operations.bitwise_not(self)

    def __and__(self, other: Any) -> Tensor:
        return operations.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return operations.bitwise_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return operations.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return operations.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return operations.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return operations.bitwise_xor(other, self)

    # ---- order
    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        if other is None or isinstance(other, str):
            return NotImplemented
        return operations.equal(self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        if other is None or isinstance(other, str):
            return NotImplemented
        return operations.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return operations.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return operations.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return operations.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return operations.greater_equal(self, other)

    __hash__ = object.__hash__

    # ---- elements and shape
    def __getitem__(self, index: Any) -> Tensor:
        return operations.index(self, index)

    @property
    def T(self) -> Tensor:
        """The axes reversed."""
        return operations.permute_dims(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return operations.swapaxes(self, -1, -2)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape; one length may be -1."""
        return operations.reshape(self, shape[0] if len(shape) == 1 else shape)

    def flatten(self) -> Tensor:
        """All elements in one axis."""
        return operations.reshape(self, -1)

    def ravel(self) -> Tensor:
        """All elements in one axis."""
        return operations.reshape(self, -1)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes permuted, or reversed when none is given."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        return operations.permute_dims(self, order)

    def swapaxes(self, first: int, second: int) -> Tensor:
        """Two axes exchanged."""
        return operations.swapaxes(self, first, second)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """Axes of length 1 removed."""
        return operations.squeeze(self, axis)

    def astype(self, dtype: Any) -> Tensor:
        """The values converted to `dtype`."""
        return operations.astype(self, dtype)

    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        """The elements at `indices` along `axis`, or of the flattened tensor."""
        return operations.take(self, indices, axis=axis)

    def repeat(self, times: Any, axis: int | None = None) -> Tensor:
        """Each element along `axis`, or of the flattened tensor, repeated."""
        return operations.repeat(self, times, axis=axis)

    def argsort(self, axis: int = -1) -> Tensor:
        """The indices that sort along `axis`; equal elements keep their order."""
        return operations.argsort(self, axis=axis)

    def sort(self, axis: int = -1) -> Tensor:
        """The elements in order along `axis`, as a new tensor."""
        return operations.sort(self, axis)

    # ---- reductions
    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The sum along `axis`, or of everything."""
        return operations.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The mean along `axis`, or of everything."""
        return operations.mean(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The population variance along `axis`, or of everything."""
        return operations.var(self, axis=axis, keepdims=keepdims)

    def std(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The population standard deviation along `axis`, or of everything."""
        return operations.std(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The largest value along `axis`, or of everything."""
        return operations.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The smallest value along `axis`, or of everything."""
        return operations.min(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The product along `axis`, or of everything."""
        return operations.prod(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Tensor:
        """Running sums along `axis`, or of the flattened tensor."""
        return operations.cumsum(self, axis=axis)

    def norm(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The Euclidean norm along `axis`, or of everything."""
        return operations.norm(self, axis=axis, keepdims=keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether any value along `axis` is true."""
        return operations.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether all values along `axis` are true."""
        return operations.all(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Tensor:
        """The index of the first largest value along `axis`, or in the flattened tensor."""
        return operations.argmax(self, axis=axis)

    def argmin(self, axis: int | None = None) -> Tensor:
        """The index of the first smallest value along `axis`, or in the flattened tensor."""
        return operations.argmin(self, axis=axis)

    # ---- values
    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        """The values limited to [low, high]."""
        return operations.clip(self, low, high)

    def round(self) -> Tensor:
        """The whole number nearest to each value; halves go to the even one."""
        return operations.round(self)

    def dot(self, other: Any) -> Tensor:
        """The product of vectors and matrices, as `@`."""
        return operations.dot(self, other)
