"""The step with an image: two pictures of one colour each; a model that sees names both."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from daemon.proving.chat import CHAT
from daemon.proving.events import refusal
from daemon.proving.judging import (
    NOT_ITS_FAULT,
    broken,
    malformed,
    of_template,
    trouble,
    weak,
    works,
)
from daemon.proving.turns import User, Wanted
from daemon.proving.values import Ask, Ended, Finding, Heard, Outcome, Subject, Talk

IMAGE: Final = "image"

COLOURS: Final = {"red": (220, 20, 20), "blue": (20, 40, 220)}
_SIDE: Final = 224  # pixels: smaller ones are below the patches of some projectors
_QUESTION: Final = "This picture has one colour. Which? Answer with the name of the colour alone."


def png(colour: tuple[int, int, int], side: int = _SIDE) -> bytes:
    """A square of one colour (8 bits RGB): signature, IHDR, IDAT, IEND (PNG specification)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * side) * side  # each row: no filter
    data = zlib.compress(rows, 9)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image(subject: Subject) -> Talk:
    """Asked of every model: only the engine knows for sure."""
    said: list[str] = []
    for rgb in COLOURS.values():
        turn = User(_QUESTION, png(rgb))
        body = CHAT.write(subject, Wanted([turn], subject.limit(256)))
        (heard,) = yield (Ask(CHAT.path, body, subject.seconds),)
        if (found := refused(subject, heard)) is not None:
            return found
        told = CHAT.read(heard.data)
        if (found := malformed(IMAGE, subject, heard, told)) is not None:
            return found
        said.append(told.text)
    return judge_colours(subject, said)


def refused(subject: Subject, heard: Heard) -> Finding | None:
    """No answer: then it cannot see, or something is broken."""
    if heard.ended is Ended.WHOLE and heard.status in (400, 404, 415, 422, 500, 501):
        code, message = refusal(heard)
        if code not in NOT_ITS_FAULT and not subject.sees:
            return Finding(IMAGE, Outcome.SKIPPED, f"it takes no images: {message}")
    return trouble(IMAGE, subject, heard)


def judge_colours(subject: Subject, said: list[str]) -> Finding:
    """``said`` of each colour, in their order."""
    names = list(COLOURS)
    right = [name for name, text in zip(names, said, strict=True) if names_only(text, name)]
    if len(right) == len(names):
        return works(IMAGE, f"it sees {' and '.join(names)}")
    shown = ", ".join(repr(text.strip()[:40]) for text in said)
    if not subject.sees:
        text = f"no sign that it sees: {shown} of {' and '.join(names)}"
        return Finding(IMAGE, Outcome.SKIPPED, text)
    if not any(text.strip() for text in said):
        return broken(IMAGE, "it says nothing of an image", of_template(subject))
    hint = f"the projector of this very model: `ctl set {subject.model} mmproj=PATH`"
    return weak(IMAGE, f"it says {shown} of {' and '.join(names)}", hint)


def names_only(text: str, name: str) -> bool:
    """Whether this colour is named, and no other."""
    low = text.casefold()
    return name in low and not any(other in low for other in COLOURS if other != name)
