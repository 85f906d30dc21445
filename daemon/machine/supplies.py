"""Where the machine's power comes from: its battery or a charger.

On Linux the kernel tells it below ``/sys/class/power_supply`` (Documentation/ABI/testing/
sysfs-class-power); elsewhere psutil does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/sys/class/power_supply")
_LONGEST: Final = 64  # bytes of a value; the words of the kernel are shorter


class Source(Enum):
    """Where power comes from. ``UNKNOWN``: a machine without a battery, or one that does not
    tell; it is treated as plugged in."""

    MAINS = "mains"
    BATTERY = "battery"
    UNKNOWN = "unknown"

    @property
    def battery(self) -> bool:
        return self is Source.BATTERY


@dataclass(frozen=True, slots=True)
class Supply:
    """One supply, in the kernel's words. ``kind``: Mains, USB, Wireless, Battery, UPS; ``status``
    of a battery: Charging, Discharging, Not charging, Full, Unknown; ``online``: whether a charger
    gives power, None where it does not say; ``own``: it feeds the machine, not a mouse."""

    kind: str
    online: bool | None = None
    status: str = ""
    own: bool = True


def judge(supplies: Iterable[Supply]) -> Source:
    """Where the power comes from, by all supplies. Pure.

    A battery that is discharged wins over a USB port that calls itself online: one that charges a
    telephone does so too, and a charger that is too weak drains the battery all the same.
    """
    mine = [supply for supply in supplies if supply.own]
    batteries = [supply for supply in mine if supply.kind in ("Battery", "UPS")]
    chargers = [supply for supply in mine if supply.online is not None and supply not in batteries]
    if any(one.kind == "Mains" and one.online for one in chargers):
        return Source.MAINS
    if any(one.status == "Discharging" for one in batteries):
        return Source.BATTERY
    if any(one.online for one in chargers):
        return Source.MAINS
    if any(one.status in ("Charging", "Full", "Not charging") for one in batteries):
        return Source.MAINS
    return Source.BATTERY if batteries and chargers else Source.UNKNOWN


def read_supplies(folder: Path = FOLDER) -> list[Supply]:
    """What the kernel tells. A supply that goes while it is read is left out."""
    found = []
    with suppress(OSError):
        for supply in sorted(folder.iterdir()):
            kind = _value(supply / "type")
            if not kind:
                continue
            online = _value(supply / "online")
            found.append(
                Supply(
                    kind,
                    None if online not in ("0", "1", "2") else online != "0",
                    _value(supply / "status"),
                    _value(supply / "scope") != "Device",
                )
            )
    return found


def source(folder: Path = FOLDER) -> Source:
    """Where this machine's power comes from now. Reads files: for a thread."""
    if sys.platform == "linux":
        return judge(read_supplies(folder))
    return _by_psutil()


def _by_psutil() -> Source:
    import psutil

    battery = None
    with suppress(psutil.Error, OSError, AttributeError):  # not there on every system
        battery = psutil.sensors_battery()
    if battery is None or battery.power_plugged is None:
        return Source.UNKNOWN
    return Source.MAINS if battery.power_plugged else Source.BATTERY


def _value(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST).decode("utf-8", "replace").strip()
    except OSError:  # none such, or a driver that cannot say just now
        return ""
