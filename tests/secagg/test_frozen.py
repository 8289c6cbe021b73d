"""Version 1 of the protocol gives these bytes for ever: known answers, ours as none are published.

`frozen.json` is written by `write`, and may be written again in one case only: `VERSION` has gone
up, so that no two releases that speak the same version differ by a bit. To do so, run

    .venv/bin/python -c "import pytest; from tests.secagg.test_frozen import write; write()"

and see that the reference agrees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from fedcore.secagg.config import SessionConfig
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.messages import VERSION, UnmaskAnswer, decode
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import Profile
from fedcore.secagg.prg import Prg
from tests.secagg.conversation import converse, replay
from tests.variants import mostly_slow

T = TypeVar("T")
FROZEN = Path(__file__).with_name("frozen.json")
TASK, MODEL = hashlib.sha256(b"task").digest(), hashlib.sha256(b"model").digest()
LAYOUT = Layout((Block(9, 21, 2**9), Block(5, 16, 2**8), Block(4, 37, 2**29), Block(2, 64, 2**40)))
CASES: dict[str, tuple[int, SessionConfig, dict[int, LostAt]]] = {
    "five, malicious, AES": (
        5,
        SessionConfig(task=TASK, layout=LAYOUT, delta=Fraction(1, 4), clipping_norm=1.5),
        {1: LostAt.UPLOAD},
    ),
    "five, semi-honest, ChaCha20": (
        5,
        SessionConfig(
            task=TASK,
            layout=LAYOUT,
            profile=Profile.SEMI_HONEST,
            prg=Prg.CHACHA20,
            delta=Fraction(1, 4),
            sigma=40,
            noise_multiplier=0.5,
        ),
        {2: LostAt.UPLOADING, 3: LostAt.ANSWER},
    ),
    "ring of 65": (
        65,
        SessionConfig(
            task=TASK, layout=LAYOUT, gamma=Fraction(1, 50), delta=Fraction(1, 16), eta=20
        ),
        {7: LostAt.SHARES, 9: LostAt.UPLOAD, 50: LostAt.CONFIRMATION, 64: LostAt.ANSWER},
    ),
}


def held_by(hold: Callable[..., T], case: str) -> T:
    """The session of a case, held by the machines or by the reference."""
    n, config, lost = CASES[case]
    vectors = [[integers(block, i) for block in config.layout.blocks] for i in range(n)]
    terms: Any = {"model_digest": MODEL, "round": 1}
    return hold(config, vectors, seed=case.encode(), lost=lost, **terms)


def answers(case: str) -> dict[str, Any]:
    """What a session of fixed seeds comes to; long values by their SHA-256."""
    talk = held_by(converse, case)
    assert talk.error is None and not talk.refused
    roster, collected = talk.server.roster, talk.server._frozen
    p = roster.parameters
    sent = [[decode(data) for data in messages] for messages in talk.messages]
    revealed = {i: m for i, of in enumerate(sent) for m in of if isinstance(m, UnmaskAnswer)}
    first = min(revealed)
    uploads = [b"".join(d[46:] for d in messages if d[1] == 7) for messages in talk.messages]
    digests = [[f"{data[1]}:{sha(data)}" for data in messages] for messages in talk.messages]
    return {
        "version": VERSION,
        "sid": roster.sid.hex(),
        "root": roster.root.hex(),
        "parameters": [p.corrupt, p.dropouts, p.quorum, p.degree, p.window, p.threshold],
        "ring": roster.graph.order.tolist(),
        "context": collected.context.hex(),
        "T": collected.survivors_digest.hex(),
        "halves of shares that the first client reveals": [
            revealed[first].shares[36 * place :][:36].hex()
            for place in range(min(4, len(revealed[first].shares) // 36))
        ],
        "y of the first survivor": uploads[first].hex(),
        "y": [sha(upload) for upload in uploads],
        "messages": digests if roster.n < 10 else [sha("".join(of).encode()) for of in digests],
        "sum": talk.sum,
    }


def integers(block: Block, i: int) -> npt.NDArray[np.int64]:
    """Client i's integers of a block: a walk over all that its limit allows."""
    walk = 7919 * (np.arange(block.length) + 1) * (i + 3)
    return walk * (block.limit // 5 + 1) % (2 * block.limit + 1) - block.limit


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write() -> None:
    """Freeze anew. Read the head of this file first."""
    known = {case: answers(case) for case in CASES}
    FROZEN.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_version_1_gives_the_bytes_that_it_always_gave(case: str) -> None:
    known = json.loads(FROZEN.read_text(encoding="utf-8"))[case]
    found = answers(case)
    assert known.keys() == found.keys()
    for name, value in known.items():  # in the order in which one follows from another
        assert found[name] == value, name


@pytest.mark.parametrize("case", mostly_slow(CASES))
def test_the_reference_gives_the_same_bytes(case: str) -> None:
    machines, reference = held_by(converse, case), held_by(replay, case)
    assert machines.messages == reference.messages
    assert machines.sum == reference.sum
