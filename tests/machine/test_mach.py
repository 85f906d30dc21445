from __future__ import annotations

import ctypes
import sys

import pytest

from daemon.machine import macos
from daemon.machine.mach import VmStatistics64, available, pressure_level
from tests.machine.fakes import FakeSystem


def test_the_structure_is_as_long_as_the_systems() -> None:
    assert ctypes.sizeof(VmStatistics64) == 152


def test_free_pages_have_the_speculative_ones_among_them() -> None:
    system = FakeSystem(free=1000, speculative=200, inactive=500, purgeable=30, wired=9, active=7)
    assert available(system) == 1530 * 16384


@pytest.mark.parametrize(
    "system",
    [FakeSystem(status=5, free=1, wired=1), FakeSystem(), FakeSystem(page=0, wired=1)],
    ids=["refused", "nothing filled in", "no page size"],
)
def test_an_answer_without_sense_is_none(system: FakeSystem) -> None:
    assert available(system) is None


def test_the_systems_verdict() -> None:
    assert pressure_level(FakeSystem(level=4)) == 4
    assert pressure_level(FakeSystem(level=4, status=-1)) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="has Mach")
def test_elsewhere_nothing_is_told() -> None:
    assert available() is None
    assert pressure_level() is None


@pytest.mark.skipif(sys.platform != "darwin", reason="needs a Mac")
def test_a_real_mac_says_the_same_as_its_program() -> None:
    seen = available()
    assert seen is not None
    printed = macos.parse_vm_stat(macos._output("/usr/bin/vm_stat"))
    assert abs(seen - printed) < 2 << 30
    assert pressure_level() in (1, 2, 4)
