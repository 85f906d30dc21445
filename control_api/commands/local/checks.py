"""What ``ctl doctor`` looks at. Each check gives lines; none of them changes anything."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.output import size
from control_api.version import version

if TYPE_CHECKING:
    from control_api.commands.local.engine import Found
    from daemon.config.mistakes import ConfigError
    from daemon.config.paths import Paths
    from daemon.config.settings import Settings
    from daemon.engines.install.shelf import Shelf
    from daemon.machine.base import MachineFacts

GIB: Final = 1 << 30
LOW_DISK, NO_DISK = 2 * GIB, 200 * (1 << 20)  # logs and downloads need some
DESCRIPTORS: Final = 4096  # connections, backends and files at a busy moment
OLDEST: Final = (3, 11)
OURS: Final = frozenset({"modelport"})

Verdict = Literal["ok", "warn", "fail"]

STATUS_SECONDS: Final = 3.0  # for the whole status; a daemon that takes longer is ill


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; ``fix`` is the next step where something is wrong."""

    name: str
    verdict: Verdict
    text: str
    fix: str = ""


def check_python(found: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """The interpreter is one that we support."""
    text = ".".join(map(str, found))
    if found < OLDEST:
        return Check("python", "fail", text, "Install Python 3.11 or newer.")
    return Check("python", "ok", text)


def check_distributions(owners: Mapping[str, Iterable[str]]) -> Iterator[Check]:
    """No other distribution brings a package of our names into this environment.

    ``owners``: distributions by top-level package, as ``packages_distributions()`` gives them.
    """
    for package in ("daemon", "ctl", "control_api"):
        foreign = sorted(set(owners.get(package, ())) - OURS)
        if foreign:
            yield Check(
                "packages",
                "fail",
                f"{', '.join(foreign)} brings another package named {package!r}.",
                f"pip uninstall {' '.join(foreign)}, or install modelport in an environment of"
                " its own (uv tool install modelport).",
            )


def check_mistakes(error: ConfigError, path: Path) -> Iterator[Check]:
    """Each mistake of the file, with its line."""
    for mistake in error.mistakes:
        place = f"line {mistake.line}, " if mistake.line else ""
        text = f"{place}{mistake.where}: found {mistake.found}; allowed: {mistake.allowed}"
        yield Check("config", "fail", text, mistake.hint or f"Correct it in {path}.")


def check_daemon(client: Client) -> tuple[Check, dict[str, Any] | None]:
    """Whether a daemon answers; its status, if it does."""
    try:
        status: dict[str, Any] = client.get("/status", seconds=STATUS_SECONDS)
    except UnreachableError as error:
        return Check("daemon", "warn", str(error), error.hint), None
    except RefusedError as error:
        return Check("daemon", "fail", error.message, error.hint), None
    theirs, mine = status.get("version"), version()
    text = f"{status.get('url')}, pid {status.get('pid')}, {theirs}"
    if theirs != mine:
        fix = f"This program is {mine}: restart the daemon to have one version."
        return Check("daemon", "warn", text, fix), status
    return Check("daemon", "ok", text), status


def check_troubles(status: Mapping[str, Any] | None) -> Iterator[Check]:
    """What the daemon cannot write, though it serves; and a file that it did not take."""
    problem = (status or {}).get("config_problem")
    if problem:
        text = "the daemon did not take the newest configuration; the one before is in force"
        yield Check("daemon", "fail", text, "`ctl config check` shows each mistake; ctl reload")
    for text in (status or {}).get("troubles", ()):
        yield Check("disk", "warn", str(text), "Make room on that disk: it goes on by itself.")


def check_port(host: str, port: int, status: Mapping[str, Any] | None) -> Check:
    """The fixed port is ours or free; else who holds it."""
    from daemon.core.problems import ProblemError
    from daemon.service.ports import bind

    name = "port"
    if status is not None and str(status.get("url", "")).endswith(f":{port}"):
        return Check(name, "ok", f"{port} is the daemon's")
    try:
        bind(host, port).close()
    except ProblemError as error:
        return Check(name, "fail", error.problem.message, error.problem.hint)
    if status is not None:
        fix = "`ctl shutdown`, then `ctl serve` takes the configured one."
        return Check(name, "warn", f"the daemon listens at {status.get('url')}, not {port}", fix)
    return Check(name, "ok", f"{host}:{port} is free")


def check_folders(paths: Paths) -> Iterator[Check]:
    """Our folders are ours alone, and there is room on their disks."""
    from daemon.core.problems import ProblemError

    try:
        paths.check_sockets()
    except ProblemError as error:
        yield Check("sockets", "fail", error.problem.message, error.problem.hint)
    folders = {
        "state": paths.state_dir,
        "log": paths.log_dir,
        "cache": paths.cache_dir,
        "runtime": paths.runtime_dir,
    }
    for name, folder in folders.items():
        yield check_folder(f"{name} dir", folder)


def check_folder(name: str, folder: Path) -> Check:
    """One folder: owner, mode, room."""
    try:
        facts = folder.stat()
    except FileNotFoundError:
        return Check(name, "ok", f"{folder} will be made")
    except OSError as error:
        return Check(name, "fail", f"{folder}: {error.strerror}", "Look at the rights above it.")
    mode = stat.S_IMODE(facts.st_mode)
    if not stat.S_ISDIR(facts.st_mode):
        return Check(name, "fail", f"{folder} is not a folder", "Move it away.")
    if facts.st_uid != os.geteuid():
        return Check(
            name,
            "fail",
            f"{folder} belongs to user {facts.st_uid}",
            f"sudo chown -R $USER {folder}",
        )
    if mode & 0o022:
        return Check(
            name, "fail", f"{folder} can be written by others ({mode:04o})", f"chmod 700 {folder}"
        )
    if mode & 0o055:
        return Check(
            name, "warn", f"{folder} can be read by others ({mode:04o})", f"chmod 700 {folder}"
        )
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK:
        verdict: Verdict = "fail" if free < NO_DISK else "warn"
        return Check(name, verdict, f"{folder}: {size(free)} free on its disk", "Make room there.")
    return Check(name, "ok", f"{folder}, {size(free)} free")


def check_engines(found: Iterable[Found], named: Mapping[str, str]) -> Iterator[Check]:
    """There is an engine, those that models name are there, and they use what the machine has.

    ``named``: for each engine that a model names, the name of that model.
    """
    some = False
    for engine in found:
        model = named.get(engine.name)
        if engine.program:
            some = True
            runs_on = ", ".join(engine.accelerators) or "cpu"
            what = f"{engine.name} {engine.version}".strip()
            text = f"{what}, {runs_on}, {engine.program[0]}"
            verdict: Verdict = "warn" if engine.warning else "ok"
            yield Check("engine", verdict, text, engine.warning)
        elif model is not None:
            yield Check("engine", "fail", f"{engine.missing} Model {model} needs it.", engine.hint)
    if not some:
        yield Check(
            "engine",
            "fail",
            "No engine was found: no model can run.",
            "ctl engine install xllamacpp, or: ctl engine install llama-server",
        )


def check_given_up(shelf: Shelf) -> Iterator[Check]:
    """Versions that were taken back by themselves, as long as another stands in for them."""
    from daemon.engines.install.shelf import given_up
    from daemon.engines.install.versions import ENGINES

    for engine in ENGINES:
        use = shelf.use(engine)
        if (gone := given_up(use)) is not None:
            instead = use.version or "the one found on this machine"
            text = f"{engine} {gone.text}; {instead} is used instead"
            fix = f"`ctl why {gone.model}` says more; once there is a newer one: ctl engine update"
            yield Check("engine", "warn", text, f"{fix} {engine}")


def check_budget(settings: Settings, facts: MachineFacts) -> Iterator[Check]:
    """How many bytes the models may take together, per pool."""
    from daemon.config.describe import show_bytes
    from daemon.core.problems import ProblemError
    from daemon.machine.budget import budget

    setting = settings.memory.budget
    text = (
        {pool: show_bytes(amount) for pool, amount in setting.items()}
        if isinstance(setting, Mapping)
        else None
        if setting is None
        else show_bytes(setting)
    )
    try:
        amounts = budget(text, settings.memory.tier, facts)
    except ProblemError as error:
        yield Check("memory", "fail", error.problem.message, error.problem.hint)
        return
    for pool in facts.pools:
        amount = amounts.get(pool.name, 0)
        line = f"{pool.name}: {size(amount)} of {size(pool.total)}, {size(pool.free)} free now"
        if amount <= 0:
            yield Check("memory", "fail", line, "Set [memory] budget, or free some memory.")
        else:
            yield Check("memory", "ok", line)


def check_pressure() -> Check:
    """Whether the machine itself says that it is short of memory."""
    from daemon.machine.pressure import Level, level

    now = level()
    if now is Level.NORMAL:
        return Check("pressure", "ok", "the machine is not short of memory")
    return Check(
        "pressure",
        "warn" if now is Level.WARNING else "fail",
        f"the machine says that memory is short ({now.name.lower()})",
        "Close other programs, or free what models take: ctl unload --all",
    )


def check_learned(state_dir: Path) -> Iterator[Check]:
    """Estimates that turned out to be far off. The measured figures are used from then on."""
    from daemon.backends.learned import Learned

    for entry in Learned(state_dir / "learned.json", mend=False).wrong():
        charged, taken = sum(entry.estimated.values()), sum(entry.measured.values())
        text = (
            f"{entry.model} ({entry.way}) was estimated at {size(charged)} and took {size(taken)}"
        )
        yield Check("footprint", "warn", text, "The measured figure counts now; please report it.")


def check_descriptors(limits: tuple[int, int] | None = None) -> Check:
    """The daemon may open enough files; it raises its own soft limit as far as it may."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        return Check("files", "ok", f"{soft} open files, {most} at most")
    fix = f"Raise it: ulimit -Hn {DESCRIPTORS} (needs root), or in limits.conf."
    return Check("files", "warn", f"at most {hard} open files", fix)
