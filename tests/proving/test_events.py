from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.proving.chat import CHAT
from daemon.proving.events import Event, loads, refusal, split
from daemon.proving.messages import MESSAGES
from daemon.proving.responses import RESPONSES
from daemon.proving.values import Heard
from tests.proving.answers import heard, recorded, refused


def test_a_stream_is_split_as_clients_do() -> None:
    data = b": comment\r\nevent: a\r\ndata: 1\r\ndata:2\r\nid: 7\r\n\r\ndata: x\n\n\n"
    assert split(data) == ([Event("a", "1\n2"), Event("", "x")], "")
    assert split(b"") == ([], "")


def test_what_is_wrong_with_its_bytes() -> None:
    assert split(b"data: \xff\n\n")[1] == "the stream is not UTF-8"
    events, wrong = split(b"data: 1\n\ndata: 2\n")
    assert events == [Event("", "1")]
    assert "not ended by an empty line" in wrong
    assert "not ended" in split(b"data: 2")[1]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": "No.", "code": "paused"}}, ("paused", "No.")),
        ({"error": {"message": "No.", "code": 400, "type": "x"}}, ("x", "No.")),
        ({"type": "error", "error": {"type": "api_error", "message": "No."}}, ("api_error", "No.")),
        ({"detail": "Not\n found"}, ("", "Not found")),
        ({"error": "No."}, ("", "No.")),
        ({"x": 1}, ("", '{"x": 1}')),
    ],
)
def test_errors_in_every_shape(body: object, told: tuple[str, str]) -> None:
    assert refusal(heard(json.dumps(body).encode(), status=400)) == told


def test_errors_in_no_shape() -> None:
    assert refusal(Heard(status=502)) == ("", "status 502")
    assert refusal(heard(b"<html>Bad", status=502)) == ("", "<html>Bad")
    assert len(refusal(refused(400, "x" * 999))[1]) == 200
    assert loads(b"[" * 100_000) is None


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, RESPONSES], ids=lambda one: one.name)
@given(
    cut=st.integers(0, 3000),
    noise=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "index", "choices", "delta", "tool_calls", "item", "content_block",
                 "message", "response", "usage", "error", "function", "content"]
            ),
            inner | st.sampled_from(
                ["content_block_start", "content_block_delta", "content_block_stop",
                 "message_start", "message_delta", "response.output_item.done",
                 "response.completed", "function_call", "message", "tool_use"]
            ),
            max_size=4,
        ),
    ),
)  # fmt: skip
def test_reading_never_raises(dialect, cut, noise) -> None:  # type: ignore[no-untyped-def]
    """Cut anywhere, and with anything in between: it is told, never raised."""
    whole = recorded(f"{dialect.name}_tool")
    dialect.read(whole[:cut] + b"\n\ndata: " + json.dumps(noise).encode() + b"\n\n" + whole[cut:])
