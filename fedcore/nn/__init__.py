"""Layers as values: pytrees of parameters that are called, mapped, differentiated and rebuilt."""

from fedcore.nn import init
from fedcore.nn.attention import MultiHeadAttention, TransformerEncoderBlock
from fedcore.nn.context import Context
from fedcore.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from fedcore.nn.dropout import Dropout
from fedcore.nn.embedding import Embedding
from fedcore.nn.init import Initializer
from fedcore.nn.linear import Linear
from fedcore.nn.module import Module
from fedcore.nn.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from fedcore.nn.pool import AvgPool1d, AvgPool2d, GlobalAvgPool, GlobalMaxPool, MaxPool1d, MaxPool2d
from fedcore.nn.recurrent import GRU, LSTM, RNN, every_step, last_step
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
from fedcore.tensor.ops.attention import scaled_dot_product_attention
from fedcore.tensor.ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
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
from fedcore.tensor.ops.norms import group_norm, layer_norm, rms_norm
from fedcore.tensor.ops.pool import (
    avg_pool1d,
    avg_pool2d,
    bias_relu_pool,
    global_avg_pool,
    global_max_pool,
    max_pool1d,
    max_pool2d,
)
from fedcore.tensor.ops.random import dropout
from fedcore.tensor.ops.softmax import log_softmax, softmax

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm",
    "Context",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Initializer",
    "LayerNorm",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "MultiHeadAttention",
    "RMSNorm",
    "RebuildState",
    "Sequential",
    "TransformerEncoderBlock",
    "avg_pool1d",
    "avg_pool2d",
    "bias_relu_pool",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "elu",
    "every_step",
    "flatten",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "hardswish",
    "huber",
    "init",
    "kl_div",
    "l1",
    "last_step",
    "layer_norm",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "mse",
    "nll",
    "ravel_state",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "summary",
    "tanh",
]
