"""``selftest``: what only the machine itself can show, done step by step for a person to read."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.daemon import process_alive
from control_api.commands.local.settings import load_settings
from control_api.commands.output import Out

if TYPE_CHECKING:
    from daemon.service.mac_checks import Found
    from daemon.service.programs import Done

_COLOURS: Final = {"ok": "green", "fail": "red", "skip": "yellow"}
_SECONDS: Final = 300.0
_BY_HAND: Final = (
    "Now by hand, a minute each:",
    "  1. ctl service install; log out and in again: `ctl service status` says running.",
    "  2. Close the lid for five minutes with a model loaded, open it: `ctl events` tells of the",
    "     sleep, the model answers, and `ctl service status` shows no new restart.",
    "  3. System Settings, General, Login Items: modelport is listed, and may be switched off.",
    "Please report what you saw, right or wrong: docs/untested.md says what is expected.",
)


class Machine:
    """The steps' way to this Mac."""

    def __init__(self, port: int) -> None:
        self._port = port

    def launchctl(self, *words: str) -> Done:
        from daemon.service.programs import run_program

        return run_program(["launchctl", *words])

    def ctl(self, *words: str) -> tuple[int, Any]:
        argv = [sys.executable, "-P", sys.argv[0], *words, "--json"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
        text = done.stdout.strip()
        with suppress(ValueError):
            return done.returncode, json.loads(text)
        with suppress(ValueError, IndexError):  # a stream: its last line
            return done.returncode, json.loads(text.splitlines()[-1])
        return done.returncode, {"said": (done.stderr or text)[-600:]}

    def health(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except ConnectionRefusedError:
            raise
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self, pid: int, signum: int) -> None:
        os.kill(pid, signum)

    def alive(self, pid: int) -> bool:
        return process_alive(pid)

    def size(self, path: str) -> int:
        try:
            return Path(path).stat().st_size
        except OSError:
            return -1

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def clock(self) -> float:
        return time.monotonic()


def selftest(args: Namespace, out: Out) -> int:
    from daemon.service.mac_checks import Checks

    if sys.platform != "darwin":
        raise RefusedError(
            "invalid_request",
            f"These steps are for a Mac; this is {sys.platform}.",
            "The tests look after systemd themselves: make test ARGS='-m systemd'.",
        )
    machine = Machine(load_settings(None).settings.server.port)
    found: list[Found] = []
    for one in Checks(machine, os.getuid(), args.model or "").run():
        found.append(one)
        if not out.json:
            mark = out.paint(one.verdict.ljust(4), _COLOURS[one.verdict])
            out.line(f"{mark}  {one.title}{f': {one.text}' if one.text else ''}")
    counts = Counter(one.verdict for one in found)
    good = not counts["fail"]
    if out.json:
        out.value({"ok": good, "steps": [asdict(one) for one in found]})
        return 0 if good else 1
    out.line(f"\n{counts['ok']} ok, {counts['fail']} failed, {counts['skip']} left out\n")
    for line in _BY_HAND:
        out.line(line)
    return 0 if good else 1


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--macos", action="store_true", required=True, help="the login service under launchd"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="load it, to see that it outlives a restart"
    )


COMMANDS: Final = {
    "selftest": Command(
        summary="check on a Mac what no test of ours can see, in ten minutes",
        text="It installs the service, restarts and kills it, and takes it away again if it was\n"
        "not there before. Each step says ok or fail.",
        examples=(("ctl selftest --macos --model gemma", "the login service, with a model"),),
        run=selftest,
        arguments=_arguments,
    ),
}
