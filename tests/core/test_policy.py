from __future__ import annotations

import dataclasses

import pytest

from daemon.core.policy import Policy


def test_the_defaults_are_those_of_the_design() -> None:
    assert dataclasses.asdict(Policy()) == {
        "settle": 5.0,
        "settle_share": 0.75,
        "unsettled_pools": frozenset({"ram"}),
        "recent": 600.0,
        "quantum_min": 2.0,
        "quantum_max": 60.0,
        "quantum_factor": 2.0,
        "linger_factor": 2.0,
        "linger_min": 0.5,
        "linger_max": 8.0,
        "linger_share": 0.5,
        "priority_seconds": 30.0,
        "priority_max": 60.0,
        "memory_policy": "wait",
        "memory_wait": 60.0,
        "max_drain": None,
        "small_evicts": False,
        "hard_factor": 1.5,
        "pressure_clear": 60.0,
        "thrash_window": 300.0,
        "thrash_warn": 0.4,
        "queue_total": 4096,
        "queue_model": 2048,
        "queue_client": 512,
        "queue_bytes": 256 * 1024 * 1024,
        "backoff": 1.0,
        "backoff_max": 60.0,
        "backoff_jitter": 0.2,
        "breaker_crashes": 5,
        "breaker_window": 600.0,
        "half_open": 300.0,
        "port_retries": 3,
        "healthy_after": 600.0,
        "healthy_answers": 20,
        "memory_attempts": 3,
        "climb_back": 86400.0,
    }


def test_a_policy_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().settle = 1.0  # type: ignore[misc]
