"""How often a large body is in memory: once."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc

import pytest

from daemon.core.messages import Outcome
from daemon.dialects.manner import Manner
from daemon.ports import Edits, Target
from daemon.relay.answers import Answer
from daemon.relay.client import ClientConnection
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from daemon.relay.plane import Plane
from daemon.relay.upstream import PIECE, Fault, Upstream
from tests.relay.peers import FakeLeases, both_loops, post
from tests.relay.test_fuzz import Wire

MB = 1_000_000
IMAGE = b'"' + b"A" * (20 * MB) + b'"'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Sink(Wire):
    """A transport that counts what is written, and keeps none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def write(self, data: bytes) -> None:
        self.taken += len(data)

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


@pytest.mark.parametrize("first", [True, False], ids=["name first", "name last"])
@pytest.mark.parametrize("rename", [False, True], ids=["as it is", "renamed"])
@pytest.mark.parametrize("edits", [None, Edits(force={"x": b"1"})], ids=["plain", "edited"])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_a_prompt_of_20_mb_is_there_once(
    first: bool, rename: bool, edits: Edits | None, chunked: bool
) -> None:
    leases = FakeLeases(Target("127.0.0.1", 1))
    leases.edits = edits
    leases.rename = {"m": "another/name"} if rename else {}
    plane = Plane(
        asyncio.get_running_loop(), leases=leases, guard=Guard(), limits=Limits(), on_done=None
    )
    upstream, there = Upstream(Target("127.0.0.1", 1), plane.limits, plane.pool._release), Sink()
    upstream.connection_made(there)  # type: ignore[arg-type]
    plane.pool._release(upstream, True)
    client, here = ClientConnection(plane), Sink()
    client.connection_made(here)  # type: ignore[arg-type]
    fields = [b'"model":"m"', b'"image":' + IMAGE]
    body = b"{" + b",".join(fields if first else fields[::-1]) + b"}"
    data = post(body=body)
    if chunked:
        head, _, rest = data.partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        data = b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(rest), rest)
    size = len(data)
    whole = memoryview(data)

    def run() -> tuple[int, int]:
        tracemalloc.start()
        try:
            for at in range(0, size, 256 * 1024):
                client.data_received(bytes(whole[at : at + 256 * 1024]))
            peak = tracemalloc.get_traced_memory()[1]
            upstream.data_received(ANSWER)
            return peak, tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    peak, left = run()
    assert there.taken > 20 * MB
    # A bytearray grows by an eighth at a time.
    assert peak < 20 * MB * 9 / 8 + 2 * MB, f"{peak / MB:.1f} MB at most"
    assert left < MB
    assert leases.outcomes == [Outcome.OK]
    client.connection_lost(None)
    plane.close()


def _chat(*content: object) -> bytes:
    asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    return json.dumps(asked).encode()


def _prompts() -> dict[str, tuple[str, bytes]]:
    """A prompt with the image, as each client writes it."""
    data = "A" * (20 * MB)
    source = {"type": "base64", "media_type": "image/png", "data": data}
    url = f"data:image/png;base64,{data}"
    shown = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    said = [{"role": "user", "content": "x", "images": [data]}]
    form = f'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\n{data}\r\n'
    named = '--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--X--\r\n'
    return {
        "messages": ("/v1/messages", _chat({"type": "image", "source": source})),
        "responses": ("/v1/responses", json.dumps({"model": "m", "input": shown}).encode()),
        "ollama": ("/api/chat", json.dumps({"model": "m", "messages": said}).encode()),
        "form": ("/v1/audio/transcriptions", (form + named).encode()),
    }


@pytest.mark.parametrize("name", ["messages", "responses", "ollama", "form"])
async def test_so_it_is_in_every_clients_words(name: str) -> None:
    """Also where the engine speaks others: see ``daemon.relay.bulk``."""
    path, body = _prompts()[name]
    leases = FakeLeases(Target("127.0.0.1", 1))
    leases.rename = {"m": "another/name"}
    leases.spoken = None if name == "form" else Manner(frozenset({"chat"}))
    plane = Plane(
        asyncio.get_running_loop(), leases=leases, guard=Guard(), limits=Limits(), on_done=None
    )
    upstream, there = Upstream(Target("127.0.0.1", 1), plane.limits, plane.pool._release), Sink()
    upstream.connection_made(there)  # type: ignore[arg-type]
    plane.pool._release(upstream, True)
    client, here = ClientConnection(plane), Sink()
    client.connection_made(here)  # type: ignore[arg-type]
    data = post(path, body)
    if name == "form":
        data = data.replace(b"application/json", b"multipart/form-data; boundary=X", 1)
    whole = memoryview(data)
    tracemalloc.start()
    try:
        for at in range(0, len(data), 256 * 1024):
            client.data_received(bytes(whole[at : at + 256 * 1024]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert there.taken > 20 * MB
    assert peak < 20 * MB * 9 / 8 + 3 * MB, f"{peak / MB:.1f} MB at most"
    client.connection_lost(None)
    plane.close()


class Waiting:
    """Asks, and is told nothing."""

    def answered(self, answer: Answer, data: bytes, ended: bool) -> None: ...
    def continued(self, data: bytes, ended: bool) -> None: ...
    def passed(self, data: bytes) -> None: ...
    def failed(self, fault: Fault, text: str) -> None: ...
    def backend_full(self, full: bool) -> None: ...
    def crashed(self) -> None: ...


@both_loops
async def test_a_backend_that_does_not_read_costs_no_second_copy() -> None:
    """asyncio's own transport copies what it cannot send: so it is given little at a time."""
    near, far = socket.socketpair()
    near.setblocking(False)
    loop = asyncio.get_running_loop()
    upstream = Upstream(Target("", 0), Limits(), lambda *_: None)
    transport, _ = await loop.connect_accepted_socket(lambda: upstream, near)
    body = json.dumps({"image": "A" * (20 * MB)}).encode()
    tracemalloc.start()
    upstream.ask(Waiting(), b"head", (memoryview(body)[:10], memoryview(body)[10:]))
    await asyncio.sleep(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert transport.get_write_buffer_size() <= 2 * PIECE
    assert peak < MB
    assert not upstream.idle

    def drained() -> bytes:
        got = bytearray()
        while len(got) < len(body) + 4:
            got += far.recv(1 << 20)
        return bytes(got)

    assert await asyncio.wait_for(asyncio.to_thread(drained), 10) == b"head" + body
    transport.abort()
    far.close()
