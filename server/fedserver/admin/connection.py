"""A command's way to the server: every call has a deadline, and its error is the server's own.

What changes something is signed for this one server and carries 16 bytes by which a repetition is
known, so that it may be sent again when an answer was lost: it happens once.
"""

from __future__ import annotations

import hmac
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from fedcore.errors import (
    ConnectError,
    DeviceTimeoutError,
    FedcoreError,
    RefusedError,
    UnreachableError,
    UntrustedServerError,
)
from fedcore.v1 import admin_service_pb2
from fedcore.v1.admin_service_pb2_grpc import AdminServiceStub
from fedcore.v1.common_pb2 import Envelope
from fedcore.v1.model_service_pb2_grpc import ModelServiceStub
from fedcore.v1.model_upload_service_pb2_grpc import ModelUploadServiceStub
from fedcore.wire.envelope import Place, seal
from fedcore.wire.failures import error_from
from fedcore.wire.joining import split_address
from fedserver.admin.user import User
from fedserver.profiles import Profile

__all__ = ["CALL_S", "Connection", "connected", "is_passing"]

CALL_S: Final = 30.0
_REPEATS: Final = 3
_FIRST_S: Final = 0.2
_LONGEST_S: Final = 5.0

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Connection:
    """A user's channel to the services of a server. Opened by the first call."""

    def __init__(
        self, user: User, channel: grpc.Channel, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.user, self._sleep = user, sleep
        self.admin, self.models = AdminServiceStub(channel), ModelServiceStub(channel)
        self.first_models = ModelUploadServiceStub(channel)

    @property
    def address(self) -> str:
        """host:port of the services."""
        return self.user.profile.address

    @cached_property
    def status(self) -> admin_service_pb2.GetStatusResponse:
        """What the server said of itself when it was first asked."""
        return self.ask(self.admin.GetStatus, admin_service_pb2.GetStatusRequest())

    @cached_property
    def server_id(self) -> bytes:
        """The server's 16 bytes. Raises: UntrustedServerError for another than the profile's."""
        found = self.status.server_id
        if self.user.server_id and not hmac.compare_digest(found, self.user.server_id):
            raise UntrustedServerError(
                "this is another server than the profile is for",
                why=f"it is {found.hex()}, the profile names {self.user.server_id.hex()}",
                fix="ask the operator whether the server was set up anew, and for a new profile",
                where=self.address,
            )
        return found

    def ask(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        timeout_s: float = CALL_S,
    ) -> _Response:
        """One answer, asked for again where the server says when it will have time.

        Raises: what the server refused with; ConnectError for all else.
        """
        return self._asked(method, request, timeout_s=timeout_s, again=_is_told_when)

    def order(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        timeout_s: float = CALL_S,
    ) -> _Response:
        """One answer to a mutation, which is repeated as it is while that can help.

        Raises: as `ask`.
        """
        return self._asked(method, request, timeout_s=timeout_s, again=is_passing)

    def pause(self, error: FedcoreError, attempt: int) -> None:
        """Waits before a call that failed is repeated, for the time after attempt 0, 1, …"""
        self._sleep(_delay_s(error, attempt))

    def signed(self, name: str, payload: Message) -> Envelope:
        """A mutation's payload, signed for this server. `name`: of the RPC, like "Drain"."""
        profile = self.user.profile
        return seal(
            payload.SerializeToString(deterministic=True),
            method=f"AdminService.{name}",
            place=Place(nonce=self.server_id),
            sign=profile.identity.sign,
            key=profile.identity.public_key().public_bytes_raw(),
        )

    def _asked(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        timeout_s: float,
        again: Callable[[FedcoreError], bool],
    ) -> _Response:
        attempt = 0
        while True:
            try:
                return method(request, timeout=timeout_s)
            except grpc.RpcError as failure:
                error = self.meaning(failure)
            attempt += 1
            if attempt == _REPEATS or not again(error):
                raise error
            self.pause(error, attempt - 1)

    def meaning(self, error: grpc.RpcError) -> FedcoreError:
        """What a call's failure means to a user of this profile."""
        found = error_from(error)
        if not isinstance(found, ConnectError):
            return found
        if isinstance(found, UnreachableError):
            found = _cause(self.user.profile) or found
        found.where = self.address
        return found


@contextmanager
def connected(user: User) -> Iterator[Connection]:
    """A connection that is closed afterwards."""
    with user.profile.channel() as channel:
        yield Connection(user, channel)


def _cause(profile: Profile) -> FedcoreError | None:
    """What is wrong on the way to the server, looked for where gRPC only says that it fails."""
    from fedcore.wire.handshake import check_name, check_port, check_server

    host, port = split_address(profile.address)
    try:
        check_name(host)
        check_port(host, port)
        check_server(host, port, root=profile.authority)
    except UntrustedServerError as error:
        return UntrustedServerError(
            "the server is not one of the profile's federation",
            why=error.why,
            fix="check the address in profile.toml, and that the profile is of this federation",
        )
    except FedcoreError as error:
        return error
    return None


def is_passing(error: FedcoreError) -> bool:
    """Whether the same call may succeed a little later."""
    return _is_told_when(error) or isinstance(error, UnreachableError | DeviceTimeoutError)


def _is_told_when(error: FedcoreError) -> bool:
    return isinstance(error, RefusedError) and error.retry is not None


def _delay_s(error: FedcoreError, attempt: int) -> float:
    retry = error.retry if isinstance(error, RefusedError) else None
    if retry is None:
        return random.uniform(0, _FIRST_S * 2**attempt)  # noqa: S311, no secret
    return min(_LONGEST_S, random.uniform(*retry) / 1000)  # noqa: S311
