"""Records are exact as JSON, strict when read, and hold nothing that privacy does not release."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DataFormatError, PlanError
from fedsim.records import (
    Evaluation,
    Mode,
    OwnRows,
    Result,
    RoundRecord,
    Speed,
    Spread,
    Totals,
    Versions,
    digest_of,
)
from fedsim.records.plain_json import canonical_json, from_plain, parse_json, to_plain
from tests.sim.records.samples import private_record, record, run_record

COUNTS = st.integers(0, 2**62)
FLOATS = st.floats()
NAMES = st.text(max_size=8)
EVALUATIONS = st.builds(
    Evaluation, loss=FLOATS, accuracy=st.none() | FLOATS, metrics=st.dictionaries(NAMES, FLOATS)
)
RECORDS = st.builds(
    RoundRecord,
    round=COUNTS,
    attempts=COUNTS,
    mode=st.sampled_from(Mode),
    model=st.just("0" * 64),
    start_s=FLOATS,
    end_s=FLOATS,
    speed=st.builds(Speed, wall_s=FLOATS, trainings_per_s=FLOATS),
    selected=COUNTS,
    reported=COUNTS,
    funnel=st.dictionaries(NAMES, COUNTS),
    lost=st.dictionaries(NAMES, st.dictionaries(NAMES, COUNTS)),
    train_loss=st.none() | FLOATS,
    test=st.none() | EVALUATIONS,
    clients=st.none(),
    personal=st.dictionaries(NAMES, FLOATS),
    own_rows=st.none() | st.sampled_from(OwnRows),
    privacy=st.none(),
    bytes_down=COUNTS,
    bytes_up=COUNTS,
)


def through_json(value: Any) -> Any:
    return parse_json(json.dumps(to_plain(value), allow_nan=False).encode(), place="it")


@given(RECORDS)
def test_every_record_survives_json_exactly_with_the_order_of_its_stages(one: RoundRecord) -> None:
    read = from_plain(RoundRecord, through_json(one))
    assert repr(read) == repr(one)  # NaN equals itself in text alone
    assert list(read.funnel) == list(one.funnel)


def test_a_result_and_a_private_round_survive_json_exactly() -> None:
    rounds = [private_record(0), private_record(1)]
    result = Result.of(run_record(private=True), rounds, ended="all rounds are over")
    assert from_plain(Result, through_json(result)) == result
    assert from_plain(RoundRecord, through_json(rounds[1])) == rounds[1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"round": True}, "True is no int"),
        ({"round": 1.0}, "1.0 is no int"),
        ({"selected": None}, "None is no int"),
        ({"end_s": "soon"}, "'soon' is no float"),
        ({"mode": "turbo"}, "'turbo' is none of its values"),
        ({"funnel": [1]}, "is no dict"),
        ({"lost": {"train": {"late": "4"}}}, "'4' is no int"),
        ({"test": {"loss": 1.0, "auc": 1.0}}, "it has no field 'auc'"),
        ({"speed": {"wall_s": 1.0}}, "trainings_per_s is missing"),
    ],
)
def test_a_record_that_was_edited_wrongly_is_refused_with_the_reason(
    change: dict[str, Any], why: str
) -> None:
    table = through_json(record()) | change
    with pytest.raises(DataFormatError, match=why):
        from_plain(RoundRecord, table)


@pytest.mark.parametrize("text", [b'{"a": 1, "a": 2}', b"NaN", b"[" * 100_000, b"\xff", b""])
def test_json_that_two_readers_would_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(DataFormatError):
        parse_json(text, place="it")


def test_a_value_that_no_record_has_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="int64"):
        to_plain(np.int64(3))


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'


@pytest.mark.parametrize(
    "unreleased",
    [
        {"train_loss": 0.4},
        {"clients": Spread.of([0.5])},
        {"personal": {"accuracy": 0.5}},
    ],
)
def test_what_devices_measured_cannot_stand_beside_an_epsilon(unreleased: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=next(iter(unreleased))):
        private_record(**unreleased)
    table = through_json(private_record()) | {
        name: to_plain(value) for name, value in unreleased.items()
    }
    with pytest.raises(PlanError):
        from_plain(RoundRecord, table)


def test_the_mode_that_keeps_no_promise_cannot_claim_an_epsilon() -> None:
    with pytest.raises(PlanError, match="plain"):
        private_record(mode=Mode.PLAIN)


def test_every_mode_says_what_it_is_and_plain_that_it_is_not_private() -> None:
    assert all(mode.words.startswith(f"{mode.value}: ") for mode in Mode)
    assert "NOT PRIVATE" in Mode.PLAIN.words
    assert "cancel" in Mode.FAST.words


def test_a_models_digest_is_that_of_its_little_endian_floats() -> None:
    theta = np.array([1.5, -0.0, np.inf], np.float32)
    assert digest_of(theta) == hashlib.sha256(struct.pack("<3f", *theta)).hexdigest()
    assert digest_of(np.repeat(theta, 2)[::2]) == digest_of(theta)
    for wrong in (theta.astype(np.float64), theta[None]):
        with pytest.raises(ArgumentError):
            digest_of(wrong)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_spread_orders_its_percentiles_around_the_median(values: list[float]) -> None:
    found = Spread.of(values)
    assert found.clients == len(values)
    assert min(values) <= found.p10 <= found.p50 <= found.p90 <= max(values)
    assert math.isclose(found.mean, math.fsum(values) / len(values), abs_tol=1e-12)


def test_a_spread_over_nobody_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no clients"):
        Spread.of([])


def test_totals_are_the_sums_of_the_rounds() -> None:
    rounds = [record(0), record(1, lost={"upload": {"late": 3}}), record(2, lost={})]
    found = Totals.of(rounds)
    assert (found.rounds, found.selected, found.bytes_up) == (3, 390, 3 * 61_200_000)
    assert found.lost == {"train": 7, "upload": 7, "unmask": 1}
    assert found.virtual_s == rounds[-1].end_s


def test_a_result_takes_the_last_of_what_was_measured_and_the_best_accuracy() -> None:
    better = Evaluation(loss=0.1, accuracy=0.95)
    rounds = [record(0), record(1, test=better), record(2), record(3, test=None)]
    found = Result.of(run_record(), rounds, ended="all rounds are over")
    assert found.test == rounds[2].test
    assert found.best_accuracy == 0.95
    assert found.model == rounds[3].model
    with pytest.raises(ArgumentError):
        Result.of(run_record(), [], ended="never began")


def test_records_cannot_be_changed_through_what_they_were_made_of() -> None:
    causes = {"late": 4}
    one = record(lost={"upload": causes})
    causes["late"] = 5
    assert one.drops == {"upload": 4}
    with pytest.raises(TypeError):
        one.funnel["trained"] = 0  # type: ignore[index]


def test_repetitions_agree_in_all_but_the_speed() -> None:
    slow, quick = record(), record(speed=Speed(wall_s=1.0, trainings_per_s=100.0))
    assert slow != quick
    assert slow.repeatable() == quick.repeatable()


def test_versions_say_where_they_differ() -> None:
    here = Versions.here()
    assert here.differing(here) == ()
    other = Versions(fedcore=here.fedcore, numpy="1.0", python=here.python, blas=here.blas)
    assert other.differing(here) == (f"numpy 1.0 -> {here.numpy}",)
