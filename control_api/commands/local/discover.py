"""``discover``: servers on the network that announce themselves."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict
from typing import Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.output import Out

SECONDS: Final = 3.0
_MOST: Final = 120.0


def discover(args: Namespace, out: Out) -> int:
    from daemon.lan.discover import discover as look

    if not out.json and out.err.isatty():
        out.note(f"Looking for {args.timeout:g} s …")
    try:
        found = look(args.timeout)
    except OSError as error:
        raise RefusedError(
            "unreachable", f"The network cannot be asked: {error.strerror or error}.", "ip addr"
        ) from error
    if out.json:
        out.value({"servers": [asdict(one) for one in found]})
        return 0
    if not found:
        out.line("No server of modelport answers.")
        out.note(
            "`ctl lan on` on the other machine announces it. Networks may keep machines apart "
            "(guest Wi-Fi), and macOS asks whether the terminal may look for devices."
        )
        return 0
    rows = [[one.name, one.urls[0], one.version, one.fingerprint or "no TLS"] for one in found]
    out.table(["NAME", "URL", "VERSION", "CERTIFICATE"], rows)
    out.note(f"Ask one: ctl host add NAME {found[0].urls[0]}")
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MOST:
        raise ArgumentTypeError(f"{text[:20]!r} is no time in seconds (up to {_MOST:g})")
    return value


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=SECONDS,
        metavar="SECONDS",
        help="how long to wait for answers (default %(default)g)",
    )


COMMANDS: Final = {
    "discover": Command(
        summary="look for servers of modelport on the network",
        text="By mDNS, so on the networks that this machine is directly on. What answers is\n"
        "anybody's word: compare the fingerprint before you give it a key.",
        examples=(("ctl discover", ""), ("ctl discover --timeout 10 --json", "")),
        run=discover,
        arguments=_arguments,
    ),
}
