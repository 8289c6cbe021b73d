"""The one assignment that a client works on, as it is kept: enough to go on after a crash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedcore.errors import ClientStateError

__all__ = ["OpenAssignment"]


@dataclass(frozen=True, slots=True)
class OpenAssignment:
    """What the server assigned, and how far this client came.

    `seen`: the number of the last instruction that was obeyed. `train`: the instruction to train,
    serialized. `sid`: of the secure session, once its roster came. `advertised`: the very message
    by which a prekey was posted. `uploaded`: the update is acknowledged.
    """

    assignment_id: bytes
    task_id: str
    round: int
    attempt: int
    task_digest: bytes
    nonce: bytes
    heartbeat_ms: int = 30_000
    deadline_ms: int = 0
    seen: int = 0
    train: bytes = b""
    sid: bytes = b""
    advertised: bytes = b""
    uploaded: bool = False

    def encode(self) -> bytes:
        """JSON, with bytes as hexadecimal digits."""
        values = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(values).encode()

    @classmethod
    def decode(cls, data: bytes) -> OpenAssignment:
        """What `encode` gave. Raises: ClientStateError."""
        try:
            found = json.loads(data)
            values: dict[str, Any] = {field.name: found[field.name] for field in fields(cls)}
            for field in fields(cls):
                if field.type == "bytes":
                    values[field.name] = bytes.fromhex(values[field.name])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ClientStateError(
                "the open assignment cannot be read",
                why=f"its record is damaged: {error}",
                fix="restore the folder as it was, or join again in an empty one",
            ) from error
