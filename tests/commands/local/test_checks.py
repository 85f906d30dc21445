"""The checks of ``ctl doctor``, each with what is right and what is wrong."""

from __future__ import annotations

import dataclasses
import resource
import socket
from pathlib import Path

import pytest

from control_api.client import Client
from control_api.commands.local import checks
from control_api.commands.local.engine import Found
from control_api.version import version
from daemon.backends.learned import Learned
from daemon.config.load import load_text
from daemon.config.paths import Paths
from daemon.engines.install.shelf import Shelf, Use, switch, take_back
from daemon.machine import pressure
from daemon.machine.base import MachineFacts, PoolFacts
from tests.control_api.fake import FakeControl, FakeDaemon
from tests.ports import free_port

GIB = 1 << 30


def test_python() -> None:
    assert checks.check_python().verdict == "ok"
    assert checks.check_python((3, 10, 4)).verdict == "fail"


def test_foreign_distributions() -> None:
    ours = {"daemon": ["modelport"], "ctl": ["modelport"], "other": ["x"]}
    assert list(checks.check_distributions(ours)) == []
    (found,) = checks.check_distributions({**ours, "daemon": ["modelport", "python-daemon"]})
    assert found.verdict == "fail"
    assert "pip uninstall python-daemon" in found.fix


def test_daemon(daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.version = version()
    check, status = checks.check_daemon(Client())
    assert (check.verdict, status is not None) == ("ok", True)
    fake.version = "0.0.1"
    check, _ = checks.check_daemon(Client())
    assert check.verdict == "warn"
    assert "restart" in check.fix


def test_no_daemon(home: Path) -> None:
    check, status = checks.check_daemon(Client())
    assert (check.verdict, status) == ("warn", None)
    assert "ctl serve" in check.fix


def test_port() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        taken = checks.check_port("127.0.0.1", port, None)
        assert taken.verdict == "fail"
        assert f"Port {port}" in taken.text
        ours = checks.check_port("127.0.0.1", port, {"url": f"http://127.0.0.1:{port}"})
        assert ours.verdict == "ok"
    assert checks.check_port("127.0.0.1", port, None).verdict == "ok"
    other = checks.check_port("127.0.0.1", port, {"url": "http://127.0.0.1:1"})
    assert other.verdict == "warn"


def test_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "state"
    assert checks.check_folder("x", folder).verdict == "ok"
    assert checks.check_folder("x", home / "later").text.endswith("will be made")
    for mode, verdict in {0o750: "warn", 0o770: "fail", 0o777: "fail", 0o700: "ok"}.items():
        folder.chmod(mode)
        found = checks.check_folder("x", folder)
        assert found.verdict == verdict
        assert verdict == "ok" or found.fix == f"chmod 700 {folder}"
    (home / "file").touch()
    assert checks.check_folder("x", home / "file").verdict == "fail"
    monkeypatch.setattr(checks, "LOW_DISK", 1 << 62)
    assert checks.check_folder("x", folder).verdict == "warn"
    monkeypatch.setattr(checks, "NO_DISK", 1 << 62)
    assert checks.check_folder("x", folder).verdict == "fail"
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert "belongs to user" in checks.check_folder("x", folder).text


def test_a_socket_path_that_is_too_long(home: Path) -> None:
    paths = Paths.find({"MODELPORT_RUNTIME_DIR": "/tmp/" + "x" * 100})
    found = next(iter(checks.check_folders(paths)))
    assert (found.name, found.verdict) == ("sockets", "fail")


def test_engines() -> None:
    good = Found("llama-server", ("/bin/llama",), "8123", ("cuda",))
    gone = Found("vllm", missing="vllm: not there.", hint="Install it.")
    assert [c.verdict for c in checks.check_engines([good, gone], {})] == ["ok"]
    found = list(checks.check_engines([good, gone], {"vllm": "big"}))
    assert [c.verdict for c in found] == ["ok", "fail"]
    assert found[1].text == "vllm: not there. Model big needs it."
    slow = dataclasses.replace(good, warning="It cannot use the GPU.")
    assert [c.verdict for c in checks.check_engines([slow], {})] == ["warn"]
    assert [c.verdict for c in checks.check_engines([gone], {})] == ["fail"]


def test_an_engine_that_was_taken_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert list(checks.check_given_up(shelf)) == []
    shelf.change("vllm", lambda _: Use("2", ("1",), 5))
    shelf.change("vllm", lambda use: take_back(use, "qwen", "it broke", 1.0))
    (check,) = checks.check_given_up(shelf)
    assert check.verdict == "warn"
    assert "vllm 2 was taken back: qwen did not load with it (it broke); 1 is used" in check.text
    assert "ctl why qwen" in check.fix
    assert check.fix.endswith("ctl engine update vllm")
    shelf.change("vllm", lambda use: switch(use, "3", 8))
    assert list(checks.check_given_up(shelf)) == [], "another one is used since"


def test_budget() -> None:
    facts = MachineFacts((PoolFacts("gpu0", 24 * GIB, 20 * GIB, None, "nvml"),), 64 * GIB, "linux")
    for text, verdict in {
        "": "ok",
        '[memory]\nbudget = "18GiB"': "ok",
        '[memory]\nbudget = "75%"': "ok",
        '[memory]\nbudget = { gpu0 = "10GiB" }': "ok",
        '[memory]\nbudget = { gpu1 = "10GiB" }': "fail",
        '[memory]\nbudget = "99GiB"': "fail",
    }.items():
        settings = load_text(text, name="config.toml").settings
        found = list(checks.check_budget(settings, facts))
        assert [check.verdict for check in found] == [verdict], text
    full = MachineFacts((PoolFacts("gpu0", 24 * GIB, 0, None, "nvml"),), 64 * GIB, "linux")
    settings = load_text("", name="config.toml").settings
    assert [check.verdict for check in checks.check_budget(settings, full)] == ["fail"]


def test_descriptors() -> None:
    assert checks.check_descriptors((256, 10_240)).verdict == "ok"
    assert checks.check_descriptors((256, resource.RLIM_INFINITY)).verdict == "ok"
    assert checks.check_descriptors((256, 1024)).verdict == "warn"


@pytest.mark.parametrize(("level", "verdict"), [(0, "ok"), (1, "warn"), (2, "fail")])
def test_pressure(level: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "level", lambda: pressure.Level(level))
    assert checks.check_pressure().verdict == verdict


def test_estimates_that_were_far_off(tmp_path: Path) -> None:
    assert list(checks.check_learned(tmp_path)) == []
    learned = Learned(tmp_path / "learned.json")
    learned.record("k1", "good", "context 1", {"ram": 10 * GIB}, {"ram": 10 * GIB}, told=True)
    learned.record("k2", "bad", "context 2", {"ram": 10 * GIB}, {"ram": 14 * GIB}, told=True)
    (found,) = checks.check_learned(tmp_path)
    assert found.verdict == "warn"
    assert found.text.startswith("bad (context 2) was estimated at 10.0 GiB and took 14.0 GiB")
