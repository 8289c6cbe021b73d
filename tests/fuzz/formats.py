"""The formats that are read from files, terminals and networks, each as a target.

What is read must be written again as it was: a second form of the same would be a way around
whatever compares digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from fedcore.autograd.ravel import ravel
from fedcore.checkpoint import array_places, load_checkpoint
from fedcore.errors import TaskError
from fedcore.federated.task import Task
from fedcore.model_format import encode_model, read_model
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_records import read_chain
from fedcore.privacy.plan import PrivacyPlan
from fedcore.secagg.messages import decode, encode
from fedcore.tensor.tensor import tensor
from fedcore.wire.joining import JoinString
from fedsim.scenario import Scenario
from tests.fuzz.judge import Finding, Target

__all__ = ["FORMATS", "chained", "small_model"]

_THETA, _REBUILD = ravel({"bias": tensor([3.0]), "weight": tensor([[1.0, 2.0]])})
_GENESIS = hashlib.sha256(b"fedcore privacy ledger 1").digest()


def small_model() -> bytes:
    """A model file that `models` takes whole."""
    pieces = encode_model(
        _THETA.numpy(), _REBUILD.spec, metadata={"round": "7", "parent": "\u00e9"}
    )
    return b"".join(bytes(piece) for piece in pieces)


def models(data: bytes) -> None:
    """A model of the canonical form: what is taken is written with the same bytes."""
    found = read_model(io.BytesIO(data), _REBUILD.spec)
    written = encode_model(found.vector, _REBUILD.spec, metadata=found.metadata)
    _same(data, b"".join(bytes(piece) for piece in written))


def checkpoints(data: bytes) -> None:
    """A safetensors file of anybody, of which the header is read before anything else."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors", dir=_memory()) as file:
        file.write(data)
        file.flush()
        array_places(file.name)
        load_checkpoint(file.name)


def tasks(data: bytes) -> None:
    """A task as people write it."""
    Task.from_toml(_text(data))


def canonical_tasks(data: bytes) -> None:
    """A task as it comes from a network: its digest is of these very bytes."""
    _same(data, Task.from_canonical(data).canonical)


def scenarios(data: bytes) -> None:
    """A scenario as people write it, up to the point where a model would be built."""
    built = TaskError("nothing is built here")
    with mock.patch.object(Task, "resolved", side_effect=built):
        Scenario.from_toml(_text(data) + "\n")


def join_strings(data: bytes) -> None:
    """A join string as somebody pasted it."""
    text = data.decode("utf-8", "surrogateescape")  # as Python decodes what a terminal gives it
    written = JoinString.parse(text).encode()
    _same(text.strip().encode(), written.encode())


def secagg_messages(data: bytes) -> None:
    """A message of secure aggregation, of which there is one encoding."""
    _same(data, encode(decode(data)))


def ledgers(data: bytes) -> None:
    """A file of the privacy ledger, and what its records amount to."""
    History(read_chain(data))


def ledger_records(data: bytes) -> None:
    """Records whose chain holds: who wrote them could have hashed them too."""
    History(read_chain(chained(data.split(b"\n"))))


def plans(data: bytes) -> None:
    """A plan as it stands in tasks."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):  # of the standard library, before any code of ours
        return
    PrivacyPlan.from_json(parsed)


def chained(texts: Sequence[bytes]) -> bytes:
    """The lines of a ledger file, each with the hash that belongs there."""
    lines, digest = [], _GENESIS
    for text in texts:
        digest = hashlib.sha256(digest + text).digest()
        lines.append(text + b" " + digest.hex().encode() + b"\n")
    return b"".join(lines)


FORMATS = [
    Target("models", models),
    Target("checkpoints", checkpoints),
    Target("tasks", tasks),
    Target("canonical_tasks", canonical_tasks),
    Target("scenarios", scenarios),
    Target("join_strings", join_strings),
    Target("secagg_messages", secagg_messages),
    Target("ledgers", ledgers),
    Target("ledger_records", ledger_records),
    Target("plans", plans),
]


def _text(data: bytes) -> str:
    """Files are decoded before they are parsed."""
    return data.decode("utf-8", "replace")


def _same(given: bytes, written: bytes) -> None:
    if given != written:
        raise Finding(f"{given!r} was taken, and is written as {written!r}")


def _memory() -> str | None:
    """Where files need no disk, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
