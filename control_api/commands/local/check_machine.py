"""What ``ctl doctor`` says of the machine: limits of processes, the clock, proxies, sleep."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.commands.local.checks import GIB, Check
from control_api.commands.output import duration, size

if TYPE_CHECKING:
    from daemon.config.settings import Settings
    from daemon.machine.base import MachineFacts

DAY: Final = 86_400.0
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
MODELS_DISK: Final = 20 * GIB  # a model of middling size
Limits = Mapping[str, tuple[int, int]]
"""Soft and hard limits by name; RLIM_INFINITY for none."""

_NAMES: Final = ("RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS")


def limits_of(pid: int | None) -> Limits:
    """Of the daemon where it runs and may be asked (Linux), else of this program."""
    if pid is not None and sys.platform == "linux":
        import psutil

        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            return {name: process.rlimit(getattr(psutil, name)) for name in _NAMES}
    return {name: resource.getrlimit(getattr(resource, name)) for name in _NAMES if _known(name)}


def _known(name: str) -> bool:
    return hasattr(resource, name)


def check_limits(limits: Limits, mlock: Iterable[str] = ()) -> Iterator[Check]:
    """``ulimit``: address space and locked memory. ``mlock``: models that lock their weights."""
    soft, _ = limits.get("RLIMIT_AS", (resource.RLIM_INFINITY,) * 2)
    if soft != resource.RLIM_INFINITY:
        text = f"a process may have {size(soft)} of address space: larger models cannot be mapped"
        yield Check("limits", "warn", text, "ulimit -v unlimited where the daemon is started.")
    soft, hard = limits.get("RLIMIT_MEMLOCK", (resource.RLIM_INFINITY,) * 2)
    most = "any amount" if soft == resource.RLIM_INFINITY else size(soft)
    wanted = sorted(mlock)
    if wanted and soft != resource.RLIM_INFINITY:
        text = f"{most} may be locked, and {', '.join(wanted)} asks for mlock"
        fix = "ulimit -l unlimited" if hard == resource.RLIM_INFINITY else "memlock in limits.conf"
        yield Check("limits", "warn", text, f"{fix}; the login service sets it by itself.")
    else:
        yield Check("limits", "ok", f"{most} of memory may be locked")


def locking(settings: Settings) -> list[str]:
    """Models whose engine is told to lock their weights in memory."""
    return [name for name, entry in settings.models.items() if "--mlock" in (entry.args or ())]


def check_bounds(facts: MachineFacts) -> Iterator[Check]:
    """Limits on memory below the machine's size: control groups, what a Mac's GPU may wire."""
    from daemon.machine.base import GUESSED_LIMIT

    for pool in facts.pools:
        if GUESSED_LIMIT in pool.source:
            text = f"{pool.name}: Metal does not say how much it takes, so it is guessed"
            yield Check("bounds", "warn", text, "Set [memory] budget if models do not fit.")
        if pool.limit is not None:
            text = f"{pool.name}: {size(pool.limit)} of {size(pool.total)} may be taken"
            yield Check("bounds", "ok", f"{text} ({pool.source})")


def check_clock(
    built: Iterable[Path], state: Iterable[Path], now: float | None = None
) -> Iterator[Check]:
    """The wall clock against files: ``built`` are older than now, and so is ``state``."""
    now = time.time() if now is None else now
    newest = max((_mtime(path) for path in built), default=0.0)
    written = max((_mtime(path) for path in state), default=0.0)
    fix = "Set the clock (timedatectl set-ntp true; on a Mac: Date & Time, set automatically)."
    if now < newest - DAY:
        text = f"the clock is {duration(newest - now)} behind this program's own files"
        yield Check("clock", "fail", f"{text}: keys and certificates seem not valid yet", fix)
    elif now < written - DAY:
        text = f"files of ours were written {duration(written - now)} from now"
        yield Check("clock", "warn", f"{text}: the clock was, or is, wrong", fix)
    else:
        yield Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(now)))


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def check_proxies(environ: Mapping[str, str]) -> Check:
    """No proxy is asked for what is on this machine: it could not reach it."""
    proxies = _proxies(environ)
    taken = sorted(name for name in proxies if name in ("http", "all"))
    if not taken:
        return Check("proxy", "ok", "none for http")
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    hosts = [host for host in LOOPBACK if not bypass(host.strip("[]"), proxies)]
    if not hosts:
        return Check("proxy", "ok", "for http, and not for this machine")
    text = f"{' and '.join(f'{n.upper()}_PROXY' for n in taken)} swallow requests to {hosts[0]}"
    return Check("proxy", "warn", text, "export NO_PROXY=localhost,127.0.0.1,::1")


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """As urllib reads them: ``http_proxy`` before ``HTTP_PROXY``; an empty one is none."""
    found: dict[str, str] = {}
    for name, value in sorted(environ.items(), key=lambda item: item[0].islower()):
        if name.lower().endswith("_proxy"):
            found[name.lower().removesuffix("_proxy")] = value
    return {name: value for name, value in found.items() if value}


def check_sleep(settings: Settings, which: Any = shutil.which) -> Iterator[Check]:
    """Whether what ``[power]`` asks for can be done here."""
    from daemon.machine.wakeful import delay_lock, idle_lock

    power = settings.power
    wanted = power.unload_before_sleep != "off"
    delay = delay_lock()
    if wanted and (not delay or which(delay[0]) is None):
        text = "[power] unload_before_sleep has no effect here: it needs systemd's logind"
        yield Check("sleep", "warn", text, "ctl unload --all before the machine sleeps.")
    lock = idle_lock()
    if power.inhibit_sleep and lock and which(lock[0]) is not None:
        yield Check("sleep", "ok", f"held off by {lock[0]} while there is work")
    elif power.inhibit_sleep:
        what = lock[0] if lock else "a program for it"
        yield Check("sleep", "ok", f"not held off while there is work: no {what} here")


def check_models_disk(folder: Path) -> Iterator[Check]:
    """Room for the next model, where downloads go."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), None)
    if place is None:
        return
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield Check("models disk", "warn", f"{folder}: {error.strerror}", "Look at its rights.")
        return
    if free < MODELS_DISK:
        text = f"{size(free)} free for downloads in {folder}"
        yield Check("models disk", "warn", text, "Remove models, or set HF_HOME to a larger disk.")
    else:
        yield Check("models disk", "ok", f"{size(free)} free for downloads in {folder}")


def state_files(folder: Path) -> list[Path]:
    """Files of ours whose times tell of the clock."""
    try:
        return [entry for entry in folder.iterdir() if entry.suffix in (".json", ".jsonl")]
    except OSError:
        return []


def own_files() -> list[Path]:
    """Files of this program."""
    return [Path(__file__), Path(os.__file__)]
