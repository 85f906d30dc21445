"""``host``, and ``--host`` as far as no other machine is needed; the rest is in ``tests/e2e``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control_api.commands.main import VERBS
from control_api.hosts import Host, Hosts
from tests.commands.conftest import Ctl


@pytest.fixture(autouse=True)
def no_keyring(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_api.hosts.keyring", lambda: None)
    # what the command line puts there is gone with the test
    for name in ("MODELPORT_HOST", "MODELPORT_KEY_STDIN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_known_machines(ctl: Ctl, home: Path) -> None:
    assert "No other machine" in ctl("host", "ls").out
    mine = Hosts(home / "hosts.json", None)
    mine.keep(Host("nas", "https://nas:1", ":".join(["AB"] * 32)), "mp-secret")
    listed = ctl("host", "ls")
    assert "https://nas:1" in listed.out
    assert "mp-secret" not in listed.out
    (one,) = ctl("host", "ls", "--json").json["hosts"]
    assert (one["name"], one["key"]) == ("nas", True)
    assert ctl("host", "rm", "nas", "--json").json["name"] == "nas"
    assert ctl("host", "rm", "nas").code == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--host",), 2, "needs a name or a URL"),
        (("--host=", "ps"), 2, "needs a name or a URL"),
        (("--host", "nobody", "ps"), 1, "There is no machine named nobody"),
        (("--host", "http://127.0.0.1:1", "ps"), 3, "There is no key for"),
        (("--host", "http://x y", "ps"), 1, "no address of a machine"),
    ],
)
def test_what_is_no_machine(ctl: Ctl, words: tuple[str, ...], code: int, said: str) -> None:
    done = ctl(*words)
    assert (done.code, said in done.err) == (code, True), done


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.here])
def test_what_is_about_files_is_for_this_machine(ctl: Ctl, verb: str) -> None:
    done = ctl("--host", "http://127.0.0.1:1", verb)
    assert (done.code, "of the machine itself" in done.err) == (2, True)


def test_this_machine_by_name(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_HOST", "http://127.0.0.1:1")
    refused = ctl("config", "path")
    assert (refused.code, "--host local" in refused.err) == (2, True)
    assert ctl("--host", "local", "config", "path").code == 0
    assert "MODELPORT_HOST" not in os.environ
