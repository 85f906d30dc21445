"""The login service as systemd and launchd show it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pytest

from control_api.commands.local import check_service
from control_api.commands.local.check_service import (
    check_service as look,
)
from control_api.commands.local.check_service import judge_agent, judge_units, parse_units, run
from control_api.commands.local.checks import Verdict

SHOWN = """NRestarts=0
Result=success
Id=modelport.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id=modelport.socket
LoadState=loaded
ActiveState=active
UnitFileState=enabled
"""
GONE = """Id=modelport.service
LoadState=not-found
ActiveState=inactive

Id=modelport.socket
LoadState=not-found
ActiveState=inactive
"""
RUNS = "gui/501/modelport = {\n\tactive count = 1\n\tstate = running\n\n\tpid = 4711\n}\n"
DIED = "gui/501/modelport = {\n\tstate = not running\n\tlast exit code = 78: EX_CONFIG\n}\n"


class Manager:
    """Answers as systemctl, loginctl or launchctl would; and keeps what it was asked."""

    def __init__(self, answers: Mapping[str, tuple[int, str]]) -> None:
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]

    def __call__(self, argv: Sequence[str]) -> tuple[int, str]:
        self.asked.append(" ".join(argv))
        found = [a for key, a in self.answers.items() if self.asked[-1].startswith(key)]
        return found[0] if found else (127, f"{argv[0]} is not there")


def verdicts(answers: Mapping[str, tuple[int, str]], platform: str = "linux") -> list[str]:
    return [f"{c.name} {c.verdict}" for c in look(platform, Manager(answers))]


def test_installed_for_a_user_who_stays() -> None:
    answers = {
        "systemctl --user": (0, SHOWN),
        "systemctl show": (0, GONE),
        "loginctl": (0, "Linger=yes\n"),
    }
    assert verdicts(answers) == ["service ok", "linger ok"]
    assert verdicts({**answers, "loginctl": (0, "Linger=no\n")}) == ["service ok", "linger warn"]
    assert verdicts({**answers, "loginctl": (1, "no such user")}) == ["service ok"]


def test_installed_for_the_machine() -> None:
    answers = {"systemctl --user": (1, "Failed to connect to bus"), "systemctl show": (0, SHOWN)}
    assert verdicts(answers) == ["service ok"]


def test_not_installed() -> None:
    none = {"systemctl --user": (0, GONE), "systemctl show": (0, GONE)}
    (found,) = look("linux", Manager(none))
    assert (found.verdict, "ctl service install" in found.text) == ("ok", True)
    (found,) = look("linux", Manager({"systemctl": (1, "\nFailed to connect to bus: none\n")}))
    assert (found.verdict, "Failed to connect to bus: none" in found.text) == ("ok", True)
    assert verdicts({}) == ["service ok"]
    assert list(look("freebsd", Manager({}))) == []


@pytest.mark.parametrize(
    ("service", "socket", "verdict"),
    [
        ({"ActiveState": "active"}, {"ActiveState": "active"}, "ok"),
        ({"ActiveState": "inactive"}, {"ActiveState": "active"}, "ok"),
        ({"ActiveState": "inactive"}, {"ActiveState": "inactive"}, "warn"),
        ({"ActiveState": "failed", "Result": "watchdog"}, {"ActiveState": "active"}, "fail"),
        ({"ActiveState": "activating", "NRestarts": "7"}, {}, "warn"),
        ({"ActiveState": "activating", "NRestarts": "0"}, {}, "ok"),
        ({"LoadState": "bad-setting"}, {}, "fail"),
        ({"ActiveState": "active", "UnitFileState": "disabled"}, {}, "warn"),
    ],
)
def test_each_state(service: dict[str, str], socket: dict[str, str], verdict: Verdict) -> None:
    units = parse_units(SHOWN)
    units["modelport.service"] |= service
    units["modelport.socket"] |= {
        "UnitFileState": service.get("UnitFileState", "enabled"),
        **socket,
    }
    found = judge_units(units, "user")
    assert found.verdict == verdict
    assert found.fix or verdict == "ok"


def test_launchd() -> None:
    assert verdicts({"launchctl print gui/": (0, RUNS)}, "darwin") == ["service ok"]
    assert verdicts({"launchctl print gui/": (0, DIED)}, "darwin") == ["service fail"]
    only = {"launchctl print gui/": (113, "Could not find"), "launchctl print system": (0, RUNS)}
    assert verdicts(only, "darwin") == ["service ok"]
    assert verdicts({"launchctl": (113, "Could not find service")}, "darwin") == ["service ok"]
    assert verdicts({"launchctl": (124, "no answer within 3 s")}, "darwin") == ["service warn"]
    assert verdicts({}, "darwin") == ["service ok"]
    found = judge_agent(DIED, "gui/501/modelport", "agent")
    assert "last exit code 78" in found.text
    assert found.fix.startswith("launchctl kickstart gui/501/modelport")
    assert judge_agent("state = waiting\n", "x", "agent").verdict == "warn"


def test_a_program_that_hangs_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_service, "SECONDS", 0.2)
    assert run((sys.executable, "-c", "print(5)")) == (0, "5\n")
    assert run((sys.executable, "-c", "import time; time.sleep(60)"))[0] == 124
    assert run(("no-such-program-at-all",))[0] == 127
