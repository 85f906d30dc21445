from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from daemon.access import store as module
from daemon.access.keys import MOST_KEYS, Wanted
from daemon.access.store import KeyStore
from daemon.core.problems import Code, ProblemError

pytestmark = pytest.mark.usefixtures("blocking_allowed")
NOW = 1_800_000_000.0
FULL = Wanted(
    name="desk",
    scope="control",
    lasts=3600,
    models=("qwen*", "gemma"),
    priority=-3,
    at_once=2,
    per_minute=30,
    default_model="gemma",
)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json", lambda: NOW)


def code(error: pytest.ExceptionInfo[ProblemError]) -> Code:
    return error.value.problem.code


def test_what_is_added_is_there_for_everyone(store: KeyStore) -> None:
    assert not store.any_key()
    assert store.stamp() is None
    key, text = store.add(FULL)
    assert store.read().keys == (key,)
    assert store.any_key()
    found = KeyStore(store.path).read().find(text.encode(), NOW)
    assert found == key.principal
    written = store.path.read_text()
    assert text not in written
    assert text[3:] not in written
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_names_are_given_once(store: KeyStore) -> None:
    store.add(Wanted(name="a"))
    with pytest.raises(ProblemError) as caught:
        store.add(Wanted(name="a"))
    assert code(caught) is Code.KEY_EXISTS
    assert "ctl key rm a" in caught.value.problem.hint


def test_removed_is_removed(store: KeyStore) -> None:
    _, text = store.add(Wanted(name="a"))
    store.add(Wanted(name="b"))
    before = store.stamp()
    assert store.remove("a").name == "a"
    assert store.stamp() != before
    assert store.read().find(text.encode(), NOW) is None
    assert [key.name for key in store.read().keys] == ["b"]
    with pytest.raises(ProblemError) as caught:
        store.remove("a")
    assert code(caught) is Code.KEY_UNKNOWN


def test_one_that_is_over_is_no_key(tmp_path: Path) -> None:
    KeyStore(tmp_path / "k", lambda: NOW).add(Wanted(name="a", lasts=10))
    assert not KeyStore(tmp_path / "k", lambda: NOW + 10).any_key()


def test_when_they_were_used(store: KeyStore) -> None:
    store.add(Wanted(name="a"))
    store.used({"a": NOW + 5.4, "gone": NOW})
    assert store.read().keys[0].used == NOW + 5
    before = store.stamp()
    store.used({"a": NOW + 1})  # older: nothing to write
    assert store.stamp() == before


BROKEN = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"version": 0, "keys": []}',
    b'{"version": true, "keys": []}',
    b'{"version": 1, "keys": {}}',
    b'{"version": 1, "keys": [7]}',
    b'{"version": 1, "keys": [{}]}',
]


@pytest.mark.parametrize("data", BROKEN)
def test_a_broken_file_is_set_aside_and_lets_nobody_in(store: KeyStore, data: bytes) -> None:
    store.path.write_bytes(data)
    store.path.chmod(0o600)
    assert store.read().keys == ()
    assert not store.path.exists()
    assert len(list(store.path.parent.glob("keys.json.corrupt-*"))) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 7),
        ("sha256", "00"),
        ("sha256", "zz" * 32),
        ("scopes", ["root"]),
        ("scopes", "use"),
        ("created", "now"),
        ("expires", True),
        ("expires", float("nan")),
        ("models", "all"),
        ("models", [1]),
        ("priority", 1.5),
        ("at_once", None),
        ("default_model", None),
    ],
)
def test_no_half_of_a_key_is_believed(store: KeyStore, field: str, value: Any) -> None:
    store.add(FULL)
    found = json.loads(store.path.read_bytes())
    found["keys"][0][field] = value
    store.path.write_text(json.dumps(found))
    assert store.read().keys == ()


def test_a_file_that_others_can_write_is_not_believed(store: KeyStore) -> None:
    store.add(FULL)
    store.path.chmod(0o666)
    assert store.read().keys == ()


def test_what_a_newer_version_wrote_is_left_alone(store: KeyStore) -> None:
    store.path.write_text('{"version": 2, "doors": []}')
    store.path.chmod(0o600)
    for work in (store.read, store.any_key, lambda: store.add(FULL), lambda: store.remove("a")):
        with pytest.raises(ProblemError, match="newer modelport"):
            work()
    assert store.path.read_text() == '{"version": 2, "doors": []}'


def test_no_more_than_can_be_compared(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_KEYS == 256
    monkeypatch.setattr(module, "MOST_KEYS", 2)
    store.add(Wanted(name="a"))
    store.add(Wanted(name="b"))
    with pytest.raises(ProblemError, match="There are 2 keys"):
        store.add(Wanted(name="c"))


def test_a_disk_that_refuses_is_told_and_no_key_is_shown(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProblemError, match="cannot be written"):
        KeyStore(tmp_path / "file" / "keys.json").add(FULL)


def test_many_at_once_lose_nothing(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 40.0)  # twelve writes on a slow disk
    names = [f"k{number}" for number in range(12)]
    threads = [threading.Thread(target=store.add, args=(Wanted(name=name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert sorted(key.name for key in store.read().keys) == sorted(names)


def test_a_lock_that_is_held_is_waited_for_and_not_for_ever(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    holder = os.open(store.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(ProblemError, match="being changed by another program"):
            store.add(FULL)
    finally:
        os.close(holder)
    store.add(FULL)
