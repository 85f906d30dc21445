"""``lan`` without a daemon: what is written, what is made, what is said."""

from __future__ import annotations

import io
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from control_api.clients.values import Served, Wish
from control_api.commands.local import network_lines
from control_api.commands.local.lan import Standing, wanted
from control_api.commands.output import Out
from daemon.config.settings import Settings
from daemon.lan import addresses
from daemon.views import LanView
from tests.commands.conftest import Ctl

HERE = {"lo": ["127.0.0.1"], "en0": ["192.168.1.5", "2a02:8109::5"], "docker0": ["172.17.0.1"]}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "scan", lambda: HERE)
    monkeypatch.setattr("sys.platform", "linux")


def settings(**tables: Any) -> Settings:
    return Settings.from_layers(tables)


def written(home: Path) -> dict[str, Any]:
    return tomllib.loads((home / "config.toml").read_text())


@pytest.mark.parametrize(
    ("before", "flags", "changes"),
    [
        ({}, {}, {"lan.enabled": True}),
        ({"lan": {"enabled": True}}, {}, {}),
        ({}, {"docker": "docker0"}, {"lan.enabled": True, "lan.host": "docker0"}),
        ({"lan": {"enabled": True, "host": "docker0"}}, {}, {"lan.host": None}),
        ({"lan": {"enabled": True, "host": "docker0"}}, {"docker": "docker0"}, {}),
        ({"lan": {"enabled": True, "host": "en0"}}, {}, {}),
        (
            {"lan": {"enabled": True}},
            {"tls": True, "mdns": False},
            {"tls.enabled": True, "lan.mdns": False},
        ),
        (
            {"lan": {"enabled": True}, "tls": {"enabled": True}},
            {"tls": False},
            {"tls.enabled": False},
        ),
        ({"lan": {"enabled": True}}, {"mdns": True}, {}),
    ],
)
def test_only_what_differs_is_written(
    before: dict[str, Any], flags: dict[str, Any], changes: dict[str, Any]
) -> None:
    given = {"docker": "", "tls": None, "mdns": None, **flags}
    assert wanted(settings(**before), **given) == changes


def test_on_makes_a_key_once_and_off_keeps_it(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text("# mine\n[server]\nport = 9000\n")
    first = ctl("lan", "on", "--json").json
    assert first["key"].startswith("mp-")
    assert first["urls"][0] == "http://192.168.1.5:9000"
    assert (first["running"], first["keys"]) == (False, ["lan"])
    assert "# mine" in (home / "config.toml").read_text()
    assert written(home)["lan"] == {"enabled": True}
    text = (home / "config.toml").read_bytes()
    again = ctl("lan", "on")
    assert again.code == 0
    assert (home / "config.toml").read_bytes() == text, "nothing to change"
    assert first["key"] not in again.out
    assert "YOUR-KEY" in again.out
    assert "Not encrypted" in again.out
    off = ctl("lan", "off")
    assert ("kept out" in off.out, written(home)["lan"]["enabled"]) == (True, False)
    assert ctl("lan", "off", "--json").json["changed"] is False
    assert ctl("key", "ls", "--json").json["keys"][0]["name"] == "lan"
    assert "Only this machine" in ctl("lan", "status").out


def test_with_tls_the_certificate_has_the_names_of_today(ctl: Ctl, home: Path) -> None:
    done = ctl("lan", "on", "--tls", "--json").json
    assert done["urls"][0] == "https://192.168.1.5:8123"
    pem = home / "state" / "tls" / "cert.pem"
    before = pem.read_text()
    ctl("lan", "on", "--tls")
    assert pem.read_text() == before
    HERE["en0"].append("10.9.8.7")
    try:
        ctl("lan", "on", "--tls")
    finally:
        HERE["en0"].remove("10.9.8.7")
    assert pem.read_text() != before, "an address that is not in it: asked for by name"


def test_the_bridge_of_containers(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ctl("lan", "on", "--docker")
    assert written(home)["lan"]["host"] == "docker0"
    assert "http://172.17.0.1:8123" in done.out
    assert "host.docker.internal:host-gateway" in done.out
    assert "claude" not in done.out
    ctl("lan", "on")
    assert "host" not in written(home)["lan"]
    monkeypatch.setattr(addresses, "scan", lambda: {"en0": ["192.168.1.5"]})
    refused = ctl("lan", "on", "--docker")
    assert (refused.code, "no container bridge" in refused.err) == (1, True)
    monkeypatch.setattr("sys.platform", "darwin")
    mac = ctl("lan", "on", "--docker", "--json").json
    assert (mac["urls"], mac["changed"]) == (["http://host.docker.internal:8123"], False)


def test_a_file_with_mistakes_is_left_alone(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text("[lan]\nenabled = 7\n")
    done = ctl("lan", "on")
    assert (done.code, "lan.enabled" in done.err) == (1, True)
    assert not (home / "state" / "keys.json").exists()


def test_the_environment_wins_and_that_is_said(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_LAN__ENABLED", "true")
    done = ctl("lan", "off")
    assert (done.code, "MODELPORT_LAN__ENABLED" in done.err) == (1, True)


# ---------------------------------------------------------------- what is said


def lan(**more: Any) -> LanView:
    plain: dict[str, Any] = {
        "enabled": True,
        "urls": ["http://192.168.1.5:8123"],
        "public": [],
        "tls": False,
        "self_made": False,
        "fingerprint": "",
        "certificate": "",
        "expires": None,
        "announced": "",
        "problems": [],
    }
    return LanView(**{**plain, **more})


def hints(found: Standing, system: str = "linux") -> str:
    return "\n".join(network_lines.hints(found, system))


def test_what_to_look_out_for() -> None:
    on = settings(lan={"enabled": True})
    assert "macOS asks" in hints(Standing(on, [], lan()), "darwin")
    assert "whole internet" in hints(Standing(on, [], lan(public=["http://[2a02::1]:1"])))
    assert "It is broken." in hints(Standing(on, [], lan(problems=["It is broken."])))
    safe = settings(lan={"enabled": True}, tls={"enabled": True})
    soon = lan(tls=True, expires=time.time() + 86400)
    assert "ends within a week" in hints(Standing(safe, [], soon))
    assert "Not encrypted" not in hints(Standing(safe, [], soon))
    assert "Not encrypted" not in hints(Standing(settings(lan={"host": "docker0"}), [], lan()))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(found: Standing, screen: io.StringIO, *, qr: bool = True) -> str:
    out = Out(out=screen, err=io.StringIO())
    wish = Wish(url=found.urls[0], model=Served("m"), key=found.key or network_lines.KEY)
    network_lines.show(found, wish, out, qr=qr)
    return screen.getvalue()


def test_a_qr_code_is_for_terminals() -> None:
    on = settings(lan={"enabled": True})
    url = "http://192.168.1.5:8123"
    found = Standing(on, [url], lan(), ["lan"], "mp-secret")
    drawn = shown(found, Terminal())
    assert drawn.count("\x1b[97;40m") > 20, "one of the address, one of the key"
    assert "█" not in shown(found, io.StringIO())
    assert "█" not in shown(found, Terminal(), qr=False)

    class Old(Terminal):
        encoding = "ascii"

    assert "█" not in shown(found, Old())


def test_a_self_made_certificate_has_to_be_taken_along() -> None:
    safe = settings(lan={"enabled": True}, tls={"enabled": True})
    view = lan(
        tls=True, self_made=True, certificate="/s/cert.pem", fingerprint="AB:CD", expires=2e9
    )
    text = shown(Standing(safe, ["https://192.168.1.5:8123"], view, ["lan"]), io.StringIO())
    assert "Copy /s/cert.pem there as modelport.pem" in text
    assert "AB:CD" in text
    assert "NODE_EXTRA_CA_CERTS=modelport.pem" in text
    own = lan(tls=True, certificate="/s/own.pem", fingerprint="AB:CD")
    text = shown(Standing(safe, ["https://nas:8123"], own, ["lan"]), io.StringIO())
    assert "modelport.pem" not in text
