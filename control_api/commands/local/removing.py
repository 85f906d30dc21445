"""What ``uninstall`` finds, and how each piece of it goes."""

from __future__ import annotations

import os
import pwd
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_api.client import PING_SECONDS, Client, RefusedError, UnreachableError, state_dir
from control_api.clients.kept import KeptError
from control_api.clients.registry import CLIENTS
from control_api.commands.asking import terminal
from control_api.commands.daemon import STOP_SECONDS, wait_gone
from control_api.commands.local import serviced, wished
from control_api.commands.local.service_install import paths_of
from control_api.commands.local.service_uninstall import files_of, take_away
from control_api.commands.output import Out
from control_api.hosts import Hosts
from daemon.config.paths import Paths
from daemon.core.problems import ProblemError
from daemon.downloads import pulled
from daemon.downloads.locate import repo_of
from daemon.downloads.pulled import Pulled
from daemon.machine import gpu_limit
from daemon.service import origin as origins
from daemon.service.origin import classify
from daemon.service.places import LABEL
from daemon.service.removal import (
    Remover,
    Role,
    Target,
    away,
    links_into,
    present,
    size,
    targets,
)

if TYPE_CHECKING:
    from control_api.commands.local.serviced import Serviced

_WORDS = {
    Role.RUNTIME: "sockets and what running backends leave",
    Role.LOG: "logs",
    Role.CACHE: "caches",
    Role.STATE: "state: keys, engines, what was learned",
    Role.DATA: "the service's own environments",
    Role.CONFIG: "the configuration",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that goes. ``do`` gives what could not be done, in words. ``bytes``: on the disk"""

    kind: str
    text: str
    do: Callable[[Out], list[str]]
    paths: tuple[Path, ...] = ()
    bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "text": self.text,
            "paths": [str(path) for path in self.paths],
            "bytes": self.bytes,
        }


@dataclass(slots=True)
class Removal:
    """``stays``: (place, why); ``machines``: the line for the service of the whole machine, if
    there is one; ``program``: the line that removes modelport itself."""

    steps: list[Step] = field(default_factory=list)
    stays: list[tuple[Path, str]] = field(default_factory=list)
    machines: str = ""
    program: str = ""
    broken: set[str] = field(default_factory=set)  # clients whose files could not be put back


def survey(args: Namespace) -> Removal:
    """Look at everything; nothing is changed. What is needed later is imported now: the program may
    run from an environment that goes."""
    service = serviced.find(args.scope)
    removal = Removal()
    record = service.record()
    paths = paths_of(service, record.config if record is not None else None)
    root = service.places.root
    units = files_of(service, record)
    if units or record is not None:
        if service.scope == "system":
            service.may_change()
        removal.steps.append(
            Step("service", f"the service ({service.places.manager})",
                 partial(_end_service, service, args.force), tuple(units))
        )  # fmt: skip
    _foreground(removal, paths)
    if service.scope == "user":
        _clients(removal)
        _gpu(removal, paths)
        if args.purge:
            _hosts(removal)
    _drop_ins(args, removal, service)
    _links(removal, root)
    _models(args, removal, paths)
    _folders(args, removal, service, paths)
    _machines(removal, service)
    seen = origins.look(root)
    kind = classify(seen).kind.value
    removal.program = away(kind, str(seen.prefix / "bin" / "python"))
    return removal


def _end_service(service: Serviced, force: bool, out: Out) -> list[str]:
    try:
        _, troubles = take_away(service, out, force=force)
    except ProblemError as error:
        return [error.problem.text]
    except (RefusedError, UnreachableError, OSError) as error:
        return [str(error)]
    return troubles


def _foreground(removal: Removal, paths: Paths) -> None:
    """A daemon in a terminal holds what is to go."""
    client = Client(paths.control_socket)
    with suppress(UnreachableError, RefusedError):
        status = client.get("/status", seconds=PING_SECONDS)
        if status.get("mode") == "foreground":
            pid = int(status["pid"])
            text = f"the running daemon (pid {pid}) is stopped, its models are unloaded"
            removal.steps.append(Step("daemon", text, partial(_end_daemon, client, pid)))


def _end_daemon(client: Client, pid: int, out: Out) -> list[str]:
    try:
        client.post("/shutdown")
        wait_gone(client, pid, STOP_SECONDS)
    except (UnreachableError, RefusedError) as error:
        return [f"the daemon (pid {pid}): {error}"]
    return []


def _clients(removal: Removal) -> None:
    if not (state_dir() / "clients").is_dir():
        return
    keeper = wished.keeper()
    for name in CLIENTS:
        try:
            written = keeper.written(name)
        except KeptError as error:
            removal.broken.add(name)
            removal.steps.append(Step("client", f"what was written for {name}", _say(str(error))))
            continue
        if written:
            text = f"what was written for {CLIENTS[name].title}: its files are as before"
            do = partial(_undo, removal, name)
            removal.steps.append(Step("client", text, do, tuple(written)))


def _say(trouble: str) -> Callable[[Out], list[str]]:
    return lambda out: [trouble]


def _undo(removal: Removal, name: str, out: Out) -> list[str]:
    """The text from before is put back; what somebody has written since stays as a copy."""
    try:
        wished.keeper().undo(name, consent=lambda lost: True)
    except KeptError as error:
        removal.broken.add(name)
        return [f"{error} {error.hint}".strip()]
    return []


def _hosts(removal: Removal) -> None:
    """The keys of other machines, which may lie in the user's keyring."""
    with suppress(RefusedError):
        kept = Hosts.mine()
        for name in kept.all():
            text = f"the key of {name} (ctl host)"
            removal.steps.append(Step("host", text, partial(_forget, kept, name)))


def _forget(kept: Hosts, name: str, out: Out) -> list[str]:
    try:
        kept.forget(name)
    except (RefusedError, OSError) as error:
        return [f"the key of {name}: {error}"]
    return []


def _gpu(removal: Removal, paths: Paths) -> None:
    with suppress(ProblemError):
        plan = gpu_limit.plan_restore(
            paths.state_dir, platform=sys.platform, run=gpu_limit.run_program
        )
        change = f"{gpu_limit.describe(plan.old)} -> {gpu_limit.describe(plan.new)}"
        removal.steps.append(
            Step("gpu", f"the raised GPU limit: {change} ({' '.join(plan.argv)})",
                 partial(_restore_gpu, plan, paths.state_dir))
        )  # fmt: skip


def _restore_gpu(plan: gpu_limit.Plan, state: Path, out: Out) -> list[str]:
    try:
        gpu_limit.apply(plan, state, run=gpu_limit.run_program, interactive=terminal())
    except ProblemError as error:
        return [error.problem.text]
    return []


def _drop_ins(args: Namespace, removal: Removal, service: Serviced) -> None:
    """Changes of the user's own to the units."""
    for folder in sorted(service.places.units.glob(f"{LABEL}*.d")):
        if args.purge:
            do = partial(_remove, Target(Role.CONFIG, folder), _owners(), ())
            text = f"changes of your own to the units: {folder}"
            removal.steps.append(Step("drop-in", text, do, (), size([folder])))
        else:
            removal.stays.append((folder, "changes of your own to the units; --purge removes them"))


def _links(removal: Removal, root: Path) -> None:
    for link in links_into(root, os.environ.get("PATH", "").split(os.pathsep)):
        do = partial(_remove, Target(Role.DATA, link), _owners(), ())
        removal.steps.append(Step("link", f"the link {link} to it", do, (link,)))


def _models(args: Namespace, removal: Removal, paths: Paths) -> None:
    """Weights lie in a cache that is shared with other programs: ours are those that were not there
    before we pulled them."""
    ours = [one for one in Pulled(paths.state_dir / pulled.FILE).folders() if one.is_dir()]
    for folder in ours:
        name = repo_of(folder.name)
        if not args.models:
            removal.stays.append((folder, f"weights of {name}; --models removes them"))
            continue
        do = partial(_remove_weights, folder)
        removal.steps.append(Step("models", f"weights of {name}", do, (folder,), size([folder])))
    if args.models:
        cache = "HF_HUB_CACHE, else ~/.cache/huggingface/hub"
        removal.stays.append((Path(cache), "what other programs have brought is theirs"))


def _remove_weights(folder: Path, out: Out) -> list[str]:
    lock = folder.parent / ".locks" / folder.name
    both = (Target(Role.MODELS, folder), Target(Role.MODELS, lock))
    return [trouble for one in both for trouble in _remove(one, _owners(), (), out)]


def _folders(args: Namespace, removal: Removal, service: Serviced, paths: Paths) -> None:
    root = service.places.root
    data = root.parent if root.parent.name == LABEL else root
    home = Path.home()
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MODELPORT_")}
    machine = service.scope == "system" and service.places.manager == "systemd"
    usual = Paths.for_system(plain) if machine else Paths.find(plain)
    owners = _owners(service)
    for target in targets(paths, usual, data, home=home, purge=args.purge):
        there = present(target)
        if there:
            text = f"{_WORDS[target.role]}: {target.path}"
            do = partial(_remove_spared, target, owners, removal)
            paths_ = () if target.only is None else tuple(there)
            removal.steps.append(Step(target.role.value, text, do, paths_, size(there)))
    if not args.purge and paths.config_file.exists():
        removal.stays.append((paths.config_file, "the configuration; --purge removes it"))


def _remove_spared(target: Target, owners: frozenset[int], removal: Removal, out: Out) -> list[str]:
    """Records of what could not be put back stay: they are the way to do it later."""
    spared = ("clients",) if removal.broken and target.role is Role.STATE else ()
    return _remove(target, owners, spared, out)


def _remove(target: Target, owners: frozenset[int], spared: tuple[str, ...], out: Out) -> list[str]:
    remover = Remover(owners)
    remover.remove(target, spare=frozenset(spared))
    return remover.troubles


def _owners(service: Serviced | None = None) -> frozenset[int]:
    """Whose files may go: ours; with those of its account for the machine's service."""
    found = {os.geteuid()}
    if service is None or service.scope != "system":
        return frozenset(found)
    record = service.record()
    for name in (LABEL, record.user if record is not None else "", os.environ.get("SUDO_USER", "")):
        with suppress(KeyError):
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)


def _machines(removal: Removal, service: Serviced) -> None:
    if service.scope == "user" and serviced.places("system").service.exists():
        program = Path(sys.argv[0]).absolute()
        removal.machines = f"sudo {program} uninstall --system"
