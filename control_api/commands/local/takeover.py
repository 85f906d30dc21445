"""``takeover``: the port on which programs look for Ollama, LM Studio or llama-server, for us."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError, UnreachableError, view
from control_api.commands.command import Command
from control_api.commands.local.settings import (
    add_config_flag,
    config_file,
    load_settings,
    report_change,
    tell_daemon,
)
from control_api.commands.output import Out
from daemon.views import StatusView

if TYPE_CHECKING:
    from daemon.config.sections import Listener, Server
    from daemon.service.ports import Holder


@dataclass(frozen=True, slots=True)
class Program:
    """Whose port it is, and how that program is stopped (on Linux, on a Mac)."""

    name: str
    port: int
    linux: str
    mac: str

    @property
    def stop(self) -> str:
        return self.mac if sys.platform == "darwin" else self.linux


PROGRAMS: Final = {
    "ollama": Program(
        "Ollama",
        11434,
        "sudo systemctl disable --now ollama",
        "brew services stop ollama  (or quit Ollama in the menu bar)",
    ),
    "lmstudio": Program("LM Studio", 1234, "lms server stop", "lms server stop"),
    "llama-server": Program("llama-server", 8080, "", ""),
}


def takeover(args: Namespace, out: Out) -> int:
    from daemon.service.ports import url

    program, path = PROGRAMS[args.program], config_file(args.config)
    server = _server(args.config, path)
    there = _there(server, args.program, args.port)
    if args.undo:
        return _undo(args.program, there, path, out)
    port = args.port or (there.port if there is not None else program.port)
    if there is None:
        _refuse_ours(server, port)
        _refuse_taken(server.host, port)
        reloaded = _set_up(args.program, port, path, out)
    else:
        reloaded = tell_daemon(path, out)  # a port that was taken may be free now
        _refuse_shut(port)
    address = url(server.host, port)
    facts = {"program": args.program, "port": port, "url": address, "changed": there is None}
    if out.json:
        out.value({**facts, "file": str(path), "reloaded": reloaded})
    elif there is not None:
        out.line(f"{address} is set up already to answer as {program.name}.")
    else:
        report_change(out, f"{address} answers as {program.name}", path, reloaded)
        out.line(f"Back: ctl takeover {args.program} --undo")
    return 0


def _server(config: str | None, path: Path) -> Server:
    """As configured; without a file, which will be made, as by default."""
    if path.exists():
        return load_settings(config).settings.server
    from daemon.config.settings import Settings

    return Settings().server


def _there(server: Server, program: str, port: int | None) -> Listener | None:
    """What is configured of it already."""
    listeners = (one for one in server.also if one.as_ == program)
    return next((one for one in listeners if port is None or one.port == port), None)


def _set_up(program: str, port: int, path: Path, out: Out) -> dict[str, Any] | None:
    """Write it, and have it opened; if that fails after all, all is as it was before."""
    from daemon.config.edit import add_listener, remove_listener

    add_listener(path, {"port": port, "as": program})
    reloaded = tell_daemon(path, out)
    try:
        _refuse_shut(port)
    except RefusedError:
        remove_listener(path, port)
        tell_daemon(path, out)
        raise
    return reloaded


def _undo(program: str, there: Listener | None, path: Path, out: Out) -> int:
    from daemon.config.edit import remove_listener

    reloaded = None
    if there is not None:
        remove_listener(path, there.port)
        reloaded = tell_daemon(path, out)
    if out.json:
        port = there.port if there is not None else None
        facts = {"program": program, "port": port, "changed": there is not None}
        out.value({**facts, "file": str(path), "reloaded": reloaded})
    elif there is None:
        out.line(f"There is no port that answers as {PROGRAMS[program].name}.")
    else:
        report_change(out, f"removed port {there.port}", path, reloaded)
    return 0


def _refuse_ours(server: Server, port: int) -> None:
    """A port that modelport has for something else."""
    keys = [(server.port, "server.port")]
    keys += [(one.port, f"server.also[{i}]") for i, one in enumerate(server.also)]
    for taken, key in keys:
        if taken == port:
            hint = f"`ctl config edit` shows {key}; --port N takes another port."
            raise RefusedError("config_invalid", f"Port {port} is {key} already.", hint)


def _refuse_taken(host: str, port: int) -> None:
    from daemon.core.problems import ProblemError
    from daemon.service.ports import bind, find_holder

    try:
        bind(host, port).close()
    except ProblemError as error:
        found = find_holder(port)
        facts = {"port": port, "holder": asdict(found)}
        raise RefusedError(
            error.problem.code.value, error.problem.message, how_to_stop(found), facts
        ) from error


def _refuse_shut(port: int) -> None:
    """The daemon, if one runs, could not open it."""
    try:
        status = view(StatusView, Client().get("/status"))
    except (UnreachableError, RefusedError):
        return  # it will be opened at the next start
    for one in status.listeners:
        if one.port == port and one.problem:
            from daemon.service.ports import find_holder

            raise RefusedError("config_invalid", one.problem, how_to_stop(find_holder(port)))


def how_to_stop(found: Holder) -> str:
    """What to do about the program that holds a port."""
    words = f"{found.program} {found.command} {found.user}".lower()
    for program in PROGRAMS.values():
        name = program.name.lower()
        if program.stop and (name in words or name.replace(" ", "") in words):
            return f"Stop it: {program.stop}"
    if found.pid is not None:
        return f"Stop it: kill {found.pid}"
    return "Only its owner (or root) can see and stop it."


def port_number(text: str) -> int:
    """A type for argparse."""
    if not text.isdecimal() or not 0 < int(text[:6]) < 65536:
        raise ArgumentTypeError(f"{text[:20]!r} is not a port: 1 to 65535")
    return int(text)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("program", choices=list(PROGRAMS), help="whose port")
    parser.add_argument("--undo", action="store_true", help="give the port back")
    parser.add_argument("--port", type=port_number, metavar="N", help="another port than its own")
    add_config_flag(parser)


COMMANDS: Final = {
    "takeover": Command(
        summary="answer on the port of Ollama (11434), LM Studio (1234) or llama-server (8080)",
        text="For programs that look for these and nothing else. The fixed port stays as it is.\n"
        "The port must be free: who holds it is named, with how to stop it.",
        examples=(
            ("ctl takeover ollama", "then `ollama list` and Ollama's clients find modelport"),
            ("ctl takeover ollama --undo", "give 11434 back"),
            ("ctl takeover llama-server --port 8081", "on another port"),
        ),
        run=takeover,
        arguments=_arguments,
    ),
}
