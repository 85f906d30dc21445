from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from control_api.commands.local import memory
from control_api.commands.local.complete import candidates
from daemon.machine import gpu_limit
from tests.commands.conftest import Ctl, answering
from tests.machine.test_gpu_limit import FakeMac


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> FakeMac:
    fake = FakeMac()
    monkeypatch.setattr(gpu_limit, "run_program", fake)
    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform="darwin"))
    return fake


def test_raised_and_restored(ctl: Ctl, home: Path, mac: FakeMac) -> None:
    done = ctl("memory", "raise-gpu-limit", "--to", "20GiB", "--yes")
    assert done.code == 0, done.err
    assert "the system's own -> 20480 MiB (20.0 GiB)" in done.out
    assert "until this Mac restarts" in done.out
    assert (home / "state" / "gpu-limit.json").exists()
    back = ctl("memory", "restore", "--yes", "--json")
    assert back.json == {"old_mb": 20480, "new_mb": 0, "restores_to_mb": 0}
    assert mac.limit == 0
    assert [argv[1] for argv in mac.as_root] == ["-n", "-n"]
    again = ctl("memory", "restore", "--yes", "--json")
    assert (again.code, again.json["error"]["code"]) == (1, "invalid_request")


def test_a_person_is_asked_first(
    ctl: Ctl, home: Path, mac: FakeMac, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "\n")
    no = ctl("memory", "raise-gpu-limit")
    assert (no.code, no.out) == (1, "")
    assert "sudo /usr/sbin/sysctl iogpu.wired_limit_mb=21504" in no.err
    assert "Nothing was changed." in no.err
    assert mac.as_root == []
    answering(monkeypatch, "y\n")
    assert ctl("memory", "raise-gpu-limit").code == 0
    assert mac.limit == 21504
    assert mac.as_root[0][1] == "/usr/sbin/sysctl"


def test_nobody_to_ask(ctl: Ctl, home: Path, mac: FakeMac) -> None:
    refused = ctl("memory", "raise-gpu-limit", "--to=20480")
    assert refused.code == 1
    assert "--yes" in refused.err
    assert mac.as_root == []


@pytest.mark.skipif(sys.platform == "darwin", reason="would change this Mac")
def test_elsewhere(ctl_process: Ctl, home: Path) -> None:
    result = ctl_process("memory", "raise-gpu-limit", "--yes", "--json")
    assert result.code == 1
    assert "Only macOS" in result.json["error"]["message"]


def test_numbers(ctl: Ctl, home: Path, mac: FakeMac) -> None:
    lots = ctl("memory", "raise-gpu-limit", "--to=lots", "--yes")
    assert lots.code == 2
    assert "such as 20480" in lots.err
    assert memory.megabytes("20480") == memory.megabytes("20GiB") == 20480


def test_completion() -> None:
    assert {"raise-gpu-limit", "restore"} <= set(candidates(["memory"]))
    assert {"--to", "--yes"} <= set(candidates(["memory", "raise-gpu-limit"]))
