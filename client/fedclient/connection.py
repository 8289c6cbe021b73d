"""The way to the server: every call has a deadline, and is repeated only where that can help.

Unreachable and overloaded servers are asked again, after a wait drawn from what the server says or
from a range that doubles (full jitter); refusals are not. The error that comes out is the one the
server raised.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from fedclient.stopping import Stop
from fedcore.errors import (
    CancelledError,
    DeviceTimeoutError,
    FedcoreError,
    RefusedError,
    UnreachableError,
)

if TYPE_CHECKING:
    import grpc

    from fedclient.identity import Tls
    from fedcore.v1.client_service_pb2_grpc import ClientServiceStub
    from fedcore.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
    from fedcore.v1.model_service_pb2_grpc import ModelServiceStub
    from fedcore.v1.round_service_pb2_grpc import RoundServiceStub
    from fedcore.v1.secagg_service_pb2_grpc import SecAggServiceStub
    from fedcore.v1.upload_service_pb2_grpc import UploadServiceStub

__all__ = [
    "CALL_S",
    "PATIENCE_S",
    "Answer",
    "Connection",
    "Faults",
    "Patience",
    "delay_s",
    "is_passing",
    "no_faults",
]

CALL_S: Final = 30.0
PATIENCE_S: Final = 300.0
"""How long a call is repeated without success, so that a restart of the server is no failure."""

_FIRST_S: Final = 0.2
_MOST_S: Final = 10.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Faults(Protocol):
    """A seam for tests: told of every call, before it is sent and after it was answered.

    What it raises happens to the call: a ConnectError `after` is an answer that was lost.
    """

    def __call__(self, moment: str, method: str, /) -> None: ...


def no_faults(moment: str, method: str, /) -> None:
    """What production injects."""


class Patience:
    """How long, and how often, an operation is repeated. `stop` ends every wait."""

    def __init__(self, *, stop: Stop, seconds: float = PATIENCE_S) -> None:
        self._stop, self._seconds = stop, seconds
        self._since, self._failures = time.monotonic(), 0

    def succeeded(self) -> None:
        """There was progress: the next failure is the first again."""
        self._since, self._failures = time.monotonic(), 0

    def wait(self, error: FedcoreError) -> None:
        """Waits before the next try. Raises: `error` if none would help, or time is up."""
        self._stop.check()
        if not is_passing(error) or time.monotonic() - self._since > self._seconds:
            raise error
        if isinstance(error, RefusedError):
            seconds = delay_s(error.retry)
        else:
            seconds = random.uniform(0, min(_MOST_S, _FIRST_S * 2**self._failures))  # noqa: S311
        self._failures = min(self._failures + 1, 16)
        self._stop.wait(seconds)
        self._stop.check()


def delay_s(window: tuple[int, int] | None) -> float:
    """Seconds to wait, drawn from a window in milliseconds: who was told the same parts again."""
    least, most = window or (0, 0)
    return random.uniform(least, max(least, most)) / 1000  # noqa: S311 - no secret


def is_passing(error: FedcoreError) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, RefusedError):
        return error.retry is not None
    return isinstance(error, UnreachableError | DeviceTimeoutError)


class Answer(Generic[_Response]):
    """The answer to a call that is on its way."""

    def __init__(self, future: grpc._CallFuture[_Response], method: str, faults: Faults) -> None:
        self._future, self._method, self._faults = future, method, faults

    def result(self, stop: Stop) -> _Response:
        """The answer, once it is here.

        Raises: what the server refused with; UnreachableError, DeviceTimeoutError, CancelledError.
        """
        import grpc

        try:
            stop.check()  # an answer that came before the stop would be used after it
            with stop.calling(self._future.cancel):
                response: _Response = self._future.result()
        except grpc.FutureCancelledError:
            stop.check()
            raise CancelledError("a call was cancelled", why="the connection was closed") from None
        except grpc.RpcError as error:
            raise _meaning(error) from None
        finally:
            self.cancel()  # nobody waits any more: after an interrupt
        self._faults("after", self._method)
        return response

    def cancel(self) -> None:
        """Gives up the call, unless it was answered."""
        if not self._future.done():
            self._future.cancel()


class Connection:
    """A channel to one port of a server. `root`: PEM of the only authority that is trusted.

    `tls`: what identifies this client, None on the enrolment port. Opened by the first call.
    """

    def __init__(
        self, address: str, *, root: bytes, tls: Tls | None = None, faults: Faults = no_faults
    ) -> None:
        self.address, self._faults = address, faults
        self._root, self._tls = root, tls
        self._channel: grpc.Channel | None = None

    @property
    def channel(self) -> grpc.Channel:
        """The channel itself."""
        if self._channel is None:
            import grpc

            from fedcore.wire.channels import client_options

            key, chain = (None, None) if self._tls is None else (self._tls.key, self._tls.chain)
            credentials = grpc.ssl_channel_credentials(self._root, key, chain)
            # Repeated here, where it can be stopped; and a server that restarts is found soon. The
            # least "backoff" is in truth how long a handshake may take before it is begun anew.
            reconnect = (
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.min_reconnect_backoff_ms", 20_000),
                ("grpc.max_reconnect_backoff_ms", 5_000),
            )
            options = (*client_options(retries=False), *reconnect)
            self._channel = grpc.secure_channel(self.address, credentials, options)
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        stop: Stop,
        timeout_s: float = CALL_S,
        patience_s: float = PATIENCE_S,
    ) -> _Response:
        """One call, repeated while that can help.

        Raises: what the server refused with; UnreachableError, DeviceTimeoutError after so much
        patience; CancelledError once `stop` is set.
        """
        patience = Patience(stop=stop, seconds=patience_s)
        while True:
            try:
                return self.start(method, request, timeout_s=timeout_s).result(stop)
            except FedcoreError as error:
                patience.wait(error)

    def start(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        timeout_s: float = CALL_S,
    ) -> Answer[_Response]:
        """One call, on its way when this returns; several may be. Raises: as `Answer.result`."""
        import grpc

        name = type(request).__name__.removesuffix("Request")
        self._faults("before", name)
        try:
            return Answer(method.future(request, timeout=timeout_s), name, self._faults)
        except grpc.RpcError as error:
            raise _meaning(error) from None
        except ValueError:  # the channel was closed by another thread
            raise CancelledError(
                "the connection is closed", why="the client was closed", fix="open it again"
            ) from None

    @property
    def enrolment(self) -> EnrolmentServiceStub:
        from fedcore.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub

        return EnrolmentServiceStub(self.channel)

    @property
    def clients(self) -> ClientServiceStub:
        from fedcore.v1.client_service_pb2_grpc import ClientServiceStub

        return ClientServiceStub(self.channel)

    @property
    def rounds(self) -> RoundServiceStub:
        from fedcore.v1.round_service_pb2_grpc import RoundServiceStub

        return RoundServiceStub(self.channel)

    @property
    def aggregation(self) -> SecAggServiceStub:
        from fedcore.v1.secagg_service_pb2_grpc import SecAggServiceStub

        return SecAggServiceStub(self.channel)

    @property
    def models(self) -> ModelServiceStub:
        from fedcore.v1.model_service_pb2_grpc import ModelServiceStub

        return ModelServiceStub(self.channel)

    @property
    def uploads(self) -> UploadServiceStub:
        from fedcore.v1.upload_service_pb2_grpc import UploadServiceStub

        return UploadServiceStub(self.channel)


def _meaning(error: grpc.RpcError) -> FedcoreError:
    from fedcore.wire.failures import error_from

    return error_from(error)
