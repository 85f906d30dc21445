"""Unit files and property lists from their templates. Pure, but for reading the templates.

What is written here is all that a service manager knows of us: every other setting is in the
configuration file, which upgrades leave alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape as xml

from daemon.access.addresses import address_of
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.service.places import LABEL, Manager, Scope

Address = tuple[str, int]
GRACE: Final = 10  # seconds that a service manager waits longer than a clean stop can take
_NAMES: Final = re.compile(r"@([A-Z_]+)@")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./@:+,=%-]+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs from one machine to the next. ``program`` and ``config`` are absolute."""

    manager: Manager
    scope: Scope
    program: Path
    config: Path
    stop_seconds: int
    listen: Address
    also: tuple[Address, ...] = ()
    user: str = ""
    group: str = ""
    log: Path = Path("/dev/null")  # launchd: what is said before our own log is open


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One file for the service manager."""

    name: str
    text: str
    kind: str  # service | socket | also

    @property
    def is_socket(self) -> bool:
        return self.kind != "service"


def stop_seconds(settings: Settings) -> int:
    """How long the service manager waits for a stop in good order."""
    timing = settings.timing
    return int(timing.drain_grace + timing.stop_grace) + GRACE


def addresses(settings: Settings) -> tuple[Address, tuple[Address, ...]]:
    """The fixed address and those beside it, as numbers: service managers look up no names."""
    server = settings.server
    also = ((one.host or server.host, one.port) for one in server.also)
    return _numeric(server.host, server.port), tuple(_numeric(*one) for one in also)


def _numeric(host: str, port: int) -> Address:
    address = address_of(host, zone=True)
    if address is None:
        raise _bad("server.host", host, "an address such as 127.0.0.1 or ::1")
    return str(address), port


def render(recipe: Recipe) -> tuple[UnitFile, ...]:
    """Every file of this recipe. Raises ProblemError for a value that no such file can hold."""
    for name in ("program", "config", "log"):
        path = getattr(recipe, name)
        if not path.is_absolute() or any(ord(c) < 32 or ord(c) == 127 for c in str(path)):
            raise _bad(name, str(path), "an absolute path on one line")
    if recipe.manager == "launchd":
        return (UnitFile(f"{LABEL}.plist", _plist(recipe), "service"),)
    values = {
        "MODELPORTD": quoted(recipe.program),
        "CONFIG": quoted(recipe.config),
        "STOP_SECONDS": str(recipe.stop_seconds),
        "USER": recipe.user,
        "GROUP": recipe.group,
    }
    suffix = "-system" if recipe.scope == "system" else ""
    service = fill(template("units", f"{LABEL}{suffix}.service"), values)
    files = [UnitFile(f"{LABEL}.service", service, "service")]
    text = template("units", f"{LABEL}.socket")
    files.append(
        UnitFile(f"{LABEL}.socket", fill(text, {"LISTEN": stream(recipe.listen)}), "socket")
    )
    text = template("units", f"{LABEL}-also.socket")
    for address in recipe.also:
        values = {"LISTEN": stream(address), "PORT": str(address[1])}
        files.append(UnitFile(f"{LABEL}-{address[1]}.socket", fill(text, values), "also"))
    return tuple(files)


def fill(text: str, values: dict[str, str]) -> str:
    """A template with its values. KeyError for a placeholder that is not known."""
    return _NAMES.sub(lambda found: values[found[1]], text)


@cache
def template(folder: str, name: str) -> str:
    """A template: within the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve()
    for place in (here.parent / folder, here.parents[2] / folder):
        if (place / name).is_file():
            return (place / name).read_text("utf-8")
    raise FileNotFoundError(f"{folder}/{name}: this installation lacks its templates")


def quoted(path: Path) -> str:
    """A path as one word of a command line in a unit (systemd.service(5), *command lines*): ``%``
    would be a specifier, ``$`` a variable."""
    text = str(path).replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def stream(address: Address) -> str:
    """``127.0.0.1:8123`` or ``[::1]:8123``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plist(recipe: Recipe) -> str:
    suffix = "-system" if recipe.scope == "system" else ""
    sockets = [_socket(LABEL, recipe.listen)]
    sockets += [_socket(f"also-{address[1]}", address) for address in recipe.also]
    values = {
        "MODELPORTD": xml(str(recipe.program)),
        "CONFIG": xml(str(recipe.config)),
        "STOP_SECONDS": str(recipe.stop_seconds),
        "USER": xml(recipe.user),
        "GROUP": xml(recipe.group),
        "LOG": xml(str(recipe.log)),
        "SOCKETS": "\n".join(sockets),
    }
    return fill(template("launchd", f"{LABEL}{suffix}.plist"), values)


def _socket(name: str, address: Address) -> str:
    """One entry of ``Sockets`` (launchd.plist(5)); the daemon asks for it by this name."""
    host, port = address
    family = "IPv6" if ":" in host else "IPv4"
    return (
        f"\t\t<key>{name}</key>\n\t\t<dict>\n"
        f"\t\t\t<key>SockNodeName</key>\n\t\t\t<string>{host}</string>\n"
        f"\t\t\t<key>SockServiceName</key>\n\t\t\t<string>{port}</string>\n"
        "\t\t\t<key>SockType</key>\n\t\t\t<string>stream</string>\n"
        f"\t\t\t<key>SockFamily</key>\n\t\t\t<string>{family}</string>\n"
        "\t\t</dict>"
    )


def _bad(name: str, found: str, allowed: str) -> ProblemError:
    text = f"{name} is {found[:200]!r}, which a service manager cannot take."
    return ProblemError(Problem(Code.CONFIG_INVALID, text, f"Let it be {allowed}."))
