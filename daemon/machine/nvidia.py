"""NVIDIA cards, through NVML (the optional package ``nvidia-ml-py``).

Everything here answers "nothing" where the package, the driver or a card is missing.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Collection
from functools import lru_cache
from types import ModuleType
from typing import Any

from daemon.machine.base import GPU_PREFIX, PoolFacts

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _nvml() -> ModuleType | None:
    """The initialised library, or None: looked for once, since drivers do not come and go."""
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
    """The pools ``gpu0``, ``gpu1``, … in the order of the driver. ``library`` is for the tests."""

    def __init__(self, library: Any = None) -> None:
        self._library: Any = library if library is not None else _nvml()

    def pools(self) -> tuple[PoolFacts, ...]:
        return tuple(
            PoolFacts(f"{GPU_PREFIX}{index}", memory.total, memory.free, None, "NVML")
            for index, memory in self._memories()
        )

    def free(self) -> dict[str, int]:
        return {f"{GPU_PREFIX}{index}": memory.free for index, memory in self._memories()}

    def of_processes(self, pids: Collection[int]) -> dict[str, int]:
        """Bytes that processes hold together, by pool. Cards that do not tell are left out."""
        held: dict[str, int] = {}
        for index, handle in self._handles():
            try:
                running = self._library.nvmlDeviceGetComputeRunningProcesses(handle)
            except self._library.NVMLError:
                continue
            # usedGpuMemory is None where the driver may not tell (containers, WSL).
            amounts = [p.usedGpuMemory or 0 for p in running if p.pid in pids]
            if any(amounts):
                held[f"{GPU_PREFIX}{index}"] = sum(amounts)
        return held

    def _memories(self) -> list[tuple[int, Any]]:
        found = []
        for index, handle in self._handles():
            try:
                found.append((index, self._library.nvmlDeviceGetMemoryInfo(handle)))
            except self._library.NVMLError as error:
                # Cards of unified boards (Jetson, Grace) have no memory of their own.
                _log.debug("card %d does not tell its memory: %s", index, error)
        return found

    def _handles(self) -> list[tuple[int, Any]]:
        if self._library is None:
            return []
        try:
            count = self._library.nvmlDeviceGetCount()
            return [(i, self._library.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]
        except self._library.NVMLError as error:
            _log.warning("the NVIDIA driver does not answer: %s", error)
            return []
