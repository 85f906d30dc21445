"""Twelve faults that a popular model swapper was seen to have (v250), each a test on whole daemons
with real processes: what its users met must not come back here under another name."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import House, Watch, process_exists
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}),
    "responses": ("/v1/responses", {"input": "hi"}),
}


def quick(**changes: object) -> str:
    table: dict[str, object] = {
        "backoff": 0.05,
        "backoff_max": 0.2,
        "stop_grace": 0.5,
        "kill_grace": 0.5,
        "settle": 0.2,
        "linger_min": 0,
        "linger_max": 0,
        "quantum_min": 0.1,
        "quantum_max": 0.2,
    }
    return timing({**table, **changes})


def model(name: str, *flags: str, slots: int = 1, **more: object) -> str:
    """A model on an engine of its own: the stand-in, 100 MiB by word."""
    words = [*start.argv("engine"), "--port", "{port}", "--api-key-file", "{key_file}"]
    words += ["-c", "{ctx}", "-np", str(slots), *flags]
    argv = ", ".join(f"'{word}'" for word in words)
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    return (
        f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "100 MiB"\n'
        f'dialects = ["chat", "messages", "responses"]\n'
        f'[models.{name}]\nengine = "command.{name}"\nslots = {slots}\n{keys}'
    )


ONE_FITS = '[memory]\nbudget = "150 MiB"\n'


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def raw(house: House, path: str, body: dict[str, Any]) -> tuple[bytes, str]:
    """All that comes on the connection, and how it ended: "end" or "reset"."""
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", house.port), 30) as sock:
        sock.settimeout(30)
        sock.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        data = b""
        try:
            while more := sock.recv(65536):
                data += more
        except ConnectionResetError:
            return data, "reset"
    return data, "end"


def seconds_of(events: Any, kind: str, name: str) -> float:
    return float(next(e.data["at"] for e in events if (e.kind, e.data["model"]) == (kind, name)))


def ended(house: House, count: int) -> None:
    """Wait until so many backends have died, and see that no more do."""
    deadline = time.monotonic() + 20
    while (died := house.kinds("a").count("exited")) < count:
        assert time.monotonic() < deadline, f"only {died} died"
        time.sleep(0.01)
    assert died == count


# ---------------------------------------------------------------- the twelve


def test_01_a_backend_killed_in_mid_stream_is_no_clean_end(make_house: MakeHouse) -> None:
    """There: 200, a clean end of the chunks, and curl exits 0."""
    flags = ("--crash-at", "token:6", "--signal", "KILL", "--skip", "1", "--token-s", "0.02")
    with make_house(model("a", *flags, "--tokens", "50") + quick()) as house:
        for path, (url, body) in PATHS.items():
            data, end = raw(house, url, {"model": "a", "stream": True, **body})
            assert data.startswith(b"HTTP/1.1 200 ")
            assert not data.endswith(b"0\r\n\r\n"), "whoever reads it must know: this is not all"
            if path == "chat":
                assert b'"upstream_error"' in data
                assert b"[DONE]" not in data
            else:
                assert end == "reset", "a reset gives these clients their streaming retries"
                assert b"event: error" not in data


def test_02_a_backend_killed_before_its_answer_is_tried_once_more(
    make_house: MakeHouse, short_dir: Path
) -> None:
    """There: 502 with an empty body, no second try."""
    once = ("--crash-at", "first-byte", "--skip", "1", "--times", "1", "--state")
    always = ("--crash-at", "first-byte", "--skip", "1")
    config = model("once", *once, str(short_dir / "s")) + model("always", *always)
    with make_house(config + quick()) as house:
        answer = house.chat("once")
        assert answer.status == 200
        assert house.kinds("once").count("start") == 2
        why = house.client.get(f"/requests/{answer.headers['x-request-id']}")
        assert why["retried"]
        assert why["status"] == 200
        refused = house.chat("always")
        assert refused.status in (400, 502)
        assert refused.json()["error"]["message"], "an error in the dialect, not an empty body"
        anthropic = house.request("POST", "/v1/messages", {"model": "always", "messages": []})
        assert anthropic.status in (400, 500)
        assert anthropic.json()["type"] == "error"


def test_03_a_backend_that_never_answers_holds_up_nobody_else(
    make_house: MakeHouse, crowd: ThreadPoolExecutor
) -> None:
    """There: both hang for ever."""
    mute = model("mute", "--hang-accept")
    config = ONE_FITS + mute + model("other") + quick(start_stall=1.0, health_timeout=0.2)
    with make_house(config) as house:
        watch = Watch(house)
        hanging = crowd.submit(house.chat, "mute")
        watch.wait("start", "mute")
        assert house.chat("other").status == 200
        told = watch.wait("exited", "mute")
        assert told.data["facts"]["exit_class"] == "hang"
        assert house.ctl("unload", "mute", "--force").returncode == 0
        assert hanging.result(60).status in (500, 502, 503)


def test_04_an_answer_comes_from_the_process_that_was_started_for_it(
    make_house: MakeHouse, crowd: ThreadPoolExecutor
) -> None:
    """There: b's old process, slow to leave, answers for a, which is slow to bind."""
    slow = ("--term-s", "1.5")
    late = ("--late-port", "--load-s", "1.0")
    with make_house(model("b", *slow) + quick(stop_grace=5)) as house:
        assert house.chat("b").status == 200
        old = house.backends()["b"]["pid"]
        house.write(model("a", *late) + model("b", *slow, keep_alive=900, ctx=2048) + quick())
        assert house.client.post("/reload")["ok"]
        answers = [crowd.submit(house.request, "GET", f"/upstream/{m}/fake") for m in "abab"]
        for name, answer in zip("abab", answers, strict=True):
            told = answer.result(30)
            assert told.status == 200
            flags = told.json()["argv"]
            assert ("--late-port" in flags) == (name == "a"), f"{name} was answered by another"
        for name in "ab":
            pid = house.request("GET", f"/upstream/{name}/fake").json()["pid"]
            assert pid == house.backends()[name]["pid"] != old


def test_05_a_touched_configuration_disturbs_no_stream(make_house: MakeHouse) -> None:
    """There: the stream is cut, and every model is stopped."""
    config = model("a", "--tokens", "-1", "--token-s", "0.01") + quick()
    with make_house(config) as house:
        pieces = []
        for piece in house.stream("a", max_tokens=120):
            pieces.append(piece)
            if len(pieces) == 5:
                house.write(config)
                assert house.client.post("/reload")["changed"] == []
        assert len(pieces) >= 120
        assert house.kinds("a") == ["start", "ready"]


@pytest.mark.parametrize("service", [False, True])
def test_06_a_killed_daemon_leaves_nothing_that_is_in_the_way(
    make_house: MakeHouse, service: bool
) -> None:
    """There: the backend lives on, and its model fails ever after with "address in use"."""
    house = make_house(model("a", "--ignore-term", ctx=512) + quick(), service=service).start()
    assert house.chat("a").status == 200
    backend = house.backends()["a"]
    assert house.process is not None
    os.kill(house.process.pid, signal.SIGKILL)
    house.process.wait(20)
    if not service:
        deadline = time.monotonic() + 20
        while process_exists(backend["pid"]):
            assert time.monotonic() < deadline, "it outlived a foreground daemon"
            time.sleep(0.02)
    house.start()
    assert house.chat("a").status == 200
    assert (house.backends()["a"]["pid"] == backend["pid"]) is service
    assert house.ctl("unload", "--all").returncode == 0
    assert not process_exists(backend["pid"])


def test_07_keep_alive_counts_from_ready_though_its_client_left(make_house: MakeHouse) -> None:
    """There: "TTL reached" one second after ready, since the client had left before."""
    config = model("a", "--load-s", "1.5", keep_alive='"2 s"') + quick()
    with make_house(config) as house:
        watch = Watch(house)
        connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=30)
        body = json.dumps({"model": "a", "messages": []})
        connection.request("POST", "/v1/chat/completions", body)
        watch.wait("start", "a")
        connection.close()
        watch.wait("exited", "a")
        events = house.events()
        stayed = seconds_of(events, "stop", "a") - seconds_of(events, "ready", "a")
        assert stayed >= 1.9, f"it left after {stayed:.2f} s of its 2 s"


def test_08_two_busy_clients_do_not_starve_a_third(
    make_house: MakeHouse, crowd: ThreadPoolExecutor
) -> None:
    """There: whoever asks for B waits until the two overlapping clients of A stop."""
    config = ONE_FITS + model("a", "--first-s", "0.2", slots=2) + model("b") + quick()
    with make_house(config) as house:
        over = threading.Event()

        def hot() -> set[int]:
            seen = set()
            while not over.is_set():
                seen.add(house.chat("a", max_tokens=1).status)
            return seen

        clients = [crowd.submit(hot) for _ in range(2)]
        assert house.chat("a", max_tokens=1).status == 200
        try:
            cold = crowd.submit(house.chat, "b")
            assert cold.result(30).status == 200
        finally:
            over.set()
        for client in clients:
            assert client.result(60) == {200}


def test_09_an_unload_of_one_that_ignores_sigterm_holds_up_nobody(
    make_house: MakeHouse, crowd: ThreadPoolExecutor
) -> None:
    """There: a warm request to another model takes as long as the stop."""
    config = model("deaf", "--ignore-term") + model("warm") + quick(stop_grace=6, kill_grace=6)
    with make_house(config) as house:
        assert house.chat("deaf").status == house.chat("warm").status == 200
        pid = house.backends()["deaf"]["pid"]
        watch = Watch(house)
        unload = crowd.submit(house.ctl, "unload", "deaf")
        watch.wait("stop", "deaf")
        for _ in range(5):
            assert house.chat("warm").status == 200
        assert process_exists(pid), "all of them while it was still being stopped"
        assert not unload.done()
        os.kill(pid, signal.SIGKILL)
        assert unload.result(30).returncode == 0


def test_10_a_slow_stopper_is_evicted_with_the_stop_timeout(make_house: MakeHouse) -> None:
    """There: with the timeout of the health check, two minutes by default."""
    config = ONE_FITS + model("deaf", "--ignore-term", keep_alive=900) + model("b")
    long_waits = {"start_stall": 600, "probe_timeout": 600, "health_timeout": 600}
    with make_house(config + quick(stop_grace=0.4, kill_grace=0.4, **long_waits)) as house:
        assert house.chat("deaf").status == 200
        pid = house.backends()["deaf"]["pid"]
        assert house.chat("b").status == 200
        assert not process_exists(pid)
        events = house.events()
        took = seconds_of(events, "exited", "deaf") - seconds_of(events, "stop", "deaf")
        assert 0.4 <= took < 20, "TERM, a second TERM, KILL; nothing of 600 s"


def test_11_a_start_that_runs_out_of_memory_says_so_and_is_not_hammered(
    make_house: MakeHouse,
) -> None:
    """There: "exited prematurely", without code or line, and tried again at each request."""
    flags = ("--crash-at", "load", "--oom", "--signal", "ABRT")
    with make_house(model("a", *flags) + quick(backoff=0.2)) as house:
        answer = house.chat("a")
        assert answer.status == 503
        assert answer.headers["x-should-retry"] == "false"
        message = answer.json()["error"]["message"]
        assert "out of memory" in message
        assert re.search("Insufficient Memory|failed with status 5", message), message
        starts = house.kinds("a").count("start")
        for _ in range(5):
            assert house.chat("a").status == 503
        assert house.kinds("a").count("start") == starts, "not for each request"
        failed = [e.data["facts"] for e in house.events() if e.kind == "exited"]
        assert {facts["exit_class"] for facts in failed} == {"out_of_memory"}


def test_12_a_failed_load_is_an_error_of_the_dialect(make_house: MakeHouse) -> None:
    """There: 200, "Done!", and a bare line of JSON in a stream of events."""
    with make_house(model("a", "--fail-start", "1") + quick(breaker='"1 in 60 s"')) as house:
        for stream in (True, False):
            for path, (url, body) in PATHS.items():
                answer = house.request("POST", url, {"model": "a", "stream": stream, **body})
                assert answer.status == (500 if path == "messages" else 503)
                assert answer.headers["content-type"] == "application/json"
                error = answer.json()["error"]
                assert "exit status 1" in error["message"]
                assert error["type"] == ("api_error" if path == "messages" else "server_error")


# ---------------------------------------------------------------- and what goes with them


def test_a_backend_that_wedges_while_it_serves_is_replaced(make_house: MakeHouse) -> None:
    """It accepts and never answers: its client is served by the next one, and never knows."""
    # Its successor, too, must say something in that time, on a busy machine.
    waits = quick(answer_stall=2.0, probe_timeout=2.0, liveness_interval=0.1)
    with make_house(model("a") + waits) as house:
        assert house.chat("a").status == 200
        first = house.backends()["a"]["pid"]
        os.kill(first, signal.SIGSTOP)
        assert house.chat("a").status == 200
        assert house.backends()["a"]["pid"] != first
        assert not process_exists(first)
        (ended,) = [e.data["facts"] for e in house.events() if e.kind == "exited"]
        assert ended["exit_class"] == "hang"
        assert "no sign of progress" in ended["detail"]


def test_a_request_that_crashes_backends_is_refused_and_costs_two_lives_at_most(
    make_house: MakeHouse,
) -> None:
    """Its own second attempt is the second crash; from then on it is refused, and the model goes
    on serving everybody else."""
    flags = ("--crash-word", "poison", "--signal", "SEGV")
    with make_house(model("a", *flags) + quick(breaker='"3 in 600 s"')) as house:
        assert house.chat("a").status == 200
        bad = house.chat("a", "poison")
        assert bad.status in (400, 502)
        assert bad.headers["x-should-retry"] == "false"
        for _ in range(4):
            again = house.chat("a", "poison")
            assert again.status == 400
            assert again.headers["x-should-retry"] == "false"
            assert again.json()["error"]["code"] == "request_crashes_model"
        assert house.chat("a", "kind").status == 200
        ended(house, 2)
        # another one: two bodies, two crashes each, and each counts once: the circuit is closed
        assert house.chat("a", "poison too").status in (400, 502)
        ended(house, 4)
        assert "failed" not in house.kinds("a")
        assert house.chat("a", "kind").status == 200
        assert house.ctl("reset", "a").returncode == 0
        assert house.chat("a", "poison").status in (400, 502)
        ended(house, 6)  # allowed again, and again the cause


def test_a_stopped_daemon_goes_on_where_it_was(make_house: MakeHouse) -> None:
    """SIGSTOP as sleep: no model leaves for it, and each backend is asked whether it serves."""
    waits = quick(wake_gap=1, memory_sample=0.1, machine_sample=0.1)
    both = model("a", keep_alive='"3 s"') + model("b", keep_alive='"3 s"')
    with make_house(both + waits) as house:
        assert house.chat("a").status == house.chat("b").status == 200
        assert house.process is not None
        watch = Watch(house)
        # Once more: the load of the second may have taken long.
        assert house.chat("a").status == house.chat("b").status == 200
        os.kill(house.process.pid, signal.SIGSTOP)
        time.sleep(4.0)
        os.kill(house.process.pid, signal.SIGCONT)
        woke = time.monotonic()
        assert set(house.backends()) == {"a", "b"}, "the time asleep is nobody's idle time"
        assert house.chat("a").status == 200
        for name in "ab":
            watch.wait("exited", name)
        assert time.monotonic() - woke >= 1.5, "both had most of their keep-alive left"
        assert "the machine slept" in house.log_file.read_text()
        assert "is asked whether it serves" in house.log_file.read_text()


@pytest.mark.skipif(
    not Path("/usr/bin/faketime").exists(), reason="no faketime here: apt install faketime"
)
def test_a_jump_of_the_wall_clock_changes_nothing(make_house: MakeHouse) -> None:
    """Three days ahead, then five back, with a model loaded and one stream under way."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    waits = quick(memory_sample=0.1, machine_sample=0.1)
    flags = ("--tokens", "-1", "--token-s", "0.02", "--leak", "8")
    config = model("a", *flags, keep_alive='"2 s"') + waits
    house = make_house(config)
    stamp = house.folder / "faketime"
    stamp.write_text("+0\n")
    house.extra = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    with house:
        watch = Watch(house)
        sizes = []
        for piece, _ in enumerate(house.stream("a", max_tokens=200)):
            if piece in (20, 60):
                stamp.write_text("+3d\n" if piece == 20 else "-2d\n")
            if piece in (100, 190):
                sizes.append(house.backends()["a"]["measured"])
        began = time.monotonic()
        assert sizes[1] > sizes[0], "memory is still looked at"
        told = watch.wait("exited", "a")
        assert 1.0 < time.monotonic() - began < 15
        assert told.data["facts"]["asked"]
        assert "slept" not in house.log_file.read_text()
        assert house.chat("a", max_tokens=2).status == 200
