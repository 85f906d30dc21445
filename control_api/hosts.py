"""Other machines that ``ctl`` knows: their addresses, certificates and keys.

What is no secret is in ``hosts.json`` in the configuration directory (0600). Keys are in the user's
keyring; where there is none (a server without a desktop), in that file, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from control_api.client import RefusedError
from control_api.places import absolute
from daemon.files import read_private, write_private

SERVICE: Final = "modelport"
"""Under which the keyring shows our keys."""
VERSION: Final = 1
_LIMIT: Final = 1 << 20  # bytes of the file
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_FINGERPRINT: Final = re.compile(r"[0-9A-F]{2}(?::[0-9A-F]{2}){31}", re.ASCII)


class Ring(Protocol):
    """The user's keyring, as far as it is used. Any method may raise ``Exception``s of its own."""

    def get_password(self, service: str, username: str) -> str | None: ...
    def set_password(self, service: str, username: str, password: str) -> None: ...
    def delete_password(self, service: str, username: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Host:
    """One machine. ``fingerprint``: SHA-256 of the certificate that was accepted by hand; "": none
    was, and the system has to trust it. ``key``: as it lies in the file; "": it does not."""

    name: str
    url: str
    fingerprint: str = ""
    key: str = field(default="", repr=False)


def config_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the configuration; the same rule as ``daemon.config.paths``."""
    if given := environ.get("MODELPORT_CONFIG"):
        return absolute(given).parent
    from platformdirs import user_config_path

    return user_config_path("modelport", appauthor=False).absolute()


def plain_url(text: str) -> str:
    """``http(s)://host:port[/path]`` without anything else. Raises ``RefusedError``."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    scheme, host = parts.scheme.lower(), parts.hostname
    odd = parts.username or parts.query or re.search(r"[^!-~]", text)
    if scheme not in ("http", "https") or not host or odd:
        raise RefusedError(
            "invalid_request",
            f"{text[:100]!r} is no address of a machine.",
            "Allowed: http://HOST:PORT or https://HOST:PORT, or a name of `ctl host ls`.",
        )
    place = f"[{host}]" if ":" in host else host
    end = f":{port}" if port is not None else ""
    return f"{scheme}://{place}{end}{parts.path.rstrip('/')}"


def read_fingerprint(text: str) -> str:
    """As we write it. Raises ``RefusedError``."""
    bare = re.sub(r"[\s:]", "", text).upper()
    found = ":".join(bare[i : i + 2] for i in range(0, len(bare), 2))
    if not _FINGERPRINT.fullmatch(found):
        raise RefusedError(
            "invalid_request",
            f"{text[:100]!r} is no SHA-256 fingerprint: 64 hexadecimal digits.",
            "`ctl lan status` on that machine shows it.",
        )
    return found


class Hosts:
    """See the module. ``ring`` None: there is no keyring."""

    def __init__(self, path: Path, ring: Ring | None) -> None:
        self.path = path
        self._ring = ring

    @classmethod
    def mine(cls, environ: Mapping[str, str] = os.environ) -> Hosts:
        """Those of this user."""
        return cls(config_dir(environ) / "hosts.json", keyring())

    def all(self) -> dict[str, Host]:
        """By name. Raises ``RefusedError`` for a file that is not ours or not readable."""
        try:
            data = json.loads(read_private(self.path, _LIMIT))
            if data["version"] != VERSION:
                raise ValueError(f"its version is {data['version']!r}")
            return {name: _host(name, one) for name, one in data["hosts"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedError(
                "config_invalid",
                f"{self.path} cannot be used: {error}.",
                "Mend it, or remove it: then keys are asked for again.",
            ) from None

    def find(self, text: str) -> Host:
        """By a name, or a URL that need not be known. Raises ``RefusedError``."""
        known = self.all()
        if text in known:
            return known[text]
        if _NAME.fullmatch(text):
            there = ", ".join(known) or "none yet"
            raise RefusedError(
                "invalid_request",
                f"There is no machine named {text}.",
                f"Known: {there}. `ctl host add {text} URL`, or --host http://{text}:8123",
            )
        url = plain_url(text)
        return next((one for one in known.values() if one.url == url), Host(url, url))

    def key(self, host: Host) -> str | None:
        """The key that was kept for it."""
        if host.key:
            return host.key
        if self._ring is None or host.name not in self.all():
            return None
        try:
            return self._ring.get_password(SERVICE, host.url)
        except Exception:  # noqa: BLE001 - a keyring has errors of its own: locked, refused
            return None

    def keep(self, host: Host, key: str | None) -> str:
        """Remember it, with its key if there is one; says in a word where that lies."""
        where, in_file = "", ""
        if key:
            where = "in your keyring"
            try:
                if self._ring is None:
                    raise LookupError("there is none")
                self._ring.set_password(SERVICE, host.url, key)
            except Exception:  # noqa: BLE001 - as above
                where, in_file = f"in {self.path} (0600)", key
        self._write({**self.all(), host.name: replace(host, key=in_file)})
        return where

    def forget(self, name: str) -> Host:
        """Forget it and its key. Raises ``RefusedError``."""
        known = self.all()
        gone = known.pop(name, None)
        if gone is None:
            raise RefusedError(
                "invalid_request",
                f"There is no machine named {name[:80]}.",
                f"Known: {', '.join(known) or 'none'}.",
            )
        self._write(known)
        if self._ring is not None and all(one.url != gone.url for one in known.values()):
            with contextlib.suppress(Exception):  # it was not there, or is locked
                self._ring.delete_password(SERVICE, gone.url)
        return gone

    def _write(self, hosts: Mapping[str, Host]) -> None:
        plain: dict[str, dict[str, str]] = {}
        for name, one in sorted(hosts.items()):
            more = {"fingerprint": one.fingerprint, "key": one.key}
            plain[name] = {"url": one.url, **{key: text for key, text in more.items() if text}}
        text = json.dumps({"version": VERSION, "hosts": plain}, indent=1) + "\n"
        try:
            write_private(self.path, text.encode())
        except OSError as error:
            reason = error.strerror or str(error)
            raise RefusedError(
                "config_invalid", f"{self.path} cannot be written: {reason}."
            ) from None


def _host(name: str, found: Any) -> Host:
    values = [found["url"], found.get("fingerprint", ""), found.get("key", "")]
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is not as we write it")
    return Host(name, *values)


def checked_name(name: str) -> str:
    """A name for a machine. Raises ``RefusedError``."""
    if not _NAME.fullmatch(name) or name == "local":
        raise RefusedError(
            "invalid_request",
            f"{name[:80]!r} cannot be the name of a machine.",
            "Allowed: letters, digits and ._- (63 at most); `local` is this machine.",
        )
    return name


def keyring() -> Ring | None:
    """The user's keyring, if there is one that keeps anything."""
    try:
        import keyring as library  # 30 ms, and only with --host

        found = library.get_keyring()
        return found if float(found.priority) >= 1 else None
    except Exception:  # noqa: BLE001 - whatever a desktop's libraries do: then there is none
        return None
