"""Who has many addresses counts as one, and who has one keeps it for itself."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fedserver.networks import network_of


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_addresses_of_one_network_are_one_place_and_of_others_are_not(
    address: object, other: int
) -> None:
    first = int(address) >> 64  # type: ignore[call-overload]
    if first == 0:
        return  # of these some are addresses of IPv4
    same, far = (type(address)((prefix << 64) | other) for prefix in (first, first ^ 1))
    places = {network_of(f"ipv6:[{one}]") for one in (address, same)}
    assert len(places) == 1 and network_of(f"ipv6:[{far}]") not in places


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("ipv6:[::ffff:192.0.2.7]", "ipv4:192.0.2.7"),
        ("ipv6:%5B2001:db8::5%5D", "ipv6:2001:db8::/64"),
        ("ipv6:[fe80::1%25eth0]", "ipv6:fe80::/64"),
        ("ipv6:[fe80::1%eth0]", "ipv6:fe80::/64"),
        ("ipv6:[::1]", "ipv6:::/64"),
        ("ipv6:nonsense", "ipv6:nonsense"),
        ("", ""),
    ],
)
def test_every_way_to_write_an_address_is_understood(address: str, place: str) -> None:
    assert network_of(address) == place
