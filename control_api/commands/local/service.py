"""``service``: run at login, and look after that."""

from __future__ import annotations

import json
import subprocess
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from control_api.client import SLOW_SECONDS, Client, RefusedError, UnreachableError
from control_api.commands.command import LOG_LINES, Command
from control_api.commands.local.settings import add_config_flag
from control_api.commands.output import Out, duration

if TYPE_CHECKING:
    from control_api.commands.local.serviced import Serviced
    from daemon.service.programs import State

LINES: Final = 100
_COLOURS: Final = {"running": "green", "starting": "yellow", "stopping": "yellow", "failed": "red"}
_NOT_HERE: Final = "`ctl service install` installs it."
_NOT_THERE: Final = "`sudo ctl service install --system` installs it."


def install(args: Namespace, out: Out) -> int:
    from control_api.commands.local import service_install

    return service_install.install(args, out)


def uninstall(args: Namespace, out: Out) -> int:
    from control_api.commands.local import service_uninstall

    return service_uninstall.uninstall(args, out)


def _installed(args: Namespace) -> Serviced:
    """The service that is meant. Raises ``RefusedError`` where there is none."""
    from control_api.commands.local.serviced import find

    service = find(args.scope)
    if not service.places.service.exists():
        hint = _NOT_HERE if service.scope == "user" else _NOT_THERE
        raise RefusedError("invalid_request", "The service is not installed.", hint)
    service.may_change()
    return service


def _startable(args: Namespace) -> Serviced:
    """The service that is meant, if it can start: a restart with a configuration that is wrong
    would end a daemon that runs. Raises ``RefusedError``, ``ConfigError``."""
    service = _installed(args)
    if (wrong := service.mistakes()) is not None:
        raise wrong
    return service


def start(args: Namespace, out: Out) -> int:
    service = _startable(args)
    for trouble in service.start():
        out.note(f"! {trouble}")
    return _report(service, out, "started")


def restart(args: Namespace, out: Out) -> int:
    service = _startable(args)
    if service.manager.state().active == "running":
        service.manager.restart()
    else:
        service.start()
    return _report(service, out, "restarted; loaded models stay loaded")


def stop(args: Namespace, out: Out) -> int:
    service = _installed(args)
    unloaded = empty(out, force=args.force)
    service.manager.stop()
    if out.json:
        out.value({"ok": True, "unloaded": unloaded})
    else:
        out.line("stopped; its ports are free. `ctl service start` starts it again.")
    return 0


def empty(out: Out, *, force: bool) -> list[str]:
    """Unload all models and let nothing new be loaded, since the daemon is about to stop. The names
    of those that were; nothing is done where no daemon answers."""
    client = Client()
    try:
        client.post("/pause", hold=False, force=force)
        if not force and out.err.isatty():
            out.note("Unloading; running requests finish first (--force cuts them).")
        found = client.post("/unload", seconds=SLOW_SECONDS, force=force)
    except UnreachableError:
        return []
    return [str(name) for name in found.get("unloaded", [])]


def _report(service: Serviced, out: Out, what: str) -> int:
    state = service.manager.state()
    if out.json:
        out.value(_facts(service, state))
    else:
        out.line(
            f"{what}: {state.text or state.active}" + (f" (pid {state.pid})" * bool(state.pid))
        )
    return 0


def status(args: Namespace, out: Out) -> int:
    from control_api.commands.local.serviced import find

    service = find(args.scope)
    state = service.manager.state()
    facts = _facts(service, state)
    if out.json:
        out.value(facts)
        return 0 if state.active == "running" else 1
    colour = _COLOURS.get(state.active, "dim")
    shown = out.paint(state.active if facts["installed"] else "not installed", colour)
    since = "" if state.since is None else f" for {duration(state.since)}"
    pid = f", pid {state.pid}" if state.pid else ""
    held = ", ".join(f"{name} {how}" for name, how in state.sockets)
    login = "starts at login" if service.scope == "user" else "starts with the machine"
    lingers = {True: "yes", False: "no: it ends with your last session", None: ""}
    out.facts(
        [
            ("service", f"{shown}{since if facts['installed'] else ''}{pid}"),
            ("says", state.text if state.active != "stopped" else ""),
            ("file", facts["file"]),
            ("program", facts["program"]),
            ("sockets", held),
            ("login", login if state.enabled else ""),
            ("lingers", lingers[facts["linger"]] if facts["installed"] else ""),
            ("restarts", str(state.restarts or "")),
            ("last exit", state.last_exit),
        ]
    )
    if facts["next"]:
        out.line(f"-> {facts['next']}")
    return 0 if state.active == "running" else 1


def _facts(service: Serviced, state: State) -> dict[str, Any]:
    record = service.record()
    there = service.places.service.exists()
    return {
        "installed": there,
        "manager": service.places.manager,
        "scope": service.scope,
        "file": str(service.places.service) if there else "",
        "program": record.program if record is not None else "",
        "active": state.active,
        "enabled": state.enabled,
        "pid": state.pid,
        "since_seconds": None if state.since is None else round(state.since, 1),
        "status": state.text,
        "sockets": dict(state.sockets),
        "restarts": state.restarts,
        "last_exit": state.last_exit,
        "linger": service.lingers(),
        "next": _next(service, state, there),
    }


def _next(service: Serviced, state: State, there: bool) -> str:
    """What to do now; "": nothing."""
    sudo = "sudo " if service.scope == "system" else ""
    if not there:
        return _NOT_HERE if service.scope == "user" else _NOT_THERE
    if state.unreadable:
        return f"Its file cannot be loaded ({state.unreadable}): {sudo}ctl service install"
    if (wrong := service.mistakes()) is not None:
        return f"{wrong.problem.message} Mend it: `ctl config check`; then: {sudo}ctl service start"
    if state.stale or service.outdated():
        return f"The configuration or the files have changed: {sudo}ctl service install"
    if state.active == "failed":
        return f"`ctl service logs` shows why; then: {sudo}ctl service start"
    if state.active == "stopped":
        return f"{sudo}ctl service start"
    return ""


def logs(args: Namespace, out: Out) -> int:
    from control_api.commands.local import logs as files
    from control_api.commands.local.serviced import find

    argv = find(args.scope).journal(args.lines, follow=args.follow, as_json=out.json)
    if argv is not None and _shown(argv, out):
        return 0
    args.log = files.DAEMON
    return files.logs(args, out)


def _shown(argv: Sequence[str], out: Out) -> bool:
    """Pass the journal's lines on; False if it has none for us."""
    seen = False
    try:
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, errors="replace",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.startswith("-- ") and not seen:  # "No entries", "Journal begins"
                        continue
                    seen = True
                    _print(line.rstrip("\n"), out)
            except BaseException:
                process.terminate()
                raise
    except FileNotFoundError:
        return False
    return seen


def _print(line: str, out: Out) -> None:
    if not out.json:
        out.line(line)
        return
    try:
        entry = json.loads(line)
    except ValueError:
        return
    at, text = entry.get("__REALTIME_TIMESTAMP", "0"), entry.get("MESSAGE", "")
    seconds = int(at) / 1e6 if str(at).isdecimal() else None
    out.value_line({"line": text, "at": seconds, "priority": entry.get("PRIORITY")})


def _scope(parser: ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group()
    parser.set_defaults(scope=None)
    for scope, text in (("user", "your own service"), ("system", "that of the whole machine")):
        whose.add_argument(f"--{scope}", dest="scope", action="store_const", const=scope, help=text)


def _install_arguments(parser: ArgumentParser) -> None:
    _scope(parser)
    parser.add_argument(
        "--print", dest="shown", nargs="?", const="service", choices=("service", "socket"),
        help="show what would be written, and do nothing",
    )  # fmt: skip
    parser.add_argument(
        "--own-environment", action="store_true", help="copy this program for the service alone"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files changed by hand")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    linger = parser.add_mutually_exclusive_group()
    linger.add_argument("--linger", action="store_true", default=None, help="run without a login")
    linger.add_argument(
        "--no-linger", dest="linger", action="store_false", help="do not ask for it"
    )
    parser.add_argument("--account", metavar="NAME", help="--system: the user that it runs as")
    add_config_flag(parser)


def _uninstall_arguments(parser: ArgumentParser) -> None:
    _scope(parser)
    parser.add_argument("--force", action="store_true", help="cut running requests")


def _logs_arguments(parser: ArgumentParser) -> None:
    _scope(parser)
    parser.add_argument(
        "-n",
        "--lines",
        type=LOG_LINES,
        default=LINES,
        metavar="N",
        help="lines (default %(default)s)",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines")


def _stop_arguments(parser: ArgumentParser) -> None:
    _scope(parser)
    parser.add_argument("--force", action="store_true", help="cut running requests")


COMMANDS: Final = {
    "service": Command(
        summary="run at login: install, look at, stop, remove",
        examples=(
            ("ctl service install", "from now on at each login"),
            ("ctl service status", ""),
            ("ctl service logs -f", ""),
        ),
        subcommands={
            "install": Command(
                summary="start modelport at login, now and from now on",
                text="A second time it changes what has changed, and restarts nothing else.\n"
                "All settings stay in the configuration file.",
                examples=(
                    ("ctl service install", "for you: at login"),
                    ("sudo ctl service install --system", "for the machine: when it starts"),
                    ("ctl service install --print", "what would be written"),
                    ("ctl service install --linger", "without a login, too (Linux)"),
                ),
                run=install,
                arguments=_install_arguments,
            ),
            "uninstall": Command(
                summary="undo the installation; configuration, models and logs stay",
                examples=(("ctl service uninstall", ""),),
                run=uninstall,
                arguments=_uninstall_arguments,
            ),
            "start": Command(
                summary="start the service",
                examples=(("ctl service start", ""),),
                run=start,
                arguments=_scope,
            ),
            "stop": Command(
                summary="unload all models, then stop the service and free its ports",
                examples=(
                    ("ctl service stop", "running requests finish first"),
                    ("ctl service stop --force", "now"),
                ),
                run=stop,
                arguments=_stop_arguments,
            ),
            "restart": Command(
                summary="restart the daemon; loaded models stay loaded, nobody is refused",
                examples=(("ctl service restart", ""),),
                run=restart,
                arguments=_scope,
            ),
            "status": Command(
                summary="whether it is installed and runs, since when, and what to do next",
                text="The exit code is 0 if it runs.",
                examples=(("ctl service status", ""), ("ctl service status --json", "")),
                run=status,
                arguments=_scope,
            ),
            "logs": Command(
                summary="what the daemon said: from the journal, or its own file",
                examples=(("ctl service logs", ""), ("ctl service logs -f", "as it grows")),
                run=logs,
                arguments=_logs_arguments,
            ),
        },
    ),
}
