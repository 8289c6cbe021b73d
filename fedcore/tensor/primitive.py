"""A primitive is declared once: kernel, derivatives, batching kind, shape rule, ONNX name, cost.

`grad`, `vmap`, `compile` and ONNX export all read this one record, so that an operation is added in
one place. `bind` is the single point through which every kernel call goes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from fedcore.errors import ArgumentError, FedcoreError, ShapeError, user_line
from fedcore.tensor.backend import backend_of, is_array
from fedcore.tensor.dtypes import unify_dtypes, weak_dtype
from fedcore.tensor.misuse import check_ranks, explained, misused, mixed_devices
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Node, Tensor, interpreter, tensor

__all__ = [
    "ELEMENTWISE",
    "Core",
    "Primitive",
    "Shape",
    "Vjp",
    "apply",
    "bind",
    "broadcast_shape",
    "declared",
    "lift_to",
    "primitive",
    "primitives",
    "ufunc",
]

Shape = tuple[int, ...]
Kernel = Callable[..., Any]
ShapeRule = Callable[..., Shape]
Vjp = Callable[..., Any]
Prepare = Callable[..., Callable[[], Any] | None]
Prepared = TypeVar("Prepared", bound=Prepare)


@dataclass(frozen=True, slots=True)
class Core:
    """The least core rank of each array argument; axes are counted from the end."""

    ranks: tuple[int, ...]

    def __init__(self, *ranks: int) -> None:
        object.__setattr__(self, "ranks", ranks)


ELEMENTWISE = "elementwise"  # operands broadcast against each other, lane by lane

primitives: dict[str, Primitive] = {}


@dataclass(frozen=True, eq=False)
class Primitive:
    """One operation. Calling it binds it to tensors.

    `kernel(xp, *arrays, out=None, **params)` computes; core axes are trailing, leading lane axes of
    size P or 1 broadcast. `vjps[i](g, y, *xs, **params)` gives the cotangent of argument i, or
    `joint_vjp(g, y, *xs, needed=..., **params)` those of all. `shape(*shapes, **params)` is the
    core shape of the result. `view` says that the result aliases the first argument, `inplace` how
    many of the first arguments may lend their own memory as `out`, `factored` that the derivative
    takes a factored cotangent, `floating` that integers become float32 before the kernel.
    """

    name: str
    kernel: Kernel
    shape: ShapeRule
    batch: str | Core
    vjps: tuple[Vjp | None, ...] = ()
    joint_vjp: Vjp | None = None
    onnx: str = ""
    cost: Callable[..., int] | None = None
    view: bool = False
    inplace: int = 0
    factored: bool = False
    floating: bool = False
    ufunc: str = ""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    preparations: dict[str, Prepare] = field(default_factory=dict)
    arity: int | None = field(init=False)  # the number of arrays, None if any number will do
    options: frozenset[str] = field(init=False)  # the names of the parameters, without `out`

    def __post_init__(self) -> None:
        _, *given = inspect.signature(self.kernel).parameters.values()
        arrays = [p for p in given if p.kind is not p.KEYWORD_ONLY]
        fixed = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in arrays)
        object.__setattr__(self, "arity", len(arrays) if fixed else None)
        options = frozenset(p.name for p in given if p.kind is p.KEYWORD_ONLY) - {"out"}
        object.__setattr__(self, "options", options)

    def __call__(self, *args: Any, **params: Any) -> Tensor:
        if len(args) != self.arity and self.arity is not None:
            operands = "one operand" if self.arity == 1 else f"{self.arity} operands"
            raise misused(self, f"takes {operands}, got {len(args)}")
        if params and not self.options.issuperset(params):  # `out` would change a tensor
            unknown = next(name for name in params if name not in self.options)
            raise misused(self, f"got an unexpected keyword argument {unknown!r}")
        return bind(self, args, params)

    def __reduce__(self) -> tuple[Callable[[str], Primitive], tuple[str]]:
        return declared, (self.name,)

    def on(self, backend: str) -> Callable[[Kernel], Kernel]:
        """Register another kernel for `backend`, where that pays."""

        def register(kernel: Kernel) -> Kernel:
            self.kernels[backend] = kernel
            return kernel

        return register

    def prepared(self, backend: str) -> Callable[[Prepared], Prepared]:
        """Register what a replay calls instead of the kernel, its arithmetic on shapes done once.

        `prepare(xp, *arrays, out, **params)` gets the fixed buffers and gives a call without
        arguments that leaves the same bits in `out` as the kernel, or None to use the kernel.
        """

        def register(prepare: Prepared) -> Prepared:
            self.preparations[backend] = prepare
            return prepare

        return register

    @property
    def differentiable(self) -> bool:
        """Whether any argument has a derivative."""
        return self.joint_vjp is not None or any(vjp is not None for vjp in self.vjps)

    def __repr__(self) -> str:
        return f"<primitive {self.name}{inspect.signature(self)}>"


def declared(name: str) -> Primitive:
    """The primitive of that name: primitives are copied and pickled by name.

    Raises: ArgumentError if there is none.
    """
    if name not in primitives:
        raise ArgumentError(
            f"there is no primitive {name!r:.80}",
            where=user_line(),
            why="primitives are pickled by name, and none of this name is declared",
            fix="load the pickle with the version of fedcore that wrote it",
        )
    return primitives[name]


def primitive(
    *,
    batch: str | Core,
    shape: ShapeRule,
    vjps: tuple[Vjp | None, ...] = (),
    joint_vjp: Vjp | None = None,
    onnx: str = "",
    cost: Callable[..., int] | None = None,
    view: bool = False,
    inplace: int = 0,
    factored: bool = False,
    floating: bool = False,
    name: str = "",
    public: bool = True,
) -> Callable[[Kernel], Primitive]:
    """Declare the decorated kernel as a primitive and register it under its name."""

    def declare(kernel: Kernel) -> Primitive:
        record = Primitive(
            name=name or kernel.__name__.rstrip("_"),
            kernel=kernel,
            shape=shape,
            batch=batch,
            vjps=vjps,
            joint_vjp=joint_vjp,
            onnx=onnx,
            cost=cost,
            view=view,
            inplace=inplace,
            factored=factored,
            floating=floating,
        )
        return _register(record, public=public)

    return declare


def ufunc(
    name: str,
    doc: str,
    *,
    vjps: tuple[Vjp | None, ...] = (),
    onnx: str = "",
    method: str = "",
    floating: bool = False,
    public: bool = True,
) -> Primitive:
    """Declare an elementwise primitive whose kernel is the array library's own `method`.

    `floating` turns integers into float32 first, where NumPy would give float64.
    """
    numpy_name = method or name

    def unary(xp: Any, x: Any, *, out: Any = None) -> Any:
        return getattr(xp, numpy_name)(x, out=out)

    def binary(xp: Any, a: Any, b: Any, *, out: Any = None) -> Any:
        return getattr(xp, numpy_name)(a, b, out=out)

    kernel = unary if getattr(np, numpy_name).nin == 1 else binary
    kernel.__doc__ = doc
    record = Primitive(
        name=name,
        kernel=kernel,
        shape=broadcast_shape,
        batch=ELEMENTWISE,
        vjps=vjps,
        onnx=onnx,
        inplace=3,
        floating=floating,
        ufunc=numpy_name,
    )
    return _register(record, public=public)


def _register(record: Primitive, *, public: bool) -> Primitive:
    if record.name in primitives:
        raise ValueError(f"a primitive named {record.name!r} is declared already")
    primitives[record.name] = record
    if public:
        _introduce(record)
        operations.register(record.name, record)
    return record


def _introduce(record: Primitive) -> None:
    """Let `help`, editors and doctest see the operation as its users call it."""
    _, *given = inspect.signature(record.kernel).parameters.values()
    shown = [p.replace(annotation=p.empty) for p in given if p.name != "out"]
    arrays = [p.replace(kind=p.POSITIONAL_ONLY) for p in shown if p.kind is not p.KEYWORD_ONLY]
    options = [p for p in shown if p.kind is p.KEYWORD_ONLY]
    vars(record).update(
        __doc__=record.kernel.__doc__,
        __module__=record.kernel.__module__,
        __name__=record.name,
        __qualname__=record.name,
        __signature__=inspect.Signature([*arrays, *options]),
        __wrapped__=record.kernel,
    )


def broadcast_shape(*shapes: Shape, **_: Any) -> Shape:
    """The shape that elementwise operands broadcast to.

    >>> broadcast_shape((3, 1), (4,))
    (3, 4)
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            "shapes do not broadcast: " + ", ".join(str(s) for s in shapes),
            why="counted from the end, two lengths must be equal or one of them 1",
            fix="reshape an operand, or insert axes of length 1",
        ) from None


# ---- binding


def bind(prim: Primitive, args: tuple[Any, ...], params: dict[str, Any]) -> Tensor:
    """Call `prim` on `args`: give all operands the same lanes, run the kernel, record and tape."""
    xs = [a if type(a) is Tensor else _operand(prim, a, args) for a in args]
    lanes = 0
    for x in xs:
        if x.lanes > lanes:
            lanes = x.lanes
    if lanes:
        xs = [x if x.lanes == lanes else lift_to(x, lanes) for x in xs]
    if len(xs) > 1 and prim.batch is ELEMENTWISE:
        dtype = xs[0].data.dtype
        if any(x.data.dtype != dtype for x in xs):
            choices = xs[1:] if prim.name == "where" else xs  # its condition stays boolean
            xs = [*xs[: len(xs) - len(choices)], *unify_dtypes(prim.name, choices)]
        if lanes and any(x.data.ndim != xs[0].data.ndim for x in xs):
            xs = _align_ranks(xs)
    if prim.floating and xs[0].data.dtype.kind != "f":
        xs = [operations.cast(x, dtype=np.dtype(np.float32)) for x in xs]
    if type(prim.batch) is Core:
        check_ranks(prim.name, prim.batch.ranks, xs)
    return apply(prim, xs, params, lanes)


def apply(prim: Primitive, xs: list[Tensor], params: dict[str, Any], lanes: int) -> Tensor:
    """Run the kernel on operands that are ready and call the result a tensor with `lanes` lanes."""
    first = type(xs[0].data)
    for x in xs:
        if type(x.data) is not first:
            raise mixed_devices(prim.name, xs)
    try:
        if first is np.ndarray:
            data = prim.kernel(np, *[x.data for x in xs], **params)
            if type(data) is not np.ndarray:  # a reduction to 0-d gives a NumPy scalar
                data = np.asarray(data)
        else:
            backend = backend_of(xs[0].data)
            kernel = prim.kernels.get(backend.name, prim.kernel)
            data = kernel(backend.xp, *[x.data for x in xs], **params)
    except (ValueError, IndexError, TypeError, MemoryError) as error:
        raise explained(prim, xs, params, error) from error
    y = Tensor(data, lanes)
    if interpreter.recorder is not None:
        interpreter.recorder.record(prim, xs, params, y)
    if not interpreter.tape_paused and prim.differentiable:
        for x in xs:
            if x.node is not None:
                y.node = Node(prim, xs, params, data, lanes)
                break
    return y


def _operand(prim: Primitive, value: Any, args: tuple[Any, ...]) -> Tensor:
    """A Python or NumPy scalar takes the dtype and device of the tensors beside it.

    So does a 0-d array of NumPy, which hands its numbers on as such where they stand on the left.
    A floating tensor decides before an integer one, and that before a boolean one: the condition of
    `where` says nothing about the dtype of the choice.
    """
    if _is_number(value):
        arrays = [a.data if type(a) is Tensor else a for a in args if not _is_number(a)]
        beside = [a for a in arrays if is_array(a)]
        if beside:
            data = beside[0]
            if len(beside) > 1:
                data = min(beside, key=lambda a: "fiub".find(a.dtype.kind))
            if type(value) is np.ndarray:  # which a replay reads again, for it may have changed
                dtype, live = weak_dtype(prim.name, value[()], data.dtype), tensor(value)
                return live if live.data.dtype == dtype else operations.cast(live, dtype=dtype)
            return Tensor(
                backend_of(data).asarray(value, dtype=weak_dtype(prim.name, value, data.dtype))
            )
    try:
        return tensor(value)
    except FedcoreError as error:
        error.what = f"{prim.name}: {error.what}"
        raise


def _is_number(value: Any) -> bool:
    if type(value) is np.ndarray:
        return value.ndim == 0 and value.dtype.kind in "biuf"
    return isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating)


def _align_ranks(xs: list[Tensor]) -> list[Tensor]:
    """Insert axes of length 1 between lanes and core, so that lanes never meet core axes."""
    rank = max(x.ndim for x in xs)
    return [x if x.ndim == rank else operations.align_rank(x, rank=rank, core=x.ndim) for x in xs]


# ---- lanes: the primitives that add and remove a leading axis


def lift_to(x: Tensor, lanes: int) -> Tensor:
    """`x` with size-1 lanes appended until it has `lanes` of them: the same value in each."""
    if x.lanes >= lanes:
        return x
    sizes = tuple(interpreter.lane_sizes[x.lanes : lanes])
    return operations.lift(x, axis=x.lanes, sizes=sizes)
