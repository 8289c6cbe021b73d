"""A join string has one spelling, says what it means, and keeps its token to itself."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from fedcore.errors import JoinStringError
from fedcore.wire.joining import JoinString, split_address

HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
ADDRESSES = st.builds("{}:{}".format, HOSTS, st.integers(1, 65_535))
JOIN_STRINGS = st.builds(
    JoinString,
    ADDRESSES,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)


@given(JOIN_STRINGS)
def test_what_was_written_is_read_again(join: JoinString) -> None:
    assert JoinString.parse(join.encode()) == join
    assert JoinString.parse(f"  {join.encode()}\n") == join


@given(JOIN_STRINGS, st.data())
def test_whatever_reads_as_a_join_string_is_spelled_as_one(
    join: JoinString, data: st.DataObject
) -> None:
    text = list(join.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.text(max_size=2))
    mutated = "".join(text)
    try:
        found = JoinString.parse(mutated)
    except JoinStringError:
        return
    assert found.encode() == mutated.strip()


@given(st.text(max_size=200))
@example("fed1.")
@example("fed1...")
@example("fed1.[::1%eth0]:1." + "a" * 64 + "." + "A" * 43)
def test_any_other_text_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(JoinStringError) as refused:
        JoinString.parse(text)
    assert len(text) < 20 or text not in str(refused.value)


@given(JOIN_STRINGS)
def test_the_token_stands_in_no_repr(join: JoinString) -> None:
    secret = join.encode().rpartition(".")[2]
    assert secret not in repr(join)
    assert secret not in str(join)
    assert "token" not in repr(join)


@pytest.mark.parametrize("cut", [1, 5, 43, 44, 100])
def test_a_string_that_was_cut_says_so_without_its_token(cut: int) -> None:
    text = JoinString("fl.example.org:7443", bytes(32), b"\xff" * 32).encode()
    with pytest.raises(JoinStringError) as refused:
        JoinString.parse(text[:-cut])
    assert "____" not in str(refused.value)


def test_bits_that_a_base64_digit_has_to_spare_give_no_second_spelling() -> None:
    text = JoinString("h:1", bytes(32), bytes(32)).encode()
    assert text.endswith("A")
    for other in "BCD":
        with pytest.raises(JoinStringError):
            JoinString.parse(text[:-1] + other)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        ":7443",
        "host:0",
        "host:65536",
        "host:07443",
        "host:٧",
        "-host:1",
        "host-:1",
        "ho st:1",
        "host..org:1",
        "::1:7443",
        "[::1]",
        "[host]:1",
        "[::1%1]:1",
        "user@host:1",
        "http://host:1",
        "a" * 64 + ":1",
        ".".join(["a" * 60] * 5) + ":1",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(JoinStringError):
        split_address(address)
    with pytest.raises(JoinStringError):
        JoinString(address, bytes(32), bytes(32))


@pytest.mark.parametrize(("authority", "token"), [(b"", bytes(32)), (bytes(32), bytes(31))])
def test_parts_of_another_length_make_no_join_string(authority: bytes, token: bytes) -> None:
    with pytest.raises(JoinStringError, match="cannot be used"):
        JoinString("host:1", authority, token)
