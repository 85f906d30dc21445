from __future__ import annotations

import httptools

from daemon.ports import Target, Waits
from daemon.relay.heads import Fields, Head
from daemon.relay.wire import answer_start, chunk, plain_answer, request_head, server_timing


def head_with(fields: Fields, method: str = "POST") -> Head:
    return Head(method, "/x", "", True, fields)


def sent(head: Head, headers: dict[str, str] | None = None, length: int = 3) -> bytes:
    target = Target("::1", 80)
    return request_head(
        head, "/x?y=1", target, length=length, headers=headers or {}, request_id="r"
    )


def test_a_request_head_in_full() -> None:
    assert sent(head_with([(b"accept", b"*/*"), (b"cookie", b"a")]), {"X-Key": "k"}) == (
        b"POST /x?y=1 HTTP/1.1\r\nhost: [::1]:80\r\naccept: */*\r\nX-Key: k\r\n"
        b"accept-encoding: identity\r\nx-request-id: r\r\ncontent-length: 3\r\n"
        b"connection: keep-alive\r\n\r\n"
    )


def test_a_leases_headers_replace_the_clients() -> None:
    head = head_with([(b"x-key", b"client"), (b"a", b"b")])
    assert b"client" in sent(head)
    assert b"client" not in sent(head, {"X-Key": "k"})
    assert b"client" in sent(head)  # what was put together before is not taken for it


def test_get_has_no_length_but_an_empty_post_has() -> None:
    assert b"content-length" not in sent(head_with([], "GET"), length=0)
    assert b"content-length: 0\r\n" in sent(head_with([], "POST"), length=0)
    assert b"content-length: 2\r\n" in sent(head_with([], "GET"), length=2)


def test_remembered_lines_are_exact() -> None:
    """Far more names and values than are remembered, each the right one."""
    for number in range(5000):
        fields = [(b"x-%d" % (number % 1500), b"%d" % number), (b"x-long", b"a" * 500)]
        raw = sent(head_with(fields))
        assert b"x-%d: %d\r\n" % (number % 1500, number) in raw
        answer = answer_start(200, [*fields, (b"server", b"x")], frozenset())
        assert b"x-%d: %d\r\n" % (number % 1500, number) in answer
        assert b"server" not in answer


def test_what_we_write_parses() -> None:
    class Seen:
        fields: list[tuple[bytes, bytes]]

        def __init__(self) -> None:
            self.fields = []
            self.body = b""
            self.done = False

        def on_header(self, name: bytes, value: bytes) -> None:
            self.fields.append((name, value))

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            self.done = True

    seen = Seen()
    own = b"x-request-id: r\r\n"
    raw = plain_answer(529, [("A", "b")], b"body", own, head_only=False)
    httptools.HttpResponseParser(seen).feed_data(raw)
    assert (seen.body, seen.done) == (b"body", True)
    assert seen.fields == [(b"A", b"b"), (b"content-length", b"4"), (b"x-request-id", b"r")]
    seen = Seen()
    raw = answer_start(200, [], frozenset()) + b"transfer-encoding: chunked\r\n%b\r\n" % own
    httptools.HttpResponseParser(seen).feed_data(raw + chunk(b"bo") + chunk(b"dy") + b"0\r\n\r\n")
    assert (seen.body, seen.done) == (b"body", True)


def test_where_the_time_went() -> None:
    said = {
        Waits(0.0): b"queue;dur=0.0",
        Waits(0.0000499): b"queue;dur=0.0",
        Waits(0.0001): b"queue;dur=0.1",
        Waits(1.5, evict=0.25): b"queue;dur=1500.0, evict;dur=250.0",
        Waits(0.0, load=2.0): b"queue;dur=0.0, load;dur=2000.0",
    }
    for waits, text in said.items():
        assert server_timing(waits) == b"server-timing: " + text + b"\r\n"
