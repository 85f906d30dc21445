from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from daemon.core.units import GIB, MIB
from daemon.machine import nvidia
from daemon.machine.base import Shared
from daemon.machine.nvidia import NvidiaSource
from tests.machine.fakes import NOT_SUPPORTED, UNKNOWN, FakeCard, FakeNvml


def two_cards(*broken: str) -> FakeNvml:
    held = {10: GIB, 11: None, 12: 5 * GIB}
    first = FakeCard((24 * GIB, 20 * GIB), "GPU-a", computing=held)
    second = FakeCard((24 * GIB, 19 * GIB), b"GPU-b", computing={10: 2 * GIB})
    return FakeNvml(first, second, broken=broken)


def test_cards_are_pools() -> None:
    first, second = NvidiaSource(two_cards()).pools()
    assert (first.name, first.total, first.free, first.limit) == ("gpu0", 24 * GIB, 20 * GIB, None)
    assert (second.name, second.free) == ("gpu1", 19 * GIB)
    assert (first.device, second.device) == ("GPU-a", "GPU-b")
    assert NvidiaSource(two_cards()).free() == {"gpu0": 20 * GIB, "gpu1": 19 * GIB}
    assert NvidiaSource(two_cards("uuid")).pools()[0].device == ""
    assert NvidiaSource(two_cards()).shared() is None


def test_what_processes_hold() -> None:
    source = NvidiaSource(two_cards())
    assert source.of_processes({10, 11}) == {"gpu0": GIB, "gpu1": 2 * GIB}
    assert source.of_processes({11}) == {}
    assert source.of_processes(set()) == {}


def test_a_process_that_computes_and_draws_counts_once() -> None:
    card = FakeCard((GIB, GIB), computing={7: 300 * MIB, 8: None}, drawing={7: 300 * MIB, 9: MIB})
    source = NvidiaSource(FakeNvml(card))
    assert source.of_processes({7, 8}) == {"gpu0": 300 * MIB}
    assert source.of_processes({7, 9}) == {"gpu0": 301 * MIB}
    assert NvidiaSource(FakeNvml(card, broken=["computing"])).of_processes({9}) == {"gpu0": MIB}


def test_a_card_that_does_not_tell_is_left_out_and_the_others_keep_their_names() -> None:
    fine = FakeCard((24 * GIB, 19 * GIB))
    source = NvidiaSource(FakeNvml(FakeCard(UNKNOWN), fine))
    assert source.free() == {"gpu1": 19 * GIB}
    assert source.shared() is None
    assert NvidiaSource(two_cards("computing", "drawing")).of_processes({10}) == {}


def test_a_driver_that_does_not_answer_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    source = NvidiaSource(two_cards("count"))
    with caplog.at_level(logging.WARNING):
        assert source.pools() == ()
        assert source.free() == {}
    assert len(caplog.records) == 1


def test_instances_of_a_card_are_pools() -> None:
    parts = [
        FakeCard((20 * GIB, 19 * GIB), "MIG-1", computing={5: GIB}),
        None,
        FakeCard((10 * GIB, 9 * GIB), "MIG-2"),
    ]
    cut = FakeCard((80 * GIB, 78 * GIB), "GPU-a", instances=parts)
    plain = FakeCard((24 * GIB, 20 * GIB), "GPU-b", instances=None)
    source = NvidiaSource(FakeNvml(cut, plain))
    assert [(p.name, p.total // GIB, p.device) for p in source.pools()] == [
        ("gpu0", 20, "MIG-1"),
        ("gpu1", 10, "MIG-2"),
        ("gpu2", 24, "GPU-b"),
    ]
    assert source.of_processes({5}) == {"gpu0": GIB}
    empty = FakeCard((80 * GIB, 78 * GIB), instances=[None, None])
    assert NvidiaSource(FakeNvml(empty)).pools() == ()


@pytest.mark.parametrize("memory", [NOT_SUPPORTED, (0, 0)], ids=["GB10", "Jetson"])
def test_a_board_with_one_memory_has_no_card(memory: Any) -> None:
    board = FakeCard(memory, "GPU-gb10", computing={10: 7 * GIB})
    source = NvidiaSource(FakeNvml(board))
    assert (source.pools(), source.free()) == ((), {})
    assert source.shared() == Shared(None, "NVIDIA, shared memory", "GPU-gb10")
    assert source.of_processes({10}) == {"unified": 7 * GIB}
    beside = NvidiaSource(FakeNvml(board, FakeCard((24 * GIB, 20 * GIB))))
    assert beside.shared() is None


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(nvidia, "_DRIVER", None)  # a library that is there: this very program
    nvidia._nvml.cache_clear()
    yield
    nvidia._nvml.cache_clear()


def test_without_the_package_there_are_no_cards(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    source = NvidiaSource()
    assert (source.pools(), source.free(), source.of_processes({1})) == ((), {}, {})
    assert source.shared() is None


def test_without_a_driver_there_are_no_cards(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_cards("init"))
    assert NvidiaSource().pools() == ()


def test_the_package_is_used_where_it_is(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_cards())
    assert len(NvidiaSource().pools()) == 2


def test_without_a_driver_the_package_is_not_even_imported(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_cards())
    monkeypatch.setattr(nvidia, "_DRIVER", "libno-such-driver.so.1")
    assert NvidiaSource().pools() == ()


def test_the_package_has_what_is_asked_of_it() -> None:
    pynvml = pytest.importorskip("pynvml")
    asked = {name for name in dir(FakeNvml) if name.startswith("nvml")}
    assert asked <= set(dir(pynvml))
    assert pynvml.NVMLError(NOT_SUPPORTED).value == pynvml.NVML_ERROR_NOT_SUPPORTED
