"""Attention layers: several heads beside each other, and the block of a transformer encoder."""

from __future__ import annotations

from collections.abc import Callable

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.nn.checks import expect_fraction, expect_positive, expect_tensor
from fedcore.nn.context import Context
from fedcore.nn.dropout import Dropout
from fedcore.nn.keys import init_key
from fedcore.nn.linear import Linear
from fedcore.nn.module import Module
from fedcore.nn.norm import LayerNorm
from fedcore.tensor.ops.activations import gelu
from fedcore.tensor.ops.attention import scaled_dot_product_attention
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor

__all__ = ["MultiHeadAttention", "TransformerEncoderBlock"]


class MultiHeadAttention(Module):
    """Each query's mean of the values, weighted by how well keys match it, in `heads` subspaces.

    Called as attention(x), attention(x, memory) or attention(x, memory, mask): queries come from x,
    keys and values from memory, by default x itself. A boolean mask is true where a query may see a
    key; `causal` hides what comes later. In training `dropout` drops attention probabilities.
    Shapes: x (N, T, features), memory (N, S, features), mask broadcasting to (N, heads, T, S);
    result (N, T, features).
    Raises: ArgumentError unless the heads divide the features, ShapeError for other shapes.
    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        *,
        key: Key | int,
        bias: bool = True,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        expect_positive("MultiHeadAttention", features=features, heads=heads)
        expect_fraction("MultiHeadAttention", dropout=dropout)
        if features % heads:
            raise ArgumentError(
                f"MultiHeadAttention: {heads} heads of {features} features",
                where=user_line(),
                why="the heads share the features equally",
                fix="pass a number of heads that divides the features",
            )
        own = init_key(key)
        self.query = Linear(features, features, key=own.fold("query"), bias=bias)
        self.key = Linear(features, features, key=own.fold("key"), bias=bias)
        self.value = Linear(features, features, key=own.fold("value"), bias=bias)
        self.output = Linear(features, features, key=own.fold("output"), bias=bias)
        self.heads, self.causal, self.dropout = heads, causal, dropout

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, *, ctx: Context
    ) -> Tensor:
        source = x if memory is None else memory
        expect_tensor(x)
        expect_tensor(source)
        if x.ndim != 3 or source.ndim != 3 or x.shape[0] != source.shape[0]:
            raise ShapeError(
                f"expected x (N, T, features) and memory (N, S, features), found {x.shape} and "
                f"{source.shape}",
                where=user_line(),
                why="each sequence of the batch looks at one memory",
                fix="insert a batch axis with reshape",
            )
        dropout = self.dropout if ctx.training else 0.0
        mixed = scaled_dot_product_attention(
            self._split(self.query(x, ctx=ctx)),
            self._split(self.key(source, ctx=ctx)),
            self._split(self.value(source, ctx=ctx)),
            mask,
            causal=self.causal,
            dropout=dropout,
            key=ctx.key(self) if dropout else None,
        )
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(x.shape), ctx=ctx)  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """The heads before the positions: (N, T, features) -> (N, heads, T, features / heads)."""
        count, length, features = x.shape
        parts = x.reshape(count, length, self.heads, features // self.heads)
        return parts.transpose(0, 2, 1, 3)


class TransformerEncoderBlock(Module):
    """Self-attention and a two-layer network at each position, each normalised and added to x.

    Normalisation comes first, so that a deep stack trains without warm-up. In training `dropout`
    acts on attention probabilities and on what is added.
    Shapes: x (N, T, features), mask as for `MultiHeadAttention`; the result is shaped like x.
    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.1; Xiong et al., "On Layer
    Normalization in the Transformer Architecture", 2020, table 1, right column.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        hidden: int,
        *,
        key: Key | int,
        activation: Callable[[Tensor], Tensor] = gelu,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if not callable(activation):
            raise ArgumentError(
                f"TransformerEncoderBlock: activation is {activation!r:.80}",
                where=user_line(),
                why="it is called with what the wide layer gives",
                fix="pass a function such as nn.gelu or nn.relu",
            )
        own = init_key(key)
        self.attention = MultiHeadAttention(
            features, heads, key=own.fold("attention"), causal=causal, dropout=dropout
        )
        self.attention_norm = LayerNorm(features)
        self.network_norm = LayerNorm(features)
        self.wide = Linear(features, hidden, key=own.fold("wide"))
        self.narrow = Linear(hidden, features, key=own.fold("narrow"))
        self.dropout = Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor, mask: Tensor | None = None, *, ctx: Context) -> Tensor:
        seen = self.attention(self.attention_norm(x, ctx=ctx), None, mask, ctx=ctx)
        x = x + self.dropout(seen, ctx=ctx)
        wide = self.activation(self.wide(self.network_norm(x, ctx=ctx), ctx=ctx))
        return x + self.dropout(self.narrow(wide, ctx=ctx), ctx=ctx)  # type: ignore[no-any-return]
