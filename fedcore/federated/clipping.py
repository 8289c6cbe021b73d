"""What adaptive clipping has come to, as a server sends it to the clients of a round."""

from __future__ import annotations

import hashlib
import json

from fedcore.errors import FedcoreError, PlanError
from fedcore.privacy import Adaptive, PrivacyPlan, QuantileState
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.release import require_state

__all__ = ["announced", "decode_clipping", "encode_clipping"]

_DOMAIN = b"fedcore clipped model 1\0"
_LONGEST = 8192  # bytes; a state of the longest fractions takes half of it


def encode_clipping(state: QuantileState | None) -> bytes:
    """The state as JSON in its one form; nothing for None, where clipping does not adapt."""
    if state is None:
        return b""
    return json.dumps(to_json(state), sort_keys=True, separators=(",", ":")).encode()


def decode_clipping(plan: PrivacyPlan, data: bytes) -> QuantileState | None:
    """The state that `data` encodes, for a round under `plan`.

    Raises: PlanError unless it is the plan's own rule, in the one form of its encoding.
    """
    state = _decoded(data) if data else None
    if encode_clipping(state) != data:
        raise _malformed()
    if state is not None and not isinstance(plan.clipping, Adaptive):
        raise PlanError(
            "a round clips by a norm of its own",
            why="the task's plan fixes one norm for all rounds",
            fix="take part in tasks whose server keeps to their plan",
        )
    require_state(plan, state)
    return state


def announced(model_digest: bytes, clipping: bytes) -> bytes:
    """What a session names as its model: all that a server sends to train with.

    Every client compares it with what it was sent itself. Else a server could let all but one clip
    to nothing, and see that one's update in the sum.

    >>> announced(bytes(32), b"") == bytes(32)
    True
    """
    if not clipping:
        return model_digest
    return hashlib.sha256(_DOMAIN + model_digest + clipping).digest()


def _decoded(data: bytes) -> QuantileState:
    if len(data) > _LONGEST:
        raise _malformed()
    try:
        found = from_json(json.loads(data), QuantileState)
    except (ValueError, RecursionError, FedcoreError) as error:
        raise _malformed() from error
    if type(found) is not QuantileState:
        raise _malformed()
    return found


def _malformed() -> PlanError:
    return PlanError(
        "a round's state of clipping is none",
        why="it is JSON in the one form that encode_clipping gives",
        fix="send what came of the last round's release",
    )
