"""``ctl why ID``: where a request's time went."""

from __future__ import annotations

import io
import json

import pytest

from control_api.client import RefusedError
from control_api.commands.output import Out
from control_api.commands.why import slowest, why_request
from tests.control_api.fake import FakeControl, FakeDaemon, request_view


def why(request_id: str, *, as_json: bool = False) -> str:
    out = io.StringIO()
    assert why_request(request_id, Out(as_json=as_json, out=out)) == 0
    return out.getvalue()


def test_a_slow_start_is_told(daemon: FakeDaemon) -> None:
    told = why("req_1")
    assert "queue        12.0 ms" in told
    assert "making room  400.0 ms (qwen3-coder left)" in told
    assert "loading      8.3 s" in told
    assert "900 in, 120 out, 60 a second" in told
    assert "Most of the time went into loading gemma: 8.3 s of 11.1 s." in told
    assert "retried" not in told


def test_as_json_it_is_the_whole_record(daemon: FakeDaemon) -> None:
    assert json.loads(why("req_1", as_json=True))["evicted"] == ["qwen3-coder"]


def test_one_that_was_refused_in_the_queue(daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.requests["a b"] = request_view(
        "a b",
        status=503,
        queue_ms=300_000.0,
        evict_ms=None,
        load_ms=None,
        evicted=[],
        first_byte_ms=300_000.0,
        total_ms=300_000.0,
        tokens_in=None,
        tokens_out=None,
        tokens_per_second=None,
        retried=True,
    )
    told = why("a b")
    assert "waiting for its turn on gemma: 5m 0s of 5m 0s" in told
    assert "its first backend was lost" in told
    assert "tokens" not in told


def test_an_unknown_one_is_refused(daemon: FakeDaemon) -> None:
    with pytest.raises(RefusedError) as refused:
        why("nobody")
    assert (refused.value.code, refused.value.status) == ("request_unknown", 404)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"load_ms": 0.0}, "the engine writing its answer"),
        ({"load_ms": 0.0, "first_byte_ms": 10_000.0}, "the engine reading the prompt"),
        (
            {"load_ms": 1.0, "evict_ms": 9e3, "first_byte_ms": 9.5e3},
            "waiting for qwen3-coder to make room",
        ),
    ],
)
def test_the_largest_part_is_named(changes: dict[str, float], expected: str) -> None:
    whole: dict[str, float] = {"evict_ms": 0.0, "first_byte_ms": 100.0, "total_ms": 11_000.0}
    assert expected in slowest(request_view("x", **{**whole, **changes}))
