"""The templates of the login service: known placeholders only, and valid once they are filled."""

from __future__ import annotations

import plistlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = [
    ROOT / "units" / name
    for name in (
        "modelport.service",
        "modelport.socket",
        "modelport-system.service",
        "modelport-also.socket",
    )
]
PLISTS = [ROOT / "launchd" / name for name in ("modelport.plist", "modelport-system.plist")]
VALUES = {
    "MODELPORTD": "/bin/true",
    "CONFIG": "/etc/modelport/config.toml",
    "STOP_SECONDS": "40",
    "LISTEN": "127.0.0.1:8123",
    "PORT": "8123",
    "SOCKETS": "",
    "USER": "root",
    "GROUP": "root",
    "LOG": "/tmp/modelport.log",
}


def filled(path: Path) -> str:
    """The template with every placeholder replaced; KeyError for an unknown one."""
    return re.sub(r"@([A-Z_]+)@", lambda match: VALUES[match[1]], path.read_text())


@pytest.mark.parametrize("path", [*UNITS, *PLISTS], ids=lambda path: path.name)
def test_placeholders_are_those_that_the_table_names(path: Path) -> None:
    table = (ROOT / "units" / "README.md").read_text()
    row = next(line for line in table.splitlines() if f"/{path.name}`" in line)
    documented = set(re.findall(r"@([A-Z_]+)@", row))
    if path.name.endswith("-system.service"):
        documented |= {"MODELPORTD", "CONFIG", "STOP_SECONDS"}
    if path.name.endswith("-system.plist"):
        documented |= {"MODELPORTD", "CONFIG", "LOG", "STOP_SECONDS", "SOCKETS"}
    assert set(re.findall(r"@([A-Z_]+)@", path.read_text())) == documented


@pytest.mark.parametrize("path", PLISTS, ids=lambda path: path.name)
def test_plists_say_what_launchd_must_know(path: Path) -> None:
    plist = plistlib.loads(filled(path).encode())
    assert plist["Label"] == "modelport"
    program = ["/bin/true", "--service", "--config", "/etc/modelport/config.toml"]
    assert plist["ProgramArguments"] == program
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert plist["AbandonProcessGroup"] is True
    assert plist["ProcessType"] == "Interactive"
    assert plist["ExitTimeOut"] == 40
    assert "EnvironmentVariables" not in plist
    assert ("UserName" in plist) == path.name.startswith("modelport-system")


@pytest.mark.parametrize("path", [UNITS[0], UNITS[2]], ids=lambda path: path.name)
def test_services_keep_backends_and_the_port(path: Path) -> None:
    lines = filled(path).splitlines()
    for line in (
        "Type=notify",
        "KillMode=process",
        "OOMPolicy=continue",
        "StartLimitIntervalSec=0",
        "RestartSec=2",
        "WatchdogSec=30",
        "TimeoutStopSec=40",
    ):
        assert line in lines
    forbidden = ("PrivateDevices", "MemoryDenyWriteExecute", "EnvironmentFile")
    assert not [line for line in lines if line.startswith(forbidden)]
