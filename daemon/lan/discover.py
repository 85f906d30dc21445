"""Looking for other servers of ours on the network. What is found is anybody's word."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.access.addresses import Address, address_of
from daemon.lan.announce import KIND

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf

_MOST = 256  # answers that are looked at: anybody may send them
_TEXT = 100  # characters of a text that are kept
_ANSWER_MS = 1000  # for one server's details, once its name is known


@dataclass(frozen=True, slots=True)
class Found:
    """One server. ``fingerprint``: the beginning of its certificate's; "": it speaks plain HTTP."""

    name: str
    host: str
    urls: list[str]  # those of IPv4 first
    version: str
    fingerprint: str


def discover(seconds: float) -> list[Found]:
    """Ask on every interface and listen for ``seconds``. Blocks. Raises OSError."""
    from zeroconf import ServiceBrowser, ServiceStateChange, Zeroconf

    names: dict[str, None] = {}

    def changed(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            names.pop(name, None)
        elif len(names) < _MOST:
            names[name] = None

    zeroconf = Zeroconf()
    try:
        browser = ServiceBrowser(zeroconf, KIND, handlers=[changed])
        time.sleep(seconds)
        browser.cancel()
        infos = [zeroconf.get_service_info(KIND, name, _ANSWER_MS) for name in list(names)]
    finally:
        zeroconf.close()
    found = [one for info in infos if info is not None and (one := read(info)) is not None]
    return sorted(found, key=lambda one: (one.name, one.urls))


def read(info: ServiceInfo) -> Found | None:
    """One answer; None: it has no address."""
    told = {key: value for key, value in info.decoded_properties.items() if value is not None}
    told_at = (address_of(text) for text in info.parsed_addresses())
    addresses = [one for one in told_at if one and not (one.version == 6 and one.is_link_local)]
    if not addresses or not info.port:
        return None
    addresses.sort(key=lambda one: (one.version, int(one)))
    scheme = "https" if told.get("tls") else "http"
    return Found(
        name=info.name.removesuffix(f".{KIND}")[:_TEXT],
        host=(info.server or "").rstrip(".")[:_TEXT],
        urls=[_url(scheme, one, info.port) for one in addresses],
        version=told.get("version", "")[:_TEXT],
        fingerprint=told.get("tls", "")[:_TEXT],
    )


def _url(scheme: str, address: Address, port: int) -> str:
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{scheme}://{host}:{port}"
