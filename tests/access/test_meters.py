from __future__ import annotations

import pytest

from daemon.access.meters import Meters
from daemon.access.principals import USE, Principal
from daemon.core.problems import Code, Problem


def who(name: str = "a", at_once: int = 0, per_minute: int = 0) -> Principal:
    return Principal(name, frozenset({USE}), keyed=True, at_once=at_once, per_minute=per_minute)


def refused(found: Problem | None) -> float:
    assert found is not None
    assert found.code is Code.RATE_LIMITED
    assert found.retry_after is not None
    return found.retry_after


def test_what_no_engine_does_counts_for_the_minute_alone() -> None:
    meters, key = Meters(), who(at_once=1, per_minute=2)
    assert meters.count(key, 0.0) is None
    assert meters.begin(key, 0.0) is None
    assert refused(meters.count(key, 0.0)) == pytest.approx(30.0)
    assert meters.count(key, 30.0) is None
    assert refused(meters.begin(key, 90.0)) == 1.0, "one is at work"
    meters.end(key)
    assert meters.begin(key, 90.0) is None
    assert meters.count(who("free", at_once=1), 0.0) is None


def test_so_many_at_once() -> None:
    meters, key = Meters(), who(at_once=2)
    assert meters.begin(key, 0.0) is None
    assert meters.begin(key, 0.0) is None
    assert refused(meters.begin(key, 0.0)) == 1.0
    assert meters.begin(who("b", at_once=2), 0.0) is None
    meters.end(key)
    assert meters.begin(key, 0.0) is None


def test_so_many_a_minute_which_come_again_one_by_one() -> None:
    meters, key = Meters(), who(per_minute=6)
    for _ in range(6):
        assert meters.begin(key, 100.0) is None
        meters.end(key)
    assert refused(meters.begin(key, 100.0)) == 10.0
    assert refused(meters.begin(key, 104.0)) == pytest.approx(6.0)
    assert meters.begin(key, 110.0) is None
    assert refused(meters.begin(key, 110.0)) == 10.0
    for _ in range(6):  # an hour does not save up more than a minute's
        assert meters.begin(key, 3700.0) is None
    assert refused(meters.begin(key, 3700.0)) == 10.0


def test_a_key_that_is_gone_is_forgotten_once_its_requests_are_over() -> None:
    meters, key = Meters(), who(at_once=1)
    meters.begin(key, 0.0)
    meters.forget(frozenset())
    assert meters.begin(key, 0.0) is not None
    meters.end(key)
    meters.forget(frozenset())
    meters.end(key)  # of a key that nobody remembers
    assert meters.begin(key, 0.0) is None
