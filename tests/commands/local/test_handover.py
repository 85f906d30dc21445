"""From one daemon to the next: what counts as taken over."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.client import Client
from control_api.commands.local import handover
from control_api.commands.local.handover import Seen, Verdict, alive, await_daemon, healthy, judge
from tests.control_api.fake import FakeDaemon

LOADED = st.dictionaries(st.sampled_from("abc"), st.integers(1, 4))


def seen(backends: Mapping[str, int], pid: int = 2, version: str = "2") -> Seen:
    return Seen(pid, version, "http://127.0.0.1:1", backends=backends)


def test_what_is_waited_for() -> None:
    before = seen({"a": 7}, pid=1, version="1")
    living = lambda pid: True  # noqa: E731
    assert judge(before, "2", None, living).waiting == "no daemon answers"
    assert "of before" in judge(before, "2", before, living).waiting
    assert "version 3" in judge(before, "2", seen({}, version="3"), living).waiting
    ill = Seen(2, "2", "http://x", healthy=False)
    assert judge(before, "2", ill, living).waiting == "http://x/health does not answer"
    assert judge(before, "2", seen({}), living).waiting == "a has not been taken over"
    assert judge(before, "2", seen({}), lambda pid: False) == Verdict("", (), ("a",))
    assert judge(before, "2", seen({"a": 7}), living) == Verdict("", ("a",))


@given(LOADED, LOADED, st.sets(st.integers(1, 4)))
def test_each_model_is_kept_or_lost_or_waited_for(
    old: dict[str, int], now: dict[str, int], living: set[int]
) -> None:
    verdict = judge(seen(old, pid=1, version="1"), "2", seen(now), living.__contains__)
    kept = {model for model, pid in old.items() if now.get(model) == pid}
    if verdict.waiting:
        assert any(old[model] in living for model in old.keys() - kept)
    else:
        assert (set(verdict.kept), set(verdict.lost)) == (kept, old.keys() - kept)


def test_a_daemon_is_looked_at(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "healthy", lambda url: True)
    found = handover.look(Client())
    assert found is not None
    assert found.version
    assert all(isinstance(pid, int) for pid in found.backends.values())
    done = await_daemon(Client(), Seen(0, "", ""), found.version, seconds=30)
    assert done == Verdict()
    late = await_daemon(Client(), Seen(0, "", ""), "another", seconds=0)
    assert late.waiting == f"version {found.version} answers, not another"


def test_health_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PING_SECONDS", 30.0)
    assert alive(os.getpid())
    assert not alive(2**22 + 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert healthy(url)
        thread.join(10)
    assert not healthy(url)
