"""The last requests, for whoever asks why one was slow."""

from __future__ import annotations

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.relay.records import RequestRecord
from daemon.requests import Requests


def record(request_id: str, **changes: object) -> RequestRecord:
    values: dict[str, object] = {
        "request_id": request_id,
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "m",
        "status": 200,
        "outcome": "ok",
        "bytes_in": 10,
        "bytes_out": 20,
        "queue": 0.01,
        "first_byte": 1.0,
        "total": 3.0,
        "attempts": 1,
        "peer": "127.0.0.1",
        "client": "c",
        "at": 1000.0,
    }
    return RequestRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_one_is_told_in_milliseconds() -> None:
    book = Requests()
    parts = {"evict": 0.2, "load": 0.5, "evicted": ("old",), "tokens_in": 7, "tokens_out": 80}
    book.add(record("a", attempts=2, **parts))
    view = book.view("a")
    assert (view.queue_ms, view.evict_ms, view.load_ms) == (10.0, 200.0, 500.0)
    assert (view.first_byte_ms, view.total_ms, view.arrived) == (1000.0, 3000.0, 997.0)
    assert (view.evicted, view.tokens_per_second, view.retried) == (["old"], 40.0, True)


def test_what_it_never_came_to_is_none() -> None:
    book = Requests()
    book.add(record("a", status=499, outcome="client_gone", queue=None, first_byte=None))
    view = book.view("a")
    assert (view.queue_ms, view.evict_ms, view.load_ms, view.first_byte_ms) == (None,) * 4
    assert (view.tokens_per_second, view.retried, view.evicted) == (None, False, [])


def test_an_answer_all_at_once_has_no_speed() -> None:
    book = Requests()
    book.add(record("a", first_byte=3.0, tokens_out=80))
    assert book.view("a").tokens_per_second is None


def test_the_oldest_go() -> None:
    book = Requests(keep=3)
    for number in range(5):
        book.add(record(f"{number}"))
    book.add(record("3", model="again"))
    assert book.view("3").model == "again"
    assert book.view("2").id == "2"
    with pytest.raises(ProblemError) as refused:
        book.view("1")
    assert refused.value.problem.code is Code.REQUEST_UNKNOWN
    assert "x-request-id" in refused.value.problem.hint
