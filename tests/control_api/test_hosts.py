"""Other machines that ctl knows: the file, the keyring, names."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from control_api import hosts
from control_api.client import RefusedError
from control_api.hosts import (
    SERVICE,
    Host,
    Hosts,
    checked_name,
    config_dir,
    plain_url,
    read_fingerprint,
)

PIN = ":".join(["AB"] * 32)


class FakeRing:
    """A keyring; ``locked``: every word to it is an error."""

    def __init__(self, *, locked: bool = False) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = locked

    def _open(self) -> None:
        if self.locked:
            raise RuntimeError("locked")

    def get_password(self, service: str, username: str) -> str | None:
        self._open()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._open()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._open()
        del self.kept[service, username]


NAS = Host("nas", "https://nas:8123", PIN)


def test_a_key_is_in_the_keyring_and_not_in_the_file(tmp_path: Path) -> None:
    ring = FakeRing()
    mine = Hosts(tmp_path / "hosts.json", ring)
    assert mine.all() == {}
    assert mine.keep(NAS, "mp-secret") == "in your keyring"
    assert ring.kept == {(SERVICE, "https://nas:8123"): "mp-secret"}
    assert "mp-secret" not in mine.path.read_text()
    assert stat.S_IMODE(mine.path.stat().st_mode) == 0o600
    assert mine.all() == {"nas": NAS}
    assert mine.key(mine.find("nas")) == "mp-secret"
    assert mine.forget("nas") == NAS
    assert (ring.kept, mine.all()) == ({}, {})


@pytest.mark.parametrize("ring", [None, FakeRing(locked=True)], ids=["none", "locked"])
def test_without_a_keyring_it_is_in_the_file(tmp_path: Path, ring: FakeRing | None) -> None:
    mine = Hosts(tmp_path / "hosts.json", ring)
    assert mine.keep(NAS, "mp-secret") == f"in {mine.path} (0600)"
    assert stat.S_IMODE(mine.path.stat().st_mode) == 0o600
    found = mine.find("nas")
    assert (mine.key(found), "mp-secret" in repr(found)) == ("mp-secret", False)
    assert mine.keep(Host("two", "http://two:1"), None) == ""
    assert mine.key(mine.find("nas")) == "mp-secret"
    assert mine.key(mine.find("two")) is None
    mine.forget("nas")
    assert "mp-secret" not in mine.path.read_text()


def test_a_machine_is_found_by_name_or_by_url(tmp_path: Path) -> None:
    mine = Hosts(tmp_path / "hosts.json", FakeRing())
    mine.keep(NAS, "k")
    assert mine.find("https://NAS:8123/") == NAS
    assert mine.find("http://10.0.0.1:9") == Host("http://10.0.0.1:9", "http://10.0.0.1:9")
    with pytest.raises(RefusedError) as caught:
        mine.find("box")
    assert "Known: nas" in caught.value.hint
    with pytest.raises(RefusedError, match="box"):
        mine.forget("box")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://Nas:8123/", "http://nas:8123"),
        ("https://nas.example/modelport/", "https://nas.example/modelport"),
        ("http://[fd00::5]:1", "http://[fd00::5]:1"),
    ],
)
def test_a_url_is_written_in_one_way(text: str, url: str) -> None:
    assert plain_url(text) == url


@pytest.mark.parametrize(
    "text", ["nas:8123", "ftp://nas", "http://", "http://a:b@nas", "http://nas:x", "http://n?q=1"]
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(RefusedError, match="no address"):
        plain_url(text)


def test_fingerprints_are_read_as_people_write_them() -> None:
    assert read_fingerprint("ab" * 32) == PIN
    assert read_fingerprint(PIN.lower()) == PIN
    with pytest.raises(RefusedError, match="64"):
        read_fingerprint("ab:cd")


@pytest.mark.parametrize("name", ["", "local", "a/b", "-x", "a b"])
def test_names(name: str) -> None:
    with pytest.raises(RefusedError, match="cannot be the name"):
        checked_name(name)
    assert checked_name("nas-2.home") == "nas-2.home"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        json.dumps({"version": 2, "hosts": {}}),
        json.dumps({"version": 1, "hosts": {"a": {}}}),
        json.dumps({"version": 1, "hosts": {"a": {"url": 1}}}),
    ],
)
def test_a_file_that_is_not_as_we_write_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(RefusedError, match="cannot be used"):
        Hosts(path, None).all()


def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    mine = Hosts(tmp_path / "hosts.json", None)
    mine.keep(NAS, "k")
    mine.path.chmod(0o666)
    with pytest.raises(RefusedError, match="others can write"):
        mine.all()


def test_where_the_file_is(tmp_path: Path) -> None:
    assert config_dir({"MODELPORT_CONFIG": str(tmp_path / "x.toml")}) == tmp_path
    assert config_dir({}).name == "modelport"


def test_a_keyring_that_keeps_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring
    from keyring.backends import fail

    monkeypatch.setattr(keyring, "get_keyring", fail.Keyring)
    assert hosts.keyring() is None

    class Good(FakeRing):
        priority = 5

    good = Good()
    monkeypatch.setattr(keyring, "get_keyring", lambda: good)
    assert hosts.keyring() is good
