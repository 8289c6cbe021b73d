"""The two ends of a connection agree on how it behaves; gRPC takes every option."""

from __future__ import annotations

import json

from fedcore.federated.spec import DeadlineSpec
from fedcore.v1 import (
    admin_service_pb2,
    client_service_pb2,
    enrolment_service_pb2,
    model_service_pb2,
    model_upload_service_pb2,
    round_service_pb2,
    secagg_service_pb2,
    upload_service_pb2,
)
from fedcore.wire.channels import client_options, server_options, service_config
from fedcore.wire.transfer import CHUNK_BYTES

FILES = (
    admin_service_pb2,
    client_service_pb2,
    enrolment_service_pb2,
    model_service_pb2,
    model_upload_service_pb2,
    round_service_pb2,
    secagg_service_pb2,
    upload_service_pb2,
)


def test_a_chunk_and_its_envelope_fit_into_a_message() -> None:
    assert dict(server_options())["grpc.max_receive_message_length"] > CHUNK_BYTES + 65_536  # type: ignore[operator]


def test_each_end_sends_no_more_than_the_other_takes() -> None:
    client, server = dict(client_options()), dict(server_options())
    for ours, theirs in ((client, server), (server, client)):
        assert ours["grpc.max_send_message_length"] == theirs["grpc.max_receive_message_length"]


def test_a_client_pings_less_often_than_its_server_allows() -> None:
    pings = dict(client_options())["grpc.keepalive_time_ms"]
    allowed = dict(server_options())["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert pings >= 2 * allowed  # type: ignore[operator]


def test_a_connection_that_is_dead_is_left_before_a_device_is_given_up() -> None:
    client, server = dict(client_options()), dict(server_options())
    deadlines = DeadlineSpec()
    patience_ms = 1000 * deadlines.heartbeat_s * deadlines.patience
    noticed_ms = client["grpc.keepalive_time_ms"] + client["grpc.http2.ping_timeout_ms"]  # type: ignore[operator]
    assert noticed_ms < patience_ms
    for options in (client, server):
        assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"]


def test_retries_are_for_every_service_and_for_unavailable_alone() -> None:
    config = json.loads(service_config())
    (methods,) = config["methodConfig"]
    services = {name for file in FILES for name in file.DESCRIPTOR.services_by_name}
    assert {name["service"] for name in methods["name"]} == {f"fedcore.v1.{s}" for s in services}
    assert methods["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "grpc.service_config" not in dict(client_options(retries=False))


def test_connections_do_not_all_end_at_one_moment() -> None:
    ages = {dict(server_options(jitter=j))["grpc.max_connection_age_ms"] for j in (0.0, 0.5, 1.0)}
    assert ages == {1_800_000, 1_890_000, 1_980_000}
