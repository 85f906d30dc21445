"""Who may use the control API. Two sockets, two rules, and everything else is refused.

``OwnerAuth`` is for the private unix socket (mode 0600): whoever can open it is the owner, file
permissions are the password. ``FrontAuth`` is for the second socket, to which only the front
writes: there each request states the principal that the front has checked, under a secret of this
start, so that nothing from the network ever borrows the local user's rights. The front must strip
these headers (:data:`FRONT_HEADERS`) from what clients send.
"""

from __future__ import annotations

import grp
import hmac
import os
import pwd
import socket
import struct
from typing import Any, Final, Protocol

from aiohttp import web

from control_api.errors import StatusProblemError
from daemon.access.principals import CONTROL, OWNER, Principal
from daemon.core.problems import Code, Problem, ProblemError

SECRET: Final = "X-Modelport-Secret"  # noqa: S105 - the name of a header
PRINCIPAL: Final = "X-Modelport-Principal"
SCOPES: Final = "X-Modelport-Scopes"
FRONT_HEADERS: Final = frozenset({SECRET, PRINCIPAL, SCOPES})

PRINCIPAL_KEY = web.RequestKey("principal", Principal)


class Auth(Protocol):
    """Says who is asking, from the head of the request alone."""

    def principal(self, request: web.Request) -> Principal:
        """Raises ``ProblemError`` (UNAUTHORIZED, FORBIDDEN) for whoever may not."""
        ...


class OwnerAuth:
    """The private socket: its file's permissions have decided already.

    A web page cannot open a unix socket; should some proxy carry one here all the same, what it
    sends has an ``Origin`` or says that it is cross-site, and is refused.
    """

    def principal(self, request: web.Request) -> Principal:
        if "Origin" in request.headers:
            raise _cross_site()
        _same_site(request)
        return OWNER


class MembersAuth:
    """The socket of a daemon for the whole machine (0660): members of its group, and root.

    The file's mode has decided already; here the kernel says who it is (peer credentials), so that
    users are told apart in queues and logs, and a socket that was left open to others helps nobody.
    """

    def __init__(self, group: str) -> None:
        self._group = group

    def principal(self, request: web.Request) -> Principal:
        if "Origin" in request.headers:
            raise _cross_site()
        _same_site(request)
        transport = request.transport
        peer = None if transport is None else peer_uid(transport.get_extra_info("socket"))
        if peer is not None:
            if peer in (0, os.geteuid()):
                return OWNER
            name = member(peer, self._group)
            if name:
                return Principal(name, OWNER.scopes)
        raise ProblemError(
            Problem(
                Code.FORBIDDEN,
                f"Only members of the group {self._group} may control this daemon.",
                f"sudo usermod -aG {self._group} NAME, and log in again; or use a key.",
            )
        )


def peer_uid(sock: Any) -> int | None:
    """Whose process is at the other end of a unix socket (Linux, unix(7)); None: unknown."""
    option = getattr(socket, "SO_PEERCRED", None)
    if sock is None or option is None:
        return None
    try:
        with socket.socket(fileno=os.dup(sock.fileno())) as own:
            data = own.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    except OSError:
        return None
    return int(struct.unpack("3i", data)[1])


def member(uid: int, group: str) -> str:
    """The name of a user who is in the group; "" for anybody else."""
    try:
        user, wanted = pwd.getpwuid(uid), grp.getgrnam(group)
    except KeyError:
        return ""
    inside = user.pw_gid == wanted.gr_gid or user.pw_name in wanted.gr_mem
    return user.pw_name if inside else ""


class FrontAuth:
    """The front's socket: believe the principal that it states, if it knows the secret.

    Hosts and origins were checked by the front, which knows the allowed ones; ``null`` and
    cross-site are refused here as well.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < 16:
            raise ValueError("the secret of the front has to have 16 characters or more")
        self._secret = secret.encode()

    def principal(self, request: web.Request) -> Principal:
        stated = request.headers.getall(SECRET, [])
        given = stated[0] if len(stated) == 1 else ""
        # bytes: compare_digest raises TypeError for text that is not ASCII
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._secret):
            raise ProblemError(
                Problem(
                    Code.UNAUTHORIZED,
                    "This socket is for the daemon's own front.",
                    "Use the daemon's address with a key of scope control, or `ctl`.",
                )
            )
        if request.headers.get("Origin") == "null":
            raise _cross_site()
        _same_site(request)
        scopes = frozenset(request.headers.get(SCOPES, "").split())
        return Principal(request.headers.get(PRINCIPAL, "unknown"), scopes)


def front_headers(secret: str, principal: Principal) -> dict[str, str]:
    """What the front adds to each request that it relays to its socket."""
    return {
        SECRET: secret,
        PRINCIPAL: principal.name,
        SCOPES: " ".join(sorted(principal.scopes)),
    }


def check(auth: Auth, request: web.Request) -> Principal:
    """The principal, who has scope ``control``: every route of this API needs it."""
    principal = auth.principal(request)
    if not principal.may(CONTROL):
        raise ProblemError(
            Problem(
                Code.FORBIDDEN,
                f"{principal.name} may use models, but not control the daemon.",
                "Use a key of scope control, or `ctl` on the machine itself.",
            )
        )
    return principal


def _same_site(request: web.Request) -> None:
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise _cross_site()


def _cross_site() -> ProblemError:
    return StatusProblemError(
        Problem(
            Code.FORBIDDEN,
            "Web pages of other sites may not control the daemon.",
            "Use `ctl`, or the daemon's own page.",
        ),
        403,
    )
