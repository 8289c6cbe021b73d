"""Layers as values: pytrees of parameters that are called, mapped, differentiated and rebuilt."""

from fedcore.nn import init
from fedcore.nn.context import Context
from fedcore.nn.linear import Linear
from fedcore.nn.module import Module
from fedcore.nn.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from fedcore.nn.sequential import Sequential
from fedcore.nn.state import RebuildState, ravel_state

__all__ = [
    "BatchNorm",
    "Context",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Module",
    "RMSNorm",
    "RebuildState",
    "Sequential",
    "init",
    "ravel_state",
]
