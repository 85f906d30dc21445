from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB, KIB, MIB
from daemon.machine.amd import AmdSource, Client, is_integrated, parse_fdinfo
from daemon.machine.base import Shared
from tests.machine.fakes import INTEGRATED, STRIX_HALO, FakeAmd
from tests.machine.samples import FDINFO_NEW, FDINFO_OLD, FDINFO_OTHER

NAVI = "0000:03:00.0"


@pytest.fixture
def amd(tmp_path: Path) -> FakeAmd:
    return FakeAmd(tmp_path)


def source(amd: FakeAmd, first: int = 0) -> AmdSource:
    return AmdSource(first, **amd.folders)


def test_fdinfo_of_old_and_new_kernels() -> None:
    assert parse_fdinfo(FDINFO_OLD) == Client("amdgpu", NAVI, "42", 16777216 * KIB, 262144 * KIB)
    assert parse_fdinfo(FDINFO_NEW) == Client("amdgpu", NAVI, "7", 20480 * MIB, 0)
    assert parse_fdinfo(FDINFO_OTHER) is None
    odd = parse_fdinfo("drm-driver:\tamdgpu\ndrm-memory-vram:\t12 parsecs\n")
    assert odd == Client("amdgpu", "", "", 0, 0)


@given(st.text(), st.binary(max_size=8))
def test_any_text_is_parsed(text: str, metrics: bytes) -> None:
    client = parse_fdinfo(text)
    assert client is None or client.vram >= 0
    assert is_integrated(metrics, 0) in (True, False)


def test_cards_are_pools_in_the_order_of_the_bus(amd: FakeAmd) -> None:
    amd.card(0, "0000:0a:00.0", vram=24 * GIB, used=GIB)
    amd.card(1, NAVI, vram=16 * GIB, used=2 * GIB)
    amd.card(2, "0000:01:00.0", vram=8 * GIB, vendor="0x8086")
    first, second = source(amd, 1).pools()
    assert (first.name, first.total, first.free, first.limit) == ("gpu1", 16 * GIB, 14 * GIB, None)
    assert (second.name, second.free, second.device) == ("gpu2", 23 * GIB, "0000:0a:00.0")
    assert source(amd).free() == {"gpu0": 14 * GIB, "gpu1": 23 * GIB}
    assert source(amd).shared() is None


def test_without_the_driver_there_are_no_cards(tmp_path: Path) -> None:
    nothing = source(FakeAmd(tmp_path / "none"))
    assert (nothing.pools(), nothing.free(), nothing.shared()) == ((), {}, None)
    assert nothing.of_processes({1}) == {}


def test_a_file_that_cannot_be_read_is_a_full_card_at_worst(amd: FakeAmd) -> None:
    amd.card(0, NAVI, vram=16 * GIB, used=99 * GIB)
    assert source(amd).free() == {"gpu0": 0}


def test_a_processors_gpu_beside_a_card_is_left_out(amd: FakeAmd) -> None:
    amd.card(0, NAVI, vram=24 * GIB)
    amd.card(1, "0000:0d:00.0", vram=512 * MIB, gtt=46 * GIB, metrics=INTEGRATED)
    assert list(source(amd).free()) == ["gpu0"]
    assert source(amd).shared() is None


def test_strix_halo_that_works_in_main_memory(amd: FakeAmd) -> None:
    """128 GB, 4 GiB carved out, ``ttm.pages_limit=25165824``: a public report's numbers."""
    amd.card(1, "0000:c3:00.0", vram=4 << 30, gtt=103079215104, metrics=STRIX_HALO, gpu_id=5510)
    found = source(amd)
    assert found.pools() == ()
    assert found.shared() == Shared(96 * GIB, "amdgpu, shared memory", "0000:c3:00.0")
    client = FDINFO_OLD.replace(NAVI, "0000:c3:00.0")
    amd.opens(9, ("/dev/dri/renderD129", client))
    assert found.of_processes({9}) == {"unified": (16777216 + 262144) * KIB}


def test_strix_halo_with_most_memory_carved_out_is_a_card(amd: FakeAmd) -> None:
    amd.card(0, "0000:c3:00.0", vram=96 * GIB, gtt=15 * GIB, metrics=STRIX_HALO)
    (pool,) = source(amd).pools()
    assert (pool.name, pool.total) == ("gpu0", 96 * GIB)
    assert source(amd).shared() is None


def test_a_small_processors_gpu_changes_nothing(amd: FakeAmd) -> None:
    amd.card(0, "0000:0d:00.0", vram=2 * GIB, gtt=15 * GIB, metrics=b"")
    assert (source(amd).pools(), source(amd).shared()) == ((), None)
    assert not is_integrated(b"", 8 * GIB)


def test_what_processes_hold_each_client_once(amd: FakeAmd) -> None:
    amd.card(0, NAVI, vram=24 * GIB)
    amd.card(1, "0000:0a:00.0", vram=24 * GIB)
    other = FDINFO_NEW.replace(NAVI, "0000:0a:00.0")
    amd.opens(
        9,
        ("/dev/dri/renderD128", FDINFO_OLD),
        ("/dev/dri/renderD128", FDINFO_OLD),  # the same client through a second file
        ("/dev/dri/renderD129", other),
        ("/dev/null", FDINFO_NEW),
        ("socket:[77]", FDINFO_OTHER),
    )
    amd.opens(10, ("/dev/dri/renderD128", FDINFO_NEW))
    found = source(amd)
    assert found.of_processes({9}) == {"gpu0": 16 * GIB, "gpu1": 20 * GIB}
    assert found.of_processes({9, 10, 11}) == {"gpu0": 36 * GIB, "gpu1": 20 * GIB}
    assert found.of_processes({11}) == {}


def test_the_compute_drivers_book_counts_where_it_is_larger(amd: FakeAmd) -> None:
    amd.card(0, "0001:03:11.2", vram=24 * GIB, gpu_id=4712)
    amd.computes(8, 4712, GIB)
    assert source(amd).of_processes({8}) == {"gpu0": GIB}
    amd.card(1, NAVI, vram=24 * GIB, gpu_id=4711)
    amd.computes(9, 4711, 18 * GIB)
    amd.computes(10, 4711, GIB)
    amd.opens(10, ("/dev/dri/renderD128", FDINFO_OLD))
    assert source(amd).of_processes({9}) == {"gpu0": 18 * GIB}
    assert source(amd).of_processes({10}) == {"gpu0": 16 * GIB}
    assert source(amd).of_processes({9, 10}) == {"gpu0": 34 * GIB}
