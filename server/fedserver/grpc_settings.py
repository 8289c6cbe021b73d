"""What gRPC takes from the environment alone, and only before it is loaded.

It has no setting for the least version of TLS. So TLS 1.2 is left with one cipher, for certificates
of RSA, which this server does not have; the ciphers of TLS 1.3 are not in that list and stay. Who
offers only 1.2 is refused in the handshake. And what gRPC writes itself would stand between the
lines of the log, one for every scanner that knocks.
"""

from __future__ import annotations

import os
import sys

from fedcore.errors import ServerError

__all__ = ["set_grpc"]


def set_grpc() -> None:
    """Sets the environment of this process for gRPC. Raises: ServerError if that was loaded."""
    if "grpc" in sys.modules:
        raise ServerError(
            "gRPC was loaded before it was set",
            why="it reads the environment once, and would serve TLS 1.2",
            fix="import nothing that needs gRPC before the server is started",
        )
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
