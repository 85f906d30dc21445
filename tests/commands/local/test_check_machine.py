from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from control_api.commands.local import check_machine as checks
from daemon.config.load import load_text
from daemon.machine.base import GUESSED_LIMIT, MachineFacts, PoolFacts

GIB = 1 << 30
NONE = resource.RLIM_INFINITY
DAY = 86_400.0


def verdicts(found: object) -> list[str]:
    return [check.verdict for check in found]  # type: ignore[attr-defined]


def test_limits() -> None:
    free = {"RLIMIT_AS": (NONE, NONE), "RLIMIT_MEMLOCK": (NONE, NONE)}
    assert verdicts(checks.check_limits(free, ["a"])) == ["ok"]
    few = {**free, "RLIMIT_MEMLOCK": (1 << 23, NONE)}
    assert verdicts(checks.check_limits(few)) == ["ok"]
    (found,) = checks.check_limits(few, ["b", "a"])
    assert (found.verdict, "a, b asks for mlock" in found.text) == ("warn", True)
    assert found.fix.startswith("ulimit -l unlimited")
    (found,) = checks.check_limits({"RLIMIT_MEMLOCK": (1 << 23, 1 << 23)}, ["a"])
    assert found.fix.startswith("memlock in limits.conf")
    assert verdicts(checks.check_limits({**free, "RLIMIT_AS": (GIB, NONE)})) == ["warn", "ok"]


def test_limits_are_those_of_the_daemon() -> None:
    mine = checks.limits_of(None)
    assert mine["RLIMIT_NOFILE"] == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert checks.limits_of(os.getpid()) == mine
    assert checks.limits_of(1 << 30) == mine, "no such process"


def test_models_that_lock_memory() -> None:
    text = '[models.a]\npath = "/a.gguf"\nargs = ["--mlock"]\n[models.b]\npath = "/b.gguf"\n'
    assert checks.locking(load_text(text, name="x").settings) == ["a"]


def test_bounds() -> None:
    def pool(limit: int | None, source: str) -> MachineFacts:
        return MachineFacts((PoolFacts("ram", 8 * GIB, GIB, limit, source),), 8 * GIB, "linux")

    assert verdicts(checks.check_bounds(pool(None, "MemAvailable"))) == []
    (found,) = checks.check_bounds(pool(2 * GIB, "the control group's limit"))
    assert "2.0 GiB of 8.0 GiB may be taken (the control group's limit)" in found.text
    assert verdicts(checks.check_bounds(pool(6 * GIB, GUESSED_LIMIT))) == ["warn", "ok"]


def test_clock(tmp_path: Path) -> None:
    now = time.time()
    program, state = tmp_path / "program", tmp_path / "state"
    for path in (program, state):
        path.touch()
    assert verdicts(checks.check_clock([program], [state], now)) == ["ok"]
    (found,) = checks.check_clock([program], [state], now - 10 * DAY)
    assert (found.verdict, "behind this program" in found.text) == ("fail", True)
    os.utime(state, (now + 3 * DAY, now + 3 * DAY))
    assert verdicts(checks.check_clock([program], [state], now)) == ["warn"]
    assert verdicts(checks.check_clock([tmp_path / "none"], [], now)) == ["ok"]
    assert verdicts(checks.check_clock(checks.own_files(), [])) == ["ok"]


@pytest.mark.parametrize(
    ("environ", "verdict"),
    [
        ({}, "ok"),
        ({"HTTPS_PROXY": "http://p:3128"}, "ok"),
        ({"HTTP_PROXY": ""}, "ok"),
        ({"HTTP_PROXY": "http://p:3128"}, "warn"),
        ({"http_proxy": "http://p:3128", "NO_PROXY": "example.com"}, "warn"),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "localhost"}, "warn"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "localhost,127.0.0.1,::1"}, "ok"),
        ({"HTTP_PROXY": "http://p:3128", "no_proxy": "*"}, "ok"),
    ],
)
def test_proxies(environ: dict[str, str], verdict: str) -> None:
    found = checks.check_proxies(environ)
    assert found.verdict == verdict
    assert "p:3128" not in found.text, "it may hold a password"


@pytest.mark.parametrize(
    ("platform", "there", "power", "expected"),
    [
        ("linux", True, "", ["ok"]),
        ("linux", False, "", ["ok"]),
        ("linux", True, "inhibit_sleep = false", []),
        ("linux", True, 'unload_before_sleep = "always"', ["ok"]),
        ("linux", False, 'unload_before_sleep = "always"', ["warn", "ok"]),
        ("darwin", True, 'unload_before_sleep = "always"', ["warn", "ok"]),
        ("sunos5", True, "", ["ok"]),
    ],
)
def test_sleep(
    platform: str, there: bool, power: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.machine import wakeful

    idle, delay = wakeful.idle_lock(platform), wakeful.delay_lock(platform)
    monkeypatch.setattr(wakeful, "idle_lock", lambda: idle)
    monkeypatch.setattr(wakeful, "delay_lock", lambda: delay)
    settings = load_text(f"[power]\n{power}\n", name="x").settings
    found = checks.check_sleep(settings, lambda name: f"/bin/{name}" if there else None)
    assert verdicts(found) == expected


def test_room_for_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MODELS_DISK", 0)
    assert verdicts(checks.check_models_disk(tmp_path / "not" / "yet")) == ["ok"]
    monkeypatch.setattr(checks, "MODELS_DISK", 1 << 62)
    assert verdicts(checks.check_models_disk(tmp_path)) == ["warn"]


def test_state_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    (tmp_path / "b.sock").touch()
    assert checks.state_files(tmp_path) == [tmp_path / "a.json"]
    assert checks.state_files(tmp_path / "none") == []
