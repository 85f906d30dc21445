from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.access.addresses import address_of


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("LocalHost", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0::1", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("[fe80::1%eth0]", "fe80::1"),
    ],
)
def test_however_it_is_written(text: str, address: str) -> None:
    assert str(address_of(text)) == address


@pytest.mark.parametrize("text", ["", "[]", "a.example", "127.1", "1.2.3.4.5", "1.2.3.4]", "%eth0"])
def test_what_is_none(text: str) -> None:
    assert address_of(text) is None


def test_a_listener_keeps_the_interface() -> None:
    assert str(address_of("[fe80::1%eth0]", zone=True)) == "fe80::1%eth0"
    assert address_of("fe80::1%eth0", zone=True) != address_of("fe80::1%eth1", zone=True)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_none(text: str) -> None:
    found = address_of(text)
    assert found is None or isinstance(found, ipaddress.IPv4Address | ipaddress.IPv6Address)


@given(st.ip_addresses())
def test_each_is_found_again(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert address_of(str(address)) == (mapped or address)
