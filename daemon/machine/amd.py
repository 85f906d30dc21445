"""AMD cards on Linux, through the files of the ``amdgpu`` driver.

Kernel documentation: "Misc AMDGPU driver information" (``mem_info_vram_total`` and its siblings, in
bytes), "DRM client usage stats" (``fdinfo``), and ``kgd_pp_interface.h`` (the head of
``gpu_metrics``). No library of AMD's is needed. Intel's cards have no such files: their drivers
tell no total, so that they are no pools.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.core.units import GIB, KIB, MIB
from daemon.machine.base import GPU_PREFIX, UNIFIED, PoolFacts, Shared

_VENDOR: Final = "0x1002"
_UNITS: Final = {"": 1, "KiB": KIB, "MiB": MIB}
# An integrated GPU that may take less than this of main memory is not what people load models into:
# the engine on the processor is better served with all of it.
SHARED_FROM: Final = 24 * GIB
# Without the metrics that tell: no card of less than this is of use, most integrated GPUs are.
_SMALL: Final = 4 * GIB


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU. ``vram``: bytes of its own, or carved out of main memory by the firmware; ``gtt``:
    bytes of main memory that it may use; ``node``: its number in the compute driver, 0 for none."""

    address: str  # on the PCI bus, such as 0000:03:00.0
    folder: Path
    vram: int
    gtt: int
    integrated: bool
    node: int = 0

    @property
    def apart(self) -> bool:
        """Whether its memory is a pool of its own."""
        return not self.integrated or self.vram >= max(self.gtt, _SMALL)


@dataclass(frozen=True, slots=True)
class Client:
    """One file of a process on a card, from ``fdinfo``. Bytes."""

    driver: str
    address: str
    number: str  # files of one client share it, and the memory
    vram: int
    gtt: int


def parse_fdinfo(text: str) -> Client | None:
    """A DRM client; None where the file is of something else.

    ``drm-memory-vram`` is amdgpu's older name of ``drm-resident-vram``; kernels have one or both.
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.startswith("drm-"):
            values[key.strip()] = value.strip()
    if "drm-driver" not in values:
        return None

    def amount(region: str) -> int:
        names = (f"drm-memory-{region}", f"drm-resident-{region}", f"drm-total-{region}")
        return next((_bytes(values[name]) for name in names if name in values), 0)

    return Client(
        values["drm-driver"],
        values.get("drm-pdev", ""),
        values.get("drm-client-id", ""),
        amount("vram"),
        amount("gtt"),
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,18})\s*(KiB|MiB|)", text, re.ASCII)
    return int(match[1]) * _UNITS[match[2]] if match else 0


def is_integrated(metrics: bytes, vram: int) -> bool:
    """Whether a GPU sits in the processor: its ``gpu_metrics`` are then of format 2 or 3.

    The head is a size of 16 bits, the format and its revision. Where there are none (old kernels)
    the size of its memory decides.
    """
    if len(metrics) >= 4:
        return metrics[2] in (2, 3)
    return vram < _SMALL


def find_cards(drm: Path, kfd: Path) -> tuple[Card, ...]:
    """All cards of the driver, by their place on the bus."""
    nodes = _nodes(kfd / "topology" / "nodes")
    found = []
    for entry in _entries(drm):
        folder = drm / entry / "device"
        vram = _number(folder / "mem_info_vram_total")
        if not re.fullmatch(r"card\d{1,4}", entry) or not vram:
            continue
        if _text(folder / "vendor") != _VENDOR:
            continue
        address = folder.resolve().name
        found.append(
            Card(
                address,
                folder,
                vram,
                _number(folder / "mem_info_gtt_total"),
                is_integrated(_metrics(folder / "gpu_metrics"), vram),
                nodes.get(address, 0),
            )
        )
    return tuple(sorted(found, key=lambda card: card.address))


def _nodes(folder: Path) -> dict[str, int]:
    """Numbers of the compute driver (``gpu_id``) by PCI address."""
    found = {}
    for entry in _entries(folder):
        number = _number(folder / entry / "gpu_id")
        pairs = (line.split() for line in _text(folder / entry / "properties").splitlines())
        values = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
        if number and "location_id" in values:
            place, domain = values["location_id"], values.get("domain", 0)
            found[f"{domain:04x}:{place >> 8:02x}:{place >> 3 & 31:02x}.{place & 7}"] = number
    return found


class AmdSource:
    """The pools ``gpuN``, … from ``first`` on, in the order of the PCI bus.

    A processor's GPU is a pool where the firmware has carved out most of its memory; where it works
    in main memory it is :meth:`shared`; beside a card it is left out. The folders are arguments for
    the tests.
    """

    def __init__(
        self,
        first: int = 0,
        *,
        drm: Path = Path("/sys/class/drm"),
        kfd: Path = Path("/sys/class/kfd/kfd"),
        proc: Path = Path("/proc"),
    ) -> None:
        self._kfd = kfd / "proc"
        self._proc = proc
        cards = find_cards(drm, kfd)  # looked for once, as drivers do not come and go
        kept = [card for card in cards if not card.integrated]
        kept = kept or [card for card in cards if card.apart]
        self._cards = {f"{GPU_PREFIX}{first + i}": card for i, card in enumerate(kept)}
        rest = [c for c in cards if not kept and c.gtt >= SHARED_FROM]
        self._shared = max(rest, key=lambda card: card.gtt, default=None)

    def pools(self) -> tuple[PoolFacts, ...]:
        free = self.free()
        return tuple(
            PoolFacts(name, card.vram, free[name], None, "amdgpu", card.address)
            for name, card in self._cards.items()
        )

    def free(self) -> dict[str, int]:
        return {
            name: max(0, card.vram - _number(card.folder / "mem_info_vram_used"))
            for name, card in self._cards.items()
        }

    def shared(self) -> Shared | None:
        card = self._shared
        if card is None:
            return None
        return Shared(card.gtt, "amdgpu, shared memory", card.address)

    def of_processes(self, pids: Collection[int]) -> dict[str, int]:
        """Bytes that processes hold together, by pool.

        Two books are kept, of the graphics driver (Vulkan) and of the compute driver (ROCm), and
        they overlap as the kernel's version has it: the larger one counts.
        """
        cards = dict(self._cards)
        if self._shared is not None:
            cards[UNIFIED] = self._shared
        if not cards:
            return {}
        clients = {pid: clients_of(self._proc / str(pid)) for pid in pids}
        held: dict[str, int] = {}
        for name, card in cards.items():
            amount = sum(
                max(
                    _of_card(card, clients[pid], shared=name == UNIFIED), self._computing(pid, card)
                )
                for pid in pids
            )
            if amount:
                held[name] = amount
        return held

    def _computing(self, pid: int, card: Card) -> int:
        return _number(self._kfd / str(pid) / f"vram_{card.node}") if card.node else 0


def _of_card(card: Card, clients: Iterable[Client], *, shared: bool) -> int:
    mine = (c for c in clients if c.driver == "amdgpu" and c.address == card.address)
    return sum(client.vram + (client.gtt if shared else 0) for client in mine)


def clients_of(process: Path) -> tuple[Client, ...]:
    """What the process with this ``/proc`` folder has open on cards, each client once."""
    found: dict[tuple[str, str], Client] = {}
    for number in _entries(process / "fd"):
        try:
            target = os.readlink(process / "fd" / number)  # noqa: PTH115 - many, and only looked at
        except OSError:
            continue
        if not target.startswith("/dev/dri/"):
            continue
        client = parse_fdinfo(_text(process / "fdinfo" / number))
        if client is not None:
            found[client.address, client.number] = client
    return tuple(found.values())


def _entries(folder: Path) -> Iterator[str]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - many, and only the names
    except OSError:  # no such driver, another user's process, or gone
        names = []
    return iter(names)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _metrics(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else 0
