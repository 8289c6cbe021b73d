"""What services share whose requests carry no signature of their own: TLS says who sends them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

from google.protobuf.message import Message

from fedcore.errors import ServerError
from fedserver.authorisation import Caller

__all__ = ["Unsigned"]


class Unsigned:
    """A base of services without envelopes."""

    payloads: Mapping[str, type[Message]] = MappingProxyType({})

    async def place(self, caller: Caller, payload: Message, /) -> NoReturn:
        """Raises: ServerError, for the gate asks only where there is a signature."""
        raise ServerError(f"no request of {type(self).__name__} is signed")
