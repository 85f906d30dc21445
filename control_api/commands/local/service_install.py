"""``service install``: what is written, what is asked, what is brought up."""

from __future__ import annotations

import getpass
import os
import sys
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import RefusedError
from control_api.commands.asking import agreed, nobody
from control_api.commands.local.service_ports import make_room
from control_api.commands.local.serviced import Serviced, changes, places, read, session
from control_api.commands.output import Out
from control_api.version import version
from daemon.service import environment as environments
from daemon.service import record as records
from daemon.service.installers import newer
from daemon.service.launchd import Launchd
from daemon.service.origin import Kind, Origin, classify, look
from daemon.service.places import Scope
from daemon.service.render import Recipe, UnitFile, addresses, render, stop_seconds
from daemon.service.renewing import version_in
from daemon.service.systemd import Systemd

if TYPE_CHECKING:
    from daemon.config.paths import Paths
    from daemon.config.settings import Settings
    from daemon.service.account import Account

MOVED: Final = ("STATE_DIR", "LOG_DIR", "CACHE_DIR", "RUNTIME_DIR", "CONTROL_SOCKET")


@dataclass(frozen=True, slots=True)
class Program:
    """What the service manager calls; ``fresh``: newer code than what runs now."""

    path: Path
    kind: Kind
    environment: str = ""
    fresh: bool = False


def paths_of(service: Serviced, config: str | None) -> Paths:
    """The places of the daemon that this service runs."""
    from daemon.config.paths import Paths

    file = Path(config).absolute() if config else None
    if service.scope == "system" and service.places.manager == "systemd":
        return Paths.for_system({"HOME": os.environ.get("HOME", "/")}, config=file)
    return Paths.find(os.environ, config=file)


def settings_of(config: Path) -> Settings:
    """As the service will read them: without this shell's variables. Raises ConfigError."""
    from daemon.config.load import load_with_sources

    return load_with_sources(config, environ={}, missing_ok=True).settings


def wanted(service: Serviced, config: str, program: Path, user: str = "") -> tuple[UnitFile, ...]:
    """The files of the service. Raises ConfigError, ProblemError."""
    settings = settings_of(Path(config))
    listen, also = addresses(settings)
    paths = paths_of(service, config)
    account, group = user, ""
    if service.scope == "system":
        account, group = _names(service, user)
    return render(
        Recipe(
            manager=service.places.manager,
            scope=service.scope,
            program=program,
            config=Path(config),
            stop_seconds=stop_seconds(settings),
            listen=listen,
            also=also,
            user=account,
            group=group,
            log=paths.log_dir / "launchd.log",
        )
    )


def _names(service: Serviced, user: str) -> tuple[str, str]:
    """Account and group of a service for the whole machine. On a Mac it runs as who installs it."""
    import grp
    import pwd

    from daemon.config.paths import GROUP

    if service.places.manager == "systemd":
        return user or GROUP, GROUP
    user = user or os.environ.get("SUDO_USER", "") or getpass.getuser()
    with suppress(KeyError):
        return user, grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    return user, "staff"


def _usual_scope(config: str | None) -> Scope:
    """``service.scope`` of the user's own configuration. Raises ConfigError."""
    from daemon.config.paths import Paths

    file = Path(config).absolute() if config else None
    return settings_of(Paths.find(os.environ, config=file).config_file).service.scope


def install(args: Namespace, out: Out) -> int:
    session()
    service = Serviced(places(args.scope or _usual_scope(args.config)))
    origin = classify(look(service.places.root))
    config = paths_of(service, args.config).config_file
    if args.shown:
        return _print(args, service, origin, config, out)
    service.may_change()
    _warn(origin, out)
    _ensure_config(config, out)
    settings_of(config)  # a mistake in it is told before anything is done
    _engine(service, config, out)
    account = _account(args, service)
    record = service.record()
    program = _program(args, service, origin, out)
    files = wanted(service, str(config), program.path, args.account or "")
    if not args.force:
        _refuse_edited(service, files, record)
    changed = changes(service, files)
    obsolete = _obsolete(service, files)
    state = service.manager.state()
    idle = state.active != "running" or not state.enabled
    if changed or obsolete or idle or program.fresh:
        make_room(service, settings_of(config), config, args, out)
        # the port may have been changed just now
        files = wanted(service, str(config), program.path, args.account or "")
        changed = changes(service, files)
        record = _write(service, files, changed, obsolete, _made(service, config, program, account))
        troubles = _bring_up(service, files, changed, obsolete, fresh=program.fresh)
        for trouble in troubles:
            out.note(f"! {trouble}")
    lingers = _linger(args, service, settings_of(config).service.linger, out)
    return _told(service, record, [one.name for one in changed], obsolete, lingers, out)


def _print(args: Namespace, service: Serviced, origin: Origin, config: Path, out: Out) -> int:
    if origin.note:
        out.note(f"! {origin.note}")
    program = _lasting(service, origin) if not args.own_environment else None
    if program is None:
        program = service.places.current / "bin" / "modelportd"
    files = wanted(service, str(config), program, args.account or "")
    if service.places.manager == "systemd":
        files = tuple(one for one in files if one.is_socket == (args.shown == "socket"))
    if out.json:
        out.value({str(service.places.units / one.name): one.text for one in files})
        return 0
    for one in files:
        out.note(f"{service.places.units / one.name}:")
        out.line(one.text.rstrip("\n"))
    return 0


def _warn(origin: Origin, out: Out) -> None:
    if origin.note:
        out.note(f"! {origin.note}")
    moved = [f"MODELPORT_{name}" for name in MOVED if os.environ.get(f"MODELPORT_{name}")]
    if moved:
        out.note(f"! {', '.join(moved)}: set in this shell, and not for the service.")
    odd = [n for n in os.environ if n.startswith("MODELPORT_") and "__" in n]
    if odd:
        out.note(f"! The service does not see {', '.join(sorted(odd))}: write it into the file.")


def _ensure_config(config: Path, out: Out) -> None:
    from daemon.config.edit import init

    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        init(config)
        out.note(f"wrote {config} (a first configuration)")


def _account(args: Namespace, service: Serviced) -> Account | None:
    """Who a service for the whole machine runs as, made if it has to be."""
    if service.scope != "system" or service.places.manager != "systemd":
        return None
    import grp

    from daemon.config.paths import GROUP
    from daemon.service.account import ensure

    account = ensure(args.account or GROUP)
    config = paths_of(service, args.config).config_file
    about = config.stat()
    if about.st_uid == 0 and not about.st_mode & 0o044:  # as we make it: nobody else's to read
        os.chown(config, 0, grp.getgrnam(GROUP).gr_gid)
        config.chmod(0o640)
        config.parent.chmod(0o755)
    return account


def _lasting(service: Serviced, origin: Origin) -> Path | None:
    """The script that is there already and can be called for years by who is to run it."""
    found = origin.program
    if found is None or service.scope != "system" or environments.open_to_all(found.resolve()):
        return found
    return None  # in somebody's home


def _program(args: Namespace, service: Serviced, origin: Origin, out: Out) -> Program:
    """The script to call; an environment for it is made where there is none that lasts."""
    root, shared = service.places.root, service.scope == "system"
    lasting = _lasting(service, origin)
    if origin.kind is Kind.OWN and lasting is not None:
        return Program(lasting, origin.kind, str(environments.current(root) or ""))
    if lasting is not None and not args.own_environment:
        return Program(lasting, origin.kind)
    there = environments.current(root)
    if there is not None and not args.force and newer(has := version_in(there), version()):
        out.note(f"The service has {has}, newer than this program: it stays (--force: this one).")
        return Program(service.places.current / "bin" / "modelportd", origin.kind, str(there))
    if sys.stderr.isatty():
        out.note(f"Making an environment in {root} …")
    made = environments.make(root, version(), shared=shared)
    before = environments.switch(root, made)
    if shared:
        root.chmod(0o755)
    path = service.places.current / "bin" / "modelportd"
    fresh = before is not None and before != made.folder.resolve()
    return Program(path, origin.kind, str(made.folder), fresh)


def _refuse_edited(
    service: Serviced, files: tuple[UnitFile, ...], record: records.Record | None
) -> None:
    """Somebody's own changes are not overwritten unasked."""
    known = record.files if record is not None else {}
    for one in files:
        path = service.places.units / one.name
        there = read(path)
        if there is None or there == one.text or known.get(str(path)) == records.digest(there):
            continue
        scope = "--user " if service.scope == "user" else ""
        drop_in = f"systemctl {scope}edit modelport" if path.suffix == ".service" else ""
        keep = f" `{drop_in}` keeps changes of your own." if drop_in else ""
        raise RefusedError(
            "invalid_request",
            f"{path} is not as modelport wrote it.",
            f"--force overwrites it.{keep}",
        )


def _obsolete(service: Serviced, files: tuple[UnitFile, ...]) -> list[str]:
    """Sockets of ports that are not configured any more."""
    if not isinstance(service.manager, Systemd):
        return []
    names = {one.name for one in files}
    return [name for name in service.manager.also if name not in names]


def _made(
    service: Serviced, config: Path, program: Program, account: Account | None
) -> records.Record:
    before = service.record()
    made = records.Record(
        manager=service.places.manager,
        scope=service.scope,
        program=str(program.path),
        origin=program.kind.value,
        config=str(config),
        installed=version(),
        environment=program.environment,
        user=account.user if account is not None and account.made_user else "",
        group=account.group if account is not None and account.made_group else "",
    )
    if before is None:
        return made
    return replace(
        made,
        linger=before.linger,
        user=made.user or before.user,
        group=made.group or before.group,
    )


def _write(
    service: Serviced,
    files: tuple[UnitFile, ...],
    changed: list[UnitFile],
    obsolete: list[str],
    record: records.Record,
) -> records.Record:
    """The record first: what is not written to its end is undone all the same."""
    units = service.places.units
    digests = {str(units / one.name): records.digest(one.text) for one in files}
    record = replace(record, files=digests)
    records.save(service.places.record, record)
    if isinstance(service.manager, Systemd):
        if obsolete:
            service.manager.ctl("stop", *obsolete)
            service.manager.disable(obsolete)
        if any(one.is_socket for one in changed) or obsolete:
            service.manager.ctl("stop", "modelport.socket", "modelport.service")
    else:
        service.manager.stop()
        # launchd makes no folder for what its programs say
        paths_of(service, record.config).log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in obsolete:
        (units / name).unlink(missing_ok=True)
    units.mkdir(parents=True, exist_ok=True)
    for one in changed:
        fresh = units / f".{one.name}.new"
        fresh.write_text(one.text, "utf-8")
        fresh.chmod(0o644)
        fresh.replace(units / one.name)
    return record


def _bring_up(
    service: Serviced,
    files: tuple[UnitFile, ...],
    changed: list[UnitFile],
    obsolete: list[str],
    *,
    fresh: bool,
) -> list[str]:
    """Let the manager know, and have it run what is there now."""
    service.look_again()
    manager = service.manager
    if isinstance(manager, Launchd):
        manager.start()
        return []
    if changed or obsolete:
        manager.reread()
    manager.enable([one.name for one in files])
    running = manager.state().active == "running"
    if running and (fresh or changed):
        manager.restart()
    return manager.start()


def _engine(service: Serviced, config: Path, out: Out) -> None:
    """The embedded engine where there is none yet, so that the first model runs; of the machine's
    own service the folders are not ours. Without one the service is installed all the same."""
    from control_api.commands.local.engine_put import embedded

    if service.scope == "system":
        return
    try:
        embedded(str(config), out)
    except RefusedError as error:
        out.note(f"! No engine runs GGUF models yet: {error}")
        out.note("  Install one later: ctl engine install xllamacpp")


def _linger(args: Namespace, service: Serviced, asks: bool, out: Out) -> bool | None:
    """Lingering, if it is wanted; whether it is so now. ``asks``: as configured, who was not told
    on the command line asks the user."""
    now = service.lingers()
    if now is not False or not isinstance(service.manager, Systemd):
        return now
    want = args.linger if args.linger is not None or asks else False
    if want is None and not nobody(out) and not args.yes:
        out.note("Without lingering the service starts at your login and ends with it.")
        want = agreed("Let it run without a login, too?", out)
    if not want:
        if want is None:
            out.note("It runs while you are logged in. Without a login, too: --linger.")
        return False
    user = getpass.getuser()
    trouble = service.manager.linger(user, wanted=True)
    if trouble:
        out.note(f"! Not without a login: {trouble}. Try: sudo loginctl enable-linger {user}")
        return False
    record = service.record()
    if record is not None:
        records.save(service.places.record, replace(record, linger=True))
    return True


def _told(
    service: Serviced,
    record: records.Record | None,
    changed: list[str],
    obsolete: list[str],
    lingers: bool | None,
    out: Out,
) -> int:
    state = service.manager.state()
    units = service.places.units
    assert record is not None, "written, or there before"
    if out.json:
        facts: dict[str, Any] = {
            "written": [str(units / name) for name in changed],
            "removed": [str(units / name) for name in obsolete],
            "program": record.program,
            "environment": record.environment,
            "config": record.config,
            "active": state.active,
            "pid": state.pid,
            "status": state.text,
            "linger": lingers,
        }
        out.value(facts)
        return 0
    if not changed and not obsolete:
        out.line("The service is installed, and nothing has changed.")
    for name in changed:
        out.line(f"wrote    {units / name}")
    for name in obsolete:
        out.line(f"removed  {units / name}")
    out.facts(
        [
            ("program", record.program),
            ("config", record.config),
            ("service", f"{state.active}, pid {state.pid}" if state.pid else state.active),
            ("says", state.text),
        ]
    )
    out.line("`ctl service status`, `logs`, `stop` and `uninstall` look after it.")
    return 0
