"""How an attempt comes to be in memory: opened anew, or taken up from what is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from fedcore.federated.clipping import announced, encode_clipping
from fedcore.federated.payments import Payment
from fedcore.rounds import (
    CLIENT_PHASES,
    Phase,
    Recovered,
    RoundState,
)
from fedcore.rounds.records import from_record
from fedcore.secagg import Stage
from fedcore.secagg.identity import ID_BYTES
from fedserver.federation.attempt import INVITED, PAYMENT, Attempt
from fedserver.federation.interface import Train
from fedserver.federation.journal import Journal
from fedserver.federation.masked import MaskedSession
from fedserver.federation.reports import Reports
from fedserver.federation.resources import HostedTask, Resources
from fedserver.federation.results import Results
from fedserver.federation.selection import learnt_policy
from fedserver.spool import SealedUpload
from fedserver.store.protocol import Store
from fedserver.store.records import (
    AssignmentRecord,
    AssignmentState,
    HeadRecord,
    Lease,
    RoundRecord,
    RoundRef,
)

__all__ = ["open_attempt", "open_released", "take_up"]

_SECOND = 1000


async def open_attempt(
    hosted: HostedTask,
    resources: Resources,
    ref: RoundRef,
    *,
    head: HeadRecord,
    lease: Callable[[], Lease],
) -> Attempt:
    """A new attempt, durable, which waits for `start`.

    Raises: BudgetError where the plan draws who takes part and no further round is paid for.
    """
    now = resources.clock()
    state = RoundState.opened(ref.task_id, round=ref.round, attempt=ref.attempt, at=now)
    journal = _journal(resources, ref, head, lease)
    await journal.open(state, spent=await hosted.spent())
    attempt = await _assembled(hosted, resources, state, head=head, journal=journal, kept={})
    if hosted.account is not None and hosted.account.draws_clients:
        await _draw(attempt, resources)
    return attempt


async def open_released(
    hosted: HostedTask,
    resources: Resources,
    ref: RoundRef,
    *,
    head: HeadRecord,
    lease: Callable[[], Lease],
) -> Attempt:
    """A new attempt at a round whose sum the ledger has released: nobody is asked for anything.

    After an older database was restored, which does not know of it. What was released is in the
    ledger, to the bit, and is served again for nothing.
    """
    now = resources.clock()
    opened = RoundState.opened(ref.task_id, round=ref.round, attempt=ref.attempt, at=now)
    state = replace(opened, phase=Phase.AGGREGATING)
    journal = _journal(resources, ref, head, lease)
    await journal.open(state, spent=await hosted.spent())
    attempt = await _assembled(hosted, resources, state, head=head, journal=journal, kept={})
    attempt.post(Recovered(now))
    return attempt


async def _draw(attempt: Attempt, resources: Resources) -> None:
    """Pays for the round and draws its clients, before anybody may check in."""
    payment = await attempt.paid()
    invited = payment.draw(await _population(resources.store, attempt.hosted))
    await attempt.journal.keep({INVITED: b"".join(sorted(invited))})
    attempt.restrict(invited)


async def _population(store: Store, hosted: HostedTask) -> list[bytes]:
    """All clients of the tenant in the order in which they came, whether they may still come.

    Ids begin with the time of enrolment, so a client's place never changes.
    """
    found: list[bytes] = []
    while page := await store.clients(
        tenant=hosted.tenant, after=found[-1] if found else b"", limit=1000
    ):
        found += [client.client_id for client in page]
    return found


async def take_up(
    hosted: HostedTask,
    resources: Resources,
    record: RoundRecord,
    *,
    head: HeadRecord,
    lease: Callable[[], Lease],
) -> Attempt:
    """An attempt that another process left behind, as it stands in the store.

    While nobody drove it nobody could check in: a selection has its whole time again.
    """
    store = resources.store
    state = from_record(record.state)
    if state.phase is Phase.SELECTING:
        whole = hosted.policy.durations[Phase.SELECTING]
        state = replace(state, deadline=resources.clock() + whole)
    journal = _journal(resources, record.ref, head, lease)
    kept = await journal.kept()
    attempt = await _assembled(hosted, resources, state, head=head, journal=journal, kept=kept)
    assignments = await store.assignments(record.ref)
    uploads = await store.uploads(record.ref)
    await resources.spool.look_again(upload.upload_id for upload in uploads)
    attempt.cohort.restore(assignments)
    for upload in await store.uploads(record.ref, sealed_only=True):
        acknowledged = SealedUpload(upload.upload_id, upload.sha256)
        attempt.reports.restore(upload.client_id, acknowledged)
    attempt.post(
        Recovered(
            resources.clock(),
            arrived=tuple(sorted(_arrived(attempt))),
            lost=_lost(state, assignments),
        )
    )
    if state.phase is Phase.PENDING:
        account = hosted.account
        if account is not None and account.draws_clients and INVITED not in kept:
            await _draw(attempt, resources)
    return attempt


def _journal(
    resources: Resources, ref: RoundRef, head: HeadRecord, lease: Callable[[], Lease]
) -> Journal:
    return Journal(resources.store, resources.spool, ref, lease, head.digest, resources.entropy)


async def _assembled(
    hosted: HostedTask,
    resources: Resources,
    state: RoundState,
    *,
    head: HeadRecord,
    journal: Journal,
    kept: Mapping[str, bytes],
) -> Attempt:
    ref = journal.ref
    results = Results(hosted, resources, head)
    train = await _train(hosted, resources, state.round, head, results)
    masked = None if hosted.config is None else await _session(hosted, resources, ref, train, kept)
    key = await resources.store.upload_key(ref)
    policy, why = await learnt_policy(hosted, resources.store, ref)
    return Attempt(
        hosted,
        resources,
        state,
        policy=policy,
        why=why,
        journal=journal,
        reports=Reports(hosted.task.layout, resources.spool, key=key, threads=resources.threads),
        results=results,
        masked=masked,
        train=train,
        payment=await _payment(hosted, state, masked, kept),
        invited=_invited(kept),
    )


async def _session(
    hosted: HostedTask,
    resources: Resources,
    ref: RoundRef,
    train: Train,
    kept: Mapping[str, bytes],
) -> MaskedSession:
    assert hosted.config is not None
    length_ms = sum(hosted.policy.durations.values())
    return MaskedSession.restored(
        kept,
        hosted.config,
        ref,
        model=announced(train.model_digest, train.clipping),
        trust=await resources.trust(),
        now=(resources.clock() + length_ms) // _SECOND,
    )


async def _train(
    hosted: HostedTask, resources: Resources, round: int, head: HeadRecord, results: Results
) -> Train:
    return Train(
        model_digest=head.digest,
        model_bytes=await resources.blobs.size(head.digest),
        update_bytes=hosted.task.layout.upload_bytes,
        clipping=encode_clipping(await results.clipping()),
        evaluate=hosted.task.evaluation.is_due(round),
    )


async def _payment(
    hosted: HostedTask,
    state: RoundState,
    masked: MaskedSession | None,
    kept: Mapping[str, bytes],
) -> Payment | None:
    """What the attempt is paid with, taken up for the session that it was paid for."""
    account = hosted.account
    if account is None or PAYMENT not in kept or Results.RECORD in kept:
        return None
    if account.ledger.receipt(state.round) is not None:  # and so of no more use
        return None
    drawn = INVITED in kept
    payment = await asyncio.to_thread(account.pay, state.round, kept[PAYMENT], drawn=drawn)
    if masked is not None and masked.stage is not Stage.PREKEYS:
        await asyncio.to_thread(payment.take_up, masked.parameters)
    return payment


def _invited(kept: Mapping[str, bytes]) -> frozenset[bytes] | None:
    if (ids := kept.get(INVITED)) is None:
        return None
    return frozenset(ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES))


def _arrived(attempt: Attempt) -> frozenset[bytes]:
    """Whose message of the present phase is durable."""
    state, masked = attempt.state, attempt.masked
    if state.phase not in CLIENT_PHASES:
        return frozenset()
    if masked is None:
        return frozenset(attempt.reports.clients)
    if state.phase is Phase.KEYS or masked.is_past(state.phase):
        return state.members & masked.members
    return state.members - masked.pending


def _lost(state: RoundState, assignments: tuple[AssignmentRecord, ...]) -> dict[bytes, str]:
    return {
        found.client_id: found.reason or found.state.value
        for found in assignments
        if found.state in (AssignmentState.FAILED, AssignmentState.DROPPED)
        and found.client_id in state.members
    }
