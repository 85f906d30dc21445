"""The ports beside the fixed one, as configured."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.listeners import Listeners, doors, meaning
from daemon.relay.doors import Door, Face
from daemon.service.handed import Handed
from daemon.service.ports import bind, url
from tests.ports import free_port
from tests.relay.peers import World, world


def settings(*also: dict[str, object]) -> Settings:
    return Settings.from_layers({"server": {"also": list(also)}, "models": {"m": {"path": "/m"}}})


@pytest.fixture
async def here() -> AsyncIterator[World]:
    async with world() as made:
        yield made


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_they_follow_the_settings(here: World) -> None:
    listeners = Listeners(here.front)
    one, two = free_port(), free_port()
    assert await listeners.follow(settings({"port": one, "as": "ollama"})) == []
    (first,) = listeners.views()
    assert (first.open, first.speaks, first.url) == (True, "ollama", f"http://127.0.0.1:{one}")
    before = listeners._open["127.0.0.1", one]
    changed = settings({"port": one, "model": "m"}, {"port": two, "as": "lmstudio"})
    assert await listeners.follow(changed) == []
    assert listeners._open["127.0.0.1", one] is before, "it is not opened anew"
    assert before.entry.door == Door(model="m")
    assert reachable(one)
    assert await listeners.follow(settings({"port": two, "as": "lmstudio"})) == []
    assert (reachable(one), reachable(two)) == (False, True)
    assert await listeners.follow(settings()) == []
    assert (listeners.views(), reachable(two)) == ([], False)


async def test_what_cannot_be_had_is_told_and_tried_again(here: World) -> None:
    answers: list[Exception | None] = [OSError(), None]

    def sometimes(host: str, port: int) -> socket.socket:
        if answers.pop(0) is not None:
            raise ProblemError(Problem(Code.CONFIG_INVALID, "Port 9 is taken by x (pid 1)."))
        return bind(host, port)

    listeners = Listeners(here.front, sometimes)
    wanted = settings({"port": free_port(), "as": "ollama"})
    assert await listeners.follow(wanted) == ["Port 9 is taken by x (pid 1)."]
    (view,) = listeners.views()
    assert (view.open, view.problem) == (False, "Port 9 is taken by x (pid 1).")
    assert await listeners.follow(wanted) == []
    assert listeners.views()[0].open


async def test_nothing_is_opened_once_the_daemon_stops(here: World) -> None:
    listeners = Listeners(here.front)
    listeners.leave()
    port = free_port()
    await listeners.follow(settings({"port": port, "as": "ollama"}))
    assert not reachable(port)
    assert not listeners.views()[0].open


async def test_sockets_of_the_service_manager_are_used(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of configured ports; others are served as the fixed port is, and told of."""
    ours, odd = (bind("127.0.0.1", 0) for _ in range(2))
    addresses = [sock.getsockname()[:2] for sock in (ours, odd)]
    handed = [Handed(ours, "also-1", addresses[0]), Handed(odd, "modelport", addresses[1])]

    def never(host: str, port: int) -> socket.socket:
        raise AssertionError("it is there")

    listeners = Listeners(here.front, never, handed=handed)
    port = addresses[0][1]
    assert await listeners.follow(settings({"port": port, "as": "ollama"})) == []
    listeners.serve_rest()
    assert listeners.views()[0].open
    assert reachable(port)
    assert reachable(addresses[1][1])
    assert f"http://127.0.0.1:{addresses[1][1]} is not configured" in caplog.text
    assert "ctl service install" in caplog.text
    caplog.clear()
    assert await listeners.follow(settings()) == []
    assert "the service manager still holds" in caplog.text


def test_words() -> None:
    also = settings({"port": 1, "host": "::1", "model": "m"}, {"port": 2, "as": "openai"})
    found = doors(also.server.also, "127.0.0.1")
    assert found == {("::1", 1): Door(model="m"), ("127.0.0.1", 2): Door(Face.OPENAI)}
    assert [meaning(door) for door in found.values()] == ["all requests for m", "as openai"]
    assert url("::1", 1) == "http://[::1]:1"


async def test_nothing_is_opened_to_other_machines_without_a_key(here: World) -> None:
    tried: list[str] = []

    def binds(host: str, port: int) -> socket.socket:
        tried.append(host)
        return bind("127.0.0.1", port)

    good = [False]
    listeners = Listeners(here.front, binds, keyed=lambda: good[0])
    wanted = settings({"port": free_port(), "as": "ollama", "host": "0.0.0.0"})
    (problem,) = await listeners.follow(wanted)
    assert "there is no key yet" in problem
    assert (tried, listeners.views()[0].open) == ([], False)
    good[0] = True
    assert await listeners.follow(wanted) == []
    assert tried == ["0.0.0.0"]
