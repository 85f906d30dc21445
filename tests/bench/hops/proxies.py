"""What is compared: modelport as a whole, its relay alone, nginx, a plain aiohttp proxy, and a pump
that reads nothing of what it passes on.

Each has one processor to itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.e2e.house import ROOT, House
from tests.ports import free_port

PROXY_CPU, OTHER_CPU = 0, 1
STREAM_MODELS = 4
SLOTS = 250
"""A model may have 256: so a thousand streams are four models' in modelport."""

NGINX = """
worker_processes 1; worker_cpu_affinity %(mask)s; daemon off; pid %(folder)s/pid;
error_log %(folder)s/error.log crit;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 1000000000; client_max_body_size 64m;
  client_body_buffer_size 512k; client_body_temp_path %(folder)s/body;
  proxy_temp_path %(folder)s/proxy; fastcgi_temp_path %(folder)s/f; uwsgi_temp_path %(folder)s/u;
  scgi_temp_path %(folder)s/s; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_buffering off; proxy_read_timeout 600s;
  upstream plain { server 127.0.0.1:%(plain)d; keepalive 128; keepalive_requests 1000000000; }
  upstream stream { server 127.0.0.1:%(stream)d; keepalive 128; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:%(port)d;
    location / { proxy_pass http://plain; } location /stream/ { proxy_pass http://stream/; } } }
"""


@dataclass
class Way:
    """A way to the backends: ``pid`` is whose processor time and memory count (0: nobody's).

    Port 0: it does not go there.
    """

    name: str
    plain: int
    stream: int
    stream_path: str = "/v1/chat/completions"
    pid: int = 0
    model: str = "plain"

    def cpu_seconds(self) -> float:
        """Processor time so far, of all its threads."""
        spent = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def rss(self) -> int:
        """Bytes in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def pin(pid: int, cpu: int) -> None:
    """All threads that it has now, and what these start."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def port_in(note: Path, seconds: float = 20.0) -> int:
    """The port that a backend wrote down."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if note.exists() and (text := note.read_text()):
            return int(text)
        time.sleep(0.01)
    raise TimeoutError(f"no backend wrote {note}")


def listening(port: int, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _backend(folder: Path, name: str, *more: str) -> str:
    place = ["--port", "{port}"]
    if name == "socket":  # the port is for nobody
        place = ["--uds", "{socket}", "--port", str(free_port())]
    words = [sys.executable, "-P", "-m", "tests.bench.hops.backend", *place]
    words += ["--note", str(folder / f"{name}.port"), "--cpu", str(OTHER_CPU), *more]
    return ", ".join(f"'{word}'" for word in words)


def config(folder: Path) -> str:
    """modelport's: ``plain``, the same by a unix socket, and ``stream0`` and so on, which share a
    program but not a process. The ready request of the core comes first, so what is written down is
    right."""

    def nginx(name: str) -> tuple[str, ...]:
        return ("--nginx", str(folder / f"nginx-{name}")) if shutil.which("nginx") else ()

    text = ""
    for name, more in (
        ("plain", nginx("plain")),
        ("socket", nginx("socket")),
        *((f"stream{number}", ()) for number in range(STREAM_MODELS)),
    ):
        text += (
            f"[models.{name}]\nengine = 'command.{name}'\nslots = {SLOTS}\nkeep_alive = -1\n"
            f"[engines.command.{name}]\nargv = [{_backend(folder, name, *more)}]\n"
            f"footprint = '1 MiB'\nenv = {{ PYTHONPATH = '{ROOT}' }}\n"
        )
    return text


@contextmanager
def modelport(folder: Path) -> Iterator[list[Way]]:
    """The daemon with all that it does, and through it the backends."""
    house = House(folder, config(folder))
    with house:
        assert house.process is not None
        pin(house.process.pid, PROXY_CPU)
        for name in ("plain", "socket", *(f"stream{number}" for number in range(STREAM_MODELS))):
            answer = house.chat(name)
            assert answer.status == 200, answer.body
        time.sleep(1.0)  # what follows from starting is over
        way = Way("modelport", house.port, house.port, pid=house.process.pid)
        yield [way, replace(way, name="by socket", stream=0, model="socket")]


@contextmanager
def nginx(folder: Path, plain: int, stream: int) -> Iterator[Way]:
    """One worker, connections to the backends kept, no access log."""
    folder.mkdir()
    port = free_port()
    values = {"mask": format(1 << PROXY_CPU, "b"), "folder": folder, "port": port}
    conf = folder / "nginx.conf"
    conf.write_text(NGINX % {**values, "plain": plain, "stream": stream})
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(conf)])
    try:
        listening(port, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Way("nginx", port, port, "/stream/v1/chat/completions", int(children[0]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def python(name: str, module: str, *words: object, stream_path: str = "") -> Iterator[Way]:
    """A proxy of Python: ``python -m module PORT words``. What it says is dropped: a client that
    leaves a stream is an error to some."""
    port = free_port()
    command = [sys.executable, "-P", "-m", f"tests.bench.hops.{module}", str(port)]
    process = subprocess.Popen([*command, *map(str, words)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        listening(port, process)
        pin(process.pid, PROXY_CPU)
        yield Way(name, port, port, stream_path or "/v1/chat/completions", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def ways(folder: Path, wanted: list[str]) -> Iterator[list[Way]]:
    """All that are there, the bare backend first."""
    with ExitStack() as stack:
        ours = stack.enter_context(modelport(folder))
        plain, stream = port_in(folder / "plain.port"), port_in(folder / "stream0.port")
        found = [Way("direct", plain, stream), *(ours if "socket" in wanted else ours[:1])]
        if "nginx" in wanted and shutil.which("nginx"):
            found.append(stack.enter_context(nginx(folder / "nginx", plain, stream)))
        elif "nginx" in wanted:
            print("nginx is not here: no comparison with it, and no target (apt install nginx)")
        if "relay" in wanted:
            found.append(stack.enter_context(python("relay", "bare", plain, stream)))
        if "pump" in wanted:
            found.append(stack.enter_context(python("pump", "pump", plain)))
            found[-1].stream = 0
        if "aiohttp" in wanted:
            path = "/stream/v1/chat/completions"
            proxy = python("aiohttp", "afternoon", plain, stream, stream_path=path)
            found.append(stack.enter_context(proxy))
        yield found
