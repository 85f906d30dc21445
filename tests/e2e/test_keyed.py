"""A whole daemon that other machines reach: nobody without a key, and no key anywhere it can be
read. The other machine is this one, by an address of its own that is not loopback."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from control_api.app import OPERATIONS
from control_api.operation import PREFIX
from daemon.relay.routes import listed
from tests.e2e.house import House
from tests.e2e.stage import Stage, folder
from tests.e2e.test_canary import contents
from tests.ports import free_port

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]
NAMES = ("a", "b")


def own_address() -> str:
    """Of this machine, as its neighbours see it."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has no address but loopback")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    own_address()
    times = {"keys_poll": 0.05, "auth_delay": 0}
    with folder() as place:
        stage = Stage(place, NAMES, times=times)
        stage.house.server = 'host = "0.0.0.0"\n'
        stage.house.write(stage.config())
        ready = stage.house.ctl("key", "add", "first")
        assert ready.returncode == 0, ready.stderr
        with stage:
            yield stage


def make(house: House, *words: str) -> str:
    done = house.ctl("key", "add", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(
    house: House, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    """From the other machine."""
    connection = http.client.HTTPConnection(own_address(), house.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        host = f"{own_address()}:{house.port}"
        sent = {"Host": host, "Content-Type": "application/json", **headers}
        for name, value in sent.items():
            connection.putheader(name.replace("_", "-"), value.encode("latin-1"))
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def chat(model: str) -> bytes:
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps(body).encode()


def state(house: House) -> str:
    """All that a request could have changed."""
    config = house.config_file.read_bytes()
    keys = [key["name"] for key in house.client.get("/keys")["keys"]]
    models = [(m["name"], m["state"], m["pinned"]) for m in house.client.get("/models")["models"]]
    status = house.status()
    facts = [keys, models, status["paused"], status["pid"], status["counters"]]
    return hashlib.sha256(config + json.dumps(facts).encode()).hexdigest()


# ---------------------------------------------------------------- every route


def routes() -> list[tuple[str, str]]:
    control = [
        (one.method, PREFIX + one.path.replace("{name}", "a").replace("{key}", "first"))
        for one in OPERATIONS
    ]
    more = [
        ("GET", "/ui/"),
        ("GET", "/metrics"),
        ("POST", "/upstream/a/x"),
        ("GET", "/v1/models/a"),
    ]
    return [*listed(), *control, *more]


WRONG: dict[str, dict[str, str]] = {
    "none": {},
    "wrong": {"Authorization": "Bearer mp-" + "x" * 43},
    "empty": {"x-api-key": ""},
    "not ASCII": {"x-api-key": "mp-\xe9\xff"},
    "large": {"x-api-key": "mp-" + "x" * 60_000},
    "in the query": {},
}
HOSTILE: dict[str, dict[str, str]] = {
    "": {},
    "evil origin": {"Origin": "https://evil.example"},
    "null origin": {"Origin": "null"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "text": {"Content-Type": "text/plain"},
    "form": {"Content-Type": "application/x-www-form-urlencoded"},
    "multipart": {"Content-Type": "multipart/form-data; boundary=x"},
    "rebound": {"Host": "evil.example"},
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_route_does_anything_for_who_has_no_key(stage: Stage, hostile: str) -> None:
    """Also when the address has failed too often: 429 is no open door."""
    house = stage.house
    key, tried = "", {how: WRONG[how] for how in ("none", "wrong")}
    if not hostile:
        key = make(house, "in-query", "--scope", "control")
        expired = make(house, "expired", "--expires", "1s")
        until_over(house, expired)
        tried = {**WRONG, "expired": {"x-api-key": expired}}
    before = state(house)
    for (how, headers), (method, path) in itertools.product(tried.items(), routes()):
        asked = f"{path}?key={key}&api_key={key}" if how == "in the query" else path
        body = chat("a") if path.startswith(("/v1", "/api")) else b"{}"
        status, said = ask(house, method, asked, body, **{**headers, **HOSTILE[hostile]})
        assert status in {401, 403, 421, 429}, (how, method, path, status, said)
        assert not key or key.encode() not in said
    assert state(house) == before


def until_over(house: House, key: str) -> None:
    """Wait until the key opens nothing."""
    deadline = time.monotonic() + 20
    while ask(house, "GET", "/v1/models", **{"x-api-key": key})[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_key_for_models_controls_nothing(stage: Stage) -> None:
    house = stage.house
    key = make(stage.house, "use-only")
    before = state(house)
    for method, path in routes():
        if path.startswith(("/control", "/ui", "/metrics", "/upstream")):
            status, _ = ask(house, method, path, b"{}", **{"x-api-key": key})
            assert status == 403, path
    assert state(house) == before


def test_a_control_key_makes_no_keys_but_controls(stage: Stage) -> None:
    house = stage.house
    key = make(house, "desk", "--scope", "control")
    by = {"Authorization": f"Bearer {key}", "Host": "any.name.example"}
    status, said = ask(house, "POST", f"{PREFIX}/keys", b'{"name": "mine"}', **by)
    assert (status, b"on the machine itself" in said) == (403, True)
    assert ask(house, "POST", f"{PREFIX}/models/b/load", b'{"wait": true}', **by)[0] == 200
    assert stage.state("b") == "ready"
    status, said = ask(house, "POST", f"{PREFIX}/models/b/unload", b"{}", **by)
    assert (status, json.loads(said)) == (200, {"unloaded": ["b"]})
    plain = {**by, "Content-Type": "text/plain"}
    assert ask(house, "POST", f"{PREFIX}/models/b/load", b"{}", **plain)[0] == 415


def test_models_of_a_key(stage: Stage) -> None:
    house = stage.house
    by = {"x-api-key": make(house, "narrow", "--models", "a")}
    assert ask(house, "POST", "/v1/chat/completions", chat("a"), **by)[0] == 200
    status, said = ask(house, "POST", "/v1/chat/completions", chat("b"), **by)
    assert (status, b"There are: a" in said) == (404, True)
    for path in ("/v1/models", "/api/tags"):
        status, said = ask(house, "GET", path, **by)
        found = json.loads(said)
        names = [one.get("id") or one["name"] for one in found.get("data") or found["models"]]
        assert [name.removesuffix(":latest") for name in names] == ["a"]


def test_gone_at_once(stage: Stage) -> None:
    house = stage.house
    by = {"x-api-key": make(house, "short-lived")}
    assert ask(house, "GET", "/v1/models", **by)[0] == 200
    assert house.ctl("key", "rm", "short-lived").returncode == 0
    assert ask(house, "GET", "/v1/models", **by)[0] in {401, 429}


# ---------------------------------------------------------------- the canary


def said_anywhere(house: House) -> dict[str, bytes]:
    """Every place where a secret could be read: files, processes, answers of the API."""
    found = contents(path for path in house.folder.rglob("*") if path.is_file())
    assert house.process is not None
    daemon = psutil.Process(house.process.pid)
    found |= contents(
        Path(f"/proc/{process.pid}/{name}")
        for process in [daemon, *daemon.children(recursive=True)]
        for name in ("cmdline", "environ")
    )
    found |= house.told()
    found["events"] = repr(house.events()).encode()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_key_is_written_down_anywhere(stage: Stage) -> None:
    house = stage.house
    key = make(house, "canary", "--scope", "control")
    wrong = "mp-" + "Wr0ngKey" * 5 + "abc"
    other = "sk-ant-" + "0therSecret" * 4
    for secret in (key, wrong, other):
        for name in ("Authorization", "x-api-key", "api-key"):
            value = f"Bearer {secret}" if name == "Authorization" else secret
            by = {name: value, "x-request-id": "canary-1"}
            ask(house, "POST", "/v1/chat/completions", chat("a"), **by)
            ask(house, "POST", "/v1/messages", b"{", **by)
            ask(house, "GET", f"/v1/models?key={secret}", **by)
            ask(house, "GET", f"{PREFIX}/status?token={secret}", **by)
            ask(house, "POST", f"/upstream/a/v1/chat/completions?key={secret}", chat("a"), **by)
        here = house.request(
            "POST", f"/v1/chat/completions?key={secret}", chat("a"), {"x-api-key": secret}
        )
        assert here.status == 200
    assert house.client.get("/requests/canary-1")["id"] == "canary-1"
    hits = [
        (place, secret)
        for place, text in said_anywhere(house).items()
        for secret in (key, wrong, other)
        if secret[7:].encode() in text
    ]
    assert hits == []


# ---------------------------------------------------------------- the start


def start(place: Path, *options: str, config: str = "") -> subprocess.CompletedProcess[str]:
    house = House(place, config)
    command = [sys.executable, "-P", "-m", "daemon", f"--port={free_port()}", *options]
    return subprocess.run(
        command, env=house.environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("option", ["--host=0.0.0.0", "--host=::"])
def test_nothing_is_opened_without_a_key(option: str, short_dir: Path) -> None:
    done = start(short_dir, option)
    assert done.returncode == 78, done.stderr
    assert "ctl key add" in done.stderr
    assert "--insecure-no-auth" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_unless_it_is_spelled_out(short_dir: Path) -> None:
    house = House(short_dir, "", server='host = "0.0.0.0"')
    house.wrapper = ("/bin/sh", "-c", 'exec "$@" --insecure-no-auth', "sh")
    with house:
        assert "EVERYONE there may use the models" in house.stderr()
        assert ask(house, "GET", "/v1/models")[0] == 200
        assert ask(house, "GET", "/v1/models", Host="host.docker.internal")[0] == 200
        assert ask(house, "GET", "/v1/models", Host="evil.example")[0] == 421
        assert ask(house, "GET", f"{PREFIX}/status")[0] == 401
