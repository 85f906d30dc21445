from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB, MIB
from daemon.machine import pressure
from daemon.machine.base import USER_LIMIT, MachineFacts, PoolFacts
from daemon.machine.budget import Tier, budget
from daemon.machine.pressure import Level, Marks, linux_level, mac_level, marks, parse_psi
from tests.machine.samples import MACHINES, PSI_BUSY, PSI_CALM

TIERS: list[Tier] = ["safe", "balanced", "aggressive"]


def test_marks_of_known_machines() -> None:
    mac = marks(MACHINES["Mac 24 GB"].facts(), "balanced")
    assert mac == {"unified": Marks(768 * MIB, 1536 * MIB)}
    card = marks(MACHINES["RTX 3090, 24 GB"].facts(), "safe")
    assert card["gpu0"] == Marks(512 * MIB, GIB)
    assert set(card) == {"gpu0", "ram"}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", MACHINES)
def test_a_full_budget_alone_is_no_pressure(name: str, tier: Tier) -> None:
    """Nobody else on the machine takes more than a little."""
    facts = MACHINES[name].facts()
    amounts = budget(None, tier, facts)
    for pool, found in marks(facts, tier).items():
        known = facts.pool(pool)
        assert known is not None
        assert known.total - amounts[pool] >= found.high > found.low > 0


def test_who_sets_limits_himself_is_disturbed_last() -> None:
    pool = PoolFacts("unified", 24 * GIB, 9 * GIB, 22 * GIB, USER_LIMIT)
    raised = MachineFacts((pool,), 24 * GIB, "darwin")
    assert marks(raised, "safe") == marks(raised, "aggressive")
    mac = MACHINES["Mac 64 GB"].facts()
    assert marks(mac, "safe", by_hand={"unified"}) == marks(mac, "aggressive")


sizes = st.integers(0, 1 << 42)


@given(st.sampled_from(["unified", "ram", "gpu0"]), sizes, sizes, st.none() | sizes)
def test_marks_are_in_order(name: str, total: int, free: int, limit: int | None) -> None:
    facts = MachineFacts((PoolFacts(name, total, free, limit, "any"),), total, "any")
    safe, balanced, aggressive = (marks(facts, tier)[name] for tier in TIERS)
    assert safe.low >= balanced.low >= aggressive.low >= 0
    assert all(found.high >= found.low for found in (safe, balanced, aggressive))


def test_the_systems_verdict() -> None:
    assert [mac_level(value) for value in (None, 1, 2, 4, 9)] == [
        Level.NORMAL,
        Level.NORMAL,
        Level.WARNING,
        Level.CRITICAL,
        Level.NORMAL,
    ]
    assert parse_psi(PSI_CALM) == {"some": 0.0, "full": 0.0}
    assert linux_level(parse_psi(PSI_CALM)) is Level.NORMAL
    assert linux_level(parse_psi(PSI_BUSY)) is Level.CRITICAL
    assert linux_level({"some": 25.0, "full": 1.0}) is Level.WARNING
    assert linux_level({}) is Level.NORMAL


@given(st.text())
def test_any_text_is_a_verdict(text: str) -> None:
    assert linux_level(parse_psi(text)) in Level


@pytest.mark.parametrize(
    ("platform", "expected"), [("linux", Level.CRITICAL), ("darwin", Level.WARNING)]
)
def test_each_platform_has_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, expected: Level
) -> None:
    (tmp_path / "memory").write_text(PSI_BUSY)
    monkeypatch.setattr(pressure.sys, "platform", platform)
    monkeypatch.setattr(pressure.mach, "pressure_level", lambda: 2)
    assert pressure.level(tmp_path / "memory") is expected
    monkeypatch.setattr(pressure.mach, "pressure_level", lambda: None)
    assert pressure.level(tmp_path / "none") is Level.NORMAL
