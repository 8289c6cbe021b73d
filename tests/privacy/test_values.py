"""Sums of checked integers are of their own types, and show themselves to nobody."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from fedcore.errors import DtypeError, NormError, PrivacyError, ShapeError
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum, squared_norm


class Liar(np.ndarray[Any, Any]):
    """Its copies are zeros."""

    def astype(self, *args: Any, **options: Any) -> Any:
        return np.zeros(self.shape)

    copy = __getitem__ = astype


def again(update: IntUpdate) -> Any:
    return pickle.loads(pickle.dumps(update))


VECTORS = hnp.arrays(np.int64, st.integers(0, 6))
KINDS: dict[str, Any] = {"IntUpdate": IntUpdate, "IntSum": IntSum, "NoisySum": NoisySum}


@given(VECTORS | hnp.arrays(np.int64, 3, elements=st.integers(-(2**26), 2**26)))
def test_squared_norms_are_those_of_python_integers(vector: Any) -> None:
    assert squared_norm(vector) == sum(int(value) ** 2 for value in vector)


@given(hnp.arrays(np.int64, 4, elements=st.integers(-100, 100)), st.integers(1, 200))
def test_an_update_is_never_longer_than_it_says(vector: Any, grid: int) -> None:
    fits = sum(int(value) ** 2 for value in vector) <= grid**2
    try:
        update = IntUpdate(vector, grid)
    except NormError as error:
        assert not fits and error.code == "FED-1504" and error.why and error.fix
    else:
        assert fits and np.array_equal(update.vector, vector)


def test_an_update_one_step_too_long_is_refused_at_every_scale() -> None:
    for grid in (1, 2**24, 2**26, 2**31 - 1, 2**40):
        IntUpdate(np.array([grid, 0]), grid)
        with pytest.raises(NormError):
            IntUpdate(np.array([grid, 1]), grid)
    with pytest.raises(NormError):
        IntUpdate(np.array([-(2**63)]), 2**40)


@pytest.mark.parametrize("made", [lambda array: array, lambda array: array[:2], memoryview])
def test_a_checked_update_does_not_change_with_what_it_was_made_of(made: Any) -> None:
    given = np.array([3, 4])
    alias = made(given)
    update = IntUpdate(given, 5)
    alias[0] = 1000
    assert update.vector.tolist() == [3, 4]


@pytest.mark.parametrize("twin", [lambda update: update, copy.copy, copy.deepcopy, again])
def test_a_checked_update_and_its_copies_cannot_be_written_to(twin: Any) -> None:
    update = twin(IntUpdate(np.array([3, 4]), 5))
    assert update.vector.tolist() == [3, 4] and update.grid_steps == 5
    with pytest.raises(ValueError, match="read-only"):
        update.vector[0] = 1000
    with pytest.raises(ValueError, match="WRITEABLE"):
        update.vector.flags.writeable = True
    with pytest.raises(TypeError):
        vars(update)
    with pytest.raises(FrozenInstanceError):
        update.vector = np.array([1000, 0])


@pytest.mark.parametrize("changed", [np.array([5, 1]), np.array([0, 0]).view(Liar)])
def test_a_sum_holds_every_update_against_its_bound_again(changed: Any) -> None:
    update = IntUpdate(np.array([3, 4]), 5)
    object.__setattr__(update, "vector", changed)
    with pytest.raises((NormError, DtypeError)):
        IntSum.of([update], dimension=2, grid_steps=5)


def test_a_sum_that_could_leave_64_bits_is_refused_and_does_not_wrap() -> None:
    large = IntUpdate(np.array([2**60]), 2**60)
    found = IntSum.of([large] * 3, dimension=1, grid_steps=2**60)
    assert found.vector.tolist() == [3 * 2**60]
    with pytest.raises(NormError, match="4 updates"):
        IntSum.of([large] * 16, dimension=1, grid_steps=2**60)


@pytest.mark.slow
def test_the_norm_of_a_long_vector_takes_no_second_vector() -> None:
    vector = np.ones(2**20, np.int64)
    vector[::1000] = 2**40
    tracemalloc.start()
    found = squared_norm(vector)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 2**20 + 1049 * (2**80 - 1) and peak < 2**22


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("wrong", [0, -5, 1.5, True, None, np.int64(5)])
def test_bounds_and_counts_are_positive_integers(kind: Any, wrong: Any) -> None:
    with pytest.raises(NormError, match=kind.__name__):
        kind(np.array([1]), wrong)


@pytest.mark.parametrize("kind", KINDS.values())
def test_only_flat_vectors_of_int64_are_taken(kind: Any) -> None:
    liar = np.zeros(2, np.int64).view(Liar)
    for array in ([1, 2], np.zeros(2), np.zeros(2, np.int32), np.zeros(2, ">i8"), None, liar):
        with pytest.raises(DtypeError, match=kind.__name__):
            kind(array, 5)
    for shaped in (np.zeros((2, 2), np.int64), np.array(1)):
        with pytest.raises(ShapeError, match=kind.__name__):
            kind(shaped, 5)


@pytest.mark.parametrize("kind", KINDS.values())
def test_nothing_prints_what_it_holds(kind: Any) -> None:
    shown = repr(kind(np.array([4711, 4712]), 10_000))
    assert "471" not in shown and "2 integers" in shown


@pytest.mark.parametrize("kind", [IntSum, NoisySum])
def test_a_sum_is_no_array(kind: Any) -> None:
    total = kind(np.array([1, 2]), 5)
    for read in (np.asarray, np.sum, lambda value: np.zeros(2) + value):
        with pytest.raises(PrivacyError, match="before its release"):
            read(total)


@given(st.lists(hnp.arrays(np.int64, 3, elements=st.integers(-5, 5)), max_size=5), st.randoms())
def test_a_sum_is_that_of_its_updates_in_every_order(vectors: Any, random: Any) -> None:
    updates = [IntUpdate(vector, 9) for vector in vectors]
    expected = np.sum(vectors, axis=0) if vectors else np.zeros(3)
    random.shuffle(updates)
    found = IntSum.of(iter(updates), dimension=3, grid_steps=9)
    assert found.vector.dtype == np.int64 and np.array_equal(found.vector, expected)


def test_a_client_that_sends_zeros_changes_nothing() -> None:
    update, zero = IntUpdate(np.array([3, 4]), 5), IntUpdate(np.array([0, 0]), 5)
    alone = IntSum.of([update], dimension=2, grid_steps=5)
    both = IntSum.of([zero, update, zero], dimension=2, grid_steps=5)
    assert np.array_equal(alone.vector, both.vector)


def test_only_updates_of_one_grid_and_length_add_up() -> None:
    for wrong, error in [
        (np.array([1, 2]), DtypeError),
        (IntSum(np.array([1, 2]), 5), DtypeError),
        (IntUpdate(np.array([1, 2]), 6), NormError),
        (IntUpdate(np.array([1, 2, 3]), 5), ShapeError),
    ]:
        with pytest.raises(error):
            IntSum.of([wrong], dimension=2, grid_steps=5)  # type: ignore[list-item]
