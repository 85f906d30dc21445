"""Server-sent events, however they are cut and ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.dialects import sse
from daemon.dialects.sse import EventParser
from tests.dialects.streams import cuts

STREAM = (
    b": keepalive 1/2\n\ndata: {}\n\nevent: x\r\ndata: a\r\ndata: b\r\n\r\n"
    b"data:c\nid: 3\n\nretry: 1\n\ndata: \xc3\xa9\n\ndata: last"
)
WANTED = [b"{}", b"a\nb", b"c", b"\xc3\xa9", b"last"]


@given(st.data())
def test_cuts_never_matter(data: st.DataObject) -> None:
    parser = EventParser()
    found = [one for piece in data.draw(cuts(STREAM)) for one in parser.feed(piece)]
    assert found + parser.end() == WANTED


def test_what_was_made_is_read() -> None:
    parser = EventParser()
    assert parser.feed(sse.event("x", b"{}") + sse.data(b"1") + sse.COMMENT) == [b"{}", b"1"]
    assert parser.end() == []


def test_an_event_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 20)
    parser = EventParser()
    assert parser.feed(b"data: " + b"x" * 30) == []
    assert parser.feed(b"x" * 30 + b"\n\ndata: 1\n\n") == [b"1"]
    lines = b"data: 0123456789\n" * 3
    assert parser.feed(lines + b"\ndata: 2\n\n")[-1] == b"2"
