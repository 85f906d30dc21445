"""Certificates of our own making."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.core.problems import ProblemError
from daemon.lan.certificate import Made, ensure, main

NOW = 1_800_000_000.0
DAY = 86400.0
NAMES = ["box", "box.local", "192.168.1.5", "fd00::5"]


def made(
    folder: Path, names: list[str] | None = None, now: float = NOW, anew: bool = False
) -> Made:
    return ensure(folder, names or NAMES, life=800 * DAY, renewal=30 * DAY, now=now, anew=anew)


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    first = made(tmp_path / "tls")
    assert (first.made, first.names, first.not_after) == (True, NAMES, NOW + 800 * DAY)
    assert stat.S_IMODE(Path(first.key).stat().st_mode) == 0o600
    pem = Path(first.cert).read_text()
    second = made(tmp_path / "tls", now=NOW + 700 * DAY)
    assert (second.made, Path(second.cert).read_text()) == (False, pem)
    assert second.names == NAMES


def test_it_is_renewed_before_it_expires_and_for_other_names_when_asked(tmp_path: Path) -> None:
    first = made(tmp_path)
    key, pem = Path(first.key).read_bytes(), Path(first.cert).read_bytes()
    assert not made(tmp_path, ["other"]).made, "a laptop that moves keeps its certificate"
    named = made(tmp_path, ["box"], anew=True)
    assert not named.made, "the name is in it already"
    other = made(tmp_path, ["box", "10.0.0.1"], anew=True)
    assert (other.made, other.names) == (True, ["box", "10.0.0.1"])
    late = made(tmp_path, now=NOW + 771 * DAY)
    assert (late.made, late.not_after) == (True, NOW + 1571 * DAY)
    assert Path(late.key).read_bytes() == key, "the private key stays"
    assert Path(late.cert).read_bytes() != pem


@pytest.mark.parametrize("name", ["cert.pem", "key.pem"])
def test_what_is_broken_is_made_anew(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    (tmp_path / name).write_bytes(b"nonsense")
    assert made(tmp_path).made
    assert not made(tmp_path).made


def test_a_certificate_of_another_key_is_made_anew(tmp_path: Path) -> None:
    one, two = made(tmp_path / "1"), made(tmp_path / "2")
    Path(one.key).write_bytes(Path(two.key).read_bytes())
    assert made(tmp_path / "1").made


def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ProblemError, match="tls"):
        made(folder)


@pytest.mark.parametrize("host", ["box.local", "192.168.1.5", "fd00::5"])
def test_a_strict_client_that_has_it_in_its_store_trusts_it(tmp_path: Path, host: str) -> None:
    import time

    found = made(tmp_path, now=time.time())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(found.cert, found.key)
    client = ssl.create_default_context(cafile=found.cert)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()
    here.settimeout(10)
    there.settimeout(10)

    def serve() -> None:
        with server.wrap_socket(there, server_side=True) as wrapped:
            wrapped.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(here, server_hostname=host) as wrapped:
        assert wrapped.recv(5) == b"hello"
    thread.join(10)


def test_the_program_says_in_json_what_is_there(tmp_path: Path) -> None:
    words = [str(tmp_path / "tls"), "box", "--life", "864000", "--renewal", "1", "--now", "1e9"]
    command = [sys.executable, "-P", "-m", "daemon.lan.certificate", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    told = json.loads(done.stdout)
    assert told == {
        "cert": str(tmp_path / "tls" / "cert.pem"),
        "key": str(tmp_path / "tls" / "key.pem"),
        "names": ["box"],
        "not_after": 1e9 + 864000,
        "made": True,
    }


def test_the_program_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    words = [str(tmp_path / "file"), "box", "--life", "9", "--renewal", "1", "--now", "1e9"]
    assert main(words) == 1
    assert "file" in capsys.readouterr().err
