"""One message of each kind, whose fields hold bytes that count up."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Advertise,
    Complaint,
    ComplaintReason,
    Confirmation,
    MaskRequest,
    Message,
    Roster,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
)

__all__ = ["KINDS", "NEIGHBOURS", "SAMPLES", "SID", "depth", "every_kind"]

KINDS: tuple[type[Any], ...] = get_args(Message)


def blob(first: int, size: int) -> bytes:
    """Bytes that count up from `first`."""
    return bytes((first + i) % 256 for i in range(size))


SID = blob(1, 32)
SIGNATURE = blob(200, 64)
NEIGHBOURS = tuple((blob(j, 176), blob(3 * j, 3 * 32)) for j in (40, 41, 42, 43))

SAMPLES: dict[type[Any], Message] = {
    Advertise: Advertise(blob(2, 120), blob(3, 176)),
    Roster: Roster(
        SID,
        2**40 + 5,
        7,
        blob(4, 32),
        blob(5, 90),
        blob(6, 48),
        5,
        3,
        blob(23, 16),
        blob(7, 5 * 120),
        blob(8, 3 * 32),
        NEIGHBOURS,
    ),
    Shares: Shares(SID, blob(9, 300), blob(10, 96), SIGNATURE),
    MaskRequest: MaskRequest(SID, blob(11, 32), b"\x1b", blob(12, 300), blob(13, 96)),
    Complaint: Complaint(SID, 70_000, ComplaintReason.NOT_IN_FIELD, SIGNATURE),
    UploadHeader: UploadHeader(SID, blob(14, 32), 2**33 + 1, SIGNATURE),
    UploadChunk: UploadChunk(SID, 2**34, blob(15, 77)),
    UploadTrailer: UploadTrailer(SID, blob(16, 32)),
    Survivors: Survivors(SID, b"\xff\x01", blob(17, 128)),
    Confirmation: Confirmation(SID, blob(18, 32), SIGNATURE),
    UnmaskRequest: UnmaskRequest(SID, b"\xff\x01", (0, 2, 513), blob(19, 192)),
    UnmaskAnswer: UnmaskAnswer(SID, blob(20, 32), b"\x85\x02", 10, blob(21, 144), blob(22, 128)),
    Abort: Abort(SID, AbortReason.CANNOT_UNMASK),
}


def depth(n: int) -> int:
    """⌈log₂ n⌉."""
    return next(d for d in range(33) if 2**d >= n)


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
