"""What counts as one place on the network: who has one IPv6 address has 2^64 of them."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

__all__ = ["network_of"]


def network_of(address: str) -> str:
    """The place that a peer's address, as gRPC writes it, belongs to: of IPv6 the first 64 bits.

    What is no address is a place of its own.

    >>> network_of("ipv4:192.0.2.7"), network_of("ipv6:[2001:db8::5]"), network_of("unix:fed")
    ('ipv4:192.0.2.7', 'ipv6:2001:db8::/64', 'unix:fed')
    """
    kind, _, host = address.partition(":")
    if kind != "ipv6":
        return address
    try:
        found = ipaddress.IPv6Address(unquote(host).strip("[]").partition("%")[0])
    except ValueError:
        return address
    if (within := found.ipv4_mapped) is not None:
        return f"ipv4:{within}"
    return f"ipv6:{ipaddress.IPv6Network((found, 64), strict=False)}"
