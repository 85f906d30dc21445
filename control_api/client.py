"""A small synchronous client of the control API: over its unix socket, or (``control_api.far``)
over the network to another machine's.

Standard library only, so that ``ctl`` starts fast. Answers are plain JSON values; :func:`view`
turns one into a value of ``daemon.views`` where a command wants fields with types.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import quote, urlencode

from control_api.places import FACTS_LIMIT, SYSTEM_RUN
from control_api.places import SOCKET_ENV as SOCKET_ENV
from control_api.places import daemon_facts as daemon_facts
from control_api.places import find_socket as find_socket
from control_api.places import is_socket as is_socket
from control_api.places import state_dir as state_dir
from daemon.views import (
    BesideView,
    ChoiceView,
    ClaimView,
    FigureView,
    FindingView,
    HeldView,
    IncidentView,
    KeyView,
    LanView,
    ListenerView,
    MeasuredView,
    PoolView,
    VerdictView,
    VictimView,
    WaitView,
)

PREFIX: Final = "/control/v1"
HOST_ENV: Final = "MODELPORT_HOST"
# How long ctl waits is its own affair: it reads no configuration (that of the daemon may be another
# file), and Ctrl-C is at hand.
CONNECT_SECONDS: Final = 5.0
PING_SECONDS: Final = 2.0
"""For an answer that only tells whether a daemon is there."""
ANSWER_SECONDS: Final = 30.0
SLOW_SECONDS: Final = 3600.0
"""For an unload, which waits for running requests, and a reload."""
STREAM_SECONDS: Final = 60.0
"""Streams have a heartbeat at least every 30 s; two missing ones mean that the daemon hangs."""
NEXT_STEP: Final = "Start it with `ctl serve` (or `modelportd`)."

if TYPE_CHECKING:
    from control_api.far import Far

_View = TypeVar("_View")
# The values inside a value, by the name of the field.
_INNER: Final[dict[str, type]] = {
    "about": KeyView,
    "keys": KeyView,
    "listeners": ListenerView,
    "lan": LanView,
    "pools": PoolView,
    "choices": ChoiceView,
    "claim": ClaimView,
    "victims": VictimView,
    "waiting": WaitView,
    "memory": HeldView,
    "beside": BesideView,
    "findings": FindingView,
    "last": IncidentView,
    "tested": VerdictView,
    "figures": FigureView,
    "measured": MeasuredView,
}


class UnreachableError(Exception):
    """No daemon answers. ``hint`` is the next step."""

    def __init__(self, message: str, hint: str = NEXT_STEP) -> None:
        super().__init__(message)
        self.hint = hint


class HostError(Exception):
    """Another machine's daemon cannot be asked. ``hint`` is the next step. No ``UnreachableError``:
    what helps where none runs here (starting one, reading its files) does not help there."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RefusedError(Exception):
    """The daemon said no; the attributes are those of the error envelope."""

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        facts: Mapping[str, Any] | None = None,
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.facts = dict(facts or {})
        self.status = status

    @property
    def envelope(self) -> dict[str, Any]:
        """The error as the API shows it."""
        detail = {"code": self.code, "message": self.message}
        return {"error": {**detail, "hint": self.hint, "facts": self.facts}}


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One server-sent event. ``id`` is None for a ``gap``."""

    kind: str
    id: int | None
    data: dict[str, Any] = field(default_factory=dict)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: Path, answer_seconds: float) -> None:
        super().__init__("localhost", timeout=answer_seconds)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_SECONDS)
            sock.connect(str(self._path))
            sock.settimeout(self.timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class Way(Protocol):
    """How a daemon is reached. ``prefix`` is before every path; ``worked``: it took our key."""

    prefix: str

    def open(self, seconds: float | None) -> http.client.HTTPConnection: ...
    def headers(self) -> dict[str, str]: ...
    def worked(self) -> None: ...
    def broken(self, error: Exception) -> Exception: ...


class Near:
    """The daemon of this machine, by its socket. It needs no key: the file's rights are one."""

    prefix = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, seconds: float | None) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, seconds)  # type: ignore[arg-type]

    def headers(self) -> dict[str, str]:
        return {}

    def worked(self) -> None:
        pass

    def broken(self, error: Exception) -> Exception:
        return _broken(self._path, error)


class Client:
    """One client of one daemon: that of this machine, or the one that MODELPORT_HOST names. Every
    call opens its own connection and closes it.

    All methods raise :class:`UnreachableError` (or :class:`HostError`) and :class:`RefusedError`.
    """

    def __init__(self, path: Path | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._path = path
        self._far: Far | None = None

    @classmethod
    def of(cls, far: Far) -> Client:
        """Of another machine, whatever MODELPORT_HOST names."""
        client = cls(environ={})
        client._far = far
        return client

    @property
    def path(self) -> Path:
        """The socket. Raises ``UnreachableError`` if there is none to be found."""
        self._path = self._path or find_socket(self._environ)
        if self._path is None:
            raise UnreachableError("The daemon is not running.")
        return self._path

    @property
    def far(self) -> Far | None:
        """The way to another machine; None: it is this one. Raises ``HostError``,
        ``RefusedError``."""
        name = self._environ.get(HOST_ENV)
        if self._far is None and self._path is None and name:
            from control_api.far import find

            self._far = find(name, self._environ)
        return self._far

    @property
    def way(self) -> Way:
        """How it is reached. Raises as :attr:`far` and :attr:`path`."""
        return self.far or Near(self.path)

    def url(self) -> str:
        """The address for clients of models."""
        return self.far.url if self.far is not None else str(self.get("/status")["url"])

    def get(self, path: str, *, seconds: float = ANSWER_SECONDS, **query: Any) -> Any:
        """The JSON answer to a GET."""
        return self._call("GET", path, query, None, seconds)

    def post(self, path: str, *, seconds: float = ANSWER_SECONDS, **body: Any) -> Any:
        """The JSON answer to a POST of ``body``."""
        return self._call("POST", path, {}, body, seconds)

    def progress(self, path: str, **body: Any) -> Iterator[dict[str, Any]]:
        """The steps of a load or a pull, until ready; a failure is raised as ``RefusedError``."""
        for raw in self._lines("POST", path, {}, {**body, "wait": True}):
            if not raw.strip():
                continue
            line = _json(raw)
            if line.get("error"):
                raise _refused(line, 0)
            yield line
            if line.get("step") == "failed":
                raise RefusedError("model_unavailable", str(line.get("text", "It failed.")))

    def events(self, *, since: int | None = None, follow: bool = True) -> Iterator[SseEvent]:
        """Events until the daemon ends the stream. ``since``: after this id, else only new ones."""
        query: dict[str, Any] = {} if since is None else {"since": since}
        kind, event_id, data = "message", None, ""
        for raw in self._lines("GET", "/events", {**query, "follow": follow}, None):
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if not line:
                if data:
                    yield SseEvent(kind, event_id, _json(data.encode()))
                kind, event_id, data = "message", None, ""
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "id" and value.isdecimal():
                event_id = int(value)
            elif name == "data":
                data += value

    def log_lines(self, name: str, *, lines: int, follow: bool) -> Iterator[str]:
        """Lines of a backend's log or (``daemon``) of the daemon's."""
        query = {"lines": lines, "follow": follow}
        # a log may be silent for hours; a daemon that dies closes the connection
        for raw in self._lines("GET", f"/logs/{segment(name)}", query, None, None):
            yield raw.decode("utf-8", "replace").rstrip("\n")

    def _call(
        self, method: str, path: str, query: dict[str, Any], body: Any, seconds: float
    ) -> Any:
        connection, response = self._send(method, path, query, body, seconds)
        try:
            return self._json(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self.way.broken(error) from error
        finally:
            connection.close()

    def _lines(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: Any,
        seconds: float | None = STREAM_SECONDS,
    ) -> Iterator[bytes]:
        connection, response = self._send(method, path, query, body, seconds)
        try:
            while line := response.readline():
                yield line
            if not _complete(response):
                raise http.client.IncompleteRead(b"")
        except (OSError, http.client.HTTPException) as error:
            raise self.way.broken(error) from error
        finally:
            response.close()
            connection.close()

    def _send(
        self, method: str, path: str, query: dict[str, Any], body: Any, seconds: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        given = {k: int(v) if isinstance(v, bool) else v for k, v in query.items() if v is not None}
        way = self.way
        target = way.prefix + PREFIX + path + ("?" + urlencode(given) if given else "")
        headers, data = {"Accept": "*/*", **way.headers()}, None
        if method != "GET":
            wanted = {k: v for k, v in (body or {}).items() if v is not None}
            headers["Content-Type"], data = "application/json", json.dumps(wanted).encode()
        try:
            connection = way.open(seconds)
        except OSError as error:
            raise way.broken(error) from error
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _refused(self._json(response.read()), response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise way.broken(error) from error
        except BaseException:
            connection.close()
            raise
        way.worked()
        return connection, response

    def _json(self, raw: bytes) -> Any:
        if self._far is None:
            return _json(raw)
        try:
            return json.loads(raw)
        except ValueError as error:
            raise HostError(f"What answers at {self._far.name} is no modelport.") from error


def _complete(response: http.client.HTTPResponse) -> bool:
    """Whether a body that was read by ``readline`` came to its end: readline hides if not."""
    if getattr(response, "chunked", False):
        return getattr(response, "chunk_left", None) is None  # None: the last chunk has come
    return not response.length


def segment(name: str) -> str:
    """A model's name as one segment of a path (`/` becomes `%2F`)."""
    return quote(name, safe="")


def view(kind: type[_View], data: Mapping[str, Any]) -> _View:
    """A value of ``daemon.views`` from JSON. Fields that we do not know are left out: the daemon
    may be newer than this program. Raises ``RefusedError`` if it is too old to have them all."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    known = {name: data[name] for name in names if name in data}
    for name, inner in _INNER.items():
        if isinstance(found := known.get(name), list):
            known[name] = [view(inner, each) for each in found]
        elif isinstance(found, Mapping):
            known[name] = view(inner, found)
    try:
        return kind(**known)
    except TypeError as error:
        raise RefusedError(
            "internal_error",
            "The running daemon is another version than this program.",
            "Restart the daemon: `ctl shutdown`, then `ctl serve`.",
        ) from error


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise UnreachableError(
            "What answers on the control socket is not the daemon.",
            f"Look at {SOCKET_ENV} and at <state>/daemon.json.",
        ) from error


def _refused(body: Any, status: int) -> RefusedError:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {"code": "internal_error", "message": f"The daemon answered {status}."}
    facts = error.get("facts")
    return RefusedError(
        str(error.get("code", "")),
        str(error.get("message", "")),
        str(error.get("hint", "")),
        facts if isinstance(facts, dict) else {},
        status,
    )


def _not_a_member(path: Path) -> UnreachableError:
    """The daemon of this machine is there, and not ours to control."""
    told: Any = {}
    try:
        told = json.loads((path.parent / "public.json").read_bytes()[:FACTS_LIMIT])
    except (OSError, ValueError, RecursionError):
        told = {}
    told = told if isinstance(told, dict) else {}
    address, group = str(told.get("url", "")), str(told.get("group", "modelport"))
    where = f" It serves on {address}." if address else ""
    return UnreachableError(
        f"The daemon of this machine is controlled by the group {group} alone.{where}",
        f"Ask a member of {group} for a key (`ctl key add NAME`), or become one: "
        f"sudo usermod -aG {group} $USER, then log in again.",
    )


def _broken(path: Path, error: Exception) -> UnreachableError:
    if isinstance(error, FileNotFoundError):
        return UnreachableError(f"The daemon is not running (no socket at {path}).")
    if isinstance(error, ConnectionRefusedError):
        return UnreachableError(f"The daemon is not running (nobody listens at {path}).")
    if isinstance(error, PermissionError) and path.parent == SYSTEM_RUN:
        return _not_a_member(path)
    if isinstance(error, PermissionError):
        return UnreachableError(
            f"The daemon's socket {path} belongs to another user.",
            "Use the daemon's address with a key, or run your own daemon with `ctl serve`.",
        )
    if isinstance(error, TimeoutError):
        return UnreachableError(
            f"The daemon at {path} does not answer.", "`ctl doctor` looks at what is wrong."
        )
    if isinstance(
        error, (http.client.IncompleteRead, ConnectionError, http.client.RemoteDisconnected)
    ):
        return UnreachableError(
            "The daemon closed the connection: it was stopped, or it crashed.",
            "`ctl logs daemon` shows its last words; " + NEXT_STEP[0].lower() + NEXT_STEP[1:],
        )
    return UnreachableError(f"The daemon at {path} cannot be asked: {error}.")
