"""What a server could do at most: the same port and certificates, and a handler that does nothing.

python -m benchmarks.federation.empty_server FOLDER   # of a `Stage`; prints its address
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from fedserver.authority import Authority
from fedserver.ports import Credentials, Port
from fedserver.serving import SERVICES
from fedserver.turns import wait_for_turns

__all__ = ["main"]


async def _nothing(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return b""


async def main(folder: Path) -> None:
    """Answers until it is killed."""
    authority = Authority.open(folder / "authority")
    certificate = authority.server_certificate(["localhost"], now=int(time.time()))
    credentials = Credentials(certificate, root_pem=authority.root_pem)
    port = Port("127.0.0.1", 0, credentials, rpcs=10_000, connections=10_000)
    handler = grpc.unary_unary_rpc_method_handler(_nothing)
    port.serve(
        {
            service.full_name: {method.name: handler for method in service.methods}
            for service in SERVICES.values()
        }
    )
    await port.start()
    print(f"localhost:{port.number}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    wait_for_turns()  # as the server does
    asyncio.run(main(Path(sys.argv[1])))
