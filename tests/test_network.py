"""Being reached from other machines, as configured and as things are."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.access.exposure import NO_KEY
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.lan.certificate import ensure
from daemon.network import Network
from daemon.service.handed import Handed
from daemon.service.kept import Kept
from tests.relay.peers import Client, World, get, until, world

HERE = {"lo": ["127.0.0.1", "::1"], "en0": ["192.168.1.5", "fd00::5"], "docker0": ["172.17.0.1"]}


@dataclass
class Machine:
    """What the network is told: addresses that are really ports of loopback, and keys."""

    interfaces: dict[str, list[str]] = field(default_factory=lambda: dict(HERE))
    keys: bool = True
    socks: dict[str, socket.socket] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    now: float = field(default_factory=time.time)

    def bind(self, address: str, port: int) -> socket.socket:
        if address in self.taken:
            raise ProblemError(Problem(Code.CONFIG_INVALID, f"Port 1 on {address} is taken."))
        self.socks[address] = socket.create_server(("127.0.0.1", 0))
        self.ports[address] = self.socks[address].getsockname()[1]
        return self.socks[address]

    async def any_key(self) -> bool:
        return self.keys

    def port(self, address: str) -> int:
        return self.ports[address]

    def network(self, here: World, folder: Path, **more: Any) -> Network:
        return Network(
            here.front,
            folder,
            "1.0",
            self.any_key,
            bind=self.bind,
            scan=lambda: self.interfaces,
            hostname=lambda: "box.example",
            clock=lambda: self.now,
            **more,
        )


@pytest.fixture
async def here() -> AsyncIterator[World]:
    async with world() as made:
        yield made


def settings(tls: dict[str, Any] | None = None, **lan: Any) -> Settings:
    on = {"enabled": True, "mdns": False, **lan}
    return Settings.from_layers({"lan": on, "tls": tls or {}})


async def test_each_address_is_opened_and_followed(here: World, tmp_path: Path) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    assert await network.follow(settings()) == []
    port = here.front.port
    assert network.view().urls == [
        f"http://192.168.1.5:{port}",
        f"http://[fd00::5]:{port}",
        f"http://172.17.0.1:{port}",
    ]
    before = machine.socks["192.168.1.5"]
    held = await here.client(machine.port("192.168.1.5"))
    machine.interfaces["en0"] = ["192.168.1.5", "10.0.0.9"]
    await network.look()
    assert machine.socks["192.168.1.5"] is before, "what stays is not opened anew"
    assert len(network.view().urls) == 3
    assert machine.socks["fd00::5"].fileno() == -1
    await held.send(get("/health"))
    assert (await held.reply()).status == 200
    assert await network.follow(settings(enabled=False)) == []
    assert (network.view().enabled, network.view().urls) == (False, [])
    assert await held.rest() == b"", "who came that way goes"
    assert (await here.once(get("/health"))).status == 200, "nobody on loopback notices"
    await network.close()


@pytest.mark.parametrize(
    ("host", "open_"),
    [("0.0.0.0", ["192.168.1.5", "172.17.0.1"]), ("docker0", ["172.17.0.1"]), ("wlan9", [])],
)
async def test_where_is_a_setting(here: World, tmp_path: Path, host: str, open_: list[str]) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    problems = await network.follow(settings(host=host))
    assert list(machine.socks) == open_
    assert [text for text in problems if "lan.host: found wlan9" in text] == problems
    assert bool(problems) is (not open_)
    await network.close()


async def test_without_a_key_nothing_is_open_unless_spelled_out(
    here: World, tmp_path: Path
) -> None:
    machine = Machine(keys=False)
    network = machine.network(here, tmp_path)
    assert await network.follow(settings()) == [NO_KEY]
    assert network.view().problems == [NO_KEY]
    assert machine.socks == {}
    machine.keys = True
    await network.look()
    assert (network.view().problems, len(network.view().urls)) == ([], 3)
    machine.keys = False
    await network.look()
    assert network.view().urls == [], "the last key was taken away"
    await network.close()
    open_ = machine.network(here, tmp_path, keyless=True)
    assert await open_.follow(settings()) == []
    assert len(open_.view().urls) == 3
    await open_.close()


async def test_what_cannot_be_had_is_told_and_tried_again(
    here: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(taken={"fd00::5"})
    network = machine.network(here, tmp_path)
    assert await network.follow(settings()) == ["Port 1 on fd00::5 is taken."]
    await network.look()
    assert len([line for line in caplog.messages if "is taken" in line]) == 1, "said once"
    machine.taken.clear()
    await network.look()
    assert (network.view().problems, len(network.view().urls)) == ([], 3)
    await network.close()


async def test_addresses_are_looked_at_again_by_the_clock(here: World, tmp_path: Path) -> None:
    machine = Machine(keys=False)
    network = machine.network(here, tmp_path)
    quick = Settings.from_layers(
        {"lan": {"enabled": True, "mdns": False}, "timing": {"address_poll": 0.01}}
    )
    await network.follow(quick)
    machine.keys = True
    await until(lambda: network.view().urls)
    await network.close()


async def test_what_is_being_bound_when_its_time_is_over_is_closed(
    here: World, tmp_path: Path
) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    begun, go = threading.Event(), threading.Event()

    def slow(address: str, port: int) -> socket.socket:
        begun.set()
        assert go.wait(10)
        return machine.bind(address, port)

    network.bind = slow
    following = asyncio.create_task(network.follow(settings(host="docker0")))
    await until(begun.is_set)
    following.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert machine.socks["172.17.0.1"].fileno() == -1
    await network.close()


async def ask(here: World, port: int, cert: str) -> int:
    trust = ssl.create_default_context(cafile=cert)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust, server_hostname="192.168.1.5"
    )
    client = Client(reader, writer)
    here.clients.append(client)
    await client.send(get("/health"))
    return (await client.reply()).status


async def test_a_certificate_of_our_own(here: World, tmp_path: Path) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    assert await network.follow(settings()) == []
    plain = machine.socks["192.168.1.5"]
    assert await network.follow(settings(tls={"enabled": True})) == []
    assert plain.fileno() == -1, "what was plain is closed; its port stays ours"
    view = network.view()
    assert view.urls[0] == f"https://192.168.1.5:{here.front.port}"
    assert (view.tls, view.self_made, len(view.fingerprint)) == (True, True, 95)
    assert await ask(here, machine.port("192.168.1.5"), view.certificate) == 200
    await network.follow(settings(tls={"enabled": True}))
    assert network.view().fingerprint == view.fingerprint
    assert view.expires is not None
    machine.now = view.expires - 86400
    await network.look()
    assert network.view().fingerprint != view.fingerprint, "renewed before its end"
    _, writer = await asyncio.open_connection("127.0.0.1", machine.port("192.168.1.5"))
    writer.close()
    await network.close()


async def test_the_users_own_certificate(here: World, tmp_path: Path) -> None:
    made = ensure(
        tmp_path / "own", ["192.168.1.5"], life=9e6, renewal=1, now=time.time(), anew=False
    )
    await asyncio.to_thread(Path(made.key).chmod, 0o644)
    machine = Machine()
    network = machine.network(here, tmp_path)
    files = {"enabled": True, "cert": made.cert, "key": made.key}
    (doubt,) = await network.follow(settings(tls=files))
    assert doubt == f"Everybody on this machine can read {made.key}: chmod 600 {made.key}"
    view = network.view()
    assert (view.self_made, view.certificate, view.expires) == (False, made.cert, made.not_after)
    assert await ask(here, machine.port("192.168.1.5"), made.cert) == 200
    await asyncio.to_thread(Path(made.cert).write_text, "nonsense")
    problem, again = await network.follow(settings(tls=files))
    assert ("cannot be used" in problem, again) == (True, doubt)
    assert len(network.view().urls) == 3, "the last good one goes on"
    await network.close()


async def test_a_certificate_that_does_not_work_opens_nothing(here: World, tmp_path: Path) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    files = {"enabled": True, "cert": str(tmp_path / "no.pem"), "key": str(tmp_path / "no.key")}
    (problem,) = await network.follow(settings(tls=files))
    assert "No such file" in problem
    assert (machine.socks, network.view().urls) == ({}, [])
    await network.close()


async def test_what_the_fixed_address_covers_is_not_opened_twice(
    here: World, tmp_path: Path
) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    wide = Settings.from_layers(
        {
            "server": {"host": "0.0.0.0"},
            "lan": {"enabled": True, "mdns": False},
            "tls": {"enabled": True},
        }
    )
    (problem,) = await network.follow(wide)
    assert "server.host = 0.0.0.0 is open" in problem
    assert "without encryption" in problem
    assert list(machine.socks) == ["fd00::5"]
    port = here.front.port
    assert network.view().urls == [
        f"https://[fd00::5]:{port}",
        f"http://192.168.1.5:{port}",
        f"http://172.17.0.1:{port}",
    ]
    await network.close()


async def test_sockets_that_systemd_kept_are_served_again(here: World, tmp_path: Path) -> None:
    machine = Machine()
    port = here.front.port
    back = {name: socket.create_server(("127.0.0.1", 0)) for name in ("fd00::5", "10.0.0.9")}
    ports = {name: sock.getsockname()[1] for name, sock in back.items()}
    kept = Kept(None, [Handed(sock, "lan-x", (name, port)) for name, sock in back.items()])
    network = machine.network(here, tmp_path, kept=kept)
    assert await network.follow(settings()) == []
    assert set(machine.socks) == {"192.168.1.5", "172.17.0.1"}, "the others are bound"
    client = await here.client(ports["fd00::5"])
    await client.send(get("/health"))
    assert (await client.reply()).status == 200
    assert (kept.handed, back["10.0.0.9"].fileno()) == ([], -1), "an address that is gone"
    await network.close()


async def test_an_address_is_not_let_go_while_encryption_begins(
    here: World, tmp_path: Path
) -> None:
    machine = Machine()
    network = machine.network(here, tmp_path)
    assert await network.follow(settings(host="docker0")) == []
    first = machine.port("172.17.0.1")
    machine.taken.add("172.17.0.1")
    assert await network.follow(settings({"enabled": True}, host="docker0")) == []
    assert network.view().urls == [f"https://172.17.0.1:{here.front.port}"]
    _, writer = await asyncio.open_connection("127.0.0.1", first)
    writer.close()
    await network.close()
