"""``serve``: become the daemon."""

from __future__ import annotations

import os
import sys
import sysconfig
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from control_api.commands.command import Command
from control_api.commands.local.settings import add_config_flag
from control_api.commands.output import Out


def serve(args: Namespace, out: Out) -> int:
    argv = daemon_argv(args)
    if out.json:
        out.value_line({"pid": os.getpid(), "argv": argv})
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, daemon_environ())  # noqa: S606 - no shell is wanted


def daemon_argv(args: Namespace) -> list[str]:
    """The command line of the daemon. ``-P``: a stray ./daemon.py must not be run instead."""
    argv = [sys.executable, "-P", "-m", "daemon"]
    for flag in ("config", "host", "port"):
        value = getattr(args, flag)
        if value is not None:
            argv += [f"--{flag}={value}"]
    argv += ["--service"] if args.service else []
    argv += ["--insecure-no-auth"] if args.insecure else []
    return argv + ["-v"] * args.verbose


def daemon_environ() -> dict[str, str]:
    """The environment for it: in a checkout that is not installed, ``-P`` would not find us."""
    root = Path(__file__).resolve().parents[3]
    if str(root) in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        return dict(os.environ)
    inherited = os.environ.get("PYTHONPATH")
    parts = [str(root), *([inherited] if inherited else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(parts)}


def _port(text: str) -> int:
    from argparse import ArgumentTypeError

    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 65535):
        raise ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


def _arguments(parser: ArgumentParser) -> None:
    add_config_flag(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="listen here, instead of as configured")
    parser.add_argument("--port", type=_port, metavar="N", help="and on this port")
    parser.add_argument(
        "--service", action="store_true", help="as a login service: models outlive a restart"
    )
    parser.add_argument(
        "--insecure-no-auth",
        action="store_true",
        dest="insecure",
        help="other machines need no key to use models",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="more in the log; -vv for even more"
    )


COMMANDS: Final = {
    "serve": Command(
        summary="start the daemon in this terminal; Ctrl-C stops it and its models",
        text="With --json, one line with the pid comes first.",
        examples=(
            ("ctl serve", ""),
            ("ctl serve --port 9000", "on another port"),
            ("ctl serve --config ./test.toml -v", "with another configuration"),
        ),
        run=serve,
        arguments=_arguments,
    ),
}
