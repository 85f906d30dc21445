from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB, MIB
from daemon.machine import macos
from daemon.machine.base import GUESSED_LIMIT, METAL_LIMIT, UNIFIED, USER_LIMIT
from daemon.machine.macos import (
    MacSource,
    fallback_limit,
    parse_sysctl,
    parse_vm_stat,
    unified_pool,
)
from tests.machine.samples import INTEL_VM_STAT, MACS, SYSCTL, WORKING_SETS


@pytest.mark.parametrize("size", MACS)
def test_pages_that_can_be_had(size: int) -> None:
    text, pages = MACS[size]
    assert parse_vm_stat(text) == pages * 16384
    assert parse_vm_stat(text) < size * GIB


def test_other_page_sizes() -> None:
    assert parse_vm_stat(INTEL_VM_STAT) == 303_400 * 4096


@given(st.text())
def test_any_text_is_a_number_of_bytes(text: str) -> None:
    assert parse_vm_stat(text) >= 0
    assert all(value >= 0 for value in parse_sysctl(text).values())


def test_sysctl_lines() -> None:
    assert parse_sysctl(SYSCTL) == {"hw.memsize": 24 * GIB, "iogpu.wired_limit_mb": 0}
    assert parse_sysctl("hw.memsize: 17179869184\n") == {"hw.memsize": 16 * GIB}
    assert parse_sysctl("sysctl: unknown oid 'x'\n") == {}


@pytest.mark.parametrize(("size", "share"), [(16, 2 / 3), (36, 2 / 3), (48, 3 / 4), (128, 3 / 4)])
def test_the_share_where_nobody_says(size: int, share: float) -> None:
    assert fallback_limit(size * GIB) == pytest.approx(size * GIB * share, abs=1)


def test_the_limit_comes_from_the_best_source() -> None:
    total = 24 * GIB
    user = unified_pool(total, 20480, 16 * GIB, 8 * GIB)
    assert (user.limit, user.source, user.free) == (20 * GIB, USER_LIMIT, 8 * GIB)
    metal = unified_pool(total, 0, 16 * GIB, 8 * GIB)
    assert (metal.limit, metal.source) == (16 * GIB, METAL_LIMIT)
    guess = unified_pool(total, 0, None, 8 * GIB)
    assert (guess.limit, guess.source) == (16 * GIB, GUESSED_LIMIT)


def test_absurd_numbers_stay_within_the_machine() -> None:
    pool = unified_pool(16 * GIB, 1 << 40, None, 99 * GIB)
    assert (pool.limit, pool.free) == (16 * GIB, 16 * GIB)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the system's programs print, by their names."""
    answers = {"sysctl": SYSCTL, "vm_stat": MACS[24][0]}

    def output(*argv: str) -> str:
        return answers.get(argv[0].rpartition("/")[2], "")

    monkeypatch.setattr(macos, "_output", output)
    monkeypatch.setattr(macos, "recommended_working_set", lambda: None)
    monkeypatch.setattr(macos.mach, "available", lambda: None)
    return answers


def test_a_mac_has_one_pool(programs: dict[str, str]) -> None:
    (pool,) = MacSource().pools()
    assert (pool.name, pool.total, pool.limit) == (UNIFIED, 24 * GIB, 16 * GIB)
    assert MacSource().free() == {UNIFIED: pool.free}


def test_the_kernel_is_asked_before_a_program_is_run(
    programs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(macos.mach, "available", lambda: 5 * GIB)
    del programs["vm_stat"]
    assert MacSource().free() == {UNIFIED: 5 * GIB}


@pytest.mark.parametrize("size", WORKING_SETS)
def test_the_guess_is_never_more_than_metal_gives(size: int) -> None:
    older, _ = WORKING_SETS[size]
    assert fallback_limit(size * GIB) <= int(older * 10**6) + MIB


def test_programs_that_fail_are_no_pool(programs: dict[str, str]) -> None:
    programs.clear()
    assert MacSource().pools() == ()
    assert MacSource().free() == {}


def test_programs_are_asked_with_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert macos._output(sys.executable, "-c", "print(7)") == "7\n"
    assert macos._output("/no/such/program") == ""
    monkeypatch.setattr(macos, "_SECONDS", 0.05)
    assert macos._output(sys.executable, "-c", "import time; time.sleep(60)") == ""


@pytest.mark.skipif(sys.platform == "darwin", reason="has Metal")
def test_without_metal_there_is_no_answer() -> None:
    macos.recommended_working_set.cache_clear()
    assert macos.recommended_working_set() is None


@pytest.mark.skipif(sys.platform != "darwin", reason="needs a Mac")
def test_a_real_mac_answers() -> None:
    (pool,) = MacSource().pools()
    assert 0 < pool.free <= pool.total
    assert pool.limit is not None
    assert pool.total // 2 < pool.limit <= pool.total
