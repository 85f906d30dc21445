"""``upgrade``: another version in place of this one, and back, with the loaded models kept."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError
from control_api.commands.command import Command
from control_api.commands.output import Out

if TYPE_CHECKING:
    from control_api.commands.local.serviced import Serviced
    from daemon.service.installers import Installer
    from daemon.service.origin import Origin
    from daemon.service.record import Record
    from daemon.service.upgrading import Known, Past, Plan


_WAYS: Final = {
    "homebrew": "installed by Homebrew",
    "uv tool": "installed by uv tool",
    "pipx": "installed by pipx",
    "checkout": "run from a repository",
    "venv": "installed in a virtual environment",
    "system": "installed for a Python itself",
    "passing": "run from a place that does not last (uvx, pipx run, a temporary folder)",
    "own": "in an environment of a service",
}


@dataclass(slots=True)
class Scene:
    """All that an upgrade is about. ``folder``: the environment in use; ``past_file``: what the
    last upgrade replaced; ``client``: of the service's daemon, or of any."""

    service: Serviced
    record: Record | None
    origin: Origin
    known: Known
    folder: Path
    past_file: Path
    client: Client
    installer: Installer | None

    @property
    def past(self) -> Past | None:
        from daemon.service.upgrading import load_past

        return load_past(self.past_file)

    @property
    def serves_this(self) -> bool:
        """Whether the service runs what would be upgraded."""
        if self.record is None or not self.service.places.service.exists():
            return False
        mine = self.origin.program
        return self.known.own or (mine is not None and str(mine) == self.record.program)


def upgrade(args: Namespace, out: Out) -> int:
    from control_api.commands.local import upgrade_steps as steps
    from daemon.service.upgrading import Act

    scene = look(args, out)
    planned = plan_of(args, scene)
    if args.check:
        return _check(scene, planned, args, out)
    if planned.act is Act.REFUSED:
        raise RefusedError("invalid_request", planned.text, planned.line or _hint(scene))
    if planned.act in (Act.NOTHING, Act.BY_HAND):
        return _told(scene, planned, out)
    _nobody_in_a_terminal(args, scene)
    if scene.known.own or scene.serves_this:
        scene.service.may_change()
    with steps.alone(scene):
        done = steps.carry_out(scene, planned, args, out)
    return _report(scene, done, out)


def look(args: Namespace, out: Out) -> Scene:
    """What is installed, and (unless a rollback is meant) which version is the newest."""
    from control_api.commands.local.service_install import paths_of
    from control_api.commands.local.serviced import find
    from control_api.version import version
    from daemon.service import environment, renewing
    from daemon.service.installers import Newest, ask_newest, requirement
    from daemon.service.origin import Kind, classify
    from daemon.service.origin import look as look_around
    from daemon.service.upgrading import Known

    service = find(args.scope)
    record = service.record() if service.places.service.exists() else None
    seen = look_around(service.places.root)
    origin = classify(seen)
    paths = paths_of(service, record.config if record is not None else None)
    current = environment.current(service.places.root)
    own = record is not None and bool(record.environment) and current is not None
    folder = current if own and current is not None else Path(sys.prefix)
    installer = None if args.rollback and own else _installer(own)
    newest = Newest("", "Neither uv nor pip is here to ask the package index")
    if not args.rollback and not args.source and origin.kind is Kind.HOMEBREW and not own:
        newest = _ask_brew()
    elif not args.rollback and not args.source and installer is not None:
        if out.err.isatty():
            out.note("Asking the package index …")
        newest = ask_newest(installer, folder / "bin" / "python")
    extras = renewing.extras_in(folder) if own else _own_extras()
    known = Known(
        kind=origin.kind,
        own=own,
        current=(renewing.version_in(folder) if own else version()) or version(),
        newest=newest,
        what=requirement(args.source, extras) if args.source else "",
        extras=extras,
        code=str(seen.code),
        pip=tuple(installer.install(folder / "bin" / "python", "")[:-1]) if installer else (),
    )
    past_file = (service.places.root if own else paths.state_dir) / "upgrade.json"
    client = Client(paths.control_socket) if record is not None else Client()
    return Scene(service, record, origin, known, folder, past_file, client, installer)


def _installer(own: bool) -> Installer | None:
    """uv or pip, if one is here. Where a package manager has it, they are only asked."""
    from daemon.core.problems import ProblemError
    from daemon.service.installers import find_installer

    try:
        return find_installer()
    except ProblemError:
        if own:
            raise
        return None


def _ask_brew() -> Any:
    import json

    from daemon.service.installers import ASK_SECONDS, Newest
    from daemon.service.programs import run_program

    done = run_program(["brew", "info", "--json=v2", "modelport"], ASK_SECONDS)
    try:
        return Newest(str(json.loads(done.out)["formulae"][0]["versions"]["stable"]))
    except (ValueError, LookupError, TypeError):
        said = (done.said.splitlines() or ["nothing"])[-1]
        return Newest("", f"Homebrew has no answer: {said}")


def _own_extras() -> tuple[str, ...]:
    from importlib import metadata

    from daemon.service.environment import NAME
    from daemon.service.installers import extras_of

    def installed(name: str) -> bool:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return False
        return True

    return extras_of(metadata.requires(NAME) or [], installed) if installed(NAME) else ()


def plan_of(args: Namespace, scene: Scene) -> Plan:
    from dataclasses import replace

    from daemon.service.upgrading import plan, plan_back

    past = scene.past
    if not args.rollback:
        return plan(replace(scene.known, held=past is not None and past.held))
    there = past is not None and Path(past.environment, "bin", "modelportd").exists()
    return plan_back(scene.known, past, there=there)


def _nobody_in_a_terminal(args: Namespace, scene: Scene) -> None:
    """A daemon in a terminal reads its files as it needs them: they must not change below it."""
    from control_api.commands.local.handover import look as look_at

    running = look_at(Client())
    if running is None or running.mode != "foreground" or scene.known.own or args.yes:
        return
    raise RefusedError(
        "invalid_request",
        f"A daemon of {running.version} runs in a terminal (pid {running.pid}), from these files.",
        "`ctl shutdown` (its models are unloaded), then upgrade, then start it again; "
        "`ctl service install` lets later upgrades keep loaded models. --yes goes on all the same.",
    )


def _hint(scene: Scene) -> str:
    if scene.known.newest.offline:
        return "Without a network: ctl upgrade --from WHEEL."
    return "ctl upgrade --check shows what is known; --from takes a wheel or a version."


def _check(scene: Scene, planned: Plan, args: Namespace, out: Out) -> int:
    from daemon.service.upgrading import Act

    known, past = scene.known, scene.past
    facts: dict[str, Any] = {
        "current": known.current,
        "newest": known.newest.version or None,
        "available": planned.act in (Act.ENVIRONMENT, Act.PROGRAM),
        "target": planned.target or None,
        "installed_by": "service" if known.own else known.kind.value,
        "environment": str(scene.folder),
        "does": planned.act.value,
        "text": planned.text,
        "command": planned.line or None,
        "restarts_service": scene.serves_this,
        "rollback_to": past.version if past is not None and not past.held else None,
        "offline": known.newest.offline,
    }
    code = 1 if planned.act is Act.REFUSED else 0
    if out.json:
        out.value(facts)
        return code
    way = "in an environment of the service's own" if known.own else _WAYS[known.kind.value]
    newest = known.newest.version or known.newest.trouble
    if newest and newest in planned.text:  # which says it
        newest = known.newest.version or "unknown"
    out.facts(
        [
            ("current", f"{known.current}, {way}"),
            ("newest", "" if args.source else newest),
            ("would do", _would(planned)),
            ("command", planned.line),
            ("service", "restarted; loaded models stay loaded" if scene.serves_this else ""),
            ("rollback", f"to {past.version}" if past is not None and not past.held else ""),
        ]
    )
    return code


def _would(planned: Plan) -> str:
    from daemon.service.upgrading import Act

    words = {
        Act.ENVIRONMENT: f"{planned.text}, in a new environment beside the one in use",
        Act.BY_HAND: f"nothing: {planned.text}",
        Act.REFUSED: f"nothing: {planned.text}",
    }
    return words.get(planned.act, planned.text)


def _told(scene: Scene, planned: Plan, out: Out) -> int:
    from daemon.service.upgrading import Act

    by_hand = planned.act is Act.BY_HAND
    if out.json:
        out.value(
            {"ok": not by_hand, "from": scene.known.current, "to": scene.known.current,
             "text": planned.text, "command": planned.line or None}
        )  # fmt: skip
    else:
        out.line(planned.text)
        if by_hand:
            out.line(f"-> {planned.line}")
    return 1 if by_hand else 0


def _report(scene: Scene, done: dict[str, Any], out: Out) -> int:
    if out.json:
        out.value(done)
        return 0
    out.line(f"{done['from']} -> {done['to']}")
    if done["kept"]:
        out.line(f"taken over: {', '.join(done['kept'])}")
    if done["lost"]:
        names = ", ".join(done["lost"])
        out.line(f"! unloaded: {names} (loaded anew by the next request)")
    for note in done["notes"]:
        out.line(note)
    return 0


def _arguments(parser: ArgumentParser) -> None:
    from control_api.commands.local.service import _scope

    _scope(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="what there is and would be done")
    what.add_argument("--rollback", action="store_true", help="back to the version of before")
    parser.add_argument(
        "--from", dest="source", default="", metavar="WHAT",
        help="a wheel, a version, an address; without: the newest of the package index",
    )  # fmt: skip
    parser.add_argument("--yes", "-y", action="store_true", help="also below a running daemon")


COMMANDS: Final = {
    "upgrade": Command(
        summary="a newer version, or the one of before; loaded models stay loaded",
        text="It goes by how modelport was installed: `uv tool`, pipx, Homebrew and pip are asked\n"
        "to do it; the service's own environment is made anew beside the old one. The service is\n"
        "then restarted, its ports are held meanwhile. Where the new daemon does not answer, the\n"
        "old version is put back. Files of models are never touched.",
        examples=(
            ("ctl upgrade --check", "the newest version, what would be done"),
            ("ctl upgrade", ""),
            ("ctl upgrade --from ./modelport-1.2-py3-none-any.whl", "without a network"),
            ("ctl upgrade --rollback", "to the version of before"),
        ),
        run=upgrade,
        arguments=_arguments,
    ),
}
