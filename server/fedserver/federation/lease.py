"""The right to drive a task, renewed while it is used and given back when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fedcore.errors import LeaseLostError, StoreError
from fedserver.federation.interruptions import may_pass
from fedserver.store.protocol import Store
from fedserver.store.records import Lease

__all__ = ["LeaseHolder", "held"]


class LeaseHolder:
    """A lease that is renewed at a third of its time. Raises, when asked, once it was lost.

    `lost`: is told of that when it is found out.
    """

    def __init__(
        self, store: Store, lease: Lease, *, ttl_ms: int, lost: Callable[[], None]
    ) -> None:
        self._store, self._lease, self._ttl_ms = store, lease, ttl_ms
        self._tell_lost = lost
        self._lost: LeaseLostError | None = None

    def __call__(self) -> Lease:
        """The lease as it stands. Raises: LeaseLostError."""
        if self._lost is not None:
            raise self._lost
        return self._lease

    async def confirm(self) -> None:
        """Renews it once. Raises: LeaseLostError where it is another's by now; StoreError."""
        self._lease = await self._store.renew_lease(self(), self._ttl_ms)

    async def renew(self) -> None:
        """Renews for ever, until the lease is lost."""
        while self._lost is None:
            await asyncio.sleep(self._ttl_ms / 3000)
            try:
                await self.confirm()
            except LeaseLostError as error:
                self._lost = error
                self._tell_lost()
            except StoreError:  # there is time for two more tries before it runs out
                continue


@asynccontextmanager
async def held(
    store: Store, task_id: str, owner: str, *, ttl_ms: int, lost: Callable[[], None]
) -> AsyncIterator[LeaseHolder]:
    """A task's lease, given back in the end; `lost` is told if it is lost before.

    How often it was taken in vain is counted on where the block ends with an error, but for one
    that may pass.

    Raises: LeaseLostError while another has it, also in place of an error that ends the block: what
    is amiss then is what the other has done, as with files of a round that it has ended.
    """
    lease = await store.acquire_lease(task_id, owner, ttl_ms)
    if lease is None:
        raise LeaseLostError(
            f"the lease of task {task_id} is another's",
            why="another server took the task up first",
            fix="leave the task to it",
        )
    holder = LeaseHolder(store, lease, ttl_ms=ttl_ms, lost=lost)
    renewing, attempts = asyncio.ensure_future(holder.renew()), 0
    try:
        yield holder
    except LeaseLostError:
        raise
    except Exception as error:
        attempts = lease.attempts - may_pass(error)
        try:
            await holder.confirm()
        except LeaseLostError as overtaken:
            raise overtaken from error
        except StoreError:
            pass
        raise
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        with suppress(LeaseLostError):
            await store.release_lease(holder(), attempts=attempts)
