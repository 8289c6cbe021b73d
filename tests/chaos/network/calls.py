"""Calls of a client of which some are lost, some lose their answers, and some arrive twice.

For tests: `lossy` puts it between the channels of this process and their callers.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

__all__ = ["LossyCalls", "lossy"]


class LostError(grpc.RpcError):
    """As gRPC reports a connection that broke."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._what = what

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._what

    def trailing_metadata(self) -> tuple[()]:
        return ()


class LossyCalls(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Shares of all calls, drawn from a seed: never sent; sent, answered, and the answer lost; or
    sent twice at once, of which either answer is taken.

    `happened`: how often what. `say`: told of each, in one line.
    """

    def __init__(
        self,
        *,
        seed: int,
        unsent: float = 0.1,
        unanswered: float = 0.1,
        repeated: float = 0.1,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._draw, self._lock, self._say = random.Random(seed), threading.Lock(), say
        self._shares = {"unsent": unsent, "unanswered": unanswered, "repeated": repeated}
        self.happened: Counter[str] = Counter()
        self._under_way: set[Any] = set()

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        what, second = self._drawn()
        if what:
            self._say(f"call\t{client_call_details.method}\t{what}\n")
        if what == "unsent":
            raise LostError("a test lost the request")
        call = continuation(client_call_details, request)
        if what == "unanswered":
            return _Unanswered(call)
        if what == "repeated":
            calls = (call, continuation(client_call_details, request))
            self._keep(calls[not second])
            return calls[second]
        return call

    def _drawn(self) -> tuple[str, bool]:
        with self._lock:
            left, second = self._draw.random(), self._draw.random() < 0.5
            for what, share in self._shares.items():
                if left < share:
                    self.happened[what] += 1
                    return what, second
                left -= share
        return "", False

    def _keep(self, call: Any) -> None:
        """Until it is answered: gRPC cancels a call that nobody refers to."""
        self._under_way.add(call)
        call.add_done_callback(self._under_way.discard)


class _Unanswered:
    """A call that was carried out, and of which its caller learns only that it broke."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def result(self, timeout: float | None = None) -> NoReturn:
        self._call.result(timeout)
        raise LostError("a test lost the answer")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


@contextmanager
def lossy(calls: LossyCalls) -> Iterator[None]:
    """Every secure channel that is opened in the block loses calls."""
    opened = grpc.secure_channel

    def secure_channel(*arguments: Any, **options: Any) -> grpc.Channel:
        return grpc.intercept_channel(opened(*arguments, **options), calls)

    grpc.secure_channel = secure_channel
    try:
        yield
    finally:
        grpc.secure_channel = opened
