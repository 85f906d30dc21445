"""The sandbox as values: the command line, the filter, the profile."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from control_api.clients import cage
from control_api.clients.cage import Cage

CAGE = Cage(
    folder="/home/me/project",
    home="/state/run-1",
    socket="/tmp/mp-1/s",
    inside="/lib/inside.py",
    python="/usr/bin/python3",
    port=8123,
    empty_file="/tmp/mp-1/nothing",
    empty_folder="/tmp/mp-1/empty",
    programs=("/home/me/.npm/node_modules",),
    missing=("AGENTS.md", ".git/hooks/"),
    watched=(".mcp.json",),
)


def binds(words: list[str], kind: str) -> dict[str, str]:
    """Place inside: place outside."""
    return {words[i + 2]: words[i + 1] for i, word in enumerate(words) if word == kind}


def line(**changes: object) -> list[str]:
    made = replace(CAGE, **changes)  # type: ignore[arg-type]
    return cage.bubblewrap(made, ["claude", "-p"], {"A": "b c"}, wire=7, seccomp=8)


def test_what_can_be_written() -> None:
    words = line()
    assert binds(words, "--bind") == {
        "/run/modelport/home": "/state/run-1",
        "/home/me/project": "/home/me/project",
        "/home/me/project/.git": "/home/me/project/.git",
    }
    without = line(missing=(".git/", ".git/hooks/", ".git/config"))
    assert binds(without, "--ro-bind")["/home/me/project/.git"] == "/tmp/mp-1/empty"
    assert "/home/me/project/.git/hooks" not in without
    assert "--dev-bind" not in words


def test_orders_for_programs_outside_cannot_be_changed() -> None:
    words = line()
    found = binds(words, "--ro-bind")
    project = "/home/me/project"
    assert found[f"{project}/.claude"] == f"{project}/.claude"
    assert found[f"{project}/CLAUDE.md"] == f"{project}/CLAUDE.md"
    assert found[f"{project}/AGENTS.md"] == "/tmp/mp-1/nothing"
    assert found[f"{project}/.git/hooks"] == "/tmp/mp-1/empty"
    assert found[f"{project}/.mcp.json"] == f"{project}/.mcp.json"
    later = words.index(f"{project}/CLAUDE.md")
    assert later > words.index("--bind", words.index(project) - 1), "over the folder, not below it"


def test_no_network_no_environment_no_session_of_its_own() -> None:
    words = line()
    assert "--unshare-all" in words
    assert "--share-net" not in words
    assert "--clearenv" in words
    assert words[words.index("--setenv") :][:3] == ["--setenv", "A", "b c"]
    assert "--new-session" not in words
    other = cage.bubblewrap(CAGE, ["claude"], {}, wire=7, seccomp=None)
    assert "--new-session" in other, "where there is no filter"


def test_the_forwarder_runs_the_client() -> None:
    words = line()
    inside = words[words.index("--") + 1 :]
    assert inside == [
        *("/usr/bin/python3", "-I", "-S", cage.INSIDE, "8123", cage.SOCKET, "7"),
        *("--", "claude", "-p"),
    ]


def test_the_environment_inside() -> None:
    outside = {"TERM": "xterm", "LC_ALL": "C", "SSH_AUTH_SOCK": "/s", "AWS_SECRET": "x"}
    found = cage.environment(outside, {"HOME_MADE": "1"}, "/bin")
    assert found == {
        "TERM": "xterm",
        "LC_ALL": "C",
        "HOME": cage.HOME,
        "PATH": "/bin",
        "USER": "user",
        "SHELL": "/bin/sh",
        "HOME_MADE": "1",
    }


def verdict(program: bytes, arch: int, number: int, argument: int) -> int:
    """What the kernel would make of a call: a BPF machine with the four instructions we use."""
    data = struct.pack("=IIQQQ", number, arch, 0, 0, argument)
    steps = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
    at, held = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            at += yes if (held == value if code == 0x15 else held >= value) else no


ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000


@pytest.mark.parametrize(
    ("machine", "arch", "ioctl"), [("x86_64", 0xC000003E, 16), ("aarch64", 0xC00000B7, 29)]
)
def test_nobody_types_into_our_terminal(machine: str, arch: int, ioctl: int) -> None:
    program = cage.no_typing(machine)
    assert program is not None
    assert verdict(program, arch, ioctl, 0x5412) == EPERM  # TIOCSTI
    assert verdict(program, arch, ioctl, 0x541C) == EPERM  # TIOCLINUX
    assert verdict(program, arch, ioctl, 0xABC_0000_5412) == EPERM, "the kernel reads 32 bits"
    assert verdict(program, arch, ioctl, 0x5413) == ALLOW  # TIOCGWINSZ
    assert verdict(program, arch, 1, 0x5412) == ALLOW
    assert verdict(program, arch, 0x40000010, 0x5412) == EPERM
    assert verdict(program, 0x40000003, 54, 0x5412) == KILL


def test_a_machine_without_a_filter() -> None:
    assert cage.no_typing("riscv64") is None


def test_the_profile_of_macos() -> None:
    text = cage.seatbelt(replace(CAGE, folder='/Users/me/a "b"', port=5555))
    assert text.startswith("(version 1)\n(deny default)\n")
    assert text.count("(") == text.count(")")
    assert '(subpath "/Users/me/a \\"b\\"")' in text
    allowed = text.index("(allow file-write*")
    assert text.index("(deny file-write*") > allowed, "the last rule that fits decides"
    assert '/.claude")' in text[text.index("(deny file-write*") :]
    assert '(allow network-outbound (remote ip "localhost:5555"))' in text
    assert text.index("(deny network*)") < text.index("(allow network-outbound")
    assert "/Users/me/.ssh" not in text
    assert '(subpath "/Users")' not in text
    assert '(subpath "/")' not in text
