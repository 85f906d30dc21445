"""The way to a daemon on another machine: ``ctl --host``. Its port, its certificate, our key."""

from __future__ import annotations

import functools
import getpass
import hashlib
import hmac
import http.client
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from control_api.client import CONNECT_SECONDS, HostError
from control_api.hosts import Host, Hosts, read_fingerprint

KEY_ENV: Final = "MODELPORT_KEY"
KEY_STDIN_ENV: Final = "MODELPORT_KEY_STDIN"
"""Set by ``--key-stdin``, inside of ctl."""
LOCAL: Final = "local"
_NO_KEY: Final = "On that machine: `ctl key add NAME --scope control` makes one."

Ask = Callable[[str], str]


class Far:
    """One other machine. ``ask`` and ``agree`` put a question to a person; None: nobody is there.

    What was learnt (a key, a certificate) is kept once the daemon there has accepted the key.
    """

    def __init__(
        self,
        host: Host,
        hosts: Hosts,
        key: str | None,
        *,
        ask: Ask | None,
        agree: Callable[[str], bool] | None,
        say: Callable[[str], None],
    ) -> None:
        self.host = host
        self._hosts = hosts
        self._ask, self._agree, self._say = ask, agree, say
        self._key = key
        self._fresh = False  # something is to be kept
        parts = urlsplit(host.url)
        self._tls = parts.scheme == "https"
        self._name = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self.prefix = parts.path

    @property
    def name(self) -> str:
        """For messages."""
        named = self.host.name
        return named if named == self.host.url else f"{named} ({self.host.url})"

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return self.host.url

    @property
    def key(self) -> str:
        """The key, asked for if need be. Raises ``HostError``."""
        if self._key is None:
            self._key = self._hosts.key(self.host)
        if self._key is None:
            if self._ask is None:
                raise HostError(
                    f"There is no key for {self.name}.",
                    f"Give it once: `ctl host add NAME {self.host.url} --key-stdin`, or {KEY_ENV}. "
                    + _NO_KEY,
                )
            if not self._tls:
                self._say("Without TLS everybody on the way can read the key: prefer https.")
            self._key = self._ask(f"Key for {self.name} (scope control): ").strip()
            self._fresh = True
        if not self._key.isascii() or not self._key.isprintable() or not self._key:
            raise HostError(f"What was given is no key for {self.name}.", _NO_KEY)
        return self._key

    def headers(self) -> dict[str, str]:
        """What every request has."""
        return {"Authorization": f"Bearer {self.key}"}

    def open(self, seconds: float | None) -> http.client.HTTPConnection:
        """A connection whose other end is who it should be. OSError, ``HostError``."""
        # The key is asked for before, not in between: the connection would wait for a person.
        _ = self.key
        if not self._tls:
            return _Connection(self._name, self._port, seconds, None)
        if self.host.fingerprint:
            return self._pinned(seconds)
        try:
            return _Connection(self._name, self._port, seconds, ssl.create_default_context())
        except ssl.SSLCertVerificationError as error:
            self._meet(error)
            return self._pinned(seconds)

    def _pinned(self, seconds: float | None) -> http.client.HTTPConnection:
        """Only to who has the very certificate that was accepted."""
        connection = _Connection(self._name, self._port, seconds, _anyone())
        shown = connection.fingerprint
        if not hmac.compare_digest(shown, self.host.fingerprint):
            connection.close()
            raise HostError(
                f"The certificate of {self.name} is another one: {shown}. Nothing was sent.",
                "If that is right (`ctl lan status` there shows it), accept it: "
                f"ctl host add NAME {self.host.url} --fingerprint {shown}",
            )
        return connection

    def _meet(self, error: ssl.SSLCertVerificationError) -> None:
        """The system does not trust its certificate: a person may."""
        stranger = _Connection(self._name, self._port, CONNECT_SECONDS, _anyone())
        shown = stranger.fingerprint
        stranger.close()
        if self._agree is None:
            raise HostError(
                f"The certificate of {self.name} is not known ({error.verify_message}): {shown}.",
                "Compare it with `ctl lan status` on that machine, then: "
                f"ctl host add NAME {self.host.url} --fingerprint {shown}",
            )
        self._say(f"{self.name} has a certificate that is not known here. Its SHA-256:\n  {shown}")
        if not self._agree("Is it the one that `ctl lan status` shows on that machine?"):
            raise HostError(f"The certificate of {self.name} was not accepted; nothing was sent.")
        self.host = replace(self.host, fingerprint=shown)
        self._fresh = True

    def worked(self) -> None:
        """The daemon there took the key: keep what was learnt."""
        if self._fresh:
            self._fresh = False
            self.keep()

    def keep(self) -> None:
        """Keep the machine with its key."""
        where = self._hosts.keep(self.host, self._key)
        if where:
            self._say(f"The key is kept {where}.")

    def broken(self, error: Exception) -> Exception:
        """What went wrong, in words."""
        where = self.name
        if isinstance(error, HostError):
            return error
        if isinstance(error, ssl.SSLError):
            reason = error.reason or str(error)
            hint = "Is it http:// there? `ctl lan status` on that machine shows its addresses."
            return HostError(f"{where} cannot be talked to by TLS: {reason}.", hint)
        if isinstance(error, socket.gaierror):
            return HostError(f"{where}: no machine of that name is known.", "`ctl discover` looks.")
        if isinstance(error, ConnectionRefusedError):
            return HostError(
                f"Nobody listens at {where}.", "On that machine: `ctl status`, `ctl lan status`."
            )
        if isinstance(error, TimeoutError):
            return HostError(f"{where} does not answer.", "Is it on, and on this network?")
        if isinstance(error, ConnectionError | http.client.HTTPException):
            hint = "It was stopped, or it speaks https:// there."
            return HostError(f"{where} closed the connection.", hint)
        return HostError(f"{where} cannot be asked: {error}.")


class _Connection(http.client.HTTPConnection):
    """Connected, and (with ``tls``) shaken hands, when made. OSError."""

    def __init__(
        self, name: str, port: int, seconds: float | None, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(name, port)
        sock = socket.create_connection((name, port), CONNECT_SECONDS)
        self.fingerprint = ""
        try:
            if tls is not None:
                wrapped = tls.wrap_socket(sock, server_hostname=name)
                sock = wrapped
                der = wrapped.getpeercert(binary_form=True) or b""
                self.fingerprint = hashlib.sha256(der).digest().hex(":").upper()
                if tls.verify_mode is ssl.CERT_NONE and not der:
                    raise ssl.SSLError("it showed no certificate")
            sock.settimeout(seconds)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
        if tls is not None:
            self.default_port = 443  # or the Host would name it

    def connect(self) -> None:
        """Done already; http.client would connect anew, to anybody, after a close."""
        raise ConnectionError("the connection was closed")


def _anyone() -> ssl.SSLContext:
    """For who is known by his fingerprint, which the caller compares before a byte is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def find(text: str, environ: Mapping[str, str] = os.environ) -> Far:
    """The machine that ``--host`` or MODELPORT_HOST names. Raises ``RefusedError``, ``HostError``.

    Its key is MODELPORT_KEY, else what comes by ``--key-stdin``, else what was kept; else it is
    asked for on a terminal.
    """
    hosts = Hosts.mine(environ)
    host = hosts.find(text)
    if given := environ.get("MODELPORT_FINGERPRINT"):
        host = replace(host, fingerprint=read_fingerprint(given))
    return meet(host, hosts, environ)


def meet(host: Host, hosts: Hosts, environ: Mapping[str, str] = os.environ) -> Far:
    """The way to it."""
    key = environ.get(KEY_ENV) or None
    from_stdin = key is None and bool(environ.get(KEY_STDIN_ENV))
    if from_stdin:
        key = _piped()
    person = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    far = Far(
        host,
        hosts,
        key,
        ask=getpass.getpass if person else None,
        agree=_agree if person else None,
        say=lambda text: print(text, file=sys.stderr),
    )
    far._fresh = from_stdin
    return far


@functools.cache
def _piped() -> str:
    """The first line of a pipe, which can be read once. The rest is left to the command."""
    return sys.stdin.readline(4096).strip()


def _agree(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def as_json(host: Host, kept: bool) -> dict[str, Any]:
    """One machine for programs, without its key."""
    return {"name": host.name, "url": host.url, "fingerprint": host.fingerprint, "key": kept}
