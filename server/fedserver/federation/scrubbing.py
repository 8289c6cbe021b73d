"""What an attempt that is over must not leave behind is destroyed, also after a crash (W10).

And what cannot go on is ended, so that it is over: by what the database has of it alone.
"""

from __future__ import annotations

from fedcore.errors import BlobError
from fedcore.rounds import (
    Cancel,
    CannotClose,
    Event,
    Persist,
    Phase,
    Published,
    RoundPolicy,
    Scrubbed,
    step,
)
from fedcore.rounds.records import from_record
from fedserver.federation.cohort import Cohort
from fedserver.federation.interruptions import may_pass
from fedserver.federation.journal import SCRUB, Journal
from fedserver.federation.lease import LeaseHolder
from fedserver.federation.resources import HostedTask, Resources
from fedserver.federation.results import Result, Results
from fedserver.store.records import NOT_NOTED, RoundRecord, RoundRef

__all__ = ["Scrubbing", "scrubbed_ref"]


class Scrubbing:
    """Of one task, by whoever holds its lease. Nothing of the task has to be taken up for it."""

    def __init__(
        self, resources: Resources, task_id: str, policy: RoundPolicy, lease: LeaseHolder
    ) -> None:
        self._resources, self._store = resources, resources.store
        self._task_id, self._policy, self._lease = task_id, policy, lease

    async def finish(self) -> None:
        """Destroys what a crash left of rounds that were over."""
        for entry in await self._store.outbox_pending(limit=1000):
            ref = scrubbed_ref(entry.payload)
            if entry.topic != SCRUB or ref.task_id != self._task_id:
                continue
            record = await self._store.round(ref)
            if record is None:
                await self._store.outbox_done(entry.entry_id)
                continue
            journal = self._journal(record)
            await journal.scrub()
            await self._note(record, journal, Scrubbed(self._resources.clock()))

    async def give_up(self, why: str, *, cancelled: bool, hosted: HostedTask | None = None) -> None:
        """Ends the attempts that are open; one whose result was released before is published.

        What they were paid for stays spent: only an attempt that is taken up could take that back.
        `hosted`: the task, where its ledger is at hand.
        """
        for record in await self._store.open_rounds(self._task_id):
            journal, now = self._journal(record), self._resources.clock()
            phase, result = Phase(record.phase), None
            if phase is Phase.RELEASING:
                result = await self._released(journal)
            if result is not None:
                await self._note(record, journal, Published(now), result=result)
            elif cancelled and phase is not Phase.RELEASING:
                await self._note(record, journal, Cancel(now, why), hosted=hosted)
            else:
                await self._note(record, journal, CannotClose(now, phase, why), hosted=hosted)
        await self.finish()

    async def _released(self, journal: Journal) -> Result | None:
        """The result that was paid for and kept; None where nothing is left of it to publish."""
        if (kept := (await journal.kept()).get(Results.RECORD)) is None:
            return None
        result = Result.from_record(kept)
        try:
            await self._resources.blobs.size(result.digest)
        except BlobError as error:
            if may_pass(error):
                raise
            return None
        return result

    async def _note(
        self,
        record: RoundRecord,
        journal: Journal,
        event: Event,
        *,
        result: Result | None = None,
        hosted: HostedTask | None = None,
    ) -> None:
        after, effects = step(from_record(record.state), event, self._policy)
        # What a release has noted stands; else whoever has the ledger says what was spent.
        epsilon = NOT_NOTED if record.is_open and not record.epsilon else None
        if hosted is not None:
            epsilon = await hosted.spent()
        for effect in effects:
            if not isinstance(effect, Persist):
                continue
            if effect.transition.to_phase is Phase.COMPLETED and result is not None:
                await journal.complete(effect.transition, after, result)
            else:
                await journal.advance(
                    effect.transition,
                    after,
                    cohort=Cohort(),
                    result=None,
                    epsilon=epsilon,
                    ledger_head=b"" if hosted is None else hosted.ledger_head,
                )
            if effect.transition.to_phase is not Phase.SCRUBBED:
                self._resources.metrics.rounds.labels(effect.transition.to_phase.value).inc()

    def _journal(self, record: RoundRecord) -> Journal:
        return Journal(
            self._store,
            self._resources.spool,
            record.ref,
            self._lease,
            record.base_model,
            self._resources.entropy,
        )


def scrubbed_ref(payload: bytes) -> RoundRef:
    """The attempt that an entry of the outbox wants to be scrubbed."""
    task_id, round_, attempt = payload.decode().rsplit("/", 2)
    return RoundRef(task_id, int(round_), int(attempt))
