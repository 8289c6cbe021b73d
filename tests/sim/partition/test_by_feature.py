"""A shift keeps shape and dtype, is the same each time, and does to each client what it says."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import ArgumentError, DatasetError, DtypeError, ShapeError
from fedsim import Partition, Population
from fedsim.partition.by_feature import GaussianNoise, Rotation, SensorGain, vertical
from fedsim.population import Shift

SHIFTS: list[Shift] = [
    GaussianNoise(sigma=2.0, clients=4, seed=3),
    Rotation(degrees=(0.0, 90.0, 30.0, -45.0)),
    SensorGain(scale=0.2, offset=1.0, seed=3),
]


@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: type(shift).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 4, 4, 2), (3, 9)])
def test_a_shift_keeps_form_and_is_the_same_each_time(
    shift: Shift, dtype: Any, shape: tuple[int, ...]
) -> None:
    x = (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)
    before = x.copy()
    for client in range(4):
        seen = shift(x, client=client)
        assert (seen.shape, seen.dtype) == (x.shape, x.dtype)
        again = pickle.loads(pickle.dumps(shift))(x, client=client)
        assert again.tobytes() == seen.tobytes()
    assert (x == before).all()
    views = [shift(x, client=client).tobytes() for client in range(4)]
    assert len(set(views)) == 4


def test_a_population_sees_its_rows_through_a_shift() -> None:
    data = Dataset(np.ones((6, 4, 4), np.float32), np.arange(6))
    people = Population(data, Partition.of([[0, 1], [2, 3], [4, 5]]), shift=SHIFTS[2])
    gains = [float(client.dataset.x.mean()) for client in people]
    assert len(set(gains)) == 3
    assert float(people[1].dataset.x.mean()) == gains[1]


def test_noise_rises_with_the_client_from_none_to_sigma() -> None:
    shift = GaussianNoise(sigma=0.8, clients=5, seed=1)
    x = np.full((100, 200), 3.0)
    seen = [shift(x, client=client) - x for client in range(5)]
    # 20,000 draws: the deviation's relative standard error is 0.5 %.
    assert [noise.std() for noise in seen] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], rel=0.03)
    assert abs(np.corrcoef(seen[1].ravel(), seen[2].ravel())[0, 1]) < 0.03
    with pytest.raises(ArgumentError, match="client 5 of 5"):
        shift(x, client=5)


def test_a_gain_is_one_line_for_all_of_a_client() -> None:
    shift = SensorGain(scale=0.3, offset=2.0, seed=8)
    x = np.linspace(-1.0, 1.0, 50)[:, None]
    logarithms, offsets = [], []
    for client in range(400):
        slope, start = np.polyfit(x.ravel(), shift(x, client=client).ravel(), 1)
        assert shift(x, client=client) == pytest.approx(slope * x + start)
        logarithms.append(np.log(slope))
        offsets.append(start)
    # 400 draws: the deviation's relative standard error is 3.5 %.
    assert np.std(logarithms) == pytest.approx(0.3, rel=0.15)
    assert np.std(offsets) == pytest.approx(2.0, rel=0.15)


def test_integers_are_rounded_and_kept_in_their_range() -> None:
    x = np.array([[0, 128, 255]], np.uint8)
    seen = SensorGain(scale=10.0, offset=0.0, seed=1)
    for client in range(20):
        values = seen(x, client=client)[0].tolist()
        assert values[0] == 0
        assert values == sorted(values)


@given(st.integers(1, 7), st.integers(-8, 8))
def test_right_angles_move_pixels_and_lose_none(side: int, turns: int) -> None:
    x = np.arange(2 * side * side).reshape(2, side, side)
    seen = Rotation(degrees=(90.0 * turns,))(x, client=3)
    assert (seen == np.rot90(x, turns, axes=(1, 2))).all()
    flat = Rotation(degrees=(90.0 * turns,))(x.reshape(2, -1), client=3)
    assert (flat.reshape(x.shape) == seen).all()


@pytest.mark.parametrize("right", [0.0, 90.0, 180.0, 270.0])
def test_any_angle_goes_over_into_right_angles(right: float) -> None:
    x = np.random.default_rng(1).random((2, 6, 6, 3))
    exact = Rotation(degrees=(right,))(x, client=0)
    for angle in (right - 1e-7, right + 1e-7):
        near = Rotation(degrees=(angle,))(x, client=0)
        # Corners leave the frame by 1e-8 pixels or so, and count that much less.
        assert near == pytest.approx(exact, abs=1e-6)


def test_a_rotation_turns_a_ramp_around_the_centre() -> None:
    # Interpolation is exact for what is linear: f = column - centre, turned by an angle, is
    # cos·column' + sin·(-row') … wherever all four neighbours lie inside.
    side, angle = 21, 30.0
    row, column = np.indices((side, side)) - (side - 1) / 2
    seen = Rotation(degrees=(angle,))(column[None], client=0)[0]
    ramp = np.cos(np.radians(angle)) * column - np.sin(np.radians(angle)) * row
    inside = np.hypot(row, column) < 9
    assert seen[inside] == pytest.approx(ramp[inside], abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (2, 3, 4, 1), (2, 1, 3, 3, 1), (4,)])
def test_what_is_no_square_image_is_not_turned(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="square"):
        Rotation()(np.zeros(shape), client=1)


def test_texts_are_not_shifted() -> None:
    x = np.array([["a", "b", "c", "d"]])
    for shift in SHIFTS:
        for client in range(4):
            with pytest.raises(DtypeError, match="shifted"):
                shift(x, client=client)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (GaussianNoise, {"sigma": -1.0, "clients": 2, "seed": 0}),
        (GaussianNoise, {"sigma": float("nan"), "clients": 2, "seed": 0}),
        (GaussianNoise, {"sigma": 1.0, "clients": 0, "seed": 0}),
        (SensorGain, {"scale": float("inf"), "seed": 0}),
        (SensorGain, {"offset": -1.0, "seed": 0}),
        (Rotation, {"degrees": ()}),
        (Rotation, {"degrees": (float("inf"),)}),
    ],
)
def test_a_shift_that_is_none_is_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        kind(**options)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.data())
def test_each_column_has_one_party_and_each_party_all_rows(
    rows: int, height: int, width: int, data: st.DataObject
) -> None:
    features: NDArray[Any] = np.zeros((rows, height, width))
    parties, seed = data.draw(st.integers(1, height * width)), data.draw(st.integers(0, 99))
    found = vertical(features, parties, seed=seed)
    assert found.columns is not None
    assert sorted(np.concatenate(found.columns).tolist()) == list(range(height * width))
    assert max(map(len, found.columns)) - min(map(len, found.columns)) <= 1
    assert [part.tolist() for part in found] == [list(range(rows))] * parties
    again = vertical(features, parties, seed=seed).columns
    assert again is not None
    assert [part.tolist() for part in again] == [part.tolist() for part in found.columns]


def test_more_parties_than_columns_and_no_rows_are_refused() -> None:
    with pytest.raises(ArgumentError, match="4 parties for 3 columns") as refused:
        vertical(np.zeros((5, 3)), 4, seed=1)
    assert "at most 3" in refused.value.fix
    with pytest.raises(DatasetError):
        vertical(np.zeros((0, 3)), 2, seed=1)
