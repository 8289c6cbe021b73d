"""`fed privacy` answers as the library does, refuses in its words, and trusts no file."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import resource
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.cli import main
from fedcore.console import ENVELOPE_VERSION
from fedcore.errors import ArgumentError, DataFormatError, FedcoreError
from fedcore.privacy import accounting, ledger_history
from fedcore.privacy.accounting import account
from fedcore.privacy.audit import Finding, canary_fit, inversion, membership, noise_fit, one_run
from fedcore.privacy.calibration import rounds_within
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.commands import files
from fedcore.privacy.commands.layout import upward
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import CompactShares, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy.ledger_world import KEY, bounded, plan_of

CLIENT = ("--unit", "client", "--population", "1000", "--delta", "1e-5")
CENTRAL = (*CLIENT, "--sampling", "poisson", "--rate", "0.01")
SHARES = (
    *("--unit", "client", "--population", "3000", "--sampling", "poisson", "--cohort", "100"),
    *("--noise-by", "clients", "--clients", "150", "--survivors", "80", "--corrupt", "10"),
    *("--dimension", "1000"),
)
CLAIM = ("--epsilon", "1", "--delta", "1e-5")

Fed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fed(capsys: pytest.CaptureFixture[str]) -> Fed:
    """Runs `fed privacy` here: its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["privacy", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return (code, out, err)

    return run


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For no disk, and for no grid finer than it takes to tell figures apart."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    coarse = partial(accounting.pld_epsilon, interval=2e-3)
    monkeypatch.setattr(accounting, "pld_epsilon", coarse)
    monkeypatch.setattr(ledger_history, "pld_epsilon", coarse)


def data_of(printed: str, command: str) -> Any:
    envelope = json.loads(printed, parse_constant=pytest.fail)
    assert list(envelope) == ["version", "command", "data"]
    assert (envelope["version"], envelope["command"]) == (ENVELOPE_VERSION, f"privacy {command}")
    return envelope["data"]


def planned(fed: Fed, *arguments: object) -> tuple[PrivacyPlan, Any]:
    """The plan, and all that is said of it, which is the same in both forms of JSON."""
    code, out, _ = fed("plan", *arguments, "--format", "jsonl")
    assert code == 0 and out.count("\n") == 1
    data = data_of(out, "plan")
    return PrivacyPlan.from_json(data["plan"]), data


def spend(folder: Path, plan: PrivacyPlan, rounds: int, **options: Any) -> None:
    with Ledger.create(folder, plan, **options) as ledger:
        for round_ in range(rounds):
            reservation = ledger.reserve(round_)
            reservation.mark_drawn()
            reservation.release(b"payload")


# Of noise, epsilon and rounds, the third.


@pytest.mark.parametrize("accountant", ["rdp", "pld", "best"])
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


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
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
        ("none --participations 2", Uncontrolled(1, 2), Adjacency.ADD_REMOVE, 1000),
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
    code, out, err = fed("plan", *SHARES, "--noise", "1", "--epsilon", "8")
    assert (code, err) == (0, "")
    assert out == (
        """\
noise           1 clipping norms
epsilon         7.9986 at delta 0.000149681
  by RDP        7.9986, at order 3
  by PLD        none: how far sums of discrete Gaussians lie from a rounded Gaussian was measured,
                KL = 1/(576 sigma^4) a coordinate, but is not proven
budget          epsilon 8
rounds          1462 planned, found by RDP; the budget pays for all of them
a round         70 shares of noise, 1 norms together on a Poisson sample of rate 0.0333333
its sum         1000 coordinates, divided by 100
unit            one client of 3000; add or remove one
sampling        Poisson: every unit joins each round by a coin of its own with probability
                0.0333333, drawn from the operating system's generator; whoever learns who joined
                gains what this sampling had saved
trust           nobody is trusted with a sum: each of at least 80 clients adds its share of discrete
                Gaussian noise before secure aggregation, and up to 10 of them may collude with the
                server
clipping        each contribution is cut to length 1
quantisation    exact, 1048576 grid steps in a clipping norm
ledger          Ledger.create(…, plan, accountant="rdp")
not covered     the choice of hyper-parameters, and test results, where they were computed from the
                same data
                whatever else is computed from the data and not charged to the ledger
                more units than the population counts, or one unit that comes under several names
plan            fd681afc04024bc2547497a1fa718d28335de61232141efc3b5ebb87308b2d63
"""
    )


def test_a_compact_plan_says_what_is_sent(fed: Fed, tmp_path: Path) -> None:
    terms = [*SHARES, "--compact", "--rounds", "100", "--epsilon", "4", "--clipping-norm", "1"]
    plan, data = planned(fed, *terms)
    assert plan.noise == CompactShares(150, 80, 10, slot_bits=16) and data["epsilon"] <= 4
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


@given(value=st.floats(min_value=1e-300, max_value=1e300))
def test_five_digits_upward_are_at_most_a_ten_thousandth_more(value: float) -> None:
    assert Fraction(value) * Fraction(9999, 10**4) <= Fraction(value)
    assert value * (1 - 1e-15) <= float(upward(value)) <= value * 1.00011


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_what_has_no_digits_is_shown_as_it_is(value: float) -> None:
    assert float(upward(value)) == value


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
        ("{shared} --grid-steps 20 {two}", "FED-1501", "take more grid_steps"),
        ("{shared} --clients 3000 {two}", "FED-1501", "do not fit into 32 bits"),
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
    assert out == "" and exit_code == (4 if code == "FED-1109" else 1)
    assert err.startswith(code) and said in err
    assert "\n  Why: " in err and "\n  Fix: " in err


def test_every_number_of_rounds_that_a_plan_counts_can_be_found(fed: Fed) -> None:
    terms = "--unit client --population 1000000 --sampling poisson --rate 1e-9 --noise 50"
    plan, data = planned(fed, *terms.split(), "--epsilon", 3)
    assert plan.rounds == data["rounds"]["affordable"] == 2**36
    # Distributions of so many steps take hours, and nobody has asked for them.
    assert data["pld"] == {"epsilon": None, "why_not": "it was not asked for"}


# A plan becomes a file, the file a ledger, the ledger a certificate.


def test_a_plan_makes_a_ledger_that_can_be_shown_verified_and_exported(
    fed: Fed, tmp_path: Path
) -> None:
    path, folder = tmp_path / "plan.json", tmp_path / "ledger"
    code, out, err = fed(
        "plan", *CENTRAL, "--rounds", 5, "--epsilon", 2, "--dimension", 4,
        "--clipping-norm", "0.5", "--out", path, "--format", "json",
    )  # fmt: skip
    assert code == 0 and err == f"wrote the plan to {path}\n"
    text = path.read_text("utf-8")
    plan = PrivacyPlan.from_json(json.loads(text))
    assert plan.to_json() == data_of(out, "plan")["plan"]
    assert text == json.dumps(plan.to_json(), sort_keys=True, separators=(",", ":")) + "\n"
    again, data = planned(fed, "--plan", path)
    assert again == plan and data["found"] is None
    assert data["rounds"] == {"planned": 5, "affordable": 5}
    before = path.read_bytes()
    code, out, err = fed(
        "plan", *CENTRAL, "--rounds", 6, "--epsilon", 2, "--dimension", 4,
        "--clipping-norm", 1, "--out", path,
    )  # fmt: skip
    assert (code, out) == (4, "") and "it is there already" in err
    assert path.read_bytes() == before

    spend(folder, plan, 3)
    with Ledger.open(folder, checkpoint=None) as ledger:
        (tmp_path / "head.json").write_text(json.dumps(ledger.head.to_json()))
    code, out, _ = fed("show", folder)
    assert code == 0 and "rounds          3 of 5 released, 2 left\n" in out
    code, out, err = fed("verify", folder, "--checkpoint", tmp_path / "head.json")
    assert (code, err) == (0, "") and out.startswith("verdict         holds\n")
    assert "note" not in out
    code, out, _ = fed("export", folder)
    assert code == 0
    assert data_of(out, "export") == json.loads(json.dumps(certificate(folder)))

    ledger_file = folder / "privacy.ledger"
    honest = ledger_file.read_bytes()
    for place in range(0, len(honest), max(1, len(honest) // 40)):
        changed = bytearray(honest)
        changed[place] ^= 1
        ledger_file.write_bytes(changed)
        code, out, err = fed("verify", folder)
        assert (code, out) == (1, ""), place
        assert err.startswith("FED-1508") and "\n  Why: " in err and "\n  Fix: " in err
    ledger_file.write_bytes(honest)
    assert fed("verify", folder)[0] == 0


def test_a_ledger_is_shown_while_another_holds_it(fed: Fed, tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", plan_of()) as ledger:
        reservation = ledger.reserve(0)
        code, out, _ = fed("show", tmp_path / "ledger", "--format", "json")
        shown = data_of(out, "show")
        assert code == 0
        assert shown["rounds"] == {"planned": 3, "released": 0, "left": 3, "reserved": 0}
        assert shown["epsilon"] == ledger.epsilon() and shown["head"] == ledger.head.to_json()
        assert fed("verify", tmp_path / "ledger")[0] == fed("export", tmp_path / "ledger")[0] == 0
        assert (
            "reserved        round 0, paid for and not released\n"
            in fed("show", tmp_path / "ledger")[1]
        )
        reservation.mark_drawn()
        reservation.release(b"payload")  # the reader has changed nothing
        shown = data_of(fed("show", tmp_path / "ledger", "--format", "jsonl")[1], "show")
        assert shown["rounds"] == {"planned": 3, "released": 1, "left": 2, "reserved": None}


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("budget", [0.9, 2.0])
def test_as_many_rounds_are_left_as_the_ledger_itself_says(
    fed: Fed, tmp_path: Path, rounds: int, budget: float
) -> None:
    for number, plan in enumerate((plan_of(epsilon=budget), bounded(2, 3, epsilon=budget))):
        folder = tmp_path / str(number)
        with Ledger.create(folder, plan, participation_key=KEY) as ledger:
            for round_ in range(min(rounds, ledger.remaining_rounds())):
                ledger.reserve(round_)  # and a crash
            shown = data_of(fed("show", folder, "--format", "json")[1], "show")
            assert shown["rounds"]["left"] == ledger.remaining_rounds()
            ledger.finish()
            shown = data_of(fed("show", folder, "--format", "json")[1], "show")
            assert shown["closed"] and shown["rounds"]["left"] == ledger.remaining_rounds() == 0


def test_each_plan_of_a_ledger_has_its_line(fed: Fed, tmp_path: Path) -> None:
    first, second = plan_of(), plan_of(noise_multiplier=Fraction(2), epsilon=3.0)
    spend(tmp_path / "ledger", first, 2)
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        ledger.migrate(second)
        ledger.reserve(0)
        epsilon = ledger.epsilon()
    _, out, _ = fed("show", tmp_path / "ledger")
    assert f"plans           {first.digest.hex()[:16]}: budget 2, 2 reservations, 2 of 3" in out
    assert f"                {second.digest.hex()[:16]}: budget 3, 1 reservations, 0 of 3" in out
    assert "2 × Gaussian noise of 1 norms" in out and "1 × Gaussian noise of 2 norms" in out
    shown = data_of(fed("show", tmp_path / "ledger", "--format", "json")[1], "show")
    assert [segment["released"] for segment in shown["segments"]] == [2, 0]
    assert shown["epsilon"] == epsilon and isinstance(shown["order"], int)
    assert [event["count"] for event in shown["events"]] == [2, 1]


def test_participations_are_counted_with_the_key_alone(fed: Fed, tmp_path: Path) -> None:
    folder, key = tmp_path / "ledger", tmp_path / "key"
    key.write_bytes(KEY)
    with Ledger.create(folder, bounded(1, 3), participation_key=KEY) as ledger:
        for round_ in range(2):
            reservation = ledger.reserve(round_)
            reservation.participate([b"ada", b"bob"][: 2 - round_])
            reservation.mark_drawn()
            reservation.release(b"payload")
        code, out, _ = fed("show", folder, "--participation-key", key)
        assert code == 0 and "3 of 2 units, at most 2 of one of them" in out
        shown = data_of(
            fed("show", folder, "--participation-key", key, "--format", "json")[1], "show"
        )
        assert shown["participations"] == {"units": 2, "total": 3, "most": 2}
    assert "sealed; --participation-key counts them" in fed("show", folder)[1]
    key.write_bytes(bytes(32))
    assert fed("show", folder, "--participation-key", key)[0] == 1
    key.write_bytes(KEY + b"\n")
    code, _, err = fed("show", folder, "--participation-key", key)
    assert code == 4 and "is not 32 bytes" in err
    code, _, err = fed("show", folder, "--participation-key", tmp_path / "none")
    assert code == 4 and "cannot be read" in err
    spend(tmp_path / "other", plan_of(), 1)
    assert "not kept, for lack of a key" in fed("show", tmp_path / "other")[1]


def test_a_torn_line_is_told_of_and_harms_nothing(fed: Fed, tmp_path: Path) -> None:
    spend(tmp_path / "ledger", plan_of(), 1)
    with (tmp_path / "ledger" / "privacy.ledger").open("ab") as file:
        file.write(b'{"record":{"ki')
    code, out, _ = fed("show", tmp_path / "ledger")
    assert code == 0 and "its last line was never finished" in out
    code, out, _ = fed("verify", tmp_path / "ledger", "--format", "json")
    assert code == 0 and data_of(out, "verify")["torn"]


def test_noise_that_is_not_private_is_named_so_everywhere(fed: Fed, tmp_path: Path) -> None:
    plan = plan_of(noise=SimulatedNoise(1))
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    spend(tmp_path / "ledger", plan, 1)
    for arguments in (
        ("plan", "--plan", tmp_path / "plan.json"),
        ("show", tmp_path / "ledger"),
        ("export", tmp_path / "ledger", "--format", "text"),
    ):
        assert "NOT PRIVATE" in fed(*arguments)[1]


# verify


def test_a_ledger_older_than_its_checkpoint_does_not_hold(fed: Fed, tmp_path: Path) -> None:
    folder, head = tmp_path / "ledger", tmp_path / "head.json"
    spend(folder, plan_of(), 1)
    old = (folder / "privacy.ledger").read_bytes()
    with Ledger.open(folder, checkpoint=None) as ledger:
        ledger.reserve(1)
        head.write_text(json.dumps(ledger.head.to_json(), indent=1))
    assert fed("verify", folder, "--checkpoint", head)[0] == 0
    (folder / "privacy.ledger").write_bytes(old)
    code, out, _ = fed("verify", folder)
    assert code == 0 and "without --checkpoint an older copy" in out
    for arguments in (("verify", folder), ("export", folder)):
        code, out, err = fed(*arguments, "--checkpoint", head)
        assert (code, out) == (1, "") and err.startswith("FED-1509")


def test_a_damaged_payload_does_not_hold_and_is_named(fed: Fed, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    spend(folder, plan_of(), 3)
    payloads = sorted(folder.glob("release-*.bin"))
    payloads[0].write_bytes(b"another")
    payloads[2].unlink()
    code, out, _ = fed("verify", folder, "--format", "json")
    found = data_of(out, "verify")
    assert code == 1 and not found["holds"] and found["damaged"] == [0, 2]
    code, out, _ = fed("verify", folder)
    assert code == 1 and out.startswith(
        "verdict         does not hold\nbecause         the payloads"
    )


def test_more_spent_than_budgeted_does_not_hold(fed: Fed, tmp_path: Path) -> None:
    spend(tmp_path / "ledger", plan_of(), 3)
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        ledger.migrate(plan_of(epsilon=0.1))
    code, out, _ = fed("verify", tmp_path / "ledger")
    assert code == 1 and "more was spent than the budget allows" in out


@pytest.mark.parametrize("verb", ["show", "verify", "export"])
def test_a_folder_without_a_ledger_is_refused(fed: Fed, tmp_path: Path, verb: str) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        code, out, err = fed(verb, folder)
        assert (code, out) == (1, "") and err.startswith("FED-1508")
    (tmp_path / "privacy.ledger").touch()
    code, out, err = fed(verb, tmp_path)
    assert (code, out) == (1, "") and "is empty" in err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "FED-1201"),
        ("{", "FED-1201"),
        ("[" * 5000, "FED-1201"),
        ('{"seq": 1.0, "digest": ""}', "FED-1201"),
        ('{"seq": NaN, "digest": ""}', "FED-1201"),
        ('{"seq": 1, "seq": 2, "digest": ""}', "FED-1201"),
        ('{"seq": ' + "9" * 5000 + "}", "FED-1201"),
        ('{"seq": 1, "digest": "xy"}', "FED-1508"),
        ("[]", "FED-1508"),
        ("\xff", "FED-1201"),
    ],
    ids=range(10),
)
def test_a_head_or_a_plan_of_another_form_is_refused(
    fed: Fed, tmp_path: Path, text: str, code: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("latin-1"))
    spend(tmp_path / "ledger", plan_of(), 1)
    for arguments in (
        ("verify", tmp_path / "ledger", "--checkpoint", path),
        ("plan", "--plan", path),
    ):
        found, out, err = fed(*arguments)
        assert (found, out) == (1, "") and err.startswith(code)


# export


def test_a_certificate_is_written_in_the_form_that_is_asked_for(fed: Fed, tmp_path: Path) -> None:
    spend(tmp_path / "ledger", plan_of(), 2)
    expected = json.loads(json.dumps(certificate(tmp_path / "ledger")))
    for form in ("json", "jsonl", None):
        path = tmp_path / f"certificate.{form}"
        chosen = () if form is None else ("--format", form)
        code, out, err = fed("export", tmp_path / "ledger", "--out", path, *chosen)
        assert (code, out) == (0, "") and err == f"wrote the certificate to {path}\n"
        assert json.loads(path.read_text("utf-8")) == expected
        assert path.read_text("utf-8").count("\n") == 1 or form != "jsonl"
        assert data_of(fed("export", tmp_path / "ledger", *chosen)[1], "export") == expected
    text = format_certificate(expected)
    path = tmp_path / "certificate.txt"
    assert fed("export", tmp_path / "ledger", "--format", "text")[1] == text
    assert fed("export", tmp_path / "ledger", "--out", path, "--format", "text")[0] == 0
    assert path.read_text("utf-8") == text
    code, _, err = fed("export", tmp_path / "ledger", "--out", path)
    assert code == 4 and "it is there already" in err and path.read_text("utf-8") == text
    code, _, err = fed("export", tmp_path / "ledger", "--out", tmp_path / "none" / "file")
    assert code == 4 and "No such file" in err
    assert fed("export", tmp_path / "ledger", "--trained-on", 50, "--format", "text")[1].startswith(
        "SIMULATED: 50 units"
    )


# audit


AUDITS: dict[str, Callable[[Any, Any], Finding]] = {
    "canaries": lambda s, i: canary_fit(s[i], s[~i], epsilon=1, delta=1e-5),
    "membership": lambda s, i: membership(s[i], s[~i], epsilon=1, delta=1e-5),
    "one-run": lambda s, i: one_run(s, i, epsilon=1, delta=1e-5),
}


def save_scores(folder: Path, scores: Sequence[Any], included: Sequence[Any]) -> list[Path]:
    """The same canaries in each of the three forms."""
    text = "".join(
        f"{s!r},{int(i)}\n" for s, i in zip(list(map(float, scores)), included, strict=True)
    )
    (folder / "plain.csv").write_text(text)
    (folder / "headed.csv").write_text("score, included\r\n" + text.replace("\n", "\r\n"))
    np.save(folder / "both.npy", np.column_stack([scores, included]).astype(np.float64))
    np.savez(folder / "bool.npz", scores=scores, included=np.asarray(included, bool))
    np.savez_compressed(
        folder / "whole.npz", scores=scores, included=np.asarray(included, np.uint8)
    )
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", AUDITS)
def test_audits_by_scores_say_what_the_library_says_whatever_the_file(
    fed: Fed, tmp_path: Path, kind: str
) -> None:
    random = np.random.default_rng(5)
    included = random.integers(2, size=1500).astype(bool)
    for shift, code, outcome in ((0.25, 0, "passed"), (4.0, 1, "failed")):
        scores = random.normal(size=1500) + shift * included
        folder = tmp_path / outcome
        folder.mkdir()
        expected = AUDITS[kind](scores, included)
        assert expected.verdict.outcome == outcome
        for path in save_scores(folder, scores.tolist(), included.tolist()):
            found, out, err = fed("audit", kind, path, *CLAIM)
            assert (found, out, err) == (code, f"{expected}\n", "")
        found, out, _ = fed("audit", kind, path, *CLAIM, "--format", "json")
        assert found == code
        assert data_of(out, f"audit {kind}") == json.loads(json.dumps(expected.as_dict()))


def test_what_an_audit_cannot_tell_is_not_a_yes(fed: Fed, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("1,1\n0.5,0\n0.7,1\n0.2,0\n")
    for kind in ("canaries", "one-run", "membership"):
        code, out, _ = fed("audit", kind, tmp_path / "few.csv", *CLAIM)
        assert code == 1 and "inconclusive: " in out
    assert "inconclusive" in fed("audit", "noise", "--help")[1]


def test_noise_is_audited_from_a_file(fed: Fed, tmp_path: Path) -> None:
    samples = np.rint(np.random.default_rng(3).normal(scale=100, size=(2, 20_000))).astype(np.int64)
    path = tmp_path / "noise.npy"
    for array in (samples, samples[0].astype(">i4"), np.asfortranarray(samples)):
        np.save(path, array)
        for variance, code in (("10000", 0), ("20000/2", 0), ("10000.5", 0), ("11000", 1)):
            expected = noise_fit(array.astype(np.int64), Fraction(variance))
            found, out, _ = fed("audit", "noise", path, "--variance", variance)
            assert (found, out) == (code, f"{expected}\n")
    found, out, _ = fed(
        "audit", "noise", path, "--variance", "10000", "--kind", "discrete",
        "--significance", "1e-9", "--format", "jsonl",
    )  # fmt: skip
    data = data_of(out, "audit noise")
    assert (found, data["kind"], data["verdict"]["outcome"]) == (0, "discrete", "passed")
    np.save(path, samples[0, :50])
    assert fed("audit", "noise", path, "--variance", "10000")[0] == 1


def test_an_inversion_is_tried_from_a_file(fed: Fed, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    example, cotangent = random.normal(size=1000), random.normal(size=10)
    gradient = np.outer(cotangent, example)
    path = tmp_path / "gradient.npz"
    for noise, code in ((0.0, 1), (1e3, 0)):
        weights = gradient + noise * random.normal(size=gradient.shape)
        biases = cotangent + noise * random.normal(size=10)
        np.savez(path, weight_gradient=weights, bias_gradient=biases, true_input=example)
        expected = inversion(weights, biases, example)
        assert fed("audit", "inversion", path)[:2] == (code, f"{expected}\n")
        _, out, _ = fed("audit", "inversion", path, "--format", "json")
        assert data_of(out, "audit inversion")["verdict"] == expected.verdict.as_dict()


@pytest.mark.parametrize(
    ("kind", "name", "content", "code"),
    [
        ("one-run", "none", None, "FED-1109"),
        ("one-run", "text.csv", b"", "FED-1102 FED-1103 FED-1101"),
        ("one-run", "text.csv", b"1,1\n2,2\n", "FED-1201"),
        ("one-run", "text.csv", b"1;1\n", "FED-1201"),
        ("one-run", "text.csv", b"1,1,1\n", "FED-1201"),
        ("one-run", "text.csv", b"included,score\n1,1\n", "FED-1201"),
        ("one-run", "text.csv", b"nan,1\n1,0\n", "FED-1109"),
        ("one-run", "text.csv", b"\xff\xfe1,1\n", "FED-1201"),
        ("one-run", "text.csv", b"1,1\n" * 60, "FED-1109"),
        ("one-run", "cube.npy", np.zeros((2, 2, 2)), "FED-1201"),
        ("one-run", "share.npy", np.array([[1, 0.5], [2, 1]]), "FED-1201"),
        ("noise", "text.npy", b"1,2,3", "FED-1201"),
        ("noise", "float.npy", np.zeros(9), "FED-1102"),
        ("noise", "object.npy", np.array([{}, []], object), "FED-1201"),
        ("noise", "complex.npy", np.zeros(3, complex), "FED-1201"),
        ("noise", "record.npy", np.zeros(3, [("a", "i8")]), "FED-1201"),
        ("noise", "scalar.npy", np.zeros((), np.int64), "FED-1101"),
        ("noise", "arrays.npz", {"a": np.zeros(3, np.int64)}, "FED-1201"),
        ("inversion", "array.npy", np.zeros((3, 3)), "FED-1201"),
        ("inversion", "arrays.npz", {"weight_gradient": np.zeros((3, 3))}, "FED-1201"),
        ("inversion", "broken.npz", b"PK\x03\x04 and nothing more", "FED-1201"),
        (
            "inversion",
            "shapes.npz",
            {
                "weight_gradient": np.zeros((3, 3)),
                "bias_gradient": np.zeros(2),
                "true_input": np.arange(3.0),
            },
            "FED-1101",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(
    fed: Fed, tmp_path: Path, kind: str, name: str, content: Any, code: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    more = {"one-run": CLAIM, "noise": ("--variance", "4"), "inversion": ()}[kind]
    found, out, err = fed("audit", kind, path, *more)
    assert out == "" and err[:8] in code.split() and "\n  Why: " in err and "\n  Fix: " in err
    assert found == (4 if err.startswith("FED-1109") else 1)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("audit",),
        ("audit", "noise", "x.npy"),
        ("audit", "noise", "x.npy", "--variance", "1/x"),
        ("audit", "noise", "x.npy", "--variance", "4", "--kind", "gaussian"),
        ("audit", "one-run", "x.npy", "--epsilon", "1"),
        ("audit", "replay"),
        ("verify",),
        ("show", "a", "b"),
        ("plan", "--pop", "3"),
    ],
)
def test_arguments_that_are_none_are_refused(fed: Fed, arguments: tuple[str, ...]) -> None:
    code, out, err = fed(*arguments)
    assert (code, out) == (4, "") and err.startswith("FED-1109 fed privacy")


def test_a_claim_that_bounds_nothing_is_refused(fed: Fed, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("1,1\n0.5,0\n0.7,1\n0.2,0\n")
    for claim in (("-1", "1e-5"), ("nan", "1e-5"), ("1", "1"), ("inf", "0")):
        code, out, err = fed(
            "audit", "one-run", tmp_path / "few.csv", "--epsilon", claim[0], "--delta", claim[1]
        )
        assert (code, out) == (4, "") and "no meaningful bound" in err


# Files are anybody's.


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


SOUND = {
    "npy": npy(np.arange(6.0).reshape(3, 2) % 2),
    "npz": npz(scores=np.arange(3.0), included=np.array([True, False, True])),
    "csv": b"score,included\n0.5,1\n-2e3,0\n",
    "json": json.dumps(plan_of().to_json()).encode(),
}


@given(data=st.data(), form=st.sampled_from(sorted(SOUND)))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: str
) -> None:
    content = bytearray(SOUND[form])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{form}"
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    for read in (
        files.read_scores,
        files.read_array,
        lambda path: files.read_arrays(path, ("scores",)),
    ):
        with contextlib.suppress(DataFormatError):
            read(str(path))
    with contextlib.suppress(FedcoreError):
        PrivacyPlan.from_json(files.read_json(str(path), what="plan"))


def test_sizes_that_a_file_only_claims_are_not_believed(tmp_path: Path) -> None:
    header = npy(np.zeros(3, np.int64))
    path = tmp_path / "file"
    for claim in (b"(3000000000,)", b"(-3,)", b"(-1, -3)", b"(2**40,)", b"('3',)"):
        changed = header.replace(b"(3,), ", claim + b", ").replace(b" " * len(claim), b"", 1)
        path.write_bytes(changed)
        with pytest.raises(DataFormatError):
            files.read_array(str(path))


def test_an_archive_is_not_unpacked_beyond_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, scores=np.zeros(10**6), included=np.zeros(10**6, bool))
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(files, "_LARGEST_ARRAYS", 2**20)
    with pytest.raises(DataFormatError, match="cannot be taken") as refused:
        files.read_scores(str(path))
    assert refused.value.why == "it holds more than 1 MiB"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("scores.npy", SOUND["npy"])
    with pytest.raises(DataFormatError) as refused:
        files.read_arrays(str(path), ("scores",))
    assert "compressed in a way" in refused.value.why


def test_files_beyond_a_limit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"1,1\n" * 2**18 + b"1")
    for name, limit in (("_LARGEST_ARRAYS", 2**20), ("_LARGEST_TEXT", 2**19)):
        monkeypatch.setattr(files, name, limit)
        with pytest.raises(DataFormatError) as refused:
            files.read_scores(str(path))
        assert "larger than" in refused.value.why
    with pytest.raises(DataFormatError) as refused:
        files.read_json(str(path), what="plan")
    assert "larger than 1 MiB" in refused.value.why


def test_what_stands_in_a_file_is_not_repeated_in_a_message(fed: Fed, tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("0.125,1\n12345.678,maybe\n")
    _, _, err = fed("audit", "one-run", tmp_path / "text.csv", *CLAIM)
    assert "line 2 " in err and "12345" not in err and "maybe" not in err


def test_a_write_that_fails_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    path, limits = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ArgumentError, match="cannot be written") as refused:
            files.write_new(str(path), "text " * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.why == "File too large" and not path.exists()
    files.write_new(str(path), "text")
    assert path.read_text() == "text"
    for wrong in (str(tmp_path), str(tmp_path / "a" / "b"), "a\0b"):
        with pytest.raises(ArgumentError, match="cannot be written"):
            files.write_new(wrong, "text")
    with pytest.raises(ArgumentError, match="cannot be read"):
        files.read_array("a\0b")
