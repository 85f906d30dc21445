"""The keys in force: made by the daemon, changed behind its back, used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.access.keys import Wanted
from daemon.access.store import KeyStore
from daemon.core.problems import ProblemError
from daemon.keys import Keys
from daemon.relay.records import RequestRecord
from tests.relay.peers import until

NOW = 1_800_000_000.0


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    found = Keys(KeyStore(tmp_path / "keys.json", lambda: NOW), poll=0.01, noted=0.0)
    yield found
    await found.stop()


def names(keys: Keys) -> list[str]:
    return [key.name for key in keys.ring.keys]


def record(key: str, at: float = NOW) -> RequestRecord:
    return RequestRecord(
        "r", "GET", "/", "", 200, "ok", 0, 0, None, None, 0.1, 1, "::1", "c", key=key, at=at
    )


async def test_what_the_daemon_changes_is_in_force_at_once(keys: Keys) -> None:
    told = []
    keys.changed = lambda: told.append(names(keys))
    _, text = await keys.add(Wanted(name="a"))
    assert keys.ring.find(text.encode(), NOW) is not None
    await keys.add(Wanted(name="b"))
    await keys.remove("a")
    assert keys.ring.find(text.encode(), NOW) is None
    assert told == [["a"], ["a", "b"], ["b"]]
    with pytest.raises(ProblemError):
        await keys.remove("a")
    assert len(told) == 3


async def test_what_others_change_is_seen(keys: Keys) -> None:
    keys.start()
    await asyncio.to_thread(keys.store.add, Wanted(name="a"))
    await until(lambda: names(keys) == ["a"])
    await asyncio.to_thread(keys.store.remove, "a")
    await until(lambda: names(keys) == [])


async def test_when_keys_were_used_is_shown_at_once_and_written_later(keys: Keys) -> None:
    await keys.add(Wanted(name="a"))
    keys.used(record("a", NOW + 7))
    keys.used(record(""))
    keys.used(record("gone"))
    assert [key.used for key in keys.listed()] == [NOW + 7]
    assert keys.ring.keys[0].used is None
    keys.start()
    await until(lambda: keys.ring.keys[0].used == NOW + 7)
    assert not keys._uses or set(keys._uses) == {"gone"}


async def test_at_the_end_it_is_written(keys: Keys) -> None:
    await keys.add(Wanted(name="a"))
    keys.used(record("a", NOW + 7))
    await keys.stop()
    ring = await asyncio.to_thread(keys.store.read)
    assert ring.keys[0].used == NOW + 7


async def test_a_file_of_a_newer_version_lets_nobody_in(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    await keys.add(Wanted(name="a"))
    keys.store.path.write_text('{"version": 9}')
    await keys.look()
    assert names(keys) == []
    assert "newer modelport" in caplog.text
    keys.used(record("a"))
    await keys.stop()  # not written, and said
    assert "when keys were used is not kept" in caplog.text
    keys._uses.clear()


async def test_a_disk_that_cannot_be_read_is_no_reason_to_stop_looking(
    keys: Keys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: KeyStore) -> None:
        raise RuntimeError("the thread broke")

    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "stamp", breaks)
        keys.start()
        await until(lambda: "the keys could not be looked at" in caplog.text)
    await asyncio.to_thread(keys.store.add, Wanted(name="a"))
    await until(lambda: names(keys) == ["a"])


async def test_the_file_is_ours_alone(keys: Keys) -> None:
    await keys.add(Wanted(name="a"))
    mode = await asyncio.to_thread(os.stat, keys.store.path)
    assert mode.st_mode & 0o777 == 0o600


async def test_whether_a_port_may_be_opened_to_others(keys: Keys) -> None:
    assert not keys.any_good()
    await keys.add(Wanted(name="a"))
    assert keys.any_good()
    await keys.remove("a")
    keys.insecure = True
    assert keys.any_good()
