"""Who may come in: decided on the request's head alone, before a byte of its body is read. Pure.

The attacker to think of is a web page in the user's own browser: it can send requests to loopback
and, by DNS rebinding, under a name of its own. So the Host must be a name that is ours, and a
request that a browser marked as coming from elsewhere is refused, on every path. From another
machine a key is needed, and for the control plane one of scope control wherever it comes from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from daemon.access.addresses import Address, address_of
from daemon.access.failures import Failures
from daemon.access.keys import NO_KEYS, Ring, sent_in
from daemon.access.principals import ANYONE, CONTROL, LOCAL, USE, Principal
from daemon.core.problems import Code, Problem
from daemon.relay.heads import Head
from daemon.relay.routes import UPSTREAM_PREFIX, is_control

_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f.]{0,39}:[0-9A-Fa-f:.]{1,44})\]|([0-9A-Za-z._-]{1,253}))(?::[0-9]{1,5})?"
)
_LOOPBACK_NAMES = frozenset({"localhost"})
_CONTAINER_NAMES = frozenset({"host.docker.internal", "host.containers.internal"})
_SENT = frozenset({b"authorization", b"x-api-key", b"api-key"})
_READ = frozenset({"GET", "HEAD"})
_OWN_SITES = (b"none", b"same-origin")
_MEMORY = 64  # hosts remembered as allowed
# One text for all of them, whether a key is missing, wrong or over: who guesses learns nothing.
NO_KEY: Final = Problem(
    Code.UNAUTHORIZED,
    "This needs a valid key, sent as Authorization: Bearer KEY or x-api-key: KEY.",
    "On the machine of modelport: ctl key add NAME makes one, ctl key ls shows what there is.",
)
NO_CONTROL_KEY: Final = Problem(
    Code.UNAUTHORIZED,
    "This path needs a key with the scope control.",
    "On this machine use the command ctl instead: it needs no key.",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """The two ends of a client's connection, as bare addresses; ``tls``: it is encrypted."""

    address: str
    local: str
    loopback: bool
    tls: bool = False

    @classmethod
    def of(cls, peername: object, sockname: object, *, tls: bool = False) -> Peer:
        """From a transport's ``peername`` and ``sockname``; what is no IP address is a stranger."""
        address, local = _bare(peername), _bare(sockname)
        near = bool(address and address.is_loopback)
        return cls(str(address or ""), str(local or ""), near, tls)


def _bare(name: object) -> Address | None:
    if not isinstance(name, tuple) or not name or not isinstance(name[0], str):
        return None
    return address_of(name[0])


class Guard:
    """The rules with this daemon's settings: ``hosts`` are further names by which it is reached,
    ``cors_origins`` the exact origins (``https://app.example``) whose pages may use it.

    ``keys`` are those in force; ``failures`` counts who asks without one, beyond the life of one
    guard. ``keyless``: from other machines, too, models may be used without. ``clock``: Unix
    seconds."""

    def __init__(
        self,
        hosts: Iterable[str] = (),
        cors_origins: Iterable[str] = (),
        *,
        keys: Ring = NO_KEYS,
        failures: Failures | None = None,
        keyless: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hosts = _LOOPBACK_NAMES | _CONTAINER_NAMES | {host.lower() for host in hosts}
        self._origins = frozenset(origin.encode("ascii") for origin in cors_origins)
        self._known: set[tuple[bytes, str]] = set()
        self._keys = keys
        self._failures = failures if failures is not None else Failures()
        self._keyless = keyless
        self.clock = clock

    def decide(self, head: Head, peer: Peer) -> Principal | Problem:
        """The principal that asks, or why it may not."""
        first = head.first
        host = first.get(b"host")
        who = self._key(first)
        # Only HTTP/1.0 can be without a Host; no browser speaks it. A page that was rebound to us
        # has no key, so with one any name will do.
        if who is None and host is not None and (host, peer.local) not in self._known:
            problem = self._check_host(host, peer)
            if problem is not None:
                # Under a wrong name a right key passes, so there, too, guesses are counted.
                return problem if _SENT.isdisjoint(first) else self._refused(peer, problem)
        if b"origin" in first or b"sec-fetch-site" in first:
            problem = self._check_browser(head, host, peer)
            if problem is not None:
                return problem
        if is_control(head.path):
            return self._controller(who, peer)
        if who is not None:
            if not who.may(USE):
                return Problem(Code.FORBIDDEN, f"The key {who.name} may not use models.")
        elif peer.loopback:
            # whatever it sent as a key: many clients must send one
            return _unseen(head, host) or LOCAL
        elif self._keyless or self._preflight(head):
            who = ANYONE
        else:
            return self._refused(peer, NO_KEY)
        if not peer.loopback and head.path.startswith(UPSTREAM_PREFIX) and not who.may(CONTROL):
            text = "From another machine, paths under /upstream/ need a key with the scope control."
            return Problem(Code.FORBIDDEN, text)
        return who

    def _key(self, first: Mapping[bytes, bytes]) -> Principal | None:
        """Whose key was sent; None: none that is good."""
        if b"authorization" in first or b"x-api-key" in first or b"api-key" in first:
            for given in sent_in(first):
                found = self._keys.find(given, self.clock())
                if found is not None:
                    return found
        return None

    def _controller(self, who: Principal | None, peer: Peer) -> Principal | Problem:
        if who is None:
            return self._refused(peer, NO_CONTROL_KEY)
        if not who.may(CONTROL):
            text = f"The key {who.name} may use models, but not control the daemon."
            return Problem(Code.FORBIDDEN, text, "It takes a key with the scope control.")
        return who

    def _refused(self, peer: Peer, problem: Problem) -> Problem:
        """``problem``, until there are too many of them from one address of another machine."""
        if peer.loopback:
            return problem
        wait = self._failures.count(peer.address, self.clock())
        if not wait:
            return problem
        text = "Too many requests without a valid key have come from this address."
        return Problem(Code.RATE_LIMITED, text, problem.hint, wait)

    def _preflight(self, head: Head) -> bool:
        """A browser's question before the request itself, which it may not send a key with; it has
        no effect. Only for pages that are allowed by name."""
        first = head.first
        asks = head.method == "OPTIONS" and b"access-control-request-method" in first
        return asks and first.get(b"origin", b"") in self._origins

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

    def _check_browser(self, head: Head, host: bytes | None, peer: Peer) -> Problem | None:
        origin = head.first.get(b"origin")
        if origin is not None:
            if origin in self._origins:
                return None
            scheme = b"https://" if peer.tls else b"http://"
            if host is None or origin.lower() != scheme + host.lower():
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


def _unseen(head: Head, host: bytes | None) -> Problem | None:
    """Browsers mark what a page asks for across sites (an image, say) where they know the server
    to be on their own machine, and that is by these names alone: under others a GET of a page
    cannot be told from a program's. Only below /upstream/ has one an effect: it loads a model."""
    if head.method not in _READ or not head.path.startswith(UPSTREAM_PREFIX) or host is None:
        return None
    match = _HOST.fullmatch(host)
    name = (match[1] or match[2]).decode("ascii").lower() if match is not None else ""
    if name in _LOOPBACK_NAMES or _is_loopback(name):
        return None
    text = "Under this name, GET of paths under /upstream/ needs a key."
    return Problem(Code.FORBIDDEN, text, "Without one use http://127.0.0.1 or http://localhost.")


def _literal_is_ours(text: str, peer: Peer) -> bool:
    """An address in a Host cannot be rebound, but must be one that the client really reached."""
    address = address_of(text)
    if address is None:
        return False
    return (address.is_loopback and _is_loopback(peer.local)) or str(address) == peer.local


def _is_loopback(text: str) -> bool:
    address = address_of(text)
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
