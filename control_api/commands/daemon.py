"""``status``, ``version``, ``reload``, ``shutdown``: the daemon itself."""

from __future__ import annotations

import platform
import re
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any, Final

from control_api.client import (
    PING_SECONDS,
    SLOW_SECONDS,
    Client,
    HostError,
    RefusedError,
    UnreachableError,
    view,
)
from control_api.commands.command import Command
from control_api.commands.output import Out, duration, size
from control_api.version import version
from daemon.views import ListenerView, PoolView, ReloadView, StatusView

STOP_SECONDS: Final = 60.0
MAX_PAUSE: Final = 30 * 86_400.0  # as the API allows
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
POLL_SECONDS: Final = 0.05


def show_status(args: Namespace, out: Out) -> int:
    data = Client().get("/status")
    if out.json:
        out.value(data)
        return 0
    status = view(StatusView, data)
    state = out.paint("stopping", "yellow") if status.draining else out.paint("running", "green")
    out.facts(
        [
            ("daemon", f"{state}, {status.mode}, pid {status.pid}, {status.version}"),
            ("address", status.url),
            *(("also", _listener(one)) for one in status.listeners if one.open),
            ("LAN", ", ".join(status.lan.urls) if status.lan is not None else ""),
            ("uptime", duration(max(0.0, time.time() - status.started_at))),
            ("config", status.config),
            ("log", status.log),
            (
                "models",
                f"{status.backends} loaded, {_count(status.leases, 'lease')}, "
                f"{status.queue} queued",
            ),
            ("paused", _paused(status)),
            ("power", status.power),
            *((f"memory {pool.name}", _pool(pool)) for pool in status.pools),
            ("swapping", _swapping(status)),
            ("counters", ", ".join(f"{k} {v}" for k, v in status.counters.items())),
        ]
    )
    for line in _waits(status):
        out.line(line)
    if status.advice:
        out.line(f"{out.paint('!', 'yellow')} {status.advice}")
    for one in status.listeners:
        if not one.open:
            out.line(f"{out.paint('!', 'yellow')} {one.problem or f'{one.url} is not open yet'}")
    for trouble in [*status.troubles, *(status.lan.problems if status.lan is not None else ())]:
        out.line(f"{out.paint('!', 'yellow')} {trouble}")
    if status.config_problem:
        out.line(f"{out.paint('!', 'yellow')} {status.config_problem}")
    return 0


def _listener(one: ListenerView) -> str:
    return f"{one.url}, {f'always {one.model}' if one.model else f'as {one.speaks}'}"


def _pool(pool: PoolView) -> str:
    parts = [f"{size(pool.committed)} of {size(pool.budget)}"]
    if pool.settling:
        parts.append(f"{size(pool.settling)} settling")
    if pool.measured:
        parts.append(f"{size(pool.measured)} measured")
    if pool.free is not None:
        parts.append(f"{size(pool.free)} free on the machine")
    if pool.pressed:
        parts.append("other programs need it: idle models leave")
    return ", ".join(parts) + f" ({pool.source})"


def _paused(status: StatusView) -> str:
    if not status.paused:
        return ""
    left = status.paused_left
    return "until `ctl resume`" if left is None else f"for another {duration(left)}"


def _swapping(status: StatusView) -> str:
    """Worth a line only where models spend time on being started."""
    share = round(100 * status.thrash_ratio)
    return f"{share}% of the last minutes went into starting models" if share else ""


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _waits(status: StatusView) -> Iterator[str]:
    """The current claim, and who waits for what and why."""
    claim = status.claim
    if claim is not None:
        yield f"next: {claim.model}, since {duration(claim.age)}"
        for one in claim.victims:
            known = one.seconds is not None and one.state != "draining"
            when = f" in {duration(one.seconds)} at the latest" if known else ""
            busy = f", {_count(one.leases, 'running request')}" if one.leases else ""
            yield f"  {one.model} ({one.state}{busy}) makes room{when}"
    for wait in status.waiting:
        until = "" if wait.seconds is None else f" ({duration(wait.seconds)})"
        whose = " and ".join(
            _count(count, word)
            for count, word in ((wait.requests, "request"), (wait.loads, "load"))
            if count
        )
        yield f"{whose or 'a pin'} for {wait.model} since {duration(wait.age)}: {wait.why}{until}"


def pause(args: Namespace, out: Out) -> int:
    options: dict[str, Any] = {"hold": not args.refuse, "force": args.force}
    if args.time is not None:
        options["duration"] = args.time
    data = Client().post("/pause", **options)
    if out.json:
        out.value(data)
        return 0
    until = "until `ctl resume`" if args.time is None else f"for {duration(args.time)}"
    what = "are refused" if args.refuse else "wait"
    out.line(f"paused {until}: models leave once they are idle, requests {what}")
    return 0


def resume(args: Namespace, out: Out) -> int:
    data = Client().post("/resume")
    if out.json:
        out.value(data)
    else:
        out.line("resumed" if data["ok"] else "It was not paused.")
    return 0


def _seconds(text: str) -> float:
    """A duration such as ``30m``, ``90s``, ``2h`` or seconds: a type for argparse."""
    from argparse import ArgumentTypeError

    match = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)\s*(s|m|h|d)?", text.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not 0 < seconds <= MAX_PAUSE:
        raise ArgumentTypeError(f"{text!r} is not a time such as 30m, 90s or 2h (30 days at most)")
    return seconds


def _pause_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "time", nargs="?", type=_seconds, metavar="TIME", help="30m, 2h …; without: until `resume`"
    )
    parser.add_argument("--refuse", action="store_true", help="refuse requests, do not hold them")
    parser.add_argument("--force", action="store_true", help="cut running requests")


def show_version(args: Namespace, out: Out) -> int:
    mine = version()
    try:
        daemon: dict[str, Any] | None = Client().get("/version", seconds=PING_SECONDS)
    except (UnreachableError, RefusedError):
        daemon = None
    if out.json:
        out.value({"version": mine, "python": platform.python_version(), "daemon": daemon})
        return 0
    out.line(f"modelport {mine} (Python {platform.python_version()})")
    if daemon is None:
        out.line("daemon: not running")
        return 0
    out.line(f"daemon {daemon.get('version')}, pid {daemon.get('pid')}")
    if daemon.get("version") != mine:
        out.line("! The daemon is another version: restart it to use the new one.")
    return 0


def reload(args: Namespace, out: Out) -> int:
    data = Client().post("/reload", seconds=SLOW_SECONDS)
    if out.json:
        out.value(data)
        return 0
    print_reload(view(ReloadView, data), out)
    return 0


def print_reload(done: ReloadView, out: Out) -> None:
    """What a reload changed."""
    pairs = [
        ("added", done.added),
        ("removed", done.removed),
        ("changed", done.changed),
        ("relabelled", done.relabelled),
        ("settings", done.settings),
    ]
    out.line("reloaded" if any(names for _, names in pairs) else "reloaded; nothing has changed")
    out.facts([(f"  {name}", ", ".join(names)) for name, names in pairs])
    for trouble in done.troubles:
        out.line(f"! {trouble}")
    if done.needs_restart:
        out.line(f"! In force only after a restart: {', '.join(done.needs_restart)}.")


def shutdown(args: Namespace, out: Out) -> int:
    client = Client()
    started = time.monotonic()
    pid = int(client.get("/version")["pid"])
    client.post("/shutdown")
    if not args.no_wait:
        wait_gone(client, pid, args.timeout)
    took = time.monotonic() - started
    if out.json:
        out.value({"ok": True, "pid": pid, "stopped": not args.no_wait, "seconds": round(took, 3)})
    else:
        out.line("stopping" if args.no_wait else f"stopped  {duration(took)}")
    return 0


def wait_gone(client: Client, pid: int, seconds: float) -> None:
    """Until the process is gone. The daemon is not asked while it stops: a connection that comes
    in just then would only hold it up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        gone = client.far is not None or not process_alive(pid)
        if gone and not _answers(client, pid):
            return
        time.sleep(POLL_SECONDS)
    raise RefusedError(
        "shutting_down",
        f"The daemon is still stopping after {seconds:g} s.",
        "It lets running requests finish; `ctl ps` shows them.",
    )


def process_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not collected yet does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _answers(client: Client, pid: int) -> bool:
    """Whether that daemon answers all the same (from another container, its pid says nothing)."""
    try:
        return bool(client.get("/version", seconds=PING_SECONDS).get("pid") == pid)
    except (UnreachableError, HostError, RefusedError):
        return False


def _shutdown_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it is gone")
    parser.add_argument(
        "--timeout",
        type=float,
        default=STOP_SECONDS,
        metavar="S",
        help="seconds to wait (default %(default)g)",
    )


COMMANDS: Final = {
    "status": Command(
        summary="show the daemon's address, memory and load",
        examples=(("ctl status", ""), ("ctl status --json | jq -r .url", "the address alone")),
        run=show_status,
    ),
    "version": Command(
        summary="show the versions of this program and of the daemon",
        examples=(("ctl version", ""), ("ctl version --json", "")),
        run=show_version,
    ),
    "reload": Command(
        summary="let the daemon read its configuration again",
        text="A configuration with mistakes changes nothing; they are shown.\n"
        "Models that have not changed keep running.",
        examples=(("ctl reload", ""),),
        run=reload,
    ),
    "pause": Command(
        summary="free the memory for a while: unload everything, start nothing",
        text="Running requests finish first (unless --force). Pinned and loaded models come\n"
        "back when it is over.",
        examples=(
            ("ctl pause 30m", "requests wait meanwhile"),
            ("ctl pause --refuse", "until `ctl resume`; clients are told to come back"),
        ),
        run=pause,
        arguments=_pause_arguments,
    ),
    "resume": Command(summary="end a pause", examples=(("ctl resume", ""),), run=resume),
    "shutdown": Command(
        summary="stop the daemon, and with it the models (unless it runs as a service)",
        examples=(
            ("ctl shutdown", "and wait until it is gone"),
            ("ctl shutdown --no-wait", "only tell it"),
        ),
        run=shutdown,
        arguments=_shutdown_arguments,
    ),
}
