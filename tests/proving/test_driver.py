"""Whole steps over real connections, to a stand-in that plays good models and broken engines."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from daemon.proving.driver import hear, take, together
from daemon.proving.steps import STEPS
from daemon.proving.values import Ask, Ended, Finding, Heard, Subject
from daemon.proving.verdict import verdict
from tests.fakes import start

CALLS = '{"thing": "salt", "warehouse": "north"}'
GOOD = ["--calls", CALLS, "--sees", "--refuse-long", "-c", "2000", "-np", "2"]
SUBJECT = Subject(
    "fake",
    context=2000,
    slots=2,
    sees=True,
    routes=frozenset({"chat", "messages", "responses"}),
    seconds=20.0,
    long_seconds=20.0,
)


def find(step: str, *flags: str, subject: Subject = SUBJECT) -> Finding:
    with start.running("engine", *flags) as fake:
        return take(STEPS[step], subject, fake.url)


def test_a_good_model_of_a_good_engine() -> None:
    with start.running("engine", *GOOD) as fake:
        found = {name: take(step, SUBJECT, fake.url) for name, step in STEPS.items()}
    assert verdict(found) == ("works", ""), found
    assert {one.outcome for one in found.values()} == {"works"}
    assert all(one.seconds > 0 for one in found.values())


@pytest.mark.parametrize(
    ("step", "flags", "outcome", "said"),
    [
        ("stream", ["--no-finish"], "broken", "no finish_reason"),
        ("stream", ["--crash-at", "token:3"], "broken", "broke off"),
        ("stream", ["--health-lies"], "broken", "Compute error."),
        ("tools-chat", ["--calls", CALLS, "--writes-calls"], "broken", "arrives as text"),
        ("tools-messages", ["--calls", CALLS, "--writes-calls"], "broken", "arrives as text"),
        ("tools-responses", ["--calls", CALLS, "--writes-calls"], "broken", "arrives as text"),
        ("tools-chat", ["--calls", CALLS, "--ends-wrong"], "broken", "clients stop there"),
        ("tools-messages", ["--calls", CALLS, "--ends-wrong"], "broken", "clients stop there"),
        ("tools-messages", ["--calls", CALLS, "--no-finish"], "broken", "no stop_reason"),
        ("tools-responses", ["--calls", CALLS, "--no-finish"], "broken", "response.completed"),
        ("tools-chat", ["--calls", CALLS, "--calls-forced"], "but", "the round itself works"),
        ("tools-messages", ["--calls", CALLS, "--calls-forced"], "but", "the round itself works"),
        ("tools-responses", ["--calls", '{"x": 1}'], "but", "leaves out thing, warehouse"),
        ("tools-chat", [], "but", "never calls the tool, nor when"),
        ("image", [], "but", "of red and blue"),
        ("context", ["--cut-long", "-c", "2000"], "broken", "cut in silence"),
        ("context", [], "but", "takes more than the 2000 tokens"),
        ("leak", ["--leaks"], "broken", "was said in another"),
    ],
)
def test_what_is_broken_and_what_is_weak(
    step: str, flags: list[str], outcome: str, said: str
) -> None:
    found = find(step, *flags)
    assert found.outcome == outcome, found
    assert said in found.text


def test_an_engine_that_goes_on_for_clients_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(SUBJECT, slots=1, context=1000)
    assert find("stop", "--token-s", "0.02", subject=one).outcome == "works"
    monkeypatch.setattr("daemon.proving.talking.SOON", 0.3)
    flags = ["--deaf", "--token-s", "0.008"]  # 500 tokens: 4 s
    assert "goes on writing" in find("stop", *flags, subject=one).text


def test_one_that_never_answers() -> None:
    found = find("stream", "--hang-answer", subject=replace(SUBJECT, seconds=0.3))
    assert found.outcome == "broken"
    assert "nothing came" in found.text
    slow = find("stream", "--token-s", "5", subject=replace(SUBJECT, seconds=2.0))
    assert slow.outcome == "unknown"


# ---------------------------------------------------------------- one request

ASK = Ask("/v1/chat/completions", {"x": "y"}, 5.0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@contextmanager
def answering(*parts: bytes, read: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """A server that writes this to its one client, and closes."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.settimeout(10)
                while read and b'"x"' not in b"".join(got):
                    got.append(client.recv(65536))
                for part in parts:
                    client.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", got
        finally:
            thread.join(10)


def test_a_whole_answer_and_the_key() -> None:
    with answering(HEAD + b"Content-Length: 2\r\n\r\nok") as (url, got):
        heard = hear(ASK, url, "secret")
    assert (heard.status, heard.kind, heard.data) == (200, "text/event-stream", b"ok")
    assert heard.ended is Ended.WHOLE
    assert b"authorization: bearer secret" in b"".join(got).lower()
    with answering(HEAD + b"Content-Length: 2\r\n\r\nok") as (url, got):
        hear(replace(ASK, path="/v1/messages"), url)
    assert b"anthropic-version" in b"".join(got).lower()
    assert b"authorization" not in b"".join(got).lower()


@pytest.mark.parametrize(
    ("raw", "ended"),
    [
        (HEAD + b"Content-Length: 9\r\n\r\nok", Ended.BROKEN),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Ended.BROKEN),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Ended.WHOLE),
        (HEAD + b"\r\nok", Ended.WHOLE),
        (b"", Ended.BROKEN),
        (b"nonsense\r\n\r\n", Ended.BROKEN),
    ],
)
def test_how_it_ends(raw: bytes, ended: Ended) -> None:
    with answering(raw) as (url, _):
        heard = hear(ASK, url)
    assert heard.ended is ended, heard
    assert bool(heard.detail) is (ended is Ended.BROKEN)


def test_a_stream_that_is_left() -> None:
    endless = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"9\r\ndata: 1\n\n\r\n" * 5
    with answering(endless) as (url, _):
        heard = hear(replace(ASK, stop_after=3), url)
    assert heard.ended is Ended.STOPPED
    assert heard.data.count(b"data:") >= 3


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    one, two = together((ASK, ASK), url)
    assert one.ended is two.ended is Ended.UNREACHABLE
    assert url in one.detail
    assert Heard().ended is Ended.WHOLE
