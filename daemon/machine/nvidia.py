"""NVIDIA cards, through NVML (the package ``nvidia-ml-py``).

Everything here answers "nothing" where the package, the driver or a card is missing.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import time
from collections.abc import Collection, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

from daemon.machine.base import GPU_PREFIX, UNIFIED, PoolFacts, Shared

_log = logging.getLogger(__name__)

LATELY: Final = 3.0  # seconds: the driver keeps a sample or more of each
_DRIVER: Final = "libnvidia-ml.so.1"  # what pynvml loads, too
_NOT_SUPPORTED: Final = 3  # NVML_ERROR_NOT_SUPPORTED


@lru_cache(maxsize=1)
def _nvml() -> ModuleType | None:
    """The initialised library, or None: looked for once, since drivers do not come and go.

    The driver's part is looked for first: pynvml itself takes more than a megabyte.
    """
    try:
        ctypes.CDLL(_DRIVER)
    except OSError as error:
        _log.debug("no NVIDIA driver: %s", error)
        return None
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        _log.info("no NVIDIA card can be used: %s", error)
        return None
    return library


class NvidiaSource:
    """The pools ``gpu0``, ``gpu1``, … in the order of the driver (that of the PCI bus, which CUDA
    uses only with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``: name cards to engines by ``device``).

    A card that is cut into MIG instances is as many pools as it has instances. The GPU of a board
    with one memory for all (GB10, Jetson) is no pool but :meth:`shared`: NVML answers "not
    supported" there, or a total of 0, and still tells what each process holds.
    ``library`` is for the tests.
    """

    def __init__(self, library: Any = None) -> None:
        self._library: Any = library if library is not None else _nvml()
        self._silent = False

    def pools(self) -> tuple[PoolFacts, ...]:
        return tuple(
            PoolFacts(name, memory.total, memory.free, None, "NVML", self._uuid(handle))
            for name, handle, memory in self._memories()
        )

    def free(self) -> dict[str, int]:
        return {name: memory.free for name, _, memory in self._memories()}

    def shared(self) -> Shared | None:
        without = [handle for _, handle in self._places() if self._memory(handle) == "shared"]
        if not without or self._memories():
            return None
        return Shared(None, "NVIDIA, shared memory", self._uuid(without[0]))

    def of_processes(self, pids: Collection[int]) -> dict[str, int]:
        """Bytes that processes hold together, by pool. Cards that do not tell are left out."""
        held: dict[str, int] = {}
        for name, handle in self._places():
            amount = sum(size for pid, size in self._sizes(handle).items() if pid in pids)
            if amount:
                pool = UNIFIED if self._memory(handle) == "shared" else name
                held[pool] = held.get(pool, 0) + amount
        return held

    def computing(self, pids: Collection[int]) -> bool:
        """Whether a card worked for one of these processes in the last seconds. False where the
        driver may not tell (containers, MIG)."""
        return any(self._busy(handle, pids) for _, handle in self._places())

    def _busy(self, handle: Any, pids: Collection[int]) -> bool:
        since = int((time.time() - LATELY) * 1e6)
        try:
            samples = self._library.nvmlDeviceGetProcessUtilization(handle, since)
        except self._library.NVMLError:  # NOT_FOUND: nothing ran since the last look
            return False
        return any(sample.pid in pids and sample.smUtil > 0 for sample in samples)

    def _sizes(self, handle: Any) -> dict[int, int]:
        """Bytes by process. One that computes and draws (Vulkan) is in both lists, with the same
        number; ``usedGpuMemory`` is None where the driver may not tell (containers, WSL)."""
        found: dict[int, int] = {}
        for ask in (
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetGraphicsRunningProcesses",
        ):
            try:
                running = getattr(self._library, ask)(handle)
            except self._library.NVMLError:
                continue
            for process in running:
                found[process.pid] = max(found.get(process.pid, 0), process.usedGpuMemory or 0)
        return found

    def _memories(self) -> list[tuple[str, Any, Any]]:
        """Name, handle and memory of every card that tells its memory."""
        found = ((name, handle, self._memory(handle)) for name, handle in self._places())
        return [item for item in found if item[2] not in (None, "shared")]

    def _memory(self, handle: Any) -> Any:
        """NVML's memory of a card; "shared" where it has none of its own; None: it fails."""
        try:
            memory = self._library.nvmlDeviceGetMemoryInfo(handle)
        except self._library.NVMLError as error:
            if getattr(error, "value", None) == _NOT_SUPPORTED:
                return "shared"
            _log.debug("a card does not tell its memory: %s", error)
            return None
        return memory if memory.total else "shared"

    def _places(self) -> list[tuple[str, Any]]:
        """Cards and MIG instances, numbered through, whether or not they answer now."""
        if self._library is None:
            return []
        try:
            count = self._library.nvmlDeviceGetCount()
            cards = [self._library.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except self._library.NVMLError as error:
            if not self._silent:  # asked every few seconds: said once
                _log.warning("the NVIDIA driver does not answer: %s", error)
            self._silent = True
            return []
        self._silent = False
        places = [place for card in cards for place in self._instances(card)]
        return [(f"{GPU_PREFIX}{index}", place) for index, place in enumerate(places)]

    def _instances(self, card: Any) -> Iterator[Any]:
        """The card itself, or its MIG instances where it is in that mode."""
        library = self._library
        try:
            enabled = library.nvmlDeviceGetMigMode(card)[0]
            most = library.nvmlDeviceGetMaxMigDeviceCount(card) if enabled else 0
        except library.NVMLError:  # almost every card: it knows no MIG
            enabled = most = 0
        if not enabled:
            yield card
        for index in range(most):
            try:
                yield library.nvmlDeviceGetMigDeviceHandleByIndex(card, index)
            except library.NVMLError:
                continue  # no instance in this place

    def _uuid(self, handle: Any) -> str:
        try:
            found = self._library.nvmlDeviceGetUUID(handle)
        except self._library.NVMLError:
            return ""
        return found.decode() if isinstance(found, bytes) else str(found)
