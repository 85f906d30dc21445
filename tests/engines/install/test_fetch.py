"""Downloads that break, that go on, and that are not what they should be."""

from __future__ import annotations

import errno
import io
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.install import fetch
from tests.engines.install.releases import Releases, serving

DATA = bytes(range(256)) * 4000
NAME = "llama-b1-bin-ubuntu-x64.tar.gz"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Releases]:
    monkeypatch.setattr(fetch, "_PAUSE", 0.001)
    with serving(Releases({"b1": {NAME: DATA}})) as releases:
        yield releases


def get(host: Releases, folder: Path, tag: str | None = None) -> Path:
    release = fetch.release(host.url, tag, 5.0)
    return fetch.fetch(release.assets[NAME], folder, lambda *_: None, 5.0)


def test_whole_and_only_once(host: Releases, tmp_path: Path) -> None:
    assert get(host, tmp_path).read_bytes() == DATA
    assert get(host, tmp_path, "b1").read_bytes() == DATA
    assert host.asked == [""]


def test_it_goes_on_where_it_broke(host: Releases, tmp_path: Path) -> None:
    host.cuts = [300_000, 200_000]
    told: list[float | None] = []
    release = fetch.release(host.url, None, 5.0)
    fetch.fetch(release.assets[NAME], tmp_path, lambda _, __, done: told.append(done), 5.0)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert host.asked == ["", "bytes=300000-", "bytes=500000-"]
    done = [one for one in told if one is not None]
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_what_an_earlier_try_left_is_gone_on_from(host: Releases, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(DATA[:1000])
    assert get(host, tmp_path).read_bytes() == DATA
    assert host.asked == ["bytes=1000-"]


def test_what_it_left_may_be_worth_nothing(host: Releases, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    assert get(host, tmp_path).read_bytes() == DATA
    assert host.asked == ["bytes=1000-", ""]


def test_a_host_that_knows_no_ranges(host: Releases, tmp_path: Path) -> None:
    host.ranges, host.cuts = False, [300_000]
    assert get(host, tmp_path).read_bytes() == DATA


def test_a_wrong_checksum(host: Releases, tmp_path: Path) -> None:
    host.lies.add(NAME)
    with pytest.raises(ProblemError, match="its checksum is another one") as caught:
        get(host, tmp_path)
    assert caught.value.problem.code is Code.PULL_FAILED
    assert list(tmp_path.iterdir()) == [], "nothing of it stays"


def test_no_checksum(host: Releases, tmp_path: Path) -> None:
    host.unsigned.add(NAME)
    with pytest.raises(ProblemError, match="has no checksum"):
        get(host, tmp_path)
    assert host.asked == []


def test_more_than_there_should_be(host: Releases, tmp_path: Path) -> None:
    """A host that sends without end is given up."""
    release = fetch.release(host.url, None, 5.0)
    asset = replace(release.assets[NAME], size=1000)
    with pytest.raises(ProblemError, match="its checksum is another one"):
        fetch.fetch(asset, tmp_path, lambda *_: None, 5.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [ssl.SSLError(1, "bad record mac"), OSError(errno.ENETUNREACH, "no way there")]
)
def test_what_a_network_does_is_not_told_of_the_disk(
    host: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def read1(*_: object) -> bytes:
        raise error

    release = fetch.release(host.url, None, 5.0)
    monkeypatch.setattr("http.client.HTTPResponse.read1", read1)
    with pytest.raises(ProblemError, match=str(error.strerror)):
        fetch.fetch(release.assets[NAME], tmp_path, lambda *_: None, 5.0)


def test_a_full_disk_is_told_as_one(
    host: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = fetch.release(host.url, None, 5.0)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(Path, "open", lambda *_: io.FileIO(full, "w"))
    with pytest.raises(OSError, match="No space left"):
        fetch.fetch(release.assets[NAME], tmp_path, lambda *_: None, 5.0)


@pytest.mark.parametrize("size", [0, -5])
def test_a_size_that_is_none(host: Releases, size: int) -> None:
    told = host.listing("b1")
    told["assets"][0]["size"] = size
    with pytest.raises(ValueError, match="bytes"):
        fetch._release(told)


def test_one_that_never_brings_anything(host: Releases, tmp_path: Path) -> None:
    host.cuts = [0] * 20
    with pytest.raises(ProblemError, match="cannot be fetched") as caught:
        get(host, tmp_path)
    assert "what was fetched is kept" in caught.value.problem.hint


@pytest.mark.parametrize(
    ("status", "tag", "words"),
    [(404, "b7", "has no release b7"), (403, None, "too many asked"), (500, None, "status 500")],
)
def test_no_listing(host: Releases, status: int, tag: str | None, words: str) -> None:
    host.status = status
    with pytest.raises(ProblemError, match=words) as caught:
        fetch.release(host.url, tag, 5.0)
    assert caught.value.problem.hint


def test_nobody_there() -> None:
    with pytest.raises(ProblemError, match="cannot be read"):
        fetch.release("http://127.0.0.1:9", None, 5.0)
    with pytest.raises(ProblemError, match="no address"):
        fetch.release("file:///etc", None, 5.0)
