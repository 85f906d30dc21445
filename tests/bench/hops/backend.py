"""A backend that costs next to nothing, so that what is measured is what stands before it.

    python -P -m tests.bench.hops.backend --port N --note FILE [--uds PATH] [--nginx FOLDER]

Answers every complete request with the same few hundred bytes; one whose body says
``"pace": milliseconds`` gets a stream of ``"chunks"`` events (0: one event, and then it stays
open). With ``--nginx`` it becomes nginx instead, which only has the plain answer, in C. ``FILE``
gets the port once it is known. It runs on the processor that ``BENCH_CPU`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

ANSWER = (
    b'{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"'
    + b"x" * 300
    + b'"}}],"usage":{"prompt_tokens":9,"completion_tokens":7}}'
)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stream",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PACE = re.compile(rb'"pace": (\d+), "chunks": (\d+)')

NGINX = """
worker_processes 1; worker_cpu_affinity %(mask)s; daemon off; pid %(folder)s/pid;
error_log %(folder)s/error.log crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; client_max_body_size 64m;
  client_body_buffer_size 512k; client_body_temp_path %(folder)s/body;
  proxy_temp_path %(folder)s/proxy; fastcgi_temp_path %(folder)s/f; uwsgi_temp_path %(folder)s/u;
  scgi_temp_path %(folder)s/s; default_type application/json;
  server { listen 127.0.0.1:%(port)d; %(more)s location / { return 200 '%(answer)s'; } } }
"""


class Backend(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.data = b""
        self.left = 0
        self.pace = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.data = data = self.data + data if self.data else data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(data, 0, end)
        if length is not None and len(data) < end + int(length[1]):
            return
        self.data = b""
        assert self.transport is not None
        paced = _PACE.search(data, end, end + 400)
        if paced is None:
            self.transport.write(PLAIN)
            return
        self.pace, self.left = int(paced[1]) / 1000, int(paced[2])
        self.transport.write(STREAM_HEAD + CHUNK)
        if self.left:
            # Streams of many clients are not in step.
            self.loop.call_later(self.pace * random.random(), self.more)

    def more(self) -> None:
        if self.transport is None:
            return
        self.left -= 1
        if self.left <= 0:
            self.transport.write(END)
            return
        self.transport.write(CHUNK)
        self.loop.call_later(self.pace, self.more)


async def serve(port: int, uds: Path | None, note: Callable[[int], object]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(Backend, "127.0.0.1", port, backlog=1024)
    also = [await loop.create_unix_server(Backend, uds, backlog=1024)] if uds is not None else []
    note(server.sockets[0].getsockname()[1])
    await stop.wait()
    for one in (server, *also):
        one.close()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--uds", type=Path)
    options.add_argument("--note", type=Path, required=True)
    options.add_argument("--nginx", type=Path)
    options.add_argument("--cpu", type=int, required=True)
    given = options.parse_args()
    os.sched_setaffinity(0, {given.cpu})
    if given.nginx is None:
        uvloop.run(serve(given.port, given.uds, lambda port: given.note.write_text(str(port))))
        return
    folder = given.nginx
    folder.mkdir(exist_ok=True)
    conf = folder / "nginx.conf"
    values = {
        "mask": format(1 << given.cpu, "b"),
        "folder": folder,
        "port": given.port,
        "more": f"listen unix:{given.uds};" if given.uds is not None else "",
        "answer": ANSWER.decode(),
    }
    conf.write_text(NGINX % values)
    given.note.write_text(str(given.port))
    os.execvp("nginx", ["nginx", "-p", str(folder), "-c", str(conf)])


if __name__ == "__main__":
    main()
