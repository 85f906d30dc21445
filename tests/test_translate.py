"""Settings as the parts below want them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from daemon.backends.terms import Timing as BackendTiming
from daemon.config.settings import Settings
from daemon.core.policy import Policy
from daemon.downloads.pull import Patience
from daemon.machine.base import MachineFacts, PoolFacts
from daemon.machine.budget import budget as amounts
from daemon.translate import backend_timing, budget_text, patience, policy


def settings(**tables: Any) -> Settings:
    return Settings.from_layers(tables)


def test_the_defaults_of_the_file_are_those_of_the_core() -> None:
    assert policy(settings()) == Policy()


@pytest.mark.parametrize(
    ("setting", "constant"),
    [("settle", "settle"), ("recent_use", "recent"), ("quantum_min", "quantum_min"),
     ("quantum_max", "quantum_max"), ("linger_min", "linger_min"), ("linger_max", "linger_max"),
     ("backoff", "backoff"), ("backoff_max", "backoff_max"), ("breaker_retry", "half_open"),
     ("backoff_reset", "healthy_after"), ("pressure_clear", "pressure_clear"),
     ("thrash_window", "thrash_window")],
)  # fmt: skip
def test_a_duration_reaches_its_constant_alone(setting: str, constant: str) -> None:
    made = policy(settings(timing={setting: 3.25}))
    changed = [f.name for f in fields(Policy) if getattr(made, f.name) != getattr(Policy(), f.name)]
    assert changed == [constant]
    assert getattr(made, constant) == 3.25


def test_what_is_done_when_memory_is_short() -> None:
    made = policy(settings(memory={"policy": "wait_then_fail", "max_drain": "90s"}))
    assert (made.memory_policy, made.max_drain) == ("wait_then_fail", 90.0)


def test_the_breaker() -> None:
    made = policy(settings(timing={"breaker": "3 in 90 s"}))
    assert (made.breaker_crashes, made.breaker_window) == (3, 90.0)


def test_a_backends_waits() -> None:
    names = [field.name for field in fields(BackendTiming)]
    given = {name: float(number) for number, name in enumerate(names, 1)}
    assert backend_timing(settings(timing=given)) == BackendTiming(**given)


def test_a_downloads_patience() -> None:
    made = patience(settings(timing={"download_stall": 3, "download_retry": "2 s"}))
    assert made == Patience(stall=3.0, retry=2.0)
    assert patience(settings()) == Patience()


@pytest.mark.parametrize(
    ("budget", "text"),
    [(None, None), ("18GiB", str(18 << 30)), (1000, "1000"), ("75%", "75%"),
     ({"gpu0": "20GiB", "ram": "50%"}, {"gpu0": str(20 << 30), "ram": "50%"})],
)  # fmt: skip
def test_the_budget_as_text(budget: Any, text: Any) -> None:
    memory = {} if budget is None else {"budget": budget}
    assert budget_text(settings(memory=memory)) == text


@pytest.mark.parametrize("budget", ["18GiB", "33%", "12.5%", "0.05%", "100%", "33.333333%"])
def test_the_machine_reads_that_text_as_it_was_meant(budget: str) -> None:
    total = 64 << 30
    text = budget_text(settings(memory={"budget": budget}))
    pool = PoolFacts("unified", total, total, None, "test")
    facts = MachineFacts((pool,), total, "darwin")
    found = amounts(text, "balanced", facts)["unified"]
    share = budget.removesuffix("%")
    expected = 18 << 30 if share == budget else total * float(share) / 100
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_smallest_share_is_still_one() -> None:
    assert budget_text(settings(memory={"budget": "0.000001%"})) == "0.001%"
