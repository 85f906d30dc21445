"""Other machines: two hosts and a container's bridge in network namespaces, whole daemons."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.relay.routes import listed
from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import House
from tests.e2e.namespaces import Machine, cable, machines
from tests.e2e.test_landlord import stand_in

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

QUICK = timing({"address_poll": 0.2, "keys_poll": 0.2, "auth_delay": 0.01})
MODELS = '[memory]\nbudget = "350 MiB"\n' + stand_in("a")
HI = json.dumps({"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8})
CHAT = "/v1/chat/completions"


def bearer(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


@dataclass
class Site:
    """A machine with a daemon on it, or with a user alone."""

    machine: Machine
    house: House

    @property
    def environ(self) -> dict[str, str]:
        """Of a user there, who has no keyring."""
        return {
            **self.house.environ,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "HOME": str(self.house.folder),
        }

    def ctl(self, *words: str, text: str = "", **more: str) -> Any:
        return self.machine.ctl(*words, environ={**self.environ, **more}, text=text)

    def json(self, *words: str, **more: str) -> Any:
        done = self.ctl(*words, "--json", **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def sites(make_house: MakeHouse) -> Iterator[tuple[Site, Site]]:
    """Two machines on one cable; no daemon runs yet."""
    with machines(2) as (one, two):
        cable(one, "eth0", two, "eth0")
        for machine, number in ((one, 1), (two, 2)):
            machine.address("eth0", f"10.77.0.{number}/24")
            machine.address("eth0", f"fd77::{number}/64")
        found = []
        for machine in (one, two):
            house = make_house(QUICK + MODELS)
            house.wrapper = machine.inside
            found.append(Site(machine, house))
        yield found[0], found[1]
        for site in found:
            site.house.__exit__()


def discovered(site: Site, count: int) -> list[dict[str, Any]]:
    """What is seen from there; so many at least are waited for, as on a slow network."""
    deadline = time.monotonic() + 30
    while True:
        found: list[dict[str, Any]] = site.json("discover", "--timeout", "3")["servers"]
        if len(found) >= count or time.monotonic() > deadline:
            return found


def eventually(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_two_hosts(sites: tuple[Site, Site]) -> None:
    here, there = sites
    port = here.house.port
    here.house.start()
    refused = there.machine.ask("10.77.0.1", port, ("GET", "/health"))
    assert refused[0][0] == 0, "loopback alone, until it is said otherwise"
    told = here.json("lan", "on", "--tls")
    assert told["urls"] == [f"https://10.77.0.1:{port}", f"https://[fd77::1]:{port}"]
    key, ca = told["key"], told["certificate"]

    good, anyone, wrong, v6 = (
        *there.machine.ask(
            "10.77.0.1",
            port,
            ("POST", CHAT, bearer(key), HI),
            ("POST", CHAT, {}, HI),
            ("POST", CHAT, bearer("mp-" + "x" * 43), HI),
            ca=ca,
        ),
        *there.machine.ask("fd77::1", port, ("GET", "/v1/models", {"x-api-key": key}), ca=ca),
    )
    assert (good[0], anyone[0], wrong[0], v6[0]) == (200, 401, 401, 200), (good, v6)
    assert there.machine.ask("10.77.0.1", port, ("GET", "/health"))[0][0] == 0, "plain is no way in"

    # seen from the other machine
    (found,) = discovered(there, 1)
    assert found["urls"] == told["urls"]
    assert told["fingerprint"].replace(":", "").lower().startswith(found["fingerprint"])
    assert key not in json.dumps(found)

    # addresses come and go, and nobody else notices
    here.machine.address("eth0", "10.77.0.9/24")
    eventually(lambda: len(here.json("lan", "status")["urls"]) == 3, "a new address is opened")
    here.machine.ip("addr", "del", "10.77.0.9/24", "dev", "eth0")
    eventually(lambda: len(here.json("lan", "status")["urls"]) == 2, "and closed")

    # without its keys nobody comes in, nor is it announced
    here.json("key", "rm", "lan")
    eventually(lambda: not here.json("lan", "status")["urls"], "no key, no port")
    assert there.machine.ask("10.77.0.1", port, ("GET", "/health"), ca=ca)[0][0] == 0
    assert there.json("discover", "--timeout", "2")["servers"] == []
    log = here.house.log_file.read_text()
    assert key not in log
    assert "there is no key" in log


def test_two_daemons_see_each_other_until_they_leave(sites: tuple[Site, Site]) -> None:
    here, there = sites
    for site in sites:
        site.house.start()
        site.json("lan", "on", "--no-mdns" if site is here else "--mdns")
    seen = {one["urls"][0] for one in discovered(here, 1)}
    assert seen == {f"http://10.77.0.2:{there.house.port}"}, "the first one is not announced"
    here.json("lan", "on", "--mdns")
    seen = {one["urls"][0] for one in discovered(there, 2)}
    assert seen == {f"http://10.77.0.{n}:{s.house.port}" for n, s in ((1, here), (2, there))}
    there.json("lan", "off")
    here.house.stop()
    assert here.json("discover", "--timeout", "2")["servers"] == [], "both said goodbye"


def test_no_route_is_open_without_a_key(sites: tuple[Site, Site]) -> None:
    here, there = sites
    here.house.start()
    here.json("lan", "on")
    control = [
        *(("GET", f"/control/v1/{name}") for name in ("status", "models", "keys", "events")),
        *(("POST", f"/control/v1/{name}") for name in ("reload", "shutdown", "keys")),
        *(("GET", path) for path in ("/ui/", "/metrics", "/upstream/a/props", "/nowhere")),
    ]
    asks = [
        (method, path, headers, "{}")
        for method, path in [*listed(), *control]
        for headers in ({}, bearer("mp-" + "x" * 43), bearer("modelport"), {"x-api-key": "a b"})
    ]
    answers = there.machine.ask("10.77.0.1", here.house.port, *asks)
    let_in = [
        (ask[:3], status)
        for ask, (status, _) in zip(asks, answers, strict=True)
        if status not in (401, 429)
    ]
    assert let_in == []
    assert here.house.backends() == {}
    assert here.house.status()["counters"]["requests"] == 0


def test_a_real_engine_over_tls_and_ctl_from_afar(
    sites: tuple[Site, Site], tiny_gguf: Path
) -> None:
    pytest.importorskip("xllamacpp")
    here, there = sites
    here.house.write(
        f'{QUICK}[models.tiny]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\n'
    )
    here.house.start()
    told = here.json("lan", "on", "--tls")
    url, pin = told["urls"][0], told["fingerprint"]
    control = here.json("key", "add", "far", "--scope", "control")["key"]

    # a stranger's certificate is refused, and so is a key that may not control
    unknown = there.ctl("host", "add", "box", url, "--key-stdin", text=control + "\n")
    assert (unknown.returncode, pin in unknown.stderr) == (3, True), unknown.stderr
    other = pin.replace(pin[0], "0" if pin[0] != "0" else "1")
    bad = there.ctl(
        "host", "add", "box", url, "--fingerprint", other, "--key-stdin", text=control + "\n"
    )
    assert (bad.returncode, "Nothing was sent" in bad.stderr) == (3, True)
    words = ("host", "add", "box", url, "--fingerprint", pin, "--key-stdin")
    poor = there.ctl(*words, text=told["key"] + "\n")
    assert (poor.returncode, "control" in poor.stderr) == (1, True), poor.stderr
    assert not (there.house.folder / "hosts.json").exists(), "what does not work is not kept"
    added = there.ctl(*words, text=control + "\n")
    assert added.returncode == 0, added.stderr
    assert control not in added.stdout + added.stderr
    kept = there.house.folder / "hosts.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    # what ctl does here, it does there
    assert there.ctl("--host", "box", "load", "tiny").returncode == 0
    (running,) = json.loads(there.ctl("--host", "box", "ps", "--json").stdout)["backends"]
    assert running["model"] == "tiny"
    said = there.ctl("run", "tiny", "count", MODELPORT_HOST="box")
    assert said.stdout.startswith("one two three"), said.stderr
    events = there.ctl("--host", "box", "logs", "daemon", "-n", "5")
    assert events.returncode == 0, events.stderr
    env = there.ctl("--host", "box", "env", "claude", "tiny")
    assert f"ANTHROPIC_BASE_URL={url}" in env.stdout
    asked = there.ctl("--host", url, "status", "--json", MODELPORT_KEY=control)
    assert json.loads(asked.stdout)["version"]
    wrong = there.ctl("--host", "box", "ps", MODELPORT_KEY="mp-" + "x" * 43)
    assert (wrong.returncode, "key" in wrong.stderr) == (1, True)
    files = there.ctl("--host", "box", "config", "path")
    assert (files.returncode, "works on files of the machine itself" in files.stderr) == (2, True)
    assert there.ctl("--host", "local", "config", "path", MODELPORT_HOST="box").returncode == 0
    assert there.ctl("--host", "nobody", "ps").returncode == 1
    here.house.stop()
    gone = there.ctl("--host", "box", "ps")
    assert (gone.returncode, "Nobody listens" in gone.stderr) == (3, True)
    assert there.ctl("host", "rm", "box").returncode == 0
    assert control not in kept.read_text()


@pytest.fixture
def container(make_house: MakeHouse) -> Iterator[tuple[Site, Machine]]:
    """A machine with docker0, and a container on it."""
    with machines(2) as (machine, inner):
        machine.ip("link", "add", "docker0", "type", "bridge")
        machine.ip("link", "set", "docker0", "up")
        machine.address("docker0", "172.30.0.1/24")
        cable(machine, "veth0", inner, "eth0")
        machine.ip("link", "set", "veth0", "master", "docker0")
        inner.address("eth0", "172.30.0.2/24")
        machine.ip("link", "add", "eth0", "type", "bridge")  # stands for a card
        machine.ip("link", "set", "eth0", "up")
        machine.address("eth0", "10.78.0.1/24")
        house = make_house(QUICK + MODELS)
        house.wrapper = machine.inside
        yield Site(machine, house), inner
        house.__exit__()


@pytest.mark.parametrize("name", ["host.docker.internal", "host.containers.internal"])
def test_a_container_comes_in_by_the_bridge(container: tuple[Site, Machine], name: str) -> None:
    site, inner = container
    site.house.start()
    told = site.json("lan", "on", "--docker", "--no-mdns")
    port = site.house.port
    assert told["urls"] == [f"http://172.30.0.1:{port}"], "the bridge and nothing else"
    host = {"Host": f"{name}:{port}"}
    good, anyone, rebound = inner.ask(
        "172.30.0.1",
        port,
        ("POST", CHAT, bearer(told["key"], **host), HI),
        ("POST", CHAT, host, HI),
        ("POST", CHAT, {"Host": "evil.example"}, HI),
    )
    assert (good[0], anyone[0], rebound[0]) == (200, 401, 421), good
    lines = site.ctl("lan", "on", "--docker").stdout
    assert f"OPENAI_API_BASE_URL=http://host.docker.internal:{port}/v1" in lines


def test_a_container_without_a_key_where_that_is_spelled_out(
    container: tuple[Site, Machine],
) -> None:
    site, inner = container
    site.house.flags = ("--insecure-no-auth",)
    site.house.write(f'{QUICK}[lan]\nenabled = true\nhost = "docker0"\n{MODELS}')
    site.house.start()
    port = site.house.port
    eventually(lambda: site.json("lan", "status")["urls"], "it is open")
    host = {"Host": f"host.docker.internal:{port}"}
    chat, control, rebound = inner.ask(
        "172.30.0.1",
        port,
        ("POST", CHAT, host, HI),
        ("GET", "/control/v1/status", host),
        ("POST", CHAT, {"Host": "evil.example"}, HI),
    )
    assert (chat[0], control[0], rebound[0]) == (200, 401, 421), chat
    assert site.json("lan", "status")["announced"] == "", "what needs no key is not announced"
