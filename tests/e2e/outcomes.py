"""What became of one request, as its client sees it: exactly one of a few things, or a mistake.

A client of our own on a plain socket, so that the difference between a complete answer and one that
merely stopped is seen as bytes: no library mends anything on the way.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PATIENCE = 60.0  # seconds in which every request must have come to its end
ROUTES: dict[str, tuple[str, str]] = {  # path, and the field that limits the answer
    "chat": ("/v1/chat/completions", "max_tokens"),
    "completions": ("/v1/completions", "max_tokens"),
    "messages": ("/v1/messages", "max_tokens"),
    "responses": ("/v1/responses", "max_output_tokens"),
}
DIALECTS = ("chat", "messages", "responses")

Kind = Literal["answer", "error", "aborted", "left"]


class MistakeError(AssertionError):
    """No client can make sense of this, or it would take it for something that it is not."""


@dataclass(frozen=True)
class Ask:
    """One request. ``tokens``: words of the whole answer; None: not known, the text is not looked
    at. ``leave``: hang up after so many bytes of the answer (0: once it is sent). ``read``: bytes a
    second; None: as they come."""

    model: str
    route: str = "chat"
    stream: bool = True
    tokens: int | None = 8
    limit: int = 8
    text: str = "hi"
    close: bool = False
    leave: int | None = None
    read: float | None = None
    seconds: float = PATIENCE

    def body(self) -> bytes:
        path, limit = ROUTES[self.route]
        said: dict[str, Any] = {"messages": [{"role": "user", "content": self.text}]}
        if self.route == "responses":
            said = {"input": self.text}
        elif path.endswith("/v1/completions"):
            said = {"prompt": self.text}
        return json.dumps({"model": self.model, limit: self.limit, "stream": self.stream, **said}
                          ).encode()  # fmt: skip

    def raw(self) -> bytes:
        body = self.body()
        head = (
            f"POST {ROUTES[self.route][0]} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{'Connection: close' if self.close else 'Connection: keep-alive'}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Outcome:
    """``code``: of an error in OpenAI's shape, else its type; of a broken stream what its last
    event said. ``seconds``: from the first byte sent to the end."""

    kind: Kind
    ask: Ask
    status: int = 0
    code: str = ""
    message: str = ""
    retry: str = ""  # x-should-retry
    text: str = ""
    id: str = ""  # x-request-id
    seconds: float = 0.0


@dataclass
class Incoming:
    """An answer as it comes: fed with bytes, it knows where it ends."""

    data: bytes = b""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    _at: int = 0

    def feed(self, data: bytes) -> None:
        self.data += data
        if not self.status and b"\r\n\r\n" in self.data:
            head, _, _ = self.data.partition(b"\r\n\r\n")
            self._at = len(head) + 4
            first, *lines = head.decode("latin-1").split("\r\n")
            version, status, *_ = first.split(" ")
            if version != "HTTP/1.1" or not status.isdigit():
                raise MistakeError(f"no status line: {first!r}")
            self.status = int(status)
            pairs = [line.partition(":") for line in lines]
            self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        if self.status:
            self._body()

    def _body(self) -> None:
        if "content-length" in self.headers:
            size = int(self.headers["content-length"])
            self.body = self.data[self._at : self._at + size]
            self.complete = len(self.body) == size
            rest = self.data[self._at + size :]
        elif self.headers.get("transfer-encoding") == "chunked":
            while not self.complete and b"\r\n" in self.data[self._at :]:
                line, _, after = self.data[self._at :].partition(b"\r\n")
                size = int(line, 16)
                if len(after) < size + 2:
                    break
                if after[size : size + 2] != b"\r\n":
                    raise MistakeError(f"a chunk of {size} bytes does not end: {after[:80]!r}")
                self.body += after[:size]
                self._at += len(line) + size + 4
                self.complete = size == 0
            rest = self.data[self._at :] if self.complete else b""
        else:
            raise MistakeError(f"nothing says where the answer ends: {self.headers}")
        if self.complete and rest:
            raise MistakeError(f"bytes after the end of the answer: {rest[:80]!r}")


def ask(port: int, what: Ask, news: Callable[[int], None] = lambda _: None) -> Outcome:
    """Send it and see it to its end. ``news`` is told the bytes of each piece of the answer.

    MistakeError for whatever is none of the outcomes; hanging is one of the mistakes.
    """
    began = time.monotonic()
    with socket.socket() as sock:
        if what.read is not None:  # little room on the way, or it would all fit in between
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(what.seconds)
        try:
            sock.connect(("127.0.0.1", port))
            sock.sendall(what.raw())
        except ConnectionRefusedError:
            return Outcome("aborted", what, code="refused", seconds=time.monotonic() - began)
        except (BrokenPipeError, ConnectionResetError):
            return _judged(what, Incoming(), began)
        incoming = Incoming()
        if what.leave == 0:
            return Outcome("left", what, seconds=time.monotonic() - began)
        while not incoming.complete:
            try:
                sock.settimeout(max(0.01, began + what.seconds - time.monotonic()))
                data = sock.recv(65536 if what.read is None else max(1, int(what.read / 10)))
            except TimeoutError:
                raise MistakeError(
                    f"hung after {len(incoming.data)} bytes and {what.seconds:g} s: {what}"
                ) from None
            except ConnectionResetError:
                break
            if not data:
                break
            incoming.feed(data)
            news(len(data))
            if what.read is not None:
                time.sleep(0.1)  # the pace of a slow reader
            if what.leave is not None and len(incoming.data) >= what.leave:
                if what.close:  # as a killed client: a reset, no goodbye
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return Outcome("left", what, incoming.status, seconds=time.monotonic() - began)
    return _judged(what, incoming, began)


def _judged(what: Ask, incoming: Incoming, began: float) -> Outcome:
    found = replace(judged(what, incoming), seconds=time.monotonic() - began)
    return replace(found, id=incoming.headers.get("x-request-id", ""))


def judged(what: Ask, incoming: Incoming) -> Outcome:
    """What these bytes are. MistakeError where they are nothing that may be."""
    if not incoming.status:
        return Outcome("aborted", what)
    if incoming.status != 200:
        if not incoming.complete:
            return Outcome("aborted", what, incoming.status)
        return _error(what, incoming)
    if not what.stream:
        if not incoming.complete:
            return Outcome("aborted", what, 200)
        text = whole_text(what.route, json.loads(incoming.body))
        if what.tokens is not None and text != expected(what.tokens):
            raise MistakeError(f"another answer than its own: {text!r} for {what}")
        return Outcome("answer", what, 200, text=text)
    return _stream(what, incoming)


def _error(what: Ask, incoming: Incoming) -> Outcome:
    """A refusal of ours must be of the client's dialect, and say whether to try again; one of the
    engine is passed on as it is."""
    headers = incoming.headers
    ours = "x-should-retry" in headers
    try:
        body = json.loads(incoming.body)
        error = body["error"]
        message = error["message"]
        anthropic = what.route == "messages" and ours
        sound = isinstance(error["type"], str) and isinstance(message, str) and message != ""
        sound = sound and (body.get("type") == "error" if anthropic else "code" in error)
    except (ValueError, KeyError, TypeError) as wrong:
        raise MistakeError(f"{incoming.status} {incoming.body[:300]!r}: {wrong!r}") from wrong
    if not sound or headers.get("content-type", "").partition(";")[0] != "application/json":
        raise MistakeError(f"no error of its dialect: {incoming.status} {incoming.body[:300]!r}")
    if "x-request-id" not in headers:
        raise MistakeError(f"an error without a request id: {headers}")
    wait = headers.get("retry-after", "1")
    if not (wait.isdigit() and 1 <= int(wait) <= 30):
        raise MistakeError(f"Retry-After is {wait!r}")
    code = str(error.get("code") or error["type"])
    retry = headers.get("x-should-retry", "")
    return Outcome("error", what, incoming.status, code, message, retry)


def _stream(what: Ask, incoming: Incoming) -> Outcome:
    """Whole only if it says so itself, in its dialect, and its framing agrees."""
    events, cut = events_of(incoming.body)
    if not incoming.complete:
        cut = ""  # whatever half an event there is: the client sees that it was cut
    if cut:
        raise MistakeError(f"a clean end in the middle of an event: {cut!r}")
    text, ended, code = "", False, ""
    for event in events:
        if ended:
            raise MistakeError(f"an event after the last one: {event!r}")
        if event == "[DONE]":
            ended = what.route in ("chat", "completions")
            continue
        if isinstance(event.get("error"), dict):
            code = str(event["error"].get("code") or event["error"]["type"])
        kind = event.get("type", "")
        ended = kind in ("message_stop", "response.completed", "response.incomplete")
        text += piece(what.route, event)
    if incoming.complete and not ended:
        raise MistakeError(f"a clean end of an answer that is not whole: {incoming.body[-200:]!r}")
    if what.tokens is not None:
        full = expected(what.tokens)
        if not full.startswith(text) or (ended and incoming.complete and text != full):
            raise MistakeError(f"another answer than its own: {text!r} for {what}")
    kind_of: Kind = "answer" if ended and incoming.complete else "aborted"
    return Outcome(kind_of, what, 200, code, text=text)


def expected(tokens: int) -> str:
    """What the stand-in says in so many words."""
    return " ".join(WORDS[i % len(WORDS)] for i in range(tokens))


def events_of(body: bytes) -> tuple[list[Any], str]:
    """The data of all complete events, and what is left of one that is not complete."""
    *parts, rest = body.split(b"\n\n")
    found: list[Any] = []
    for part in parts:
        for line in part.split(b"\n"):
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").decode()
                found.append(data if data == "[DONE]" else json.loads(data))
            elif line and not line.startswith((b"event: ", b":")):
                raise MistakeError(f"a line of a stream that is none: {line[:80]!r}")
    return found, rest.decode("utf-8", "replace")


def piece(route: str, event: dict[str, Any]) -> str:
    """The text in one event."""
    if route in ("chat", "completions"):
        choices = event.get("choices") or [{}]
        found = choices[0].get("text") or (choices[0].get("delta") or {}).get("content")
    elif route == "messages":
        found = (event.get("delta") or {}).get("text")
    else:
        found = event["delta"] if event.get("type") == "response.output_text.delta" else ""
    return str(found or "")


def whole_text(route: str, body: dict[str, Any]) -> str:
    """The text of an answer that is not streamed."""
    if route == "chat":
        found = body["choices"][0]["message"]["content"]
    elif route == "completions":
        found = body["choices"][0]["text"]
    elif route == "messages":
        found = "".join(part.get("text", "") for part in body["content"])
    else:
        parts = [part for item in body["output"] for part in item.get("content", [])]
        found = "".join(part.get("text", "") for part in parts)
    return str(found or "")


class Crowd:
    """Clients at work, a thread each. Every one must come to exactly one outcome."""

    def __init__(self, port: int, *asks: Ask) -> None:
        self.port = port
        self.bytes = 0
        self.asks: list[Ask] = []
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._found: list[Outcome | BaseException] = []
        self.ask(*asks)

    @property
    def asked(self) -> int:
        return len(self.asks)

    def ask(self, *asks: Ask) -> None:
        for what in asks:
            thread = threading.Thread(target=self._one, args=(what,), daemon=True)
            self._threads.append(thread)
            self.asks.append(what)
            thread.start()

    def _one(self, what: Ask) -> None:
        result: Outcome | BaseException
        try:
            result = ask(self.port, what, self._came)
        except BaseException as error:
            result = error
        with self._news:
            self._found.append(result)
            self._news.notify_all()

    def _came(self, size: int) -> None:
        with self._news:
            self.bytes += size
            self._news.notify_all()

    def streaming(self, size: int = 1, seconds: float = 20.0) -> None:
        """Wait until so many bytes of answers have come, to all together."""
        with self._news:
            came = self._news.wait_for(lambda: self.bytes >= size, seconds)
            assert came, f"{self.bytes} of {size} bytes came; so far: {self._found}"

    def outcomes(self, seconds: float = PATIENCE + 10) -> list[Outcome]:
        """All of them, once all are over."""
        with self._news:
            over = self._news.wait_for(lambda: len(self._found) >= self.asked, seconds)
        assert over, f"{self.asked - len(self._found)} of {self.asked} requests hang"
        for thread in self._threads:
            thread.join(5)
        for each in self._found:
            if isinstance(each, BaseException):
                raise each
        found = [each for each in self._found if isinstance(each, Outcome)]
        assert len(found) == self.asked
        return found


def some(
    rng: random.Random,
    model: str,
    count: int | None = None,
    *,
    tokens: int = 8,
    stream: bool | None = None,
    routes: Iterable[str] = DIALECTS,
    mark: str = "",
) -> list[Ask]:
    """Requests as they come: dialects, streamed or not, connections kept or not, all by ``rng``.
    Each has a text of its own, so that none is taken for another."""
    number = rng.choice((1, 2, 5)) if count is None else count
    choices = list(routes)
    return [
        Ask(
            model,
            rng.choice(choices),
            rng.random() < 0.6 if stream is None else stream,
            tokens,
            tokens,
            f"{mark} {index} {rng.random()}",
            close=rng.random() < 0.3,
        )
        for index in range(number)
    ]


def kinds(outcomes: Iterable[Outcome]) -> Counter[str]:
    """How many of each."""
    return Counter(each.kind for each in outcomes)
