"""Crashes, and people who are too many: nothing is released that was not paid for."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import LedgerError, ParticipationError
from fedcore.federated.payments import Account, Accounts
from fedcore.privacy import PrivacyPlan
from tests.server.federation.test_rounds import CLIENTS
from tests.server.federation.world import KEY, task_of

NAMES = [bytes([number]) * 16 for number in range(6)]


def opened(folder: Path) -> Account:
    """The account of a task of 5 clients, as a process that begins finds it."""
    return Accounts(folder, participation_key=KEY).create("task", plan())


def plan() -> PrivacyPlan:
    found = task_of(privacy=CLIENTS.format(noise="central"), secure="", minimum=1).plan
    assert found is not None
    return found


def spent(account: Account, clients: list[bytes], *, round: int) -> None:
    """A round that these clients took part in, and that was released."""
    payment = account.pay(round, account.intent())
    payment.begin(clients, None)
    payment.release(
        [np.zeros(account.plan.dimension, np.int64)], reports=len(clients), clipping=None
    )


def test_a_payment_that_is_taken_up_counts_everybody_who_takes_part(tmp_path: Path) -> None:
    account = opened(tmp_path)
    spent(account, NAMES[:3], round=0)
    intent = account.intent()
    account.pay(1, intent)
    account.ledger.close()  # the process dies before it says who takes part

    account = opened(tmp_path)
    payment = account.pay(1, intent)
    with pytest.raises(ParticipationError):  # the plan counts 5 units; these would make 6
        payment.begin(NAMES[3:], None)
    assert account.ledger.participations.total == 3
    account.ledger.close()


def test_a_payment_that_is_taken_up_counts_nobody_twice(tmp_path: Path) -> None:
    account = opened(tmp_path)
    intent = account.intent()
    account.pay(0, intent).begin(NAMES[:3], None)
    account.ledger.close()

    account = opened(tmp_path)
    account.pay(0, intent).begin(NAMES[:4], None)  # one more came to the same round
    assert account.ledger.participations.total == 4
    assert account.ledger.history.reservations == 1
    account.ledger.close()


@pytest.mark.parametrize("left", ["nothing", "a folder", "an empty file", "half a line"])
def test_what_a_crash_left_of_a_new_account_is_taken_over(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "task"
    if left != "nothing":
        folder.mkdir()
    if left in ("an empty file", "half a line"):
        (folder / "privacy.ledger").write_bytes(b'{"kind"' if left == "half a line" else b"")
    account = opened(tmp_path)
    spent(account, NAMES[:3], round=0)
    account.ledger.close()
    account = opened(tmp_path)  # and one that is whole is opened
    assert account.ledger.history.reservations == 1
    account.ledger.close()


def test_an_account_is_not_made_anew_beside_what_it_has_released(tmp_path: Path) -> None:
    account = opened(tmp_path)
    spent(account, NAMES[:3], round=0)
    account.ledger.close()
    (tmp_path / "task" / "privacy.ledger").write_bytes(b"")
    with pytest.raises(LedgerError):
        opened(tmp_path)


def test_an_account_that_is_opened_while_all_are_closed_waits_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, opens = Accounts(tmp_path, participation_key=KEY), plan()
    first, made = accounts.create("first", opens), list[Account]()
    accounts.create("second", opens)
    third = threading.Thread(target=lambda: made.append(accounts.create("third", opens)))
    close = first.ledger.close

    def closes_while_another_opens() -> None:
        third.start()
        third.join(0.2)
        assert not made
        close()

    monkeypatch.setattr(first.ledger, "close", closes_while_another_opens)
    accounts.close()
    third.join()
    spent(made[0], NAMES[:3], round=0)
    accounts.close()
