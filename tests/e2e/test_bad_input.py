"""Bad input: a clear error in the dialect of the path, nothing crashes, nothing is lost."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.fixture
def house(make_house: MakeHouse, tiny_gguf: Path) -> House:
    return make_house(
        f'[models.tiny]\npath = "{tiny_gguf}"\nctx = 512\nengine = "xllamacpp"\n'
    ).start()


def error_of(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The inner error, after checking the shape of the dialect."""
    error: dict[str, Any] = body["error"]
    if path == MESSAGES:
        assert body["type"] == "error"
        assert error.keys() >= {"type", "message"}
    else:
        assert error.keys() >= {"message", "type", "param", "code"}
    return error


BAD: list[tuple[str, bytes, int, str]] = [
    ("unknown model", b'{"model": "tinny", "messages": []}', 404, "tiny"),
    ("malformed JSON", b'{"model": "tiny", ', 400, "JSON"),
    ("no model", b'{"messages": []}', 400, "model"),
    ("model of the wrong type", b'{"model": 7, "messages": []}', 400, "model"),
    ("not an object", b"[1, 2]", 400, "object"),
    ("empty body", b"", 400, ""),
    ("1,000 deep", b'{"model": "tiny", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400, ""),
    ("two models", b'{"model": "tiny", "model": "other"}', 400, "model"),
    ("not UTF-8", b'{"model": "\xff\xfe"}', 400, ""),
]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_each_is_a_clear_error(house: House, path: str) -> None:
    for name, body, status, said in BAD:
        answer = house.request("POST", path, body)
        assert answer.status == status, (name, answer.status, answer.body)
        error = error_of(path, answer.json())
        assert said in error["message"], (name, error)
        assert answer.headers["x-request-id"]
    assert house.backends() == {}, "nothing was started for any of them"
    assert house.chat("tiny").status == 200


def test_wrong_method_and_unknown_path(house: House) -> None:
    wrong = house.request("GET", CHAT)
    assert wrong.status == 405
    assert "POST" in wrong.headers["allow"]
    assert house.request("POST", "/v1/nothing", {}).status == 404
    assert house.request("DELETE", "/v1/models").status == 405


def test_control_on_the_port_needs_a_key(house: House) -> None:
    for path in ("/control/v1/status", "/control/v1/models/tiny/load", "/ui/", "/metrics"):
        answer = house.request("GET", path)
        assert answer.status == 401, (path, answer.status)
        assert "ctl" in answer.json()["error"]["hint"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), 10) as client:
        client.settimeout(10)
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\n"
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))  # to its end: it may be in pieces
    assert answer.startswith(b"HTTP/1.1 413 ")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert "MiB" in json.loads(body)["error"]["message"] or "bytes" in body.decode()


def test_a_page_in_a_browser_gets_nothing(house: House) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = house.request("POST", CHAT, {"model": "tiny", "messages": []}, headers)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    assert house.request("GET", "/v1/models", None, {"Host": "evil.example"}).status == 421
    assert house.backends() == {}


def test_ten_mistakes_are_reported_at_once(make_house: MakeHouse) -> None:
    house = make_house(
        """
[memroy]
budget = "much"

[memory]
budget = "much"
tier = "wild"

[defaults]
keep_alive = "soon"
slots = 0

[logs]
max_size = "-1"

[models.a]
path = "/x.gguf"
ctxx = 5

[models.b]
engine = "lama-server"
path = "/y.gguf"
hf = "owner/name"

[models.c]
preset = "qwen3-codr"

[timing]
settle = "later"
"""
    )
    house.launch()
    assert house.process is not None
    assert house.process.wait(30) == 78
    report = house.stderr()
    for word in (
        "memroy",
        "memory.budget",
        "memory.tier",
        "defaults.keep_alive",
        "defaults.slots",
        "logs.max_size",
        "models.a.ctxx",
        "models.b.engine",
        "models.c.preset",
        "timing.settle",
    ):
        assert word in report, f"{word} is not in:\n{report}"
    assert "Traceback" not in report
    assert "qwen3-coder" in report
    assert "ctx" in report
