from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from daemon.config.base import Part
from daemon.config.sections import (
    Conversations,
    Defaults,
    Discovery,
    Downloads,
    Lan,
    Listener,
    Logs,
    Memory,
    Power,
    Schedule,
    Server,
    Service,
    Tls,
)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (Server, {"also": [{"port": 11434, "as": "ollama"}, {"port": 8124, "model": "x"}]}),
        (Server, {"hosts": ["nas.local", "[::1]"], "cors_origins": ["http://localhost:3000"]}),
        (Server, {"body_limit": "1GiB", "queue_timeout": "10m"}),
        (Memory, {"budget": {"gpu0": "22GiB"}, "tier": "safe", "max_drain": "5m"}),
        (Memory, {"degrade": False}),
        (Defaults, {"keep_alive": -1, "ctx": "64k", "slots": 4}),
        (Power, {"on_battery": {"keep_alive": "2m", "model": "small"}}),
        (Schedule, {"cron": "30 8 * * mon-fri", "do": "load", "model": "x"}),
        (Downloads, {"parallel": 4}),
        (Lan, {"enabled": True, "host": "192.168.1.2", "name": "Büro"}),
        (Tls, {"enabled": True, "cert": "/c.pem", "key": "/k.pem"}),
        (Logs, {"level": "debug", "max_size": "5MiB", "keep": 3}),
        (Conversations, {"max_size": "1GiB", "max_age": "1d"}),
        (Service, {"scope": "system"}),
        (Discovery, {"places": ["ollama"], "folders": ["/x"], "listed": False, "enabled": False}),
    ],
)
def test_what_is_allowed(part: type[Part], values: dict[str, Any]) -> None:
    assert part.model_validate(values).model_fields_set == set(values)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (Server, {"port": 0}),
        (Server, {"port": 65536}),
        (Server, {"port": "8123"}),
        (Server, {"port": 8123.5}),
        (Server, {"port": True}),
        (Server, {"host": "a b"}),
        (Server, {"hosts": "nas"}),
        (Server, {"cors_origins": ["*"]}),
        (Server, {"cors_origins": ["http://*.x"]}),
        (Server, {"cors_origins": ["http://x/path"]}),
        (Server, {"default_model": "../x"}),
        (Memory, {"budget": "lots"}),
        (Memory, {"tier": "bold"}),
        (Memory, {"degrade": "sometimes"}),
        (Memory, {"allow_cpu_offload": "yes please"}),
        (Defaults, {"slots": 0}),
        (Defaults, {"slots": 1000}),
        (Schedule, {"cron": "whenever", "do": "load", "model": "x"}),
        (Schedule, {"cron": "* * * * *", "do": "dance", "model": "x"}),
        (Schedule, {"cron": "* * * * *", "do": "load"}),
        (Logs, {"max_size": "1KiB"}),
        (Logs, {"keep": 0}),
        (Discovery, {"places": ["folder"]}),
        (Discovery, {"folders": "/x"}),
        (Discovery, {"folders": ["a\nb"]}),
    ],
)
def test_what_is_refused(part: type[Part], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        part.model_validate(values)


def test_one_more_port_has_exactly_one_purpose() -> None:
    for values in ({"port": 1}, {"port": 1, "model": "x", "as": "ollama"}):
        with pytest.raises(ValidationError, match="either"):
            Listener.model_validate(values)
    assert Listener.model_validate({"port": 1, "as": "openai"}).as_ == "openai"


def test_the_ladder_is_a_word_or_a_switch() -> None:
    values = [True, False, "on", "off", "aggressive"]
    read = [Memory.model_validate({"degrade": value}).degrade for value in values]
    assert read == ["on", "off", "on", "off", "aggressive"]
