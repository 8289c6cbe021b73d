"""A private run that is killed pays once for what it released, and never less than was spent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fedcore.errors import BudgetError, DataFormatError, LedgerError, RollbackError
from fedcore.failpoints import arm, disarm
from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.models import initial_theta
from fedcore.federated.payments import Accounts
from fedcore.privacy import Verification, verify
from fedsim.records import Result, RoundRecord, digest_of
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from tests.sim.run.kills import is_killed
from tests.sim.run.test_simulation import DRAWN, LOSING, RECORDS, WHOEVER_COMES
from tests.sim.scenarios import scenario_of

ROUNDS = 3
SMALL = {"rounds": ROUNDS, "minimum": 3, "goal": 8}
PLANS = {
    "records": {"privacy": RECORDS, "algorithm": 'name = "fedsgd", lr = 0.5', "more": LOSING},
    "clients who come": {"privacy": WHOEVER_COMES, "algorithm": 'name = "fedadam"', "goal": 12},
    "clients drawn": {"privacy": DRAWN, "goal": 220, "clients": 300, "rows": 1200},
}


def scenario(plan: str) -> Scenario:
    return scenario_of(**{**SMALL, **PLANS[plan]})  # type: ignore[arg-type]


def gone_on(scenario: Scenario, root: Path) -> tuple[Result, tuple[RoundRecord, ...]]:
    """Begins a run, or goes on with the one that is there, until it has ended."""
    there = sorted(path for path in root.glob("*") if not path.name.startswith("."))
    if there:
        folder = RunFolder.resume(there[0], scenario_digest=scenario.digest.hex())
    else:
        folder = RunFolder.create(root, plan_of(scenario))
    with folder:
        return simulate_in_folder(scenario, folder), folder.rounds


def ledger(root: Path) -> Path:
    (path,) = root.glob("[!.]*/ledgers/small")
    return path


def kept(records: tuple[RoundRecord, ...]) -> list[object]:
    """All of each record that noise has no part in."""
    return [
        (one.selected, one.reported, one.funnel, one.lost, one.attempts, one.start_s, one.end_s)
        for one in records
    ]


def require_released(scenario: Scenario, root: Path, records: tuple[RoundRecord, ...]) -> None:
    """Each model follows from what the ledger has released for its round, once."""
    plan, algorithm = scenario.task.plan, algorithm_of(scenario.task)
    assert plan is not None
    run = ledger(root).parent.parent
    accounts = Accounts(run / "ledgers", participation_key=(run / "participation.key").read_bytes())
    account = accounts.open("small", plan, checkpoint=None)
    theta, state, clipping = initial_theta(scenario.task), algorithm.start(), None
    if hasattr(plan.clipping, "start"):
        clipping = plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    for record in records:
        mean = account.released(record.round, clipping)
        assert mean is not None
        theta, state = algorithm.apply(theta, mean, state, round=record.round)
        clipping = mean.clipping
        assert record.model == digest_of(theta)
    accounts.close()


@pytest.fixture
def armed() -> Iterator[None]:
    yield
    disarm()


def interrupted(scenario: Scenario, root: Path, point: str) -> Verification:
    """What the ledger holds of a run that fails at a point of its second round."""
    arm(f"{point}=error@2", test_mode=True)
    with pytest.raises(OSError, match="failpoint release"):
        gone_on(scenario, root)
    disarm()
    return verify(ledger(root))


@pytest.mark.parametrize(
    "plan",
    [name if name == "records" else pytest.param(name, marks=pytest.mark.slow) for name in PLANS],
)
def test_what_was_released_before_a_kill_is_taken_up_and_paid_for_once(
    tmp_path: Path, armed: None, plan: str
) -> None:
    one = scenario(plan)
    whole, undisturbed = gone_on(one, tmp_path / "whole")
    before = interrupted(one, tmp_path / "parts", "release.after_publish")
    assert (before.reservations, before.released) == (2, 2)
    result, records = gone_on(one, tmp_path / "parts")
    after = verify(ledger(tmp_path / "parts"))
    assert (after.reservations, after.released) == (ROUNDS, ROUNDS)
    assert result.privacy == whole.privacy
    require_released(one, tmp_path / "parts", records)
    if plan != "clients drawn":  # which are others every time
        assert kept(records) == kept(undisturbed)


@pytest.mark.parametrize("point", ["release.after_reserve", "release.before_publish"])
def test_what_was_paid_for_and_not_released_is_paid_for_again(
    tmp_path: Path, armed: None, point: str
) -> None:
    one = scenario("records")
    before = interrupted(one, tmp_path, point)
    assert (before.reservations, before.released) == (2, 1)
    result, records = gone_on(one, tmp_path)
    after = verify(ledger(tmp_path))
    # The budget pays for the rounds of the task and no other: it ends before the last of them.
    assert len(records) == after.released == ROUNDS - 1 and after.reservations == ROUNDS
    assert "the privacy budget pays for no further round" in result.ended
    assert result.privacy is not None and result.privacy.epsilon == after.epsilon
    assert after.within_budget
    require_released(one, tmp_path, records)


def test_a_run_whose_only_round_was_paid_for_in_vain_has_no_result(
    tmp_path: Path, armed: None
) -> None:
    one = scenario_of(**{**SMALL, **PLANS["records"], "rounds": 1})  # type: ignore[arg-type]
    arm("release.before_publish=error", test_mode=True)
    with pytest.raises(OSError, match="failpoint release"):
        gone_on(one, tmp_path)
    disarm()
    with pytest.raises(BudgetError):
        gone_on(one, tmp_path)
    found = verify(ledger(tmp_path))
    assert (found.reservations, found.released) == (1, 0)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run was killed after the release of its second round, to be copied."""
    root = tmp_path_factory.mktemp("released")
    interrupted(scenario("records"), root, "release.after_publish")
    return root


@pytest.mark.parametrize("change", [None, {"round": 0}, {"reservation": 0}])
def test_a_release_of_which_nothing_is_told_is_not_made_again(
    tmp_path: Path, released: Path, change: dict[str, int] | None
) -> None:
    one = scenario("records")
    shutil.copytree(released, tmp_path, dirs_exist_ok=True)
    (told,) = tmp_path.glob("[!.]*/release.json")
    if change is None:
        told.unlink()
    else:
        told.write_text(json.dumps(json.loads(told.read_text()) | change))
    with pytest.raises(DataFormatError, match="round 2") as refused:
        gone_on(one, tmp_path)
    assert "not released twice" in refused.value.why
    assert verify(ledger(tmp_path)).released == 2


@pytest.fixture(scope="module")
def beside_an_older_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second round is released, and in .older its ledger before that."""
    root, one = tmp_path_factory.mktemp("beside"), scenario("records")
    interrupted(one, root, "release.after_reserve")
    shutil.copytree(ledger(root), root / ".older")
    arm("release.after_publish=error", test_mode=True)
    with pytest.raises(OSError, match="failpoint release"):
        gone_on(one, root)  # releases the second round, of which no checkpoint tells
    disarm()
    return root


@pytest.mark.parametrize("lost", [(), ("checkpoint.safetensors",), ("release.json",)])
def test_a_ledger_that_was_rolled_back_is_refused_whatever_else_is_lost(
    tmp_path: Path, beside_an_older_ledger: Path, lost: tuple[str, ...]
) -> None:
    one = scenario("records")
    shutil.copytree(beside_an_older_ledger, tmp_path, dirs_exist_ok=True)
    older = ledger(tmp_path)
    shutil.rmtree(older)
    if lost != ("release.json",):
        shutil.copytree(tmp_path / ".older", older)
    for name in lost:
        (older.parent.parent / name).unlink()
    with pytest.raises(RollbackError):
        gone_on(one, tmp_path)


def test_no_ledger_is_begun_anew_where_a_round_was_over(tmp_path: Path) -> None:
    one = scenario("records")
    gone_on(one, tmp_path)
    run = ledger(tmp_path).parent.parent
    shutil.rmtree(run / "ledgers")
    for name in ("result.json", "checkpoint.safetensors", "release.json"):
        (run / name).unlink()
    with pytest.raises(LedgerError):
        gone_on(one, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "halfway", "after"])
def test_a_private_run_that_is_killed_at_any_write_never_counts_too_little(
    tmp_path: Path, when: str
) -> None:
    one = scenario_of(privacy=RECORDS, algorithm='name = "fedsgd", lr = 0.5', rounds=2)
    repaid = 0
    for at in range(1, 400):
        root = tmp_path / str(at)
        root.mkdir()
        killed = is_killed(partial(gone_on, one, root), at, when)
        result, records = gone_on(one, root)
        found = verify(ledger(root))
        assert found.released == len(records) and not found.damaged and found.within_budget
        # A round is paid for once more at the most, and then the last one is not paid for.
        assert found.released <= found.reservations == 2, f"killed {when} call {at}"
        assert result.privacy is not None and result.privacy.epsilon == found.epsilon
        require_released(one, root, records)
        repaid += found.released < 2
        if not killed:
            break
    else:
        pytest.fail("the run never ends")
    assert at > 30 and 0 < repaid < at / 2
