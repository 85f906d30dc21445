"""A report for other people's eyes: without who it is from. Pure.

Taken out: keys and tokens, the home directory, the user's and the machine's name, paths of models,
addresses of networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from control_api.commands.local.checks import Check

_MODEL_FILE: Final = re.compile(
    r"(?:~|/)[^\n\"']*?\.(?:gguf|safetensors|bin|mmproj)\b", re.IGNORECASE
)
_HOMES: Final = re.compile(r"/(?:home|Users)/[^/\s:\"']+")
_ADDRESS: Final = re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_ADDRESS6: Final = re.compile(
    r"(?<![\w:])(?=(?:[0-9a-f]*:){3})[0-9a-f:]{5,}(?<!:)(?!\w)", re.IGNORECASE
)
COMMON: Final = frozenset(
    {"root", "localhost", "modelport", "daemon", "ctl", "user", "host", "model", "address"}
)
"""Names that tell nothing of anybody, and would blacken ordinary words."""

SHORTEST: Final = 4  # characters of a path; "/x" stands in the middle of many words


@dataclass(frozen=True, slots=True)
class Person:
    """Who and what is not to be told. ``paths`` are those of models, as configured."""

    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


def redact_text(text: str, who: Person) -> str:
    """The text without them. Idempotent."""
    from daemon.logs.redact import redact

    text = redact(text)
    for path in sorted(who.paths, key=len, reverse=True):
        if len(path) >= SHORTEST:
            text = text.replace(path, "<model>")
    text = _MODEL_FILE.sub("<model>", text)
    for home in sorted(who.homes, key=len, reverse=True):
        if len(home) > 1:
            text = re.sub(rf"{re.escape(home)}(?![^/\s:;,\"')\]])", "~", text)
    text = _HOMES.sub("/home/<user>", text)
    for names, mark in ((who.hosts, "<host>"), (who.users, "<user>")):
        for name in sorted(_telling(names), key=len, reverse=True):
            text = re.sub(
                rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", mark, text, flags=re.IGNORECASE
            )
    return _ADDRESS6.sub("<address>", _ADDRESS.sub("<address>", text))


def redacted(check: Check, who: Person) -> Check:
    """One line of the report."""
    return replace(check, text=redact_text(check.text, who), fix=redact_text(check.fix, who))


def this_person(paths: Iterable[str] = ()) -> Person:
    """Who runs this, on which machine."""
    import os
    import platform
    import pwd
    import socket

    users = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    homes = [os.environ.get("HOME", "")]
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        pass
    else:
        users |= {entry.pw_name, entry.pw_gecos.split(",")[0]}
        homes.append(entry.pw_dir)
    names = {platform.node(), socket.gethostname()}
    hosts = names | {name.partition(".")[0] for name in names}
    homes = [home.rstrip("/") for home in homes]
    return Person(tuple(homes), tuple(sorted(users)), tuple(sorted(hosts)), tuple(paths))


def _telling(names: Iterable[str]) -> list[str]:
    return [name for name in names if len(name) > 1 and name.casefold() not in COMMON]
