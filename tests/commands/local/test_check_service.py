"""The login service as systemd and launchd show it to ``ctl doctor``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from control_api.commands.local.check_service import check_service, judge
from control_api.commands.local.checks import Verdict
from daemon.service.programs import Done, State

SHOWN = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=4711\n"
GONE = "LoadState=not-found\nActiveState=inactive\n"
RUNS = "gui/501/modelport = {\n\tstate = running\n\tpid = 4711\n}\n"
DIED = "gui/501/modelport = {\n\tstate = not running\n\tlast exit code = 78: EX_CONFIG\n}\n"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def verdicts(answers: Mapping[str, Done], platform: str = "linux") -> list[str]:
    """As systemctl, loginctl or launchctl would answer, by the first words that fit."""

    def run(argv: Sequence[str]) -> Done:
        line = " ".join(argv).replace(" --no-ask-password", "")
        found = [done for head, done in answers.items() if line.startswith(head)]
        return found[0] if found else Done(127, err=f"{argv[0]}: not found")

    return [f"{c.name} {c.verdict}: {c.text}" for c in check_service(platform, run)]


def short(found: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in found]


USER, MACHINE = "systemctl --user show modelport.service", "systemctl show modelport.service"
THERE = {"systemctl --user show -p Version": Done(0, "252\n"),
         "systemctl show -p Version": Done(0, "252\n")}  # fmt: skip
MINE = {**THERE, USER: Done(0, SHOWN), MACHINE: Done(0, GONE), "systemctl": Done(0, "")}


def test_installed_for_a_user_who_stays() -> None:
    for said, more in (("yes", ["linger ok"]), ("no", ["linger warn"])):
        found = short(verdicts({**MINE, "loginctl": Done(0, f"{said}\n")}))
        assert found == ["service ok", *more]


def test_installed_for_the_machine() -> None:
    answers = {"systemctl --user": Done(1, err="Failed to connect to bus"), **THERE,
               MACHINE: Done(0, SHOWN), "systemctl": Done(0, "")}  # fmt: skip
    assert short(verdicts(answers)) == ["service ok"]


def test_not_installed() -> None:
    (found,) = verdicts(
        {**THERE, USER: Done(0, GONE), MACHINE: Done(0, GONE), "systemctl": Done(0)}
    )
    assert found.startswith("service ok: not installed")
    assert "ctl service install" in found
    (found,) = verdicts({"systemctl": Done(1, err="Failed to connect to bus: none")})
    assert "Failed to connect to bus: none" in found
    (found,) = verdicts({})
    assert "There is no systemd" in found
    assert verdicts({}, "freebsd") == []


@pytest.mark.parametrize(
    ("state", "verdict", "words"),
    [
        (State(True, enabled=True, active="running"), "ok", "runs"),
        (State(True, enabled=True, sockets=(("m", "active"),)), "ok", "first connection"),
        (State(True, enabled=True), "warn", "does not run"),
        (State(True, active="failed", last_exit="signal SIGSEGV"), "fail", "SIGSEGV"),
        (State(True, active="failed", text="models.a.path"), "fail", "it said: models.a.path"),
        (State(True, active="starting", restarts=7, last_exit="exit code 1"), "warn", "code 1"),
        (State(True, active="starting"), "ok", "starting"),
        (State(False, unreadable="bad-setting"), "fail", "bad-setting"),
        (State(True, active="running"), "warn", "after a restart of the machine"),
    ],
)
def test_each_state(state: State, verdict: Verdict, words: str) -> None:
    found = judge(state, "user")
    assert (found.verdict, words in found.text) == (verdict, True), found
    assert found.fix or verdict == "ok"


def test_launchd() -> None:
    agent = f"launchctl print gui/{os.getuid()}/modelport"
    job = "launchctl print system/modelport"
    mine = {agent: Done(0, RUNS), job: Done(113), "launchctl": Done(0)}
    assert short(verdicts(mine, "darwin")) == ["service ok"]
    (found,) = verdicts({**mine, agent: Done(0, DIED)}, "darwin")
    assert found.startswith("service fail")
    assert "exit code 78" in found
    machines = {**mine, agent: Done(113), job: Done(0, RUNS)}
    assert short(verdicts(machines, "darwin")) == ["service ok"]
    gone = {**mine, agent: Done(113)}
    assert verdicts(gone, "darwin")[0].startswith("service ok: not installed")
    (found,) = verdicts({"launchctl": Done(124, err="it did not end within 3 s")}, "darwin")
    assert "did not end" in found
