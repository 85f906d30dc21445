"""Addresses in settings, heads and of sockets: read by one rule, however written. Pure."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOCALHOST = ipaddress.IPv4Address("127.0.0.1")


def address_of(text: str, *, zone: bool = False) -> Address | None:
    """The address that ``text`` is; None: it is none, but a name, which nobody looks up here.

    ``localhost`` is known, brackets are none of it, and what IPv6 maps of IPv4 is that: so two that
    are equal are one. ``zone``: keep the name of the interface (``fe80::1%eth0``), which a listener
    needs.
    """
    if text[:1] == "[":
        text = text.strip("[]")
    try:
        address = ipaddress.ip_address(text if zone else text.partition("%")[0])
    except ValueError:
        return _LOCALHOST if text.lower() == "localhost" else None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
