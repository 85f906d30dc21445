"""The way to another machine's daemon: its certificate, our key, what is kept."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control_api.client import Client, HostError, RefusedError
from control_api.far import Far, find
from control_api.hosts import Host, Hosts
from daemon.lan.certificate import ensure

KEY = "mp-" + "k" * 43


@dataclass
class There:
    """A server that takes one key; what it was sent."""

    url: str
    pin: str
    seen: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., There]]:
    servers: list[http.server.ThreadingHTTPServer] = []
    threads: list[threading.Thread] = []

    def start(*, tls: bool = False, answer: bytes = b'{"version": "1.0"}') -> There:
        there = There("", "")

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                there.seen.append((self.path, self.headers.get("Authorization", "")))
                good = self.headers.get("Authorization") == f"Bearer {KEY}"
                error = {"error": {"code": "unauthorized", "message": "No.", "hint": ""}}
                body = answer if good else json.dumps(error).encode()
                self.send_response(200 if good else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            folder = tmp_path / f"tls{len(servers)}"
            made = ensure(folder, ["box"], life=9e6, renewal=1, now=time.time(), anew=False)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(made.cert, made.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            import hashlib

            der = ssl.PEM_cert_to_DER_cert(Path(made.cert).read_text())
            there.pin = hashlib.sha256(der).digest().hex(":").upper()
        scheme = "https" if tls else "http"
        there.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append(server)
        threads.append(thread)
        return there

    yield start
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Person:
    """Who is asked; ``said`` is what was told."""

    key: str = KEY
    agrees: bool = True
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def ask(self, question: str) -> str:
        self.asked.append(question)
        return self.key

    def agree(self, question: str) -> bool:
        self.asked.append(question)
        return self.agrees


def far(there: There, folder: Path, person: Person | None, key: str | None = None) -> Far:
    mine = Hosts(folder / "hosts.json", None)
    return Far(
        mine.find(there.url),
        mine,
        key,
        ask=person.ask if person else None,
        agree=person.agree if person else None,
        say=person.said.append if person else lambda _: None,
    )


def test_the_key_is_asked_for_once_and_kept(serve: Callable[..., There], tmp_path: Path) -> None:
    there, person = serve(), Person()
    client = Client.of(far(there, tmp_path, person))
    assert client.get("/version") == {"version": "1.0"}
    assert client.get("/version", a=1) == {"version": "1.0"}
    assert there.seen[0] == ("/control/v1/version", f"Bearer {KEY}")
    assert len(person.asked) == 1
    assert "Without TLS" in person.said[0]
    assert Client.of(far(there, tmp_path, None)).get("/version") == {"version": "1.0"}


def test_a_wrong_key_is_not_kept(serve: Callable[..., There], tmp_path: Path) -> None:
    there, person = serve(), Person(key="mp-wrong")
    with pytest.raises(RefusedError, match="No"):
        Client.of(far(there, tmp_path, person)).get("/version")
    assert not (tmp_path / "hosts.json").exists()
    with pytest.raises(HostError, match="no key for"):
        Client.of(far(there, tmp_path, None)).get("/version")


@pytest.mark.parametrize("key", ["", "käse", "a\r\nX: y"])
def test_what_is_no_key_is_never_sent(
    serve: Callable[..., There], tmp_path: Path, key: str
) -> None:
    there = serve()
    with pytest.raises(HostError, match="is no key"):
        Client.of(far(there, tmp_path, Person(key=key))).get("/version")
    assert there.seen == []


def test_a_certificate_is_accepted_once_and_then_it_must_be_that(
    serve: Callable[..., There], tmp_path: Path
) -> None:
    there, person = serve(tls=True), Person()
    assert Client.of(far(there, tmp_path, person)).get("/version") == {"version": "1.0"}
    assert there.pin in "".join(person.said)
    assert Client.of(far(there, tmp_path, None)).get("/version") == {"version": "1.0"}
    other = serve(tls=True)
    mine = Hosts(tmp_path / "hosts.json", None)
    known = mine.find(there.url)
    moved = Host(known.name, other.url, known.fingerprint)
    spy = Far(moved, mine, KEY, ask=None, agree=None, say=lambda _: None)
    with pytest.raises(HostError, match="another one"):
        Client.of(spy).get("/version")
    assert other.seen == []


@pytest.mark.parametrize("person", [None, Person(agrees=False)], ids=["nobody", "no"])
def test_a_stranger_gets_nothing(
    serve: Callable[..., There], tmp_path: Path, person: Person | None
) -> None:
    there = serve(tls=True)
    with pytest.raises(HostError, match="certificate"):
        Client.of(far(there, tmp_path, person, KEY)).get("/version")
    assert there.seen == []
    assert not (tmp_path / "hosts.json").exists()


def test_what_goes_wrong_is_said_in_words(
    serve: Callable[..., There], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def nameless(host: str, *args: Any, **more: Any) -> Any:
        """As where there is a name server: it may be slow, or there is none."""
        if host == "box.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", nameless)
    plain, safe = serve(), serve(tls=True)
    texts = {}
    for name, url in {
        "nobody": "http://127.0.0.1:1",
        "unknown": "http://box.invalid:1",
        "plain": plain.url.replace("http:", "https:"),
        "safe": safe.url.replace("https:", "http:"),
    }.items():
        there = There(url, "")
        with pytest.raises(HostError) as caught:
            Client.of(far(there, tmp_path, None, KEY)).get("/version")
        texts[name] = str(caught.value)
    assert "Nobody listens" in texts["nobody"]
    assert "no machine of that name" in texts["unknown"]
    assert "TLS" in texts["plain"]
    assert "closed the connection" in texts["safe"]
    odd = serve(answer=b"<html>")
    with pytest.raises(HostError, match="no modelport"):
        Client.of(far(odd, tmp_path, None, KEY)).get("/version")


def test_it_is_found_by_the_environment(serve: Callable[..., There], tmp_path: Path) -> None:
    there = serve()
    environ = {
        "MODELPORT_CONFIG": str(tmp_path / "config.toml"),
        "MODELPORT_HOST": there.url,
        "MODELPORT_KEY": KEY,
    }
    client = Client(environ=environ)
    assert client.get("/version") == {"version": "1.0"}
    assert client.url() == there.url
    assert not (tmp_path / "hosts.json").exists(), "what is in the environment stays there"
    with pytest.raises(RefusedError, match="no machine named"):
        find("nas", environ)


def test_a_path_of_a_proxy_is_kept(serve: Callable[..., There], tmp_path: Path) -> None:
    there = serve()
    behind = There(f"{there.url}/mp", "")
    Client.of(far(behind, tmp_path, None, KEY)).get("/version")
    assert there.seen[0][0] == "/mp/control/v1/version"
