"""``takeover`` without a daemon: the file, and who holds a port."""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from pathlib import Path

import pytest

from control_api.commands.local import takeover
from control_api.commands.local.takeover import PROGRAMS, how_to_stop
from daemon.service.ports import Holder
from tests.commands.conftest import Ctl
from tests.ports import free_port


def test_it_is_written_and_taken_back(ctl: Ctl, home: Path) -> None:
    file, port = home / "config.toml", str(free_port())
    file.write_text("# first\n[server] # ours\nport = 8123\n")
    done = ctl("takeover", "ollama", "--port", port)
    assert done.code == 0, done.err
    assert f"http://127.0.0.1:{port} answers as Ollama" in done.out
    assert "No daemon was told" in done.out
    text = file.read_text()
    assert tomllib.loads(text)["server"]["also"] == [{"port": int(port), "as": "ollama"}]
    assert text.startswith("# first\n[server] # ours\n")
    again = ctl("takeover", "ollama", "--json")
    assert (again.code, again.json["changed"], again.json["port"]) == (0, False, int(port))
    other = ctl("takeover", "llama-server", "--port", port)
    assert (other.code, "server.also[0]" in other.err) == (1, True)
    undone = ctl("takeover", "ollama", "--undo")
    assert (undone.code, "removed port" in undone.out) == (0, True)
    assert file.read_text() == "# first\n[server] # ours\nport = 8123\n"
    nothing = ctl("takeover", "ollama", "--undo", "--json")
    assert (nothing.code, nothing.json["changed"]) == (0, False)


def test_who_holds_it_is_said(ctl: Ctl, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = ctl("takeover", "llama-server", "--port", str(port))
    assert done.code == 1
    assert f"(pid {os.getpid()})" in done.err
    assert f"kill {os.getpid()}" in done.err
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1", "9" * 30])
def test_a_port_is_a_port(ctl: Ctl, text: str) -> None:
    assert ctl("takeover", "ollama", f"--port={text}").code == 2


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Holder("ollama", 7, "ollama serve"), "systemctl disable --now ollama"),
        (Holder(user="user ollama"), "systemctl disable --now ollama"),
        (Holder("LM Studio", 7), "lms server stop"),
        (Holder("node", 7, "/home/x/.lmstudio/server"), "lms server stop"),
        (Holder("llama-server", 7, "llama-server -m x"), "kill 7"),
        (Holder("nginx", 8), "kill 8"),
        (Holder(), "owner"),
    ],
)
def test_how_each_program_is_stopped(
    found: Holder, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert said in how_to_stop(found)


def test_on_a_mac_ollama_is_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover.sys, "platform", "darwin")
    assert "menu bar" in how_to_stop(Holder("ollama", 7))


def test_ports_are_the_programs_own() -> None:
    ports = {name: program.port for name, program in PROGRAMS.items()}
    assert ports == {"ollama": 11434, "lmstudio": 1234, "llama-server": 8080}
