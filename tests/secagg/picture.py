"""All that a machine knows, as values to compare: to see that a refusal changed nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from threading import Lock
from typing import Any

import numpy as np

from fedcore.entropy import SeededEntropy, SystemEntropy
from fedcore.secagg.charges import Charges
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.codec import Record
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.graph import Graph
from fedcore.secagg.identity import Certificate, Identity, TrustStore
from fedcore.secagg.keys import Channel, Prekey, PrekeyBundle
from fedcore.secagg.params import Parameters
from fedcore.secagg.policy import Policy
from fedcore.secagg.postings import Postings
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.sharing import HeldShare

__all__ = ["picture"]

# Frozen down to the last field: two of them are equal if and only if all their bytes are.
_VALUES = (
    *(bytes, int, float, str, frozenset, Fraction, Record, Certificate, Prekey, PrekeyBundle),
    *(HeldShare, Parameters, Policy, SessionConfig),
)
# What serves many machines, or never changes.
_OUTSIDE = (Identity, TrustStore, SeededEntropy, SystemEntropy, type(Lock()))


def picture(value: Any) -> Any:
    """`value` down to its last byte; caches that only save time are left out."""
    if value is None or isinstance(value, _VALUES):
        return value
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {key: picture(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [picture(one) for one in value]
    if isinstance(value, Graph):
        return value.order.tobytes()
    if isinstance(value, Channel):
        return value._sent, value._received
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return [type(value).__name__, *map(picture, fields)]
    if isinstance(value, SecAggClient | SecAggServer | Postings | Charges):
        return {name: picture(one) for name, one in vars(value).items()}
    assert isinstance(value, _OUTSIDE), f"{type(value).__name__} is new: say how it is pictured"
    return type(value).__name__
