from __future__ import annotations

import pytest
from pydantic import ValidationError

from control_api.client import STREAM_SECONDS
from daemon.config.timing import Breaker, Timing


def test_every_wait_is_in_seconds() -> None:
    timing = Timing()
    for name in Timing.model_fields:
        value = getattr(timing, name)
        assert isinstance(value, float | Breaker), name
    assert (timing.start_stall, timing.answer_stall) == (120.0, 120.0)
    assert (timing.stop_grace, timing.keeper_grace, timing.drain_grace) == (8.0, 60.0, 20.0)
    assert (timing.backoff, timing.backoff_max) == (1.0, 60.0)
    assert (timing.settle, timing.linger_max) == (5.0, 8.0)
    assert (timing.breaker.count, timing.breaker.window) == (5, 600.0)


def test_the_breaker_is_written_in_words_or_as_a_table() -> None:
    in_words = Timing.model_validate({"breaker": "3 in 2m"}).breaker
    assert in_words == Breaker(count=3, window=120.0)
    assert Timing.model_validate({"breaker": {"count": 3, "window": 120}}).breaker == in_words
    for wrong in ("3", "in 2m", "3 in x", "0 in 2m", 5, {"count": 0}):
        with pytest.raises(ValidationError):
            Timing.model_validate({"breaker": wrong})


def test_a_sign_of_life_comes_before_ctl_gives_up() -> None:
    assert Timing.model_validate({"event_keepalive": "30 s"}).event_keepalive * 2 <= STREAM_SECONDS
    with pytest.raises(ValidationError):
        Timing.model_validate({"event_keepalive": 31})


def test_what_repeats_has_a_pause() -> None:
    assert Timing.model_validate({"stop_grace": 0}).stop_grace == 0.0
    for key in ("ready_poll", "settle_poll", "memory_sample", "sweep", "housekeeping"):
        with pytest.raises(ValidationError):
            Timing.model_validate({key: 0})


def test_what_is_deaf_is_gone_two_seconds_after_its_daemon() -> None:
    """As promised: TERM at once, then KILL, with time left for the system to take it apart."""
    assert Timing().keeper_lost <= 1.5
