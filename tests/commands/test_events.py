from __future__ import annotations

import json

from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon


def test_the_remembered_ones(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.emit("load", "gemma", "loading\x1b[2J")
    fake.emit("crash", "qwen3-coder", code=9)
    result = ctl("events", "--no-follow")
    first, second = result.out.splitlines()
    assert first.endswith("loading\\x1b[2J")
    assert second.split()[1:] == ["crash", "qwen3-coder", "code=9"]
    told = [json.loads(line) for line in ctl("events", "--no-follow", "--json").out.splitlines()]
    assert [event["id"] for event in told] == [1, 2]
    assert ctl("events", "--no-follow", "--since", "1").out.count("\n") == 1
    assert "qwen" not in ctl("events", "gemma", "--no-follow").out


def test_follow_until_the_daemon_stops(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    def happen() -> None:
        fake.emit("load")
        daemon.stop()

    daemon.when(lambda: fake.subscribers, happen)
    result = ctl("events")
    assert result.code == 0
    assert result.out.split()[1] == "load"
    assert "The daemon has stopped." in result.err


def test_a_gap_is_told(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    for _ in range(3):
        fake.emit("load")
    result = ctl("events", "--no-follow", "--since", "99")
    assert "some events are missing: the daemon was restarted" in result.err
    assert result.out.count("\n") == 3


def test_a_slow_reader_comes_back_for_the_rest(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    def burst() -> None:
        for number in range(30):
            fake.emit("burst", number=number)
        daemon.when(lambda: fake.subscribed > 1, last)

    def last() -> None:
        fake.emit("last")
        daemon.stop()

    daemon.when(lambda: fake.subscribers, burst)
    result = ctl("events", "--json")
    ids = [json.loads(line).get("id") for line in result.out.splitlines()]
    seen = [i for i in ids if i is not None]
    assert seen == sorted(set(seen))
    assert set(range(1, 31)) <= set(seen)
