"""`fed privacy show` says what a ledger says; a plan becomes a file, a ledger, a certificate."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from fedcore.privacy.certificate import certificate
from fedcore.privacy.commands.layout import describe
from fedcore.privacy.events import (
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.units import Adjacency
from tests.privacy.commands_world import CENTRAL, Fed, data_of, planned, spend
from tests.privacy.ledger_world import KEY, bounded, plan_of

# A plan becomes a file, the file a ledger, the ledger a certificate.


@pytest.mark.slow
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
    assert "key" not in fed("show", tmp_path / "other")[1]


def test_what_is_left_is_said_of_a_unit_where_units_are_bounded(fed: Fed, tmp_path: Path) -> None:
    folder, key = tmp_path / "ledger", tmp_path / "key"
    key.write_bytes(KEY)
    plan = bounded(1, 3, population=2)
    with Ledger.create(folder, plan, participation_key=KEY) as ledger:
        for round_ in range(2):
            ledger.reserve(round_).participate([b"ada", b"bob"][: 2 - round_])
            _, out, _ = fed("show", folder)
            assert "0 of 10 released, 10 left\n" in out  # whoever took part
            so_far = 2 - round_
            assert f"3 in all; one that was in every one so far may be in {so_far} more" in out
        _, out, _ = fed("show", folder, "--participation-key", key)
        assert f"0 of 10 released, {ledger.remaining_rounds()} left\n" in out
        assert "one that came most often may be in 1 more" in out
        for who in ([b"ada", b"bob"], [b"bob"]):
            ledger.reserve(2).participate(who)
        _, out, _ = fed("show", folder, "--participation-key", key)
        assert ledger.remaining_rounds() == 0
        assert "0 left: no unit may take part any more\n" in out


def test_a_budget_that_is_spent_is_said(fed: Fed, tmp_path: Path) -> None:
    spend(tmp_path / "ledger", plan_of(epsilon=0.96), 1)
    assert (
        "1 of 3 released, 0 left: the budget pays for no further round\n"
        in (fed("show", tmp_path / "ledger")[1])
    )
    spend(tmp_path / "all", plan_of(), 3)
    assert "3 of 3 released, 0 left\n" in fed("show", tmp_path / "all")[1]


def test_terms_of_an_earlier_plan_are_shown_beside_the_present_ones(
    fed: Fed, tmp_path: Path
) -> None:
    spend(tmp_path / "ledger", plan_of(adjacency=Adjacency.ZERO_OUT), 1)
    other = plan_of(adjacency=Adjacency.ZERO_OUT, noise=SimulatedNoise(1), epsilon=9.0)
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        ledger.migrate(other)
    out = " ".join(fed("show", tmp_path / "ledger")[1].split())
    assert "known seed; under another plan: whoever adds up is trusted" in out


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


GAUSSIAN = GaussianEvent(Fraction(3, 2))


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (GAUSSIAN, "Gaussian noise of 1.5 norms"),
        (SharesEvent(9, Fraction(1), Fraction(4), 5), "9 shares of noise, 1.5 norms together"),
        (SkellamEvent(Fraction(9), Fraction(4), 5), "Skellam noise of 1.5 norms"),
        (
            PoissonEvent(2**30, GAUSSIAN),
            "Gaussian noise of 1.5 norms on a Poisson sample of rate 0.25",
        ),
        (
            TruncatedPoissonEvent(2**30, 30, 100, GAUSSIAN),
            "Gaussian noise of 1.5 norms on a Poisson sample of rate 0.25 cut to 30",
        ),
        (FixedSizeEvent(20, 100, GAUSSIAN), "Gaussian noise of 1.5 norms on 20 of 100"),
        (RepeatedEvent(3, GAUSSIAN), "3 times Gaussian noise of 1.5 norms"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_event_is_told_in_a_few_words(event: Event, said: str) -> None:
    assert describe(event) == said
