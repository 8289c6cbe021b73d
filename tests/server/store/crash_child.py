"""A process to be killed: it does acts, and tells of each that was acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from fedcore.failpoints import arm
from fedserver.store.opening import open_store
from fedserver.store.postgres.address import Database, PostgresAddress
from fedserver.store.records import AuditEntry, Idempotency, TokenRecord


async def main(database: Database, first: int, lanes: int, failpoints: str) -> None:
    store = await open_store(database, keys=[bytes(32)])
    if failpoints:
        arm(failpoints, test_mode=True)

    async def act(number: int) -> None:
        name = hashlib.sha256(str(number).encode()).digest()
        await store.create_token(
            TokenRecord(name, "acme", number, 2**50),
            audit=AuditEntry("user:ada", "token.create", str(number)),
            idempotency=Idempotency("user:ada", "CreateToken", name[:16], name, b"answer"),
        )
        print(number, flush=True)

    print("ready", flush=True)
    number = first
    while True:  # until it is killed
        await asyncio.gather(*(act(number + lane) for lane in range(lanes)))
        number += lanes


if __name__ == "__main__":
    name = sys.argv[1]
    database = PostgresAddress(name) if name.startswith("postgresql:") else Path(name)
    asyncio.run(main(database, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
