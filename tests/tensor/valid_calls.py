"""One valid call of every operation, from which tests of errors spoil one argument at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedcore.tensor.random import Key

__all__ = ["CALLS", "INTERNAL", "Call"]

# Registered for the core's own use: their arguments are prepared by other operations.
INTERNAL = {
    "align_rank",
    "assemble",
    "cast",
    "drop_leading",
    "fold_lane",
    "leaf",
    "lift",
    "narrow",
    "row_norms2",
    "scale_rows",
    "scatter_rows",
    "sum_lanes",
}


@dataclass(frozen=True)
class Call:
    """The operation `name` with array arguments, other positional arguments, and options."""

    name: str
    arrays: tuple[Any, ...] = ()
    rest: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    array_first: bool = True

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments in their order."""
        return self.arrays + self.rest if self.array_first else self.rest + self.arrays

    def __str__(self) -> str:
        return self.name


def real(*shape: int) -> Any:
    """Positive float32 numbers, no two alike."""
    count = int(np.prod(shape))
    return (np.arange(1, count + 1, dtype=np.float32) / (count + 1)).reshape(shape)


def whole(*values: int) -> Any:
    return np.array(values)


def _call(name: str, *arrays: Any, rest: tuple[Any, ...] = (), **options: Any) -> Call:
    return Call(name, arrays, rest, options)


def _nullary(name: str, *rest: Any, **options: Any) -> Call:
    return Call(name, (), rest, options)


X = real(3, 4)
TRUTH = X > 0.5
IMAGES, KERNEL = real(2, 5, 6, 4), real(2, 3, 2, 6)
SEQUENCES = real(2, 6, 4)
LABELS = whole(0, 3, 1)
WEIGHT = real(3)
KEY = Key(0, "test")
LOSS = {"weight": WEIGHT, "reduction": "mean"}

CALLS = [
    *(
        _call(name, X)
        for name in (
            *("absolute", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "ceil"),
            *("cos", "cosh", "erf", "exp", "exp2", "expm1", "floor", "hardswish", "isfinite"),
            *("isinf", "isnan", "log", "log10", "log1p", "log2", "log_sigmoid", "logical_not"),
            *("negative", "reciprocal", "relu", "round", "selu", "sigmoid", "sign", "silu", "sin"),
            *("sinh", "softplus", "sqrt", "square", "stop_gradient", "tan", "tanh", "trace"),
            "trunc",
        )
    ),
    *(
        _call(name, X, real(4))
        for name in (
            *("add", "arctan2", "divide", "equal", "floor_divide", "greater", "greater_equal"),
            *("hypot", "less", "less_equal", "logaddexp", "logical_and", "logical_or"),
            *("logical_xor", "maximum", "minimum", "multiply", "not_equal", "power", "remainder"),
            "subtract",
        )
    ),
    *(
        _call(name, X, axis=(0,), keepdims=True)
        for name in ("all", "any", "logsumexp", "max", "mean", "min", "norm", "prod", "std", "sum")
    ),
    _call("var", X, axis=1, keepdims=False),
    *(_call(name, X, axis=1) for name in ("argmax", "argmin", "cumsum", "log_softmax", "softmax")),
    *(_call(name, X, axis=0, descending=True) for name in ("argsort", "sort")),
    *(_call(name, X, offset=1) for name in ("diagonal", "tril", "triu")),
    _call("clip", X, 0.2, 0.4),
    _call("elu", X, alpha=0.5),
    _call("leaky_relu", X, slope=0.5),
    _call("gelu", X, approximate="none"),
    _call("where", TRUTH, X, real(4)),
    _call("astype", X, rest=("float64",)),
    *(_call(name, LABELS, whole(1, 0, 2)) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")),
    _call("bitwise_not", LABELS),
    _call("nan_to_num", X, nan=0.0, posinf=1.0, neginf=-1.0),
    _call("contract", X, real(4, 5), rest=()),
    _call("matmul", X, real(4, 5)),
    _call("tensordot", X, real(4, 5), axes=1),
    _call("dot", X, real(4)),
    *(
        _call(name, X, real(4), rtol=1e-5, atol=1e-8, equal_nan=True)
        for name in ("isclose", "allclose")
    ),
    _call("moveaxis", X, rest=(0, 1)),
    _call("outer", real(3), real(4)),
    _call("set", X, rest=(1, real(4))),
    _call("add_at", X, rest=([1, 1], real(2, 4))),
    _call("index", X, rest=((0, [1, 2]),)),
    _call("scatter_add", X, whole(0, 2), real(3, 2), axis=1),
    _call("take", X, whole(0, 2), axis=1),
    _call("take_along_axis", X, whole(0, 1, 2, 0).reshape(1, 4), axis=0),
    _call("embedding", X, whole(0, 2)),
    _call("one_hot", whole(0, 2), rest=(3,), dtype="float32"),
    _call("broadcast_to", X, rest=((2, 3, 4),)),
    _call("expand_dims", X, rest=(0,)),
    _call("flip", X, rest=(1,)),
    _call("pad", X, rest=(((0, 1), (2, 0)),), value=1.0),
    _call("permute_dims", X, rest=((1, 0),)),
    _call("repeat", X, rest=(2,), axis=0),
    _call("reshape", X, rest=((2, 6),)),
    _call("roll", X, rest=(1,), axis=0),
    _call("split", X, rest=((1, 2),), axis=0),
    _call("squeeze", real(1, 3), rest=(0,)),
    _call("swapaxes", X, rest=(0, 1)),
    _call("tile", X, rest=((2, 1),)),
    _call("topk", X, rest=(2,), axis=1),
    _call("zeros_like", X, dtype="float32"),
    _call("ones_like", X, dtype="float32"),
    _call("full_like", X, 2.0, dtype="float32"),
    _nullary("concatenate", [X, X], axis=0),
    _nullary("stack", [X, X], axis=0),
    _nullary("zeros", (2, 3), dtype="float32"),
    _nullary("ones", (2, 3), dtype="float32"),
    _nullary("full", (2, 3), 1.0, dtype="float32"),
    _nullary("arange", 0, 5, 2, dtype="int64", like=None),
    _nullary("linspace", 0.0, 1.0, 5, dtype="float32"),
    _nullary("eye", 2, 3, dtype="float32"),
    _nullary("uniform", KEY, (2,), low=0.0, high=2.0, dtype="float32"),
    _nullary("normal", KEY, (2,), dtype="float32"),
    _nullary("bernoulli", KEY, (2,), keep=0.5),
    _nullary("permutation", KEY, 3),
    _nullary("fold_words", KEY, path=("a", 1)),
    _call("dropout", X, rest=(KEY,), rate=0.5),
    _call("cross_entropy", X, LABELS, label_smoothing=0.1, **LOSS),
    _call("nll", X, LABELS, **LOSS),
    _call("binary_cross_entropy_with_logits", X, X, **LOSS),
    _call("mse", X, X, **LOSS),
    _call("l1", X, X, **LOSS),
    _call("huber", X, X, delta=0.5, **LOSS),
    _call("kl_div", X, X, **LOSS),
    _call("layer_norm", X, real(4), real(4), axis=-1, eps=1e-5),
    _call("rms_norm", X, real(4), axis=-1, eps=1e-5),
    _call("group_norm", SEQUENCES, real(4), real(4), groups=2, eps=1e-5),
    _call("batch_norm", X, real(4), real(4), real(4), real(4), eps=1e-5),
    _call("batch_norm_training", X, real(4), real(4), eps=1e-5),
    _call(
        "scaled_dot_product_attention",
        *(real(2, 3, 4), real(2, 5, 4), real(2, 5, 6), real(3, 5) > 0.5),
        causal=True,
        dropout=0.1,
        key=KEY,
    ),
    _call("rnn", real(5, 2, 3), real(3, 3), real(2, 3), activation="tanh"),
    _call("lstm", real(5, 2, 12), real(3, 12), real(2, 3), real(2, 3)),
    _call("gru", real(5, 2, 9), real(3, 9), real(9), real(2, 3)),
    _call("at_length", real(5, 2, 3), whole(2, 5)),
    _call("conv1d", SEQUENCES, real(3, 2, 6), stride=2, padding=(1, 0), dilation=1, groups=2),
    _call(
        "conv2d",
        *(IMAGES, KERNEL),
        stride=(1, 2),
        padding=((1, 0), (1, 1)),
        dilation=1,
        groups=2,
    ),
    _call(
        "conv_transpose1d",
        *(real(2, 5, 6), real(3, 2, 6)),
        stride=2,
        padding=(1, 0),
        output_padding=1,
        dilation=1,
        groups=2,
    ),
    _call(
        "conv_transpose2d",
        *(real(2, 5, 6, 6), KERNEL),
        stride=2,
        padding=1,
        output_padding=1,
        dilation=1,
        groups=2,
    ),
    *(
        _call(name, IMAGES, rest=((2, 3),), stride=2, padding=1)
        for name in ("max_pool2d", "avg_pool2d")
    ),
    *(
        _call(name, SEQUENCES, rest=(2,), stride=2, padding="same")
        for name in ("max_pool1d", "avg_pool1d")
    ),
    _call("bias_relu_pool", IMAGES, real(4), rest=(2,), stride=2),
    _call("global_avg_pool", IMAGES),
    _call("global_max_pool", SEQUENCES),
    _call("patches", IMAGES, rest=((2, 3),), stride=1, padding=0, dilation=1),
]
CALLS = [
    Call("contract", one.arrays, ("ij,jk->ik",), {}, array_first=False)
    if one.name == "contract"
    else one
    for one in CALLS
]
