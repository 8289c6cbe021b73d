"""What is paid for once is drawn once: by one mechanism, in one turn, for a real reservation."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import FedcoreError, ReservationError
from fedcore.privacy import mechanisms, reservation as reservation_module
from fedcore.privacy.compact_mechanism import CompactAdder, CompactMechanism
from fedcore.privacy.dpsgd import NoisySteps
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import (
    BandedMechanism,
    CentralMechanism,
    PrivateMean,
    ShareAdder,
    SharedMechanism,
)
from fedcore.privacy.noise import SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.release import publish
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.simulated import SimulatedMechanism
from fedcore.privacy.values import IntSum, NoisySum
from tests.privacy import plans
from tests.privacy.releases import FROZEN, central_noise, decoded, ledgers_in, reserved, sum_of


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    with ledgers_in(tmp_path) as new:
        yield new


def test_one_mechanism_draws_the_noise_of_a_reservation(create: Callable[..., Ledger]) -> None:
    """Two would have paid once: whoever else is at hand, and however it is bound."""
    steps, matrix = plans.record(), plans.banded()
    of_records, of_rounds = create(steps).reserve(0), reserved(create(matrix))
    NoisySteps(steps, of_records).draw(100)
    BandedMechanism(matrix, of_rounds)
    for second in (
        lambda: NoisySteps(steps, of_records),
        lambda: CentralMechanism(steps).prepare(of_records),
        lambda: BandedMechanism(matrix, of_rounds),
    ):
        with pytest.raises(ReservationError, match="another mechanism") as found:
            second()
        assert found.value.fix


def test_what_only_looks_like_a_reservation_releases_nothing() -> None:
    """A mean would come of it that no ledger was charged for."""

    def free(plan: PrivacyPlan) -> Any:
        class Free:
            plan_digest, sampled, round, event, drawn = plan.digest, True, 0, plan.event, True

            def __getattr__(self, name: str) -> Any:
                return lambda *_: None

        return Free()

    one, many = plans.client(), plans.shared()
    bounds = {"minimum_survivors": 4, "corrupt": 1}
    simulated, compact = plans.client(noise=SimulatedNoise(3)), plans.compact()
    for attempt in (
        lambda: CentralMechanism(one).prepare(free(one)),
        lambda: CentralMechanism(one).release(sum_of(one, []), free(one)),
        lambda: SharedMechanism(many).begin(free(many), **bounds),
        lambda: SharedMechanism(many).release(NoisySum(np.zeros(6, np.int64), 4), free(many)),
        lambda: CompactMechanism(compact).begin(free(compact), **bounds),
        lambda: BandedMechanism(plans.banded(), free(plans.banded())),
        lambda: NoisySteps(plans.record(), free(plans.record())),
        lambda: SimulatedMechanism(simulated).release(sum_of(simulated, []), free(simulated)),
        lambda: publish(np.zeros(6, np.float32), free(one), mechanism=None),
    ):
        with pytest.raises(ReservationError, match="paid for by a Free"):
            attempt()


def test_only_who_drew_its_noise_publishes_what_came_of_a_reservation(
    create: Callable[..., Ledger],
) -> None:
    plan = plans.client()
    reservation, mechanism = reserved(create(plan)), CentralMechanism(plan)
    raw = np.ones(6, np.float32)
    for drawn in (False, True):
        if drawn:
            mechanism.prepare(reservation)
        for other in (None, mechanism if not drawn else CentralMechanism(plan)):
            with pytest.raises(ReservationError):
                publish(raw, reservation, mechanism=other)
    mechanism.release(sum_of(plan, []), reservation)


def test_a_private_mean_stays_what_was_released(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    mean = CentralMechanism(plan).release(sum_of(plan, []), reserved(create(plan)))
    changes: list[Callable[[], object]] = [
        lambda: setattr(mean, "vector", np.zeros(6, np.float32)),
        lambda: setattr(mean, "receipt", None),
        lambda: delattr(mean, "clipping"),
        lambda: setattr(object.__new__(PrivateMean), "vector", np.zeros(6, np.float32)),
        lambda: copy.copy(mean),
        lambda: pickle.dumps(mean),
    ]
    for change in changes:
        with pytest.raises(ReservationError):
            change()
    with pytest.raises(ValueError, match="WRITEABLE"):
        mean.vector.flags.writeable = True


def test_no_figure_that_a_plan_keeps_makes_its_noise_smaller(create: Callable[..., Ledger]) -> None:
    """The digest is of the fields, and so is the variance that is drawn."""
    plan = plans.client()
    assert plan.digest
    for name in ("variance", "contribution_norm", "event", "squared_sensitivity"):
        vars(plan)[name] = type(getattr(plan, name))(1) if name != "event" else None
    true = plans.client()
    mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
    mean = mechanism.release(sum_of(true, []), reserved(create(true)))
    assert np.array_equal(mean.vector, decoded(true, central_noise(true)))
    vars(plan)["digest"] = plans.client(rounds=4).digest
    with pytest.raises(ReservationError, match="another plan"):
        CentralMechanism(plan).prepare(reserved(create(plans.client(rounds=4))))


MECHANISMS: dict[str, Callable[[Callable[..., Ledger]], object]] = {
    "central": lambda create: CentralMechanism(plans.client()),
    "shared": lambda create: SharedMechanism(plans.shared()),
    "compact": lambda create: CompactMechanism(plans.compact()),
    "banded": lambda create: BandedMechanism(plans.banded(), reserved(create(plans.banded()))),
    "steps": lambda create: NoisySteps(plans.record(), create(plans.record()).reserve(0)),
    "a share": lambda create: ShareAdder(plans.shared()),
    "a compact share": lambda create: CompactAdder(plans.compact()),
}


@pytest.mark.parametrize("case", MECHANISMS)
@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_mechanism_has_a_twin(
    create: Callable[..., Ledger], case: str, twin: Callable[[object], object]
) -> None:
    """One prepared noise would come under two sums, or one sum under two noises."""
    with pytest.raises(ReservationError, match="to be copied or pickled"):
        twin(MECHANISMS[case](create))


def test_threads_that_share_a_mechanism_share_no_noise(
    create: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would add their sum to one noise, from which their difference could then be read."""
    plan = plans.client()
    reservation, total = reserved(create(plan)), IntSum(np.full(6, 10**9), plan.grid)
    mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
    mechanism.prepare(reservation)
    meeting, publishes = threading.Barrier(2), mechanisms._publish

    def meet() -> None:
        """Where two come at once, both go on together; one alone goes on after a moment."""
        with suppress(threading.BrokenBarrierError):
            meeting.wait(timeout=0.1)

    class Slow(tuple[Any, Any]):
        def __getitem__(self, index: Any) -> Any:
            meet()
            return super().__getitem__(index)

    def publish_slowly(*given: Any, **options: Any) -> PrivateMean:
        meet()
        return publishes(*given, **options)

    monkeypatch.setattr(mechanism, "_prepared", Slow(mechanism._prepared or ()))
    monkeypatch.setattr(mechanisms, "_publish", publish_slowly)
    with ThreadPoolExecutor(2) as pool:
        tried = [pool.submit(mechanism.release, total, reservation) for _ in range(2)]
    means = [one.result().vector for one in tried if one.exception() is None]
    assert len(means) == 1
    assert np.array_equal(means[0], decoded(plan, total.vector + central_noise(plan)))
    assert [isinstance(one.exception(), FedcoreError) for one in tried].count(True) == 1


class Interruption:
    """Calls `act` at one line of reservation.py, as a signal handler would be."""

    def __init__(self, line: int, act: Callable[[], object]) -> None:
        self._left, self._act, self.came = line, act, False

    def __enter__(self) -> Interruption:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if self.came or frame.f_code.co_filename != reservation_module.__file__:
            return None
        if event == "line":
            self.came = self._left == 0
            self._left -= 1
            if self.came:
                with suppress(ReservationError):
                    self._act()
        return self._trace


def test_a_signal_gets_into_no_call_that_it_interrupts(create: Callable[..., Ledger]) -> None:
    """A handler that voids at any line: noise is drawn and paid for, or neither."""
    plan = plans.record(sampling=Poisson(2**32), epsilon=1e6, rounds=100)
    ledger = create(plan)
    for lines in count():
        reservation, before = ledger.reserve(0), ledger.history.voided
        with Interruption(lines, partial(reservation.void, "shutting down")) as interruption:
            try:
                reservation.mark_drawn()
                drawn = True
            except ReservationError:
                drawn = False
        assert drawn is (ledger.history.voided == before)
        if not interruption.came:
            assert drawn and lines > 5
            return
