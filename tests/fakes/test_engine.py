"""The stand-in for llama-server: what it serves, and each way in which it fails."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.fakes.start import Fake, argv, install, running

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
REPLY = "one two three four five six seven eight nine ten"


def wait_until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait for ``condition()`` to be true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Ended, reaped or not: its parent is whoever adopts orphans here."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def open_stream(fake: Fake, path: str = "/v1/chat/completions") -> http.client.HTTPConnection:
    """Start a streamed generation and read its head."""
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
    body = json.dumps({**CHAT, "stream": True, "max_tokens": 10**6})
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    return connection


def test_it_starts_quickly() -> None:
    """In the time of a few Pythons that do nothing: 30 to 60 ms here, more on a slow machine."""
    times, bare = [], []
    nothing = [sys.executable, "-I", "-S", "-c", "import argparse, json, socket, threading"]
    for _ in range(5):
        began = time.monotonic()
        subprocess.run(nothing, check=True, timeout=20)
        bare.append(time.monotonic() - began)
        began = time.monotonic()
        with running("engine") as fake:
            times.append(time.monotonic() - began)
            assert fake.request("/health") == (200, {"status": "ok"})
    assert min(times) < 4 * min(bare)


def test_every_dialect_gives_the_reply() -> None:
    with running("engine", "--alias", "tiny") as fake:
        status, chat = fake.request("/v1/chat/completions", CHAT)
        assert (status, chat["model"]) == (200, "tiny")
        assert chat["choices"][0]["message"]["content"] == REPLY
        assert chat["usage"]["completion_tokens"] == 10
        assert fake.request("/v1/completions", {"prompt": "x"})[1]["choices"][0]["text"] == REPLY
        message = fake.request("/v1/messages", {**CHAT, "max_tokens": 3})[1]
        assert message["content"][0]["text"] == "one two three"
        assert message["stop_reason"] == "max_tokens"
        response = fake.request("/v1/responses", {"input": "hi"})[1]
        assert response["output"][0]["content"][0]["text"] == REPLY
        counted = fake.request("/v1/messages/count_tokens", {**CHAT, "system": "a b"})[1]
        assert counted["input_tokens"] > 2
        assert fake.request("/v1/models")[1]["data"][0]["id"] == "tiny"


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", "data: [DONE]"),
        ("/v1/completions", "data: [DONE]"),
        ("/v1/messages", 'data: {"type": "message_stop"}'),
        ("/v1/responses", '"type": "response.completed"'),
    ],
)
def test_streams_end_as_their_dialect_says(path: str, last: str) -> None:
    with running("engine") as fake:
        status, text = fake.request(path, {**CHAT, "input": "hi", "stream": True})
        assert status == 200
        assert last in text.strip().splitlines()[-1]


def test_tools_reasoning_and_usage() -> None:
    with running("engine", "--tool", "ping", "--reasoning", "let me see") as fake:
        _, whole = fake.request("/v1/chat/completions", CHAT)
        choice = whole["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "ping"
        assert choice["message"]["reasoning_content"] == "let me see"
        options = {"include_usage": True}
        body = {**CHAT, "stream": True, "stream_options": options}
        lines = fake.request("/v1/chat/completions", body)[1].strip().split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert chunks[-1]["usage"]["completion_tokens"] == 10
        assert any("reasoning_content" in c["choices"][0]["delta"] for c in chunks[:-1])


def test_embeddings_and_ranking_are_asked_for_by_flag() -> None:
    with running("engine") as fake:
        assert fake.request("/v1/embeddings", {"input": "x"})[0] == 501
        assert fake.request("/v1/rerank", {"query": "x", "documents": []})[0] == 501
    with running("engine", "--embeddings", "--reranking") as fake:
        data = fake.request("/v1/embeddings", {"input": ["a", "bb"]})[1]["data"]
        assert data[0]["embedding"] != data[1]["embedding"]
        ranked = fake.request("/v1/rerank", {"query": "x", "documents": ["aa", "b"]})[1]["results"]
        assert [result["index"] for result in ranked] == [0, 1]


def test_a_key_file_guards_all_but_health(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    with running("engine", "--api-key-file", str(keys)) as fake:
        assert fake.request("/health")[0] == 200
        assert fake.request("/v1/models")[0] == 401
        assert fake.request("/v1/models", headers={"x-api-key": "secret"})[0] == 200
        assert fake.request("/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200


def test_flags_are_checked_as_llama_server_does() -> None:
    with running("engine", "--no-mmap", ready=False) as fake:
        assert fake.wait_exit() == 1
        assert "error: invalid argument: --no-mmap" in fake.log()
    flags = ["-c", "8192", "-np", "2", "--cache-ram", "0", "-lv", "4", "--jinja", "-fa", "auto"]
    with running("engine", *flags) as fake:
        props = fake.request("/props")[1]
        assert props["default_generation_settings"]["n_ctx"] == 8192
        assert len(fake.request("/slots")[1]) == 2


def test_a_unix_socket_and_an_executable_of_any_name(tmp_path: Path, short_dir: Path) -> None:
    program = install(tmp_path, "engine", "llama-server")
    assert program.stat().st_mode & 0o111
    where = short_dir / "e.sock"
    with running("engine", "--host", str(where)) as fake:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(where))
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert fake.process.poll() is None


# Starts that go wrong


def test_fail_start() -> None:
    with running("engine", "--fail-start", "7", "--stderr", "out of luck", ready=False) as fake:
        assert fake.wait_exit() == 7
        assert fake.log() == "out of luck\n"


def test_only_the_first_starts_fail(tmp_path: Path) -> None:
    flags = ["--fail-start", "1", "--times", "2", "--state", str(tmp_path / "starts")]
    for _ in range(2):
        with running("engine", *flags, ready=False) as fake:
            assert fake.wait_exit() == 1
    with running("engine", *flags) as fake:
        assert fake.request("/health")[0] == 200


def test_a_busy_port_made_up_and_real() -> None:
    with running("engine", "--port-busy", ready=False) as fake:
        assert fake.wait_exit() == 1
        assert "couldn't bind HTTP server socket" in fake.log()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        command = [*argv("engine"), "--port", port]
        result = subprocess.run(command, capture_output=True, timeout=10, check=False)
        assert result.returncode == 1
        assert f"port: {port}".encode() in result.stderr


def test_load_opens_the_port_first(tmp_path: Path) -> None:
    control = tmp_path / "control"
    with running("engine", "--hang-load", "--control", str(control), ready=False) as fake:
        status, body = fake.request("/health")
        assert (status, body["error"]["message"]) == (503, "Loading model")
        assert fake.request("/v1/chat/completions", CHAT)[0] == 503
        control.write_text('{"hang_load": false}')
        fake.request("/health")  # it reads the file
        fake.wait_ready()
        assert fake.request("/health")[0] == 200


def test_early_health_and_late_port() -> None:
    with running("engine", "--hang-load", "--early-health", ready=False) as fake:
        assert fake.request("/health")[0] == 200
    began = time.monotonic()
    with running("engine", "--load-s", "0.2", "--late-port", ready=False) as fake:
        assert fake.port
        assert time.monotonic() - began > 0.2


def test_hang_load_with_and_without_signs_of_life() -> None:
    with running("engine", "--hang-load", "--load-log", ready=False) as fake:
        fake.wait_log(r"load_tensors: (?s:.*)\nload_tensors: ")
        assert fake.request("/health")[0] == 503
        fake.terminate()
        assert fake.wait_exit() == -signal.SIGTERM  # as llama-server while it loads


@pytest.mark.parametrize("name", ["ABRT", "SEGV", "KILL"])
def test_a_crash_at_load_by_signal(name: str) -> None:
    flags = ["--crash-at", "load", "--signal", name, "--oom"]
    with running("engine", *flags, ready=False) as fake:
        assert fake.wait_exit() == -getattr(signal, f"SIG{name}")
        assert "kIOGPUCommandBufferCallbackErrorOutOfMemory" in fake.log()


# Answers that go wrong


def test_a_crash_before_the_first_byte() -> None:
    with running("engine", "--crash-at", "first-byte", "--exit-code", "9") as fake:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            fake.request("/v1/chat/completions", CHAT)
        assert fake.wait_exit() == 9


def test_a_crash_after_some_tokens_cuts_the_stream() -> None:
    flags = ["--crash-at", "token:3", "--signal", "ABRT", "--skip", "1"]
    with running("engine", *flags) as fake:
        assert fake.request("/v1/chat/completions", {**CHAT, "max_tokens": 1})[0] == 200
        connection = open_stream(fake)
        with pytest.raises(http.client.IncompleteRead) as cut:
            connection.getresponse().read()
        assert cut.value.partial.count(b'"content": "') == 3
        connection.close()
        assert fake.wait_exit() == -signal.SIGABRT


def test_a_crash_at_a_request_and_at_the_exit() -> None:
    with running("engine", "--crash-at", "request:2") as fake:
        assert fake.request("/v1/chat/completions", CHAT)[0] == 200
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            fake.request("/v1/chat/completions", CHAT)
        assert fake.wait_exit() == 1
    with running("engine", "--crash-at", "exit", "--signal", "SEGV") as fake:
        fake.terminate()
        assert fake.wait_exit() == -signal.SIGSEGV


def test_health_lies() -> None:
    with running("engine", "--health-lies") as fake:
        assert fake.request("/health")[0] == 200
        status, body = fake.request("/v1/chat/completions", CHAT)
        assert (status, body["error"]["message"]) == (500, "Compute error.")


def test_hangs_that_only_a_deadline_ends() -> None:
    for flag in ("--hang-answer", "--hang-accept"):
        with running("engine", flag) as fake:
            connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=0.2)
            connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
            with pytest.raises(TimeoutError):
                connection.getresponse()
            connection.close()


def test_a_client_that_leaves_is_noticed() -> None:
    with running("engine", "--tokens", "-1", "--token-s", "0.01") as fake:
        connection = open_stream(fake)
        connection.getresponse().read(10)
        assert fake.statistics()["in_flight"] == 1
        connection.close()
        wait_until(lambda: fake.statistics()["cancelled"] == 1)
        assert fake.statistics()["in_flight"] == 0


def test_slots_bound_what_runs_at_once() -> None:
    with running("engine", "--parallel", "2", "--first-s", "0.1") as fake:
        connections = [open_stream(fake) for _ in range(5)]
        for connection in connections:
            connection.getresponse().read()
            connection.close()
        # The last one is counted when its answer is out already.
        wait_until(lambda: fake.statistics()["completed"] == 5)
        assert fake.statistics()["max_in_flight"] == 2


def test_kept_connections_are_closed_when_told() -> None:
    with running("engine", "--drop-reused") as fake:
        connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.request("GET", "/health")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            connection.getresponse()
        connection.close()
    with running("engine", "--close-idle", "50") as fake:
        connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
        connection.request("GET", "/health")
        connection.getresponse().read()
        assert connection.sock.recv(1) == b""
        connection.close()


def test_chunked_requests_are_read_or_refused() -> None:
    for flags, status in (((), 200), (("--no-chunked",), 411)):
        with running("engine", *flags) as fake:
            connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
            body = [json.dumps(CHAT).encode()]
            connection.request("POST", "/v1/chat/completions", iter(body), encode_chunked=True)
            assert connection.getresponse().status == status
            connection.close()


def test_drip_and_model_strict() -> None:
    with running("engine", "--drip", "0.0001", "--model-strict", "right") as fake:
        assert fake.request("/v1/chat/completions", {**CHAT, "model": "right"})[0] == 200
        assert fake.request("/v1/chat/completions", {**CHAT, "model": "wrong"})[0] == 404


def test_the_control_file_changes_a_running_one(tmp_path: Path) -> None:
    control = tmp_path / "control"
    with running("engine", "--control", str(control)) as fake:
        assert fake.request("/v1/chat/completions", CHAT)[0] == 200
        control.write_text('{"health_lies": true}')
        assert fake.request("/v1/chat/completions", CHAT)[0] == 500
        control.write_text('{"healthy_lies": true}')
        assert "healthy_lies" in fake.request("/health")[1]["error"]["message"]


def test_the_record_tells_what_arrived(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with running("engine", "--record", str(record)) as fake:
        fake.request("/v1/chat/completions?a=b", CHAT, {"X-Mark": "here"})
        (entry,) = map(json.loads, record.read_text().splitlines())
        assert (entry["path"], entry["query"]) == ("/v1/chat/completions", "a=b")
        assert json.loads(entry["body"]) == CHAT
        assert entry["headers"]["x-mark"] == "here"
        seen = fake.statistics()
        assert seen["pid"] == fake.process.pid
        assert "--record" in seen["argv"]


# Processes that burden the machine or do not end


def test_ballast_leak_and_flood() -> None:
    with running("engine") as fake:
        base = psutil.Process(fake.process.pid).memory_info().rss
    with running("engine", "--ballast", "64", "--leak", "200", "--flood-log", "2") as fake:
        process = psutil.Process(fake.process.pid)
        first = process.memory_info().rss
        assert first > base + (60 << 20)
        wait_until(lambda: process.memory_info().rss > first + (30 << 20))
        assert fake.log_path.stat().st_size > 2 << 20


def test_stopping_politely_slowly_and_never() -> None:
    with running("engine") as fake:
        fake.terminate()
        assert fake.wait_exit() == 0
    with running("engine", "--term-s", "0.3") as fake:
        began = time.monotonic()
        fake.terminate()
        assert fake.wait_exit() == 0
        assert time.monotonic() - began > 0.25
    with running("engine", "--ignore-term") as fake:
        fake.terminate()
        fake.wait_log("SIGTERM ignored")
        assert fake.request("/health")[0] == 200
    with running("engine", "--default-term") as fake:
        fake.terminate()
        assert fake.wait_exit() == -signal.SIGTERM


def test_term_hangs_while_a_request_runs_as_in_llama_server() -> None:
    flags = ["--term-hangs", "--tokens", "-1", "--token-s", "0.01"]
    with running("engine", *flags) as fake:
        connection = open_stream(fake)
        connection.getresponse().read(10)
        fake.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            fake.wait_exit(0.3)
        connection.close()
        assert fake.wait_exit() == 0
    with running("engine", *flags) as fake:
        connection = open_stream(fake)
        connection.getresponse().read(10)
        fake.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            fake.wait_exit(0.2)
        fake.wait_log("cleaning up")  # two signals at once would be one
        fake.terminate()
        assert fake.wait_exit() == 1
        assert "second interrupt" in fake.log()
        connection.close()


def test_the_grandchild_outlives_its_parent() -> None:
    with running("engine", "--grandchild") as fake:
        child = int(fake.wait_log(r"grandchild (\d+)")[1])
        try:
            assert os.getsid(child) == child
            fake.terminate()
            assert fake.wait_exit() == 0
            os.kill(child, signal.SIGTERM)
            assert psutil.pid_exists(child)
        finally:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: gone(child))


def test_faults_come_from_the_environment_too() -> None:
    flags = "--fail-start 3 --stderr 'two words'"
    with running("engine", env={"FAKE_ENGINE_FLAGS": flags}, ready=False) as fake:
        assert fake.wait_exit() == 3
        assert fake.log() == "two words\n"
