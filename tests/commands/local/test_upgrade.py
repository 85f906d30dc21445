"""``ctl upgrade`` with stand-ins for uv, pipx and Homebrew. (``tests/systemd`` upgrades a true
service.)"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from control_api.commands.local import handover, upgrade_steps
from control_api.commands.local.handover import Seen
from control_api.version import version
from daemon.service.origin import Kind, Origin
from tests.commands.conftest import Ctl
from tests.commands.local.test_service import (  # noqa: F401 - fixtures
    FakeSystemd,
    port,
    systemd,
    use,
)
from tests.control_api.fake import FakeControl, FakeDaemon

OLD = version()
# What all of them do: note their words, answer, and change the version that modelportd says.
SCRIPT = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
new() {{ echo "$1" > "{now}"; }}
case "$(basename "$0") $*" in
  "uv --version") echo "uv 1" ;;
  "uv pip compile"*) read name; [ -s "{newest}" ] || {{ echo "error sending request" >&2; exit 2; }}
    echo "$name==$(cat "{newest}")" ;;
  "brew info"*) echo '{{"formulae": [{{"versions": {{"stable": "'"$(cat "{newest}")"'"}}}}]}}' ;;
  *fail*) echo "it cannot be done" >&2; exit 1 ;;
  *==*) new "$(echo "$*" | sed 's/.*==//')" ;;
  *) new "$(cat "{newest}")" ;;
esac
"""


@dataclass
class Managers:
    """The stand-ins. ``said``: their command lines but for questions."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def said(self) -> list[str]:
        lines = (self.folder / "log").read_text().splitlines()
        asking = ("uv --version", "uv pip compile", "brew info")
        return [line for line in lines if not line.startswith(asking)]

    @property
    def program(self) -> Path:
        return self.folder / "modelportd"

    def newest(self, text: str) -> None:
        (self.folder / "newest").write_text(text)

    def installed_by(self, kind: Kind) -> None:
        origin = Origin(kind, self.program, upgrade="")
        self.monkeypatch.setattr("daemon.service.origin.classify", lambda seen: origin)


@pytest.fixture
def managers(home: Path, monkeypatch: pytest.MonkeyPatch) -> Managers:
    folder = home / "managers"
    folder.mkdir()
    names = {name: folder / name for name in ("log", "now", "newest")}
    for name in ("uv", "pipx", "brew"):
        (folder / name).write_text(SCRIPT.format(**names))
        (folder / name).chmod(0o755)
    (folder / "log").write_text("")
    (folder / "now").write_text(OLD)
    daemon = folder / "modelportd"
    daemon.write_text(f'#!/bin/sh\necho "modelport $(cat "{names["now"]}")"\n')
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    # The next ctl is that of the version that was installed; here it is this process again.
    monkeypatch.setattr("control_api.version.version", lambda: names["now"].read_text().strip())
    made = Managers(folder, monkeypatch)
    made.newest("99.1")
    return made


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "forward", "back"),
    [
        (Kind.UV_TOOL, "uv tool upgrade modelport", "uv tool install --force modelport"),
        (Kind.PIPX, "pipx upgrade modelport", "pipx install --force modelport"),
        (Kind.HOMEBREW, "brew upgrade modelport", ""),
        (Kind.VENV, "uv pip install --python", "uv pip install --python"),
    ],
)
def test_there_and_back(
    ctl: Ctl, managers: Managers, systemd: FakeSystemd, kind: Kind, forward: str, back: str  # noqa: F811
) -> None:  # fmt: skip
    managers.installed_by(kind)
    checked = ctl("upgrade", "--check", "--json")
    assert checked.code == 0, checked.err
    found = checked.json
    assert (found["current"], found["newest"], found["available"]) == (OLD, "99.1", True)
    assert (found["does"], found["installed_by"]) == ("program", kind.value)
    assert managers.said == [], "a look changes nothing"
    done = ctl("upgrade", "--json")
    assert done.code == 0, done.out
    assert (done.json["from"], done.json["to"]) == (OLD, "99.1")
    assert managers.said[0].startswith(forward)
    again = ctl("upgrade", "--rollback", "--json")
    if not back:
        assert (again.code, "Homebrew does not keep" in again.out) == (1, True)
        return
    assert again.code == 0, again.out
    assert managers.said[1].startswith(back)
    assert managers.said[1].endswith(f"=={OLD}")
    assert again.json["to"] == OLD
    assert "corrupt" in " ".join(again.json["notes"]), "what becomes of newer state is told"
    assert ctl("upgrade", "--rollback").code == 1, "there is only one step back"


@pytest.mark.processes
def test_nothing_newer(ctl: Ctl, managers: Managers, systemd: FakeSystemd) -> None:  # noqa: F811
    managers.installed_by(Kind.UV_TOOL)
    managers.newest(OLD)
    done = ctl("upgrade")
    assert (done.code, f"{OLD} is the newest." in done.out) == (0, True)
    assert ctl("upgrade", "--check", "--json").json["available"] is False
    assert managers.said == []


@pytest.mark.processes
def test_without_a_network(ctl: Ctl, managers: Managers, systemd: FakeSystemd) -> None:  # noqa: F811
    managers.installed_by(Kind.PIPX)
    managers.newest("")
    done = ctl("upgrade")
    assert done.code == 1
    assert "The package index cannot be reached" in done.err
    assert "--from WHEEL" in done.err
    checked = ctl("upgrade", "--check", "--json")
    assert (checked.code, checked.json["offline"], checked.json["newest"]) == (1, True, None)
    shown = ctl("upgrade", "--check").out
    assert "installed by pipx" in shown
    assert "unknown" in shown
    assert shown.count("cannot be reached") == 1, "said once"
    assert ctl("upgrade", "--from", "99.3").code == 0
    assert managers.said == ["pipx install --force modelport[llama]==99.3"]


@pytest.mark.processes
def test_what_fails_is_told(ctl: Ctl, managers: Managers, systemd: FakeSystemd) -> None:  # noqa: F811
    managers.installed_by(Kind.PIPX)
    done = ctl("upgrade", "--from", "git+https://fail.invalid/x.git")
    assert done.code == 1
    assert "it cannot be done" in done.err
    assert ctl("upgrade", "--rollback").code == 1, "nothing was replaced"
    managers.installed_by(Kind.CHECKOUT)
    by_hand = ctl("upgrade")
    assert (by_hand.code, "git -C" in by_hand.out) == (1, True)
    assert ctl("upgrade", "--from", "what is that").code == 1


@pytest.mark.processes
def test_a_daemon_in_a_terminal_comes_first(
    ctl: Ctl, managers: Managers, systemd: FakeSystemd, daemon: FakeDaemon, fake: FakeControl  # noqa: F811
) -> None:  # fmt: skip
    managers.installed_by(Kind.UV_TOOL)
    refused = ctl("upgrade")
    assert refused.code == 1
    assert "runs in a terminal (pid " in refused.err
    assert "ctl shutdown" in refused.err
    assert managers.said == []
    done = ctl("upgrade", "--yes")
    assert done.code == 0, done.err
    assert "`ctl shutdown`, then start it again" in done.out


def served(
    ctl: Ctl, managers: Managers, monkeypatch: pytest.MonkeyPatch, systemd: FakeSystemd,  # noqa: F811
    *, good: bool,
) -> None:  # fmt: skip
    """A service that runs this program; the daemon answers as systemd has started it."""
    origin = Origin(Kind.UV_TOOL, managers.program)
    use(monkeypatch, origin)
    managers.installed_by(Kind.UV_TOOL)
    assert ctl("service", "install").code == 0
    first = systemd.pid

    def look(client: object) -> Seen:
        now = (managers.folder / "now").read_text().strip()
        says = now if good or now == OLD else "none"
        return Seen(systemd.pid, says, "http://x", backends={"a": 7} if good else {"b": first})

    monkeypatch.setattr(handover, "look", look)
    monkeypatch.setattr(handover, "alive", lambda pid: True)
    monkeypatch.setattr(upgrade_steps.handover, "WAIT", 0.0)


@pytest.mark.processes
def test_the_service_is_restarted_and_watched(
    ctl: Ctl, managers: Managers, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    served(ctl, managers, monkeypatch, systemd, good=True)
    systemd.asked.clear()
    done = ctl("upgrade", "--json")
    assert done.code == 0, done.out
    assert (done.json["to"], done.json["kept"], done.json["lost"]) == ("99.1", ["a"], [])
    assert [line for line in systemd.asked if "stop" in line] == [], "the sockets are kept"
    assert "restart modelport.service" in systemd.asked


@pytest.mark.processes
def test_what_does_not_answer_is_taken_back(
    ctl: Ctl, managers: Managers, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    served(ctl, managers, monkeypatch, systemd, good=False)
    monkeypatch.setattr(upgrade_steps, "_LINES", 1)
    done = ctl("upgrade", "--json")
    assert done.code == 1
    error = done.json["error"]
    assert error["code"] == "upgrade_failed"
    assert f"99.1 does not work here, and {OLD} is back." in error["message"]
    assert error["facts"] == {"version": "99.1", "back_to": OLD, "restored": True}
    assert managers.said[-1].endswith(f"=={OLD}")
    assert systemd.asked.count("restart modelport.service") == 2


@pytest.mark.processes
def test_one_at_a_time(ctl: Ctl, managers: Managers, home: Path, systemd: FakeSystemd) -> None:  # noqa: F811
    managers.installed_by(Kind.UV_TOOL)
    state = Path(json.loads(ctl("config", "path", "--json").out)["state"])
    state.mkdir(parents=True, exist_ok=True)
    with (state / "upgrade.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = ctl("upgrade")
    assert (refused.code, "Another `ctl upgrade` is at work." in refused.err) == (1, True)
    assert managers.said == []


def test_flags_exclude_each_other(ctl: Ctl) -> None:
    assert ctl("upgrade", "--check", "--rollback").code == 2
