"""Only the operating system's generator makes secrets, save in a test."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy, SystemEntropy, require_entropy
from fedcore.errors import EntropyError
from tests.variants import mostly_slow


@given(st.binary(max_size=8), st.lists(st.integers(0, 100), max_size=5))
def test_a_seeded_source_repeats_itself(seed: bytes, sizes: list[int]) -> None:
    one, two = SeededEntropy(seed), SeededEntropy(seed)
    tokens = [one.token(size) for size in sizes]
    assert [len(token) for token in tokens] == sizes
    assert tokens == [two.token(size) for size in sizes]


def test_a_seeded_source_never_repeats_a_token() -> None:
    tokens = [source.token(16) for source in map(SeededEntropy, (b"a", b"b")) for _ in range(50)]
    assert len(set(tokens)) == len(tokens)


def test_the_system_gives_new_bytes_of_the_size_asked() -> None:
    source = SystemEntropy()
    assert [len(source.token(size)) for size in (0, 1, 31, 1000)] == [0, 1, 31, 1000]
    assert source.token(32) != source.token(32)


@pytest.mark.parametrize(
    "first", mostly_slow(["import pytest", "", "import _pytest.assertion.rewrite"])
)
def test_a_seeded_source_is_refused_outside_a_test(first: str) -> None:
    program = f"""
{first}
from fedcore.entropy import SeededEntropy, SystemEntropy, require_entropy
from fedcore.errors import EntropyError

require_entropy(SystemEntropy())
try:
    SeededEntropy(b"0123456789")
except EntropyError as error:
    assert "outside a test" in str(error) and "0123456789" not in str(error)
    print(error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "FED-1411\n"


@pytest.mark.parametrize("source", [SystemEntropy(), SeededEntropy(b"")], ids=["system", "seeded"])
def test_the_two_known_sources_are_accepted(source: SystemEntropy | SeededEntropy) -> None:
    assert require_entropy(source) is source


class Lookalike:
    def token(self, size: int) -> bytes:
        return bytes(size)


def test_a_lookalike_is_refused() -> None:
    with pytest.raises(EntropyError, match="Lookalike"):
        require_entropy(Lookalike())


class Disguised(Lookalike):
    @property  # type: ignore[misc]
    def __class__(self) -> type[SystemEntropy]:  # type: ignore[override]
        return SystemEntropy


def test_a_lookalike_that_isinstance_would_believe_is_refused() -> None:
    source = Disguised()
    assert isinstance(source, SystemEntropy)
    with pytest.raises(EntropyError, match="Disguised"):
        require_entropy(source)


def test_the_generator_of_the_system_cannot_be_replaced_in_an_instance() -> None:
    source = SystemEntropy()
    with pytest.raises(AttributeError):
        source.token = bytes  # type: ignore[method-assign, assignment]


def test_a_class_that_claims_to_equal_the_generator_is_none() -> None:
    class Claims(type):
        def __eq__(cls, other: object) -> bool:
            return True

        __hash__ = type.__hash__

    class Weak(metaclass=Claims):
        def token(self, size: int) -> bytes:
            return bytes(size)

    with pytest.raises(EntropyError):
        require_entropy(Weak())
