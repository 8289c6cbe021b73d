"""What an attempt that is over must not leave behind is destroyed, also after a crash (W10)."""

from __future__ import annotations

from fedcore.rounds import Cancel, Event, Persist, RoundPolicy, Scrubbed, step
from fedcore.rounds.records import from_record
from fedserver.federation.cohort import Cohort
from fedserver.federation.journal import SCRUB, Journal
from fedserver.federation.lease import LeaseHolder
from fedserver.federation.resources import Resources
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

    async def give_up(self, why: str) -> None:
        """Ends the attempts that are open, as far as nothing was released of them.

        What they were paid for stays spent: only a ledger could take that back.
        """
        for record in await self._store.open_rounds():
            if record.ref.task_id == self._task_id:
                journal = self._journal(record)
                await self._note(record, journal, Cancel(self._resources.clock(), why))
        await self.finish()

    async def _note(self, record: RoundRecord, journal: Journal, event: Event) -> None:
        after, effects = step(from_record(record.state), event, self._policy)
        # What a release has noted stands; else whoever has the ledger says what was spent.
        epsilon = NOT_NOTED if record.is_open and not record.epsilon else None
        for effect in effects:
            if isinstance(effect, Persist):
                await journal.advance(
                    effect.transition, after, cohort=Cohort(), result=None, epsilon=epsilon
                )

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
