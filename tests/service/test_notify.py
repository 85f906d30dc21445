"""What the service manager is told, on a real datagram socket."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.service.notify import Notifier, ascii_text, watchdog_interval


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode("ascii").split("\n")


def test_every_message(systemd: socket.socket) -> None:
    notifier = Notifier()
    with closing(notifier._socket.socket):
        notifier.ready("serving on http://127.0.0.1:8123")
        assert heard(systemd) == ["READY=1", "STATUS=serving on http://127.0.0.1:8123"]
        notifier.reloading()
        assert heard(systemd) == ["RELOADING=1"]
        notifier.alive()
        assert heard(systemd) == ["WATCHDOG=1"]
        notifier.stopping()
        assert heard(systemd) == ["STOPPING=1", "STATUS=draining"]


def test_a_status_is_one_ascii_line(systemd: socket.socket) -> None:
    notifier = Notifier()
    with closing(notifier._socket.socket):
        notifier.ready("Größe 30 MB · 模型\nREADY=0\n")
        assert heard(systemd) == ["READY=1", "STATUS=Große 30 MB ? ?? READY=0".replace("ß", "?")]


@pytest.mark.parametrize("address", [None, "", "/no/such/socket", "nonsense"])
def test_without_a_listener_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    else:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("x")
    notifier.alive()
    notifier.stopping()


def test_a_listener_that_left(systemd: socket.socket) -> None:
    notifier = Notifier()
    with closing(notifier._socket.socket):
        systemd.close()
        notifier.ready("x")
        notifier.stopping()


@given(st.text())
def test_any_text_becomes_one_ascii_line(text: str) -> None:
    made = ascii_text(text)
    assert made.isascii()
    assert "\n" not in made
    assert made == made.strip()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [({}, None), ({"WATCHDOG_USEC": "30000000"}, 15.0), ({"WATCHDOG_USEC": "0"}, None),
     ({"WATCHDOG_USEC": "soon"}, None), ({"WATCHDOG_USEC": "-5"}, None),
     ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, 1.0),
     ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, None)],
    ids=str,
)  # fmt: skip
def test_the_watchdogs_interval(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(environ, 7) == seconds
