"""The sandbox of a client: what it sees, as a command line (bubblewrap) or a profile (macOS).

Inside there is a fresh home, one folder that can be written, the system's folders read-only, and
a network of its own without a way out: models are reached through one socket. What a program
outside would take for orders (``.claude``, ``CLAUDE.md``, git's hooks and configuration …) cannot
be changed from inside. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

HOME: Final = "/run/modelport/home"
SOCKET: Final = "/run/modelport/inference.sock"
INSIDE: Final = "/run/modelport/inside.py"

PROTECTED: Final = (
    ".claude/",
    "CLAUDE.md",
    "AGENTS.md",
    "AI_INSTRUCTIONS.md",
    ".git/",
    ".git/hooks/",
    ".git/config",
)
"""Below the folder. Where one is missing, an empty one that cannot be written stands in its place
(so no new repository can be made). A name with ``/`` at its end is a folder. ``.git`` itself can be
written where it is there, but neither removed nor renamed: it is the place of a mount."""
WATCHED: Final = (
    "CLAUDE.local.md",
    "GEMINI.md",
    ".mcp.json",
    ".codex",
    ".opencode",
    "opencode.json",
    "opencode.jsonc",
    ".pi",
    ".aider.conf.yml",
    ".envrc",
    ".vscode",
    ".husky",
    ".githooks",
    ".git/commondir",
)
"""Read-only where they are there; a new one is told of afterwards."""

SYSTEM: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
)
_ETC: Final = (
    "alternatives",
    "ca-certificates",
    "ssl",
    "pki",
    "crypto-policies",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "passwd",
    "group",
    "nsswitch.conf",
    "hosts",
    "host.conf",
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "mime.types",
    "profile",
    "bash.bashrc",
    "gitconfig",
    "services",
    "protocols",
    "os-release",
    "terminfo",
)
KEPT_ENV: Final = ("TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ", "NO_COLOR", "COLUMNS", "LINES")
"""Of the environment outside; all of ``LC_*`` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cage:
    """One sandbox. Paths are absolute and real, on this machine.

    ``programs``: read-only places outside the system's folders that the client needs to run;
    ``missing``: those of PROTECTED that are not there; ``watched``: those of WATCHED that are;
    ``home``: the folder that becomes the home, ``python``: what runs the forwarder inside.
    """

    folder: str
    home: str
    socket: str
    inside: str
    python: str
    port: int
    empty_file: str
    empty_folder: str
    programs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()


def bubblewrap(
    cage: Cage,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    wire: int,
    seccomp: int | None,
) -> list[str]:
    """The command line. ``wire`` is a descriptor for :mod:`control_api.clients.inside`; ``seccomp``
    one to read :func:`no_typing` from (None: a new session in its place, without job control)."""
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--cap-drop", "ALL"]
    words += ["--new-session"] if seccomp is None else ["--seccomp", str(seccomp)]
    for place in SYSTEM:
        words += ["--ro-bind-try", place, place]
    for name in _ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp"]  # noqa: S108
    for place in cage.programs:
        words += ["--ro-bind", place, place]
    words += ["--bind", cage.home, HOME, "--ro-bind", cage.socket, SOCKET]
    words += ["--ro-bind", cage.inside, INSIDE]
    words += ["--bind", cage.folder, cage.folder]
    words += _protected(cage)
    words += ["--remount-ro", "/", "--chdir", cage.folder]
    for name, value in env.items():
        words += ["--setenv", name, value]
    forwarder = [cage.python, "-I", "-S", INSIDE, str(cage.port), SOCKET, str(wire)]
    return [*words, "--", *forwarder, "--", *argv]


def _protected(cage: Cage) -> list[str]:
    words = []
    for name in PROTECTED:
        if name != ".git/" and name.startswith(".git/") and ".git/" in cage.missing:
            continue
        place = f"{cage.folder}/{name.rstrip('/')}"
        source, kind = place, "--bind" if name == ".git/" else "--ro-bind"
        if name in cage.missing:
            source, kind = cage.empty_folder if name.endswith("/") else cage.empty_file, "--ro-bind"
        words += [kind, source, place]
    for name in cage.watched:
        words += ["--ro-bind", f"{cage.folder}/{name}", f"{cage.folder}/{name}"]
    return words


def environment(outside: Mapping[str, str], env: Mapping[str, str], path: str) -> dict[str, str]:
    """The variables inside: a few of those outside, and the client's own."""
    kept = {k: v for k, v in outside.items() if k in KEPT_ENV or k.startswith("LC_")}
    return {**kept, "HOME": HOME, "PATH": path, "USER": "user", "SHELL": "/bin/sh", **env}


# ------------------------------------------------------------ a terminal that is shared

_ARCHITECTURES: Final = {
    "x86_64": (0xC000003E, 16),  # AUDIT_ARCH, the number of ioctl
    "aarch64": (0xC00000B7, 29),
}
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_EPERM, _ALLOW, _KILL = 0x00050001, 0x7FFF0000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32: Final = 0x40000000  # system calls of x86-64's 32-bit kind


def no_typing(machine: str) -> bytes | None:
    """A seccomp filter (BPF) against typing into the terminal that we share (TIOCSTI, TIOCLINUX):
    else a program inside could have the shell outside run what it likes. None: not known for this
    machine."""
    found = _ARCHITECTURES.get(machine)
    if found is None:
        return None
    arch, ioctl = found
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _EPERM),
        (_EQUAL, 0, 4, ioctl),
        (_LOAD, 0, 0, 24),  # the low half of its second argument
        (_EQUAL, 1, 0, _TIOCSTI),
        (_EQUAL, 0, 1, _TIOCLINUX),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in program)


# ------------------------------------------------------------ macOS


def seatbelt(cage: Cage) -> str:
    """The profile for ``sandbox-exec -f``; the one address that can be reached is ``cage.port``.

    There is no namespace: paths and ports stay what they are outside, and the home is the folder
    ``cage.home``.
    """
    readable = ["/usr", "/bin", "/sbin", "/System", "/Library", "/opt/homebrew", "/usr/local"]
    readable += ["/private/etc", "/private/var/db", "/dev", *cage.programs]
    writable = [cage.folder, cage.home, "/private/tmp/modelport-none"]
    guarded = [f"{cage.folder}/{name.rstrip('/')}" for name in (*PROTECTED, *cage.watched)]
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-exec process-fork signal (target same-sandbox))",
        "(allow sysctl-read mach-lookup ipc-posix-shm file-ioctl pseudo-tty)",
        '(allow file-read-metadata (literal "/") (literal "/private") (literal "/Users"))',
        "(allow file-read*" + _subpaths([*readable, *writable]) + ")",
        "(allow file-write*" + _subpaths(writable) + ")",
        '(allow file-write* (literal "/dev/null") (literal "/dev/tty") (regex #"^/dev/ttys"))',
        "(deny file-write*" + _subpaths(guarded) + ")",
        f'(deny file-write-unlink (literal "{_text(cage.folder)}/.git"))',
        "(deny network*)",
        f'(allow network-outbound (remote ip "localhost:{cage.port}"))',
    ]
    return "\n".join(lines) + "\n"


def _subpaths(places: Sequence[str]) -> str:
    return "".join(f'\n  (subpath "{_text(place)}")' for place in places)


def _text(place: str) -> str:
    return place.replace("\\", "\\\\").replace('"', '\\"')
