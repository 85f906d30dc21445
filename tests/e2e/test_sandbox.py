"""``ctl launch --sandbox DIR``, from inside: what a client could do if it wanted to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.house import ROOT, House
from tests.fakes import start

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is of Linux"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]

PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
# A client that tries what it is told (sources of Python), and writes down what came of it.
PROBE = """\
#!{python} -IS
import fcntl, http.client, json, os, shutil, signal, socket, sys
found = {{}}
for name, source in json.load(open(sys.argv[-1])).items():
    try:
        found[name] = eval(source)
    except BaseException as error:
        found[name] = "refused: " + type(error).__name__
json.dump(found, open("result.json", "w"), default=str)
"""


class Desk:
    """A project below a home, with secrets around it, and a client that is the probe."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder = house, folder
        self.home = folder / "home"
        self.project = self.home / "code" / "project"
        self.project.mkdir(parents=True)
        (self.home / ".ssh").mkdir()
        (self.home / ".ssh" / "id").write_text("secret")
        (self.home / "code" / "CLAUDE.md").write_text("orders of the parents")
        bins = self.home / "bin"
        bins.mkdir()
        (bins / "claude").write_text(PROBE.format(python=PYTHON))
        (bins / "claude").chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        path = f"{self.home}/bin:{os.environ['PATH']}"
        secrets = {"SSH_AUTH_SOCK": "/s", "AWS_SECRET": "x", "MODELPORT_API_KEY": "mp-secret"}
        return {**self.house.environ, **secrets, "HOME": str(self.home), "PATH": path}

    def argv(self, *rest: str) -> list[str]:
        words = ["launch", "claude", "mine", "--sandbox", str(self.project), "--", *rest]
        return [sys.executable, "-P", str(ROOT / "ctl.py"), *words]

    def tries(self, **attempts: str) -> dict[str, Any]:
        (self.project / "attempts.json").write_text(json.dumps(attempts))
        done = self.run(str(self.project / "attempts.json"))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads((self.project / "result.json").read_text())
        for name in ("attempts.json", "result.json"):
            (self.project / name).unlink()
        return found

    def run(self, *rest: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*rest),
            cwd="/",
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """One daemon for all of them: they change nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    argv = json.dumps([*start.argv("engine"), "--port", "{port}", "-c", "{ctx}"])
    config = (
        f"[engines.command.mine]\nargv = {argv}\nfootprint = '10 MiB'\n"
        "[models.mine]\nengine = 'mine'\n"
    )
    with House(folder, config) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def desk(house: House, short_dir: Path) -> Desk:
    return Desk(house, short_dir)


def refused(found: dict[str, Any]) -> None:
    assert found == {name: value for name, value in found.items() if "refused" in str(value)}


def writes(path: object) -> str:
    return f"open({str(path)!r}, 'w').write('x')"


def test_what_it_sees(desk: Desk) -> None:
    found = desk.tries(
        parents=f"sorted(os.listdir({str(desk.home)!r}))",
        beside=f"os.listdir({str(desk.project.parent)!r})",
        here="sorted(os.listdir('.'))",
        cwd="os.getcwd()",
        home="os.environ['HOME']",
        state=f"os.path.exists({str(desk.house.folder)!r})",
        processes="len([n for n in os.listdir('/proc') if n.isdecimal()]) < 6",
        secrets="[n for n in os.environ if n in ('SSH_AUTH_SOCK', 'AWS_SECRET')]",
        key="'mp-secret' in str(dict(os.environ)) + str(sys.argv)",
        shadow="os.path.exists('/etc/shadow')",
    )
    assert found.pop("here") == [
        *(".claude", ".git", "AGENTS.md", "AI_INSTRUCTIONS.md", "CLAUDE.md", "attempts.json")
    ]
    assert found == {
        "parents": ["bin", "code"],  # and in bin the client alone
        "beside": ["project"],
        "cwd": str(desk.project),
        "home": "/run/modelport/home",
        "state": False,
        "processes": True,
        "secrets": [],
        "key": False,
        "shadow": False,
    }


def test_what_it_cannot_read_or_write(desk: Desk) -> None:
    home = desk.home
    refused(
        desk.tries(
            ssh=f"open({str(home / '.ssh' / 'id')!r}).read()",
            fresh_ssh="open(os.path.expanduser('~/.ssh/id')).read()",
            orders=f"open({str(home / 'code' / 'CLAUDE.md')!r}).read()",
            root=writes("/evil"),
            usr=writes("/usr/evil"),
            etc=writes("/etc/evil"),
            forwarder=writes("/run/modelport/inside.py"),
            program=writes(home / "bin" / "claude"),
            device="os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0)) or open('/tmp/disk').read()",
            typing="fcntl.ioctl(0, 0x5412, b'x')",
            kill=f"os.kill({os.getpid()}, 0)",
        )
    )


def test_what_it_writes_beside_comes_to_nothing(desk: Desk) -> None:
    """Here the home lies in /tmp, of which the sandbox has its own; elsewhere this is refused."""
    desk.tries(parent=writes(desk.project.parent / "evil"), home=writes(desk.home / "evil"))
    assert not [path for path in desk.folder.rglob("*") if path.name == "evil"]


def test_what_it_can_write(desk: Desk) -> None:
    found = desk.tries(
        project=writes("made"),
        deep="os.makedirs('a/b')",
        home=writes("/run/modelport/home/x"),
        tmp=writes("/tmp/x"),
    )
    assert found == {"project": 1, "deep": None, "home": 1, "tmp": 1}
    assert (desk.project / "made").read_text() == "x"
    left = sorted(path.name for path in desk.project.iterdir())
    assert left == ["a", "made"], "no litter of the sandbox"


ORDERS: list[tuple[str, Callable[[Path], object]]] = [
    ("missing", lambda project: None),
    (
        "there",
        lambda project: (
            (project / ".claude").mkdir(),
            (project / ".claude" / "settings.json").write_text("{}"),
            (project / "CLAUDE.md").write_text("mine"),
            (project / "AGENTS.md").write_text("mine"),
            (project / ".mcp.json").write_text("{}"),
            subprocess.run(["git", "init", "-q", str(project)], check=True, timeout=20),
        ),
    ),
]


@pytest.mark.parametrize("prepare", [p for _, p in ORDERS], ids=[name for name, _ in ORDERS])
def test_orders_for_programs_outside_stay_as_they_are(
    prepare: Callable[[Path], object], desk: Desk
) -> None:
    prepare(desk.project)

    def files() -> dict[str, bytes]:
        found = [path for path in desk.project.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in found}

    before = files()
    attempts = {
        "settings": writes(".claude/settings.json"),
        "hook": writes(".claude/hook"),
        "remove": "shutil.rmtree('.claude')",
        "rename": "os.rename('.claude', 'x')",
        "claude": writes("CLAUDE.md"),
        "unlink": "os.unlink('CLAUDE.md')",
        "replace": "os.symlink('x', 'y') or os.rename('y', 'CLAUDE.md')",
        "agents": writes("AGENTS.md"),
        "instructions": writes("AI_INSTRUCTIONS.md"),
        "git hook": writes(".git/hooks/pre-commit"),
        "git config": writes(".git/config"),
        "new git": "os.makedirs('.git/hooks/x')",
        "other hooks": "os.rename('.git/hooks', '.git/old')",
        "git": "os.rename('.git', 'old')",
    }
    if (desk.project / ".mcp.json").exists():
        attempts["mcp"] = writes(".mcp.json")
    refused(desk.tries(**attempts))
    (desk.project / "y").unlink()
    assert files() == before


def test_a_new_one_that_is_not_held_is_told(desk: Desk) -> None:
    (desk.project / "attempts.json").write_text(json.dumps({"x": writes(".mcp.json")}))
    done = desk.run(str(desk.project / "attempts.json"))
    assert f"The client has made {desk.project}/.mcp.json" in done.stderr


def test_whom_it_reaches(desk: Desk) -> None:
    port = desk.house.port
    control = next(desk.house.folder.rglob("control.sock"))

    def asks(method: str, path: str) -> str:
        start_ = f"c := http.client.HTTPConnection('127.0.0.1', {port})"
        return f"[({start_}), c.request({method!r}, {path!r}), c.getresponse().status][-1]"

    with socket.create_server(("127.0.0.1", 0)) as neighbour:
        other = neighbour.getsockname()[1]
        found = desk.tries(
            models=asks("GET", "/v1/models"),
            health=asks("GET", "/health"),
            control=asks("GET", "/control/v1/status"),
            upstream=asks("GET", "/upstream/mine/props"),
            delete=asks("DELETE", "/v1/models/mine"),
            neighbour=f"socket.create_connection(('127.0.0.1', {other}), 2)",
            world="socket.create_connection(('1.1.1.1', 443), 2)",
            name="socket.getaddrinfo('example.com', 443)",
            socket=f"socket.socket(socket.AF_UNIX).connect({str(control)!r})",
        )
    assert (found.pop("models"), found.pop("health")) == (200, 200)
    assert [found.pop(name) for name in ("control", "upstream", "delete")] == [403, 403, 403]
    refused(found)


def test_a_request_behind_the_first_is_not_answered(desk: Desk) -> None:
    """Two requests in one piece: the daemon ends the connection after the first."""
    two = (
        "GET /v1/models HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
        "GET /control/v1/status HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
    )
    found = desk.tries(
        both=f"[s := socket.create_connection(('127.0.0.1', {desk.house.port})),"
        f" s.sendall(b'{two}'), b''.join(iter(lambda: s.recv(65536), b'')).count(b'HTTP/1.1 ')][-1]"
    )
    assert found == {"both": 1}


def test_signals_reach_it_and_nothing_is_left(desk: Desk) -> None:
    (desk.home / "bin" / "claude").write_text(
        "#!/bin/sh\ntrap 'echo got it; exit 9' TERM\necho up\nwhile :; do sleep 0.05; done\n"
    )
    process = subprocess.Popen(
        desk.argv(), env=desk.environ, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (out, process.returncode) == ("got it\n", 9)
    assert list(desk.project.iterdir()) == []


def test_killed_it_takes_the_client_along_and_the_next_clears_up(desk: Desk) -> None:
    (desk.home / "bin" / "claude").write_text("#!/bin/sh\necho up\nexec sleep 61.5\n")
    process = subprocess.Popen(
        desk.argv(), env=desk.environ, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(one.info["cmdline"] == ["sleep", "61.5"] for one in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    left = list(Path("/tmp").glob(f"mp-box-{process.pid}-*"))
    assert len(left) == 1
    (desk.home / "bin" / "claude").write_text("#!/bin/sh\necho again\n")
    assert subprocess.run(desk.argv(), env=desk.environ, timeout=50, check=False).returncode == 0
    assert not left[0].exists()


@pytest.mark.parametrize("place", ["/", "/usr", "/tmp", "{home}", "{home}/..", "{home}/none"])
def test_folders_that_are_too_much(place: str, desk: Desk) -> None:
    words = ["launch", "claude", "mine", "--sandbox", place.format(home=desk.home)]
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "ctl.py"), *words],
        env=desk.environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert "is no folder" in done.stderr or "more than one project" in done.stderr


def test_links_that_cannot_be_protected_are_refused(desk: Desk) -> None:
    (desk.project / "CLAUDE.md").symlink_to(desk.home / ".ssh" / "id")
    done = desk.run()
    assert done.returncode == 1
    assert "CLAUDE.md is a link" in done.stderr
    (desk.project / "CLAUDE.md").unlink()
    (desk.project / ".git").write_text("gitdir: ../elsewhere\n")
    assert "is a worktree or submodule" in desk.run().stderr


def test_without_bubblewrap(desk: Desk, tmp_path: Path) -> None:
    done = subprocess.run(
        desk.argv(),
        env={**desk.environ, "PATH": f"{desk.home}/bin"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert "--sandbox needs bwrap" in done.stderr
    assert "apt install bubblewrap" in done.stderr
