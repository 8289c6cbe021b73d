"""Errors cross the network as what they are; faults of the server cross it as no more than that."""

from __future__ import annotations

import inspect

import grpc
import pytest
from hypothesis import given, strategies as st

from fedcore import errors
from fedcore.errors import FedcoreError, RefusedError, registry
from fedcore.v1 import common_pb2
from fedcore.wire.failures import (
    FAILURE_KEY,
    PUSHBACK_KEY,
    STATUS,
    error_from,
    failure_of,
    metadata_of,
    status_of,
)


class Failed(grpc.RpcError):
    """An RPC's error as gRPC's own classes behave."""

    def __init__(
        self, code: grpc.StatusCode | None, details: str | None = "", metadata: object = ()
    ) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> object:
        return self._metadata


def over_the_wire(error: BaseException) -> FedcoreError:
    return error_from(Failed(status_of(error), str(error), metadata_of(error)))


# Of a fault of the server nothing crosses but the code of ServerError.
SHOWN = [
    found
    for code, found in registry().items()
    if failure_of(found("x")).code == code != errors.ServerError.code
]


@pytest.mark.parametrize("found", SHOWN, ids=lambda found: found.__name__)
def test_a_refusal_comes_out_as_what_it_was(found: type[FedcoreError]) -> None:
    back = over_the_wire(found("what", why="why", fix="fix"))
    assert (type(back), back.what, back.why, back.fix) == (found, "what", "why", "fix")


@pytest.mark.parametrize("found", list(STATUS), ids=lambda found: found.__name__)
def test_every_row_names_a_status_of_grpc(found: type[FedcoreError]) -> None:
    assert STATUS[found] in grpc.StatusCode.__members__
    assert STATUS[found] != "OK"


def test_all_that_is_no_fault_of_the_server_is_shown() -> None:
    assert {errors.UploadError, errors.StageError, errors.EnvelopeError} < set(SHOWN)
    assert set(SHOWN) == {found for found in STATUS if found != errors.EntropyError}


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a secret"),
        errors.StoreError("a secret", why="a secret", fix="a secret"),
        errors.KeyFileError("a secret", where="a secret"),
        errors.LedgerError("a secret"),
        errors.ArgumentError("a secret"),
        errors.EntropyError("a secret"),
        errors.TransitionError("a secret"),
        AssertionError("a secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_server_says_nothing_of_itself(error: BaseException) -> None:
    failure = failure_of(error)
    assert b"secret" not in failure.SerializeToString()
    assert failure.code == "FED-2200"
    assert status_of(error).name in {"INTERNAL", "UNAVAILABLE"}
    assert type(over_the_wire(error)) is RefusedError


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (errors.OverloadedError("full"), True),
        (errors.DrainingError("bye"), True),
        (errors.StoreError("disk full"), True),
        (errors.LeaseLostError("another"), True),
        (errors.PhaseError("early", retry=(10, 20)), True),
        (errors.PhaseError("late"), False),
        (errors.UploadError("too large"), False),
        (errors.ForbiddenError("no"), False),
        (KeyError("bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_retry_is_offered_exactly_where_it_may_help(error: BaseException, retried: bool) -> None:
    assert failure_of(error).HasField("retry") is retried
    back = over_the_wire(error)
    assert isinstance(back, RefusedError)
    assert (back.retry is not None) is retried
    if isinstance(error, RefusedError) and error.retry:
        assert back.retry == error.retry


def test_grpc_repeats_a_call_by_itself_only_after_a_short_wait() -> None:
    def pushback(error: BaseException) -> str | bytes:
        return dict(metadata_of(error))[PUSHBACK_KEY]

    assert pushback(errors.DrainingError("bye", retry=(500, 900))) == "500"
    assert pushback(errors.DrainingError("bye", retry=(60_000, 90_000))) == "-1"
    assert pushback(errors.ForbiddenError("no")) == "-1"


@given(st.text(max_size=2000), st.text(max_size=2000), st.text(max_size=2000))
def test_texts_are_cut_and_made_harmless_on_both_ways(what: str, why: str, fix: str) -> None:
    def fits(text: str) -> str:
        return text.encode("utf-8", "replace").decode()  # protobuf takes no lone surrogates

    what, why, fix = fits(what), fits(why), fits(fix)
    error = errors.ForbiddenError(what, why=why, fix=fix)
    assert sum(len(key) + len(value) for key, value in metadata_of(error)) < 8192
    raw = common_pb2.Failure(code="FED-2102", what=what, why=why, fix=fix).SerializeToString()
    for back in (over_the_wire(error), error_from(_failed(raw))):
        for text in (back.what, back.why, back.fix):
            assert len(text) <= 400
            assert text == "" or text.isprintable()


@given(st.text(max_size=12))
def test_a_text_that_came_is_never_taken_for_a_class(code: str) -> None:
    code = code.encode("utf-8", "replace").decode()
    back = error_from(_failed(common_pb2.Failure(code=code, what="x").SerializeToString()))
    assert type(back) is RefusedError or back.code == code


@pytest.mark.parametrize("code", ["FED-1001", "FED-2206", "FED-2330", "FED-1000", "os.system", ""])
def test_a_server_cannot_pass_for_an_error_of_the_client_itself(code: str) -> None:
    back = error_from(_failed(common_pb2.Failure(code=code, what="x").SerializeToString()))
    assert type(back) is RefusedError


@given(st.binary(max_size=200))
def test_garbage_in_the_metadata_is_a_transport_error_or_a_refusal(raw: bytes) -> None:
    assert isinstance(error_from(_failed(raw)), FedcoreError)


def test_a_huge_failure_is_not_even_read() -> None:
    raw = common_pb2.Failure(code="FED-2105", what="x" * 10_000).SerializeToString()
    assert type(error_from(_failed(raw))) is errors.ForbiddenError


def test_a_retry_window_that_a_server_sends_is_bounded_and_ordered() -> None:
    failure = common_pb2.Failure(code="FED-2108", what="x")
    failure.retry.delay_min_ms, failure.retry.delay_max_ms = 2**63, 5
    back = error_from(_failed(failure.SerializeToString()))
    assert isinstance(back, errors.OverloadedError)
    assert back.retry == (86_400_000, 86_400_000)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeviceTimeoutError),
        (grpc.StatusCode.CANCELLED, errors.UnreachableError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.ServerVersionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RefusedError),
        (grpc.StatusCode.INTERNAL, RefusedError),
        (None, RefusedError),
    ],
)
def test_without_a_failure_the_status_says_what_happened(
    code: grpc.StatusCode | None, found: type[FedcoreError]
) -> None:
    for metadata in ((), None, (("other", "x"), (FAILURE_KEY, "text"))):
        back = error_from(Failed(code, "Socket\x1b[31m closed", metadata))
        assert type(back) is found
        assert "\x1b" not in str(back)
    assert "Socket" in error_from(Failed(code, "Socket closed")).why
    assert isinstance(error_from(Failed(code, None)), FedcoreError)


def test_every_class_that_travels_can_be_made_from_its_texts() -> None:
    for found in STATUS:
        parameters = inspect.signature(found).parameters
        assert {"what", "why", "fix"} <= set(parameters)


def _failed(raw: bytes) -> grpc.RpcError:
    return Failed(grpc.StatusCode.PERMISSION_DENIED, "details", ((FAILURE_KEY, raw),))
