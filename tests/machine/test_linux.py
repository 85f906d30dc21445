from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB
from daemon.machine.base import RAM
from daemon.machine.linux import (
    LinuxSource,
    limiting_groups,
    parse_cgroups,
    parse_limit,
    parse_meminfo,
    parse_stat,
)
from tests.machine.samples import MEMINFO

TOTAL, AVAILABLE = 24684096 * 1024, 22393736 * 1024


def test_meminfo() -> None:
    memory = parse_meminfo(MEMINFO)
    assert (memory["MemTotal"], memory["MemAvailable"]) == (TOTAL, AVAILABLE)
    assert memory["HugePages_Total"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max\n", None),
        ("9223372036854771712\n", None),
        ("4294967296\n", 4 * GIB),
        ("0", 0),
        ("", None),
        ("-1", None),
    ],
)
def test_limits(text: str, expected: int | None) -> None:
    assert parse_limit(text) == expected


def test_stat() -> None:
    assert parse_stat("anon 12\ninactive_file 4096\n", "inactive_file") == 4096
    assert parse_stat("anon x\n", "anon") == 0
    assert parse_stat("", "anon") == 0


def test_groups_of_both_versions() -> None:
    assert parse_cgroups("0::/user.slice/a.service\n") == ("/user.slice/a.service", None)
    text = "9:name=systemd:/\n4:cpu,memory:/docker/ab\n0::/\n"
    assert parse_cgroups(text) == ("/", "/docker/ab")
    assert parse_cgroups("rubbish\n") == (None, None)


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    assert all(value >= 0 for value in parse_meminfo(text).values())
    assert parse_stat(text, "anon") >= 0
    assert len(parse_cgroups(text)) == 2


def write(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name.replace("__", ".")).write_text(content)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    write(tmp_path / "proc", meminfo=MEMINFO)
    write(tmp_path / "proc" / "self", cgroup="0::/a/b\n")
    return tmp_path


def source(root: Path) -> LinuxSource:
    return LinuxSource(root / "proc", root / "cgroup")


def test_without_limits_all_that_is_available(machine: Path) -> None:
    (pool,) = source(machine).pools()
    assert (pool.name, pool.total, pool.free, pool.limit) == (RAM, TOTAL, AVAILABLE, None)
    assert source(machine).free() == {RAM: AVAILABLE}


def test_the_tightest_group_above_us_counts(machine: Path) -> None:
    groups = machine / "cgroup"
    write(groups / "a" / "b", memory__max="max\n", memory__current="1", memory__stat="")
    write(
        groups / "a",
        memory__max=str(8 * GIB),
        memory__current=str(3 * GIB),
        memory__stat=f"inactive_file {GIB}\n",
    )
    (pool,) = source(machine).pools()
    assert (pool.limit, pool.free) == (8 * GIB, 6 * GIB)
    assert "control group" in pool.source


def test_a_limit_larger_than_the_machine_is_none(machine: Path) -> None:
    write(machine / "cgroup", memory__max=str(99 * GIB), memory__current="0", memory__stat="")
    (pool,) = source(machine).pools()
    assert (pool.limit, pool.free) == (None, AVAILABLE)


def test_version_1_in_a_container_whose_path_is_the_hosts(machine: Path) -> None:
    write(machine / "proc" / "self", cgroup="4:memory:/docker/of/the/host\n")
    write(
        machine / "cgroup" / "memory",
        memory__limit_in_bytes=str(4 * GIB),
        memory__usage_in_bytes=str(5 * GIB),
        memory__stat="total_inactive_file 0\n",
    )
    (pool,) = source(machine).pools()
    assert (pool.limit, pool.free) == (4 * GIB, 0)


def test_version_1_with_a_tighter_parent(machine: Path) -> None:
    write(machine / "proc" / "self", cgroup="4:cpu,memory:/docker/ab\n0::/docker/ab\n")
    parent = machine / "cgroup" / "memory" / "docker"
    for folder, limit in ((parent / "ab", 9223372036854771712), (parent, 6 * GIB)):
        write(
            folder,
            memory__limit_in_bytes=str(limit),
            memory__usage_in_bytes=str(2 * GIB),
            memory__stat=f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        )
    (pool,) = source(machine).pools()
    assert (pool.limit, pool.free) == (6 * GIB, 5 * GIB)


def test_a_group_that_vanishes_says_nothing(machine: Path) -> None:
    write(machine / "cgroup" / "a", memory__max=str(GIB), memory__current="0", memory__stat="")
    watched = source(machine)
    assert watched.free() == {RAM: GIB}
    (machine / "cgroup" / "a" / "memory.max").unlink()
    assert watched.free() == {RAM: AVAILABLE}


def test_paths_do_not_lead_out_of_the_groups(tmp_path: Path) -> None:
    write(tmp_path / "outside", memory__max="1")
    assert limiting_groups("0::/../outside\n", tmp_path / "cgroup") == ()


def test_without_a_kernel_to_ask_there_is_no_pool(tmp_path: Path) -> None:
    assert source(tmp_path).pools() == ()
    assert source(tmp_path).free() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_this_machine_answers_quickly() -> None:
    watched = LinuxSource()
    (pool,) = watched.pools()
    assert 0 < pool.free <= pool.total
    took = []
    for _ in range(20):
        began = time.thread_time()  # ours alone: others may keep the cores busy
        watched.free()
        took.append(time.thread_time() - began)
    assert min(took) < 0.001
