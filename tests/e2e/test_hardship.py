"""Whole daemons in hardship: engines that flood their logs, disks that take nothing, no descriptors
left, many daemons at once."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import MIB, ROOT, House, Watch, process_exists
from tests.e2e.test_worst_days import memory, model, until
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

FLOODING = Path(start.__file__).with_name("flooding.py")
OOM = "kIOGPUCommandBufferCallbackErrorOutOfMemory"
QUICK: dict[str, object] = {
    "stop_grace": 0.5,
    "kill_grace": 0.5,
    "drain_grace": 1.0,
    "adopt_timeout": 2.0,
    "backoff": 0.05,
    "backoff_max": 0.1,
    "disk_retry": 0.1,
}


def engine(name: str, *flags: str, flood: str = "") -> str:
    """The stand-in, with a flood at its side."""
    before = [sys.executable, "-I", "-S", str(FLOODING), flood] if flood else []
    words = [*before, *start.argv("engine"), "--port", "{port}", "-c", "{ctx}", *flags]
    argv = ", ".join(f"'{word}'" for word in words)
    return f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "100 MiB"\n'


def logs(size: str, keep: int) -> str:
    return f'[logs]\nmax_size = "{size}"\nkeep = {keep}\n'


def written(pid: int) -> int:
    """Bytes that the family of this process has written."""
    root, total = psutil.Process(pid), 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # gone since it was listed
            total += process.io_counters().write_chars
    return total


def logged(house: House) -> int:
    """Bytes of the log of ``a``, as many files as it is. One may be renamed meanwhile."""
    size = 0
    for path in (house.folder / "logs/models").glob("a.log*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


# ---------------------------------------------------------------- floods


@pytest.mark.parametrize("kind", ["short", "lines", "endless", "colours"])
def test_a_flooding_engine_disturbs_nobody_and_keeps_its_last_words(
    make_house: MakeHouse, short_dir: Path, kind: str
) -> None:
    """Answers go on, the daemon does not grow, and what the engine died of is told."""
    dying = ("--oom", "--crash-word", "die", "--signal", "ABRT")
    config = memory("1 GiB") + logs("8 MiB", 2) + timing(QUICK) + engine("a", *dying, flood=kind)
    with make_house(config + engine("b") + model("a", ctx=512) + model("b", ctx=512)) as house:
        assert house.process is not None
        watch = Watch(house)
        daemon = psutil.Process(house.process.pid)
        assert house.chat("a").status == 200
        pid = house.backends()["a"]["pid"]
        grown, began, before = daemon.memory_info().rss, time.monotonic(), written(pid)
        while time.monotonic() - began < 2.0:
            assert house.chat("a").status == house.chat("b").status == 200
        rate = (written(pid) - before) / (time.monotonic() - began) / MIB
        grown = daemon.memory_info().rss - grown
        print(f"{kind}: {rate:.0f} MiB/s, the daemon grew by {grown / MIB:.1f} MiB")
        assert grown < 24 * MIB
        told = house.ctl("logs", "a", "-n", "20")
        assert told.returncode == 0
        assert all(len(line.encode()) <= 8192 for line in told.stdout.splitlines())
        assert not any(ord(c) < 32 and c != "\n" for c in told.stdout)
        assert "\x9b" not in told.stdout
        assert "\u202e" not in told.stdout
        assert "canaryCANARY" not in told.stdout
        assert logged(house) <= 3 * 8 * MIB
        house.chat("a", "die")
        facts = watch.wait("exited", "a").data["facts"]
        assert facts["exit_class"] == "out_of_memory"
        assert OOM in facts["detail"]
        assert OOM in house.ctl("why", "a").stdout
        assert not process_exists(pid)
        assert house.chat("b").status == 200


# ---------------------------------------------------------------- a full disk


class Tiny:
    """A house whose folders (``state``, ``logs``, ``run``) lie on a disk of 256 KiB each, seen by
    the daemon and what it starts alone."""

    def __init__(self, house: House, *folders: str, kib: int = 256) -> None:
        self.house = house
        mounts = "".join(
            f"mount -t tmpfs -o size={kib}k,mode=700 none {house.folder / name} && "
            for name in folders
        )
        house.wrapper = ("unshare", "-m", "sh", "-c", f'{mounts}exec "$@"', "sh")

    def inside(self, path: str) -> Path:
        """A path in the daemon's world."""
        assert self.house.process is not None
        folder = self.house.folder / path
        return Path(f"/proc/{self.house.process.pid}/root{folder}")

    def fill(self, folder: str) -> Path:
        """Take all the room that there is."""
        filler = self.inside(folder) / "filler"
        with filler.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(b"z" * size)
                except OSError:
                    continue
        return filler


def may_mount() -> bool:
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return sys.platform == "linux" and subprocess.run(probe, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="only root may mount a small disk")


@needs_mount
def test_a_full_disk_stops_no_answer_and_is_told_once(make_house: MakeHouse) -> None:
    """State and logs: the old files stay, what is new waits, and all goes on when there is room."""
    both = engine("a") + engine("b", flood="short")
    config = memory("1 GiB") + logs("64 KiB", 1) + timing(QUICK) + both
    house = make_house(config + model("a", ctx=512) + model("b", ctx=512))
    disk = Tiny(house, "state", "logs")
    with house:
        watch = Watch(house)
        assert house.chat("a").status == 200
        os.kill(house.backends()["a"]["pid"], signal.SIGSEGV)
        watch.wait("exited", "a")
        assert house.chat("a").status == 200
        incidents = disk.inside("state/incidents.jsonl")
        until(lambda: incidents.exists() and '"ready"' in incidents.read_text())
        fillers = [disk.fill("state"), disk.fill("logs")]
        before = incidents.read_bytes()
        assert house.chat("a").status == house.chat("b").status == 200
        os.kill(house.backends()["a"]["pid"], signal.SIGSEGV)
        watch.wait("exited", "a", count=2)
        assert house.chat("a").status == 200
        # the last page of its own log takes a while to fill
        own = "modelport's own log lacks"
        until(lambda: house.client.post("/reload") and own in str(house.status()["troubles"]), 50.0)
        said = house.ctl("status").stdout
        for words in ("incidents.jsonl cannot be written (No space left on device)",
                      own, "the log of b lacks"):  # fmt: skip
            assert words in said, said
        assert "disk" in house.ctl("doctor").stdout
        assert incidents.read_bytes() == before, "whole as it was"
        for _ in range(20):
            assert house.chat("a").status == 200
        for filler in fillers:
            filler.unlink()
        until(lambda: incidents.read_bytes() != before)
        until(lambda: len(incidents.read_text().splitlines()) >= 3)
        until(lambda: not any("No space" in t for t in house.status()["troubles"] if " b " in t))
        assert any("the log of b lacks" in told for told in house.status()["troubles"])
        assert house.chat("a").status == 200
        log = disk.inside("logs/modelportd.log")
        until(lambda: house.client.post("/reload") and "could not be written" in log.read_text())
        assert house.stderr().count("incidents.jsonl cannot be written") == 1
        assert "Traceback" not in house.stderr()


@needs_mount
def test_a_full_runtime_directory_fails_a_start_but_not_for_good(make_house: MakeHouse) -> None:
    """The key of a backend must lie somewhere: until it can, the start is tried again."""
    config = memory("1 GiB") + timing(QUICK) + engine("a") + engine("b")
    house = make_house(config + model("a", ctx=512) + model("b", ctx=512))
    disk = Tiny(house, "run")
    house.wrapper = (*house.wrapper[:4], "mkdir -p RUN && " + house.wrapper[4], "sh")
    house.wrapper = tuple(w.replace("RUN", str(house.folder / "run")) for w in house.wrapper)
    house.launch()
    until(lambda: disk.inside("run/control.sock").exists())
    os.environ["MODELPORT_CONTROL_SOCKET"] = str(disk.inside("run/control.sock"))
    try:
        assert house.chat("a").status == 200
        filler = disk.fill("run")
        assert house.chat("a").status == 200
        assert house.chat("b").status in (200, 500, 502, 503)
        filler.unlink()
        until(lambda: house.chat("b").status == 200)
        assert house.chat("a").status == 200
        assert "Traceback" not in house.stderr()
    finally:
        del os.environ["MODELPORT_CONTROL_SOCKET"]
        house.stop()


@needs_mount
def test_it_starts_on_disks_that_are_full(make_house: MakeHouse) -> None:
    house = make_house(memory("1 GiB") + timing(QUICK) + engine("a") + model("a", ctx=512))
    disk = Tiny(house, "state", "logs", "cache")
    fill = "; ".join(
        f"cat /dev/zero > {house.folder / name}/filler 2>/dev/null"
        for name in ("state", "logs", "cache")
    )
    house.wrapper = (*house.wrapper[:4], house.wrapper[4].replace("exec", f"{fill}; exec"), "sh")
    with house:
        assert house.chat("a").status == 200
        assert any("daemon.json cannot be written" in told for told in house.status()["troubles"])
        for name in ("state", "logs", "cache"):
            disk.inside(f"{name}/filler").unlink()
        until(disk.inside("state/daemon.json").exists)
        until(lambda: not any("cannot" in told for told in house.status()["troubles"]))
        assert house.chat("a").status == 200
    assert "Traceback" not in house.stderr()


# ---------------------------------------------------------------- descriptors


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_flood_of_connections_with_few_descriptors(
    make_house: MakeHouse, short_dir: Path, loop: str
) -> None:
    """5000 that say nothing, 256 descriptors: no flood in the log, and whoever asks is served."""
    count = 5000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"only {hard} open files are allowed here")
    house = make_house(memory("1 GiB") + timing(QUICK) + engine("a") + model("a", ctx=512))
    house.wrapper = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    if loop == "asyncio":
        (short_dir / "without").mkdir()
        (short_dir / "without" / "uvloop.py").write_text("raise ImportError('not here')\n")
        house.extra = {"PYTHONPATH": f"{short_dir / 'without'}:{ROOT}"}
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    crowd: list[socket.socket] = []
    try:
        with house:
            assert house.process is not None
            lines = len(house.stderr().splitlines())
            for number in range(count):
                one = socket.socket()
                crowd.append(one)
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", house.port))
                if number % 2:
                    with contextlib.suppress(OSError):
                        one.send(b"GET / HT")
            assert house.request("GET", "/health", seconds=60).status == 200
            assert house.chat("a").status == 200, "and a backend can be started"
            assert len(list(Path(f"/proc/{house.process.pid}/fd").iterdir())) < 200
            assert len(house.stderr().splitlines()) - lines < 10
            limits = Path(f"/proc/{house.backends()['a']['pid']}/limits").read_text()
            assert "256" in next(x for x in limits.splitlines() if "open files" in x)
    finally:
        for one in crowd:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---------------------------------------------------------------- many daemons at once


def test_of_many_started_at_once_one_serves(make_house: MakeHouse) -> None:
    """Each of the others names it and ends with 78; a stale name in the lock misleads nobody."""
    first = make_house(memory("1 GiB") + timing(QUICK) + engine("a") + model("a", ctx=512))
    (first.folder / "run" / "lock").write_text("4194999\n")
    others = []
    for _ in range(int(os.environ.get("MODELPORT_DAEMONS", "6"))):
        other = House.__new__(House)
        other.__dict__.update(first.__dict__)
        other.launch()
        assert other.process is not None
        others.append(other.process)
    until(lambda: sum(p.poll() is None for p in others) == 1, 40.0)
    (serving,) = [p for p in others if p.poll() is None]
    first.process = serving
    until(lambda: first.request("GET", "/health").status == 200)
    assert [p.returncode for p in others if p is not serving] == [78] * (len(others) - 1)
    said = (first.folder / "stderr").read_text()
    assert said.count(f"already running here (pid {serving.pid})") == len(others) - 1
    assert "Traceback" not in said
    assert first.chat("a").status == 200
