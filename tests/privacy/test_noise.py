"""Shares of noise suffice for whoever survives, and fit where they are sent."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import NoiseRoomError, PlanError
from fedcore.privacy.banded import Strategy
from fedcore.privacy.noise import (
    BandedNoise,
    CentralNoise,
    CompactShares,
    NoiseShares,
    SimulatedNoise,
)

REFUSED: dict[str, Any] = {
    "more survivors than clients": lambda: NoiseShares(5, 6, 1),
    "nobody honest": lambda: NoiseShares(5, 4, 4),
    "no survivor": lambda: NoiseShares(5, 0, 0),
    "clients of a fraction": lambda: NoiseShares(5.5, 4, 1),  # type: ignore[arg-type]
    "survivors that are true": lambda: NoiseShares(5, True, 0),
    "fewer than no corrupt ones": lambda: NoiseShares(5, 4, -1),
    "slots of one bit": lambda: NoiseShares(5, 4, 1, slot_bits=1),
    "slots of more than a word": lambda: NoiseShares(5, 4, 1, slot_bits=65),
    "slots of a fraction": lambda: NoiseShares(5, 4, 1, slot_bits=31.5),  # type: ignore[arg-type]
    "a limit of nothing": lambda: NoiseShares(5, 4, 1, limit=0),
    "a limit of a fraction": lambda: NoiseShares(5, 4, 1, limit=1.5),  # type: ignore[arg-type]
    "a limit that is true": lambda: NoiseShares(5, 4, 1, limit=True),
    "compact, more survivors than clients": lambda: CompactShares(5, 6, 1),
    "compact, nobody honest": lambda: CompactShares(5, 4, 4),
    "compact, clients of a fraction": lambda: CompactShares(5.5, 4, 1),  # type: ignore[arg-type]
    "compact, survivors that are true": lambda: CompactShares(5, True, 0),
    "compact, slots that no word shares": lambda: CompactShares(5, 4, 1, slot_bits=32),
    "compact, slots of a fraction": lambda: CompactShares(5, 4, 1, slot_bits=16.0),  # type: ignore[arg-type]
    "compact, slots by default of nothing": lambda: CompactShares(5, 4, 1, slot_bits=0),
    "a strategy that is a list": lambda: BandedNoise([3, 2]),  # type: ignore[arg-type]
    "a seed that is a word": lambda: SimulatedNoise("x"),  # type: ignore[arg-type]
    "a seed below zero": lambda: SimulatedNoise(-1),
    "a seed that no ledger keeps": lambda: SimulatedNoise(2**63),
}
WITHOUT_ROOM: dict[str, Any] = {
    "shares too coarse": lambda: NoiseShares(5, 4, 1).check(Fraction(26), 2),
    "shares too wide": lambda: NoiseShares(2, 1, 0, 64).check(Fraction(10**18 + 1), 2),
    "a signal that overflows": lambda: NoiseShares(4, 4, 0, 8).check(Fraction(36), 32),
    "noise that overflows": lambda: NoiseShares(4, 4, 0, 9).check(Fraction(36), 46),
}


@pytest.mark.parametrize("case", REFUSED)
def test_noise_that_does_not_add_up_is_refused(case: str) -> None:
    with pytest.raises(PlanError) as found:
        REFUSED[case]()
    assert found.value.code == "FED-1501" and found.value.why and found.value.fix


@pytest.mark.parametrize("case", WITHOUT_ROOM)
def test_noise_that_finds_no_room_has_a_code_of_its_own(case: str) -> None:
    with pytest.raises(NoiseRoomError) as found:
        WITHOUT_ROOM[case]()
    assert found.value.code == "FED-1511" and found.value.why and found.value.fix


def test_the_limits_of_what_is_refused_are_where_they_are_said_to_be() -> None:
    NoiseShares(5, 4, 1).check(Fraction(27), 2)  # three shares of 3 grid steps each
    NoiseShares(2, 1, 0, 64).check(Fraction(10**18), 2)
    # 2^8 - 4 · 45 = 76 > 12 sqrt(4 · 9) = 72, and with 46 just 72
    NoiseShares(4, 4, 0, 9).check(Fraction(36), 45)
    NoiseShares(4, 4, 0, 9, limit=45).check(Fraction(36), 1000)


@given(st.integers(1, 50), st.data(), st.fractions(1, 10**6))
def test_any_survivors_but_the_corrupt_have_the_variance_together(
    clients: int, data: st.DataObject, variance: Fraction
) -> None:
    survivors = data.draw(st.integers(1, clients))
    corrupt = data.draw(st.integers(0, survivors - 1))
    noise = NoiseShares(clients, survivors, corrupt)
    local = noise.local_variance(variance)
    assert noise.counted == survivors - corrupt and local * noise.counted == variance
    for alive in range(survivors, clients + 1):
        assert (alive - corrupt) * local >= variance


@given(
    st.integers(1, 40),
    st.data(),
    st.integers(2, 62),
    st.fractions(9, 10**10),
    st.integers(1, 2**30),
)
def test_what_is_accepted_fits_its_slot_with_all_clients_and_their_noise(
    clients: int, data: st.DataObject, bits: int, local: Fraction, norm: int
) -> None:
    survivors = data.draw(st.integers(1, clients))
    noise = NoiseShares(clients, survivors, 0, bits)
    fits = clients * norm + 12 * float(clients * local) ** 0.5 < 2.0 ** (bits - 1)
    try:
        noise.check(local * survivors, norm)
    except PlanError:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (CentralNoise(), "whoever adds up is trusted"),
        (NoiseShares(9, 7, 2), "at least 7 clients"),
        (NoiseShares(9, 7, 2), "up to 2 of them"),
        (BandedNoise(Strategy((3, 2, 1))), "the last 2 exact sums"),
        (SimulatedNoise(3), "NOT PRIVATE"),
    ],
)
def test_noise_says_who_is_trusted(noise: Any, words: str) -> None:
    assert words in noise.describe()
