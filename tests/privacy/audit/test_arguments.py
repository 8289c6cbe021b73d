"""What an audit cannot compare with is refused: by its name and itself, with what would do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.audit import Finding, canary_fit, inversion, membership, one_run
from fedcore.privacy.audit.arguments import require_claim, require_finite, require_share

NORMAL = np.random.default_rng(1).standard_normal((4, 40))
CLAIM = {"epsilon": 1.5, "delta": 1e-5, "confidence": 0.97}
Audit = Callable[..., Finding]
CLAIMED: list[tuple[Audit, Mapping[str, Any]]] = [
    (canary_fit, {"inside": NORMAL[0] + 1, "outside": NORMAL[1], **CLAIM}),
    (canary_fit, {"inside": np.ones(9), "outside": np.zeros(7), **CLAIM}),  # without any noise
    (membership, {"members": NORMAL[0], "strangers": NORMAL[1], **CLAIM}),
    (one_run, {"scores": NORMAL[0], "included": np.arange(40) % 2 == 0, **CLAIM}),
]
READ: tuple[Audit, Mapping[str, Any]] = (
    inversion,
    {"weight_gradient": NORMAL, "bias_gradient": NORMAL[:, 0], "true_input": NORMAL[0]},
)
REPLACED = [
    pytest.param(audit, given, name, id=f"{audit.__name__}-{name}")
    for audit, given in (*CLAIMED[:1], *CLAIMED[2:], READ)
    for name in given
    if name != "included"
]

NO_NUMBERS = [math.nan, math.inf, -math.inf, -0.5, "1", None, True]


def told(error: pytest.ExceptionInfo[ArgumentError]) -> tuple[str, str]:
    return str(error.value), error.value.fix


@pytest.mark.parametrize("epsilon", NO_NUMBERS)
def test_an_epsilon_that_no_data_contradicts_is_refused(epsilon: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        require_claim(epsilon, 1e-5)
    words, fix = told(error)
    assert f"epsilon = {epsilon!r}" in words
    assert "epsilon as a finite number from 0 up" in fix


@pytest.mark.parametrize("delta", [*NO_NUMBERS, 1, 1.5])
def test_a_delta_that_no_data_contradicts_is_refused(delta: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        require_claim(1.0, delta)
    words, fix = told(error)
    assert f"delta = {delta!r}" in words
    assert "delta as a number from 0 to below 1" in fix


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 1, 1.5])
def test_a_share_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        require_share("confidence", value)
    words, fix = told(error)
    assert f"confidence = {value!r}" in words
    assert "confidence as a number between 0 and 1" in fix


def test_the_ends_of_what_can_be_claimed_are_taken() -> None:
    for epsilon, delta in [(0, 0), (0.0, math.nextafter(1, 0)), (1e300, 0.0)]:
        require_claim(epsilon, delta)
    for share in (5e-324, math.nextafter(1, 0)):
        require_share("significance", share)


def test_what_is_audited_comes_back_in_doubles() -> None:
    found = require_finite("scores", np.array([[1, 2], [3, 4]], np.int8), dimensions=2, least=4)
    assert found.dtype == np.float64 and found.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([1 + 1j], DtypeError, "scores has dtype complex128"),
        ([True], DtypeError, "scores has dtype bool"),
        (["1"], DtypeError, "scores has dtype <U1"),
        ([[1.0]], ShapeError, r"scores has shape \(1, 1\)"),
        ([1.0], ShapeError, r"scores has shape \(1,\)"),
        ([1.0, math.nan], ArgumentError, "scores holds a number that is infinite or NaN"),
        ([1.0, -math.inf], ArgumentError, "scores holds a number that is infinite or NaN"),
    ],
)
def test_what_no_statistic_is_made_of_is_refused(
    values: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        require_finite("scores", values, dimensions=1, least=2)


@pytest.mark.parametrize(("audit", "given", "name"), REPLACED)
def test_an_audit_names_the_argument_that_is_no_number(
    audit: Audit, given: Mapping[str, Any], name: str
) -> None:
    unfit = np.full_like(given[name], math.nan) if np.ndim(given[name]) else math.nan
    with pytest.raises(ArgumentError, match=rf"^(\S+ )?(audit: )?{name} (=|holds)"):
        audit(**given | {name: unfit})


@pytest.mark.parametrize(("audit", "given"), CLAIMED)
def test_a_finding_says_what_it_was_held_against(audit: Audit, given: Mapping[str, Any]) -> None:
    found = audit(**given).as_dict()
    assert {name: found[name] for name in CLAIM} == CLAIM


@pytest.mark.parametrize(("inside", "outside"), [(NORMAL[0], NORMAL[1, :30]), ([1, 1], [0] * 5)])
def test_a_finding_says_how_many_canaries_there_were(inside: Any, outside: Any) -> None:
    found = canary_fit(inside, outside, epsilon=1, delta=1e-5)
    assert (found.inside, found.outside) == (len(inside), len(outside))
