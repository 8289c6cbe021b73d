"""From the sum of a round to the next model: paid for, noised, applied, durable.

What is made here is kept beside the attempt before anybody hears of it, so that after a crash the
very same bytes are published, and none are made a second time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import structlog

from fedcore.autograd.ravel import Entry, Spec
from fedcore.errors import ServerError
from fedcore.federated.algorithms import ServerState
from fedcore.federated.clipping import decode_clipping, encode_clipping
from fedcore.federated.parameters import parameters_of
from fedcore.federated.payments import Payment
from fedcore.federated.update import Mean, UpdateLayout
from fedcore.model_format import encode_model, read_model
from fedcore.privacy import Adaptive, PrivacyPlan, PrivateMean, QuantileState
from fedserver.disk import in_thread
from fedserver.federation.means import mean_of
from fedserver.federation.reports import Reports
from fedserver.federation.resources import HostedTask, Resources
from fedserver.freed import give_back
from fedserver.model_files import ModelOrigin, load_model, store_model
from fedserver.store.records import HeadRecord, MetricRecord, ModelRecord, RoundRef

__all__ = ["Result", "Results"]

_CLIPPING: Final = "clipping"
_NOTHING: Final = np.zeros(1, np.float32)


@dataclass(frozen=True, slots=True)
class Result:
    """What a round has come to: digests of durable blobs, and figures that may be shown."""

    digest: bytes
    size: int
    state_digest: bytes
    ledger_head: bytes
    epsilon: float
    metrics: Mapping[str, MetricRecord]

    def to_record(self) -> bytes:
        """As JSON, for the attempt's session."""
        values = {
            "digest": self.digest.hex(),
            "size": self.size,
            "state_digest": self.state_digest.hex(),
            "ledger_head": self.ledger_head.decode(),
            "epsilon": self.epsilon,
            "metrics": {
                name: [found.value, found.count, found.released_via]
                for name, found in self.metrics.items()
            },
        }
        return json.dumps(values, sort_keys=True).encode()

    @classmethod
    def from_record(cls, record: bytes) -> Result:
        """The result that `to_record` wrote."""
        values = json.loads(record)
        return cls(
            digest=bytes.fromhex(values["digest"]),
            size=values["size"],
            state_digest=bytes.fromhex(values["state_digest"]),
            ledger_head=values["ledger_head"].encode(),
            epsilon=values["epsilon"],
            metrics={name: MetricRecord(*found) for name, found in values["metrics"].items()},
        )

    def model(self, ref: RoundRef, *, parent: bytes) -> ModelRecord:
        """The model's place in the line of its task."""
        return ModelRecord(self.digest, ref.task_id, parent, ref.round + 1, self.size)


class Results:
    """Makes the model that follows `head`."""

    RECORD: Final = "result"

    def __init__(self, hosted: HostedTask, resources: Resources, head: HeadRecord) -> None:
        self._hosted, self._resources, self._head = hosted, resources, head
        self._spec = parameters_of(hosted.task)
        self._log = structlog.get_logger("fedserver.results").bind(task=hosted.task_id)

    async def clipping(self) -> QuantileState | None:
        """What this round's updates are clipped by; None where that does not adapt."""
        return (await self._state())[1]

    async def is_released(self, round: int) -> bool:
        """Whether the ledger has released the round, so that its sum is of no more use."""
        account = self._hosted.account
        return account is not None and account.ledger.receipt(round) is not None

    async def make(self, round: int, reports: Reports, *, payment: Payment | None) -> Result:
        """The result of a round whose reports are summed up.

        Raises: PrivacyError, UpdateError, DivergenceError for a sum that gives no model.
        """
        await asyncio.to_thread(give_back)
        state, clipping = await self._state()
        mean = await self._mean(round, reports, payment, clipping)
        reports.forget_sum()  # before the model is loaded: a server has room for one of the two
        apply = self._hosted.algorithm.apply
        theta, _ = await load_model(self._resources.blobs, self._head.digest, self._spec)
        after, kept = await asyncio.to_thread(apply, theta, mean, state, round=round)
        del theta
        origin = ModelOrigin(self._hosted.task.digest.hex(), round + 1, self._head.digest)
        digest = await store_model(self._resources.blobs, after, self._spec, origin)
        next_clipping = mean.clipping if isinstance(mean, PrivateMean) else None
        epsilon = await self._hosted.spent() or 0.0
        return Result(
            digest=digest,
            size=await self._resources.blobs.size(digest),
            state_digest=await self._keep(kept, next_clipping),
            ledger_head=self._hosted.ledger_head,
            epsilon=epsilon,
            metrics=_metrics(mean, epsilon),
        )

    async def _mean(
        self,
        round: int,
        reports: Reports,
        payment: Payment | None,
        clipping: QuantileState | None,
    ) -> Mean | PrivateMean:
        account = self._hosted.account
        if account is None:
            layout = UpdateLayout.of(self._hosted.task)
            mean = await asyncio.to_thread(mean_of, layout, reports.totals, reports.count)
            if mean.impossible:  # under masks nobody can tell whose they are
                self._log.warning("round.impossible", round=round, figures=list(mean.impossible))
            return mean
        released = await asyncio.to_thread(account.released, round, clipping)
        if released is not None:
            return released
        if payment is None:
            raise ServerError(
                f"round {round} is to be released, and nothing was paid for it",
                why="its payment was not taken up after a restart",
                fix="let the next attempt pay for its own noise",
            )
        release = partial(payment.release, reports=reports.count, clipping=clipping)
        return await asyncio.to_thread(release, reports.totals)

    async def _state(self) -> tuple[ServerState, QuantileState | None]:
        plan, start = self._hosted.task.plan, self._hosted.algorithm.start()
        adapts = plan is not None and isinstance(plan.clipping, Adaptive)
        if not self._head.state_digest:
            return start, _first_clipping(plan)
        spec = _state_spec(start)
        with await self._resources.blobs.open_read(self._head.state_digest) as file:
            vector, texts = await in_thread(read_model, file, spec)
        parts = spec.split(vector)
        state = {name: parts[name] for name in start}
        if plan is None or not adapts:
            return state, None
        return state, decode_clipping(plan, texts[_CLIPPING].encode())

    async def _keep(self, state: ServerState, clipping: QuantileState | None) -> bytes:
        """The digest of what the server keeps beside the model; nothing where it keeps nothing."""
        if not state and clipping is None:
            return b""
        spec = _state_spec(state)
        texts = {_CLIPPING: encode_clipping(clipping).decode()}
        vector = np.concatenate([state[entry.path] for entry in spec]) if state else _NOTHING
        async with self._resources.blobs.writer() as writer:
            for piece in encode_model(vector, spec, metadata=texts):
                await writer.write(piece)
            return await writer.commit()


def _first_clipping(plan: PrivacyPlan | None) -> QuantileState | None:
    if plan is None or not isinstance(plan.clipping, Adaptive):
        return None
    return plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)


def _state_spec(state: ServerState) -> Spec:
    """The vectors of a state by name; one of clipping alone has a number that says nothing."""
    entries, offset = [], 0
    for name in sorted(state):
        entries.append(Entry(name, state[name].shape, offset))
        offset += state[name].size
    return Spec(tuple(entries) or (Entry("nothing", (1,), 0),), np.dtype(np.float32))


def _metrics(mean: Mean | PrivateMean, epsilon: float) -> dict[str, MetricRecord]:
    if isinstance(mean, PrivateMean):
        return {"epsilon": MetricRecord(epsilon, 1.0, "dp")}
    found = {
        name: MetricRecord(value, float(mean.reports), "plain")
        for name, value in mean.statistics.items()
    }
    return found | {"reports": MetricRecord(float(mean.reports), 1.0, "plain")}
