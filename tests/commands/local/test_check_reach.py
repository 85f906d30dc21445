from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_api.commands.local import check_reach as reach
from control_api.commands.local.check_reach import Keys
from control_api.commands.local.checks import Check
from daemon.access.exposure import NO_KEY
from daemon.config.load import load_text

NOW = 1_800_000_000.0
DAY = 86_400.0


def keys_file(folder: Path, *ends: float | None) -> Path:
    path = folder / "keys.json"
    keys = [{"name": f"k{n}", "sha256": "0" * 64, "expires": at} for n, at in enumerate(ends)]
    path.write_text(json.dumps({"version": 1, "keys": keys}))
    path.chmod(0o600)
    return path


def test_keys(tmp_path: Path) -> None:
    path = keys_file(tmp_path, None, NOW + 365 * DAY)
    (found,) = reach.check_keys(path, NOW)
    assert (found.verdict, found.text) == ("ok", "2 in force")
    path = keys_file(tmp_path, NOW - 1, NOW + DAY)
    several = list(reach.check_keys(path, NOW))
    assert [(c.verdict, c.text) for c in several] == [
        ("warn", "k0 has expired"),
        ("warn", "k1 expires within a week"),
        ("ok", "1 in force"),
    ]
    path.chmod(0o640)
    assert "can be read by others (0640)" in next(reach.check_keys(path, NOW)).text
    path.chmod(0o666)
    (found,) = reach.check_keys(path, NOW)
    assert (found.verdict, "others can write to it" in found.text) == ("fail", True)


def test_without_the_file_there_are_none(tmp_path: Path) -> None:
    (found,) = reach.check_keys(tmp_path / "keys.json")
    assert (found.verdict, found.text) == ("ok", "none")
    assert not (tmp_path / "keys.json").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["keys", "name"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_give_a_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(data)
    path.chmod(0o600)
    for found in reach.check_keys(path, NOW):
        assert found.name == "keys"
        assert found.fix or found.verdict == "ok"
    assert path.read_bytes() == data, "nothing is moved"


@pytest.mark.parametrize(
    ("host", "off"),
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("localhost", False),
        ("[::1]", False),
        ("::1", False),
        ("", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.5", True),
        ("studio.local", True),
    ],
)
def test_off_loopback(host: str, off: bool) -> None:
    assert reach.off_loopback(host) is off


def lan(
    config: str,
    url: str | None,
    keys: Keys | Check,
    why: str = "",
    places: tuple[str, ...] = (),
    **told: object,
) -> list[Check]:
    status = None if url is None else {"url": url, "lan": told}
    loaded = load_text(config, name="x").settings
    return list(
        reach.check_lan(loaded, status, keys, addresses=lambda: list(places), ask=lambda *_: why)
    )


ON = "[lan]\nenabled = true\n"
ALL = "http://0.0.0.0:8123"
HOME = ("192.168.1.5",)


@pytest.mark.parametrize(
    ("config", "url", "live", "why", "places", "expected"),
    [
        ("", None, 0, "", (), ["ok"]),
        ("", "http://127.0.0.1:8123", 0, "", (), ["ok"]),
        (ON, None, 1, "", (), ["ok"]),
        (ON, None, 0, "", (), ["warn"]),
        (ON, "http://127.0.0.1:8123", 1, "", (), ["warn"]),
        (ON, ALL, 1, "", HOME, ["ok"]),
        (ON, "http://127.0.0.1:8123", 0, "", (), ["warn"]),
        (ON, ALL, 0, "", HOME, ["warn", "ok"]),
        (ON, ALL, 1, "timed out", HOME, ["warn"]),
        (ON, ALL, 1, "", (), ["warn"]),
        ("", "http://192.168.1.5:8123", 0, "", (), ["warn", "ok"]),
        ('[server]\nhost = "0.0.0.0"\n', None, 0, "", (), ["fail"]),
        ('[server]\nhost = "0.0.0.0"\n', "https://[::]:1", 1, "", HOME, ["ok"]),
    ],
)
def test_lan(
    config: str, url: str | None, live: int, why: str, places: tuple[str, ...], expected: list[str]
) -> None:
    found = lan(config, url, Keys(live), why, places)
    assert [check.verdict for check in found] == expected
    assert all(check.fix for check in found if check.verdict != "ok")


def test_without_a_key_what_is_said_is_true() -> None:
    here = "http://127.0.0.1:8123"
    (found,) = lan(ON, here, Keys(0), urls=[], problems=[NO_KEY])
    assert "nothing is open to other machines" in found.text
    assert "ctl key add" in found.fix
    first, _ = lan(ON, here, Keys(0), urls=["http://192.168.1.5:8123"], keyless=True)
    assert (first.verdict, "anybody there may use" in first.text) == ("fail", True)
    first, _ = lan(ON, here, Keys(0), urls=["http://192.168.1.5:8123"])
    assert (first.verdict, "each request is refused" in first.text) == ("warn", True)


def test_addresses_that_are_open_beside_the_fixed_port_are_asked() -> None:
    asked = []

    def ask(*place: object) -> str:
        asked.append(place)
        return ""

    told = {"urls": ["https://192.168.1.5:8123", "https://[fd00::2]:8123"], "problems": ["odd"]}
    status = {"url": "http://127.0.0.1:8123", "lan": told}
    settings = load_text(ON, name="x").settings
    found = list(reach.check_lan(settings, status, Keys(1), ask=ask))
    assert [check.verdict for check in found] == ["warn", "ok", "ok"]
    assert asked == [("https", "192.168.1.5", 8123), ("https", "fd00::2", 8123)]


def test_keys_that_cannot_be_read_are_told_elsewhere() -> None:
    assert [c.verdict for c in lan(ON, ALL, Check("keys", "fail", "x"), "", HOME)] == ["ok"]


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(5)


def test_asking_an_address(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "HEALTH_SECONDS", 20.0)
    assert reach.answers("http", "127.0.0.1", port) == ""
    assert reach.answers("https", "127.0.0.1", port) != "", "it speaks no TLS"
    assert reach.answers("http", "127.0.0.1", 1) != ""


def test_own_addresses_are_off_loopback() -> None:
    assert all(reach.off_loopback(address) for address in reach.own_addresses())
