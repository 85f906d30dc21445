"""``ctl service`` with a stand-in for systemctl. (``tests/systemd`` has a real systemd.)"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from control_api.commands.local import service_install, serviced
from daemon.service.launchd import Launchd
from daemon.service.origin import Kind, Origin
from daemon.service.places import Places
from daemon.service.programs import Done
from daemon.service.systemd import Systemd
from tests.commands.conftest import Ctl, answering
from tests.control_api.fake import FakeDaemon
from tests.ports import free_port


class FakeSystemd:
    """Knows which of our units are there, enabled and active."""

    def __init__(self, units: Path) -> None:
        self.units = units
        self.active: set[str] = set()
        self.enabled: set[str] = set()
        self.asked: list[str] = []
        self.pid = 100
        self.lingering = False
        self.broken = ""

    def __call__(self, argv: Sequence[str]) -> Done:
        words = [w for w in argv if not w.startswith("--")]
        program, verb, names = words[0], words[1], words[2:]
        if program == "loginctl":
            return self._loginctl(verb)
        if verb == "show":
            return self._show(names)
        self.asked.append(" ".join([verb, *names]))
        if verb == self.broken:
            return Done(1, err="Job for modelport failed.")
        if verb in ("start", "restart"):
            self.pid += 1 if "modelport.service" in names else 0
            self.active |= set(names)
        elif verb == "stop":
            self.active -= set(names)
        elif verb == "enable":
            self.enabled |= set(names)
        elif verb == "disable":
            self.enabled -= set(names)
        return Done(0)

    def _loginctl(self, verb: str) -> Done:
        if verb != "show-user":
            self.asked.append(verb)
            self.lingering = verb == "enable-linger"
        return Done(0, "yes\n" if self.lingering else "no\n")

    def _show(self, names: list[str]) -> Done:
        if names[0] == "-p":
            return Done(0, "252\n")
        unit, there = names[0], (self.units / names[0]).exists()
        on = unit in self.active
        facts = {
            "LoadState": "loaded" if there else "not-found",
            "ActiveState": "active" if on else "inactive",
            "MainPID": self.pid if on else 0,
            "UnitFileState": "enabled" if unit in self.enabled else "disabled",
            "StatusText": "no model loaded" if on else "",
        }
        return Done(0, "".join(f"{key}={value}\n" for key, value in facts.items()))


@pytest.fixture
def port(home: Path) -> int:
    found = free_port()
    (home / "config.toml").write_text(f"[server]\nport = {found}\n")
    (home / "config.toml").chmod(0o600)
    return found


@pytest.fixture
def systemd(home: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd(home / "units")
    found = Places("systemd", "user", fake.units, home / "data" / "service")
    machines = Places("systemd", "system", home / "etc", home / "lib" / "service")

    def manager(places: Places) -> Systemd:
        also = sorted(path.name for path in places.units.glob("modelport-*.socket"))
        return Systemd(places.scope, fake, tuple(also))

    monkeypatch.setattr(serviced, "manager_of", manager)
    monkeypatch.setattr(serviced, "places", lambda scope: found if scope == "user" else machines)
    monkeypatch.setattr(service_install, "places", serviced.places)
    use(monkeypatch, Origin(Kind.VENV, Path("/opt/mp/bin/modelportd")))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    monkeypatch.delenv("SUDO_USER", raising=False)
    for name in ("STATE", "LOG", "CACHE", "RUNTIME"):
        monkeypatch.delenv(f"MODELPORT_{name}_DIR")
    return fake


def use(monkeypatch: pytest.MonkeyPatch, origin: Origin) -> None:
    monkeypatch.setattr(service_install, "classify", lambda seen: origin)


def test_install_and_uninstall(ctl: Ctl, home: Path, systemd: FakeSystemd, port: int) -> None:
    done = ctl("service", "install")
    assert done.code == 0, done.err
    assert f"wrote    {systemd.units / 'modelport.service'}" in done.out
    assert "running, pid 101" in done.out
    assert "--linger" in done.err
    unit = (systemd.units / "modelport.service").read_text()
    assert f"ExecStart=/opt/mp/bin/modelportd --service --config {home}/config.toml" in unit
    assert f"ListenStream=127.0.0.1:{port}" in (systemd.units / "modelport.socket").read_text()
    assert systemd.enabled == systemd.active == {"modelport.service", "modelport.socket"}
    systemd.asked.clear()
    again = ctl("service", "install", "--json")
    assert (again.json["written"], again.json["pid"]) == ([], 101)
    assert systemd.asked == [], "nothing is touched"
    gone = ctl("service", "uninstall")
    assert gone.code == 0, gone.err
    assert f"removed  {systemd.units / 'modelport.socket'}" in gone.out
    assert list(systemd.units.iterdir()) == []
    assert systemd.enabled == systemd.active == set()
    assert not (home / "data").exists()
    assert (home / "config.toml").exists()
    assert "not installed" in ctl("service", "uninstall").out


def test_only_what_changed_is_restarted(ctl: Ctl, home: Path, systemd: FakeSystemd) -> None:
    ctl("service", "install")
    systemd.asked.clear()
    text = (home / "config.toml").read_text()
    (home / "config.toml").write_text(f"{text}[timing]\ndrain_grace = 99\n")
    status = ctl("service", "status", "--json")
    assert (status.code, "ctl service install" in status.json["next"]) == (0, True)
    done = ctl("service", "install", "--json")
    assert [Path(name).name for name in done.json["written"]] == ["modelport.service"]
    assert "restart modelport.service" in systemd.asked
    assert not [line for line in systemd.asked if line.startswith("stop")], "the port is kept"


def test_ports_beside_the_fixed_one_come_and_go(ctl: Ctl, home: Path, systemd: FakeSystemd) -> None:
    before = (home / "config.toml").read_text()
    (home / "config.toml").write_text(before + 'also = [{port = 11434, as = "ollama"}]\n')
    assert ctl("service", "install").code == 0
    assert "modelport-11434.socket" in systemd.active & systemd.enabled
    (home / "config.toml").write_text(before)
    done = ctl("service", "install")
    assert f"removed  {systemd.units / 'modelport-11434.socket'}" in done.out
    assert "modelport-11434.socket" not in systemd.active | systemd.enabled


def test_print_writes_nothing(ctl: Ctl, home: Path, systemd: FakeSystemd, port: int) -> None:
    shown = ctl("service", "install", "--print")
    assert shown.out.startswith('# Rendered by "ctl service install"')
    assert "Type=notify" in shown.out
    assert "modelport.service:" in shown.err
    socket_unit = ctl("service", "install", "--print", "socket")
    assert f"ListenStream=127.0.0.1:{port}" in socket_unit.out
    assert "Type=notify" not in socket_unit.out
    both = ctl("service", "install", "--print", "--json").json
    assert list(both) == [str(systemd.units / "modelport.service")]
    assert not systemd.units.exists()


def test_what_is_printed_is_what_would_be_written(
    ctl: Ctl, home: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script in somebody's home is none for the whole machine."""
    (home / "bin").mkdir(mode=0o700)
    (home / "bin" / "modelportd").touch(0o755)
    use(monkeypatch, Origin(Kind.PIPX, home / "bin" / "modelportd", "It is odd."))
    mine = ctl("service", "install", "--print")
    assert f"ExecStart={home}/bin/modelportd --service" in mine.out
    assert "! It is odd." in mine.err
    machines = ctl("service", "install", "--system", "--print")
    assert f"ExecStart={home}/lib/service/current/bin/modelportd --system" in machines.out
    told = ctl("service", "status", "--system").out
    assert "sudo ctl service install --system" in told


def test_changes_by_hand_are_kept(ctl: Ctl, systemd: FakeSystemd) -> None:
    ctl("service", "install")
    unit = systemd.units / "modelport.service"
    unit.write_text(unit.read_text() + "# mine\n")
    refused = ctl("service", "install")
    assert refused.code == 1
    assert "is not as modelport wrote it" in refused.err
    assert "systemctl --user edit modelport" in refused.err
    assert ctl("service", "install", "--force").code == 0
    assert "# mine" not in unit.read_text()


def test_a_mistake_in_the_file_is_told_first(ctl: Ctl, home: Path, systemd: FakeSystemd) -> None:
    (home / "config.toml").write_text("[server]\nport = 'many'\n")
    done = ctl("service", "install")
    assert done.code == 1
    assert "server.port" in done.err
    assert not systemd.units.exists()


def test_a_daemon_in_a_terminal_is_named(
    ctl: Ctl, systemd: FakeSystemd, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ctl("service", "install")
    assert refused.code == 1
    assert "A daemon runs already (pid " in refused.err
    assert "ctl shutdown" in refused.err
    answering(monkeypatch, "n\n")
    assert ctl("service", "install").code == 1
    assert not systemd.units.exists()
    assert daemon.alive
    answering(monkeypatch, "y\nn\n")
    done = ctl("service", "install")
    assert done.code == 0, done.err
    assert "stopped  the daemon with pid" in done.err
    assert not daemon.alive


def test_a_taken_port_is_told_and_another_offered(
    ctl: Ctl, home: Path, systemd: FakeSystemd, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        refused = ctl("service", "install")
        assert refused.code == 1
        assert f"Port {port} on 127.0.0.1 is taken by" in refused.err
        assert "server.port" in refused.err
        answering(monkeypatch, "y\n")
        done = ctl("service", "install", "--no-linger")
        assert done.code == 0, done.err
    assert f"port = {port}" not in (home / "config.toml").read_text()
    assert (
        f"ListenStream=127.0.0.1:{port}\n" not in (systemd.units / "modelport.socket").read_text()
    )


def test_lingering_is_asked_for_and_undone(
    ctl: Ctl, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "y\n")
    assert ctl("service", "install").code == 0
    assert systemd.lingering
    assert ctl("service", "status", "--json").json["linger"] is True
    assert ctl("service", "uninstall").code == 0
    assert not systemd.lingering
    assert ctl("service", "install", "--linger", "--json").json["linger"] is True


def test_a_place_that_does_not_last_gets_an_environment(
    ctl: Ctl, home: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Origin(Kind.PASSING, None, "It is made anew each time."))
    made = SimpleNamespace(folder=home / "data" / "service" / "env-1")
    made.folder.mkdir(parents=True)
    asked: list[Path] = []
    fake = SimpleNamespace(
        make=lambda root, version, shared: (asked.append(root), made)[1],
        switch=lambda root, environment: None,
        current=lambda root: None,
    )
    monkeypatch.setattr(service_install, "environments", fake)
    done = ctl("service", "install", "--json")
    assert done.code == 0, done.err
    assert "made anew each time" in done.err
    root = home / "data" / "service"
    assert asked == [root]
    assert done.json["program"] == f"{root}/current/bin/modelportd"
    fake.current = lambda root: made.folder
    monkeypatch.setattr(service_install, "version_in", lambda folder: "99.1")
    newer = ctl("service", "install", "--json")
    assert (newer.code, asked) == (0, [root]), "what an upgrade brought is not taken back"
    assert "newer than this program" in newer.err
    assert ctl("service", "install", "--force").code == 0
    assert asked == [root, root]
    assert ctl("service", "uninstall").code == 0
    assert not root.exists()


def test_variables_of_this_shell_are_no_settings_of_the_service(
    ctl: Ctl, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPORT_SERVER__BODY_LIMIT", "1MiB")
    assert "does not see MODELPORT_SERVER__BODY_LIMIT" in ctl("service", "install").err


def test_status_of_none_stopped_and_running(ctl: Ctl, systemd: FakeSystemd) -> None:
    none = ctl("service", "status")
    assert (none.code, "not installed" in none.out) == (1, True)
    assert "ctl service install" in none.out
    ctl("service", "install")
    running = ctl("service", "status")
    assert running.code == 0
    assert "running, pid 101" in running.out
    assert "modelport.socket active" in running.out
    assert ctl("service", "stop").code == 0
    assert systemd.active == set()
    stopped = ctl("service", "status")
    assert (stopped.code, "-> ctl service start" in stopped.out) == (1, True)
    assert "started: no model loaded (pid 102)" in ctl("service", "start").out
    assert "restarted" in ctl("service", "restart").out
    assert systemd.asked[-1] == "restart modelport.service"


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_what_is_not_there_cannot_be_told(ctl: Ctl, systemd: FakeSystemd, verb: str) -> None:
    done = ctl("service", verb)
    assert (done.code, "not installed" in done.err) == (1, True)


def test_stop_unloads_first(ctl: Ctl, systemd: FakeSystemd, daemon: FakeDaemon) -> None:
    answered = ctl("service", "install", "--yes")
    assert answered.code == 0, answered.err
    done = ctl("service", "stop", "--json")
    assert done.json["ok"] is True


def test_a_start_that_fails_says_where_to_look(ctl: Ctl, systemd: FakeSystemd) -> None:
    systemd.broken = "start"
    done = ctl("service", "install")
    assert done.code == 1
    assert "Job for modelport failed." in done.err
    assert "ctl service logs" in done.err
    systemd.broken = ""
    assert ctl("service", "uninstall").code == 0
    assert list(systemd.units.iterdir()) == []


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_wrong_configuration_is_told_before_anything_is_ended(
    ctl: Ctl, home: Path, systemd: FakeSystemd, verb: str
) -> None:
    assert ctl("service", "install", "--no-linger").code == 0
    systemd.asked.clear()
    (home / "config.toml").write_text('[defaults]\nslots = "many"\n')
    done = ctl("service", verb)
    assert (done.code, systemd.asked) == (1, [])
    assert "defaults.slots" in done.err
    systemd.active.discard("modelport.service")
    told = json.loads(ctl("service", "status", "--json").out)["next"]
    assert "defaults.slots" in told
    assert "ctl service start" in told


def test_sudo_is_not_for_a_users_service(
    ctl: Ctl, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "me")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = ctl("service", "install")
    assert (done.code, "--system" in done.err) == (1, True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    other = ctl("service", "install", "--system")
    assert (other.code, "sudo " in other.err) == (1, True)


def test_logs_from_the_journal_or_the_file(
    ctl: Ctl, home: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"MESSAGE": "listening", "__REALTIME_TIMESTAMP": "1500000", "PRIORITY": "6"}
    program = home / "journalctl"
    program.write_text(
        f"#!/bin/sh\ncase \"$*\" in *output=json*) echo '{json.dumps(entry)}';; "
        "*) echo '-- Journal begins'; echo listening;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    assert ctl("service", "logs").out == "listening\n"
    line = ctl("service", "logs", "--json").json
    assert line == {"line": "listening", "at": 1.5, "priority": "6"}
    program.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("MODELPORT_LOG_DIR", str(home))
    (home / "modelportd.log").write_text("from the file\n")
    assert ctl("service", "logs").out == "from the file\n"


# ---------------------------------------------------------------- launchd


def test_a_mac(ctl: Ctl, home: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.service.test_launchd import Fake

    fake = Fake()
    found = Places("launchd", "user", home / "Agents", home / "data" / "service")
    monkeypatch.setattr(serviced, "places", lambda scope: found)
    monkeypatch.setattr(service_install, "places", serviced.places)
    mac = Launchd("user", found.service, fake, 1.0, fake.sleep, lambda: fake.now)
    monkeypatch.setattr(serviced, "manager_of", lambda places: mac)
    use(monkeypatch, Origin(Kind.HOMEBREW, Path("/opt/homebrew/opt/modelport/bin/modelportd")))
    monkeypatch.delenv("SUDO_USER", raising=False)
    done = ctl("service", "install", "--json")
    assert done.code == 0, done.err
    assert (done.json["active"], done.json["pid"], done.json["linger"]) == ("running", 7, None)
    text = (home / "Agents" / "modelport.plist").read_text()
    assert "/opt/homebrew/opt/modelport/bin/modelportd" in text
    assert f"<string>{port}</string>" in text
    fake.asked.clear()
    assert ctl("service", "install", "--json").json["written"] == []
    assert fake.asked == []
    assert ctl("service", "status").code == 0
    assert ctl("service", "stop").code == 0
    assert fake.asked[-1].startswith("bootout gui/")
    assert ctl("service", "uninstall").code == 0
    assert not (home / "Agents" / "modelport.plist").exists()
