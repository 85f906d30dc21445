"""``ctl run``: streaming from the fixed port."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Ctl, argv_of, process_env
from tests.control_api.fake import FakeControl, FakeDaemon


def piece(text: str = "", **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text, **more}}]}


class Port:
    """The fixed port: answers each chat with these chunks, and remembers what was asked."""

    def __init__(self) -> None:
        self.chunks: list[Any] = [
            piece("Hello"),
            piece(", you."),
            {"choices": [], "usage": {"completion_tokens": 3}},
            "[DONE]",
        ]
        self.status = 200
        self.error: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        port = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                port.asked.append({"path": self.path, **json.loads(body)})
                port.keys.append(self.headers["Authorization"])
                self.send_response(port.status)
                self.end_headers()
                if port.status != 200:
                    self.wfile.write(json.dumps({"error": port.error}).encode())
                    return
                for chunk in port.chunks:
                    text = chunk if isinstance(chunk, str) else json.dumps(chunk)
                    self.wfile.write(f"data: {text}\n\n".encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def port(daemon: FakeDaemon, fake: FakeControl) -> Iterator[Port]:
    made = Port()
    fake.url = made.url
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(5)


@pytest.fixture(autouse=True)
def no_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


def test_one_prompt(ctl: Ctl, port: Port) -> None:
    result = ctl("run", "gemma", "Why", "is", "it?", "--system", "Be short.", "--max-tokens", "9")
    assert (result.code, result.out, result.err) == (0, "Hello, you.\n", "")
    asked = port.asked[0]
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["stream"], asked["max_tokens"]) == ("gemma", True, 9)
    assert [message["content"] for message in asked["messages"]] == ["Be short.", "Why is it?"]
    assert port.keys == [None]


def test_verbose_and_json(ctl: Ctl, port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_API_KEY", "mp_key")
    assert ctl("run", "gemma", "hi", "-v").err.startswith("3 tokens, ")
    port.chunks.insert(2, {"choices": [], "timings": {"predicted_per_second": 31.04}})
    assert "31.0 tok/s" in ctl("run", "gemma", "hi", "-v").err
    told = ctl("run", "gemma", "hi", "--json").json
    assert (told["text"], told["tokens"], told["tokens_per_second"]) == ("Hello, you.", 3, 31.04)
    assert port.keys == ["Bearer mp_key"] * 3


def test_a_pipe_is_added_to_the_prompt(ctl_process: Ctl, port: Port) -> None:
    assert ctl_process("run", "gemma", "Review this:", stdin="diff --git\n").code == 0
    assert ctl_process("run", "gemma", stdin="only this").code == 0
    asked = [request["messages"][0]["content"] for request in port.asked]
    assert asked == ["Review this:\n\ndiff --git", "only this"]
    empty = ctl_process("run", "gemma")
    assert empty.code == 1
    assert "There is no prompt." in empty.err


def test_thoughts_stay_out_of_a_pipe(ctl: Ctl, port: Port) -> None:
    port.chunks.insert(0, piece(reasoning_content="hmm"))
    assert ctl("run", "gemma", "hi").out == "Hello, you.\n"
    assert ctl("run", "gemma", "hi", "--json").json["reasoning"] == "hmm"


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (404, {"message": "There is no model 'x'.", "code": "model_not_found"}, "no model 'x'"),
        (401, {"message": "A key is needed."}, "MODELPORT_API_KEY"),
        (500, {}, "The request was refused."),
    ],
)
def test_refusals(status: int, error: dict[str, Any], said: str, ctl: Ctl, port: Port) -> None:
    port.status, port.error = status, error
    result = ctl("run", "x", "hi")
    assert (result.code, result.out) == (1, "")
    assert said in result.err


def test_an_answer_that_breaks(ctl: Ctl, port: Port) -> None:
    port.chunks = [piece("Hel"), {"error": {"message": "The engine died.", "code": "lost"}}]
    result = ctl("run", "gemma", "hi")
    assert (result.code, result.out) == (1, "Hel\n")
    assert "The engine died." in result.err
    port.chunks = [piece("Hel")]
    result = ctl("run", "gemma", "hi")
    assert result.code == 1
    assert "The answer broke off." in result.err


def test_nobody_at_the_port(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.url = "http://127.0.0.1:1"
    assert ctl("run", "gemma", "hi").code == 3


def test_without_the_socket_the_record_tells_the_port(
    ctl: Ctl, port: Port, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPORT_CONTROL_SOCKET", "/nowhere.sock")
    assert ctl("run", "gemma", "hi").code == 3
    (home / "state" / "daemon.json").write_text(json.dumps({"url": port.url}), "utf-8")
    assert ctl("run", "gemma", "hi").out == "Hello, you.\n"


def test_a_conversation_on_a_terminal(port: Port) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv_of("run", "gemma"), stdin=theirs, stdout=theirs, stderr=theirs, env=process_env()
    )
    os.close(theirs)
    seen, typed = b"", [b"first\n", b"second\n", b"/bye\n"]
    try:
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # Linux says EIO when the other side is closed
                break
            if not more:
                break
            seen += more
            if seen.count(b">>> ") > 3 - len(typed):
                os.write(ours, typed.pop(0))
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert seen.count(b"Hello, you.") == 2
    roles = [message["role"] for message in port.asked[1]["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_a_conversation_cannot_be_json(ctl_process: Ctl, port: Port) -> None:
    assert ctl_process("run", "gemma", "--json").json["error"]["code"] == "invalid_request"
