"""`fed privacy plan` finds the third of noise, epsilon and rounds, or says what does not add up."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from fedcore.privacy.accounting import account
from fedcore.privacy.calibration import rounds_within
from fedcore.privacy.claims import upward
from fedcore.privacy.commands.layout import rows
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import CompactShares
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy.commands_world import CENTRAL, SHARES, Fed, planned
from tests.variants import mostly_slow

# Of noise, epsilon and rounds, the third.


@pytest.mark.parametrize("accountant", mostly_slow(["rdp", "best", "pld"]))
def test_the_noise_that_is_found_is_the_least_that_the_budget_allows(
    fed: Fed, accountant: str
) -> None:
    terms = [*CENTRAL, "--rounds", 100, "--epsilon", 1, "--accountant", accountant]
    plan, data = planned(fed, *terms)
    assert data["found"] == "noise" and data["found_by"] == accountant
    assert plan == plan.calibrated(accountant=accountant)  # type: ignore[arg-type]
    less = replace(plan, noise_multiplier=plan.noise_multiplier * Fraction(99, 100))
    for close, holds in ((plan, True), (less, False)):
        cost = account(
            close.spend(close.reservations),
            adjacency=close.adjacency,
            delta=close.failure,
            accountant=accountant,  # type: ignore[arg-type]
        )
        assert (cost.value <= 1) is holds


@pytest.mark.parametrize("accountant", ["rdp", pytest.param("pld", marks=pytest.mark.slow)])
def test_a_plan_lasts_all_its_rounds_in_the_ledger_that_it_names(
    fed: Fed, tmp_path: Path, accountant: str
) -> None:
    for number, terms in enumerate(
        (
            ("--rounds", 20, "--epsilon", 1),
            ("--rounds", 20, "--noise", "0.9"),
            ("--noise", "1.5", "--epsilon", 1),
        )
    ):
        plan, data = planned(fed, *CENTRAL, *terms, "--accountant", accountant)
        assert data["ledger_accountant"] == accountant
        assert data["rounds"] == {"planned": plan.rounds, "affordable": plan.rounds}
        folder = tmp_path / str(number)
        with Ledger.create(folder, plan, accountant=data["ledger_accountant"]) as ledger:
            assert ledger.remaining_rounds() == plan.rounds


def test_the_epsilon_that_is_found_is_the_accountants(fed: Fed) -> None:
    plan, data = planned(fed, *CENTRAL, "--rounds", 1000, "--noise", 1)
    cost = account(plan.spend(1000), adjacency=Adjacency.ADD_REMOVE, delta=1e-5)
    assert (data["found"], plan.epsilon) == ("epsilon", cost.rdp)
    assert data["digest"] == plan.digest.hex()
    assert data["rdp"] == {"epsilon": cost.rdp, "order": cost.order}
    assert data["pld"] == {"epsilon": cost.pld, "why_not": ""}
    assert data["epsilon"] == cost.value == cost.pld
    assert data["cross_checked"] and data["delta"] == 1e-5


def test_the_rounds_that_are_found_are_all_that_the_budget_pays_for(fed: Fed) -> None:
    # The design's golden: epsilon 1.99962 after 879 rounds and 2.00052 after 880.
    plan, data = planned(fed, *CENTRAL, "--noise", 1, "--epsilon", 2)
    assert (data["found"], plan.rounds) == ("rounds", 879)
    assert data["rdp"]["epsilon"] == pytest.approx(1.99962, abs=1e-5)


def test_a_budget_that_ends_early_is_said_to_and_fails_nothing(fed: Fed) -> None:
    terms = [*CENTRAL, "--noise", 1, "--epsilon", 2, "--rounds", 1000]
    code, out, err = fed("plan", *terms)
    assert code == 0 and err == "the budget ends after 879 of 1000 rounds, by RDP\n"
    assert "rounds          1000 planned; the budget pays for 879, by RDP\n" in out
    plan, data = planned(fed, *terms)
    assert data["rounds"] == {"planned": 1000, "affordable": 879} and data["found"] is None
    _, data = planned(fed, *terms, "--accountant", "best")
    more = rounds_within(
        2, plan.event, adjacency=plan.adjacency, delta=plan.failure, accountant="pld"
    )
    assert data["rounds"]["affordable"] == min(1000, more)
    assert data["ledger_accountant"] == "pld"
    assert fed("plan", *terms, "-q")[2] == ""


def test_without_sampling_the_budget_pays_for_participations(fed: Fed) -> None:
    base = [*("--unit", "user", "--population", "500", "--sampling", "none"), "--noise", "1"]
    base += ["--separation", "4"]
    plan, data = planned(fed, *base, "--participations", 3, "--rounds", 100)
    assert plan.sampling == Uncontrolled(4, 3) and plan.unit is Unit.USER
    assert sum(plan.spend(plan.reservations).values()) == 3 and plan.denominator == 500
    assert data["rounds"] == {"planned": 100, "affordable": 100}
    lesser = ["--participations", 9, "--rounds", 100, "--epsilon", plan.epsilon, "--cohort", 20]
    plan, data = planned(fed, *base, *lesser)
    assert data["rounds"] == {"planned": 100, "affordable": 3} and plan.denominator == 20


@pytest.mark.parametrize(
    ("terms", "sampling", "adjacency", "denominator"),
    [
        ("poisson --rate 1/8", Poisson(2**29), Adjacency.ADD_REMOVE, 125),
        ("poisson --rate .125", Poisson(2**29), Adjacency.ADD_REMOVE, 125),
        ("poisson --cohort 125", Poisson(2**29), Adjacency.ADD_REMOVE, 125),
        ("poisson --rate 1e-4", Poisson(429497), Adjacency.ADD_REMOVE, 1),
        (
            "truncated --cohort 125 --limit 100",
            TruncatedPoisson(2**29, 100, 1000),
            Adjacency.ZERO_OUT,
            100,
        ),
        ("fixed --cohort 50", FixedSize(50, 1000), Adjacency.REPLACE_ONE, 50),
        ("none --participations 2", Uncontrolled(1, 2), Adjacency.ZERO_OUT, 1000),
        (
            "none --participations 2 --adjacency replace-one",
            Uncontrolled(1, 2),
            Adjacency.REPLACE_ONE,
            1000,
        ),
    ],
)
def test_each_sampling_is_made_as_it_was_asked_for(
    fed: Fed, terms: str, sampling: object, adjacency: Adjacency, denominator: int
) -> None:
    base = "--unit record --population 1000 --noise 3/2 --rounds 2 --steps 3 --grid-steps 1024"
    plan, _ = planned(fed, *base.split(), "--sampling", *terms.split())
    assert (plan.sampling, plan.adjacency, plan.denominator) == (sampling, adjacency, denominator)
    assert plan.noise_multiplier == Fraction(3, 2)
    assert (plan.steps, plan.rounds, plan.grid) == (3, 2, 1024)
    assert plan.failure == 1000**-1.1


def test_the_text_of_a_plan_is_this(fed: Fed) -> None:
    terms = [*SHARES, "--noise", "1", "--epsilon", "8"]
    code, out, err = fed("plan", *terms)
    assert (code, err) == (0, "")
    plan, data = planned(fed, *terms)
    said = plan.statement()
    epsilon = upward(data["epsilon"])
    assert 7.99 < float(epsilon) <= 8 and said.pop("unit") == "one client"
    expected = f"""\
noise           1 clipping norms
epsilon         {epsilon} at delta 0.000149681
  by RDP        {epsilon}, at order 3
  by PLD        none: how far sums of discrete Gaussians lie from a rounded Gaussian was measured,
                KL = 1/(576 sigma^4) a coordinate, but is not proven
budget          epsilon 8
rounds          1462 planned, found by RDP; the budget pays for all of them
a round         24 shares of noise, 1 norms together on a Poisson sample of rate 0.0333333
its sum         1000 coordinates
unit            one client of 3000; {said.pop("adjacency")}
{rows(said.items())}
ledger          Ledger.create(…, plan, accountant="rdp")
not covered     the choice of hyper-parameters, and test results, where they were computed from the
                same data
                whatever else is computed from the data and not charged to the ledger
                more units than the population counts, or one unit that comes under several names
                a ledger that was replaced by an older copy, unless a checkpoint elsewhere holds its
                head
                a stop that was chosen by what had been released: then the budget is what holds
plan            {plan.digest.hex()}
"""
    assert out == expected


def test_counts_may_be_written_as_powers_of_ten(fed: Fed) -> None:
    base = ["--unit", "record", "--sampling", "poisson", "--epsilon", "2", "--noise", "1"]
    plain, _ = planned(fed, *base, "--population", 1_000_000, "--cohort", 2500)
    for population, cohort in (("1e6", "2.5e3"), ("1E+06", "25e2"), ("10.0e5", "2500")):
        plan, _ = planned(fed, *base, "--population", population, "--cohort", cohort)
        assert plan == plain
    for population in ("1e-3", "1.5e0", "1e999", "1/1", "inf", "0x10", "1e6.0", "-1e6"):
        code, _, err = fed("plan", *base, "--population", population, "--cohort", "10")
        assert code == 4 and "argument --population" in err


def test_a_compact_plan_says_what_is_sent(fed: Fed, tmp_path: Path) -> None:
    terms = [*SHARES, "--compact", "--rounds", "100", "--epsilon", "4", "--clipping-norm", "1"]
    plan, data = planned(fed, *terms)
    assert plan.noise == CompactShares(250, 28, 4, slot_bits=16) and data["epsilon"] <= 4
    code, out, _ = fed("plan", *terms, "--out", tmp_path / "plan.json")
    assert code == 0
    for words in (
        f"times {plan.contribution_norm} grid steps",
        f"1000 coordinates, sent as {plan.wire_dimension} integers of 16 bits",
        "Skellam noise of",
        "dp-accounting has no distribution for Skellam noise",
    ):
        assert words in out
    assert fed("plan", "--plan", tmp_path / "plan.json")[0] == 0


def test_a_figure_is_never_rounded_in_our_favour(fed: Fed) -> None:
    _, out, _ = fed("plan", *CENTRAL, "--rounds", 1000, "--epsilon", 2)
    assert ", found by RDP\n" in out
    _, data = planned(fed, *CENTRAL, "--rounds", 1000, "--epsilon", 2)
    shown = re.search(r"by RDP +([0-9.]+)", out)
    assert shown is not None
    assert data["rdp"]["epsilon"] <= float(shown[1]) <= data["rdp"]["epsilon"] * 1.0001
    assert (
        f"noise           {float(Fraction(data['noise_multiplier'])):.6g} clipping norms (" in out
    )


def test_without_the_extra_a_plan_says_why_there_is_no_second_figure(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    terms = [*CENTRAL, "--rounds", 100, "--epsilon", 1]
    code, out, _ = fed("plan", *terms)
    assert code == 0 and "  by PLD        none: dp-accounting is not installed\n" in out
    _, data = planned(fed, *terms, "--accountant", "best")
    assert data["pld"] == {"epsilon": None, "why_not": "dp-accounting is not installed"}
    assert data["ledger_accountant"] == "rdp"
    code, out, err = fed("plan", *terms, "--accountant", "pld")
    assert (code, out) == (4, "") and err.startswith("FED-1001")


# What does not add up.


@pytest.mark.parametrize(
    ("terms", "code", "said"),
    [
        ("", "FED-1109", "--unit, --population, --sampling missing"),
        ("--unit client --population 9 --sampling poisson", "FED-1109", "two of --noise"),
        ("{client} --sampling poisson --noise 1", "FED-1109", "--epsilon and --rounds are missing"),
        ("{client} --sampling poisson {two}", "FED-1109", "--rate Q or --cohort M"),
        ("{client} --sampling poisson --rate .1 --cohort 9 {two}", "FED-1109", "one of the two"),
        ("{client} --sampling poisson --rate .1 --limit 9 {two}", "FED-1109", "--limit beside"),
        ("{client} --sampling fixed --rate .1 {two}", "FED-1109", "--cohort missing"),
        ("{client} --sampling fixed --cohort 9 --rate .1 {two}", "FED-1109", "would be ignored"),
        ("{client} --sampling truncated --rate .1 {two}", "FED-1109", "--limit missing"),
        ("{client} --sampling truncated --limit 9 {two}", "FED-1109", "--rate Q or --cohort M"),
        ("{client} --sampling none {two}", "FED-1109", "--participations, --rounds missing"),
        (
            "{client} --sampling none --participations 3 --noise 1 --epsilon 1",
            "FED-1109",
            "--rounds missing",
        ),
        ("{poisson} {two} --noise-by clients", "FED-1109", "--clients, --survivors, --corrupt"),
        ("{poisson} {two} --clients 9", "FED-1109", "--clients beside noise by the server"),
        ("{poisson} {two} --compact", "FED-1109", "--compact beside noise by the server"),
        ("{poisson} {two} --out never.json", "FED-1109", "--dimension, --clipping-norm missing"),
        ("{poisson} {two} --plan never.json", "FED-1109", "beside --plan"),
        ("--plan never.json", "FED-1109", "never.json cannot be read"),
        ("{client} --population 0 --sampling poisson --rate .1 {two}", "FED-1109", "--population"),
        ("{poisson} --noise 1/0 --epsilon 1", "FED-1109", "is no number like 1.1 or 11/10"),
        ("{poisson} --noise -1 --epsilon 1", "FED-1109", "is no number like 1.1 or 11/10"),
        ("{poisson} --noise 1e999999999 --epsilon 1", "FED-1109", "is no number like 1.1 or 11/10"),
        ("{poisson} --noise nan --epsilon 1", "FED-1109", "is no number like 1.1 or 11/10"),
        ("{poisson} --noise ١ --epsilon 1", "FED-1109", "is no number like 1.1 or 11/10"),
        ("{poisson} --rounds 1.5 --epsilon 1", "FED-1109", "argument --rounds"),
        ("{poisson} {two} --unit household", "FED-1109", "argument --unit"),
        ("{poisson} --noise 0 --epsilon 1", "FED-1501", "noise_multiplier"),
        ("{poisson} --noise 1 --epsilon 0", "FED-1501", "epsilon = 0.0"),
        ("{poisson} --noise 1 --epsilon nan", "FED-1501", "epsilon = nan"),
        ("{poisson} --rounds 10 --epsilon inf", "FED-1501", "epsilon = inf"),
        ("{poisson} --rounds 0 --epsilon 1", "FED-1501", "rounds = 0"),
        ("{poisson} {two} --delta 0.5", "FED-1501", "outright would satisfy it"),
        ("{poisson} {two} --delta 0", "FED-1501", "delta = 0.0"),
        ("{poisson} {two} --steps 2", "FED-1501", "a client sends one update a round"),
        ("{poisson} {two} --adjacency replace-one", "FED-1501", "no accountant bounds Poisson"),
        ("{client} --sampling poisson --cohort 1001 {two}", "FED-1501", "sampling probability"),
        ("{client} --sampling poisson --rate 0 {two}", "FED-1501", "sampling probability"),
        ("{client} --sampling fixed --cohort 1001 {two}", "FED-1501", "cannot be drawn"),
        (
            "{client} --sampling truncated --rate .1 --limit 1001 {two}",
            "FED-1501",
            "is never cut",
        ),
        (
            "{client} --sampling none --participations 0 --rounds 3 --noise 1",
            "FED-1501",
            "maximum participations of 0",
        ),
        ("{shared} --corrupt 80 {two}", "FED-1501", "do not add up"),
        ("{shared} --grid-steps 10 {two}", "FED-1511", "take more grid_steps"),
        ("{shared} --clients 3000 {two}", "FED-1511", "do not fit into 32 bits"),
        ("{poisson} {two} --clipping-norm 0", "FED-1501", "clipping norm"),
        ("{poisson} --noise .1 --epsilon .1", "FED-1502", "does not pay for one round"),
        ("{shared} {two} --accountant pld", "FED-1503", "no privacy loss distribution"),
        (
            "{client} --population 1" + "0" * 30 + " --sampling fixed --cohort 9 {two}",
            "FED-1501",
            "2^",
        ),
    ],
)
def test_what_does_not_add_up_is_refused_with_a_reason_and_a_remedy(
    fed: Fed, terms: str, code: str, said: str
) -> None:
    client = "--unit client --population 1000"
    text = terms.format(
        client=client,
        poisson=f"{client} --sampling poisson --rate .1",
        shared=" ".join(SHARES),
        two="--noise 1 --epsilon 1",
    )
    exit_code, out, err = fed("plan", *text.split())
    assert out == "" and exit_code == (4 if code in ("FED-1109", "FED-1501", "FED-1511") else 1)
    assert err.startswith(code) and said in err
    assert "\n  Why: " in err and "\n  Fix: " in err


def test_every_number_of_rounds_that_a_plan_counts_can_be_found(fed: Fed) -> None:
    terms = "--unit client --population 1000000 --sampling poisson --rate 1e-9 --noise 50"
    plan, data = planned(fed, *terms.split(), "--epsilon", 3)
    assert plan.rounds == data["rounds"]["affordable"] == 2**36
    # Distributions of so many steps take hours, and nobody has asked for them.
    assert data["pld"] == {"epsilon": None, "why_not": "it was not asked for"}
