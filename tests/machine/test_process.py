from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB, MIB
from daemon.machine import process
from daemon.machine.base import Shared
from daemon.machine.process import (
    descendants,
    footprint,
    footprints,
    linux_footprint,
    listens,
    mac_footprint,
    parse_rollup,
    parse_status,
    parse_unix,
)
from daemon.ports import Target
from tests.machine.samples import ROLLUP, STATUS

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_status_and_rollup() -> None:
    assert parse_status(STATUS) == 1077248 * 1024
    assert parse_rollup(ROLLUP) == 539648 * 1024
    assert parse_status("Name:\tx\nState:\tZ (zombie)\n") is None
    assert parse_rollup("") is None


@given(st.text())
def test_any_text_is_a_number_or_nothing(text: str) -> None:
    assert (parse_status(text) or 0) >= 0
    assert (parse_rollup(text) or 0) >= 0


def proc(folder: Path, status: str, rollup: str | None = None) -> Path:
    (folder / "status").write_text(status)
    if rollup is not None:
        (folder / "smaps_rollup").write_text(rollup)
    return folder


def test_shared_pages_count_in_parts(tmp_path: Path) -> None:
    assert linux_footprint(proc(tmp_path, STATUS, ROLLUP)) == 539648 * 1024


def test_without_a_rollup_the_resident_size_must_do(tmp_path: Path) -> None:
    assert linux_footprint(proc(tmp_path, STATUS)) == 1077248 * 1024
    assert linux_footprint(proc(tmp_path, STATUS, "")) == 1077248 * 1024


def test_the_page_tables_of_large_processes_are_not_walked(tmp_path: Path) -> None:
    large = f"VmRSS:\t{20 * GIB // 1024} kB\n"
    assert linux_footprint(proc(tmp_path, large, ROLLUP)) == 20 * GIB


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    assert linux_footprint(tmp_path / "gone") is None
    assert linux_footprint(proc(tmp_path, "State:\tZ (zombie)\n")) is None


TREE = """
import subprocess, sys
held = bytearray(int(sys.argv[1]))
for at in range(0, len(held), 4096):
    held[at] = 1
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[3]], stdin=0)
else:
    child = None
    print("ready", flush=True)
sys.stdin.read()
if child is not None:
    child.wait()
"""


@pytest.fixture
def tree() -> Iterator[int]:
    """A process with one child; together they hold 96 MiB."""
    argv = [sys.executable, "-c", TREE, str(32 * MIB), TREE, str(64 * MIB)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        yield parent.pid
        parent.stdin.close()
        assert parent.wait(20) == 0


def test_a_process_counts_with_its_children(tree: int) -> None:
    children = descendants(tree)
    assert len(children) == 1
    both, small = footprint(tree), footprint(children[0])
    assert both is not None
    assert small is not None
    assert 64 * MIB < small < both
    assert 96 * MIB < both < 192 * MIB
    pools = footprints(tree)
    assert pools is not None
    assert next(iter(pools)) == ("unified" if sys.platform == "darwin" else "ram")


def test_a_process_that_ends_while_it_is_looked_at_has_no_descendants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/proc answers ESRCH then, in place of ENOENT."""

    def gone(path: object, **_: object) -> os.stat_result:
        raise ProcessLookupError(3, "No such process", str(path))

    monkeypatch.setattr(os, "stat", gone)
    assert process._linux_descendants(1) == []


def test_descendants_are_found_without_the_kernels_lists(
    tree: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = descendants(tree)
    monkeypatch.setattr(process, "_linux_descendants", lambda pid: None)
    assert descendants(tree) == expected


def test_nothing_is_known_of_a_pid_that_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait(20)
    assert footprint(child.pid) is None
    assert footprints(child.pid) is None
    assert descendants(child.pid) == []


@linux
def test_what_a_gpu_holds_is_added_by_pool(tree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"gpu0": 3 * GIB, "gpu1": GIB}
    monkeypatch.setattr(process.observe, "shared", lambda: None)
    monkeypatch.setattr(process.observe, "on_cards", lambda pids: held)
    found = footprints(tree)
    assert found is not None
    assert set(found) == {"ram", "gpu0", "gpu1"}
    assert found["gpu0"] == 3 * GIB


@linux
def test_a_shared_gpu_takes_from_the_same_memory(
    tree: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.observe, "shared", lambda: Shared(None, "x"))
    monkeypatch.setattr(process.observe, "on_cards", lambda pids: {"unified": 3 * GIB})
    found = footprints(tree)
    assert found is not None
    assert set(found) == {"unified"}
    assert 3 * GIB < found["unified"] < 4 * GIB


class FakeLibproc:
    """Writes a footprint where the structure of macOS has it."""

    def __init__(self, result: int) -> None:
        self.result = result

    def proc_pid_rusage(self, pid: int, flavor: int, buffer: object) -> int:
        assert flavor == 0
        pointer = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint64))  # type: ignore[arg-type]
        # uuid (2 words), times (2), wake-ups (2), page-ins, wired, resident, footprint
        pointer[9] = 18 * GIB
        return self.result


def test_the_physical_footprint_of_a_mac() -> None:
    assert ctypes.sizeof(process._RusageInfoV0) == 96
    assert mac_footprint(1, FakeLibproc(0)) == 18 * GIB
    assert mac_footprint(1, FakeLibproc(-1)) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="has libproc")
def test_without_libproc_nothing_is_told() -> None:
    assert mac_footprint(os.getpid()) is None


def test_who_listens_on_a_port_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = Target("127.0.0.1", server.getsockname()[1])
        assert listens(os.getpid(), port)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert listens(other.pid, port) is False
            other.communicate()
        with socket.create_connection((port.host, port.port)) as client:
            own = Target("127.0.0.1", client.getsockname()[1])
            assert not listens(os.getpid(), own), "that is no listener"
    assert not listens(os.getpid(), port)


def test_who_listens_on_a_unix_socket_is_known(short_dir: Path) -> None:
    folder = short_dir / "with a space"
    folder.mkdir()
    place = Target("", 0, str(folder / "x.engine.sock"))
    with socket.socket(socket.AF_UNIX) as server:
        assert place.uds is not None
        server.bind(place.uds)
        if sys.platform == "linux":
            assert listens(os.getpid(), place) is False, "bound is not yet listening"
        server.listen()
        assert listens(os.getpid(), place)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert listens(other.pid, place) is False
            other.communicate()
        assert not listens(os.getpid(), Target("", 0, str(folder / "y.engine.sock")))
    assert not listens(os.getpid(), place)


def test_the_kernels_list_of_unix_sockets() -> None:
    text = (
        b"Num       RefCount Protocol Flags    Type St Inode Path\n"
        b"0000000007cdb850: 00000003 00000000 00000000 0001 03  1140\n"
        b"00000000739661a8: 00000002 00000000 00010000 0001 01  5338 /run/a b/m.engine.sock\n"
        b"000000007d9ec84c: 00000003 00000000 00000000 0001 03 5965345 /run/m.engine.sock\n"
        b"0000000000000001: 00000002 00000000 00010000 0001 01 99 @abstract\n"
        b"0000000000000002: 00000002 00000000 00010000 0001 01 100 /run/two\nlines x y\n"
    )
    listeners = {5338: b"/run/a b/m.engine.sock", 99: b"@abstract", 100: b"/run/two"}
    assert parse_unix(text) == listeners
    assert parse_unix(b"") == {}
