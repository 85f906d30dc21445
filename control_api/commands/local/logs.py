"""``logs``: through the daemon if one runs, from the files if not."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from control_api.client import PING_SECONDS, Client, RefusedError, UnreachableError
from control_api.commands.command import LOG_LINES, Command
from control_api.commands.local.settings import find_paths
from control_api.commands.output import Out

DAEMON: Final = "daemon"
LINES: Final = 100


def logs(args: Namespace, out: Out) -> int:
    client = Client()
    try:
        client.get("/version", seconds=PING_SECONDS)
    except UnreachableError:
        return _from_files(args, out)
    _print(client.log_lines(args.log, lines=args.lines, follow=args.follow), out)
    if args.follow:
        out.note("The daemon has stopped.")
    return 0


def _from_files(args: Namespace, out: Out) -> int:
    from daemon.logs.follow import follow, tail

    path = log_file(args.log)
    if not args.follow:
        if not path.exists():
            raise RefusedError("model_not_found", f"There is no log at {path}.", _known())
        _print(tail(path, args.lines), out)
        return 0

    async def forever() -> None:
        async for line in follow(path, lines=args.lines):
            _print([line], out)

    asyncio.run(forever())
    return 0


def log_file(name: str) -> Path:
    """Where the log of a model, or of the daemon, is by default."""
    paths = find_paths(None)
    return paths.daemon_log if name == DAEMON else paths.model_log(name)


def _known() -> str:
    paths = find_paths(None)
    folder = paths.model_logs_dir
    names = sorted(path.stem for path in folder.glob("*.log")) if folder.is_dir() else []
    names = [DAEMON, *names] if paths.daemon_log.exists() else names
    return f"There are logs of: {', '.join(names) or 'nothing yet'}."


def _print(lines: Iterable[str], out: Out) -> None:
    for line in lines:
        if out.json:
            out.value_line({"line": line})
        else:
            out.line(line)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("log", metavar="MODEL|daemon", help="whose log")
    parser.add_argument(
        "-n",
        "--lines",
        type=LOG_LINES,
        default=LINES,
        metavar="N",
        help="lines (default %(default)s)",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines")


COMMANDS: Final = {
    "logs": Command(
        summary="show the log of a model's engine, or the daemon's; secrets are taken out",
        text="It works without a daemon, too. With --json, one JSON object per line.",
        examples=(
            ("ctl logs qwen3-coder", ""),
            ("ctl logs daemon -f", "the daemon's own, as it grows"),
            ("ctl logs gemma -n 1000 | grep -i error", ""),
        ),
        run=logs,
        arguments=_arguments,
    ),
}
