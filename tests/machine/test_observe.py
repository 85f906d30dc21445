from __future__ import annotations

import sys

import psutil
import pytest

from daemon.core.units import GIB
from daemon.machine import observe
from daemon.machine.base import PoolFacts


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
    [("darwin", ["MacSource"]), ("linux", ["NvidiaSource", "LinuxSource"])],
)
def test_each_platform_has_its_sources(
    monkeypatch: pytest.MonkeyPatch, platform: str, expected: list[str]
) -> None:
    monkeypatch.setattr(observe.sys, "platform", platform)
    observe.sources.cache_clear()
    try:
        assert [type(source).__name__ for source in observe.sources()] == expected
    finally:
        observe.sources.cache_clear()
