"""A join string is all that an operator hands to a client: where, whom to trust there, a token.

`fed1.<host:port>.<authority>.<token>`: the address of the enrolment port, the SHA-256 of the root
certificate's DER in 64 hexadecimal digits, and the token of 32 bytes in base64url without padding.
It is read from the right, because hosts contain dots. There is exactly one spelling of each.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from fedcore.errors import JoinStringError

__all__ = ["DIGEST_BYTES", "TOKEN_BYTES", "JoinString", "split_address"]

TOKEN_BYTES: Final = 32
DIGEST_BYTES: Final = 32

_PREFIX: Final = "fed1."
_LONGEST: Final = 512
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# The last of 43 characters carries 4 bits; the other 2 are 0 in the one right spelling.
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class JoinString:
    """What a join string says. `address`: host:port; `authority`: SHA-256 of the root, 32 bytes.

    `token`: 32 secret bytes, which `repr` leaves out. Raises: JoinStringError.

    >>> invitation = JoinString("fl.example.org:7443", bytes(32), b"t" * 32)
    >>> JoinString.parse(invitation.encode()) == invitation
    True
    >>> "dHR0" in repr(invitation)
    False
    """

    address: str
    authority: bytes
    token: bytes = field(repr=False)

    def __post_init__(self) -> None:
        split_address(self.address)
        if len(self.authority) != DIGEST_BYTES or len(self.token) != TOKEN_BYTES:
            raise _damaged("its digest or its token has another length than 32 bytes")

    def encode(self) -> str:
        """The string itself: a secret, because it holds the token."""
        token = base64.urlsafe_b64encode(self.token).rstrip(b"=").decode("ascii")
        return f"{_PREFIX}{self.address}.{self.authority.hex()}.{token}"

    @classmethod
    def parse(cls, text: str) -> JoinString:
        """What `encode` wrote; space around it is left aside. Raises: JoinStringError."""
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise _damaged(f"it does not begin with {_PREFIX!r}")
        if len(text) > _LONGEST:
            raise _damaged(f"it is longer than {_LONGEST} characters")
        parts = text.removeprefix(_PREFIX).rsplit(".", 2)
        if len(parts) != 3:
            raise _damaged("an address, a digest and a token do not all stand in it")
        address, authority, token = parts
        if _HEX.fullmatch(authority) is None:
            raise _damaged("its digest is not 64 hexadecimal digits in lower case")
        return cls(address, bytes.fromhex(authority), _token_in(token))


def split_address(address: str) -> tuple[str, int]:
    """Host and port of host:port, an IPv6 address without its brackets. Raises: JoinStringError.

    >>> split_address("[::1]:7443"), split_address("fl.example.org:7443")
    (('::1', 7443), ('fl.example.org', 7443))
    """
    host, colon, port = address.rpartition(":")
    if not colon or _PORT.fullmatch(port) is None or int(port) > 65_535:
        raise _damaged("its address has no port between 1 and 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise _damaged("what stands in brackets is no IPv6 address") from None
        if "%" in host:
            raise _damaged("an address with a zone means something on one machine alone")
        return host[1:-1], int(port)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise _damaged("its host is neither a name nor an address; IPv6 stands in brackets")
    return host, int(port)


def _token_in(text: str) -> bytes:
    if _BASE64.fullmatch(text) is None:
        raise _damaged("its token is not 43 characters of base64url")
    return base64.urlsafe_b64decode(text + "=")


def _damaged(why: str) -> JoinStringError:
    return JoinStringError(
        "a join string cannot be used",
        why=why,
        fix="copy the whole string that `fed token create` printed, or ask for a new one",
    )
