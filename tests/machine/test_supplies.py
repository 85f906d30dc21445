"""Battery or charger: by recorded folders of the kernel, and by psutil elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.machine import supplies
from daemon.machine.supplies import Source, Supply, judge, read_supplies

Tree = Mapping[str, Mapping[str, str]]
BATTERY = {"type": "Battery", "scope": "System", "status": "Discharging"}
THINKPAD: Tree = {
    "AC": {"type": "Mains", "online": "0"},
    "BAT0": {"type": "Battery", "status": "Discharging"},
    "hidpp_battery_0": {"type": "Battery", "scope": "Device", "status": "Discharging"},
}
FRAMEWORK: Tree = {  # USB-C alone
    "ACAD": {"type": "Mains", "online": "1"},
    "BAT1": {"type": "Battery", "status": "Charging"},
    "ucsi-source-psy-USBC000:001": {"type": "USB", "online": "1", "scope": "System"},
    "ucsi-source-psy-USBC000:002": {"type": "USB", "online": "0", "scope": "System"},
}
DESKTOP: Tree = {"hidpp_battery_0": {"type": "Battery", "scope": "Device", "status": "Discharging"}}


def tree(folder: Path, supplies_: Tree) -> Path:
    for name, values in supplies_.items():
        (folder / name).mkdir(parents=True)
        for key, value in values.items():
            (folder / name / key).write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (THINKPAD, Source.BATTERY),
        ({**THINKPAD, "AC": {"type": "Mains", "online": "1"}}, Source.MAINS),
        (FRAMEWORK, Source.MAINS),
        (DESKTOP, Source.UNKNOWN),
        ({}, Source.UNKNOWN),
        # a port that feeds a telephone is no charger
        ({"usb": {"type": "USB", "online": "1"}, "BAT0": BATTERY}, Source.BATTERY),
        ({"usb": {"type": "USB", "online": "1"}, "B": {"type": "Battery"}}, Source.MAINS),
        # full and unplugged for a moment; the charger decides
        (
            {"AC": {"type": "Mains", "online": "0"}, "B": {"type": "Battery", "status": "Unknown"}},
            Source.BATTERY,
        ),
        ({"B": {"type": "Battery", "status": "Full"}}, Source.MAINS),
        ({"B": {"type": "Battery", "status": "Unknown"}}, Source.UNKNOWN),
    ],
)
def test_recorded_folders(tmp_path: Path, found: Tree, expected: Source) -> None:
    assert judge(read_supplies(tree(tmp_path, found))) is expected


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert read_supplies(tmp_path / "none") == []
    tree(tmp_path, {"AC": {"type": "Mains", "online": "maybe"}, "odd": {"online": "1"}})
    (tmp_path / "odd" / "type").mkdir()
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "type").write_bytes(b"\xff" * 1000)
    assert read_supplies(tmp_path)[0].online is None
    assert judge(read_supplies(tmp_path)) is Source.UNKNOWN


SUPPLY = st.builds(
    Supply,
    st.sampled_from(["Mains", "USB", "Wireless", "Battery", "UPS", "BMS"]),
    st.none() | st.booleans(),
    st.sampled_from(["", "Charging", "Discharging", "Not charging", "Full", "Unknown"]),
    st.booleans(),
)


@given(st.lists(SUPPLY, max_size=6))
def test_a_verdict_for_anything(found: list[Supply]) -> None:
    verdict = judge(found)
    assert verdict is judge(reversed(found)), "the order says nothing"
    assert verdict is judge([one for one in found if one.own]), "a mouse is no battery of ours"
    if not any(one.kind in ("Battery", "UPS") and one.own for one in found):
        assert verdict is not Source.BATTERY
    assert judge([*found, Supply("Mains", True)]) is Source.MAINS


@pytest.mark.parametrize(
    ("plugged", "expected"),
    [(True, Source.MAINS), (False, Source.BATTERY), (None, Source.UNKNOWN)],
)
def test_elsewhere_psutil_tells(
    plugged: bool | None, expected: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    battery = SimpleNamespace(power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert supplies.source() is expected
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert supplies.source() is Source.UNKNOWN
