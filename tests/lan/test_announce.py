"""Being found, and finding: what is told and what is made of it."""

from __future__ import annotations

import asyncio
import socket

import pytest
from zeroconf import ServiceInfo

from daemon.lan.announce import KIND, Announcement, Told, label
from daemon.lan.discover import read

TOLD = Told("Büro", ("127.0.0.1",), 8123, "1.2", "AB:CD:" * 15 + "EF:01")


def test_what_is_told_holds_no_secret() -> None:
    assert TOLD.properties == {
        "txtvers": "1",
        "version": "1.2",
        "path": "/v1",
        "tls": "abcdabcdabcdabcd",
    }
    assert "tls" not in Told("a", (), 1, "1", "").properties


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("box", "box"),
        ("my.box", "my-box"),
        ("  ", "modelport"),
        ("a\x00b", "ab"),
        ("ü" * 60, "ü" * 30),
    ],
)
def test_a_name_is_one_label(text: str, found: str) -> None:
    assert label(text) == found
    assert len(f"{found}-99".encode()) <= 63


async def test_it_is_told_replaced_and_taken_back() -> None:
    """On loopback alone: nothing of it reaches the network."""
    announcement = Announcement()
    await announcement.tell(TOLD, 10)
    assert (announcement.told, announcement.name) == (TOLD, "Büro")
    other = Told("other", ("127.0.0.1",), 8123, "1.2", "")
    await announcement.tell(other, 10)
    assert announcement.name == "other"
    await announcement.end(10)
    await announcement.end(10)
    assert (announcement.told, announcement.name) == (None, "")


async def test_a_goodbye_that_is_cut_short_leaves_no_socket() -> None:
    announcement = Announcement()
    await announcement.tell(TOLD, 10)
    assert announcement._zeroconf is not None
    engine = announcement._zeroconf.zeroconf.engine
    assert engine.senders
    goodbye = asyncio.create_task(announcement.end(10))
    await asyncio.sleep(0)
    goodbye.cancel()
    with pytest.raises(asyncio.CancelledError):
        await goodbye
    async with asyncio.timeout(10):
        while not all(one.transport.is_closing() for one in engine.senders):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_network_that_does_not_answer_in_time_is_an_error() -> None:
    announcement = Announcement()
    with pytest.raises(TimeoutError):
        await announcement.tell(TOLD, 0.0)
    assert (announcement.told, announcement._zeroconf) == (None, None)


def info(*addresses: str, port: int = 8123, **properties: str) -> ServiceInfo:
    packed = [
        socket.inet_pton(socket.AF_INET6 if ":" in one else socket.AF_INET, one)
        for one in addresses
    ]
    return ServiceInfo(
        KIND,
        f"box.{KIND}",
        port=port,
        properties=properties,
        server="box-modelport.local.",
        addresses=packed,
    )


def test_what_is_found() -> None:
    found = read(info("fd00::5", "192.168.1.5", "fe80::1", version="1.2", tls="abcd"))
    assert found is not None
    assert (found.name, found.host, found.version) == ("box", "box-modelport.local", "1.2")
    assert found.urls == ["https://192.168.1.5:8123", "https://[fd00::5]:8123"]
    plain = read(info("192.168.1.5"))
    assert plain is not None
    assert (plain.urls, plain.fingerprint) == (["http://192.168.1.5:8123"], "")
    long = read(info("192.168.1.5", version="9" * 200))
    assert long is not None
    assert len(long.version) == 100


def test_what_cannot_be_reached_is_not_found() -> None:
    assert read(info()) is None
    assert read(info("fe80::1")) is None
    assert read(info("192.168.1.5", port=0)) is None
