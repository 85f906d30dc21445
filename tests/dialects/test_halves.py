"""Half characters: mended where one is alone, put together where both came."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from daemon.dialects.fields import decode
from daemon.dialects.halves import Halves, mended

# With surrogates, as JavaScript has them; and what looks like an escape of one.
TEXTS = st.text(st.characters() | st.sampled_from('\ud83d\ude00\\u"dD8'))


@given(TEXTS)
def test_any_text_can_be_read(text: str) -> None:
    body = json.dumps({"text": text}).encode()
    try:
        read = decode(body)
    except ValueError:
        whole = mended(body)
        assert whole is not None
        assert len(whole) == len(body)
        read = decode(whole)
    else:
        assert mended(body) is None
    # as JavaScript would have encoded it
    plain = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert read == {"text": plain}


def test_what_only_looks_like_a_half_stays() -> None:
    body = rb'{"text": "C:\\ud83d and \\\\ude00 and \ud83d\ude00"}'
    assert mended(body) is None


def test_halves_of_neighbours_come_together() -> None:
    halves = Halves()
    payloads = [rb'{"content":"a\ud83d"}', rb'{"content":"\ude00b"}', rb'{"content":"\ude00"}']
    assert [decode(halves.mend(one))["content"] for one in payloads] == ["a", "\U0001f600b", "�"]


def test_a_large_body_takes_no_time() -> None:
    """Nothing here grows faster than the body: it runs where all connections wait."""
    for piece in (rb"\\", rb"\n", rb"\u00e9", b"\\\\" * 4):
        body = b'{"a":"' + piece * 200_000 + rb'\ud83d"}'
        whole = mended(body)
        assert whole is None or len(whole) == len(body)


def test_a_half_that_stays_alone_is_let_go() -> None:
    halves = Halves()
    assert decode(halves.mend(rb'{"content":"a\ud83d"}')) == {"content": "a"}
    assert decode(halves.mend(rb'{"content":"b\ude00"}')) == {"content": "b�"}
    assert decode(halves.mend(rb'{"content":"\ude00"}')) == {"content": "�"}
