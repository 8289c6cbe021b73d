"""Many clients of a masked round in one process, each with a connection of its own.

python -m benchmarks.federation.crowd FOLDER ADDRESS FIRST LAST   # of the clients in the folder

It says "ready" once all are connected, begins at a line on its standard input, and then prints
what came of it as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.federation import passed_on
from benchmarks.federation.calls import Calls
from benchmarks.federation.connections import connected
from benchmarks.federation.masked_part import MaskedPart, Workbench

__all__ = ["Outcome", "main"]


@dataclass(frozen=True)
class Outcome:
    """What came of a part of the crowd; what is of its calls as in `Calls`.

    `digests`: of the model, as clients heard it, in hexadecimal digits. `work_s`: what training
    and masking took of a processor, beside all that has to do with the wire.
    """

    digests: Sequence[str]
    work_s: float
    seconds: Mapping[str, Sequence[float]]
    sent: int
    received: int
    refused: int
    bare: int


async def main(folder: Path, address: str, first: int, last: int) -> Outcome:
    """The clients from number `first` to `last` - 1, until their round is over."""
    given, calls = passed_on.read(folder), Calls()
    bench, devices = Workbench(given.task, registrar=given.registrar), given.devices[first:last]
    async with connected(address, devices, given.root) as channels:
        parts = [
            MaskedPart(device, channel, calls, bench)
            for device, channel in zip(devices, channels, strict=True)
        ]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        digests = await asyncio.gather(*(part.take_part() for part in parts))
    return Outcome(
        sorted({digest.hex() for digest in digests}),
        bench.spent_s,
        dict(calls.seconds),
        calls.sent,
        calls.received,
        calls.refused,
        calls.bare,
    )


if __name__ == "__main__":
    _, where, server, *numbers = sys.argv
    print(json.dumps(asdict(asyncio.run(main(Path(where), server, *map(int, numbers))))))
