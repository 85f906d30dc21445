"""The daemon's command: ``modelportd``, or ``python -P -m daemon``.

Reads the configuration, takes the lock and the port, and runs. Whatever is wrong is said in one
message with the next step. Exit code 78 (EX_CONFIG): a person has to mend something, so the service
is not started again; as a service 75 (EX_TEMPFAIL): it may pass by itself, so it is.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import faulthandler
import logging
import os
import resource
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from control_api.version import version
from daemon.access.exposure import FLAG, exposed, is_local, refuse_open
from daemon.access.store import KeyStore
from daemon.config.load import load_with_sources
from daemon.config.mistakes import ConfigError
from daemon.config.paths import APP, Paths
from daemon.config.settings import Settings
from daemon.core.problems import ProblemError
from daemon.logs.files import open_log
from daemon.logs.journal import JournalFormatter, is_journal
from daemon.service.handed import Handed, handed_over, pick
from daemon.service.kept import split
from daemon.service.lock import Lock
from daemon.service.notify import Notifier
from daemon.service.ports import bind

log = logging.getLogger("modelport")

EX_CONFIG, EX_TEMPFAIL = 78, 75  # sysexits(3)
DESCRIPTORS = 8192  # wanted soft limit; launchd starts with 256


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="modelportd",
        description="Serve every model of this machine on one port, in the foreground.",
        epilog="examples:\n  modelportd\n  modelportd --port 8200\n  modelportd --service",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--config", type=Path, metavar="FILE", help="another configuration file")
    options.add_argument("--host", help="address to listen on (server.host)")
    options.add_argument("--port", type=int, help="the fixed port (server.port)")
    options.add_argument(
        "--service",
        action="store_true",
        help="run by a service manager: backends outlive a restart of the daemon",
    )
    options.add_argument(
        FLAG,
        action="store_true",
        dest="insecure",
        help="other machines need no key to use models; without it none is let in so",
    )
    options.add_argument(
        "--system",
        action="store_true",
        help="as --service, for the whole machine: /etc, /var and /run (Linux)",
    )
    options.add_argument("-v", "--verbose", action="store_true", help="log more")
    options.add_argument("--version", action="version", version=f"modelport {version()}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run until stopped; returns the exit code."""
    options = parser().parse_args(argv)
    os.umask(0o077)
    as_service = options.service or options.system
    mode: Literal["foreground", "service"] = "service" if as_service else "foreground"
    flags = flags_of(options)
    find = Paths.for_system if options.system else Paths.find
    paths = find(os.environ, config=options.config)
    lock = Lock(paths.lock)
    try:
        loaded = load_with_sources(
            paths.config_file,
            environ=os.environ,
            flags=flags,
            missing_ok=not paths.config_named,
        )
        settings = loaded.settings
        paths.ensure()
        lock.take()
        start_logging(settings, paths, mode)
        sock, handed = listening(settings, KeyStore(paths.keys_file), options.insecure)
    except ConfigError as error:
        return refused(error.report(), error.problem.message)
    except ProblemError as error:
        # Who has the port or the lock may leave, and an address may come.
        passes = as_service and not error.problem.facts.keys().isdisjoint({"port", "pid"})
        text = f"modelportd: {error.problem.text}"
        return refused(text, error.problem.text, EX_TEMPFAIL if passes else EX_CONFIG)
    except OSError as error:  # of a disk that is full, or not there yet
        passes = as_service
        return refused(f"modelportd: {error}", str(error), EX_TEMPFAIL if passes else EX_CONFIG)
    for doubt in loaded.warnings():
        log.warning("configuration: %s: found %s. %s", doubt.where, doubt.found, doubt.hint)
    raise_descriptor_limit()
    one_heap()
    faulthandler.enable()  # a watchdog's ABRT leaves a stack in the journal
    from daemon.assembly import Daemon  # after the port is ours: it brings most imports

    async def serve() -> None:
        daemon = Daemon(
            settings,
            paths,
            sock,
            environ=dict(os.environ),
            flags=flags,
            mode=mode,
            version=version(),
            insecure=options.insecure,
            handed=handed,
        )
        await daemon.run()

    try:
        run_loop(serve())
    except ProblemError as error:  # what shows only once the machine has been looked at
        log.error("%s", error.problem.text)
        return refused("", error.problem.text)
    finally:
        sock.close()
        lock.release()
    return 0


def refused(report: str, status: str, code: int = EX_CONFIG) -> int:
    """Say why it does not start; systemd keeps ``status`` for who asks it. The exit code."""
    if report:
        print(report, file=sys.stderr)
    notifier = Notifier()
    notifier.status(f"not started: {status}")
    notifier.close()
    return code


def flags_of(options: argparse.Namespace) -> dict[str, object]:
    """The settings that were named on the command line."""
    named = {
        "server.host": options.host,
        "server.port": options.port,
        "logs.level": "debug" if options.verbose else None,
    }
    return {key: value for key, value in named.items() if value is not None}


def listening(
    settings: Settings, keys: KeyStore, insecure: bool
) -> tuple[socket.socket, list[Handed]]:
    """The fixed port's socket, and what else the service manager holds for us. Raises ProblemError:
    it cannot be had, or it, or another that is configured, would be open to other machines, and
    there is no key."""
    server = settings.server
    names = [APP, *(f"also-{one.port}" for one in server.also)]
    handed = handed_over(os.environ, os.getpid(), names=names)
    reached = list(exposed(settings).values())
    # What was kept of the LAN is opened only where it is wanted still, and there is a key.
    reached += [one.address[0] for one in split(handed)[0] if not is_local(one.address[0])]
    try:
        refuse_open(reached, not reached or keys.any_key(), insecure)
    except ProblemError:
        for one in handed:
            one.sock.close()
        raise
    fixed = pick(handed, (server.host, server.port))
    return fixed.sock if fixed is not None else bind(server.host, server.port), handed


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed, else on plain asyncio."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def start_logging(settings: Settings, paths: Paths, mode: str) -> None:
    """Into our own rotated file, and for people (or the journal) onto the terminal."""
    root = logging.getLogger()
    logs = settings.logs
    root.setLevel(logs.level.upper())
    root.addHandler(open_log(paths.daemon_log, logs.max_size, logs.keep, form=logs.format))
    terminal = logging.StreamHandler(sys.stderr)
    launchd = os.environ.get("XPC_SERVICE_NAME") == APP
    stamp = "" if mode == "service" and not launchd else "%(asctime)s "
    terminal.setFormatter(logging.Formatter(f"{stamp}%(levelname).1s %(message)s", "%H:%M:%S"))
    if is_journal(os.environ, sys.stderr):
        terminal.setFormatter(JournalFormatter())
    elif launchd:  # into a file that nobody rotates: our own has the rest
        terminal.setLevel(logging.ERROR)
    root.addHandler(terminal)
    for noisy in ("apscheduler", "asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel("WARNING")


def one_heap() -> None:
    """What glibc is told of memory (``mallopt``; nothing elsewhere).

    One heap for all threads: ours wait for files, one at a time, and a heap of its own for each
    costs a MiB that is never given back. And large blocks apart from it, always: left alone, glibc
    puts what is as large as one that was freed before into the heap, where a prompt's images stay
    after their request, and are copied as they grow.
    """
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_arena_max, 1)
        mallopt(m_mmap_threshold, 4 << 20)
        mallopt(m_trim_threshold, 2 << 20)


def raise_descriptor_limit() -> None:
    """As many files as we may have, up to a sensible number: each client and backend is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
