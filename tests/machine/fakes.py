"""Stand-ins of drivers: NVML as a library, amdgpu as folders, libSystem of a Mac."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daemon.core.units import GIB

NOT_SUPPORTED, NOT_FOUND, UNKNOWN = 3, 6, 999


class NVMLError(Exception):
    """As pynvml's: ``value`` is NVML's number."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class FakeCard:
    """One card, or one MIG instance. ``memory``: (total, free), or the number of an error;
    ``computing``, ``drawing``: bytes by pid, None where the driver does not tell them."""

    memory: tuple[int, int] | int
    uuid: str | bytes = "GPU-0"
    computing: Mapping[int, int | None] = field(default_factory=dict)
    drawing: Mapping[int, int | None] = field(default_factory=dict)
    instances: Sequence[FakeCard | None] | None = None  # None: it knows no MIG


class FakeNvml:
    """The part of pynvml that is used; ``broken`` names functions that fail."""

    NVMLError = NVMLError

    def __init__(self, *cards: FakeCard, broken: Sequence[str] = ()) -> None:
        self.cards = cards
        self.broken = set(broken)

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise NVMLError(UNKNOWN)

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetCount(self) -> int:
        self._check("count")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:
        return self.cards[index]

    def nvmlDeviceGetMigMode(self, card: FakeCard) -> list[int]:
        if card.instances is None:
            raise NVMLError(NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: FakeCard) -> int:
        return len(card.instances or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: FakeCard, index: int) -> FakeCard:
        found = (card.instances or ())[index]
        if found is None:
            raise NVMLError(NOT_FOUND)
        return found

    def nvmlDeviceGetMemoryInfo(self, card: FakeCard) -> Any:
        if isinstance(card.memory, int):
            raise NVMLError(card.memory)
        total, free = card.memory
        return SimpleNamespace(total=total, free=free, used=total - free)

    def nvmlDeviceGetUUID(self, card: FakeCard) -> str | bytes:
        self._check("uuid")
        return card.uuid

    def nvmlDeviceGetComputeRunningProcesses(self, card: FakeCard) -> list[Any]:
        self._check("computing")
        return _running(card.computing)

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: FakeCard) -> list[Any]:
        self._check("drawing")
        return _running(card.drawing)


def _running(held: Mapping[int, int | None]) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in held.items()]


# The head of gpu_metrics: bytes in all (16 bits), format, revision.
DISCRETE, INTEGRATED, STRIX_HALO = b"\x78\x00\x01\x03", b"\x94\x00\x02\x04", b"\x08\x01\x03\x00"


@dataclass(frozen=True)
class FakeAmd:
    """Folders as amdgpu's below ``root``: ``drm``, ``kfd`` and ``proc``."""

    root: Path

    @property
    def folders(self) -> dict[str, Path]:
        return {name: self.root / name for name in ("drm", "kfd", "proc")}

    def card(
        self,
        number: int,
        address: str,
        *,
        vram: int,
        used: int = 0,
        gtt: int = 16 * GIB,
        metrics: bytes = DISCRETE,
        vendor: str = "0x1002",
        gpu_id: int = 0,
    ) -> None:
        device = self.root / "devices" / address
        device.mkdir(parents=True)
        texts = {
            "vendor": vendor,
            "mem_info_vram_total": str(vram),
            "mem_info_vram_used": str(used),
            "mem_info_gtt_total": str(gtt),
            "mem_info_gtt_used": "4194304",
        }
        for name, text in texts.items():
            (device / name).write_text(f"{text}\n")
        if metrics:
            (device / "gpu_metrics").write_bytes(metrics + bytes(116))
        for name in (f"card{number}", f"renderD{128 + number}", f"card{number}-DP-1"):
            folder = self.root / "drm" / name
            folder.mkdir(parents=True)
            (folder / "device").symlink_to(device)
        if gpu_id:
            domain, bus, rest = address.split(":")
            slot, function = rest.split(".")
            place = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
            node = self.root / "kfd" / "topology" / "nodes" / str(number + 1)
            node.mkdir(parents=True)
            (node / "gpu_id").write_text(f"{gpu_id}\n")
            (node / "properties").write_text(
                f"cpu_cores_count 0\nsimd_count 192\nlocation_id {place}\n"
                f"domain {int(domain, 16)}\nname broken line here\n"
            )

    def opens(self, pid: int, *files: tuple[str, str]) -> None:
        """A process has these open: (target, text of its fdinfo)."""
        for name in ("fd", "fdinfo"):
            (self.root / "proc" / str(pid) / name).mkdir(parents=True, exist_ok=True)
        for number, (target, text) in enumerate(files):
            (self.root / "proc" / str(pid) / "fd" / str(number)).symlink_to(target)
            (self.root / "proc" / str(pid) / "fdinfo" / str(number)).write_text(text)

    def computes(self, pid: int, gpu_id: int, size: int) -> None:
        folder = self.root / "kfd" / "proc" / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"vram_{gpu_id}").write_text(f"{size}\n")


class FakeSystem:
    """libSystem: fills the structures where macOS has their fields. ``status`` 0 is success."""

    def __init__(self, *, page: int = 16384, status: int = 0, level: int = 1, **pages: int) -> None:
        self.page, self.status, self.level, self.pages = page, status, level, pages

    def mach_host_self(self) -> int:
        return 2819

    def host_page_size(self, host: int, size: Any) -> int:
        assert host == 2819
        ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t))[0] = self.page
        return 0

    def host_statistics64(self, host: int, flavor: int, seen: Any, length: Any) -> int:
        assert (host, flavor) == (2819, 4)
        assert ctypes.cast(length, ctypes.POINTER(ctypes.c_uint32))[0] == 38
        words = ctypes.cast(seen, ctypes.POINTER(ctypes.c_uint32))
        # four counts, nine of 64 bits, then purgeable and speculative
        places = {"free": 0, "active": 1, "inactive": 2, "wired": 3, "purgeable": 22}
        for name, place in places.items():
            words[place] = self.pages.get(name, 0)
        words[23] = self.pages.get("speculative", 0)
        return self.status

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, length: int) -> int:
        assert name == b"kern.memorystatus_vm_pressure_level"
        assert ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t))[0] == 4
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = self.level
        return self.status
