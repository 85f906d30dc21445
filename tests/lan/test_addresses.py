"""Which addresses are listened on."""

from __future__ import annotations

import pytest

from daemon.lan.addresses import bridge, chosen, covers, names, public, scan

LAPTOP = {
    "lo": ["127.0.0.1", "::1"],
    "docker0": ["172.17.0.1", "fe80::1%docker0"],
    "en0": ["192.168.1.5", "fe80::2%en0", "2a02:8109::5", "fd00::5"],
    "utun3": ["100.64.0.7"],
    "en7": ["169.254.3.4"],
    "gif0": [],
}


def test_every_address_but_loopback_and_link_local_the_likeliest_first() -> None:
    found = chosen(LAPTOP, "::")
    assert found == [
        *("192.168.1.5", "100.64.0.7", "169.254.3.4", "fd00::5", "2a02:8109::5"),
        "172.17.0.1",  # that of containers
    ]
    assert all(":" not in one for one in chosen(LAPTOP, "0.0.0.0"))


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("en0", ["192.168.1.5", "fd00::5", "2a02:8109::5"]),
        ("docker0", ["172.17.0.1"]),
        ("10.9.9.9", ["10.9.9.9"]),
        ("gif0", []),
        ("nonsense", []),
        ("127.0.0.1", []),
    ],
)
def test_an_interface_or_one_address(host: str, found: list[str]) -> None:
    assert chosen(LAPTOP, host) == found


def test_what_is_public_is_known() -> None:
    assert public(chosen(LAPTOP, "::")) == ["2a02:8109::5"]


def test_the_bridge_of_containers() -> None:
    assert bridge(LAPTOP) == "docker0"
    assert bridge({"docker0": [], "cni0": ["10.88.0.1"]}) == "cni0"
    assert bridge({"en0": ["192.168.1.5"]}) is None


def test_who_covers_whom() -> None:
    assert covers("0.0.0.0", "10.0.0.1")
    assert covers("10.0.0.1", "10.0.0.1")
    assert not covers("0.0.0.0", "fd00::5")
    assert not covers("127.0.0.1", "10.0.0.1")
    assert not covers("localhost", "10.0.0.1")


def test_the_names_in_a_certificate() -> None:
    found = names("Box.example.org", ["10.0.0.1"], ["nas.home", "bad name", "[::1]"])
    assert found == [
        *("box", "box.local", "box.example.org", "nas.home"),
        *("host.docker.internal", "host.containers.internal", "10.0.0.1"),
    ]


def test_this_machine_has_loopback() -> None:
    assert any("127.0.0.1" in found for found in scan().values())
