"""The story of the night, in words."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.core.messages import ExitClass
from daemon.telemetry.stories import WHAT, span, stories
from daemon.views import BesideView, HeldView, StoryView
from tests.control_api.fake import GIB, incident_view


def story(state: str = "ready", **changes: Any) -> StoryView:
    (told,) = stories([incident_view(**changes)], {"gemma": state})
    return told


def test_the_same_again_is_told_once() -> None:
    night = [
        incident_view(id=n, at=1000.0 * n, detail=f"exit status 3: at 0x{n:04x}, {n} MiB")
        for n in range(1, 18)
    ]
    (told,) = stories(list(reversed(night)), {"gemma": "failed"})
    assert (told.count, told.first_at, told.last_at) == (17, 1000.0, 17000.0)
    assert (told.last.id, told.state) == (17, "failed")


def test_other_things_are_told_apart_newest_first() -> None:
    told = stories(
        [
            incident_view(id=1, at=100.0),
            incident_view(id=2, at=200.0, model="qwen"),
            incident_view(id=3, at=300.0, exit_class="crash"),
            incident_view(id=4, at=400.0, serving=False),
            incident_view(id=5, at=500.0),
            incident_view(id=6, at=500.0 + 7 * 3600),
        ],
        {},
    )
    assert [(one.last.id, one.count) for one in told] == [(6, 1), (5, 2), (4, 1), (3, 1), (2, 1)]
    assert {one.state for one in told} == {""}


@pytest.mark.parametrize("kind", ExitClass)
def test_every_class_is_told_with_a_next_step(kind: ExitClass) -> None:
    told = story(exit_class=kind.value)
    assert told.what == WHAT[kind]
    assert told.meaning.endswith(".")
    assert len(told.steps) >= 2
    assert "ctl logs gemma" in told.steps[-1]


def test_a_class_of_another_version_is_told_too() -> None:
    told = story(exit_class="moon_phase")
    assert (told.what, bool(told.meaning)) == ("ended", True)


def test_memory_is_told_with_numbers() -> None:
    told = story()
    assert "It took 13.0 GiB of unified, where 12.0 GiB were reckoned for it." in told.meaning
    assert "other programs" not in told.meaning
    assert told.steps[0] == "a smaller context: `ctl set gemma ctx=32768`"
    assert "embed sat idle beside it with 1.0 GiB: `ctl unload embed`" in told.steps[1]
    assert "slots" not in "".join(told.steps)
    assert "slots=2" in "".join(story(slots=4).steps)
    assert "ctx=" not in "".join(story(context=4096).steps)
    busy = [BesideView(model="embed", state="ready", leases=1, bytes={"unified": GIB})]
    assert "ctl unload" not in "".join(story(beside=busy).steps)


def test_what_is_known_of_a_want_of_memory_comes_first() -> None:
    told = story(advice="Raise the limit on threads.")
    assert told.steps == ["Raise the limit on threads.", *story().steps]


def test_memory_that_others_hold_is_named() -> None:
    pool = HeldView(
        name="gpu0", budget=18 * GIB, charged=4 * GIB, free=GIB // 4, own=4 * GIB, own_measured=None
    )
    told = story(memory=[pool])
    assert "The machine had 256 MiB of gpu0 left, though the budget had more" in told.meaning
    assert any("`[memory] budget` below 16.2 GiB" in step for step in told.steps)


@pytest.mark.parametrize(
    ("kills", "words"),
    [
        (1, "its out-of-memory killer"),
        (0, "a person or another program did it"),
        (None, "jetsam"),
    ],
)
def test_a_kill_is_told_by_what_the_kernel_counted(kills: int | None, words: str) -> None:
    assert words in story(status=-9, kernel_kills=kills).meaning


def test_a_full_memory_as_a_suspect() -> None:
    assert "held about all" in story(near_budget=True, lines=[], status=-11).meaning


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, "killed by SIGABRT after 4 min of serving, with 2 requests running"),
        ({"leases": 1, "age": 20.0}, "killed by SIGABRT after 20 s of serving, with 1 request"),
        ({"status": 1, "serving": False, "age": 0.5, "leases": 0},
         "exit status 1 after 0.5 s of loading"),
        ({"status": None, "serving": False, "age": None, "leases": 0}, "it did not run"),
        ({"status": None, "serving": False, "age": 9.0, "leases": 0},
         "it was ended before it was ready after 9.0 s of loading"),
        ({"exit_class": "hang", "status": -9, "age": 7200.0, "leases": 0},
         "it did not answer after 2 h of serving"),
    ],
)  # fmt: skip
def test_how_it_ended(changes: dict[str, Any], how: str) -> None:
    assert story(**changes).how.startswith(how)


@pytest.mark.parametrize(
    ("changes", "done"),
    [
        ({}, "allowed to start again after 1.0 s, with context 32768 in place of context 65536"),
        ({"next_variant": ""}, "allowed to start again after 1.0 s"),
        ({"exit_class": "port"}, "started again at once, on another port"),
        ({"done": "half_open", "done_seconds": 300.0},
         "given up: there is nothing smaller; one try after 5 min, when asked for"),
        ({"done": "half_open", "done_seconds": 300.0, "exit_class": "crash"},
         "given up after too many crashes; one try after 5 min, when asked for"),
        ({"done": "gave_up", "exit_class": "permanent"},
         "given up until something changes: the same start would fail again"),
        ({"done": ""}, ""),
    ],
)  # fmt: skip
def test_what_was_done(changes: dict[str, Any], done: str) -> None:
    assert story(**changes).done == done


@pytest.mark.parametrize(
    ("followed", "words"),
    [
        ("ready", "ready again 12 s later"),
        ("died", "died again 12 s later"),
        ("reset", "reset by hand 12 s later"),
        ("", "not started again since"),
    ],
)
def test_what_followed(followed: str, words: str) -> None:
    assert story(followed=followed).followed == words


def test_a_reset_is_advised_where_it_helps() -> None:
    assert any("ctl reset gemma" in step for step in story("failed").steps)
    assert any("ctl reset gemma" in step for step in story("backoff").steps)
    assert not any("ctl reset gemma`, then" in step for step in story("ready").steps), "it runs"
    assert not any(
        "ctl reset gemma`, then" in step for step in story("failed", exit_class="permanent").steps
    )


def test_spans() -> None:
    assert [span(s) for s in (0.42, 12.0, 89.9, 240.0, 10_800.0)] == (
        ["0.4 s", "12 s", "90 s", "4 min", "3 h"]
    )


def test_metal_is_told_with_its_remedy() -> None:
    once = story(exit_class="metal_init", done="backoff", done_seconds=0.0)
    assert once.done == "started again at once with GGML_METAL_TENSOR_DISABLE=1"
    assert "ctl reset gemma" in once.steps[0]
    given_up = story(exit_class="metal_init", done="gave_up")
    assert "update the engine" in given_up.steps[0]


def test_the_way_back_is_told_where_something_was_given_up() -> None:
    back = "once there is more memory, its full size again: `ctl reset gemma`"
    assert back in story().steps
    assert back not in story(next_variant="").steps
