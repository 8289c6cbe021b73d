"""Crashes, restored copies and reports: no way round the ledger brings noise or budget back.

Where a copy of the folder is enough for the attack, a test says so, and what then refuses it.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.errors import (
    BudgetError,
    LedgerBusyError,
    LedgerError,
    ReservationError,
    RollbackError,
)
from fedcore.privacy.dpsgd import NoisySteps
from fedcore.privacy.ledger import Head, Ledger
from fedcore.privacy.mechanisms import CentralMechanism, PrivateMean, read_release
from fedcore.privacy.rdp import compose, epsilon
from tests.privacy import attacks_rounds as rounds, plans
from tests.privacy.attacks_rounds import KEY, has_variance, watched

DELTA = 1e-5


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def opened(folder: Path, checkpoint: Head | None) -> Ledger:
    return Ledger.open(folder, checkpoint=checkpoint, participation_key=KEY)


def released(ledger: Ledger, round_: int) -> PrivateMean:
    reservation = ledger.reserve(round_)
    rounds.admit(reservation)
    return CentralMechanism(ledger.plan).release(rounds.sum_of(ledger.plan, []), reservation)


# Differencing a crashed and a resumed round (X21, X22)


def test_what_was_released_before_a_crash_is_served_again_byte_for_byte(tmp_path: Path) -> None:
    plan = watched()
    with Ledger.create(tmp_path / "ledger", plan, participation_key=KEY) as ledger:
        mean = released(ledger, 0)
        spent = ledger.epsilon()
    with opened(tmp_path / "ledger", mean.receipt.head) as ledger:
        payload = ledger.released(0)
        assert payload == mean.vector.astype("<f4").tobytes() == ledger.released(0)
        assert payload is not None
        assert np.array_equal(read_release(plan, payload)[0], mean.vector)
        with pytest.raises(ReservationError):
            ledger.reserve(0)  # nor drawn again for whoever would average the noise away
        assert ledger.epsilon() == spent


def noisy_step(ledger: Ledger, update: NDArray[Any]) -> NDArray[np.int64]:
    """What an attacker sees of a step, who then stops the process before its release."""
    plan = ledger.plan
    steps = NoisySteps(plan, ledger.reserve(0))
    steps.draw(plan.population)
    step = steps.step(rounds.sum_of(plan, [rounds.update_of(plan, update)]))
    return np.rint(step.astype(np.float64) * plan.grid * plan.denominator).astype(np.int64)


def test_a_stored_seed_gives_away_whoever_changed_between_crash_and_restart() -> None:
    seed = 1234  # as a checkpoint would keep it, to repeat the round "exactly"
    victim = np.full(20_000, 0.005)
    runs = [
        update + np.random.default_rng(seed).standard_normal(20_000)
        for update in (victim, np.zeros(20_000))
    ]
    assert np.abs(runs[0] - runs[1] - victim).max() < 1e-12


def test_a_round_that_was_seen_and_not_released_is_redrawn_and_charged_again(
    tmp_path: Path,
) -> None:
    plan = plans.record(
        dimension=20_000, steps=1, grid_steps=rounds.GRID, denominator=16, epsilon=1000.0
    )
    victim, nobody = np.full(20_000, 0.005), np.zeros(20_000)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        first = noisy_step(ledger, victim)
        spent, head = ledger.epsilon(), ledger.head
    with Ledger.open(tmp_path / "ledger", checkpoint=head, plan=plan) as ledger:
        assert ledger.released(0) is None and ledger.epsilon() == spent
        second = noisy_step(ledger, nobody)
        assert ledger.spent == {plan.event: 2} and ledger.epsilon() > spent
    exact = rounds.update_of(plan, victim).vector
    assert has_variance(first - second - exact, 2 * plan.variance)
    assert ledger.plan.variance == plan.variance


def written(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def holds(data: bytes, secret: bytes) -> bool:
    """Whether a secret stands there, in any way that programs write bytes."""
    number = int.from_bytes(secret, "little"), int.from_bytes(secret, "big")
    forms = [
        secret,
        secret[::-1],
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        repr(list(secret)).encode(),
        *(str(value).encode() for value in number),
    ]
    return any(form in data for form in forms)


def test_no_key_of_the_noise_and_no_name_gets_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []
    real = os.urandom

    def recorded(size: int) -> bytes:
        drawn.append(real(size))
        return drawn[-1]

    monkeypatch.setattr(os, "urandom", recorded)
    plan = watched(dimension=64)
    with Ledger.create(tmp_path / "ledger", plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        reservation.participate([b"a name that nobody else has"])
        mechanism = CentralMechanism(plan)
        mechanism.prepare(reservation)
        ledger.reserve(1)  # what was prepared is lost, as in a crash
        released(ledger, 1)
    keys = [token for token in drawn if len(token) == 32]
    data = written(tmp_path / "ledger")
    assert len(keys) >= 2 and len(data) > 1000
    assert not any(holds(data, key) for key in [*keys, KEY])
    assert b"a name that nobody else has" not in data and b"three" not in data
    # A checkpoint that keeps its seed is found by the same search.
    (tmp_path / "ledger" / "checkpoint.json").write_text(f'{{"seed": "{keys[0].hex()}"}}')
    assert holds(written(tmp_path / "ledger"), keys[0])


# Getting the budget back


class InMemory:
    """A budget as some frameworks hold it, set anew at each start of a run."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def spend(self) -> None:
        assert self.left > 0
        self.left -= 1


def test_a_restart_brings_no_budget_back(tmp_path: Path) -> None:
    """X21: three starts with a budget of three rounds are nine rounds there, and three here."""
    theirs = 0
    for _ in range(3):
        budget = InMemory(3)
        while budget.left:
            budget.spend()
            theirs += 1
    assert theirs == 9
    plan = plans.client(rounds=9)
    three = epsilon(compose(plan.spend(3), plan.adjacency), plan.failure)[0]
    plan = plans.client(rounds=9, epsilon=three * 1.001)
    ours, head = 0, None
    Ledger.create(tmp_path / "ledger", plan).close()
    for _ in range(3):
        with Ledger.open(tmp_path / "ledger", checkpoint=head, plan=plan) as ledger:
            while ledger.remaining_rounds():
                released(ledger, ours)
                ours += 1
            with pytest.raises(BudgetError):
                ledger.reserve(ours)
            head = ledger.head
        with pytest.raises(LedgerError):
            Ledger.create(tmp_path / "ledger", plan)
    assert ours == 3


def test_a_restored_ledger_is_refused_by_the_newer_checkpoint(tmp_path: Path) -> None:
    plan = watched(dimension=4)
    folder, backup = tmp_path / "ledger", tmp_path / "backup"
    with Ledger.create(folder, plan, participation_key=KEY) as ledger:
        released(ledger, 0)
    shutil.copytree(folder, backup)
    with opened(folder, None) as ledger:
        newest = released(ledger, 1).receipt.head
        spent = ledger.epsilon()
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    # Without a checkpoint the attack succeeds, as it has to: nothing else tells an old copy.
    with opened(folder, None) as ledger:
        assert ledger.epsilon() < spent
    with pytest.raises(RollbackError):
        opened(folder, newest)
    shutil.rmtree(folder)
    with pytest.raises(RollbackError):
        opened(folder, newest)


def test_a_budget_that_was_spent_twice_in_a_copy_fits_no_checkpoint_of_the_other(
    tmp_path: Path,
) -> None:
    plan = watched(dimension=4)
    one, other = tmp_path / "one", tmp_path / "other"
    Ledger.create(one, plan, participation_key=KEY).close()
    shutil.copytree(one, other)
    heads = []
    for folder in (one, other):
        with opened(folder, None) as ledger:
            heads.append([released(ledger, number).receipt.head for number in range(2)][-1])
    for folder, checkpoint in ((one, heads[1]), (other, heads[0])):
        with pytest.raises(RollbackError):
            opened(folder, checkpoint)
    opened(one, heads[0]).close()


def test_noise_that_was_drawn_is_not_voided_away(tmp_path: Path) -> None:
    plan = watched(dimension=4)
    with Ledger.create(tmp_path / "ledger", plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        CentralMechanism(plan).prepare(reservation)
        with pytest.raises(ReservationError):
            reservation.void("the result was not to my liking")
        rounds.admit(again := ledger.reserve(0))
        with pytest.raises(ReservationError):
            again.void("the cohort was not to my liking")
        (again := ledger.reserve(0)).void("the network is down")  # of nobody's choosing, it may be
        with pytest.raises(ReservationError):
            CentralMechanism(plan).release(rounds.sum_of(plan, []), again)


@pytest.mark.slow  # quickly asked of the lock itself, in test_ledger_chain
def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from fedcore.errors import LedgerBusyError\n"
        "from fedcore.privacy import Ledger\n"
        "try: Ledger.open(sys.argv[1], checkpoint=None)\n"
        "except LedgerBusyError: print('refused')\n"
    )
    plan = plans.client()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(LedgerBusyError):
            Ledger.open(tmp_path / "ledger", checkpoint=None)
        command = [sys.executable, "-c", program, str(tmp_path / "ledger")]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert found.stdout == "refused\n", found.stderr
        ledger.reserve(0)
