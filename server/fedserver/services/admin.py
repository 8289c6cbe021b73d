"""`AdminService`, the mutations: what operators and researchers order, each once and on record.

A mutation is signed for this one server, carries 16 bytes by which a repetition is known, and its
row of the audit log is written in its own transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from fedcore.errors import NotFoundError
from fedcore.v1 import admin_service_pb2
from fedcore.wire.envelope import Place
from fedcore.wire.joining import TOKEN_BYTES, JoinString
from fedserver.audit_heads import AuditHeads
from fedserver.authentication import Authenticator
from fedserver.authorisation import Caller
from fedserver.federation.interface import Federation, Submission
from fedserver.services import fields
from fedserver.services.overview import About, Overview
from fedserver.store.protocol import Store
from fedserver.store.records import AuditEntry, ClientState, Idempotency, TokenRecord

__all__ = ["AdminService", "Invitation"]

_METHOD = "AdminService."
_MOST_USES = 100_000
_LONGEST_LIFE_S = 30 * 24 * 3600
_LARGEST_TASK = 1 << 20
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where clients enrol: `address`, host:port, and SHA-256 of the root certificate's DER."""

    address: str
    authority: bytes

    def with_token(self, token: bytes) -> str:
        """The join string."""
        return JoinString(self.address, self.authority, token).encode()


class AdminService(Overview):
    """Mutations; what is only looked at stands in `Overview`.

    `drain`: makes the server take no new work.
    """

    payloads: Mapping[str, type[Message]] = {
        "Drain": admin_service_pb2.Drain,
        "CreateToken": admin_service_pb2.TokenGrant,
        "RevokeClient": admin_service_pb2.Revocation,
        "SubmitTask": admin_service_pb2.Submission,
        "CancelTask": admin_service_pb2.Cancellation,
    }

    def __init__(
        self,
        store: Store,
        federation: Federation,
        authenticator: Authenticator,
        *,
        about: About,
        invitation: Invitation,
        now_ms: Callable[[], int],
        draining: Callable[[], bool],
        drain: Callable[[], Awaitable[None]],
        audit: AuditHeads,
    ) -> None:
        super().__init__(
            store,
            federation,
            about=about,
            now_ms=now_ms,
            draining=draining,
            audit=audit,
        )
        self._authenticator, self._invitation = authenticator, invitation
        self._drain = drain

    async def place(self, caller: Caller, payload: Message, /) -> Place:
        """Mutations belong to this server, and to no other."""
        return Place(nonce=self._about.server_id)

    async def Drain(
        self, caller: Caller, request: admin_service_pb2.Drain
    ) -> admin_service_pb2.DrainResponse:
        request_id = fields.identifier(request.request_id, "request_id")
        await self._store.append_audit(
            AuditEntry(caller.principal, "server.drain", "", request_id=request_id)
        )
        await self._drain()
        return admin_service_pb2.DrainResponse()

    async def CreateToken(
        self, caller: Caller, request: admin_service_pb2.TokenGrant
    ) -> admin_service_pb2.CreateTokenResponse:
        once = self._once(caller, "CreateToken", request, request.request_id)
        uses = fields.number(request.uses, "uses", least=1, most=_MOST_USES)
        life_s = fields.number(request.lifetime_s, "lifetime_s", least=1, most=_LONGEST_LIFE_S)
        attributes = fields.attributes(request.attributes)
        token = secrets.token_bytes(TOKEN_BYTES)
        token_sha256 = hashlib.sha256(token).digest()
        response = admin_service_pb2.CreateTokenResponse(
            join_string=self._invitation.with_token(token),
            expires_ms=self._now_ms() + life_s * 1000,
        )
        # A repetition gets the first answer, which the store keeps sealed.
        stored = await self._store.create_token(
            TokenRecord(
                token_sha256=token_sha256,
                tenant=caller.tenant,
                max_uses=uses,
                expires_ms=response.expires_ms,
                attributes=attributes,
                created_by=caller.principal,
            ),
            audit=self._entry(caller, "token.create", token_sha256.hex(), once),
            idempotency=replace(once, response=response.SerializeToString()),
        )
        return admin_service_pb2.CreateTokenResponse.FromString(stored.response)

    async def RevokeClient(
        self, caller: Caller, request: admin_service_pb2.Revocation
    ) -> admin_service_pb2.RevokeClientResponse:
        once = self._once(caller, "RevokeClient", request, request.request_id)
        client_id = fields.identifier(request.client_id, "client_id")
        reason = fields.text(request.reason, "reason", empty=False)
        found = await self._store.client(client_id)
        if found is None or found.tenant != caller.tenant:
            raise NotFoundError(
                "there is no such client",
                why="no client of that id is enrolled in your tenant",
                fix="look it up: `fed token clients`",
            )
        await self._store.set_client_state(
            client_id,
            ClientState.REVOKED,
            reason=reason,
            audit=self._entry(caller, "client.revoke", client_id.hex(), once),
            idempotency=once,
        )
        self._authenticator.forget(client_id)
        await self._authenticator.refresh()
        await self._audit.sign()  # a backup of before it is not to be taken for the newest state
        return admin_service_pb2.RevokeClientResponse()

    async def SubmitTask(
        self, caller: Caller, request: admin_service_pb2.Submission
    ) -> admin_service_pb2.SubmitTaskResponse:
        submitted = await self._federation.submit(
            caller,
            Submission(
                canonical=fields.sized(request.task, "task", least=1, most=_LARGEST_TASK),
                signature=fields.sized(request.signature, "signature", exactly=_SIGNATURE_BYTES),
                model=request.model,
                model_sha256=_only_digest(request),
            ),
            once=self._once(caller, "SubmitTask", request, request.request_id),
        )
        return admin_service_pb2.SubmitTaskResponse(
            task_id=submitted.task_id, model_digest=submitted.model_digest
        )

    async def CancelTask(
        self, caller: Caller, request: admin_service_pb2.Cancellation
    ) -> admin_service_pb2.CancelTaskResponse:
        await self._federation.cancel(
            caller,
            fields.task_id(request.task_id),
            reason=fields.text(request.reason, "reason", empty=False),
            once=self._once(caller, "CancelTask", request, request.request_id),
        )
        return admin_service_pb2.CancelTaskResponse()

    @staticmethod
    def _once(caller: Caller, name: str, payload: Message, request_id: bytes) -> Idempotency:
        return fields.once(caller, _METHOD + name, payload, request_id)

    @staticmethod
    def _entry(caller: Caller, action: str, on: str, once: Idempotency) -> AuditEntry:
        return AuditEntry(caller.principal, action, on, request_id=once.request_id)


def _only_digest(request: admin_service_pb2.Submission) -> bytes:
    """The digest that names a first model; empty where it travels along, or there is none."""
    if not request.model_sha256:
        return b""
    fields.sized(request.model, "model", exactly=0)  # one of the two, or which would be meant?
    return fields.digest(request.model_sha256, "model_sha256")
