"""The real clients, started by ``ctl launch``: whole tool rounds, each in a network of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import ROOT
from tests.e2e.programs import CLIENTS, Client, Desk, installed, loopback_alone, make_desk
from tests.fakes import start
from tests.fakes.tools import TEXT
from tests.models import make_gguf

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

TEN = "one two three four five six seven eight nine ten"
DIALECTS = {"native": ["chat", "messages", "responses"], "chat": ["chat"]}
MakeDesk = Callable[..., Desk]

each_client = pytest.mark.parametrize("client", CLIENTS, ids=str)
each_engine = pytest.mark.parametrize("speaks", DIALECTS)


@pytest.fixture(scope="session")
def bins() -> Path:
    return installed()


@pytest.fixture
def alone() -> Iterator[None]:
    with loopback_alone():
        yield


@pytest.fixture
def stand_in(make_house: MakeHouse, short_dir: Path, bins: Path, alone: None) -> MakeDesk:
    """``stand_in("native")``: a desk at an engine that has the client write ``proof.txt``."""

    def make(speaks: str = "native", *more: str) -> Desk:
        flags = [*more]
        flags += ["--port", "{port}", "-c", "{ctx}", "-np", "4"]
        flags += ["--record", str(short_dir / "record"), "--writes", str(proof(short_dir))]
        argv = json.dumps([*start.argv("engine"), *flags])
        house = make_house(
            f"[engines.command.mine]\nargv = {argv}\nfootprint = '100 MiB'\n"
            f"dialects = {DIALECTS[speaks]}\n"
            "[models.mine]\nengine = 'mine'\nctx = 65536\nslots = 4\naliases = ['claude-*']\n"
        )
        return make_desk(house.start(), bins, short_dir)

    return make


def proof(folder: Path) -> Path:
    return folder / "project" / "proof.txt"


def record(desk: Desk) -> list[dict[str, Any]]:
    """What the engine was asked."""
    lines = (desk.folder / "record").read_text().splitlines()
    return [json.loads(line) for line in lines]


def said(done: subprocess.CompletedProcess[str]) -> str:
    return f"status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def worked(desk: Desk, done: subprocess.CompletedProcess[str]) -> None:
    """The whole round came about, and nothing of the person's went to the engine."""
    assert done.returncode == 0, said(done)
    assert proof(desk.folder).read_text() == TEXT + "\n", said(done)
    assert TEN in done.stdout, said(done)
    assert "REAL" not in (desk.folder / "record").read_text()


@each_engine
@each_client
def test_a_tool_round(client: Client, speaks: str, stand_in: MakeDesk) -> None:
    desk = stand_in(speaks)
    before = sorted(path.name for path in desk.home.iterdir())
    done = desk.ctl("launch", client.name, "mine", "--", *client.words, "Write the file")
    worked(desk, done)
    assert done.stdout.strip().endswith(TEN), "nothing of ours on its stdout"
    own = {path.name for path in desk.home.iterdir()} - set(before)
    assert not own & {".claude", ".claude.json", ".codex", ".pi"}, "the person's own is untouched"
    assert not list((desk.house.folder / "state" / "clients").glob("run-*"))


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@each_engine
@each_client
def test_a_tool_round_in_the_sandbox(client: Client, speaks: str, stand_in: MakeDesk) -> None:
    desk = stand_in(speaks)
    words = [word for word in client.words if word not in {"-s", "workspace-write"}]
    done = desk.ctl(
        "launch", client.name, "mine", "--sandbox", str(desk.project), "--", *words, "Write it"
    )
    worked(desk, done)
    assert [path.name for path in desk.project.iterdir()] == ["proof.txt"], "no litter"


@each_client
def test_its_own_configuration(client: Client, stand_in: MakeDesk) -> None:
    """Written, it works without us; undone, everything is as it was."""
    desk = stand_in()
    files = {
        ".claude/settings.json": '{\n  "theme": "dark" // mine\n}\n'.replace(" // mine", ""),
        ".codex/config.toml": '# mine\nmodel = "gpt-5"\n\n[features]\ngoals = true # mine\n',
        ".config/opencode/opencode.jsonc": '{\n  // mine\n  "theme": "x",\n}\n',
        ".pi/agent/models.json": '{ "providers": {} }',
    }
    for name, text in files.items():
        path = desk.home / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    written = desk.ctl("env", client.name, "mine", "--write")
    assert written.returncode == 0, said(written)
    worked(desk, desk.run(client.name, *client.words, "Write the file"))
    undone = desk.ctl("env", client.name, "--undo", "--yes")
    assert undone.returncode == 0, said(undone)
    assert {name: (desk.home / name).read_text() for name in files} == files
    assert not [path for path in desk.home.rglob("*modelport*") if "before" in path.name]


def test_opencode_asks_for_a_title_beside_the_answer(stand_in: MakeDesk) -> None:
    desk = stand_in("native", "--first-s", "1.5")
    worked(desk, desk.ctl("launch", "opencode", "mine", "--", "run", "Write the file"))
    bodies = [json.loads(one["body"]) for one in record(desk) if "completions" in one["path"]]
    asked = [body for body in bodies if "messages" in body and body.get("stream")]
    assert [body for body in asked if not body.get("tools")], "the title"
    main = [body for body in asked if body.get("tools")]
    assert len(main) == 2
    assert main[0]["max_tokens"] == 8192
    assert desk.house.request("GET", "/upstream/mine/fake").json()["max_in_flight"] >= 2


class Terminal:
    """A client on a terminal of its own; what it shows is read all the time."""

    def __init__(self, desk: Desk, *words: str) -> None:
        self.shown = b""
        self.pid, self.side = pty.fork()
        if self.pid == 0:
            os.chdir(desk.project)
            argv = [sys.executable, "-P", str(ROOT / "ctl.py"), *words]
            os.execve(argv[0], argv, {**desk.environ, "TERM": "xterm-256color"})
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))

    def until(self, what: Callable[[], object], seconds: float = 60.0) -> None:
        """Read on until it is so."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.text[-3000:]
            self.read(0.1)

    def settle(self) -> None:
        """Read on until nothing has moved for a second: keys that come too soon are dropped."""
        last = time.monotonic()
        while time.monotonic() - last < 1.0:
            if self.read(0.1):
                last = time.monotonic()

    def read(self, seconds: float) -> bool:
        """Whether something was shown within that time."""
        if not select.select([self.side], [], [], seconds)[0]:
            return False
        before = self.text
        self.shown += os.read(self.side, 65536)
        return self.text != before

    @property
    def text(self) -> str:
        """What was shown, without colours and places, and without blanks."""
        plain = re.sub(rb"\x1b(?:\[[0-9;?<>=]*[A-Za-z]|[\]P].*?(?:\x07|\x1b\\)|.)", b"", self.shown)
        return re.sub(r"\s+", "", plain.decode("utf-8", "replace"))

    def press(self, keys: str) -> None:
        os.write(self.side, keys.encode())

    def close(self) -> int:
        """Its exit status: it ends by itself."""
        with contextlib.suppress(OSError):  # Linux says EIO where the other side is closed
            self.until(lambda: False, 30)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Whatever became of it."""
        os.close(self.side)
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            os.waitpid(self.pid, 0)


def test_claude_on_a_terminal(stand_in: MakeDesk) -> None:
    """Its own questions and its own screen; a tool round, and a clean end."""
    desk = stand_in("native", "--first-s", "0.5")
    terminal = Terminal(desk, "launch", "claude", "mine")
    try:
        terminal.until(lambda: "Entertoconfirm" in terminal.text)
        terminal.settle()
        terminal.press("\x1b[B")  # down: the first answer to "do you trust this folder" is no
        terminal.settle()
        terminal.press("\r")
        terminal.until(lambda: "effort" in terminal.text)
        terminal.settle()
        terminal.press("Write the file")
        terminal.until(lambda: "Writethefile" in terminal.text)
        terminal.settle()
        terminal.press("\r")
        terminal.until(lambda: TEN.replace(" ", "") in terminal.text)
        terminal.settle()
        terminal.press("/exit")
        terminal.until(lambda: "/exit" in terminal.text)
        terminal.settle()
        terminal.press("\r")
        assert terminal.close() == 0
    finally:
        terminal.end()
    assert proof(desk.folder).read_text() == TEXT + "\n"
    bodies = [json.loads(one["body"]) for one in record(desk) if one["path"] == "/v1/messages"]
    assert {body["model"] for body in bodies} == {"mine"}, "no call by another name"


def test_claude_counts_tokens(stand_in: MakeDesk) -> None:
    desk = stand_in()
    done = desk.ctl("launch", "claude", "mine", "--out-tokens", "4096", "--", "-p", "/context")
    assert done.returncode == 0, said(done)
    assert "65.5k" in done.stdout or "65k" in done.stdout or "66k" in done.stdout, said(done)
    assert [one for one in record(desk) if one["path"] == "/v1/messages/count_tokens"]


@pytest.fixture
def real_desk(
    make_house: MakeHouse, short_dir: Path, bins: Path, llama_server: Path, alone: None
) -> MakeDesk:
    """A desk at a true llama-server with a tiny model that always says the same."""

    def make(reply: str = TEN) -> Desk:
        model = short_dir / "model.gguf"
        make_gguf(model, reply=reply, context=131072)
        house = make_house(
            f'[engines.llama-server]\npath = "{llama_server}"\n'
            f'[models.mine]\npath = "{model}"\nctx = 65536\nargs = ["-t", "2", "-b", "2048"]\n'
        )
        return make_desk(house.start(), bins, short_dir)

    return make


@pytest.mark.llama_server
@each_client
def test_a_true_llama_server(client: Client, real_desk: MakeDesk) -> None:
    desk = real_desk()
    done = desk.ctl("launch", client.name, "mine", "--", *client.words, "Say something")
    assert done.returncode == 0, said(done)
    assert TEN in done.stdout, said(done)


@pytest.mark.llama_server
def test_a_true_llama_server_calls_a_tool(real_desk: MakeDesk, short_dir: Path) -> None:
    """Its parser makes a call of the model's words, and Claude Code writes the file. The model says
    the same for ever: the turns are limited."""
    arguments = {"file_path": str(proof(short_dir)), "content": TEXT + "\n"}
    call = json.dumps({"name": "Write", "arguments": arguments})
    desk = real_desk(f"<tool_call>\n{call}\n</tool_call>")
    words = ["-p", "--permission-mode", "acceptEdits", "--max-turns", "1", "Write the file"]
    done = desk.ctl("launch", "claude", "mine", "--", *words)
    assert proof(short_dir).read_text() == TEXT + "\n", said(done)
