"""What the small server keeps of one client in one round."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedcore.v1 import (
    round_service_pb2 as rounds,
)

__all__ = ["Seat", "Upload"]


@dataclass
class Upload:
    upload_id: bytes
    size: int
    header: bytes
    pieces: dict[int, bytes] = field(default_factory=dict)
    arrived: list[tuple[int, int]] = field(default_factory=list)
    sealed: bool = False

    @property
    def committed(self) -> int:
        offset = 0
        while offset in self.pieces:
            offset += len(self.pieces[offset])
        return offset

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces[offset] for offset in sorted(self.pieces))


@dataclass
class Seat:
    """One client's assignment."""

    client: bytes
    assignment_id: bytes
    round: int
    attempt: int
    nonce: bytes
    upload: Upload | None = None
    report: rounds.Report | None = None
