"""The image: a real PNG, and who sees it."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace

import pytest

from daemon.proving.image import COLOURS, image, names_only, png
from daemon.proving.values import Heard
from tests.fakes import acting
from tests.proving.answers import CUT, PAUSED, SUBJECT, chat, play, refused

SEEING = replace(SUBJECT, sees=True)


@pytest.mark.parametrize("name", COLOURS)
def test_a_png_of_one_colour(name: str) -> None:
    data = png(COLOURS[name], side=4)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND" + zlib.crc32(b"IEND").to_bytes(4, "big"))
    assert data[16:29] == bytes([0, 0, 0, 4, 0, 0, 0, 4, 8, 2, 0, 0, 0])
    start = data.index(b"IDAT") + 4
    rows = zlib.decompress(data[start:])
    assert rows == (b"\0" + bytes(COLOURS[name]) * 4) * 4
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    turn = {"content": [{"type": "image_url", "image_url": {"url": url}}]}
    assert acting._colour(acting._image({"messages": [turn]})).lower() == f"{name}."


def test_one_that_sees() -> None:
    found, sent = play(image(SUBJECT), chat("Red."), chat("The colour is blue"))
    assert (found.outcome, found.text) == ("works", "it sees red and blue")
    assert all("data:image/png;base64," in str(one.body) for one in sent)


def test_one_that_does_not() -> None:
    found, _ = play(image(SUBJECT), refused(500, "image input is not supported"))
    assert (found.outcome, found.fault) == ("skipped", "")
    assert "image input is not supported" in found.text
    found, _ = play(image(SUBJECT), chat("Red."), chat("Red."))
    assert found.outcome == "skipped"
    assert "no sign that it sees" in found.text


@pytest.mark.parametrize(
    ("answers", "outcome", "fault"),
    [
        ([chat("Red."), chat("Green.")], "but", "model"),
        ([chat("red or blue"), chat("blue or red")], "but", "model"),
        ([chat(""), chat("")], "broken", "plumbing"),
        ([refused(500, "image input is not supported")], "broken", "plumbing"),
        ([CUT], "broken", "plumbing"),
        ([PAUSED], "unknown", ""),
    ],
)
def test_one_that_should(answers: list[Heard], outcome: str, fault: str) -> None:
    found, _ = play(image(SEEING), *answers)
    assert (found.outcome, found.fault) == (outcome, fault), found
    assert found.hint or outcome == "unknown"


def test_pauses_say_nothing_of_it() -> None:
    found, _ = play(image(SUBJECT), PAUSED)
    assert found.outcome == "unknown"
    assert names_only("BLUE!", "blue")
    assert not names_only("none", "blue")
