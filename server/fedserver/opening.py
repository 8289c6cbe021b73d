"""The parts of a server, opened in order from its settings, and closed in the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fedcore.errors import AuditError, AuthorityError, KeyFileError, StoreError
from fedcore.federated.payments import Accounts
from fedserver.audit_heads import AUDIT_HEAD, AuditHeads
from fedserver.authority import Authority
from fedserver.authority_acts import AuthorityActs, require_revocations
from fedserver.blobs import BlobStore, LocalBlobStore
from fedserver.config import Config
from fedserver.federation.federation import LocalFederation
from fedserver.federation.resources import Resources
from fedserver.key_files import (
    AUDIT_SIGNER,
    DATASTORE_KEYS,
    PARTICIPATION_KEY,
    load_key,
    load_keys,
    private_directory,
    secret_from,
)
from fedserver.metrics import Metrics
from fedserver.newest_models import BLOBS
from fedserver.parts import Parts
from fedserver.rollback import require_database
from fedserver.spool import Spool
from fedserver.staging import Staging
from fedserver.store.opening import kind_of, open_store
from fedserver.store.sealed import require_keys
from fedserver.trust import Trust

__all__ = ["opened", "private_state"]

_COPIES, _SPOOL, _STAGING, _LEDGERS = "copies", "spool", "staging", "ledgers"
_STAGING_BYTES = 32 << 20  # in memory, beside what rounds have for their updates


@contextlib.asynccontextmanager
async def opened(config: Config, *, accept_rollback: bool = False) -> AsyncIterator[Parts]:
    """Opens all parts, and takes up what was running; closes the store at the end.

    Raises: KeyFileError, AuthorityError also for a list of revocations that is damaged or lacks
    what the audit log has, SchemaError, StoreError, InstallError, BlobError for an
    object store that refuses, AuditError for a database that is older than its last signed head.
    """
    state = private_state(config)
    keys = config.authority_directory
    source = config.authority.passphrase_file
    authority = Authority.open(keys, passphrase=secret_from(source) if source else None)
    metrics = Metrics()
    if not accept_rollback:
        require_database(config)
    datastore_keys = load_keys(keys / DATASTORE_KEYS)
    store = await open_store(config.database, keys=datastore_keys)
    try:
        await asyncio.to_thread(require_keys, config.database, datastore_keys)
        signer, *earlier = load_keys(keys / AUDIT_SIGNER)
        heads = AuditHeads(store, state / AUDIT_HEAD, signer=signer, earlier=earlier)
        await heads.check(accept_rollback=accept_rollback)
        await asyncio.to_thread(require_revocations, authority.lists, config.database)
        acts = AuthorityActs(store, authority.lists, config.database)
        spool = Spool(state / _SPOOL, in_flight_bytes=config.limits.upload_bytes)
        metrics.watch_chunks(lambda: spool.in_flight)
        resources = Resources(
            store,
            await _blobs(config, state),
            spool,
            metrics,
            Trust((authority.registrar.public_key,), store),
            Staging(
                Spool(state / _STAGING, in_flight_bytes=_STAGING_BYTES),
                largest_bytes=config.limits.model_bytes,
            ),
            lease_ms=int(1000 * config.rounds.lease_s),
            most_attempts=config.rounds.most_attempts,
            check_ins_per_second=config.rounds.check_ins_per_second,
        )
        accounts = Accounts(state / _LEDGERS, participation_key=load_key(keys / PARTICIPATION_KEY))
        peer = config.server.peer_address
        # The same after a restart, so that leases need not run out before they are taken up.
        owner = peer or (await store.server_identity()).server_id.hex()
        federation = LocalFederation(resources, accounts, owner=owner, shared=bool(peer))
        try:
            await federation.start()
            kind = kind_of(config.database)
            yield Parts(store, authority, federation, metrics, heads, acts, kind)
        finally:  # also where no port could be opened: nobody drives without a database
            await federation.stop()
        # What was done a moment ago; where it cannot be, the next start does what is missing.
        with contextlib.suppress(AuthorityError, StoreError, OSError):
            await acts.refresh()
        with contextlib.suppress(AuditError, KeyFileError):
            await heads.sign()
    finally:
        await store.close()


def private_state(config: Config) -> Path:
    """The state directory, made if need be. Raises: KeyFileError if others can look into it."""
    return private_directory(config.server.state_directory)


async def _blobs(config: Config, state: Path) -> BlobStore:
    address = config.blobs
    if address is None:
        return LocalBlobStore(state / BLOBS)
    from fedserver.object_blobs import ObjectBlobStore
    from fedserver.objects import Objects

    blobs = ObjectBlobStore(Objects.connected(address), LocalBlobStore(state / _COPIES))
    await blobs.check()
    return blobs
