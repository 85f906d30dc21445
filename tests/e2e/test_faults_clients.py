"""Every fault that a client can have, on whole daemons: see ``test_faults_loading.py`` for what a
seed is, and ``stage.py`` for the check that ends each."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.outcomes import Ask, Incoming, judged, kinds, some
from tests.e2e.seeds import FAULTS
from tests.e2e.stage import Stage, dice, folder, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
seeds = pytest.mark.parametrize("seed", FAULTS)
CUT = 15.0  # seconds in which an engine must have stopped working for whoever left: a deadline


@pytest.fixture(scope="module")
def staged() -> Iterator[Stage]:
    with folder() as place, Stage(place, budget="150 MiB") as stage:
        yield stage


@pytest.fixture
def stage(staged: Stage) -> Stage:
    return staged.fresh()


def engine(stage: Stage, name: str) -> dict[str, Any]:
    """What the stand-in counted."""
    found: dict[str, Any] = stage.house.request("GET", f"/upstream/{name}/fake").json()
    return found


@seeds
def test_a_client_that_leaves_in_mid_stream_frees_its_slot(stage: Stage, seed: int) -> None:
    """By a goodbye or a reset, at any byte: its generation ends, and whoever waits is served."""
    rng = dice("leaves", seed)
    stage.flags("a", "--token-s", 0.01)
    stage.ready("a")
    seen = stage.now()
    leaving = [
        replace(each, limit=10**6, tokens=10**6, leave=rng.randint(1, 4000))
        for each in some(rng, "a", stream=True, count=rng.randint(3, 5))
    ]
    whole = some(rng, "a", count=2)
    crowd = stage.crowd(*leaving)
    crowd.streaming()
    crowd.ask(*whole)
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"left": len(leaving), "answer": 2}
    until(lambda: engine(stage, "a")["in_flight"] == 0, CUT, "it works for nobody")
    until(lambda: stage.house.status()["leases"] == 0, CUT, "no lease is left")
    assert engine(stage, "a")["cancelled"] == len(leaving)
    assert stage.kinds("a", seen) == []
    stage.end_check(outcomes)


@seeds
def test_a_client_that_leaves_while_it_waits_is_forgotten(stage: Stage, seed: int) -> None:
    """Its place is gone at once; the load that it asked for goes on and serves the next."""
    rng = dice("leaves the queue", seed)
    stage.flags("a", "--load-s", 0.3 + rng.random() / 2)
    seen = stage.now()
    crowd = stage.crowd(*(replace(each, leave=0) for each in some(rng, "a")))
    stage.told_of("start", "a", seen)
    until(lambda: stage.house.status()["queue"] == 0, CUT, "nobody waits any more")
    crowd.ask(*(some(rng, "a") if rng.random() < 0.5 else ()))
    stage.told_of("ready", "a", seen)
    outcomes = crowd.outcomes()
    assert kinds(outcomes)["answer"] + kinds(outcomes)["left"] == len(outcomes)
    assert stage.kinds("a", seen) == ["start", "ready"], "a load is not wasted"
    stage.end_check(outcomes)


@seeds
def test_a_client_that_leaves_the_queue_behind_a_busy_model(stage: Stage, seed: int) -> None:
    """Only one model fits, and it is busy: who waits for the other leaves, and nothing is moved."""
    rng = dice("leaves behind", seed)
    stage.flags("a", "--token-s", 0.02)
    stage.ready("a")
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a", count=2, stream=True, tokens=30))
    crowd.streaming()
    crowd.ask(*(replace(each, leave=0) for each in some(rng, "b", count=3)))
    outcomes = crowd.outcomes()
    until(lambda: stage.house.status()["queue"] == 0, CUT, "nobody waits any more")
    assert kinds(outcomes) == {"answer": 2, "left": 3}
    assert stage.kinds("b", seen).count("start") <= 1
    stage.end_check(outcomes)


@seeds
def test_a_client_that_never_reads_is_cut(stage: Stage, seed: int) -> None:
    """It would hold its model for ever: cut after the patience for it, and the other is loaded."""
    rng = dice("never reads", seed)
    stage.ready("a")
    with sent(stage, Ask("a", limit=10**7, tokens=10**7, text=f"{seed}")) as sock:
        sock.settimeout(20)
        assert sock.recv(1), "it began"
        began = time.monotonic()
        outcomes = stage.crowd(*some(rng, "b")).outcomes()
        assert kinds(outcomes) == {"answer": len(outcomes)}
        assert time.monotonic() - began < 50, "and not held up for ever"
        incoming = Incoming()
        incoming.feed(b"H" + drained(sock)[0])
        assert not incoming.complete, "what it finds later is no whole answer"
    stage.end_check(outcomes)


def sent(stage: Stage, what: Ask) -> socket.socket:
    """A connection with little room on which a request was sent."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", stage.house.port))
    sock.sendall(what.raw())
    return sock


def drained(sock: socket.socket) -> tuple[bytes, str]:
    """Everything that comes, and how it ended."""
    data = b""
    try:
        while more := sock.recv(1 << 16):
            data += more
    except ConnectionResetError:
        return data, "reset"
    return data, "end"


@seeds
def test_a_slow_reader_gets_all_of_it(stage: Stage, seed: int) -> None:
    """Slow is not stuck: as long as it reads, it is served to the end, at its own pace."""
    rng = dice("slow reader", seed)
    slow = Ask("a", rng.choice(("chat", "messages")), tokens=300, limit=300, read=60_000, text="s")
    outcomes = stage.crowd(slow, *some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    stage.end_check(outcomes)


@seeds
def test_a_slow_body_is_refused_and_holds_up_nobody(stage: Stage, seed: int) -> None:
    """Cut anywhere: in the head it is closed, in the body answered with 408; never an engine's."""
    rng = dice("slow body", seed)
    raw = Ask("a", close=False, text=f"{seed}").raw()
    body_at = raw.index(b"\r\n\r\n") + 4
    socks = []
    cuts = [rng.randrange(body_at + 1, len(raw)), rng.randrange(1, body_at - 1)]
    for cut in cuts:
        sock = socket.create_connection(("127.0.0.1", stage.house.port), 10)
        sock.sendall(raw[:cut])
        socks.append(sock)
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    for sock, cut in zip(socks, cuts, strict=True):
        with sock:
            sock.settimeout(10)
            data, _ = drained(sock)
            incoming = Incoming()
            incoming.feed(data)
            if cut > body_at:
                assert incoming.status == 408
                assert judged(Ask("a"), incoming).kind == "error"
            else:
                assert incoming.status in (0, 408)
    assert engine(stage, "a")["generations"] == len(outcomes) + 1, "and the probe of readiness"
    stage.end_check(outcomes)


@seeds
def test_pipelined_requests_are_answered_in_order(stage: Stage, seed: int) -> None:
    rng = dice("pipeline", seed)
    asks = [
        Ask("a", stream=rng.random() < 0.5, tokens=n, limit=n, text=f"{seed} {n}")
        for n in rng.sample(range(1, 12), rng.randint(2, 5))
    ]
    raw = b"".join(each.raw() for each in asks)
    with socket.create_connection(("127.0.0.1", stage.house.port), 10) as sock:
        sock.settimeout(20)
        at = 0
        while at < len(raw):  # in pieces that heed no border
            size = rng.choice((1, 7, 100, 5000))
            sock.sendall(raw[at : at + size])
            at += size
        data = b""
        for each in asks:
            incoming = Incoming()
            while True:
                end = answer_end(data)
                if end:
                    break
                data += sock.recv(65536)
            incoming.feed(data[:end])
            data = data[end:]
            assert judged(each, incoming).kind == "answer"
    stage.end_check()


def answer_end(data: bytes) -> int:
    """Where the first whole answer ends; 0: it is not here yet."""
    head, _, rest = data.partition(b"\r\n\r\n")
    if b"\r\n\r\n" not in data:
        return 0
    at = len(head) + 4
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line.split(b":")[1])
            return at + size if len(rest) >= size else 0
    end = rest.find(b"0\r\n\r\n")
    while end > 0 and not rest[:end].endswith(b"\r\n"):
        end = rest.find(b"0\r\n\r\n", end + 1)
    return at + end + 5 if end > 0 else 0


@seeds
def test_half_a_goodbye_is_a_goodbye(stage: Stage, seed: int) -> None:
    """A client that closes its writing side has left, before or during its answer."""
    rng = dice("half close", seed)
    stage.flags("a", "--token-s", 0.01)
    stage.ready("a")
    what = Ask("a", limit=10**6, tokens=10**6, text=f"{seed}")
    with socket.create_connection(("127.0.0.1", stage.house.port), 10) as sock:
        sock.settimeout(20)
        sock.sendall(what.raw())
        if rng.random() < 0.5:
            assert sock.recv(100)
        sock.shutdown(socket.SHUT_WR)
        drained(sock)
    until(lambda: stage.house.status()["leases"] == 0, CUT, "no lease is left")
    until(lambda: engine(stage, "a")["in_flight"] == 0, CUT, "it works for nobody")
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    stage.end_check(outcomes)


@seeds
def test_more_connections_than_descriptors(seed: int) -> None:
    """Nothing is logged without end, and who has something to say is served all the while."""
    rng = dice("descriptors", seed)
    with folder() as place:
        stage = Stage(place, names=("a",))
        stage.house.wrapper = ("sh", "-c", 'ulimit -n 128; exec "$@"', "sh")
        with stage:
            log = stage.house.log_file
            before = log.stat().st_size + len(stage.house.stderr())
            flood = []
            for _ in range(400):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", stage.house.port))
                flood.append(sock)
            if rng.random() < 0.5:
                for sock in flood[::2]:
                    try:
                        sock.send(b"POST /v1/chat/completions HTTP/1.1\r\n")
                    except OSError:
                        continue
            until(
                lambda: stage.house.request("GET", "/health").status == 200,
                20,
                "it serves all along",
            )
            time.sleep(0.5)  # of being full, in which a careless server fills its log
            for sock in flood:
                sock.close()
            until(lambda: stage.house.request("GET", "/health").status == 200, 20, "it serves")
            outcomes = stage.crowd(*some(rng, "a")).outcomes()
            assert kinds(outcomes) == {"answer": len(outcomes)}
            grown = log.stat().st_size + len(stage.house.stderr()) - before
            assert grown < 8000, f"{grown} bytes of log"
            stage.end_check(outcomes, errors="Too many open files|accept")
