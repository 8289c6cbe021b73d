"""A first model larger than a message goes up before its task, over real TLS, and nothing twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.checkpoint import save_checkpoint
from fedcore.errors import (
    CheckpointError,
    FedcoreError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UploadError,
)
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import encode_model
from fedcore.v1 import admin_service_pb2
from fedcore.wire.transfer import CHUNK_BYTES
from fedserver.admin.connection import Connection, connected
from fedserver.admin.first_model import FirstModel, first_model
from fedserver.admin.model_upload import upload
from fedserver.admin.submission import submission_of
from fedserver.admin.user import User
from fedserver.model_files import load_model
from tests.server.admin.conftest import Training, training_in
from tests.server.federation.world import World
from tests.server.own_program import own_program_task
from tests.variants import mostly_slow

ROWS = 1_310  # of 1,000 parameters: five pieces, the last of them short
TASK = own_program_task(rows=ROWS)
VECTOR = np.arange(1000 * (ROWS + 1), dtype=np.float32)


class Chunks:
    """What a server took of first models: where each Begin said to go on, and all chunks since."""

    def __init__(self, training: Training) -> None:
        self.runs: list[tuple[int, list[int]]] = []
        self.faults: list[tuple[int, BaseException]] = []  # of each run, behind so many chunks
        self._under_way = 0
        federation: Any = training.federation
        self._begin, self._put = federation.begin_model, federation.put_model_chunk
        federation.begin_model, federation.put_model_chunk = self.begin, self.put

    async def begin(self, *given: Any, **options: Any) -> Any:
        progress = await self._begin(*given, **options)
        self.runs.append((progress.committed_offset, []))
        return progress

    async def put(self, *given: Any, offset: int, **options: Any) -> Any:
        run, (start, taken) = len(self.runs) - 1, self.runs[-1]
        if run < len(self.faults):
            most, fault = self.faults[run]
            if offset >= start + most * CHUNK_BYTES:
                # Those before it may come later; and who hears of the fault may cancel them.
                while len(taken) < most or self._under_way:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                raise fault
        taken.append(offset)
        self._under_way += 1
        try:
            return await self._put(*given, offset=offset, **options)
        finally:
            self._under_way -= 1

    def check(self, size: int) -> None:
        """Each run began where the server said, and sent every piece from there on but once."""
        for start, taken in self.runs:
            assert sorted(taken) == list(range(start, size, CHUNK_BYTES))[: len(taken)]
        assert sorted({offset for _, taken in self.runs for offset in taken}) == list(
            range(0, size, CHUNK_BYTES)
        )


@pytest.fixture
def chunks(training: Training) -> Chunks:
    return Chunks(training)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(TASK)
    return path


@pytest.fixture
def task(task_file: Path) -> Task:
    return Task.from_toml(task_file).resolved()


@pytest.fixture
def model(tmp_path: Path, task: Task) -> Path:
    path = tmp_path / "first.safetensors"
    path.write_bytes(b"".join(encode_model(VECTOR, parameters_of(task), metadata={})))
    return path


async def begun_with(training: Training, task: Task, digest: str) -> Any:
    """The vector of a model that the server keeps."""
    return (await load_model(training.blobs, bytes.fromhex(digest), parameters_of(task)))[0]


async def asked(training: Training, work: Callable[[Connection], Any]) -> Any:
    """What `work` does with a connection of the researcher."""

    def run() -> Any:
        with connected(User.open(training.profile)) as server:
            server.pause = lambda error, attempt: None  # type: ignore[method-assign]
            return work(server)

    return await asyncio.to_thread(run)


def change(path: Path) -> None:
    """Its last byte."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


@pytest.mark.parametrize("sorted_by_name", mostly_slow([True, False]))
async def test_a_model_of_five_megabytes_begins_a_task_in_whichever_order_it_was_saved(
    fed: Any,
    training: Training,
    chunks: Chunks,
    task_file: Path,
    task: Task,
    model: Path,
    sorted_by_name: bool,
) -> None:
    if sorted_by_name:
        save_checkpoint(model, parameters_of(task).split(VECTOR))
    submitted = await fed(
        "task", "submit", task_file, "-v", "--format", "json", "--model", model,
        profile=training.profile,
    )  # fmt: skip
    assert submitted.code == 0, submitted.err
    assert np.array_equal(await begun_with(training, task, submitted.data["model"]), VECTOR)
    chunks.check(_file(task, model).size)
    assert len(chunks.runs) == 1 and "first model: " in submitted.err


async def test_a_command_that_broke_goes_on_at_the_committed_offset(
    fed: Any, training: Training, chunks: Chunks, task_file: Path, task: Task, model: Path
) -> None:
    chunks.faults = [(3, RuntimeError("a bug"))]
    submit = ("task", "submit", task_file, "--format", "json", "--model", model)
    broken = await fed(*submit, profile=training.profile)
    assert broken.code == 1 and "the server failed" in broken.err
    done = await fed(*submit, profile=training.profile)
    assert done.code == 0, done.err
    assert [start for start, _ in chunks.runs] == [0, 3 * CHUNK_BYTES]
    chunks.check(_file(task, model).size)
    assert np.array_equal(await begun_with(training, task, done.data["model"]), VECTOR)


async def test_a_refusal_that_passes_is_waited_for_while_the_upload_gets_on(
    training: Training, chunks: Chunks, task: Task, model: Path
) -> None:
    busy = OverloadedError("no memory", retry=(1, 2))
    lost = NotFoundError("the upload is not open")  # as after a restart of the server
    chunks.faults = [(1, busy), (1, lost), (0, busy), (1, busy)]
    await asked(training, lambda server: upload(server, _file(task, model)))
    assert [start // CHUNK_BYTES for start, _ in chunks.runs] == [0, 1, 2, 2, 3]
    chunks.check(_file(task, model).size)
    # What is sealed is not sent again.
    await asked(training, lambda server: upload(server, _file(task, model)))
    assert chunks.runs[-1][1] == []


async def test_an_upload_that_does_not_get_on_ends_with_the_servers_word(
    training: Training, chunks: Chunks, task: Task, model: Path
) -> None:
    chunks.faults = 9 * [(0, OverloadedError("no memory", retry=(1, 2)))]
    with pytest.raises(OverloadedError, match="no memory"):
        await asked(training, lambda server: upload(server, _file(task, model)))
    assert chunks.runs == [(0, [])] * 3


async def test_a_model_that_is_too_large_is_refused_before_a_byte_is_sent(
    fed: Any,
    authority: Any,
    task_file: Path,
    task: Task,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(World, "largest_model", _file(task, model).size - 1)
    async with training_in(tmp_path, authority) as training:
        chunks = Chunks(training)
        refused = await fed("task", "submit", task_file, "--model", model, profile=training.profile)
        assert refused.code == 1 and UploadError.code in refused.err
        assert "too large" in refused.err
        assert chunks.runs == [] and await training.store.tasks() == ()


async def test_a_file_that_changes_on_the_way_is_no_model(
    training: Training, task: Task, model: Path
) -> None:
    first = _file(task, model)
    change(model)
    with pytest.raises(UploadError, match="another digest"):
        await asked(training, lambda server: upload(server, first))
    assert await training.store.tasks() == ()


async def test_the_server_itself_refuses_the_model_of_another_task_by_its_sort(
    training: Training, task: Task, model: Path
) -> None:
    first = _file(task, model)
    other = Task.from_toml(TASK.replace("[1000]", "[10, 100]")).resolved()

    def submit(server: Connection) -> None:
        upload(server, first)
        payload = submission_of(other, first, server.user.profile)
        assert payload.model == b"" and payload.model_sha256 == first.sha256
        request = admin_service_pb2.SubmitTaskRequest(
            submission=server.signed("SubmitTask", payload)
        )
        server.order(server.admin.SubmitTask, request)

    with pytest.raises(CheckpointError, match="not of the expected model"):
        await asked(training, submit)


async def test_a_submission_whose_digest_was_changed_on_the_way_is_refused(
    training: Training, task: Task, model: Path
) -> None:
    first = _file(task, model)

    def submit(server: Connection) -> None:
        payload = submission_of(task, first, server.user.profile)
        envelope = server.signed("SubmitTask", payload)
        payload.model_sha256 = bytes(32)
        envelope.payload = payload.SerializeToString(deterministic=True)
        request = admin_service_pb2.SubmitTaskRequest(submission=envelope)
        server.order(server.admin.SubmitTask, request)

    with pytest.raises(FedcoreError, match="signed message is not valid") as found:
        await asked(training, submit)
    assert not isinstance(found.value, InvalidRequestError)


async def test_who_may_not_submit_sends_no_model(
    fed: Any, canned: Any, task_file: Path, model: Path
) -> None:
    for role in ("viewer", "operator", "auditor"):
        profile = canned.profile(role)
        refused = await fed("task", "submit", task_file, "--model", model, profile=profile)
        assert refused.code == 2 and "FED-2102" in refused.err, role
    assert canned.federation.calls == []
    await fed("task", "submit", task_file, "--model", model, profile=canned.profile("researcher"))
    assert {"begin_model", "put_model_chunk", "commit_model", "submit"} <= {
        name for name, _ in canned.federation.calls
    }


def _file(task: Task, path: Path) -> FirstModel:
    found = first_model(task, path)
    assert found is not None
    return found
