from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.core.units import GIB
from daemon.machine import nvidia
from daemon.machine.nvidia import NvidiaSource


class NVMLError(Exception):
    pass


class FakeNvml:
    """The part of pynvml that is used; ``broken`` names functions that fail."""

    NVMLError = NVMLError

    def __init__(self, *broken: str) -> None:
        self.broken = broken

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise NVMLError(name)

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetCount(self) -> int:
        self._check("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if handle == 1:
            self._check("second")
        return SimpleNamespace(total=24 * GIB, free=(20 - handle) * GIB, used=4 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        self._check("processes")
        return [
            SimpleNamespace(pid=10, usedGpuMemory=GIB * (handle + 1)),
            SimpleNamespace(pid=11, usedGpuMemory=None),
            SimpleNamespace(pid=12, usedGpuMemory=5 * GIB),
        ]


def test_cards_are_pools() -> None:
    first, second = NvidiaSource(FakeNvml()).pools()
    assert (first.name, first.total, first.free, first.limit) == ("gpu0", 24 * GIB, 20 * GIB, None)
    assert (second.name, second.free) == ("gpu1", 19 * GIB)
    assert NvidiaSource(FakeNvml()).free() == {"gpu0": 20 * GIB, "gpu1": 19 * GIB}


def test_what_processes_hold() -> None:
    source = NvidiaSource(FakeNvml())
    assert source.of_processes({10, 11}) == {"gpu0": GIB, "gpu1": 2 * GIB}
    assert source.of_processes({11}) == {}
    assert source.of_processes(set()) == {}


def test_a_card_that_does_not_tell_is_left_out() -> None:
    assert NvidiaSource(FakeNvml("second")).free() == {"gpu0": 20 * GIB}
    assert NvidiaSource(FakeNvml("processes")).of_processes({10}) == {}
    assert NvidiaSource(FakeNvml("count")).pools() == ()


@pytest.fixture
def fresh() -> Any:
    nvidia._nvml.cache_clear()
    yield
    nvidia._nvml.cache_clear()


def test_without_the_package_there_are_no_cards(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    source = NvidiaSource()
    assert (source.pools(), source.free(), source.of_processes({1})) == ((), {}, {})


def test_without_a_driver_there_are_no_cards(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("init"))
    assert NvidiaSource().pools() == ()


def test_the_package_is_used_where_it_is(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert len(NvidiaSource().pools()) == 2
