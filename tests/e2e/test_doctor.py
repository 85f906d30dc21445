"""``ctl doctor`` beside a real daemon, and beside one that has been stopped in its tracks."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]


def report(house: House, *flags: str) -> dict[str, list[dict[str, Any]]]:
    done = house.ctl("doctor", "--json", *flags)
    assert "Traceback" not in done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(done.stdout)["checks"]:
        found.setdefault(check["name"], []).append(check)
    return found


def pid_of(house: House) -> int:
    assert house.process is not None
    return house.process.pid


def verdicts(found: dict[str, list[dict[str, Any]]], name: str) -> list[str]:
    return [check["verdict"] for check in found[name]]


def test_all_is_well_and_then_it_is_not(make_house: MakeHouse, tiny_gguf: Path) -> None:
    house = make_house(f'[models.tiny]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\n').start()
    found = report(house)
    for name in ("daemon", "port", "config", "clock", "keys", "lan", "limits", "state dir"):
        assert verdicts(found, name) == ["ok"], found[name]
    assert f"pid {pid_of(house)}" in found["daemon"][0]["text"]
    assert found["port"][0]["text"] == f"{house.port} is the daemon's"
    assert any("xllamacpp" in check["text"] for check in found["engine"])
    plain = json.dumps(found)
    told = json.dumps(report(house, "--redact"))
    assert str(tiny_gguf.parent) not in told
    assert len(told) > len(plain) / 2

    # The file is broken, a folder is open to others, and something was put aside.
    house.config_file.write_text("[server]\nhots = 1\n")
    house.ctl("reload")
    state = house.folder / "state"
    (state / "ladder.json.corrupt-1").touch()
    state.chmod(0o770)
    found = report(house)
    state.chmod(0o700)
    assert verdicts(found, "config") == ["fail"]
    assert verdicts(found, "daemon") == ["ok", "fail"], "it serves by the file before"
    assert verdicts(found, "state dir") == ["fail"]
    assert verdicts(found, "state") == ["warn"]


def test_a_daemon_that_does_not_answer(make_house: MakeHouse) -> None:
    house = make_house("").start()
    os.kill(pid_of(house), signal.SIGSTOP)
    try:
        found = report(house)
    finally:
        os.kill(pid_of(house), signal.SIGCONT)
    assert verdicts(found, "daemon")[0] in ("warn", "fail")
    assert verdicts(found, "config") == ["ok"]
    assert verdicts(found, "port") == ["fail"], "it is held, and by whom"
    assert str(pid_of(house)) in found["port"][0]["text"]


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="without systemctl")
def test_the_service_manager_is_asked(make_house: MakeHouse) -> None:
    assert set(verdicts(report(make_house("")), "service")) <= {"ok", "warn"}
