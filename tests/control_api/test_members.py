"""The control socket of a daemon for the whole machine: members of its group alone."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from control_api import auth, client, places
from control_api.auth import MembersAuth, member, peer_uid
from control_api.client import Client, UnreachableError
from daemon.access.principals import OWNER
from daemon.core.problems import Code, ProblemError
from tests.control_api.fake import short_folder

linux = pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="Linux")


class Transport:
    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.sock if name == "socket" else default


def request(sock: Any, **headers: str) -> web.Request:
    return make_mocked_request("GET", "/", headers=headers, transport=Transport(sock))  # type: ignore[arg-type]


@linux
def test_the_kernel_says_who_it_is() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_uid(one) == os.getuid()
        assert MembersAuth("modelport").principal(request(one)) == OWNER
    assert peer_uid(None) is None
    assert peer_uid(one) is None, "closed"


@pytest.mark.parametrize(("name", "allowed"), [("alice", True), ("", False)])
def test_members_are_known_by_name(
    name: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "peer_uid", lambda sock: 4242)
    monkeypatch.setattr(auth, "member", lambda uid, group: name)
    checked = MembersAuth("modelport")
    if allowed:
        found = checked.principal(request(object()))
        assert (found.name, found.scopes) == ("alice", OWNER.scopes)
        return
    with pytest.raises(ProblemError) as caught:
        checked.principal(request(object()))
    assert caught.value.problem.code is Code.FORBIDDEN
    assert "usermod -aG modelport" in caught.value.problem.hint


def test_who_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "peer_uid", lambda sock: None)
    with pytest.raises(ProblemError, match="members of the group"):
        MembersAuth("modelport").principal(request(object()))


@pytest.mark.parametrize("headers", [{"Origin": "http://evil"}, {"Sec-Fetch-Site": "cross-site"}])
def test_web_pages_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ProblemError, match="Web pages"):
        MembersAuth("modelport").principal(request(object(), **headers))


def test_groups_are_looked_up() -> None:
    assert member(0, "root") == "root", "by the user's own group"
    assert member(0, "no-such-group") == ""
    assert member(4_000_000_000, "root") == ""


def test_another_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_folder() as folder:
        for module in (client, places):
            monkeypatch.setattr(module, "SYSTEM_RUN", folder)
        (folder / "public.json").write_text(
            '{"url": "http://127.0.0.1:8123", "group": "modelport"}'
        )
        path = folder / "control.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            environ = {"MODELPORT_STATE_DIR": str(folder / "mine"), "HOME": str(folder)}
            assert client.find_socket(environ) == path

            def denied(self: socket.socket, address: object) -> None:
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr(socket.socket, "connect", denied)
            with pytest.raises(UnreachableError) as caught:
                Client(environ=environ).get("/status")
    assert "group modelport alone. It serves on http://127.0.0.1:8123" in str(caught.value)
    assert "ctl key add" in caught.value.hint
