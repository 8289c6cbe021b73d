"""Updates on their way up: begun, sent in chunks, sealed; only the seal acknowledges one."""

from __future__ import annotations

from collections.abc import Mapping

from fedcore.rounds import Arrived, Phase
from fedcore.secagg.messages import UploadHeader
from fedserver.authorisation import Caller
from fedserver.federation.attempt import Attempt
from fedserver.federation.hosting import unknown
from fedserver.federation.interface import ModelChunk, ModelProgress, UploadProgress
from fedserver.federation.parts import Parts, require_open, untimely
from fedserver.spool import SealedUpload
from fedserver.store.records import RoundRef

__all__ = ["Uploads"]

_REMEMBERED = 256  # more models than are fetched at once


class Uploads(Parts):
    """What moves bytes. A model's size is remembered, for it is asked for every chunk."""

    _sizes: dict[tuple[str, bytes], int]

    async def begin_upload(
        self, caller: Caller, assignment_id: bytes, /, *, size: int, header: UploadHeader | None
    ) -> UploadProgress:
        """Opens an assignment's upload, or finds it again. Raises: UploadError for its size."""
        assignment = await self._assignment(caller, assignment_id)
        attempt = self._collecting(assignment.ref, caller.id)
        attempt.reports.require_size(size)
        if (header is None) is not (attempt.masked is None):
            raise untimely(attempt, "masked updates begin with a header, and no others do")
        if attempt.masked is not None and header is not None:
            await attempt.keep(attempt.masked.take(caller.id, header))
        upload = await attempt.durable(
            self._store.begin_upload(
                assignment_id,
                self._resources.entropy.token(16),
                size=size,
                header=b"" if header is None else header.context,
            )
        )
        attempt.reports.own(upload.upload_id, caller.id)
        progress = await self._spool.open(upload.upload_id, size, key=attempt.reports.key)
        attempt.reports.begin(caller.id)
        sealed = caller.id in attempt.reports.clients
        return UploadProgress(upload.upload_id, progress.committed_offset, sealed)

    async def put_chunk(
        self, caller: Caller, upload_id: bytes, /, *, offset: int, crc32: int, data: bytes
    ) -> int:
        """Takes a chunk, and returns how many bytes from the beginning are durable."""
        ref = await self._round_of(caller, upload_id)
        self._collecting(ref, caller.id).cohort.hear(caller.id)
        committed = await self._spool.put(upload_id, offset, crc32, data)
        self._resources.metrics.upload_bytes.inc(len(data))
        return committed

    async def commit_upload(
        self, caller: Caller, upload_id: bytes, /, *, size: int, sha256: bytes
    ) -> None:
        """Seals an upload: when it returns, the update is acknowledged."""
        ref = await self._round_of(caller, upload_id)
        attempt = self._collecting(ref, caller.id)
        attempt.reports.require_size(size)
        if not self._spool.knows(upload_id):  # as after a restart
            await self._spool.open(upload_id, size, key=attempt.reports.key)
        await self._spool.seal(upload_id, size, sha256)
        # The phase may have been closed meanwhile; from here to its counting it cannot be.
        self._collecting(ref, caller.id)
        await attempt.durable(self._seal(attempt, caller.id, upload_id, size, sha256))

    async def begin_model(self, caller: Caller, sha256: bytes, /, *, size: int) -> ModelProgress:
        """Opens a first model's upload, or finds it again. Raises: UploadError for its size."""
        progress = await self._resources.staging.begin(caller, sha256, size)
        return ModelProgress(progress.committed_offset, progress.sealed)

    async def put_model_chunk(
        self, caller: Caller, sha256: bytes, /, *, offset: int, crc32: int, data: bytes
    ) -> int:
        """Takes a chunk, and returns how many bytes from the beginning are durable."""
        staging = self._resources.staging
        committed = await staging.put(caller, sha256, offset=offset, crc32=crc32, data=data)
        self._resources.metrics.upload_bytes.inc(len(data))
        return committed

    async def commit_model(self, caller: Caller, sha256: bytes, /, *, size: int) -> None:
        """Seals the upload of a first model: when it returns, a submission may name it."""
        await self._resources.staging.seal(caller, sha256, size)

    async def model_chunk(
        self, caller: Caller, digest: bytes, /, *, offset: int, length: int
    ) -> ModelChunk:
        """At most `length` bytes of a model that the caller may see."""
        size = self._sizes.get((caller.tenant, digest))
        if size is None:
            size = (await self.model(caller, digest)).size
            if len(self._sizes) >= _REMEMBERED:
                self._sizes.clear()
            self._sizes[caller.tenant, digest] = size
        data = await self._blobs.read(digest, offset, length)
        self._resources.metrics.download_bytes.inc(len(data))
        return ModelChunk(data, size)

    async def _seal(
        self, attempt: Attempt, client: bytes, upload_id: bytes, size: int, sha256: bytes
    ) -> None:
        records: Mapping[str, bytes] = {}
        if attempt.masked is not None:
            records = attempt.masked.finish(client, sha256=sha256, size=size)

        async def seal(records: Mapping[str, bytes]) -> None:
            # A driver that took the lease meanwhile has read without this one what is in the sum.
            token = attempt.journal.lease().token
            await self._store.seal_upload(upload_id, sha256, session=records, lease_token=token)

        await attempt.unwritten.write(records, seal)
        if client not in attempt.reports.clients:
            attempt.reports.seal(client, SealedUpload(upload_id, sha256))
        attempt.post(Arrived(self._resources.clock(), Phase.COLLECTING, client))

    async def _round_of(self, caller: Caller, upload_id: bytes) -> RoundRef:
        """The round that a client's upload is for, if this server drives it."""
        ref = self._known_round_of(caller, upload_id)
        if ref is None:
            upload = await self._store.upload(upload_id)
            if upload is None or upload.client_id != caller.id:
                raise unknown("upload")
            ref = upload.ref
            if (attempt := self._attempt(ref)) is not None:
                attempt.reports.own(upload_id, caller.id)
        await self._require_here(caller, ref.task_id)
        return ref

    def _known_round_of(self, caller: Caller, upload_id: bytes) -> RoundRef | None:
        for driver in self._drivers.values():
            attempt = driver.attempt
            if attempt is not None and attempt.reports.owner(upload_id) == caller.id:
                return attempt.ref
        return None

    def _collecting(self, ref: RoundRef, client: bytes) -> Attempt:
        """The attempt, while it takes the client's update. Raises: PhaseError."""
        attempt = self._required(ref)
        require_open(attempt)
        if not attempt.state.takes(Phase.COLLECTING, client):
            raise untimely(attempt, "no update of this client is awaited")
        return attempt
