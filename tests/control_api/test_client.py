"""The synchronous client: finding the socket, errors, streams."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control_api.client import (
    Client,
    RefusedError,
    UnreachableError,
    find_socket,
    segment,
    state_dir,
    view,
)
from daemon.views import PoolView, StatusView
from tests.control_api.conftest import LIMITS
from tests.control_api.fake import FakeControl, FakeDaemon


@pytest.fixture
def daemon(folder: Path, fake: FakeControl) -> Iterator[FakeDaemon]:
    with FakeDaemon(fake, folder / "c.sock", LIMITS) as running:
        yield running


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Somebody who reads one request, says this, and hangs up."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as request:
            length = 0
            while (line := request.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            request.read(length)  # what is left unread would become a reset
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(5)
        listener.close()


def test_the_socket_is_found(folder: Path) -> None:
    state = folder / "state"
    environ = {"MODELPORT_STATE_DIR": str(state), "HOME": str(folder)}
    assert state_dir(environ) == state
    assert find_socket(environ) is None
    (state / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as usual, socket.socket(socket.AF_UNIX) as runtime:
        usual.bind(str(state / "run" / "control.sock"))
        assert find_socket(environ) == state / "run" / "control.sock"
        (folder / "modelport").mkdir()
        runtime.bind(str(folder / "modelport" / "control.sock"))
        environ["XDG_RUNTIME_DIR"] = str(folder)
        assert find_socket(environ) == folder / "modelport" / "control.sock"
    record = state / "daemon.json"
    record.write_text(json.dumps({"socket": "/recorded.sock"}), "utf-8")
    assert find_socket(environ) == Path("/recorded.sock")
    record.write_text("{", "utf-8")
    assert find_socket(environ) == folder / "modelport" / "control.sock"
    environ["MODELPORT_CONTROL_SOCKET"] = "/given.sock"
    assert find_socket(environ) == Path("/given.sock")


def test_nobody_there(folder: Path) -> None:
    with pytest.raises(UnreachableError, match="no socket at") as missing:
        Client(folder / "none.sock").get("/status")
    assert "ctl serve" in missing.value.hint
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.sock"))
        with pytest.raises(UnreachableError, match="nobody listens"):
            Client(folder / "dead.sock").get("/status")
    with pytest.raises(UnreachableError, match="is not running"):
        Client(environ={"MODELPORT_STATE_DIR": str(folder)}).get("/status")
    with pytest.raises(UnreachableError, match="cannot be asked"):
        Client(folder / ("x" * 200)).get("/status")


def test_somebody_else_there(folder: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    with answering(folder / "a", page), pytest.raises(UnreachableError, match="not the daemon"):
        Client(folder / "a").get("/status")
    with answering(folder / "b", b"SSH-2.0-x\r\n"), pytest.raises(UnreachableError):
        Client(folder / "b").get("/status")
    with answering(folder / "c", b""), pytest.raises(UnreachableError, match="closed"):
        Client(folder / "c").get("/status")
    odd = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n[]"
    with answering(folder / "d", odd), pytest.raises(RefusedError, match="answered 500"):
        Client(folder / "d").get("/status")


def test_a_stream_that_breaks_off_is_not_an_end(folder: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    line = b'{"step": "start", "text": "x"}\n'
    chunk = b"%x\r\n%s\r\n" % (len(line), line)
    for number, more in enumerate((b"", b"1", b"ff\r\nbroken", b"5\r\nhello")):
        path = folder / str(number)
        with answering(path, head + chunk + more):
            steps = Client(path).progress("/models/x/load")
            assert next(steps)["step"] == "start"
            with pytest.raises(UnreachableError):
                next(steps)


def test_a_text_that_breaks_off_is_not_an_end(folder: Path) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\none\ntwo\n"
    with answering(folder / "a", whole):
        lines = Client(folder / "a").log_lines("x", lines=2, follow=False)
        assert list(lines) == ["one", "two"]
    with answering(folder / "b", whole[:-2]), pytest.raises(UnreachableError):
        list(Client(folder / "b").log_lines("x", lines=2, follow=False))


def test_a_daemon_that_hangs(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(folder / "mute"))
        mute.listen(1)
        with pytest.raises(UnreachableError, match="does not answer"):
            Client(folder / "mute").get("/status", seconds=0.05)


def test_refusals_carry_the_envelope(daemon: FakeDaemon) -> None:
    with pytest.raises(RefusedError) as refused:
        Client(daemon.path).get(f"/models/{segment('no/body')}")
    assert refused.value.status == 404
    assert refused.value.envelope["error"]["code"] == "model_not_found"


def test_names_survive_the_path(daemon: FakeDaemon) -> None:
    answer = Client(daemon.path).post(f"/models/{segment('org/repo:Q4')}/pin")
    assert answer["model"] == "org/repo:Q4"


def test_events_resume(daemon: FakeDaemon, fake: FakeControl) -> None:
    for kind in ("a", "b"):
        fake.emit(kind, text="two\nlines")
    events = list(Client(daemon.path).events(since=1, follow=False))
    assert [(event.kind, event.id, event.data["text"]) for event in events] == [
        ("b", 2, "two\nlines")
    ]


def test_a_view_of_a_newer_and_of_an_older_daemon() -> None:
    pool = {"name": "ram", "budget": 1, "committed": 0, "settling": 0, "measured": 0}
    pool |= {"free": None, "low": None, "pressed": False, "source": "x"}
    assert view(PoolView, {**pool, "colour": "red"}).name == "ram"
    with pytest.raises(RefusedError, match="another version"):
        view(StatusView, {"version": "0.0.1"})
