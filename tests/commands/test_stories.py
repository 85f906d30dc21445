"""``ctl why``: stories for people, JSON for programs."""

from __future__ import annotations

import time

import pytest

from control_api.commands.stories import clock
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon, incident_view


def test_a_story(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    result = ctl("why")
    assert result.code == 0
    first, *rest = result.out.splitlines()
    assert first.startswith("gemma ran out of memory, at ")
    assert first.endswith("(now ready)")
    assert [line[:10].strip() for line in rest] == [
        *("how", "why", "", "ran as", "unified", "beside", "means", "done", "next", "", "", "", ""),
    ]
    assert "error: Insufficient Memory" in rest[1]
    assert "llama_decode: failed to decode, ret = -3" in rest[2], "the other line alone"
    assert rest[3].endswith("llama-server b9000, context 65536, 1 slots (start 4)")
    assert "12.0 GiB reckoned for it, took 13.0 GiB; 17.0 GiB of 18.0 GiB for all" in rest[4]
    assert rest[5].endswith("embed (ready, 1.0 GiB)")
    assert rest[8].endswith("a smaller context: `ctl set gemma ctx=32768`")


def test_no_story(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.died = []
    assert ctl("why").out == "Nothing died unasked, as far as is remembered.\n"
    assert ctl("why", "g").out == "Nothing of g died unasked, as far as is remembered.\n"


def test_many_times(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    night = time.mktime((2020, 11, 20, 2, 10, 0, 0, 0, -1))  # a time of today has no date
    fake.died = [incident_view(id=n + 1, at=night + n * 900) for n in range(17)]
    assert "17 times between Fri 20 Nov 02:10 and Fri 20 Nov 06:10" in ctl("why").out


def test_only_the_last_ones_unless_all_are_wanted(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    lines = [f"line {n}" for n in range(20)]
    fake.died = [
        incident_view(id=n, at=1e9 + n, exit_class="crash", detail=f"kind {'x' * n}", lines=lines)
        for n in range(1, 8)
    ]
    short, full = ctl("why").out, ctl("why", "--all").out
    assert short.count("gemma crashed") == 5
    assert short.endswith("2 more: `ctl why --all`\n")
    assert "(12 lines before that: `ctl why gemma --all`)" in short
    assert "line 3" not in short
    assert full.count("gemma crashed") == 7
    assert "line 3" in full


def test_a_model_that_is_gone(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.died = [incident_view(model="old")]
    assert "(no model of that name now)" in ctl("why").out


def test_what_is_no_model_is_refused(ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("why", "req_0123")
    assert result.code == 1
    assert "no model 'req_0123'" in result.err


@pytest.mark.parametrize("words", [(), ("gemma",)])
def test_json(words: tuple[str, ...], ctl: Ctl, daemon: FakeDaemon) -> None:
    body = ctl("why", *words, "--json").json
    assert body["incidents"][0]["id"] == body["stories"][0]["last"]["id"] == 7


def test_hostile_lines_cannot_move_the_cursor(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.died = [incident_view(lines=["\x1b[2Jgone", "\u202eevil"], detail="a\x07b")]
    out = ctl("why").out
    assert "\x1b[2J" not in out
    assert "\u202e" not in out
    assert "\x07" not in out


def test_without_a_daemon(ctl: Ctl) -> None:
    assert ctl("why").code == 3


def test_times() -> None:
    noon = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))
    assert clock(noon - 60, noon) == "11:59:00"
    assert clock(noon - 86_400, noon) == "Fri 20 Nov 12:00"


def test_a_request_is_explained_too(ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("why", "req_1")
    assert result.code == 0
    assert "Most of the time went into loading gemma: 8.3 s of 11.1 s." in result.out
    assert ctl("why", "req_nobody").code == 1
