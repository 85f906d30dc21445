from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB, MIB
from daemon.machine.base import METAL_LIMIT, USER_LIMIT, MachineFacts, PoolFacts
from daemon.machine.budget import budget
from daemon.machine.wired_limit import advice, most_mb
from tests.machine.samples import MACHINES


def mac(size: int, limit: float, source: str = METAL_LIMIT) -> MachineFacts:
    pool = PoolFacts("unified", size * GIB, 9 * GIB, int(limit * GIB), source)
    return MachineFacts((pool,), size * GIB, "darwin")


@pytest.mark.parametrize(("size", "left"), [(16, 3), (24, 3), (64, 4), (128, 8)])
def test_the_system_keeps_some(size: int, left: int) -> None:
    assert most_mb(size * GIB) == (size - left) * 1024
    assert most_mb(GIB) == 0


def test_the_exact_line() -> None:
    found = advice(int(19.3 * GIB), mac(24, 16))
    assert found.command == "sudo sysctl iogpu.wired_limit_mb=19968"
    assert found.megabytes == 19968
    assert "19.5 GiB of 24.0 GiB" in found.reason
    assert "now it may take 16.0 GiB" in found.reason


def test_where_the_reserve_is_in_the_way_and_not_metal() -> None:
    """13 GiB of 16 are the budget, 15 are allowed: a limit of one's own drops the reserve."""
    found = advice(int(12.5 * GIB), mac(16, 12))
    assert found.megabytes == 12800
    assert advice(14 * GIB, mac(16, 15)).megabytes is None


@pytest.mark.parametrize(
    ("facts", "need", "reason"),
    [
        (mac(24, 20, USER_LIMIT), 19 * GIB, r"20\.0 GiB are allowed already"),
        (mac(24, 16), 22 * GIB, r"22\.0 GiB are needed; of the 24\.0 GiB .* 21\.0 GiB at most"),
        (mac(24, 20, USER_LIMIT), 23 * GIB, "at most"),
        (MACHINES["RTX 4090, 24 GB"].facts(), GIB, "Only a Mac"),
        (MACHINES["Strix Halo 128 GB"].facts(), GIB, "Only a Mac"),
        (MachineFacts((), 0, "darwin"), GIB, "Only a Mac"),
    ],
)
def test_no_line_has_a_reason(facts: MachineFacts, need: int, reason: str) -> None:
    found = advice(need, facts)
    assert (found.megabytes, found.command) == (None, "")
    assert re.search(reason, found.reason)


@given(st.integers(0, 1 << 40), st.integers(8, 512), st.floats(0.5, 1))
def test_who_follows_the_advice_has_room(need: int, size: int, share: float) -> None:
    found = advice(need, mac(size, size * share))
    if found.megabytes is None:
        assert found.reason
        return
    assert found.megabytes <= most_mb(size * GIB)
    raised = mac(size, found.megabytes / 1024, USER_LIMIT)
    assert budget(None, "safe", raised)["unified"] >= need
    assert found.megabytes * MIB < size * GIB
