"""How connections behave: small messages, few pings, and retries only where they help.

The figures are decided once, because both ends must agree: a client that pings more often than its
server allows is cut off, and a retry of "too large" would never end.
"""

from __future__ import annotations

import json
from typing import Final, TypeAlias

__all__ = [
    "CLIENT_RECEIVES_BYTES",
    "ENROLMENT_RECEIVES_BYTES",
    "LONGEST_MESSAGE_S",
    "LONGEST_WAIT_S",
    "METADATA_BYTES",
    "SERVER_RECEIVES_BYTES",
    "Options",
    "client_options",
    "server_options",
    "service_config",
]

Options: TypeAlias = "tuple[tuple[str, int | str], ...]"

# A piece of 1 MiB and its envelope; the client also takes the messages of a secure aggregation.
SERVER_RECEIVES_BYTES: Final = 2 << 20
CLIENT_RECEIVES_BYTES: Final = 4 << 20
# What strangers have sent of a message is in memory before anybody is asked who they are.
ENROLMENT_RECEIVES_BYTES: Final = 64 << 10
METADATA_BYTES: Final = 8 << 10
# Of `RoundService.Next`: shorter than the idle time after which balancers cut connections.
LONGEST_WAIT_S: Final = 20
# A message that is not whole by then is refused, and given up by the device that sends it.
LONGEST_MESSAGE_S: Final = 60

# More calls than one core reads in that time.
_UNHEARD: Final = 20_000
_MAX_AGE_MS: Final = 30 * 60 * 1000
_SERVICES: Final = (
    "Client",
    "Round",
    "SecAgg",
    "Model",
    "Upload",
    "ModelUpload",
    "Admin",
    "Enrolment",
)


def client_options(*, retries: bool = True) -> Options:
    """Options of a client's channel. `retries`: by gRPC itself, of calls that are UNAVAILABLE.

    >>> dict(client_options())["grpc.keepalive_time_ms"]
    25000
    """
    options: Options = (
        ("grpc.max_receive_message_length", CLIENT_RECEIVES_BYTES),
        ("grpc.max_send_message_length", SERVER_RECEIVES_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES),
        # A connection that brings nothing back is left in 55 s: in default tasks a device that is
        # silent for a minute is given up.
        ("grpc.keepalive_time_ms", 25_000),
        *_unanswered(30_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.enable_retries", int(retries)),
    )
    return (*options, ("grpc.service_config", service_config())) if retries else options


def server_options(
    *,
    jitter: float = 0.0,
    concurrent_streams: int = 100,
    connections: int = 15_000,
    receives_bytes: int = SERVER_RECEIVES_BYTES,
    unheard_s: int = 3,
) -> Options:
    """Options of a server's port.

    `jitter`: 0 … 1, drawn by the caller, spreads the ends of connections over a tenth of their age,
    so that the clients of one moment do not all come back in one moment.
    `concurrent_streams`: of one connection. `connections`: at once; more are closed unheard. Who
    has shown no certificate in 20 s, or answers no ping, makes room for others. `receives_bytes`:
    of the largest message that is taken. `unheard_s`: a call that Python has not got to by then is
    given up, as CANCELLED.
    """
    return (
        ("grpc.max_receive_message_length", receives_bytes),
        ("grpc.max_send_message_length", CLIENT_RECEIVES_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.max_concurrent_streams", concurrent_streams),
        # gRPC hands out the oldest call first: of three times as many as can be served, each would
        # come when its sender has given up. To keep them costs 12 KB each. Else gRPC ends some at
        # once from 1,000 on, which costs more: 0.69 to 0.75 of the most were answered, now 0.79
        # to 0.85.
        ("grpc.server_max_unrequested_time_in_server", unheard_s),
        ("grpc.server.max_pending_requests", _UNHEARD),
        ("grpc.server.max_pending_requests_hard_limit", _UNHEARD),
        # Of a message that nobody reads yet so much may come. Else gRPC takes what the line brings:
        # of 500 messages of 2 MiB, none of them read, 1,020 MiB in 15 s, and so 42.
        ("grpc.http2.lookahead_bytes", 64 << 10),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", 20_000),
        ("grpc.keepalive_time_ms", 120_000),
        *_unanswered(60_000),
        # Also of peers that ask nothing: one that vanished would be held until its age ends it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.max_connection_age_ms", int(_MAX_AGE_MS * (1 + 0.1 * jitter))),
        ("grpc.max_connection_age_grace_ms", 5 * 60 * 1000),
        ("grpc.so_reuseport", 0),
    )


def _unanswered(timeout_ms: int) -> Options:
    """How long a ping may be without an answer, which waits behind what a slow line still carries.

    In gRPC 1.85 the second decides, and is a minute by default.
    """
    return (
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
    )


def service_config() -> str:
    """The service configuration of gRPC as JSON: what it repeats by itself.

    UNAVAILABLE alone: RESOURCE_EXHAUSTED also says that a message is too large.
    """
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.2s",
        "maxBackoff": "10s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [{"service": f"fedcore.v1.{name}Service"} for name in _SERVICES]
    return json.dumps(
        {
            "methodConfig": [{"name": names, "retryPolicy": policy}],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        },
        sort_keys=True,
    )
