from __future__ import annotations

from typing import Any

import pytest

from daemon.access.exposure import FLAG, exposed, is_local, refuse_open, warning
from daemon.config.settings import Settings
from daemon.core.problems import ProblemError


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("fe80::1%eth0", False),
        ("studio.local", False),
        ("localhost.evil", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_local(host) is local


def settings(**tables: Any) -> Settings:
    return Settings.from_layers(tables)


def test_every_address_of_the_file_is_looked_at() -> None:
    assert exposed(settings()) == {}
    assert exposed(settings(server={"host": "0.0.0.0"})) == {"server.host": "0.0.0.0"}
    also = [{"port": 1, "as": "ollama"}, {"port": 2, "as": "ollama", "host": "10.0.0.1"}]
    assert exposed(settings(server={"also": also})) == {"server.also[1].host": "10.0.0.1"}
    on = {"enabled": True, "host": "10.0.0.1"}
    assert exposed(settings(lan=on)) == {}, "it is opened while there is a key, and no longer"


def test_nothing_is_opened_to_everyone_by_mistake() -> None:
    refuse_open([], False, False)
    refuse_open(["10.0.0.1"], True, False)
    refuse_open(["10.0.0.1"], False, True)
    with pytest.raises(ProblemError) as caught:
        refuse_open(["10.0.0.1", "10.0.0.1"], False, False)
    assert "10.0.0.1 is reached" in caught.value.problem.message
    assert "ctl key add" in caught.value.problem.hint
    assert FLAG in caught.value.problem.hint


def test_what_is_exposed_is_said() -> None:
    assert "EVERYONE" in warning(["::"], [], True)
    assert warning(["::"], ["a", "b"], False).endswith("at ::, with a key only: a, b")
