"""``ctl selftest --macos`` on a stand-in for a Mac."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control_api.commands.local import selftest
from daemon.service.mac_checks import Checks, Found
from daemon.service.programs import Done
from tests.commands.conftest import Ctl
from tests.service.test_launchd import RUNNING


class Mac:
    """A launchd that works, but for what ``broken`` says."""

    def __init__(self, broken: str = "", installed: bool = False) -> None:
        self.broken, self.installed = broken, installed
        self.pid = 100 if installed else 0
        self.engine, self.last = 0, 200
        self.now = 0.0
        self.stopped = not installed

    def _again(self) -> None:
        """launchd starts what a client wants."""
        if not self.pid:
            self.last += 1
            self.pid = self.last

    def launchctl(self, *words: str) -> Done:
        if words[0] == "kill":
            self.pid = 0
        if words[0] == "print" and words[1].endswith("modelport"):
            if not self.installed:
                return Done(113)
            text = RUNNING.replace("pid = 4711", f"pid = {self.pid}")
            return Done(0, text.replace('"modelport" = {', '"other" = {') if
                        self.broken == "sockets" else text)  # fmt: skip
        return Done(125 if self.broken == "domain" else 0)

    def ctl(self, *words: str) -> tuple[int, Any]:
        verb = " ".join(words[:2])
        if verb == "service install":
            if self.broken == "install":
                return 1, {"error": "refused"}
            written = [] if self.installed else ["x"]
            if not self.installed:
                self.installed, self.stopped, self.pid = True, False, 100
            return 0, {"written": written}
        if verb == "service uninstall":
            self.installed, self.pid = False, 0
        elif verb == "service restart":
            self.pid += 1
            self.engine += self.broken == "adoption"
        elif verb == "service stop":
            self.pid, self.engine, self.stopped = 0, 0, True
        elif verb == "service start":
            self.pid, self.stopped = 300, False
        elif verb == "service status":
            return 0, {"installed": self.installed, "pid": self.pid or None,
                       "active": "running" if self.pid else "stopped"}  # fmt: skip
        elif words[0] == "load":
            self.engine = 7
        elif words[0] == "ps":
            return 0, {"backends": [{"model": "m", "pid": self.engine}] if self.engine else []}
        elif words[0] == "config":
            return 0, {"log": "/logs"}
        return 0, {}

    def health(self) -> bool:
        if self.stopped or (self.broken == "refused" and not self.pid):
            raise ConnectionRefusedError
        self._again()
        return True

    def kill(self, pid: int, signum: int) -> None:
        self.pid = 0

    def alive(self, pid: int) -> bool:
        return pid in (self.pid, self.engine)

    def size(self, path: str) -> int:
        assert path == "/logs/launchd.log"
        return 10**6 if self.broken == "log" else -1

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.broken == "refused" and self.now > 1:
            self._again()

    def clock(self) -> float:
        return self.now


def verdicts(found: list[Found]) -> list[str]:
    return [one.verdict for one in found]


def test_all_is_well_and_nothing_is_left() -> None:
    mac = Mac()
    found = list(Checks(mac, 501, "m").run())
    assert verdicts(found) == ["ok"] * 15, found
    assert not mac.installed


def test_what_was_installed_stays() -> None:
    mac = Mac(installed=True)
    found = list(Checks(mac, 501).run())
    assert "fail" not in verdicts(found), found
    assert verdicts(found).count("skip") == 4, "the model's three, and the removal"
    assert mac.installed


@pytest.mark.parametrize(
    ("broken", "title"),
    [("domain", "launchd answers"), ("sockets", "held by launchd"), ("log", "stays small"),
     ("adoption", "restart: the model is still"), ("refused", "kill -9: launchd starts it again")],
)  # fmt: skip
def test_what_is_broken_is_named(broken: str, title: str) -> None:
    found = list(Checks(Mac(broken), 501, "m").run())
    assert any(title in one.title for one in found if one.verdict == "fail"), found
    assert len(found) == 15


def test_without_the_service_there_is_nothing_to_see() -> None:
    found = list(Checks(Mac("install"), 501, "m").run())
    assert verdicts(found) == ["ok", "fail"]


def test_elsewhere_it_says_so(ctl: Ctl) -> None:
    done = ctl("selftest", "--macos")
    assert done.code == 1
    assert "These steps are for a Mac" in done.err
    assert ctl("selftest").code == 2


def test_on_a_mac_each_step_is_printed(
    ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.toml").write_text("")
    monkeypatch.setattr(selftest.sys, "platform", "darwin")
    monkeypatch.setattr(selftest, "Machine", lambda port: Mac())
    done = ctl("selftest", "--macos", "--model", "m")
    assert done.code == 0, done.err
    assert "ok    ctl service install: loaded and running: pid 100" in done.out
    assert "15 ok, 0 failed, 0 left out" in done.out
    assert "log out and in again" in done.out
    broken = Mac("log")
    monkeypatch.setattr(selftest, "Machine", lambda port: broken)
    told = ctl("selftest", "--macos", "--json")
    assert (told.code, told.json["ok"]) == (1, False)
