"""The judge of outcomes judges right: what it lets pass, the tests of faults let pass."""

from __future__ import annotations

import json

import pytest

from tests.e2e.outcomes import Ask, Incoming, MistakeError, expected, judged

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Request-Id: r\r\n\r\n"


def fed(data: bytes) -> Incoming:
    incoming = Incoming()
    for at in range(0, len(data), 7):
        incoming.feed(data[at : at + 7])
    return incoming


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def chat(*words: str, done: bool = True, end: bool = True) -> Incoming:
    events = [{"choices": [{"delta": {"content": word}}]} for word in words]
    data = b"".join(chunk(b"data: " + json.dumps(e).encode() + b"\n\n") for e in events)
    data += chunk(b"data: [DONE]\n\n") if done else b""
    return fed(CHUNKED + data + (b"0\r\n\r\n" if end else b""))


def test_whole_and_broken_streams_are_told_apart() -> None:
    what = Ask("m", tokens=2)
    assert judged(what, chat("one", " two")).kind == "answer"
    assert judged(what, chat("one", done=False, end=False)).kind == "aborted"
    assert judged(what, chat("one", " two", end=False)).kind == "aborted"
    with pytest.raises(MistakeError, match="not whole"):
        judged(what, chat("one", done=False))
    with pytest.raises(MistakeError, match="its own"):
        judged(what, chat("one"))
    with pytest.raises(MistakeError, match="its own"):
        judged(what, chat("two", done=False, end=False))
    half = fed(CHUNKED + chunk(b"data: {") + b"0\r\n\r\n")
    with pytest.raises(MistakeError, match="middle of an event"):
        judged(what, half)


def test_whole_and_broken_answers_are_told_apart() -> None:
    what = Ask("m", stream=False, tokens=2)
    body = json.dumps({"choices": [{"message": {"content": expected(2)}}]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert judged(what, fed(head + body)).kind == "answer"
    assert judged(what, fed(head + body[:-1])).kind == "aborted"
    assert judged(what, fed(b"")).kind == "aborted"
    with pytest.raises(MistakeError, match="bytes after"):
        fed(head + body + b"x")
    with pytest.raises(MistakeError, match="where the answer ends"):
        fed(b"HTTP/1.1 200 OK\r\n\r\n" + body)


@pytest.mark.parametrize(("route", "right"), [("chat", "openai"), ("messages", "anthropic")])
def test_an_error_must_be_of_the_dialect(route: str, right: str) -> None:
    bodies = {
        "openai": {"error": {"message": "no", "type": "server_error", "code": "backoff"}},
        "anthropic": {"type": "error", "error": {"type": "api_error", "message": "no"}},
        "none": {"detail": "no"},
    }
    for name, content in bodies.items():
        body = json.dumps(content).encode()
        head = "HTTP/1.1 503 X\r\nContent-Type: application/json\r\nX-Request-Id: r\r\n"
        head += "X-Should-Retry: true\r\n"
        incoming = fed(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if name == right:
            assert judged(Ask("m", route), incoming).kind == "error"
        else:
            with pytest.raises(MistakeError):
                judged(Ask("m", route), incoming)
