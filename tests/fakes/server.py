"""The server below every stand-in: starts, loads, serves, misbehaves and stops as it was told."""

# pathlib would take a tenth of the start.
# ruff: noqa: PTH119, PTH123

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tests.fakes import acting, tools
from tests.fakes.faults import OOM, say
from tests.fakes.shapes import Shape, prompt_tokens
from tests.fakes.wire import Connection, GoneError, RefusalError, Request

Handler = Callable[[Connection, Request], None]


class Server:
    """One backend. Stand-ins differ in their routes, how they refuse and how they stop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.name = options.alias or os.path.basename(options.model)
        self.ready = False
        self.terms = self.generations = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.slots = threading.Semaphore(max(1, options.parallel))
        self.asked: list[str] = []
        self.kept: list[object] = []  # ballast, and sockets that are never read
        self.counts = dict.fromkeys(
            ("requests", "in_flight", "max_in_flight", "completed", "cancelled", "connections"), 0
        )
        self.keys = {options.api_key} - {None}
        if options.api_key_file:
            with open(options.api_key_file) as file:
                self.keys |= set(file.read().split())
        if options.oom:
            options.stderr.append(OOM)
        self.lucky = not self.unlucky_start()
        if self.lucky:
            options.hang_load = options.hang_accept = False
            options.health_lies = options.hang_answer = False
        self.control = ""

    def unlucky_start(self) -> bool:
        """Do the faults of the start apply? Counts the starts where --times asks for it."""
        if self.options.times is None:
            return True
        with open(self.options.state, "a+b") as file:
            file.write(b".")
            file.flush()
            return os.fstat(file.fileno()).st_size <= int(self.options.times)

    # Start and end

    def run(self) -> None:
        """Start, load, serve, and leave when told to."""
        options = self.options
        if options.fail_start is not None and not self.lucky:
            self.die(code=options.fail_start)
        if options.port_busy and not self.lucky:
            say(f"couldn't bind HTTP server socket, hostname: {options.host}, port: {options.port}")
            say("exiting due to HTTP server error")
            sys.exit(1)
        if options.ignore_term:
            signal.signal(signal.SIGTERM, lambda *_: say("SIGTERM ignored"))
        self.burden()
        if options.late_port:
            self.load()
            self.open()
        else:
            self.open()
            self.load()
        # Only now, as llama-server does: a SIGTERM while loading ends it by the signal.
        if not options.ignore_term and not options.default_term:
            signal.signal(signal.SIGTERM, self.on_signal)
            signal.signal(signal.SIGINT, self.on_signal)
        self.ready = True
        say("main: model loaded")
        # In slices: a signal that another thread was given wakes nobody here.
        while not self.stopping.wait(0.25):
            pass
        self.leave()

    def open(self) -> None:
        """Listen, and say where."""
        host, port = self.options.host, self.options.port
        if host.endswith(".sock"):
            listener = socket.socket(socket.AF_UNIX)
            address: object = host
        else:
            listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            address = (host, port)
        try:
            listener.bind(address)  # type: ignore[arg-type]
        except OSError:
            say(f"couldn't bind HTTP server socket, hostname: {host}, port: {port}")
            say("exiting due to HTTP server error")
            sys.exit(1)
        listener.listen(1024)
        self.listener = listener
        where = host if host.endswith(".sock") else f"{host}:{listener.getsockname()[1]}"
        say(f"main: server is listening on http://{where}")
        threading.Thread(target=self.accept, daemon=True).start()

    def load(self) -> None:
        """Take the time to load, or crash in it, or never end it."""
        if self.crashes("load"):
            time.sleep(self.options.load_s)
            self.die()
        began, gate = time.monotonic(), self.options.load_until
        while (
            self.options.hang_load
            or time.monotonic() - began < self.options.load_s
            or (gate and not os.path.exists(gate))  # noqa: PTH110 - quick to import
        ):
            least = 0.01 if gate else 0.001
            time.sleep(min(0.05, max(least, began + self.options.load_s - time.monotonic())))
            if self.options.load_log:
                say(f"load_tensors: {time.monotonic() - began:.2f} s")

    def burden(self) -> None:
        """Ballast, leak, log flood and grandchild."""
        options = self.options
        if options.ballast:
            self.kept.append(b"x" * (options.ballast << 20))
        if options.leak:
            threading.Thread(target=self.leak, daemon=True).start()
        for _ in range(options.flood_log * 16):
            os.write(2, b"x" * 65536)
        if options.grandchild:
            deaf, child_deaf = os.pipe()
            child = os.fork()
            if child == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, lambda *_: None)
                os.write(child_deaf, b"x")
                while True:
                    time.sleep(3600)
            os.read(deaf, 1)
            os.close(deaf)
            os.close(child_deaf)
            say(f"grandchild {child}")

    def leak(self) -> None:
        """Take memory for ever."""
        while True:
            self.kept.append(b"x" * int(self.options.leak * (1 << 20) / 10))
            time.sleep(0.1)

    def crashes(self, where: str) -> bool:
        """Is this the place to crash?"""
        return bool(self.options.crash_at == where and not self.lucky)

    def die(self, code: int | None = None) -> None:
        """Print what was asked for and end, by status or by signal."""
        for text in self.options.stderr:
            say(text)
        if self.options.signal and code is None:
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            number = getattr(signal, f"SIG{self.options.signal}")
            if number != signal.SIGKILL:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            # From any thread: a Python handler would only run in the main one.
            os.kill(os.getpid(), number)
            time.sleep(60)
        os._exit(self.options.exit_code if code is None else code)

    def on_signal(self, number: int, frame: object) -> None:
        """The first signal asks, the second one insists."""
        self.terms += 1
        if self.terms > 1:
            say("Received second interrupt, terminating immediately.")
            os._exit(1)
        say("srv    operator(): cleaning up before exit...")
        self.stopping.set()

    def leave(self) -> None:
        """The way out after SIGTERM."""
        with contextlib.suppress(OSError):
            self.listener.close()
        while self.options.term_hangs and self.counts["in_flight"]:
            time.sleep(0.005)
        time.sleep(self.options.term_s)
        if self.crashes("exit"):
            self.die()
        os._exit(0)

    # Connections

    def accept(self) -> None:
        """A thread for each connection."""
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.counts["connections"] += 1
            if self.options.hang_accept:
                self.kept.append(sock)
            else:
                threading.Thread(target=self.converse, args=(sock,), daemon=True).start()

    def converse(self, sock: socket.socket) -> None:
        """Answer one connection's requests until it ends."""
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, self.options)
        with contextlib.suppress(GoneError, OSError, ValueError), sock, connection.reader:
            answered = 0
            while True:
                if answered and self.options.close_idle is not None:
                    idle = self.options.close_idle / 1000
                    if not select.select([sock], [], [], idle)[0]:
                        return
                request = connection.read()
                if request is None or (answered and self.options.drop_reused):
                    return
                self.serve(connection, request)
                answered += 1
                if request.headers.get("connection", "").lower() == "close":
                    return

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        self.counts["requests"] += 1
        try:
            self.reread()
            self.record(request)
            if self.options.no_chunked and "transfer-encoding" in request.headers:
                raise RefusalError(411, "Content-Length is required")
            self.admit(request)
            handler = self.routes().get((request.method, request.path))
            if handler is None:
                raise RefusalError(404, "File Not Found", "not_found_error")
            handler(connection, request)
        except RefusalError as error:
            body = self.refusal(error)
            if connection.streaming:
                connection.event(body)
                connection.finish()
            else:
                connection.answer(error.status, body)

    def reread(self) -> None:
        """Take changed options from the control file."""
        if not self.options.control:
            return
        with contextlib.suppress(FileNotFoundError):
            with open(self.options.control) as file:
                text = file.read()
            # By what it says: two writes may have one time. And empty it is being written.
            if text and text != self.control:
                changes = json.loads(text)
                unknown = set(changes) - set(vars(self.options))
                if unknown:
                    raise RefusalError(500, f"the control file has unknown options {unknown}")
                vars(self.options).update(changes)
                self.control = text

    def record(self, request: Request) -> None:
        """Write a request down for the test to read."""
        if self.options.record:
            entry = {
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "headers": request.headers,
                "body": request.body.decode("utf-8", "replace"),
            }
            line = json.dumps(entry).encode() + b"\n"
            with self.lock, open(self.options.record, "ab", buffering=0) as file:
                file.write(line)  # at once: who reads meanwhile finds no half of a line

    def admit(self, request: Request) -> None:
        """Refuse a request without the key, and any but health while loading."""
        health = request.path in ("/health", "/v1/health", "/fake")
        offered = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.keys and not health and not self.keys & {offered, request.headers.get("x-api-key")}:
            raise RefusalError(401, "Invalid API Key", "authentication_error")
        if (
            not self.ready
            and request.path != "/fake"
            and not (health and self.options.early_health)
        ):
            raise RefusalError(503, "Loading model", "unavailable_error")

    def refusal(self, error: RefusalError) -> object:
        """The body of an error, as llama-server writes it."""
        return {"error": {"code": error.status, "message": error.message, "type": error.kind}}

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Handlers by method and path."""
        return {("GET", "/fake"): self.statistics}

    def statistics(self, connection: Connection, request: Request) -> None:
        """What a test wants to know."""
        about = {"pid": os.getpid(), "argv": sys.argv[1:], "environ": sorted(os.environ)}
        connection.answer(200, {**about, **self.counts, "generations": self.generations})

    # Generation

    def check_model(self, body: dict[str, object]) -> None:
        """404 for another model, where --model-strict asks for it."""
        strict = self.options.model_strict
        if strict and body.get("model") != strict:
            raise RefusalError(404, f"The model `{body.get('model')}` does not exist.")

    def generate(self, connection: Connection, request: Request, shape: type[Shape]) -> None:
        """Answer in one dialect, streamed or whole, once a slot is free."""
        body = request.json()
        self.check_model(body)
        self.measure(body)
        word = self.options.crash_word
        if word and word.encode() in request.body:
            self.die()
        with self.flight(connection) as number:
            if self.options.health_lies:
                say("ggml_metal_graph_compute: backend is in error state")
                raise RefusalError(500, "Compute error.", "server_error")
            while self.options.hang_answer:
                connection.wait(60, every=1.0)
            answer = shape(connection, self.name, body, number)
            if call := tools.wanted(body, self.options.writes):
                tools.answer(answer, call)
                return
            words = self.words(body)
            limit, total = answer.limit, self.length(words)
            if body.get("ignore_eos"):
                total = -1
            finish = "length" if limit is not None and (total < 0 or limit < total) else "stop"
            count = total if finish == "stop" else limit
            text = ""
            for index, token in enumerate(self.tokens(connection, number, count, words)):
                if index == 0:
                    answer.start()
                text += token
                answer.piece(token)
            answer.end(text, count or 0, finish)

    @contextlib.contextmanager
    def flight(self, connection: Connection) -> Iterator[int]:
        """Hold a slot; count what became of the request. Gives its number, from 1."""
        while not self.slots.acquire(timeout=0.02):
            connection.check()
        with self.lock:
            self.generations += 1
            number = self.generations
            self.counts["in_flight"] += 1
            busiest = max(self.counts["max_in_flight"], self.counts["in_flight"])
            self.counts["max_in_flight"] = busiest
        outcome = "cancelled"
        try:
            yield number
            outcome = "completed"
        except RefusalError:
            outcome = "completed"
            raise
        finally:
            with self.lock:
                self.counts["in_flight"] -= 1
                self.counts[outcome] += 1
            self.slots.release()

    @staticmethod
    def burn(connection: Connection, seconds: float) -> None:
        """A long prefill: nothing is said, and a core is busy."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(20_000))
            connection.check()

    def measure(self, body: dict[str, object]) -> None:
        """400 in llama-server's words for what is too long, where --refuse-long asks for it."""
        found, size = prompt_tokens(body), self.options.ctx_size
        if self.options.refuse_long and found > size:
            text = f"request ({found} tokens) exceeds the available context size ({size} tokens)"
            raise RefusalError(400, text, "exceed_context_size_error")

    def words(self, body: dict[str, object]) -> list[str]:
        """The answer to this request, a token a word."""
        with self.lock:
            before = list(self.asked)
            self.asked = [*before[-3:], acting.asked(body)]
        return acting.reply(self.options, body, before).split() or [""]

    def length(self, words: list[str]) -> int:
        """Tokens of an unlimited answer."""
        tokens = self.options.tokens
        return len(words) if tokens is None else tokens

    def tokens(
        self, connection: Connection, number: int, count: int | None, words: list[str]
    ) -> Iterator[str]:
        """The words of an answer in their time, and the crash among them."""
        armed = number > self.options.skip
        if armed and self.crashes(f"request:{number}"):
            self.die()
        if armed:
            self.burn(connection, self.options.busy_s)
        connection.wait(self.options.first_s)
        if armed and self.crashes("first-byte"):
            self.die()
        index = 0
        while count is None or count < 0 or index < count:
            if index:
                connection.wait(self.options.token_s)
            if armed and self.crashes(f"token:{index}"):
                self.die()
            connection.check()
            yield (" " if index else "") + words[index % len(words)]
            index += 1
