"""Errors of secure aggregation."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = [
    "AbortError",
    "AuthenticationError",
    "ConsistencyError",
    "EntropyError",
    "MessageError",
    "PackingError",
    "ParameterError",
    "PolicyError",
    "ReuseError",
    "SecAggError",
    "ShareError",
    "StageError",
]


class SecAggError(FedcoreError, RuntimeError):
    """A secure aggregation cannot go on; `stage` says where, `culprit` who caused it, if known.

    `culprit`: the 16-byte id of a client, or None.
    """

    code = "FED-1400"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        where: str = "",
        stage: str = "",
        culprit: bytes | None = None,
    ) -> None:
        super().__init__(what, why=why, fix=fix, where=where)
        self.stage, self.culprit = stage, culprit

    def __str__(self) -> str:
        lines = [super().__str__()]
        lines += [f"  Stage: {self.stage}"] if self.stage else []
        if self.culprit is not None:
            # Whatever a caller named a client by: that an error cannot be printed helps nobody.
            known = self.culprit.hex() if isinstance(self.culprit, bytes) else repr(self.culprit)
            lines.append(f"  Culprit: {known}")
        return "\n".join(lines)


class ParameterError(SecAggError, ValueError):
    """No degree and threshold give the protection that is asked for."""

    code = "FED-1401"


class PolicyError(SecAggError, PermissionError):
    """A session is weaker than the client's policy allows."""

    code = "FED-1402"


class MessageError(SecAggError, ValueError):
    """A message is malformed, truncated, oversized or not in its one canonical form."""

    code = "FED-1403"


class StageError(SecAggError):
    """A message comes out of order, or belongs to no open session."""

    code = "FED-1404"


class AuthenticationError(SecAggError, ValueError):
    """A certificate, a signature, a key or a quorum is not valid."""

    code = "FED-1405"


class ConsistencyError(SecAggError, ValueError):
    """The sets or digests that the server sent contradict each other."""

    code = "FED-1406"


class ReuseError(SecAggError):
    """What may happen once was asked for a second time."""

    code = "FED-1407"


class ShareError(SecAggError, ValueError):
    """Shares of a secret do not rebuild it."""

    code = "FED-1408"


class PackingError(SecAggError, OverflowError):
    """Integers do not fit into the slots of a word, or their sum would not."""

    code = "FED-1409"


class AbortError(SecAggError):
    """A session ended without a sum."""

    code = "FED-1410"


class EntropyError(SecAggError):
    """A source of randomness may not be used here."""

    code = "FED-1411"
