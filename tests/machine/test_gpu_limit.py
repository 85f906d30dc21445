from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.core.problems import ProblemError
from daemon.core.units import GIB
from daemon.machine.gpu_limit import Plan, apply, describe, plan_raise, plan_restore, run_program

ROOT = Path(__file__).parents[2]


class FakeMac:
    """Runs sysctl and sudo as a Mac does. ``sudo``: its exit status; ``takes``: what the system
    makes of a limit."""

    def __init__(self, limit: int | None = 0, sudo: int = 0, takes: int | None = None) -> None:
        self.limit, self.sudo, self.takes = limit, sudo, takes
        self.ran: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str]) -> tuple[int, str]:
        self.ran.append(tuple(argv))
        if argv[0] == "sudo":
            if self.sudo == 0:
                new = int(argv[-1].partition("=")[2])
                self.limit = new if self.takes is None else self.takes
            return self.sudo, ""
        if argv[-1] == "hw.memsize":
            return 0, f"{24 * GIB}\n"
        return (1, "") if self.limit is None else (0, f"{self.limit}\n")

    @property
    def as_root(self) -> list[tuple[str, ...]]:
        return [argv for argv in self.ran if argv[0] == "sudo"]


def raise_to(mac: FakeMac, state: Path, to: int | None = None) -> Plan:
    plan = plan_raise(to, state, platform="darwin", run=mac)
    apply(plan, state, run=mac, interactive=True)
    return plan


def restore(mac: FakeMac, state: Path) -> Plan:
    plan = plan_restore(state, platform="darwin", run=mac)
    apply(plan, state, run=mac, interactive=True)
    return plan


def test_raised_and_put_back(tmp_path: Path) -> None:
    mac = FakeMac()
    state = tmp_path / "state"
    plan = raise_to(mac, state, 20480)
    assert (plan.old, plan.new, plan.before) == (0, 20480, 0)
    assert mac.as_root == [("sudo", "/usr/sbin/sysctl", "iogpu.wired_limit_mb=20480")]
    record = state / "gpu-limit.json"
    assert json.loads(record.read_text()) == {"before": 0, "set": 20480}
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    back = restore(mac, state)
    assert (back.old, back.new, mac.limit) == (20480, 0, 0)
    assert list(state.iterdir()) == []


def test_without_a_number_as_far_as_the_system_can_spare(tmp_path: Path) -> None:
    assert raise_to(FakeMac(), tmp_path).new == 21 * 1024


def test_raised_twice_the_first_value_is_put_back(tmp_path: Path) -> None:
    mac = FakeMac(limit=17000)
    raise_to(mac, tmp_path, 18432)
    assert raise_to(mac, tmp_path, 20480).before == 17000
    assert restore(mac, tmp_path).new == 17000


def test_what_another_has_set_since_is_what_is_put_back(tmp_path: Path) -> None:
    mac = FakeMac()
    raise_to(mac, tmp_path, 18432)
    mac.limit = 19000
    assert raise_to(mac, tmp_path, 20480).before == 19000


@pytest.mark.parametrize("number", [0, 1023, 21505, 1 << 30])
def test_limits_that_freeze_the_machine_are_refused(tmp_path: Path, number: int) -> None:
    mac = FakeMac()
    with pytest.raises(ProblemError, match=rf"cannot be {number} MiB; 1024 to 21504 MiB"):
        plan_raise(number, tmp_path, platform="darwin", run=mac)
    assert mac.as_root == []


def test_raising_does_not_lower(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="20480 MiB already"):
        plan_raise(19000, tmp_path, platform="darwin", run=FakeMac(limit=20480))


def test_elsewhere_it_is_refused(tmp_path: Path) -> None:
    mac = FakeMac()
    for plan in (
        lambda: plan_raise(None, tmp_path, platform="linux", run=mac),
        lambda: plan_restore(tmp_path, platform="linux", run=mac),
    ):
        with pytest.raises(ProblemError, match="Only macOS"):
            plan()
    assert mac.ran == []
    with pytest.raises(ProblemError, match="does not know iogpu"):
        plan_raise(None, tmp_path, platform="darwin", run=FakeMac(limit=None))


def test_nothing_to_put_back(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="nothing to restore: the GPU's limit is the system's"):
        plan_restore(tmp_path, platform="darwin", run=FakeMac())
    with pytest.raises(ProblemError, match=r"limit is 20480 MiB \(20\.0 GiB\)"):
        plan_restore(tmp_path, platform="darwin", run=FakeMac(limit=20480))


def test_after_a_restart_of_the_mac_the_record_is_forgotten(tmp_path: Path) -> None:
    mac = FakeMac()
    raise_to(mac, tmp_path, 20480)
    mac.limit = 0
    with pytest.raises(ProblemError, match="nothing to restore"):
        plan_restore(tmp_path, platform="darwin", run=mac)
    assert list(tmp_path.iterdir()) == []


def test_what_another_has_set_is_left_alone(tmp_path: Path) -> None:
    mac = FakeMac()
    raise_to(mac, tmp_path, 20480)
    mac.limit = 18000
    with pytest.raises(ProblemError, match="not the 20480 MiB that ctl set") as caught:
        plan_restore(tmp_path, platform="darwin", run=mac)
    assert caught.value.problem.hint.startswith("sudo sysctl iogpu.wired_limit_mb=0")
    assert len(mac.as_root) == 1


def test_without_a_terminal_sudo_does_not_wait_for_a_password(tmp_path: Path) -> None:
    mac = FakeMac(sudo=1)
    plan = plan_raise(20480, tmp_path, platform="darwin", run=mac)
    with pytest.raises(ProblemError, match=r"sudo -n .* failed \(status 1\): nothing was changed"):
        apply(plan, tmp_path, run=mac, interactive=False)
    assert mac.as_root[0][:2] == ("sudo", "-n")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_second_raise_keeps_the_record_of_the_first(tmp_path: Path) -> None:
    mac = FakeMac()
    raise_to(mac, tmp_path, 18432)
    mac.sudo = 1
    with pytest.raises(ProblemError, match="failed"):
        raise_to(mac, tmp_path, 20480)
    mac.sudo = 0
    assert restore(mac, tmp_path).new == 0


def test_a_system_that_takes_another_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="took 16384 MiB for 20480 MiB"):
        raise_to(FakeMac(takes=16384), tmp_path, 20480)


@pytest.mark.parametrize("text", ["", "[]", '{"before": "x", "set": 1}', '{"before": 1}', "\xff"])
def test_a_damaged_record_puts_nothing_back(tmp_path: Path, text: str) -> None:
    (tmp_path / "gpu-limit.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ProblemError, match="nothing to restore"):
        plan_restore(tmp_path, platform="darwin", run=FakeMac(limit=20480))


def test_a_state_directory_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    mac = FakeMac()
    (tmp_path / f".gpu-limit.json.{os.getpid()}").mkdir()
    with pytest.raises(ProblemError, match=r"gpu-limit\.json cannot be written"):
        raise_to(mac, tmp_path, 20480)
    assert mac.as_root == []


def test_programs() -> None:
    assert run_program([sys.executable, "-c", "print(7)"]) == (0, "7\n")
    assert run_program(["/no/such/program"]) == (127, "")
    assert describe(0) == "the system's own"


def test_the_daemon_never_raises_it() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in ("daemon", "control_api")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\bimport gpu_limit\b|machine\.gpu_limit\b", path.read_text("utf-8"))
    ]
    commands = ("memory.py", "removing.py")  # one raises it, both put it back
    assert sorted(users) == [f"control_api/commands/local/{name}" for name in commands]
