"""Who may speak: tokens, clients, certificates."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from sqlalchemy import Connection, RowMapping, bindparam, exists, func, or_, select

from fedcore.errors import ConflictError, TokenError
from fedserver.store import schema
from fedserver.store.records import (
    AuditEntry,
    CertificateRecord,
    ClientRecord,
    ClientState,
    Enrolled,
    Idempotency,
    Stored,
    TokenRecord,
)
from fedserver.store.sql.base import SqlBase
from fedserver.store.sql.reads import Query, all_rows, one_row
from fedserver.store.sql.rows import Row, as_json, certificate_of, client_of, token_of
from fedserver.store.sql.transaction import Transaction, missing

__all__ = ["SqlParties"]

T = TypeVar("T")

_FINGERPRINTS_AT_ONCE = 10_000  # a query takes 32,766 parameters


class SqlParties(SqlBase):
    """`PartyStore` in SQL."""

    async def create_token(
        self,
        token: TokenRecord,
        *,
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        def act(db: Transaction) -> None:
            if db.find("enrolment_token", token_sha256=token.token_sha256) is not None:
                raise _in_use("this token")
            db.insert(
                "enrolment_token",
                token_sha256=token.token_sha256,
                tenant=token.tenant,
                max_uses=token.max_uses,
                uses=0,
                expires_ms=token.expires_ms,
                attributes=as_json(token.attributes),
                created_by=token.created_by,
                created_ms=db.now_ms,
            )

        return await self._once("create_token", act, audit=audit, idempotency=idempotency)

    async def token(self, token_sha256: bytes) -> TokenRecord | None:
        table = schema.enrolment_token
        wanted = select(table).where(table.c.token_sha256 == token_sha256)
        return await self._read(lambda c: _optional(token_of, one_row(c, wanted)))

    async def enrol(
        self,
        token_sha256: bytes,
        client: ClientRecord,
        certificate: CertificateRecord,
        *,
        key_hash: bytes,
        reply: bytes,
        audit: AuditEntry | None = None,
    ) -> Enrolled:
        def act(db: Transaction) -> Enrolled:
            if (before := db.find("enrolment", key_hash=key_hash)) is not None:
                if not hmac.compare_digest(before["token_sha256"], token_sha256):
                    raise ConflictError(
                        "this key was enrolled before with another token",
                        why="a key enrols once",
                        fix="make new keys to enrol again, or go on with the first enrolment",
                    )
                return Enrolled(before["client_id"], before["reply"], repeated=True)
            _use_token(db, token_sha256, tenant=client.tenant)
            if db.find("client", client_id=client.client_id) is not None:
                raise _in_use("this client id")
            if db.find("client", identity_key=client.identity_key) is not None:
                raise _in_use("this identity key")
            db.insert(
                "client",
                client_id=client.client_id,
                tenant=client.tenant,
                identity_key=client.identity_key,
                spiffe_id=client.spiffe_id,
                sdk_version=client.sdk_version,
                attributes=as_json(client.attributes),
                state=client.state,
                created_ms=db.now_ms,
                last_seen_ms=db.now_ms,
            )
            _add_certificate(db, certificate)
            db.insert(
                "enrolment",
                key_hash=key_hash,
                token_sha256=token_sha256,
                client_id=client.client_id,
                reply=reply,
                at_ms=db.now_ms,
            )
            db.audit(audit)
            return Enrolled(client.client_id, reply, repeated=False)

        return await self._write("enrol", act)

    async def enrolment(self, key_hash: bytes) -> Enrolled | None:
        def query(connection: Connection) -> Enrolled | None:
            table = schema.enrolment
            row = one_row(connection, select(table).where(table.c.key_hash == key_hash))
            return Enrolled(row["client_id"], row["reply"], repeated=True) if row else None

        return await self._read(query)

    async def client(self, client_id: bytes) -> ClientRecord | None:
        return await self._read(
            lambda c: _optional(client_of, one_row(c, _one_client(), client_id=client_id))
        )

    async def clients(
        self,
        *,
        tenant: str | None = None,
        state: ClientState | None = None,
        after: bytes = b"",
        limit: int = 100,
    ) -> tuple[ClientRecord, ...]:
        table = schema.client
        page = _clients().where(table.c.client_id > after).order_by(table.c.client_id).limit(limit)
        if tenant is not None:
            page = page.where(table.c.tenant == tenant)
        if state is not None:
            page = page.where(table.c.state == state)
        return await self._read(lambda c: tuple(map(client_of, all_rows(c, page))))

    async def touch(self, client_ids: Iterable[bytes]) -> None:
        seen = tuple(client_ids)

        def act(db: Transaction) -> None:
            for client_id in seen:
                db.update("client", {"client_id": client_id}, last_seen_ms=db.now_ms)

        await self._write("touch", act)

    async def set_client_state(
        self,
        client_id: bytes,
        state: ClientState,
        *,
        reason: str = "",
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        def act(db: Transaction) -> None:
            row = db.find("client", client_id=client_id)
            if row is None:
                raise missing(f"client {client_id.hex()}")
            if row["state"] == ClientState.REVOKED and state != ClientState.REVOKED:
                raise ConflictError(
                    f"client {client_id.hex()} was revoked",
                    why="a revocation is for good",
                    fix="let the device enrol again, with new keys",
                )
            db.update("client", {"client_id": client_id}, state=state)
            if state == ClientState.REVOKED:
                unrevoked = {"client_id": client_id, "revoked_ms": 0}
                db.update("certificate", unrevoked, revoked_ms=db.now_ms, reason=reason)

        return await self._once("set_client_state", act, audit=audit, idempotency=idempotency)

    async def add_certificate(
        self, certificate: CertificateRecord, *, audit: AuditEntry | None = None
    ) -> None:
        def act(db: Transaction) -> None:
            _add_certificate(db, certificate)
            db.audit(audit)

        await self._write("add_certificate", act)

    async def certificates(self, client_id: bytes) -> tuple[CertificateRecord, ...]:
        table = schema.certificate
        wanted = (
            select(table)
            .where(table.c.client_id == client_id)
            .order_by(table.c.not_after_ms, table.c.serial)
        )
        return await self._read(lambda c: tuple(map(certificate_of, all_rows(c, wanted))))

    async def disowned(self, client_id: bytes, fingerprints: Collection[bytes]) -> bool:
        held, listed = schema.certificate.c, list(fingerprints)

        def query(connection: Connection) -> bool:
            for start in range(0, max(1, len(listed)), _FINGERPRINTS_AT_ONCE):
                some = listed[start : start + _FINGERPRINTS_AT_ONCE]
                counts_no_more = or_(held.revoked_ms > 0, held.fingerprint.in_(some))
                if connection.scalar(
                    select(exists().where(held.client_id == client_id, counts_no_more))
                ):
                    return True
            return False

        return await self._read(query)

    async def revoke_certificate(
        self, fingerprint: bytes, *, reason: str, audit: AuditEntry | None = None
    ) -> None:
        def act(db: Transaction) -> None:
            row = db.find("certificate", fingerprint=fingerprint)
            if row is None:
                raise missing(f"certificate with the fingerprint {fingerprint.hex()}")
            unrevoked = {"serial": row["serial"], "revoked_ms": 0}
            db.update("certificate", unrevoked, revoked_ms=db.now_ms, reason=reason)
            db.audit(audit)

        await self._write("revoke_certificate", act)

    async def revoked_fingerprints(self) -> frozenset[bytes]:
        table = schema.certificate
        wanted = select(table.c.fingerprint).where(
            table.c.revoked_ms > 0, table.c.not_after_ms > await self.now_ms()
        )
        return await self._read(lambda c: frozenset(c.scalars(wanted)))


def _optional(record_of: Callable[[Row], T], row: RowMapping | None) -> T | None:
    return None if row is None else record_of(row)


def _clients() -> Query:
    """Clients, each with the day until which its newest certificate is good."""
    held = schema.certificate
    expires = (
        select(func.coalesce(func.max(held.c.not_after_ms), 0))
        .where(held.c.client_id == schema.client.c.client_id, held.c.revoked_ms == 0)
        .scalar_subquery()
    )
    return select(schema.client, expires.label("certificate_expires_ms"))


@functools.cache
def _one_client() -> Query:
    """The same of the client `client_id`."""
    return _clients().where(schema.client.c.client_id == bindparam("client_id"))


def _use_token(db: Transaction, token_sha256: bytes, *, tenant: str) -> None:
    row = db.find("enrolment_token", token_sha256=token_sha256)
    if row is None or row["tenant"] != tenant:
        raise _refused("it is not known", "ask the operator for a new join string")
    if row["expires_ms"] <= db.now_ms:
        raise _refused("it has expired", "ask the operator for a new join string")
    if row["uses"] >= row["max_uses"]:
        raise _refused(
            f"it was used {row['uses']} times, as often as it may",
            "ask the operator for a new join string",
        )
    db.update("enrolment_token", {"token_sha256": token_sha256}, uses=row["uses"] + 1)


def _add_certificate(db: Transaction, certificate: CertificateRecord) -> None:
    for column in ("serial", "fingerprint"):
        if db.find("certificate", **{column: getattr(certificate, column)}) is not None:
            raise _in_use(f"the {column} of this certificate")
    db.insert(
        "certificate",
        serial=certificate.serial,
        fingerprint=certificate.fingerprint,
        client_id=certificate.client_id,
        not_after_ms=certificate.not_after_ms,
        revoked_ms=0,
        reason="",
    )


def _refused(why: str, fix: str) -> TokenError:
    return TokenError("the enrolment token is not accepted", why=why, fix=fix)


def _in_use(what: str) -> ConflictError:
    return ConflictError(
        f"{what} is in use",
        why="it was written before, for something else",
        fix="draw a new one",
    )
