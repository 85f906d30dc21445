"""Where models stand on their ladders, kept on the disk."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from daemon.backends.standings import MAX_ENTRIES, MAX_FILE, MAX_REMEDIES, Standings
from daemon.core.messages import Standing
from daemon.files import DISK

LOW = Standing(3, "context 8192", 2, margin=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def kept(path: Path, clock: Clock) -> Standings:
    found = Standings(path, clock)
    found.load()
    return found


def saved(standings: Standings) -> None:
    standings.write(standings.text())


def test_a_new_life_finds_it_older(tmp_path: Path) -> None:
    path, clock = tmp_path / "state" / "ladder.json", Clock()
    first = kept(path, clock)
    assert first.get("key") is None
    first.put("key", "qwen", LOW)
    saved(first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    clock.now += 500.0
    second = kept(path, clock)
    assert second.get("key") == Standing(3, "context 8192", 2, margin=True, age=500.0)
    assert second.get("another") is None
    saved(second)
    clock.now += 100.0
    third = kept(path, clock)
    found = third.get("key")
    assert found is not None
    assert found.age == 600.0, "its age grows over several lives"
    third.put("key", "qwen", None)
    saved(third)
    assert kept(path, clock).get("key") is None


def test_a_clock_that_was_set_back_makes_nothing_younger_than_now(tmp_path: Path) -> None:
    clock = Clock()
    standings = kept(tmp_path / "ladder.json", clock)
    standings.put("key", "qwen", LOW)
    clock.now -= 1000.0
    assert standings.get("key") == LOW


def test_those_that_failed_last_are_kept() -> None:
    standings = Standings(None)
    for number in range(MAX_ENTRIES + 1):
        standings.put(str(number), "m", LOW)
    standings.put("1", "m", LOW)
    standings.put("new", "m", LOW)
    assert standings.get("0") is standings.get("2") is None
    assert standings.get("1") is not None
    assert len(standings.text()) < MAX_FILE / 2


def test_engines_that_need_a_remedy(tmp_path: Path) -> None:
    path, clock = tmp_path / "ladder.json", Clock()
    first = kept(path, clock)
    assert first.remedy("engine", "llama-server 9000")
    assert not first.remedy("engine", "llama-server 9000"), "no news"
    first.put("key", "qwen", LOW)
    saved(first)
    second = kept(path, clock)
    assert second.remedied("engine")
    assert not second.remedied("another")
    assert second.get("key") is not None
    assert second.remedy("engine", "", needed=False)
    assert not second.remedy("engine", "", needed=False)
    assert not second.remedied("engine")
    for number in range(MAX_REMEDIES + 1):
        second.remedy(str(number), "x")
    assert not second.remedied("0")
    assert second.remedied(str(MAX_REMEDIES))


def test_a_file_without_remedies_is_understood(tmp_path: Path) -> None:
    path, clock = tmp_path / "ladder.json", Clock()
    standings = kept(path, clock)
    standings.put("key", "qwen", LOW)
    stored = json.loads(standings.text())
    del stored["remedies"]
    path.write_text(json.dumps(stored))
    assert kept(path, clock).get("key") == LOW


def test_a_disk_that_refuses_costs_nothing_but_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    standings = Standings(tmp_path / "file" / "ladder.json", Clock())
    standings.put("key", "qwen", LOW)
    saved(standings)
    assert standings.get("key") == LOW
    assert "kept in memory" in caplog.text
    DISK.forget(tmp_path / "file" / "ladder.json")


# ---------------------------------------------------------------- hostile

ENTRY: dict[str, Any] = {
    "model": "qwen", "rung": 3, "failed": "x", "failures": 2, "margin": False, "since": 5.0,
}  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def check(path: Path) -> None:
    """Whatever stands there: no exception, and what is found makes sense."""
    standings = kept(path, Clock())
    found = standings.get("key")
    if found is not None:
        assert found.rung > 0
        assert found.failures > 0
        assert 0 <= found.age < 1e12
    standings.put("mine", "m", LOW)
    saved(standings)
    assert kept(path, Clock()).get("mine") is not None


@profile(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ladder.json"
    path.write_bytes(data)
    check(path)


@profile(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*ENTRY, "version", "entries", "remedies", "all"]), VALUES)
def test_any_value_in_any_place(tmp_path: Path, place: str, value: Any) -> None:
    entry = {**ENTRY, place: value} if place in ENTRY else ENTRY
    stored: Any = {"version": 1, "entries": {"key": entry}, "remedies": {"e": "x"}}
    if place == "all":
        stored = value
    elif place not in ENTRY:
        stored[place] = value
    path = tmp_path / "ladder.json"
    path.write_text(json.dumps(stored))
    check(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"version": 1, "entries": ' + "9" * 5000, " " * (MAX_FILE + 1), "", "é"],
)
def test_what_no_machine_wrote(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ladder.json"
    path.write_text(text, encoding="latin-1")
    check(path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "ladder.json").mkdir()
    assert kept(tmp_path / "ladder.json", Clock()).get("key") is None
