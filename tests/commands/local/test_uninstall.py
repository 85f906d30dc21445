"""``ctl uninstall``: what is listed, what goes, what stays."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from control_api.clients.values import Edit
from control_api.commands.local import wished
from control_api.hosts import Hosts
from daemon.machine import gpu_limit
from tests.commands.conftest import Ctl, answering
from tests.commands.local.test_service import (  # noqa: F401 - fixtures
    FakeSystemd,
    port,
    systemd,
)
from tests.control_api.fake import FakeDaemon
from tests.control_api.test_hosts import NAS, FakeRing


def kinds(found: object) -> list[str]:
    assert isinstance(found, list)
    return [step["kind"] for step in found]


@pytest.fixture
def lived_in(home: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A home in which modelport was used: state, logs, a model, a client's file."""
    for kind in ("STATE", "LOG", "CACHE", "RUNTIME"):
        monkeypatch.setenv(f"MODELPORT_{kind}_DIR", str(home / kind.lower()))
    (home / "state" / "learned.json").write_text("{}")
    (home / "state" / "keys.json").write_text("{}")
    (home / "log" / "modelportd.log").write_text("x" * 100)
    (home / "state" / "notes.txt").write_text("somebody's own")
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text("mine\n")
    edit = Edit(path=str(home / ".codex" / "config.toml"), change=lambda old: f"{old}ours\n")
    wished.keeper().write("codex", [edit])
    folder = home / "hub" / "models--a--b"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w" * 1000)
    record = {"version": 1, "folders": [str(folder)]}
    (home / "state" / "pulled.json").write_text(json.dumps(record))
    (home / "state" / "pulled.json").chmod(0o600)
    return home


def test_a_look_changes_nothing(ctl: Ctl, lived_in: Path) -> None:
    before = sorted(str(path) for path in lived_in.rglob("*"))
    found = ctl("uninstall", "--dry-run", "--json")
    assert found.code == 0, found.err
    assert kinds(found.json["would"]) == ["client", "log", "state"]
    stays = {row["path"]: row["why"] for row in found.json["stays"]}
    assert "--models" in stays[str(lived_in / "hub" / "models--a--b")]
    assert "--purge" in stays[str(lived_in / "config.toml")]
    shown = ctl("uninstall", "--dry-run")
    assert "This goes:" in shown.out
    assert str(lived_in / "state" / "keys.json") in shown.out
    after = sorted(str(path) for path in lived_in.rglob("*"))
    assert [path for path in after if path not in before] in (
        [],
        [str(lived_in / "state/clients/lock")],
    )


def test_nobody_is_asked_nothing_goes(
    ctl: Ctl, lived_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    refused = ctl("uninstall")
    assert (refused.code, "--yes removes them" in refused.err) == (1, True)
    answering(monkeypatch, "n\n")
    declined = ctl("uninstall")
    assert (declined.code, "Nothing was removed." in declined.err) == (1, True)
    assert (lived_in / "state" / "keys.json").exists()


def test_all_goes_but_what_is_the_users(ctl: Ctl, lived_in: Path, systemd: FakeSystemd) -> None:  # noqa: F811
    assert ctl("service", "install").code == 0
    (systemd.units / "modelport.service.d").mkdir()
    done = ctl("uninstall", "--yes")
    assert done.code == 0, done.err
    assert systemd.active == systemd.enabled == set()
    assert (lived_in / ".codex" / "config.toml").read_text() == "mine\n"
    assert [path.name for path in (lived_in / "state").iterdir()] == ["notes.txt"]
    assert not (lived_in / "log").exists()
    assert (lived_in / "config.toml").exists()
    assert (lived_in / "hub" / "models--a--b" / "weights").exists()
    assert (systemd.units / "modelport.service.d").exists()
    assert "changes of your own" in done.out
    again = ctl("uninstall", "--yes")
    assert (again.code, "nothing of modelport's" in again.out) == (0, True)
    looked = ctl("uninstall", "--dry-run")
    assert (looked.code, looked.out) == (0, again.out)


def test_purge_and_models(
    ctl: Ctl,
    lived_in: Path,
    systemd: FakeSystemd,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ctl("service", "install").code == 0
    (systemd.units / "modelport.service.d").mkdir()
    (lived_in / "hub" / "models--other--x").mkdir()
    ring = FakeRing()
    monkeypatch.setattr("control_api.hosts.keyring", lambda: ring)
    Hosts.mine().keep(NAS, "mp-secret")
    done = ctl("uninstall", "--yes", "--purge", "--models", "--json")
    assert ring.kept == {}
    assert done.code == 0, done.out
    assert done.json["ok"]
    wanted = ["service", "client", "drop-in", "models", "log", "state", "config"]
    assert [kind for kind in kinds(done.json["done"]) if kind in wanted] == wanted
    assert not (lived_in / "config.toml").exists()
    assert [path.name for path in (lived_in / "hub").iterdir()] == ["models--other--x"]
    assert list(systemd.units.iterdir()) == []


def test_what_cannot_be_put_back_is_told_and_the_rest_goes(ctl: Ctl, lived_in: Path) -> None:
    (lived_in / ".codex" / "config.toml.before-modelport").unlink()
    done = ctl("uninstall", "--yes", "--json")
    assert done.code == 1
    by_kind = {step["kind"]: step for step in done.json["done"]}
    assert not by_kind["client"]["ok"]
    assert by_kind["state"]["ok"]
    assert by_kind["log"]["ok"]
    left = sorted(path.name for path in (lived_in / "state").iterdir())
    assert left == ["clients", "notes.txt"], "the record is the way to do it by hand"


def test_a_daemon_in_a_terminal_is_stopped(
    ctl: Ctl, home: Path, daemon: FakeDaemon, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("MODELPORT_RUNTIME_DIR", str(home / "run"))
    (home / "run").mkdir(mode=0o700)
    (home / "run" / "control.sock").symlink_to(home / "c.sock")
    done = ctl("uninstall", "--yes", "--json")
    assert done.code == 0, done.out
    assert kinds(done.json["done"])[0] == "daemon"
    assert not daemon.alive


def test_a_raised_limit_is_put_back(
    ctl: Ctl, lived_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = gpu_limit.Plan(old=20480, new=0, before=0, total=2**35)
    applied: list[object] = []
    monkeypatch.setattr(gpu_limit, "plan_restore", lambda state, **more: plan)
    monkeypatch.setattr(gpu_limit, "apply", lambda plan, state, **more: applied.append(plan))
    listed = ctl("uninstall", "--dry-run")
    assert "sudo /usr/sbin/sysctl" in listed.out
    assert applied == []
    assert ctl("uninstall", "--yes").code == 0
    assert applied == [plan]


def test_the_machines_service_is_named(ctl: Ctl, home: Path, systemd: FakeSystemd) -> None:  # noqa: F811
    (home / "etc").mkdir()
    (home / "etc" / "modelport.service").write_text("")
    found = ctl("uninstall", "--dry-run", "--user", "--json")
    assert found.code == 0, found.err
    assert found.json["machine"].startswith("sudo ")
    assert found.json["machine"].endswith("uninstall --system")
