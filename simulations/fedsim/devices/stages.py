"""The stages of a client's part in a round, at any of which its device may be lost."""

from __future__ import annotations

from enum import Enum

__all__ = ["Stage"]


class Stage(Enum):
    """What a client is at when it is lost; the value is the key of `[devices.dropout]`.

    CHECKED_IN: it has asked for work and leaves again. KEYS, SHARES, CONFIRMING and UNMASKING exist
    under secure aggregation alone. TRAINING begins with the download of the model.
    """

    CHECKED_IN = "checked_in"
    KEYS = "keys"
    SHARES = "shares"
    TRAINING = "training"
    UPLOAD = "upload"
    CONFIRMING = "confirming"
    UNMASKING = "unmasking"
