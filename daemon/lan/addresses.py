"""Which addresses other machines reach this one by. Pure but for :func:`scan`."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from typing import Final

import psutil

from daemon.access.addresses import address_of

EVERY: Final = "::"
EVERY_4: Final = "0.0.0.0"
BRIDGES: Final = ("docker0", "podman0", "cni-podman0", "cni0")
"""Where containers of Docker and Podman find this machine, on Linux."""
CONTAINER_NAMES: Final = ("host.docker.internal", "host.containers.internal")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")

Interfaces = Mapping[str, Iterable[str]]


def scan() -> dict[str, list[str]]:
    """The addresses of each interface now. Those of a bridge without a container count as well:
    its interface is "down", and can be listened on. Raises OSError."""
    wanted = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [one.address for one in found if one.family in wanted]
        for name, found in psutil.net_if_addrs().items()
    }


def chosen(interfaces: Interfaces, host: str) -> list[str]:
    """The addresses that ``lan.host`` means, the likeliest to be asked for first.

    Never loopback, which has a port of its own, nor IPv6's link-local, which is no address without
    the name of an interface on the other machine.
    """
    if host in interfaces:
        found = list(interfaces[host])
    elif host in (EVERY, EVERY_4):
        found = [address for each in interfaces.values() for address in each]
    else:
        found = [host]
    sorts = {address_of(text): text for text in found}
    usable = [
        address
        for address in sorts
        if address is not None
        and not (address.is_loopback or address.is_unspecified)
        and not (address.version == 6 and address.is_link_local)
        and (host != EVERY_4 or address.version == 4)
    ]
    bridged = {address_of(text) for name in BRIDGES for text in interfaces.get(name, ())}
    usable.sort(
        key=lambda one: (one in bridged, one.version, one.is_link_local, not one.is_private)
    )
    return [str(address) for address in usable]


def public(addresses: Iterable[str]) -> list[str]:
    """Those that the whole internet may reach, unless a router forbids it."""
    return [text for text in addresses if (address := address_of(text)) and address.is_global]


def bridge(interfaces: Interfaces) -> str | None:
    """The interface on which containers find this machine."""
    return next((name for name in BRIDGES if any(interfaces.get(name, ()))), None)


def covers(host: str, address: str) -> bool:
    """Is ``address`` listened on already by who listens on ``host``?"""
    here, there = address_of(host), address_of(address)
    if here is None or there is None or here.version != there.version:
        return False
    return here.is_unspecified or here == there


def names(hostname: str, addresses: Iterable[str], more: Iterable[str] = ()) -> list[str]:
    """What a certificate has to hold: every name by which a client may call this machine."""
    first = hostname.partition(".")[0]
    found = [first, f"{first}.local", hostname, *more, *CONTAINER_NAMES]
    usable = [name.lower() for name in found if _is_name(name)]
    return list(dict.fromkeys([*usable, *addresses]))


def _is_name(text: str) -> bool:
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))
