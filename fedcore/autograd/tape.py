"""Reverse mode: nodes are visited in decreasing order of their sequence numbers.

There is no recursion and no topological sort: a node's number is larger than those of its inputs.
Gradients are returned, never stored on tensors. Derivatives are written in operations, so that they
can themselves be taped, mapped and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from fedcore.autograd.tree import flatten, map_tree, unflatten
from fedcore.errors import DerivativeError, DtypeError, ShapeError, user_line
from fedcore.tensor.cotangent import Cotangent, Pieces, accumulate, as_array
from fedcore.tensor.ops.elementwise import alias
from fedcore.tensor.primitive import apply, lift_to
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Node, Tensor, interpreter, tensor

__all__ = [
    "factored_grad",
    "grad",
    "value_and_factored_grad",
    "value_and_grad",
    "vjp",
    "zeros_like",
]


def variable(x: Any) -> Tensor:
    """`x` as a fresh variable in the lanes that are open: an inner `grad` stops here.

    An outer `grad` passes through, because the variable is a taped alias of `x`.
    """
    x = tensor(x)
    if x.dtype.kind != "f":
        raise DtypeError(
            f"cannot differentiate with respect to a {x.dtype} tensor of shape {x.shape}",
            where=user_line(),
            why="only floating numbers vary continuously",
            fix="convert with astype('float32'), or make it a later argument",
        )
    x = lift_to(x, len(interpreter.lane_sizes))
    y = apply(alias, [x], {}, x.lanes)
    if y.node is None:
        y.node = Node(alias, [x], {}, y.data, y.lanes)
    return y


def backward(
    y: Tensor, g: Cotangent, variables: list[Tensor], lanes: tuple[int, ...]
) -> list[Cotangent | None]:
    """The cotangents of `variables`, given that of `y`; None where `y` does not depend on one.

    `lanes` are those that were open when the variables were made.
    """
    inside = partial(_lanes_of, lanes=lanes, now=tuple(interpreter.lane_sizes))
    roots = [v.node for v in variables]
    order = _reached(y.node, roots)
    cotangents: dict[Node, Cotangent] = {}
    if order:
        cotangents[order[0]] = g
    wanted = {*order, *roots}
    for node in order:
        if node in roots:
            continue
        cotangent = cotangents.pop(node, None)
        if cotangent is None:
            continue
        needed = tuple(x.node in wanted for x in node.xs)
        with inside(node):
            for x, part in zip(node.xs, _pull(node, cotangent, needed), strict=True):
                if part is not None and x.node is not None:
                    old = cotangents.get(x.node)
                    cotangents[x.node] = part if old is None else accumulate(old, part)
    return [cotangents.get(root) for root in roots if root is not None]


def _reached(start: Node | None, roots: list[Node | None]) -> list[Node]:
    """The nodes between `start` and the roots, latest first."""
    first = min(root.seq for root in roots if root is not None)
    if start is None or start.seq < first:
        return []
    seen = {start}
    stack = [start]
    while stack:
        for x in stack.pop().xs:
            node = x.node
            if node is not None and node.seq >= first and node not in seen:
                seen.add(node)
                if node not in roots:
                    stack.append(node)
    useful = {root for root in roots if root is not None and root in seen}
    for node in sorted(seen, key=_number):
        if node not in useful and any(x.node in useful for x in node.xs):
            useful.add(node)
    return sorted(useful, key=_number, reverse=True) if start in useful else []


def _number(node: Node) -> int:
    return node.seq


@contextmanager
def _lanes_of(node: Node, *, lanes: tuple[int, ...], now: tuple[int, ...]) -> Iterator[None]:
    """The lanes in which `node` ran; a pullback that is itself mapped adds those open `now`."""
    sizes = node.lane_sizes
    if now != lanes:
        if now[: len(lanes)] != lanes or sizes != lanes:
            raise DerivativeError(
                f"vjp: the pullback runs in lanes {now}, the function ran in {sizes}",
                where=user_line(),
                why="the lanes of a pullback that is mapped would meet those of the function",
                fix="call vjp inside the mapped function",
            )
        sizes = now
    before = interpreter.lane_sizes
    interpreter.lane_sizes = list(sizes)
    try:
        yield
    finally:
        interpreter.lane_sizes = before


def _pull(node: Node, cotangent: Cotangent, needed: tuple[bool, ...]) -> list[Cotangent | None]:
    """The cotangents of a node's operands."""
    prim = node.prim
    if not prim.factored:
        cotangent = as_array(cotangent)
    y = node.output()
    if prim.joint_vjp is not None:
        parts: list[Cotangent | None] = prim.joint_vjp(
            cotangent, y, *node.xs, needed=needed, **node.params
        )
        return parts
    return [
        vjp(cotangent, y, *node.xs, **node.params) if want and vjp is not None else None
        for want, vjp in zip(needed, prim.vjps, strict=True)
    ]


@contextmanager
def _pass() -> Iterator[None]:
    """An open `grad`: the tape is on even if an outer backward pass had paused it."""
    paused = interpreter.tape_paused
    interpreter.open_grads += 1
    interpreter.tape_paused = False
    try:
        yield
    finally:
        interpreter.open_grads -= 1
        interpreter.tape_paused = paused


@contextmanager
def _backward_pass() -> Iterator[None]:
    """The outermost backward pass need not be taped: nothing will differentiate it."""
    paused = interpreter.tape_paused
    interpreter.tape_paused = interpreter.open_grads == 0
    try:
        yield
    finally:
        interpreter.tape_paused = paused


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of the shape, dtype and lanes of `x`, also where x is not finite."""
    zeros: Tensor = operations.where(False, x, 0.0)
    return zeros


def vjp(
    function: Callable[..., Any], *primals: Any
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of `function` and its pullback: cotangents of the value to those of each primal.

    Primals and the value are pytrees of floating tensors.

    >>> y, pullback = vjp(lambda x: x * x, tensor(3.0))
    >>> pullback(1.0)[0].item()
    6.0
    """
    leaves, structure = flatten(list(primals))
    lanes = tuple(interpreter.lane_sizes)
    with _pass():
        variables = [variable(x) for x in leaves]
        out = function(*unflatten(structure, variables))
    values, out_structure = flatten(out)
    outputs = [lift_to(tensor(v), len(interpreter.lane_sizes)) for v in values]

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        given, its = flatten(cotangents)
        if its != out_structure:
            raise DerivativeError(
                f"the cotangents have the structure {its!r}, the value has {out_structure!r}",
                where=user_line(),
                why="each output needs one cotangent",
                fix="pass a tree like the value",
            )
        totals: list[Cotangent | None] = [None] * len(variables)
        with _backward_pass():
            for y, g in zip(outputs, given, strict=True):
                seed = tensor(g, dtype=None) if isinstance(g, Tensor) else _like(g, y)
                if seed.shape != y.shape:
                    raise ShapeError(
                        f"vjp: the cotangent has shape {seed.shape}, the value {y.shape}",
                        where=user_line(),
                        why="a cotangent is shaped like what it belongs to",
                        fix="reshape it",
                    )
                for i, part in enumerate(backward(y, lift_to(seed, y.lanes), variables, lanes)):
                    if part is not None:
                        old = totals[i]
                        totals[i] = part if old is None else accumulate(old, part)
            results = [
                zeros_like(v) if t is None else as_array(t)
                for t, v in zip(totals, variables, strict=True)
            ]
        return tuple(unflatten(structure, results))

    return unflatten(out_structure, [_returned(y) for y in outputs]), pullback


def _like(value: Any, y: Tensor) -> Tensor:
    return Tensor(y.backend.asarray(value, dtype=y.dtype))


def _returned(x: Any) -> Any:
    """`x` without its tape when no `grad` is open: it would keep the whole forward pass alive."""
    if isinstance(x, Tensor) and x.node is not None and not interpreter.open_grads:
        return Tensor(x.data, x.lanes)
    return x


def _differentiate(
    function: Callable[..., Any], args: tuple[Any, ...], has_aux: bool
) -> tuple[Tensor, Any, list[Tensor], list[Cotangent | None], Any]:
    if not args:
        raise DerivativeError(
            "grad: the function was called without arguments",
            where=user_line(),
            why="it is differentiated with respect to its first argument",
            fix="pass the parameters first",
        )
    leaves, structure = flatten(args[0])
    if not leaves:
        raise DerivativeError(
            "grad: the first argument holds no tensors",
            where=user_line(),
            why="there is nothing to differentiate with respect to",
            fix="pass the parameters first",
        )
    with _pass():
        variables = [variable(x) for x in leaves]
        out = function(unflatten(structure, variables), *args[1:])
        value, aux = _split(out, has_aux)
    y = lift_to(value, len(interpreter.lane_sizes))
    with _backward_pass():
        one = Tensor(y.backend.xp.ones((1,) * y.lanes, dtype=y.dtype), y.lanes)
        cotangents = backward(y, one, variables, tuple(interpreter.lane_sizes))
    aux = map_tree(_returned, aux)
    return _returned(value), aux, variables, cotangents, structure


def _split(out: Any, has_aux: bool) -> tuple[Tensor, Any]:
    aux = None
    if has_aux:
        if not (isinstance(out, tuple) and len(out) == 2):
            raise DerivativeError(
                "grad: the function must return (loss, auxiliary) when has_aux is set",
                where=user_line(),
                why=f"it returned a {type(out).__name__}",
                fix="return a pair, or drop has_aux",
            )
        out, aux = out
    value = tensor(out)
    if value.ndim != 0 or value.dtype.kind != "f":
        raise DerivativeError(
            f"grad: the function returned a {value.dtype} tensor of shape {value.shape}",
            where=user_line(),
            why="a gradient belongs to one floating number",
            fix="reduce the loss with .mean() or .sum(), or use vjp",
        )
    return value, aux


def value_and_grad(function: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the value of `function` and its gradient.

    The gradient is with respect to the first argument, a tensor or a pytree. With `has_aux`,
    `function` returns (loss, auxiliary), and the result is ((loss, auxiliary), gradient).
    Raises: DerivativeError if the loss is not one floating number.

    >>> value, slope = value_and_grad(lambda x: (x * x).sum())(tensor([1.0, 2.0]))
    >>> value.item(), slope.tolist()
    (5.0, [2.0, 4.0])
    """

    def call(*args: Any) -> Any:
        value, aux, variables, cotangents, structure = _differentiate(function, args, has_aux)
        with _backward_pass():
            arrays = [
                zeros_like(v) if g is None else as_array(g)
                for g, v in zip(cotangents, variables, strict=True)
            ]
        gradient = unflatten(structure, arrays)
        return ((value, aux) if has_aux else value), gradient

    return call


def grad(function: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of `function` with respect to its first argument.

    With `has_aux`, the result is (gradient, auxiliary).

    >>> grad(grad(lambda x: x * x * x))(tensor(2.0)).item()
    12.0
    """
    both = value_and_grad(function, has_aux=has_aux)

    def call(*args: Any) -> Any:
        value, gradient = both(*args)
        return (gradient, value[1]) if has_aux else gradient

    return call


def value_and_factored_grad(
    function: Callable[..., Any], *, has_aux: bool = False
) -> Callable[..., tuple[Any, Cotangent]]:
    """As `value_and_grad` of a flat vector, but the gradient stays factored.

    The first argument is a tensor (D,). The gradient is a `Pieces`: the parameters' cotangents,
    those of dense layers as `Outer`. Optimisers and clipping take it as it is; `.array()` makes it
    one vector.
    """

    def call(*args: Any) -> tuple[Any, Cotangent]:
        value, aux, variables, cotangents, _ = _differentiate(function, args, has_aux)
        if len(variables) != 1 or variables[0].ndim != 1:
            raise ShapeError(
                "factored_grad: the first argument must be one flat vector",
                where=user_line(),
                why="a factored gradient is laid out as the parts of one vector",
                fix="use ravel(model), or grad for a pytree",
            )
        cotangent = cotangents[0]
        if cotangent is None:
            cotangent = zeros_like(variables[0])
        if isinstance(cotangent, Tensor):
            size = variables[0].shape[0]
            cotangent = Pieces({(0, (size,)): cotangent}, size=size)
        return ((value, aux) if has_aux else value), cotangent

    return call


def factored_grad(function: Callable[..., Any]) -> Callable[..., Cotangent]:
    """The factored gradient of `function` with respect to a flat vector."""
    both = value_and_factored_grad(function)

    def call(*args: Any) -> Cotangent:
        return both(*args)[1]

    return call
