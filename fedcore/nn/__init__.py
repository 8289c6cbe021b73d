"""Layers as values: pytrees of parameters that are called, mapped, differentiated and rebuilt."""

from fedcore.nn import init
from fedcore.nn.attention import MultiHeadAttention, TransformerEncoderBlock
from fedcore.nn.context import Context
from fedcore.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from fedcore.nn.dropout import Dropout
from fedcore.nn.embedding import Embedding
from fedcore.nn.init import Initializer
from fedcore.nn.linear import Linear
from fedcore.nn.module import Module
from fedcore.nn.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from fedcore.nn.recurrent import GRU, LSTM, RNN, last_step
from fedcore.nn.reshaping import flatten
from fedcore.nn.sequential import Sequential
from fedcore.nn.state import RebuildState, ravel_state
from fedcore.nn.summary import summary
from fedcore.tensor.ops.activations import (
    elu,
    gelu,
    hardswish,
    leaky_relu,
    log_sigmoid,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
)
from fedcore.tensor.ops.elementwise import tanh
from fedcore.tensor.ops.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber,
    kl_div,
    l1,
    mse,
    nll,
)
from fedcore.tensor.ops.softmax import log_softmax, softmax

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm",
    "Context",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "GroupNorm",
    "Initializer",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiHeadAttention",
    "RMSNorm",
    "RebuildState",
    "Sequential",
    "TransformerEncoderBlock",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "elu",
    "flatten",
    "gelu",
    "hardswish",
    "huber",
    "init",
    "kl_div",
    "l1",
    "last_step",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mse",
    "nll",
    "ravel_state",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "summary",
    "tanh",
]
