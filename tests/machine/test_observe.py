from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil
import pytest

from daemon.core.units import GIB
from daemon.machine import observe
from daemon.machine.amd import AmdSource
from daemon.machine.base import PoolFacts, Shared, unify
from daemon.machine.nvidia import NvidiaSource
from tests.machine.fakes import FakeAmd, FakeCard, FakeNvml


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing is remembered of the machine before or after."""
    caches = (observe.cards, observe.sources, observe.shared)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_this_machine() -> None:
    facts = observe.facts()
    assert facts.ram_total == psutil.virtual_memory().total
    assert facts.platform == sys.platform
    main = facts.pool("unified" if sys.platform == "darwin" else "ram")
    assert main is not None
    assert 0 < main.free <= main.total
    assert facts.pool("gpu99") is None
    assert observe.free().keys() == {pool.name for pool in facts.pools}


class Fixed:
    def __init__(self, name: str) -> None:
        self.name = name

    def pools(self) -> tuple[PoolFacts, ...]:
        return (PoolFacts(self.name, GIB, GIB // 2, None, "test"),)

    def free(self) -> dict[str, int]:
        return {self.name: GIB // 2}


def test_sources_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "sources", lambda: (Fixed("gpu0"), Fixed("ram")))
    assert [pool.name for pool in observe.facts().pools] == ["gpu0", "ram"]
    assert observe.free() == {"gpu0": GIB // 2, "ram": GIB // 2}


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("darwin", ["MacSource"]), ("linux", ["NvidiaSource", "AmdSource", "LinuxSource"])],
)
def test_each_platform_has_its_sources(
    monkeypatch: pytest.MonkeyPatch, platform: str, expected: list[str]
) -> None:
    monkeypatch.setattr(observe.sys, "platform", platform)
    assert [type(source).__name__ for source in observe.sources()] == expected


def test_amd_cards_are_numbered_on_beside_nvidias(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    amd = FakeAmd(tmp_path)
    amd.card(0, "0000:03:00.0", vram=16 * GIB)
    nvml = FakeNvml(FakeCard((24 * GIB, 20 * GIB)), FakeCard((8 * GIB, GIB)))
    monkeypatch.setattr(observe.sys, "platform", "linux")
    monkeypatch.setattr(observe, "NvidiaSource", lambda: NvidiaSource(nvml))
    monkeypatch.setattr(observe, "AmdSource", lambda first: AmdSource(first, **amd.folders))
    assert [pool.name for pool in observe.facts().pools][:3] == ["gpu0", "gpu1", "gpu2"]
    assert observe.free()["gpu2"] == 16 * GIB
    assert observe.shared() is None


class FixedCards(Fixed):
    """Cards, or a GPU that works in main memory."""

    def __init__(self, shared: Shared | None, held: dict[str, int]) -> None:
        super().__init__("gpu0")
        self._shared, self._held = shared, held

    def pools(self) -> tuple[PoolFacts, ...]:
        return () if self._shared else super().pools()

    def free(self) -> dict[str, int]:
        return {} if self._shared else super().free()

    def shared(self) -> Shared | None:
        return self._shared

    def of_processes(self, pids: Collection[int]) -> dict[str, int]:
        return self._held if 7 in pids else {}


def test_a_gpu_that_shares_main_memory_makes_it_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(3 * GIB // 4, "amdgpu, shared memory", "0000:c3:00.0")
    cards = FixedCards(shared, {"unified": 5})
    monkeypatch.setattr(observe, "cards", lambda: (cards,))
    monkeypatch.setattr(observe, "sources", lambda: (cards, Fixed("ram")))
    (pool,) = observe.facts().pools
    assert (pool.name, pool.total, pool.limit) == ("unified", GIB, 3 * GIB // 4)
    assert (pool.source, pool.device) == ("test; amdgpu, shared memory", "0000:c3:00.0")
    assert observe.free() == {"unified": GIB // 2}
    assert observe.on_cards({7}) == {"unified": 5}
    assert observe.on_cards({8}) == {}


def test_a_card_with_memory_of_its_own_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    small = FixedCards(Shared(None, "amdgpu", ""), {})
    monkeypatch.setattr(observe, "cards", lambda: (FixedCards(None, {}), small))
    assert observe.shared() is None
    pools = (Fixed("gpu0").pools()[0], Fixed("ram").pools()[0])
    assert unify(pools, Shared(None, "amdgpu")) == pools
    assert unify(pools[1:], None) == pools[1:]
    assert unify((), Shared(None, "amdgpu")) == ()


def test_the_tightest_limit_of_shared_memory_counts() -> None:
    ram = PoolFacts("ram", 8 * GIB, 6 * GIB, 4 * GIB, "a group")
    assert unify([ram], Shared(6 * GIB, "x"))[0].limit == 4 * GIB
    assert unify([ram], Shared(None, "x"))[0].limit == 4 * GIB
    free = PoolFacts("ram", 8 * GIB, 6 * GIB, None, "all")
    assert unify([free], Shared(9 * GIB, "x"))[0].limit is None
