"""``ctl launch``: the model first, then the client with its own terminal, signals and status."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_api.clients.registry import LAUNCHED
from control_api.commands.local import child
from daemon.ports import Progress
from tests.commands.conftest import Ctl, argv_of, process_env
from tests.control_api.fake import FakeControl, FakeDaemon, model_view
from tests.ports import free_port

# Writes down how it was started, then does as it is told.
CLIENT = """\
#!{python} -IS
import json, os, sys
with open(os.environ["SEEN"], "w") as file:
    json.dump({{"argv": sys.argv[1:], "env": dict(os.environ), "tty": os.isatty(0)}}, file)
if folder := os.environ.get("CLAUDE_CONFIG_DIR"):
    print(sorted(os.listdir(folder)), flush=True)
rest = sys.argv[1:]
exec(rest[rest.index("--do") + 1] if "--do" in rest else "")
"""


@pytest.fixture
def seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """All clients are installed: each is the program above. Where it writes down what it saw."""
    bins = home / "bin"
    bins.mkdir()
    for name in LAUNCHED:
        (bins / name).write_text(CLIENT.format(python=sys.executable))
        (bins / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bins}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(home / "seen.json"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-REAL")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-REAL")
    return home / "seen.json"


@pytest.mark.parametrize("name", LAUNCHED)
def test_each_client_is_started_with_its_plan(
    name: str, ctl_process: Ctl, daemon: FakeDaemon, fake: FakeControl, seen: Path, home: Path
) -> None:
    result = ctl_process("launch", name, "qwen3-coder", "--", "-p", "it's mine")
    assert result.code == 0, result.err
    found = json.loads(seen.read_text())
    assert found["argv"][-2:] == ["-p", "it's mine"]
    told = json.dumps([found["argv"], found["env"]])
    assert "qwen3-coder" in told
    assert "sk-REAL" not in told
    assert fake.calls == [("load", "qwen3-coder", None)]
    assert "ready  qwen3-coder" in result.err
    assert "start " in result.err, "the steps of the load"
    assert not list((home / "state" / "clients").glob("run-*")), "thrown away"
    assert not (home / ".claude").exists()


def test_its_files_are_there_while_it_runs(
    ctl_process: Ctl, daemon: FakeDaemon, fake: FakeControl, seen: Path
) -> None:
    result = ctl_process("launch", "claude", "g")
    assert result.out == "['.claude.json']\n"
    assert fake.calls == [], "gemma is loaded already"
    folder = json.loads(seen.read_text())["env"]["CLAUDE_CONFIG_DIR"]
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("do", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("", 0)]
)
def test_its_status_is_ours(
    do: str, status: int, ctl_process: Ctl, daemon: FakeDaemon, seen: Path
) -> None:
    assert ctl_process("launch", "codex", "g", "--", "--do", do).code == status


SIGNALS = (
    "import signal, time\n"
    "signal.signal({n}, lambda *_: (os.write(1, b'got it\\n'), sys.exit(9)))\n"
    "os.write(1, b'up\\n')\ntime.sleep(30)"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(number: int, daemon: FakeDaemon, seen: Path) -> None:
    process = subprocess.Popen(
        argv_of("launch", "codex", "g", "--", "--do", SIGNALS.format(n=int(number))),
        stdout=subprocess.PIPE,
        text=True,
        env=process_env(),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (out, process.returncode) == ("got it\n", 9)


def test_a_signal_before_the_client_is_known_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def late(*args: Any, **more: Any) -> subprocess.Popen[bytes]:
        made = real(*args, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        return made

    monkeypatch.setattr(subprocess, "Popen", late)
    wait = "import time; time.sleep(30)"
    assert child.run([sys.executable, "-ISc", wait], dict(os.environ)) == 128 + signal.SIGTERM


def read_until(descriptor: int, mark: bytes) -> bytes:
    seen = b""
    while mark not in seen:
        seen += os.read(descriptor, 65536)
    return seen


def test_ctrl_c_on_the_terminal_is_the_clients(daemon: FakeDaemon, seen: Path) -> None:
    do = SIGNALS.format(n=int(signal.SIGINT))
    pid, ours = pty.fork()
    if pid == 0:
        words = argv_of("launch", "codex", "g", "--", "--do", do)
        os.execve(words[0], words, process_env())
    try:
        read_until(ours, b"up")
        os.write(ours, b"\x03")
        read_until(ours, b"got it")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(ours)
    assert os.waitstatus_to_exitcode(status) == 9
    assert json.loads(seen.read_text())["tty"], "the terminal is the client's"


def test_a_missing_client_says_how_to_install_it(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = ctl("launch", "claude", "qwen3-coder")
    assert result.code == 1
    assert "Claude Code is not installed" in result.err
    assert "npm install -g @anthropic-ai/claude-code" in result.err
    assert fake.calls == [], "nothing is loaded for a client that is not there"


@pytest.mark.parametrize("words", [("launch", "vim"), ("launch",), ("launch", "open-webui", "m")])
def test_unknown_clients_are_usage_errors(words: tuple[str, ...], ctl: Ctl) -> None:
    result = ctl(*words)
    assert result.code == 2
    assert "claude" in result.err or "CLIENT" in result.err


def test_what_cannot_be_talked_to(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl, seen: Path
) -> None:
    fake.catalog["embed"] = model_view("embed", kind="embedding", state="ready")
    assert "is no model to talk to" in ctl("launch", "claude", "embed").err
    assert "There is no model" in ctl("launch", "claude", "nothing").err
    assert not seen.exists()


def test_without_a_model_and_a_terminal(
    ctl_process: Ctl, daemon: FakeDaemon, fake: FakeControl, seen: Path
) -> None:
    """The one that is loaded; where that is not one, they are named."""
    assert ctl_process("launch", "claude").code == 0
    assert json.loads(seen.read_text())["env"]["ANTHROPIC_MODEL"] == "gemma"
    fake.catalog["gemma"] = model_view("gemma")
    result = ctl_process("launch", "claude")
    assert result.code == 1
    assert "There are: gemma, qwen3-coder, org/repo:Q4." in result.err


def test_what_is_not_on_the_disk_is_pulled_when_told(
    ctl_process: Ctl, daemon: FakeDaemon, fake: FakeControl, seen: Path
) -> None:
    fake.catalog["qwen3-coder"] = model_view("qwen3-coder", pulled=False)
    result = ctl_process("launch", "claude", "qwen3-coder")
    assert result.code == 1
    assert "`ctl pull qwen3-coder`, or say --yes" in result.err
    assert fake.calls == []
    fake.steps = (Progress("pull", "1 of 3 GiB", 0.3), *fake.steps)
    result = ctl_process("launch", "claude", "qwen3-coder", "--yes")
    assert result.code == 0
    assert "pull     1 of 3 GiB" in result.err


def test_a_list_to_choose_from_on_a_terminal(
    daemon: FakeDaemon, fake: FakeControl, seen: Path
) -> None:
    pid, ours = pty.fork()
    if pid == 0:
        words = argv_of("launch", "claude")
        os.execve(words[0], words, {**process_env(), "COLUMNS": "100", "TERM": "xterm"})
    try:
        shown = read_until(ours, b"Choose [1]: ").decode()
        os.write(ours, b"9\n")
        again = read_until(ours, b"Choose [1]: ").decode()
        os.write(ours, b"3\n")
        read_until(ours, b".claude.json")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(ours)
    assert os.waitstatus_to_exitcode(status) == 0
    lines = [line.split() for line in shown.replace("\r", "").splitlines()]
    assert ["1", "gemma", "loaded", "3.0", "GiB", "32768", "yes"] in lines
    assert ["3", "qwen3-coder", "on", "disk", "3.0", "GiB", "32768", "fits"] in lines
    assert ["4", "preset-one", "to", "pull", "3.0", "GiB", "32768", "?"] in lines
    assert "'9' is not a number from 1 to 4" in again
    assert json.loads(seen.read_text())["env"]["ANTHROPIC_MODEL"] == "qwen3-coder"


def test_print_starts_nothing(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    result = ctl("launch", "claude", "qwen3-coder", "--print", "--out-tokens", "4096")
    assert result.code == 0
    assert "export CLAUDE_CODE_MAX_OUTPUT_TOKENS=4096\n" in result.out
    assert "# then: claude --strict-mcp-config" in result.out
    found = ctl("launch", "pi", "qwen3-coder", "--print", "--json").json
    assert found["env"]["PI_CODING_AGENT_DIR"] == "$MODELPORT_CLIENT/pi"
    assert fake.calls == []


def test_its_own_configuration(
    ctl_process: Ctl, daemon: FakeDaemon, seen: Path, home: Path
) -> None:
    for _ in range(2):
        assert ctl_process("launch", "claude", "g", "--write").code == 0
    assert "CLAUDE_CONFIG_DIR" not in json.loads(seen.read_text())["env"]
    written = json.loads((home / ".claude" / "settings.json").read_text())
    assert written["model"] == "gemma"
    assert ctl_process("env", "claude", "--undo").code == 0
    assert not (home / ".claude").exists()


def test_leftovers_of_killed_launchers_go(
    ctl_process: Ctl, daemon: FakeDaemon, seen: Path, home: Path
) -> None:
    clients = home / "state" / "clients"
    gone, ours = clients / "run-999999999-x", clients / f"run-{os.getpid()}-x"
    for folder in (gone, ours):
        folder.mkdir(parents=True)
    assert ctl_process("launch", "claude", "g").code == 0
    assert not gone.exists()
    assert ours.exists(), "its launcher lives"


def test_no_daemon(ctl: Ctl, seen: Path) -> None:
    result = ctl("launch", "claude", "g")
    assert result.code == 3
    assert "`ctl launch --yes` starts one" in result.err


def test_a_daemon_that_does_not_start_says_why(ctl_process: Ctl, seen: Path, home: Path) -> None:
    (home / "config.toml").write_text("[server]\nport = 'x'\n")
    result = ctl_process("launch", "claude", "g", "--yes")
    assert result.code == 3
    assert "The daemon did not start:" in result.err
    assert "server.port" in result.err
    assert "Traceback" not in result.err


def test_a_daemon_for_as_long_as_the_client_runs(
    ctl_process: Ctl, seen: Path, home: Path, tiny_gguf: Path
) -> None:
    from tests.fakes import start

    words = json.dumps([*start.argv("engine"), "--port", "{port}", "-c", "{ctx}"])
    (home / "config.toml").write_text(
        f"[server]\nport = {free_port()}\n[engines.command.mine]\nargv = {words}\n"
        "footprint = '10 MiB'\n[models.mine]\nengine = 'mine'\n"
    )
    result = ctl_process("launch", "claude", "mine", "--yes")
    assert result.code == 0, result.err
    assert "The daemon is started" in result.err
    env = json.loads(seen.read_text())["env"]
    assert env["ANTHROPIC_MODEL"] == "mine"
    assert ctl_process("status").code == 3, "and it is gone again"
