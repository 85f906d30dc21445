"""Events in plain words."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from daemon.core.messages import Command, Event, Publish
from daemon.core.scheduler import Scheduler
from daemon.telemetry.phrases import _WORDS, phrase
from tests.core.world import World

GIB = 1 << 30


@pytest.mark.parametrize(
    ("kind", "facts", "text"),
    [
        ("start", {"variant": "context 32768", "bytes": {"gpu0": 17 * GIB, "ram": 512}},
         "qwen starts (context 32768, 17.0 GiB gpu0 + 512 B ram)"),
        ("ready", {"seconds": 11.432}, "qwen is ready after 11.43 s"),
        ("adopted", {}, "qwen is taken over, still running"),
        ("evict", {"claim": "gemma"}, "qwen makes room for gemma"),
        ("stop", {"reason": "evict"}, "qwen is stopped to make room"),
        ("stop", {"reason": "unload"}, "qwen is stopped as asked"),
        ("stop", {"reason": "changed"}, "qwen is stopped because its configuration changed"),
        ("stop", {"reason": "idle"}, "qwen is stopped after its keep-alive"),
        ("exited", {"asked": True, "exit_class": "clean", "detail": "exit status 0"},
         "qwen stopped"),
        ("exited", {"asked": False, "exit_class": "out_of_memory", "detail": "no room"},
         "qwen died (out of memory): no room"),
        ("exited", {"asked": False, "exit_class": "crash", "detail": ""}, "qwen died (crash)"),
        ("backoff", {"seconds": 2.04, "detail": ""}, "qwen may start again in 2.0 s"),
        ("failed", {"detail": "bad file", "exit_class": "permanent"},
         "qwen is given up: bad file"),
        ("failed", {"detail": "", "exit_class": "permanent"}, "qwen is given up: permanent"),
        ("grown", {"charged": {"ram": 3 * GIB}}, "qwen has grown to 3.0 GiB ram"),
        ("cut", {"requests": 2, "reason": "too long."}, "qwen ends 2 running requests: too long."),
        ("unfit", {"detail": "no room."}, "qwen is pinned, but does not run: no room."),
        ("returns", {}, "qwen comes back, memory is free again"),
        ("outgrown", {"first": {"ram": GIB}, "now": {"ram": 2 * GIB}},
         "qwen grew from 1.0 GiB ram to 2.0 GiB ram and is started anew"),
        ("stop", {"reason": "pressure"}, "qwen is stopped because other programs need memory"),
        ("paused", {"seconds": 90.0, "hold": True}, "serving is paused for 90 s"),
        ("paused", {"seconds": None, "hold": True}, "serving is paused"),
        ("resumed", {}, "serving goes on"),
        ("pressure", {"free": {"ram": GIB}}, "other programs need memory: 1.0 GiB ram left"),
        ("pressure_over", {"free": {}}, "memory is free again"),
        ("something new", {}, "qwen: something new"),
    ],
)  # fmt: skip
def test_sentences(kind: str, facts: Mapping[str, object], text: str) -> None:
    assert phrase(kind, "qwen", facts) == text


def test_everything_that_the_core_publishes_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds of crashes, evictions, changes: each event is told, no words are for nothing."""
    published: list[Publish] = []
    handle = Scheduler.handle

    def listening(self: Scheduler, event: Event, now: float) -> list[Command]:
        orders = handle(self, event, now)
        published.extend(order for order in orders if isinstance(order, Publish))
        return orders

    monkeypatch.setattr(Scheduler, "handle", listening)
    for seed in range(60):
        World(seed).run()
    rare = {"returns"}
    assert {event.kind for event in published} | rare == set(_WORDS)
    for event in published:
        text = phrase(event.kind, event.model, event.facts)
        assert text.startswith(f"{event.model} ".lstrip())
        assert "{" not in text
        assert "_" not in text
