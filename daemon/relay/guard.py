"""Who may come in: decided on the request's head alone, before a byte of its body is read. Pure.

The attacker to think of is a web page in the user's own browser: it can send requests to loopback
and, by DNS rebinding, under a name of its own. So the Host must be a name that is ours, and a
request that a browser marked as coming from elsewhere is refused, on every path.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from daemon.access.principals import LOCAL, Principal
from daemon.core.problems import Code, Problem
from daemon.relay.heads import Head
from daemon.relay.routes import is_control

_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f.]{0,39}:[0-9A-Fa-f:.]{1,44})\]|([0-9A-Za-z._-]{1,253}))(?::[0-9]{1,5})?"
)
_LOOPBACK_NAMES = frozenset({"localhost"})
_CONTAINER_NAMES = frozenset({"host.docker.internal", "host.containers.internal"})
_OWN_SITES = (b"none", b"same-origin")
_MEMORY = 64  # hosts remembered as allowed


@dataclass(frozen=True, slots=True)
class Peer:
    """The two ends of a client's connection, as bare addresses."""

    address: str
    local: str
    loopback: bool

    @classmethod
    def of(cls, peername: object, sockname: object) -> Peer:
        """From a transport's ``peername`` and ``sockname``; what is no IP address is a stranger."""
        address, local = _bare(peername), _bare(sockname)
        return cls(str(address or ""), str(local or ""), bool(address and address.is_loopback))


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _bare(name: object) -> Address | None:
    if not isinstance(name, tuple) or not name or not isinstance(name[0], str):
        return None
    return _address(name[0].partition("%")[0])


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Guard:
    """The rules with this daemon's settings: ``hosts`` are further names by which it is reached,
    ``cors_origins`` the exact origins (``https://app.example``) whose pages may use it."""

    def __init__(self, hosts: Iterable[str] = (), cors_origins: Iterable[str] = ()) -> None:
        self._hosts = _LOOPBACK_NAMES | _CONTAINER_NAMES | {host.lower() for host in hosts}
        self._origins = frozenset(origin.encode("ascii") for origin in cors_origins)
        self._known: set[tuple[bytes, str]] = set()

    def decide(self, head: Head, peer: Peer) -> Principal | Problem:
        """The principal that asks, or why it may not."""
        first = head.first
        host = first.get(b"host")
        # Only HTTP/1.0 can be without; no browser speaks it.
        if host is not None and (host, peer.local) not in self._known:
            problem = self._check_host(host, peer)
            if problem is not None:
                return problem
        if b"origin" in first or b"sec-fetch-site" in first:
            problem = self._check_browser(head, host)
            if problem is not None:
                return problem
        if is_control(head.path):
            return Problem(
                Code.UNAUTHORIZED,
                "This path needs a key with the scope control.",
                "On this machine use the command ctl instead: it needs no key.",
            )
        if not peer.loopback:
            return Problem(
                Code.UNAUTHORIZED,
                "Requests from another machine need a key, and none is set up.",
                "Use it on the machine itself, or through an SSH tunnel.",
            )
        return LOCAL

    def allows_origin(self, origin: bytes) -> bool:
        """May pages of this origin read our answers?"""
        return origin in self._origins

    def _check_host(self, host: bytes, peer: Peer) -> Problem | None:
        match = _HOST.fullmatch(host)
        if match is not None:
            literal, name = match.groups()
            text = (literal or name).decode("ascii").lower()
            if text in self._hosts or _literal_is_ours(text, peer):
                if len(self._known) >= _MEMORY:
                    self._known.clear()
                self._known.add((host, peer.local))
                return None
        shown = host[:100].decode("ascii", "replace") or "(empty)"
        return Problem(
            Code.MISDIRECTED,
            f"The Host {shown} is not a name of this server.",
            "Use http://127.0.0.1, or add the name to `hosts` in the configuration.",
        )

    def _check_browser(self, head: Head, host: bytes | None) -> Problem | None:
        origin = head.first.get(b"origin")
        if origin is not None:
            if origin in self._origins:
                return None
            if host is None or origin.lower() != b"http://" + host.lower():
                shown = origin[:100].decode("ascii", "replace")
                return Problem(
                    Code.FORBIDDEN,
                    f"Pages of the origin {shown} may not use this server.",
                    "Add it to `cors_origins` in the configuration if that is wanted.",
                )
        site = head.first.get(b"sec-fetch-site")
        if site is not None and site not in _OWN_SITES:
            return Problem(Code.FORBIDDEN, "Pages of other sites may not use this server.")
        return None


def _literal_is_ours(text: str, peer: Peer) -> bool:
    """An address in a Host cannot be rebound, but must be one that the client really reached."""
    address = _address(text)
    if address is None:
        return False
    return (address.is_loopback and _is_loopback(peer.local)) or str(address) == peer.local


def _is_loopback(text: str) -> bool:
    address = _address(text)
    return address is not None and address.is_loopback


def check_content_type(head: Head) -> Problem | None:
    """For JSON routes: a browser can send other types across sites without asking first.

    Programs may leave the type out (curl -d says form): they send neither Origin nor Sec-Fetch-*.
    """
    first = head.first
    kind = first.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/json" or (b"origin" not in first and b"sec-fetch-site" not in first):
        return None
    return Problem(
        Code.FORBIDDEN,
        f"From a browser the Content-Type must be application/json; found "
        f"{kind.decode('latin-1') or 'none'}.",
    )
