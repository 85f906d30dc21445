"""The daemon's command: options, exit codes, and one message where something is wrong."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control_api.version import version
from daemon.config.paths import Paths
from daemon.config.settings import Settings
from tests.e2e.house import ROOT, House
from tests.ports import free_port

pytestmark = pytest.mark.processes

main = importlib.import_module("daemon.__main__")


def run(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "daemon", *options],
        cwd=ROOT,
        env=env or dict(os.environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def house(short_dir: Path) -> Iterator[House]:
    house = House(short_dir, "")
    yield house
    house.__exit__()


# ---------------------------------------------------------------- options


def test_help_has_examples_and_version_is_ours() -> None:
    shown = main.parser().format_help()
    assert "modelportd --port 8200" in shown
    assert "--service" in shown
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"modelport {version()}")


@pytest.mark.parametrize("options", [["--port", "many"], ["--nonsense"], ["extra"]])
def test_wrong_usage_is_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(options)
    assert caught.value.code == 2
    assert "usage: modelportd" in capsys.readouterr().err


def test_a_second_one_is_refused_and_names_the_first(house: House) -> None:
    with house:
        assert house.process is not None
        done = run("--port", "1", env=house.environ)
        assert done.returncode == 78
        assert f"already running here (pid {house.process.pid})" in done.stderr


def test_flags_win_over_the_file(house: House) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "daemon", "-v", "--port", str(port), "--host", "127.0.0.1"],
        cwd=ROOT,
        env=house.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        said = ""
        while "models:" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
    assert process.returncode == 0
    assert f"listening on http://127.0.0.1:{port}" in said
    assert said.rstrip().endswith("stopped")


# ---------------------------------------------------------------- what is wrong, in one message


def refused(house: House, *options: str) -> str:
    done = run(*options, env=house.environ)
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_mistakes_in_the_file_are_told_together(house: House) -> None:
    house.write('[memroy]\nx = 1\n[defaults]\nslots = "many"\n')
    said = refused(house)
    assert "memroy" in said
    assert "defaults.slots" in said
    assert not (house.folder / "state" / "daemon.json").exists()


def test_a_named_file_that_is_not_there(house: House) -> None:
    assert "/nowhere/config.toml" in refused(house, "--config", "/nowhere/config.toml")


def test_a_flag_out_of_range(house: House) -> None:
    assert "server.port" in refused(house, "--port", "70000")


def test_a_runtime_directory_that_is_too_deep(house: House) -> None:
    deep = house.folder / ("x" * 100)
    done = run(env={**house.environ, "MODELPORT_RUNTIME_DIR": str(deep)})
    assert done.returncode == 78
    assert "MODELPORT_RUNTIME_DIR" in done.stderr


def test_a_service_says_what_keeps_it_from_starting(
    house: House, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """78: a person has to mend it; 75: tried again, since it may pass."""
    path = str(short_dir / "notify")
    environ = {**house.environ, "NOTIFY_SOCKET": path}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        closing(socket.create_server(("127.0.0.1", 0))) as other,
    ):
        systemd.bind(path)
        systemd.settimeout(5)
        house.write('[defaults]\nslots = "many"\n')
        assert run("--service", env=environ).returncode == 78
        told = systemd.recv(4096).decode("ascii")
        assert told.startswith("STATUS=not started: ")
        assert "defaults.slots" in told
        house.write("")
        port = str(other.getsockname()[1])
        assert run("--service", "--port", port, env=environ).returncode == 75
        assert f"Port {port}" in systemd.recv(4096).decode("ascii")
        assert run("--service", "--host", "0.0.0.0", env=environ).returncode == 78
        assert "there is no key" in systemd.recv(4096).decode("ascii")


def test_a_lock_that_cannot_be_one(house: House) -> None:
    (house.folder / "run" / "lock").mkdir()
    assert str(house.folder / "run" / "lock") in refused(house)


def test_a_lock_that_is_a_link_is_not_followed(house: House) -> None:
    victim = house.folder / "victim"
    victim.write_text("precious")
    (house.folder / "run" / "lock").symlink_to(victim)
    assert "lock" in refused(house)
    assert victim.read_text() == "precious"


def test_a_budget_for_a_memory_that_is_not_here(house: House) -> None:
    house.write('[memory.budget]\ngpu7 = "1 GiB"\n')
    assert "gpu7" in refused(house)


def test_doubts_are_warnings(house: House) -> None:
    """What is allowed but probably not meant is said, and the daemon runs."""
    house.write('[models.a]\nhf = "owner/name"\nctx = 100\n')
    with house:
        assert house.chat("a").status in (400, 404, 503)


# ---------------------------------------------------------------- the parts


def test_the_loop_is_uvloop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(type(asyncio.get_running_loop()).__module__)

    main.run_loop(look())
    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    main.run_loop(look())
    assert seen == ["uvloop", "asyncio.unix_events"]


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((256, 4096), (4096, 4096)),
        ((256, resource.RLIM_INFINITY), (8192, resource.RLIM_INFINITY)),
        ((256, 100_000), (8192, 100_000)),
        ((20_000, 100_000), None),
    ],
)
def test_as_many_descriptors_as_we_may(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], wanted: tuple[int, int] | None
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: given.append(pair))
    main.raise_descriptor_limit()
    assert given == ([wanted] if wanted else [])


def test_a_system_that_gives_no_more_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(which: int, pair: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", no)
    assert main.raise_descriptor_limit() is None


@pytest.mark.parametrize(("mode", "stamped"), [("foreground", True), ("service", False)])
def test_logging_goes_to_the_file_and_to_the_terminal(
    short_dir: Path, mode: str, stamped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal has the time itself."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    paths = Paths.find({"MODELPORT_LOG_DIR": str(short_dir), "HOME": str(short_dir)})
    try:
        main.start_logging(Settings.from_layers({"logs": {"level": "warning"}}), paths, mode)
        logging.getLogger("modelport").warning("a word of warning")
        logging.getLogger("modelport").info("not for anyone")
    finally:
        for handler in [h for h in root.handlers if h not in before]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
    assert "a word of warning" in paths.daemon_log.read_text()
    assert "not for anyone" not in paths.daemon_log.read_text()
    line = capsys.readouterr().err
    assert line.endswith("W a word of warning\n")
    assert line.startswith("W ") is not stamped


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's alone")
def test_large_blocks_are_given_back() -> None:
    """A body of 20 MB grows without a copy and leaves nothing behind, the second time too."""
    script = (
        "import re; from daemon.__main__ import one_heap\n"
        "one_heap()\n"
        "def now(key):\n"
        "    text = open('/proc/self/status').read()\n"
        "    return int(re.search(key + r':\\s+(\\d+)', text)[1]) >> 10\n"
        "piece, before = b'x' * 262144, now('VmRSS')\n"
        "for _ in range(4):\n"
        "    body = bytearray()\n"
        "    for _ in range(80): body += piece\n"
        "    del body\n"
        "print(now('VmHWM') - before, now('VmRSS') - before)\n"
    )
    words = [sys.executable, "-P", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    peak, left = map(int, done.stdout.split())
    assert peak < 30
    assert left < 5
