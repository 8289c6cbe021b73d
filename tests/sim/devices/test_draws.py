"""What is drawn for many clients at once is what NumPy's own Philox generator would give each."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from fedcore.tensor.random import Key
from fedsim.devices.draws import uniforms

WORDS = st.integers(0, 2**64 - 1)


def by_numpy(key: Key, stream: int) -> list[float]:
    """NumPy counts up before it draws, so its generator begins one before."""
    counter = (stream - 1) % 2**256
    words = [counter >> 64 * i & 2**64 - 1 for i in range(4)]
    raw = np.random.Philox(counter=np.array(words, np.uint64), key=key.words()).random_raw(4)
    return [float(word >> np.uint64(11)) * 2.0**-53 for word in raw]


@given(st.integers(0, 2**64 - 1), st.lists(WORDS, max_size=50))
def test_it_is_the_philox_generator_with_the_stream_as_its_counter(
    seed: int, streams: list[int]
) -> None:
    key = Key(seed, "device", round=3)
    found = uniforms(key, np.array(streams, np.uint64))
    assert found.shape == (len(streams), 4)
    assert found.tolist() == [by_numpy(key, stream) for stream in streams]


@given(st.lists(WORDS, min_size=24, max_size=30))
def test_a_client_draws_the_same_whoever_draws_beside_it(streams: list[int]) -> None:
    key = Key(7, "device")
    alone = [uniforms(key, np.array([stream], np.uint64))[0].tolist() for stream in streams]
    assert uniforms(key, np.array(streams, np.uint64)).tolist() == alone


def test_rounds_and_purposes_draw_apart() -> None:
    streams = np.arange(100, dtype=np.uint64)
    keys = [Key(7, "a"), Key(8, "a"), Key(7, "b"), Key(7, "a", round=1), Key(7, "a").fold(1)]
    found = np.concatenate([uniforms(key, streams) for key in keys], axis=1)
    assert len(np.unique(found)) == found.size
    assert abs(found.mean() - 0.5) < 0.03
