from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import Code, ProblemError
from daemon.core.units import GIB, MIB
from daemon.machine.base import (
    GUESSED_LIMIT,
    METAL_LIMIT,
    USER_LIMIT,
    MachineFacts,
    PoolFacts,
)
from daemon.machine.budget import Tier, budget, main_pools, startable


def mac(size: int, limit: float, source: str = METAL_LIMIT) -> MachineFacts:
    pool = PoolFacts("unified", size * GIB, 2 * GIB, int(limit * GIB), source)
    return MachineFacts((pool,), size * GIB, "darwin")


def linux(free: int = 20, *cards: int, limit: int | None = None) -> MachineFacts:
    ram = PoolFacts("ram", 32 * GIB, free * GIB, limit and limit * GIB, "MemAvailable")
    gpus = [PoolFacts(f"gpu{i}", 24 * GIB, c * GIB, None, "NVML") for i, c in enumerate(cards)]
    return MachineFacts((*gpus, ram), 32 * GIB, "linux")


@pytest.mark.parametrize(
    ("facts", "tier", "expected"),
    [
        # Metal's share decides where it is under RAM less the reserve
        (mac(24, 16), "balanced", 16),
        (mac(24, 16), "safe", 16),
        (mac(64, 48), "balanced", 48),
        (mac(16, 10.7), "balanced", int(10.7 * GIB) / GIB),
        # else the reserve: 3 GiB, or an eighth
        (mac(16, 15), "balanced", 13),
        (mac(16, 15), "safe", 10),
        (mac(16, 15), "aggressive", 14.5),
        (mac(128, 120), "balanced", 112),
        (mac(128, 120), "safe", 96),
        (mac(24, 16, GUESSED_LIMIT), "balanced", 16),
        # who raised the limit has decided about the reserve
        (mac(24, 22, USER_LIMIT), "safe", 22),
        (mac(4, 3), "safe", 0),
    ],
)
def test_unified_memory(facts: MachineFacts, tier: Tier, expected: float) -> None:
    assert budget(None, tier, facts) == {"unified": expected * GIB}


@pytest.mark.parametrize(
    ("tier", "share"), [("safe", 0.8), ("balanced", 0.9), ("aggressive", 0.95)]
)
def test_ordinary_memory(tier: Tier, share: float) -> None:
    assert budget(None, tier, linux(20))["ram"] == pytest.approx(20 * GIB * share, abs=1)
    assert budget(None, tier, linux(20, limit=8))["ram"] == pytest.approx(8 * GIB * share, abs=1)


def test_what_we_hold_already_counts_as_free() -> None:
    found = budget(None, "balanced", linux(10, 4), own={"ram": 10 * GIB, "gpu0": 19 * GIB})
    assert found["ram"] == pytest.approx(18 * GIB, abs=1)
    assert found["gpu0"] == 23 * GIB - 512 * MIB


def test_cards_keep_a_reserve_or_what_others_hold() -> None:
    assert budget(None, "balanced", linux(20, 24, 10)) == {
        "gpu0": 23 * GIB,
        "gpu1": 10 * GIB - 512 * MIB,
        "ram": pytest.approx(18 * GIB, abs=1),
    }
    assert budget(None, "aggressive", linux(20, 24))["gpu0"] == 24 * GIB - 512 * MIB
    assert budget(None, "safe", linux(20, 24))["gpu0"] == 22 * GIB


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("18GiB", 18 * GIB),
        ("18GB", 18 * 10**9),
        ("75%", 18 * GIB),
        (" 12.5 %", 3 * GIB),
        ("100%", 24 * GIB),
    ],
)
def test_a_setting_is_taken_as_it_is(setting: str, expected: int) -> None:
    assert budget(setting, "safe", mac(24, 16)) == {"unified": expected}


def test_a_setting_is_for_the_pools_that_models_go_to() -> None:
    found = budget("20GiB", "balanced", linux(20, 24))
    assert found["gpu0"] == 20 * GIB
    assert found["ram"] == pytest.approx(18 * GIB, abs=1)
    assert budget("50%", "balanced", linux(20, 24, 24))["gpu1"] == 12 * GIB
    assert budget("20GiB", "balanced", linux(10))["ram"] == 20 * GIB
    assert [pool.name for pool in main_pools(linux(20, 24))] == ["gpu0"]
    assert [pool.name for pool in main_pools(linux(20))] == ["ram"]


def test_a_table_leaves_the_rest_to_the_machine() -> None:
    found = budget({"gpu1": "0", "ram": "4GiB"}, "balanced", linux(20, 24, 24))
    assert found == {"gpu0": 23 * GIB, "gpu1": 0, "ram": 4 * GIB}
    assert budget({}, "balanced", mac(24, 16)) == {"unified": 16 * GIB}


@pytest.mark.parametrize(
    ("setting", "facts", "found"),
    [
        ("lots", mac(24, 16), r"memory\.budget: 'lots' is not an amount.*18GiB.*75%"),
        ("25GiB", mac(24, 16), r"'25GiB' is more than unified has \(24\.0 GiB\)"),
        ("120%", mac(24, 16), "more than unified has"),
        ("0", mac(24, 16), "leaves nothing"),
        ("0%", mac(24, 16), "leaves nothing"),
        ("20GiB", linux(20, 24, 24), "does not say which of gpu0, gpu1.*table"),
        (
            {"gpu7": "1GiB"},
            linux(20, 24),
            r"budget\.gpu7: there is no such pool.*gpu0, ram",
        ),
        ({"gpu0": "x"}, linux(20, 24), r"memory\.budget\.gpu0: 'x' is not"),
        ("1GiB", MachineFacts((), 0, "plan9"), "does not tell how much memory"),
        ({"ram": "1GiB"}, MachineFacts((), 0, "plan9"), "has none"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(
    setting: Any, facts: MachineFacts, found: str
) -> None:
    with pytest.raises(ProblemError, match=found) as caught:
        budget(setting, "balanced", facts)
    assert caught.value.problem.code is Code.CONFIG_INVALID


def test_a_start_takes_what_others_have_left() -> None:
    budgets = {"unified": 16 * GIB}
    assert startable(budgets, {}, {"unified": 20 * GIB}) == {"unified": 16 * GIB}
    assert startable(budgets, {}, {"unified": 9 * GIB}) == {"unified": 9 * GIB}
    # What ours hold already is ours to give.
    assert startable(budgets, {"unified": 5 * GIB}, {"unified": 9 * GIB}) == {"unified": 14 * GIB}
    both = startable({"gpu0": 23 * GIB, "ram": GIB}, {"gpu0": GIB}, {"gpu0": 2 * GIB})
    assert both == {"gpu0": 3 * GIB, "ram": GIB}
    assert startable({}, {}, {"ram": GIB}) == {}


sizes = st.integers(0, 1 << 42)


@given(
    st.sampled_from(["unified", "ram", "gpu0"]),
    sizes,
    sizes,
    st.none() | sizes,
    st.sampled_from([USER_LIMIT, METAL_LIMIT, "NVML"]),
    sizes,
)
def test_budgets_stay_within_the_pool_and_the_tiers_in_order(
    name: str, total: int, free: int, limit: int | None, source: str, own: int
) -> None:
    facts = MachineFacts((PoolFacts(name, total, free, limit, source),), total, "any")

    def of(tier: Tier) -> int:
        found: Mapping[str, int] = budget(None, tier, facts, own={name: own})
        return found[name]

    ceiling = total if limit is None else min(limit, total)
    assert 0 <= of("safe") <= of("balanced") <= of("aggressive") <= ceiling
