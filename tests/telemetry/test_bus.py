"""One numbered stream of events."""

from __future__ import annotations

import logging
import time

import pytest

from daemon.telemetry.bus import Bus
from daemon.views import EventView


def test_events_are_numbered_dated_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus()
    before = time.time()
    with caplog.at_level(logging.INFO, "modelport.events"):
        first = bus.publish("start", "qwen", "qwen starts 100%", {"generation": 1})
        second = bus.publish("reload", "", "nothing changed")
    assert (first.id, second.id) == (1, 2)
    assert before <= first.at <= second.at <= time.time()
    assert (first.kind, first.model, first.facts) == ("start", "qwen", {"generation": 1})
    assert second.facts == {}
    assert caplog.messages == ["qwen starts 100%", "nothing changed"]


def test_facts_are_the_events_own() -> None:
    facts: dict[str, object] = {"a": 1}
    event = Bus().publish("x", "m", "text", facts)
    facts["a"] = 2
    assert event.facts == {"a": 1}


def test_the_last_ones_are_remembered() -> None:
    bus = Bus(keep=3)
    for number in range(5):
        bus.publish("x", "m", str(number))
    assert [event.id for event in bus.history(0)] == [3, 4, 5]  # a gap tells what was missed
    assert [event.id for event in bus.history(4)] == [5]
    assert bus.history(5) == []


def test_listeners_hear_until_they_leave() -> None:
    bus = Bus()
    heard: list[EventView] = []
    bus.publish("x", "m", "before")
    end = bus.subscribe(heard.append)
    during = bus.publish("x", "m", "during")
    end()
    end()
    bus.publish("x", "m", "after")
    assert heard == [during]


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus()
    heard: list[int] = []

    def broken(event: EventView) -> None:
        raise ValueError("a bug of mine")

    bus.subscribe(broken)
    bus.subscribe(lambda event: heard.append(event.id))
    bus.publish("x", "m", "text")
    assert heard == [1]
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "event 1" in record.getMessage()
    assert record.exc_info is not None


def test_listeners_may_come_and_go_while_an_event_is_told() -> None:
    bus = Bus()
    heard: list[str] = []

    def once(event: EventView) -> None:
        heard.append(f"once {event.id}")
        end()
        bus.subscribe(lambda later: heard.append(f"late {later.id}"))

    end = bus.subscribe(once)
    bus.subscribe(lambda event: heard.append(f"steady {event.id}"))
    bus.publish("x", "m", "first")
    bus.publish("x", "m", "second")
    assert heard == ["once 1", "steady 1", "steady 2", "late 2"]
