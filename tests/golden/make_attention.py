"""Write attention.npz: PyTorch's attention and its encoder layer, with gradients, in float64.

Run with an interpreter that has PyTorch: python -m tests.golden.make_attention
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore import nn
from fedcore.tensor.ops.attention import scaled_dot_product_attention
from tests.golden.case import Case, layer_case, normal, write
from tests.golden.layouts import dense_weight

FILE = Path(__file__).with_name("attention.npz")
Shape = tuple[int, ...]
Mask = NDArray[Any] | None


def boolean_mask(*shape: int) -> NDArray[np.bool_]:
    """Two of three are seen, and every query sees one key at least."""
    seen = normal("mask", *shape) > -0.5
    seen[..., 0] = True
    return seen


def causal_mask(queries: int, keys: int) -> NDArray[np.bool_]:
    """The last query sees every key. PyTorch's own `is_causal` lets the first query see the first
    key instead: a difference of definition where the lengths differ."""
    return np.tril(np.ones((queries, keys), dtype=bool), keys - queries)


def attention(q: Shape, keys: int, values: int, *, mask: Mask = None, causal: bool = False) -> Case:
    """Queries (..., T, d) against `keys` keys, with `values` features a value."""
    given = {
        "q": normal("q", *q),
        "k": normal("k", *q[:-2], keys, q[-1]),
        "v": normal("v", *q[:-2], keys, values),
    }
    both = _combined(mask, causal_mask(q[-2], keys) if causal else None)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        seen = None if both is None else torch.tensor(both)
        return torch.nn.functional.scaled_dot_product_attention(
            v["q"], v["k"], v["v"], attn_mask=seen
        )

    return Case(
        given,
        lambda v: scaled_dot_product_attention(
            v["q"], v["k"], v["v"], _like(mask, v["q"]), causal=causal
        ),
        theirs,
    )


def multi_head(
    x: Shape,
    heads: int,
    *,
    memory: int | None = None,
    mask: Mask = None,
    causal: bool = False,
    bias: bool = True,
) -> Case:
    """`memory` is the number of positions of what cross-attention looks at."""
    layer = nn.MultiHeadAttention(x[-1], heads, key=0, causal=causal, bias=bias)
    given = {"x": normal("x", *x)}
    if memory is not None:
        given["memory"] = normal("memory", x[0], memory, x[-1])
    both = _combined(mask, causal_mask(x[1], memory or x[1]) if causal else None)

    def call(layer: Any, v: Mapping[str, Any]) -> Any:
        return layer(v["x"], v.get("memory"), _like(mask, v["x"]))

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        source = v.get("memory", v["x"])
        weight, offset = projections(torch, v, "", bias=bias)
        y, _ = torch.nn.functional.multi_head_attention_forward(
            v["x"].transpose(0, 1),
            source.transpose(0, 1),
            source.transpose(0, 1),
            x[-1],
            heads,
            weight,
            offset,
            None,
            None,
            False,
            0.0,
            dense_weight(v["output.weight"]),
            v["output.bias"] if bias else None,
            need_weights=False,
            attn_mask=_forbidden(torch, both, x[0] * heads),
        )
        return y.transpose(0, 1)

    return layer_case(layer, theirs, call=call, **given)


def encoder_block(x: Shape, heads: int, hidden: int, *, mask: Mask = None) -> Case:
    """Against the encoder layer with `norm_first`, and the form of GELU through tanh."""
    layer = nn.TransformerEncoderBlock(x[-1], heads, hidden, key=0)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        seen = _forbidden(torch, mask, x[0] * heads)
        return encoder_layer(torch, v, v["x"], heads, mask=seen)

    return layer_case(layer, theirs, call=lambda layer, v: layer(v["x"], mask), x=normal("x", *x))


def encoder_layer(torch: Any, v: Mapping[str, Any], x: Any, heads: int, *, mask: Any = None) -> Any:
    """PyTorch's encoder layer with our parameters."""
    hidden = v["wide.bias"].shape[0]
    layer = torch.nn.TransformerEncoderLayer(
        x.shape[-1],
        heads,
        hidden,
        dropout=0.0,
        activation=partial(torch.nn.functional.gelu, approximate="tanh"),
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )
    weight, offset = projections(torch, v, "attention.")
    parameters = {
        "self_attn.in_proj_weight": weight,
        "self_attn.in_proj_bias": offset,
        "self_attn.out_proj.weight": dense_weight(v["attention.output.weight"]),
        "self_attn.out_proj.bias": v["attention.output.bias"],
        "norm1.weight": v["attention_norm.weight"],
        "norm1.bias": v["attention_norm.bias"],
        "norm2.weight": v["network_norm.weight"],
        "norm2.bias": v["network_norm.bias"],
        "linear1.weight": dense_weight(v["wide.weight"]),
        "linear1.bias": v["wide.bias"],
        "linear2.weight": dense_weight(v["narrow.weight"]),
        "linear2.bias": v["narrow.bias"],
    }
    return torch.func.functional_call(layer, parameters, (x, mask))


def projections(torch: Any, v: Mapping[str, Any], path: str, *, bias: bool = True) -> Any:
    """The weights and biases of queries, keys and values, which PyTorch stacks."""
    parts = [f"{path}{part}" for part in ("query", "key", "value")]
    weight = torch.cat([dense_weight(v[f"{part}.weight"]) for part in parts])
    return weight, torch.cat([v[f"{part}.bias"] for part in parts]) if bias else None


def _combined(mask: Mask, causal: Mask) -> Mask:
    if mask is None or causal is None:
        return causal if mask is None else mask
    return mask & causal


def _like(mask: Mask, x: Any) -> Any:
    """A floating mask in the precision of the scores that it is added to."""
    return mask if mask is None or mask.dtype == bool else mask.astype(x.dtype)


def _forbidden(torch: Any, mask: Mask, rows: int) -> Any:
    """PyTorch's layers take the opposite of a boolean mask, one for each example and head."""
    if mask is None:
        return None
    given = torch.tensor(~mask if mask.dtype == bool else mask)
    return given.reshape(rows, *mask.shape[-2:]) if mask.ndim > 2 else given


CASES: Mapping[str, Case] = {
    "attention": attention((2, 2, 3, 4), 5, 3),
    "attention_mask": attention((2, 2, 3, 4), 5, 3, mask=boolean_mask(2, 1, 3, 5)),
    "attention_added_mask": attention((2, 3, 4), 4, 2, mask=normal("scores", 3, 4)),
    "attention_causal": attention((1, 2, 4, 3), 4, 3, causal=True),
    "attention_causal_longer": attention((1, 2, 2, 3), 4, 3, causal=True),
    "attention_causal_mask": attention((2, 4, 3), 4, 2, causal=True, mask=boolean_mask(4, 4)),
    "multi_head": multi_head((2, 3, 4), 2),
    "multi_head_no_bias": multi_head((2, 3, 4), 4, bias=False),
    "multi_head_causal": multi_head((2, 3, 4), 2, causal=True),
    "multi_head_mask": multi_head((2, 3, 4), 2, mask=boolean_mask(2, 2, 3, 3)),
    "multi_head_cross": multi_head((2, 3, 4), 2, memory=5, mask=boolean_mask(3, 5)),
    "multi_head_cross_added_mask": multi_head((2, 2, 4), 1, memory=3, mask=normal("scores", 2, 3)),
    "encoder_block": encoder_block((2, 3, 4), 2, 6),
    "encoder_block_mask": encoder_block((2, 3, 4), 2, 5, mask=boolean_mask(3, 3)),
}

if __name__ == "__main__":
    write(FILE, CASES)
