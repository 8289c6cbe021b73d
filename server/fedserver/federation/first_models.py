"""The model with which a task begins: as it is handed in, was uploaded before, or is drawn."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from fedcore.autograd.ravel import Spec
from fedcore.errors import InvalidRequestError
from fedcore.federated.models import initial_theta
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedserver.authorisation import Caller
from fedserver.blobs import BlobStore
from fedserver.federation.interface import Submission
from fedserver.model_files import ModelOrigin, import_model, store_model
from fedserver.staging import Staging

__all__ = ["FirstModels"]


class FirstModels:
    """Keeps first models among the blobs, under the origin of their tasks."""

    def __init__(self, blobs: BlobStore, staging: Staging) -> None:
        self._blobs, self._staging = blobs, staging

    async def keep(self, caller: Caller, task: Task, submission: Submission) -> bytes:
        """The digest of a task's first model, which is durable.

        Raises: DataFormatError, CheckpointError for the file of another model; NotFoundError for
        one that the caller did not upload; InvalidRequestError for none, where the task draws none.
        """
        spec = await asyncio.to_thread(parameters_of, task)
        origin = ModelOrigin(task.digest.hex(), 0, b"")
        if submission.model or submission.model_sha256:
            async with self._given(caller, submission) as (file, size):
                return await import_model(self._blobs, file, spec, origin, size=size)
        return await self._drawn(task, spec, origin)

    async def let_go(self, caller: Caller, submission: Submission) -> None:
        """Forgets the uploaded file of a task that was taken."""
        if submission.model_sha256:
            await self._staging.discard(caller, submission.model_sha256)

    @asynccontextmanager
    async def _given(
        self, caller: Caller, submission: Submission
    ) -> AsyncIterator[tuple[BinaryIO, int]]:
        if submission.model_sha256:
            file, size = await self._staging.open_read(caller, submission.model_sha256)
        else:
            file, size = io.BytesIO(submission.model), len(submission.model)
        with file:
            yield file, size

    async def _drawn(self, task: Task, spec: Spec, origin: ModelOrigin) -> bytes:
        if task.model.arrays:
            raise InvalidRequestError(
                "a task whose model is plain arrays comes without a first model",
                why="nobody here knows how its parameters are drawn",
                fix="hand in a safetensors file: fed task submit --model first.safetensors",
            )
        theta = await asyncio.to_thread(initial_theta, task)
        return await store_model(self._blobs, theta, spec, origin)
