"""The stages of a session on the server: in what order, who is awaited, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import numpy as np
import numpy.typing as npt

from fedcore.errors import AbortError
from fedcore.secagg.collected import Collected
from fedcore.secagg.messages import (
    AbortReason,
    Confirmation,
    Message,
    Shares,
    UnmaskAnswer,
    UploadHeader,
    UploadTrailer,
)
from fedcore.secagg.params import Profile

__all__ = ["LAST", "STAGES", "Stage", "invited", "obstacle", "stage_of"]


class Stage(Enum):
    """What a session waits for; the value is the protocol's name of the exchange."""

    PREKEYS = "R0"
    SHARES = "R1"
    UPLOADS = "R2"
    CONFIRMATIONS = "R3"
    ANSWERS = "R4"
    OPENED = "opened"
    ABORTED = "aborted"


STAGES: Mapping[type[Message], Stage] = {
    Shares: Stage.SHARES,
    UploadHeader: Stage.UPLOADS,
    UploadTrailer: Stage.UPLOADS,
    Confirmation: Stage.CONFIRMATIONS,
    UnmaskAnswer: Stage.ANSWERS,
}
LAST: Mapping[Stage, type[Message]] = {
    Stage.SHARES: Shares,
    Stage.UPLOADS: UploadTrailer,
    Stage.CONFIRMATIONS: Confirmation,
    Stage.ANSWERS: UnmaskAnswer,
}
_TOO_FEW: Mapping[Stage, AbortReason] = {
    Stage.SHARES: AbortReason.TOO_FEW_SHARES,
    Stage.UPLOADS: AbortReason.TOO_FEW_UPLOADS,
    Stage.CONFIRMATIONS: AbortReason.NO_QUORUM,
}


def stage_of(collected: Collected) -> Stage:
    """The stage of a session whose roster is frozen: it follows from the sets frozen since."""
    if collected.aborted is not None:
        return Stage.ABORTED
    if collected.opened:
        return Stage.OPENED
    if collected.uploaders is None:
        return Stage.SHARES
    if collected.survivors is None:
        return Stage.UPLOADS
    malicious = collected.roster.config.profile is Profile.MALICIOUS
    return Stage.CONFIRMATIONS if malicious and collected.signers is None else Stage.ANSWERS


def invited(collected: Collected, stage: Stage) -> npt.NDArray[np.bool_]:
    """The clients (n,) that have a say at a stage."""
    everyone = np.ones(collected.roster.n, bool)
    members = {Stage.SHARES: everyone, Stage.UPLOADS: collected.uploaders}.get(
        stage, collected.survivors
    )
    assert members is not None
    return members


def obstacle(collected: Collected, stage: Stage) -> tuple[AbortReason, AbortError] | None:
    """Why a session could not go on if SHARES, UPLOADS or CONFIRMATIONS were closed now."""
    parameters = collected.roster.parameters
    senders = collected.senders(LAST[stage])
    found = int(senders.sum())
    confirming = stage is Stage.CONFIRMATIONS
    needed = parameters.quorum if confirming else parameters.minimum_survivors
    if found < needed:
        return _TOO_FEW[stage], AbortError(
            f"{found} of {parameters.n} clients are left at {stage.name}",
            why=f"{needed} must be; delta provides for {parameters.dropouts} lost",
            fix="begin a new attempt, or plan the task with a larger delta",
            stage=stage.value,
        )
    graph = collected.roster.graph
    if stage is Stage.UPLOADS and not graph.windows_hold(senders, parameters.window):
        return AbortReason.WINDOW, AbortError(
            "the clients that are left are not spread over the ring",
            why=f"any {graph.degree // 2} places in a row must hold {parameters.window} of them",
            fix="begin a new attempt: its ring is drawn anew",
            stage=stage.value,
        )
    return None
